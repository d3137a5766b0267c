//! Counts of instances: by their state, and by the reason for which they get no traffic.

use serde::Serialize;
use utoipa::ToSchema;

use maxine_state::{Liveness, NoTrafficReason, ServiceState};

/// Numbers of instances. An instance that is drained, or that is used in panic mode, may also count as unhealthy or
/// evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct InstanceCounts {
    /// All instances, including the evicted ones.
    pub(super) instances: usize,
    /// Instances that get traffic now.
    pub(super) routable: usize,
    /// Instances that are alive but not ready.
    pub(super) unhealthy: usize,
    /// Instances that are evicted. They are still probed.
    pub(super) evicted: usize,
    /// Instances that an operator drained.
    pub(super) draining: usize,
    /// Instances that get no traffic, by reason.
    no_traffic: NoTrafficCounts,
}

/// Instances that get no traffic. Each counts once. Their sum and the number of those that get traffic make up all
/// instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
struct NoTrafficCounts {
    /// Instances that an operator drained.
    drained: usize,
    /// Instances that are evicted and not drained.
    evicted: usize,
    /// Instances that are not drained, and not ready according to their health checks.
    unhealthy: usize,
    /// Other instances, whose version has no share of the traffic.
    no_share: usize,
}

impl InstanceCounts {
    /// Counts the instances of one more service.
    pub(super) fn add(&mut self, service: &ServiceState) {
        let in_traffic = service.in_traffic();
        for (id, instance) in &service.instances {
            let evicted = instance.health().liveness == Liveness::Evicted;
            self.instances += 1;
            self.evicted += usize::from(evicted);
            self.unhealthy += usize::from(!evicted && !instance.is_healthy());
            self.draining += usize::from(service.drains.contains_key(id));
            let counter = match in_traffic.no_traffic_reason(instance) {
                None => &mut self.routable,
                Some(NoTrafficReason::Drained) => &mut self.no_traffic.drained,
                Some(NoTrafficReason::Evicted) => &mut self.no_traffic.evicted,
                Some(NoTrafficReason::NotReady) => &mut self.no_traffic.unhealthy,
                Some(NoTrafficReason::NoShare) => &mut self.no_traffic.no_share,
            };
            *counter += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{
        Actor, Address, Command, ControlState, Health, HealthReport, InstanceKey, Name, Proposal,
        Readiness, Registration, RequestId, ServiceKey,
    };

    /// One service with four instances: a to d.
    struct World(ControlState);

    fn key(id: &str) -> InstanceKey {
        ServiceKey::new(Name::trusted("default"), Name::trusted("orders"))
            .instance(Name::trusted(id))
    }

    impl World {
        fn new() -> Self {
            let mut world = Self(ControlState::default());
            world.propose(Command::GrantLeadership { holder: Name::trusted("node-1") });
            for id in ["a", "b", "c", "d"] {
                let address = Address::parse("http://10.0.0.1:80").unwrap();
                let registration = Registration::new(Name::trusted(id), address, 5_000);
                world.propose(Command::Register { items: vec![(key(id).service, registration)] });
            }
            world
        }

        fn propose(&mut self, command: Command) {
            let fence = self.0.grant().map(|grant| grant.fence);
            let proposal = Proposal {
                // Each command moves the index.
                request_id: RequestId(u128::from(self.0.index()) + 1),
                proposed_at_ms: 1,
                fence: fence.filter(|_| command.is_leader_only()),
                actor: Actor::system("test"),
                command,
            };
            self.0.apply(&proposal, &mut Vec::new());
        }

        fn evict(&mut self, id: &str) {
            let address_index = self.0.instance(&key(id)).unwrap().address_index;
            let (liveness, readiness) = (Liveness::Evicted, Readiness::NotReady);
            let health = Health { liveness, readiness, ..Health::default() };
            let items = vec![HealthReport { key: key(id), address_index, health }];
            self.propose(Command::ReportHealth { items });
        }

        fn counts(&self) -> InstanceCounts {
            let mut counts = InstanceCounts::default();
            self.0.services().values().for_each(|service| counts.add(service));
            let NoTrafficCounts { drained, evicted, unhealthy, no_share } = counts.no_traffic;
            let sum = counts.routable + drained + evicted + unhealthy + no_share;
            assert_eq!(sum, counts.instances, "each instance counts once");
            counts
        }
    }

    #[test]
    fn the_counts_of_instances_add_up_with_drained_and_evicted_ones_and_in_panic_mode() {
        let mut world = World::new();
        world.evict("a");
        world.evict("b");
        world.propose(Command::SetDrain { key: key("a"), reason: Some("test".into()) });
        let counts = world.counts();
        assert_eq!((counts.routable, counts.evicted, counts.draining), (2, 2, 1));
        let parts = counts.no_traffic;
        assert_eq!((parts.drained, parts.evicted), (1, 1), "one of the evicted is drained");
        let policy = serde_json::from_str(r#"{"health":{"panic_percent":10}}"#).unwrap();
        let (expected_revision, create) = (None, true);
        let policy = Some(Box::new(policy));
        let key = key("a").service;
        world.propose(Command::PutPolicy { key, policy, expected_revision, create });
        let counts = world.counts();
        assert_eq!((counts.routable, counts.evicted, counts.no_traffic.evicted), (3, 2, 0));
    }
}
