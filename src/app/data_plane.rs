//! The data plane as the API sees it, and what it counts as telemetry sees it.

use std::sync::Arc;

use actix_rt::ArbiterHandle;
use axum::body::Body;
use axum::http::Request;
use futures::future::BoxFuture;
use serde_json::json;

use crate::actors::health_checker::HealthSink;
use crate::actors::supervisor::Supervised;
use crate::actors::{HealthChecker, HealthParts, ProxyActor};
use crate::api::{
    ChosenInstance, Forward, ForwardAnswer, ForwardRequest, HealthReports, ProbeObservation,
    Standing, UpstreamsReport,
};
use crate::health::{EffectiveProbe, ProbeAnswer, ProbeStatus};
use maxine_clock::Clock;
use maxine_gateway::{ForwardContext, Forwarder, ForwarderConfig, ProxyMetrics};
use maxine_state::{Address, Instance, InstanceKey, ServiceKey, ServicePolicy};
use maxine_telemetry::{AlertKind, Notice, Telemetry};
use maxine_view::View;

/// The proxy, the health checker and the actors that drive them.
pub(super) struct DataPlane {
    pub(super) forwarder: Forwarder,
    pub(super) health: HealthChecker,
    proxy: Supervised<ProxyActor>,
}

impl DataPlane {
    /// Starts both on `arbiter`.
    pub(super) fn start(
        arbiter: &ArbiterHandle,
        view: &Arc<View>,
        clock: &Clock,
        config: ForwarderConfig,
        metrics: Arc<dyn ProxyMetrics>,
        health: impl FnOnce(&ForwarderConfig) -> anyhow::Result<HealthParts>,
    ) -> anyhow::Result<Self> {
        let health = HealthChecker::start(arbiter, health(&config)?);
        let forwarder = Forwarder::new(Arc::clone(view), config, clock.clone(), metrics)?;
        let proxy = {
            let (forwarder, health, clock) = (forwarder.clone(), health.clone(), clock.clone());
            Supervised::start(arbiter, move |lifeline| {
                ProxyActor::new(forwarder.clone(), Some(health.clone()), clock.clone(), lifeline)
            })
        };
        Ok(Self { forwarder, health, proxy })
    }

    /// Ends the actors, lets forwarded requests finish for up to `grace`, and closes connections.
    pub(super) async fn stop(&self, grace: std::time::Duration) {
        self.proxy.stop();
        self.health.stop();
        self.forwarder.shutdown(grace).await;
    }
}

/// [`Forward`] for handlers.
pub(super) struct ApiForward(pub(super) Forwarder, pub(super) String);

impl Forward for ApiForward {
    fn forward(
        &self,
        asked: ForwardRequest,
        request: Request<Body>,
    ) -> BoxFuture<'static, ForwardAnswer> {
        let forwarder = self.0.clone();
        // One box for all of it: what is inside is moved nowhere.
        Box::pin(async move {
            let context = ForwardContext {
                service: asked.service,
                raw_path: asked.raw_path,
                raw_query: asked.raw_query,
                prefix: asked.prefix,
                client: asked.client,
                https: false,
                body_len_max: asked.body_len_max,
                trace: asked.trace,
                keep_trailer: asked.keep_trailer,
                interim: asked.interim,
            };
            let forwarded = forwarder.forward(context, request).await;
            ForwardAnswer {
                response: forwarded.response,
                forwarded: forwarded.chosen.map(|chosen| ChosenInstance {
                    instance: chosen.instance,
                    share: chosen.share,
                    target: chosen.target,
                }),
                attempts: forwarded.trail,
            }
        })
    }

    fn standing(&self, key: &InstanceKey) -> Option<Standing> {
        let (status, held_back) = self.0.standing(key)?;
        let held_back = held_back.map(str::to_owned);
        Some(Standing { node: self.1.clone(), held_back, status })
    }

    fn check_address(&self, address: &Address) -> Result<(), String> {
        self.0.egress().check_address(address).map_err(|denied| denied.to_string())
    }

    fn in_flight(&self, instance: &InstanceKey) -> u64 {
        self.0.in_flight(instance)
    }
}

/// [`HealthReports`] for handlers.
pub(super) struct ApiHealth(pub(super) HealthChecker, pub(super) Clock);

impl HealthReports for ApiHealth {
    fn upstreams(&self) -> UpstreamsReport {
        let failing = self.0.failing();
        UpstreamsReport {
            started: self.0.is_active(),
            failure_counts: failing.into_iter().map(|(key, n)| (key, u64::from(n))).collect(),
        }
    }

    fn effective_probe(
        &self,
        instance: &Instance,
        policy: Option<&ServicePolicy>,
    ) -> Option<EffectiveProbe> {
        self.0.effective_probe(instance, policy)
    }

    fn observations(&self, instance: &InstanceKey) -> Vec<ProbeObservation> {
        let records = self.0.track(instance).map(|track| track.records).unwrap_or_default();
        let node = self.0.node();
        let own = records.into_iter().map(|record| ProbeObservation {
            node: node.to_owned(),
            at_ms: record.at_ms,
            ok: record.status == ProbeStatus::Good,
            detail: record.detail,
            latency_ms: Some(record.latency_us as f64 / 1_000.0),
        });
        own.collect()
    }

    fn reports<'a>(&'a self, instance: &'a InstanceKey) -> BoxFuture<'a, Vec<ProbeObservation>> {
        Box::pin(async move {
            let (now_ms, node) = (self.1.wall_ms(), self.0.node());
            let said = self.0.reports(instance).await.into_iter();
            // This node's own probes are known in more detail.
            let others = said.filter(|word| word.passive || word.observer != node);
            let shown = others.map(|word| ProbeObservation {
                at_ms: now_ms.saturating_sub(word.age_ms),
                ok: word.status == ProbeStatus::Good,
                detail: match word.passive {
                    true => format!("the proxy there: {}", word.detail),
                    false => word.detail,
                },
                node: word.observer,
                latency_ms: None,
            });
            shown.collect()
        })
    }
}

/// Counts probes and raises alerts.
pub(super) struct TelemetryHealth(pub(super) Telemetry);

impl HealthSink for TelemetryHealth {
    fn probed(&self, _: &InstanceKey, answer: &ProbeAnswer) {
        self.0.metrics().health_checks.inc();
        if answer.status != ProbeStatus::Good {
            self.0.metrics().health_check_failures.inc();
        }
    }

    fn panic_changed(&self, service: &ServiceKey, panics: bool) {
        let object = service.to_string();
        if !panics {
            return self.0.clear(AlertKind::ServicePanic, &object);
        }
        let what = "so many instances are unhealthy that all are used";
        let notice = Notice::new(AlertKind::ServicePanic, &*object, format!("{object}: {what}"));
        self.0.raise(notice.details(json!({
            "serviceName": service.service.as_str(),
            "namespace": service.namespace.as_str(),
        })));
    }
}
