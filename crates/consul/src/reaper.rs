//! The leader's duty behind `DeregisterCriticalServiceAfter`: it deregisters instances with a check that was critical
//! for longer than its client allows.
//!
//! The leader measures the time on its monotonic clock, from the moment when it first saw the check critical. So a jump
//! of the wall clock does not deregister an instance too early. A new leader starts to measure again. The command is
//! fenced and names the registration, so an instance that was registered again stays.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::metrics::ConsulMetrics;
use super::model::is_overdue;
use maxine_actors::{Registry, WriteRequest};
use maxine_clock::Clock;
use maxine_state::{Actor, Command, Fence, InstanceKey, Name, Reply};
use maxine_view::View;

/// Interval between two checks, as in Consul. So an instance is removed up to this time late.
const PAUSE: Duration = Duration::from_secs(30);
/// Maximum number of instances that one command removes.
const ITEMS_MAX: usize = 1_000;
/// Number of instances that are looked at before other tasks have their turn.
const TURN_LEN: usize = 4_096;

/// A check that is critical: the instance, the check, and since when by the log's clock.
type Seen = (InstanceKey, Name, u64);

/// Runs until dropped.
pub async fn run(
    registry: Registry,
    view: Arc<View>,
    clock: Clock,
    duties: watch::Receiver<Option<Fence>>,
    metrics: ConsulMetrics,
) {
    let mut seen: HashMap<Seen, u64> = HashMap::new();
    let mut held = None;
    loop {
        tokio::time::sleep(PAUSE).await;
        let fence = *duties.borrow();
        if held != fence {
            seen.clear();
            held = fence;
        }
        let Some(fence) = fence else { continue };
        let overdue = overdue(&view, &clock, &mut seen).await;
        for items in overdue.chunks(ITEMS_MAX) {
            let request = WriteRequest {
                actor: Actor::system("deregister-critical"),
                request_id: None,
                fence: Some(fence),
                answer_by_ms: None,
                command: Command::Expire { items: items.to_vec() },
            };
            match registry.propose(request).await {
                Ok(applied) => {
                    let removed = match &applied.reply {
                        Reply::Changed(changed) => changed.iter().filter(|one| **one).count(),
                        _ => 0,
                    };
                    metrics.deregistered(removed as u64);
                    tracing::info!(
                        removed,
                        "instances with a check that was critical for too long were deregistered"
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "critical instances could not be deregistered yet")
                }
            }
        }
    }
}

/// The instances to deregister, each with the index of its registration.
async fn overdue(
    view: &View,
    clock: &Clock,
    seen: &mut HashMap<Seen, u64>,
) -> Vec<(InstanceKey, u64)> {
    let snapshot = view.snapshot();
    let now_ms = clock.monotonic_ms();
    let mut present: HashMap<Seen, u64> = HashMap::new();
    let mut found = Vec::new();
    let mut looked_at = 0;
    for (key, service) in snapshot.state.services() {
        for (id, instance) in &service.instances {
            looked_at += 1;
            if looked_at % TURN_LEN == 0 {
                tokio::task::yield_now().await;
            }
            let is_overdue = is_overdue(instance, |check, since_ms| {
                let key: Seen = (key.instance(id.clone()), Name::trusted(check), since_ms);
                let first_seen_ms = seen.get(&key).copied().unwrap_or(now_ms);
                present.insert(key, first_seen_ms);
                now_ms.saturating_sub(first_seen_ms)
            });
            if is_overdue {
                found.push((key.instance(id.clone()), instance.registered_index));
            }
        }
    }
    *seen = present;
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CheckExtra, Extras, ServiceExtra};
    use maxine_state::{
        Address, Check, CheckKind, CheckReport, CheckStatus, ControlState, Proposal, Registration,
        RequestId, ServiceKey,
    };

    struct World {
        state: ControlState,
        view: Arc<View>,
        clock: Clock,
        requests: u128,
        seen: HashMap<Seen, u64>,
    }

    impl World {
        fn new() -> Self {
            let clock = Clock::manual();
            let view = View::new(clock.clone());
            Self { state: ControlState::default(), view, clock, requests: 0, seen: HashMap::new() }
        }

        fn apply(&mut self, command: Command) {
            self.requests += 1;
            let proposal = Proposal {
                request_id: RequestId(self.requests),
                proposed_at_ms: 1_000 + self.clock.monotonic_ms(),
                fence: None,
                actor: Actor::system("test"),
                command,
            };
            let mut events = Vec::new();
            self.state.apply(&proposal, &mut events);
            self.view.publish(&self.state, &events);
        }

        fn register(&mut self, id: &str, after_ms: Option<u64>) {
            let address = Address::parse("http://10.0.0.1:80").unwrap();
            let mut registration = Registration::new(Name::trusted(id), address, 600_000);
            let kind = CheckKind::Ttl { ttl_ms: 60_000, initial: CheckStatus::Critical };
            registration.checks = [Check { id: Name::trusted("own"), kind }].into();
            let check = CheckExtra {
                id: "own".into(),
                deregister_after_ms: after_ms,
                ..CheckExtra::default()
            };
            let extras =
                Extras { service: Some(ServiceExtra::default()), node: None, checks: vec![check] };
            registration.metadata = extras.metadata(std::iter::empty()).unwrap();
            self.apply(Command::Register { items: vec![(service(), registration.normalised())] });
        }

        fn report(&mut self, id: &str, status: CheckStatus) {
            let (key, check) = (service().instance(Name::trusted(id)), Name::trusted("own"));
            let report = CheckReport { status, output: "".into() };
            self.apply(Command::ReportCheck { key, check, lease_epoch: None, report });
        }

        async fn overdue_after(&mut self, ms: u64) -> Vec<String> {
            self.clock.advance(Duration::from_millis(ms));
            let found = overdue(&self.view, &self.clock, &mut self.seen).await;
            found.into_iter().map(|(key, _)| key.instance.to_string()).collect()
        }
    }

    fn service() -> ServiceKey {
        ServiceKey::new(Name::trusted("default"), Name::trusted("web"))
    }

    #[tokio::test]
    async fn an_instance_is_overdue_once_a_check_was_seen_critical_for_long_enough() {
        let mut world = World::new();
        world.register("a", Some(60_000));
        world.register("b", Some(120_000));
        world.register("c", None);
        assert!(world.overdue_after(500_000).await.is_empty(), "seen for the first time");
        assert!(world.overdue_after(59_999).await.is_empty());
        assert_eq!(world.overdue_after(1).await, ["a"]);
        assert_eq!(world.overdue_after(60_000).await, ["a", "b"]);
        // A check that passed in the meantime begins anew.
        world.report("a", CheckStatus::Passing);
        assert_eq!(world.overdue_after(1).await, ["b"]);
        world.clock.advance(Duration::from_millis(1));
        world.report("a", CheckStatus::Critical);
        assert_eq!(world.overdue_after(60_000).await, ["b"], "seen for the first time");
        assert_eq!(world.overdue_after(60_000).await, ["a", "b"]);
    }
}
