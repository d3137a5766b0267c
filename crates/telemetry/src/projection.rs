//! Turns changes of the state into recent events and alerts of this node.
//!
//! Every node records an eviction as an event. Only the leader raises an alert for it, so that the webhook gets it
//! once.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{AlertKind, Notice, Telemetry};
use maxine_state::Leadership;
use maxine_state::{
    Event, EventKind, Fence, Instance, InstanceKey, Liveness, NoTrafficReason, ServicePolicy,
    ServiceState,
};
use maxine_view::{View, WatchScope};

/// Maximum number of events that are taken at once.
const EVENTS_MAX: usize = 256;
/// Time after this node has lost the leader's duties until it raises an alert, if no other node is known to have them.
/// In a transfer, another node has them within milliseconds.
const LOST_HOLD: Duration = Duration::from_secs(1);

/// What the projection needs.
pub struct ProjectionParts {
    /// Receives the events and alerts.
    pub telemetry: Telemetry,
    /// The published state.
    pub view: Arc<View>,
    /// Whether this node holds the leader's duties.
    pub duties: watch::Receiver<Option<Fence>>,
    /// The leader, as this node knows it.
    pub leadership: watch::Receiver<Leadership>,
    /// This node's name.
    pub instance_id: String,
    /// Finds the URL that the health checks of an instance request.
    pub health_url: HealthUrl,
}

/// Finds the URL that the health checks of an instance request, from the instance and the policy of its service.
/// `None` if they request none.
pub type HealthUrl = Box<dyn Fn(&Instance, Option<&ServicePolicy>) -> Option<String> + Send + Sync>;

/// Runs until `stop`. The caller must await it at shutdown.
pub async fn run(mut parts: ProjectionParts, stop: CancellationToken) {
    let mut held = *parts.duties.borrow_and_update();
    if held.is_some() {
        parts.leadership_changed(true, held);
    }
    // The fence of the duties that were lost, until the alert is due.
    let mut lost: Option<(Pin<Box<tokio::time::Sleep>>, Option<Fence>)> = None;
    loop {
        let after = parts.view.index();
        // If the history ends between these two lines, the next round subscribes to the new one.
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
                        let due = || Box::pin(tokio::time::sleep(LOST_HOLD));
                        lost = now.is_none().then(|| (due(), held));
                    }
                    held = now;
                }
                fence = overdue(&mut lost) => {
                    lost = None;
                    parts.duties_stay_lost(fence);
                }
                changed = parts.leadership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    parts.leader_changed();
                }
                events = watcher.next(EVENTS_MAX) => {
                    let Ok(events) = events else { break };
                    events.iter().for_each(|event| parts.note(event));
                }
            }
        }
    }
}

/// Waits until the alert about lost duties is due, or forever if no duties were lost. Returns the fence of the duties.
async fn overdue(
    lost: &mut Option<(Pin<Box<tokio::time::Sleep>>, Option<Fence>)>,
) -> Option<Fence> {
    match lost {
        Some((due, fence)) => {
            due.await;
            *fence
        }
        None => std::future::pending().await,
    }
}

