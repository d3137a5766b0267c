//! Turns what the state went through into recent events and alerts of this node.
//!
//! Every node notes the events; only the one that leads raises the alert, so that a webhook hears
//! of each eviction once.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{AlertKind, Notice, Telemetry};
use maxine_state::Leadership;
use maxine_state::{Event, EventKind, Fence, Instance, InstanceKey, Liveness};
use maxine_view::{View, WatchScope};

/// Most events taken at once.
const EVENTS_MAX: usize = 256;

/// What the projection follows.
pub struct ProjectionParts {
    /// Where it reports to.
    pub telemetry: Telemetry,
    /// What it watches.
    pub view: Arc<View>,
    /// Whether this node holds the leader's duties.
    pub duties: watch::Receiver<Option<Fence>>,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// This node's name.
    pub instance_id: String,
}

/// Runs until `stop`. Whoever spawns it awaits it at shutdown.
pub async fn run(mut parts: ProjectionParts, stop: CancellationToken) {
    let mut held = *parts.duties.borrow_and_update();
    if held.is_some() {
        parts.leadership_changed(true, held);
    }
    loop {
        let after = parts.view.index();
        // The history may be cut off between the two lines; then the next round starts later.
        let Ok(mut watcher) = parts.view.hub().subscribe(WatchScope::Everything, after) else {
            tokio::task::yield_now().await;
            continue;
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = parts.duties.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = *parts.duties.borrow_and_update();
                    if now.is_some() != held.is_some() {
                        parts.leadership_changed(now.is_some(), now.or(held));
                    }
                    held = now;
                }
                events = watcher.next(EVENTS_MAX) => {
                    let Ok(events) = events else { break };
                    events.iter().for_each(|event| parts.note(event));
                }
            }
        }
    }
}

impl ProjectionParts {
    fn note(&self, event: &Event) {
        if let EventKind::HealthChanged { key, data } = &event.kind
            && data.health().liveness == Liveness::Evicted
        {
            self.evicted(key, data);
        }
        if matches!(event.kind, EventKind::LeadershipGranted { .. }) {
            self.telemetry.clear(AlertKind::LeadershipLost, &self.instance_id);
        }
    }

    fn evicted(&self, key: &InstanceKey, instance: &Instance) {
        let registration = &instance.registration;
        let path = registration.probe().map_or("", |probe| probe.path.as_str());
        let address = registration.address.as_str();
        let health_url = format!("{address}/{}", path.trim_start_matches('/'));
        let fields = vec![
            ("serviceName", Value::from(key.service.service.as_str())),
            ("parentNode", key.instance.as_str().into()),
            ("address", address.into()),
            ("healthUrl", health_url.into()),
            ("message", instance.health().reason.as_ref().into()),
        ];
        let details: Map<String, Value> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        self.telemetry.metrics().health_evictions.inc();
        self.telemetry.record("upstream.evicted", "REMOVED", fields);
        if self.duties.borrow().is_some() {
            // In panic mode an evicted instance gets traffic, unless it is drained or of a version without a share.
            let is_used = self.view.with_snapshot(|snapshot| {
                let service = snapshot.state.service(&key.service);
                service.is_some_and(|service| service.in_traffic().why_not(instance).is_none())
            });
            let message = match is_used {
                true => format!(
                    "{key} failed its health checks, but is used all the same: the service is in panic mode"
                ),
                false => format!("{key} failed its health checks and gets no traffic"),
            };
            let notice = Notice::new(AlertKind::UpstreamEvicted, key.to_string(), message);
            self.telemetry.alert(notice.details(Value::Object(details)));
        }
    }

    fn leadership_changed(&self, acquired: bool, fence: Option<Fence>) {
        let leader: Value = match acquired {
            true => self.instance_id.as_str().into(),
            false => self.leadership.borrow().leader.as_deref().into(),
        };
        let fence = fence.map_or(0, |fence| fence.0);
        let fields = vec![
            ("instanceId", Value::from(self.instance_id.as_str())),
            ("leaderInstanceId", leader.clone()),
            ("fencingToken", fence.into()),
        ];
        let outcome = if acquired { "ACQUIRED" } else { "LOST" };
        self.telemetry.record("cluster.leadership_changed", outcome, fields);
        if !acquired {
            let details = json!({"leaderInstanceId": leader, "fencingToken": fence});
            let message = "this instance has lost the leader's duties";
            let notice = Notice::new(AlertKind::LeadershipLost, &*self.instance_id, message);
            self.telemetry.raise(notice.details(details));
        }
        // Another node may have taken the duties over before this one noticed.
        let snapshot = self.view.snapshot();
        let holder = snapshot.state.grant().map(|grant| grant.holder.as_str());
        if acquired || holder.is_some_and(|holder| holder != self.instance_id) {
            self.telemetry.clear(AlertKind::LeadershipLost, &self.instance_id);
        }
    }
}
