//! What handlers need of the data plane, so that `api` does not depend on how it is done.

use std::sync::Arc;

use axum::body::Body;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderName, HeaderValue, Request, Response};
use futures::future::BoxFuture;

use crate::health::EffectiveProbe;
use maxine_gateway::{ClientAddr, InterimSink, UpstreamStatus};
use maxine_state::{Address, Instance, InstanceKey, ServiceKey, ServicePolicy};
use maxine_telemetry::AttemptTrail;

/// A request to hand on to an instance of a service.
#[derive(Clone, Debug)]
pub struct ForwardRequest {
    /// The service.
    pub service: ServiceKey,
    /// The raw path below the instance's address, escapes kept: empty, `/`, or `/x`.
    pub raw_path: String,
    /// The raw query, without its question mark.
    pub raw_query: Option<String>,
    /// The path that clients reach the service below, without a slash behind; `None` where the
    /// service has none of its own.
    pub prefix: Option<String>,
    /// Where the request came from.
    pub client: ClientAddr,
    /// Fields that replace the request's own of their name: trace id and `traceparent`.
    pub trace: Vec<(HeaderName, HeaderValue)>,
    /// Largest request body, in bytes; more is answered with 413.
    pub body_len_max: Option<u64>,
    /// Whether `Trailer` goes through, so that HTTP/1 carries the request's trailers.
    pub keep_trailer: bool,
    /// Where interim answers go, for a client that takes them.
    pub interim: Option<InterimSink>,
}

/// Hands requests on. The data plane's forwarder, seen from here.
pub trait Forward: Send + Sync + 'static {
    /// Chooses an instance and hands the request on; every failure is an answer too (502, 503,
    /// 504).
    fn forward(
        &self,
        context: ForwardRequest,
        request: Request<Body>,
    ) -> BoxFuture<'static, ForwardAnswer>;

    /// How an instance stands with this node's proxy; `None` where it was never called from here.
    fn standing(&self, instance: &InstanceKey) -> Option<Standing> {
        let _ = instance;
        None
    }

    /// Whether an address may be registered at all; the error says why not. The forwarder asks again
    /// when it connects.
    fn check_address(&self, address: &Address) -> Result<(), String>;

    /// Requests of this node that are under way to an instance.
    fn in_flight(&self, instance: &InstanceKey) -> u64 {
        let _ = instance;
        0
    }
}

/// An instance as one node's proxy sees it.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Standing {
    /// The node.
    pub node: String,
    /// Why this node's proxy sends it no requests although it is registered and healthy; null if it
    /// does.
    pub held_back: Option<String>,
    /// Its requests, connections and signals.
    #[serde(flatten)]
    pub status: UpstreamStatus,
}

/// What became of a request.
#[derive(Debug)]
pub struct ForwardAnswer {
    /// The answer.
    pub response: Response<Body>,
    /// Which instance it was handed to, if one was chosen.
    pub forwarded: Option<ChosenInstance>,
    /// What became of each attempt.
    pub attempts: AttemptTrail,
}

/// Which instance a request was handed to.
#[derive(Clone, Debug)]
pub struct ChosenInstance {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Which of its shares, from 0.
    pub share: u32,
    /// Path, the instance's base path included, and query as it was asked.
    pub target: PathAndQuery,
}

/// What active health checks know, as the compatible API shows it.
#[derive(Clone, Debug, Default)]
pub struct UpstreamsReport {
    /// Whether active health checks run.
    pub started: bool,
    /// Instances with failures, and how many in a row.
    pub failure_counts: Vec<(InstanceKey, u64)>,
}

/// What one probe of an instance found.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct ProbeObservation {
    /// The node that probed.
    pub node: String,
    /// Time, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether the instance passed.
    pub ok: bool,
    /// Result, in one line.
    pub detail: String,
    /// Duration, in milliseconds; null if it was not measured.
    pub latency_ms: Option<f64>,
}

/// Tells what active health checks know.
pub trait HealthReports: Send + Sync + 'static {
    /// The present counts on this node.
    fn upstreams(&self) -> UpstreamsReport;

    /// The probe that this node runs for an instance; `None` if only the heartbeat counts.
    fn effective_probe(
        &self,
        instance: &Instance,
        policy: Option<&ServicePolicy>,
    ) -> Option<EffectiveProbe>;

    /// The latest probes of an instance that this node knows of, newest first.
    fn observations(&self, instance: &InstanceKey) -> Vec<ProbeObservation> {
        let _ = instance;
        Vec::new()
    }

    /// What the other observers said last of an instance, as the leader heard it.
    fn reports<'a>(&'a self, instance: &'a InstanceKey) -> BoxFuture<'a, Vec<ProbeObservation>> {
        let _ = instance;
        Box::pin(std::future::ready(Vec::new()))
    }
}