/// Describes what the eviction of an instance means for its traffic.
fn after_eviction(service: Option<&ServiceState>, instance: &Instance) -> &'static str {
    match service.map(|service| service.in_traffic().no_traffic_reason(instance)) {
        Some(None) => {
            "failed its health checks, but still gets traffic, because the service is in panic mode"
        }
        Some(Some(NoTrafficReason::Drained)) => {
            "failed its health checks; it is drained, so it got no traffic before either"
        }
        Some(Some(NoTrafficReason::NoShare)) => {
            "failed its health checks; its version has no share of the traffic, so it got none before either"
        }
        Some(Some(NoTrafficReason::Evicted | NoTrafficReason::NotReady)) | None => {
            "failed its health checks and gets no traffic"
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
        let address = instance.registration.address.as_str();
        let health_url = self.view.with_snapshot(|snapshot| {
            let policy = snapshot.state.service(&key.service).and_then(|s| s.policy.as_ref());
            (self.health_url)(instance, policy.map(|record| &record.policy))
        });
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
            let message = self.view.with_snapshot(|snapshot| {
                let service = snapshot.state.service(&key.service);
                format!("{key} {}", after_eviction(service.map(AsRef::as_ref), instance))
            });
            let notice = Notice::new(AlertKind::UpstreamEvicted, key.to_string(), message);
            self.telemetry.alert(notice.details(Value::Object(details)));
        }
    }

    fn leadership_changed(&mut self, acquired: bool, fence: Option<Fence>) {
        let leader: Value = match acquired {
            true => self.instance_id.as_str().into(),
            false => self.leadership.borrow().leader.as_deref().into(),
        };
        let fence = fence.map_or(0, |fence| fence.0);
        let fields = vec![
            ("instanceId", Value::from(self.instance_id.as_str())),
            ("leaderInstanceId", leader),
            ("fencingToken", fence.into()),
        ];
        let outcome = if acquired { "ACQUIRED" } else { "LOST" };
        self.telemetry.record("cluster.leadership_changed", outcome, fields);
        if acquired {
            self.telemetry.clear(AlertKind::LeadershipLost, &self.instance_id);
        }
        self.leader_changed();
    }

    /// Raises the alert about lost duties, unless another node has taken them over.
    fn duties_stay_lost(&self, fence: Option<Fence>) {
        let snapshot = self.view.snapshot();
        let holder = snapshot.state.grant().map(|grant| grant.holder.as_str());
        let leader = self.leadership.borrow().leader.clone();
        let is_another = |name: &str| name != self.instance_id;
        if holder.is_some_and(is_another) || leader.as_deref().is_some_and(is_another) {
            return;
        }
        let fence = fence.map_or(0, |fence| fence.0);
        let details = json!({"leaderInstanceId": leader, "fencingToken": fence});
        let message =
            "this node has lost the leader's duties, and no other node is known to have them";
        let notice = Notice::new(AlertKind::LeadershipLost, &*self.instance_id, message);
        self.telemetry.raise(notice.details(details));
    }

    /// Ends the alert about lost duties if another node leads. A node that was removed from the cluster hears who
    /// leads, but receives no more entries of the log. So it would never see the grant of the new leader.
    fn leader_changed(&mut self) {
        let another = |leader: &str| leader != self.instance_id;
        if self.leadership.borrow_and_update().leader.as_deref().is_some_and(another) {
            self.telemetry.clear(AlertKind::LeadershipLost, &self.instance_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AlertState;
    use maxine_state::{
        Actor, Address, Command, ControlState, Health, HealthReport, Name, Proposal, Readiness,
        Registration, RequestId, ServiceKey,
    };

    /// A service with three instances, some of which are drained or evicted. It enters panic mode if more than half
    /// are unhealthy.
    fn state(drained: &[&str], evicted: &[&str]) -> ControlState {
        let key = ServiceKey::new(Name::trusted("default"), Name::trusted("orders"));
        let of = |id: &str| key.instance(Name::trusted(id));
        let address = Address::parse("http://10.0.0.1:80").unwrap();
        let register = |id: &str| {
            let registration = Registration::new(Name::trusted(id), address.clone(), 5_000);
            Command::Register { items: vec![(key.clone(), registration)] }
        };
        let policy = serde_json::from_str(r#"{"health":{"panic_percent":50}}"#).unwrap();
        let policy = Some(Box::new(policy));
        let mut state = ControlState::default();
        // Each command raises the index, so the index is used as the request id.
        let propose = |state: &mut ControlState, command: Command| {
            let fence = state.grant().map(|grant| grant.fence);
            let proposal = Proposal {
                request_id: RequestId(u128::from(state.index()) + 1),
                proposed_at_ms: 1,
                fence: fence.filter(|_| command.is_leader_only()),
                actor: Actor::system("test"),
                command,
            };
            state.apply(&proposal, &mut Vec::new());
        };
        for id in ["a", "b", "c"] {
            propose(&mut state, register(id));
        }
        let (expected_revision, create) = (None, true);
        let put = Command::PutPolicy { key: key.clone(), policy, expected_revision, create };
        propose(&mut state, put);
        propose(&mut state, Command::GrantLeadership { holder: Name::trusted("node-1") });
        for id in drained {
            propose(&mut state, Command::SetDrain { key: of(id), reason: Some("test".into()) });
        }
        for id in evicted {
            let (liveness, readiness) = (Liveness::Evicted, Readiness::NotReady);
            let health = Health { liveness, readiness, ..Health::default() };
            let address_index = state.instance(&of(id)).unwrap().address_index;
            let items = vec![HealthReport { key: of(id), address_index, health }];
            propose(&mut state, Command::ReportHealth { items });
        }
        state
    }

    /// The state of a removed node never has the grant of the next leader.
    #[tokio::test]
    async fn the_alert_of_lost_duties_ends_when_another_leader_is_known_without_its_grant() {
        let clock = maxine_clock::Clock::system();
        let view = View::new(clock.clone());
        let telemetry =
            Telemetry::start(Arc::clone(&view), clock, &crate::TelemetrySettings::default());
        let (duties, held) = watch::channel(Some(Fence(7)));
        let (leadership, leads) = watch::channel(Leadership::default());
        let parts = ProjectionParts {
            telemetry: telemetry.clone(),
            view,
            duties: held,
            leadership: leads,
            instance_id: "node-4".into(),
            health_url: Box::new(|_, _| None),
        };
        let stop = CancellationToken::new();
        let projection = tokio::spawn(run(parts, stop.clone()));
        let until = async |state: AlertState| {
            let is_so = || {
                telemetry.alerts().newest_first().first().is_some_and(|alert| {
                    alert.kind == AlertKind::LeadershipLost && alert.state == state
                })
            };
            let shown = async {
                while !is_so() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let shown = tokio::time::timeout(Duration::from_secs(10), shown).await;
            assert!(shown.is_ok(), "not {state:?}: {:?}", telemetry.alerts().newest_first());
        };
        // The projection first records the duties that it begins with.
        while telemetry.recent_events().is_empty() {
            tokio::task::yield_now().await;
        }
        let name = |leader: Option<&str>| {
            let leader = leader.map(str::to_owned);
            leadership.send(Leadership { leader, ..Leadership::default() }).unwrap();
        };
        // A transfer: another node leads within milliseconds.
        duties.send(None).unwrap();
        tokio::time::sleep(LOST_HOLD / 2).await;
        name(Some("node-1"));
        tokio::time::sleep(LOST_HOLD * 2).await;
        assert!(telemetry.alerts().newest_first().is_empty(), "a transfer is no alert");
        name(None);
        duties.send(Some(Fence(9))).unwrap();
        while telemetry.recent_events().len() < 3 {
            tokio::task::yield_now().await;
        }
        duties.send(None).unwrap();
        until(AlertState::Active).await;
        name(Some("node-1"));
        until(AlertState::Resolved).await;
        stop.cancel();
        projection.await.unwrap();
    }

    #[test]
    fn the_alert_of_an_eviction_says_what_it_means_for_the_traffic() {
        let says = |drained: &[&str], evicted: &[&str], of: &str| {
            let state = state(drained, evicted);
            let key = ServiceKey::new(Name::trusted("default"), Name::trusted("orders"));
            let service = state.service(&key).unwrap();
            let instance = &service.instances[&Name::trusted(of)];
            after_eviction(Some(service.as_ref()), instance)
        };
        assert_eq!(says(&[], &["a"], "a"), "failed its health checks and gets no traffic");
        let panic_mode = says(&[], &["a", "b"], "b");
        assert!(
            panic_mode.contains("still gets traffic") && panic_mode.contains("panic"),
            "{panic_mode}"
        );
        // Panic mode does not end a drain.
        let drained = says(&["c"], &["a", "b", "c"], "c");
        assert_eq!(
            drained,
            "failed its health checks; it is drained, so it got no traffic before either"
        );
        assert!(says(&["c"], &["a", "b", "c"], "a").contains("panic"));
    }
}
