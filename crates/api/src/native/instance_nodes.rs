//! What each node knows about an instance: its requests in flight through that node's proxy, which an
//! operator checks before and during a drain, and the results of its probes.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use bincode::{Decode, Encode};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{InstancePath, NoParams, Params};
use super::fresh::{Fresh, Freshness};
use super::services::find;
use crate::AppState;
use crate::observations::{self, ProbeObservation};
use crate::problem::Problem;
use crate::state::WeakState;
use maxine_actors::peer::{PeerKind, PeerService};
use maxine_state::{InstanceKey, Name, ServiceKey};

/// Time limit for the answer of a node.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);
/// Maximum length of a message, in bytes.
const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Maximum number of probes in an answer.
const PROBES_MAX: usize = 12;

/// What one node knows about an instance.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstanceAtNode {
    /// The node's name.
    node: String,
    /// Requests in flight through this node; null if the node did not answer.
    in_flight: Option<u64>,
    /// Its latest probes, newest first.
    observations: Vec<ProbeObservation>,
}

/// What all nodes know about an instance.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstanceAtNodes {
    /// Requests in flight through all nodes that answered.
    in_flight: u64,
    /// Whether every node answered.
    complete: bool,
    /// Each node. If the backend has no members, only this node.
    nodes: Vec<InstanceAtNode>,
}

/// Versions are only ever appended.
#[derive(Encode, Decode)]
enum Question {
    V1 { namespace: Name, service: Name, instance: Name },
}

/// Versions are only ever appended.
#[derive(Encode, Decode)]
enum Answer {
    V1 { in_flight: Option<u64>, probes: Vec<Probe> },
}

#[derive(Encode, Decode)]
struct Probe {
    at_ms: u64,
    ok: bool,
    detail: String,
    latency_ms: Option<f64>,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MESSAGE_LEN_MAX>()
}

/// Answers other nodes. It has only a weak reference to the node's parts, because they own it.
pub struct InstanceReports(WeakState);

impl InstanceReports {
    /// For a node's state.
    pub fn new(state: &AppState) -> Self {
        Self(state.downgrade())
    }

    fn tell(&self, body: &[u8]) -> Result<Bytes, String> {
        let state = self.0.upgrade().ok_or("the node is stopping")?;
        let decoded = bincode::decode_from_slice(body, config());
        let (Question::V1 { namespace, service, instance }, _) =
            decoded.map_err(|error| error.to_string())?;
        let own = known_here(&state, &ServiceKey::new(namespace, service).instance(instance));
        let probe = |seen: ProbeObservation| Probe {
            at_ms: seen.at_ms,
            ok: seen.ok,
            detail: seen.detail,
            latency_ms: seen.latency_ms,
        };
        let probes = own.observations.into_iter().map(probe).collect();
        let answer = Answer::V1 { in_flight: own.in_flight, probes };
        let bytes = bincode::encode_to_vec(answer, config());
        bytes.map(Bytes::from).map_err(|error| error.to_string())
    }
}

impl PeerService for InstanceReports {
    fn answer(&self, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        futures::future::ready(self.tell(&body)).boxed()
    }
}

fn known_here(app: &AppState, key: &InstanceKey) -> InstanceAtNode {
    let mut observations = observations::own(app, key);
    observations.truncate(PROBES_MAX);
    InstanceAtNode {
        node: app.settings().instance_id.clone(),
        in_flight: Some(app.forwarder().in_flight(key)),
        observations,
    }
}

/// Asks every node about an instance: requests in flight, latest probes.
#[utoipa::path(
    get, path = "/api/v1/services/{namespace}/{service}/instances/{id}/nodes",
    tag = "instances", operation_id = "instanceNodes",
    params(("namespace" = String, Path,), ("service" = String, Path,), ("id" = String, Path,), Freshness),
    responses((status = 200, body = InstanceAtNodes)),
)]
pub(super) async fn instance_nodes(
    State(app): State<AppState>,
    fresh: Fresh,
    InstancePath(key): InstancePath,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let service = find(&fresh, &key.service)?;
    if !service.instances.contains_key(&key.instance) {
        return Err(Problem::not_found("instance", &key.to_string()));
    }
    let nodes = match app.store().cluster() {
        None => vec![known_here(&app, &key)],
        Some(cluster) => {
            let status = cluster.status();
            let message = question(&key);
            let each = status.members.into_iter().map(|member| {
                let (app, key, message) = (&app, &key, message.clone());
                async move {
                    match member.id == status.node_id {
                        true => known_here(app, key),
                        false => ask(app, member.id, member.name, message).await,
                    }
                }
            });
            join_all(each).await
        }
    };
    let in_flight = nodes.iter().filter_map(|node| node.in_flight).sum();
    let complete = nodes.iter().all(|node| node.in_flight.is_some());
    Ok(fresh.json(InstanceAtNodes { in_flight, complete, nodes }))
}

fn question(key: &InstanceKey) -> Bytes {
    let question = Question::V1 {
        namespace: key.service.namespace.clone(),
        service: key.service.service.clone(),
        instance: key.instance.clone(),
    };
    let mut message = vec![PeerKind::Instance as u8];
    // Names are far shorter than the limit. A node that cannot read the message answers with an error.
    message.extend(bincode::encode_to_vec(question, config()).unwrap_or_default());
    message.into()
}

async fn ask(app: &AppState, member: u64, node: String, message: Bytes) -> InstanceAtNode {
    let answer = app.store().call_member(member, message, ANSWER_TIMEOUT).await.ok();
    let answer = answer.and_then(|bytes| bincode::decode_from_slice(&bytes, config()).ok());
    let Some((Answer::V1 { in_flight, probes }, _)) = answer else {
        return InstanceAtNode { node, in_flight: None, observations: Vec::new() };
    };
    let seen = |probe: Probe| ProbeObservation {
        node: node.clone(),
        at_ms: probe.at_ms,
        ok: probe.ok,
        detail: probe.detail,
        latency_ms: probe.latency_ms,
    };
    let observations = probes.into_iter().take(PROBES_MAX).map(seen).collect();
    InstanceAtNode { node, in_flight, observations }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_and_answer_keep_their_bytes() {
        let name = Name::trusted;
        let key = ServiceKey::new(name("d"), name("s")).instance(name("i"));
        assert_eq!(&question(&key)[..], b"\x11\0\x01d\x01s\x01i");
        let probe = Probe { at_ms: 7, ok: true, detail: "x".into(), latency_ms: None };
        let answer = Answer::V1 { in_flight: Some(3), probes: vec![probe] };
        let bytes = bincode::encode_to_vec(answer, config()).unwrap();
        assert_eq!(bytes, b"\0\x01\x03\x01\x07\x01\x01x\0");
    }
}
