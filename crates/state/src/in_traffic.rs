//! Decides which instances of a service get traffic. Routing tables, the API, counts and explanations all use
//! this decision.

use crate::{Instance, Liveness, Name, ServiceState};

/// Why an instance gets no traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTrafficReason {
    /// An operator drained it.
    Drained,
    /// Its health checks evicted it.
    Evicted,
    /// Its health checks say that it is not ready.
    NotReady,
    /// The policy splits the traffic between versions, and the version of the instance has no share.
    NoShare,
}

/// The decision for all instances of one service, for one state.
#[derive(Debug)]
pub struct InTraffic<'a> {
    service: &'a ServiceState,
    panic_mode: bool,
    /// The versions that share the traffic; empty if all instances do.
    versions: Vec<&'a Name>,
}

impl ServiceState {
    /// Decides which instances get traffic.
    #[must_use]
    pub fn in_traffic(&self) -> InTraffic<'_> {
        let mut decision =
            InTraffic { service: self, panic_mode: self.in_panic_mode(), versions: Vec::new() };
        let split = self.policy.as_ref().map_or(&[][..], |record| &record.policy.traffic.split);
        let mut shares = Vec::new();
        for share in split.iter().filter(|share| share.weight > 0) {
            let of_it = |instance: &Instance| {
                instance.registration.version.as_ref() == Some(&share.version)
            };
            if self.instances.values().any(|i| of_it(i) && decision.no_traffic_reason(i).is_none())
            {
                shares.push(&share.version);
            }
        }
        // If no version of the split has a usable instance, all instances are used.
        decision.versions = shares;
        decision
    }
}

impl InTraffic<'_> {
    /// Whether the service is in panic mode: so many instances are unhealthy that health is ignored.
    #[must_use]
    pub fn panic_mode(&self) -> bool {
        self.panic_mode
    }

    /// Whether an instance of the service gets new traffic.
    #[must_use]
    pub fn has(&self, instance: &Instance) -> bool {
        self.no_traffic_reason(instance).is_none()
    }

    /// Why an instance of the service gets no traffic; `None` if it gets traffic.
    #[must_use]
    pub fn no_traffic_reason(&self, instance: &Instance) -> Option<NoTrafficReason> {
        if !self.service.is_undrained(instance) {
            return Some(NoTrafficReason::Drained);
        }
        if !self.panic_mode && !instance.is_healthy() {
            return Some(match instance.health().liveness {
                Liveness::Evicted => NoTrafficReason::Evicted,
                Liveness::Alive => NoTrafficReason::NotReady,
            });
        }
        let version = instance.registration.version.as_ref();
        let has_share = self.versions.is_empty()
            || version.is_some_and(|version| self.versions.contains(&version));
        (!has_share).then_some(NoTrafficReason::NoShare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Actor, Address, Command, ControlState, HealthReport, Proposal, Readiness, Registration,
        Reply, RequestId, ServiceKey, ServicePolicy,
    };

    struct World {
        state: ControlState,
        requests: u128,
    }

    fn key() -> ServiceKey {
        ServiceKey::new(Name::trusted("default"), Name::trusted("orders"))
    }

    impl World {
        /// Three instances: a of version 1, b of version 2, c of version 3.
        fn new() -> Self {
            let mut world = Self { state: ControlState::default(), requests: 0 };
            for (at, id) in ["a", "b", "c"].into_iter().enumerate() {
                let address = Address::parse("http://10.0.0.1:80").unwrap();
                let mut registration = Registration::new(Name::trusted(id), address, 5_000);
                registration.version = Some(Name::trusted(&(at + 1).to_string()));
                world.propose(Command::Register { items: vec![(key(), registration)] });
            }
            world
        }

        fn propose(&mut self, command: Command) -> Reply {
            let fence = self.state.grant().map(|grant| grant.fence);
            self.requests += 1;
            let proposal = Proposal {
                request_id: RequestId(self.requests),
                proposed_at_ms: 1,
                fence: fence.filter(|_| command.is_leader_only()),
                actor: Actor::system("test"),
                command,
            };
            self.state.apply(&proposal, &mut Vec::new()).reply
        }

        fn policy(&mut self, json: &str) {
            let policy: ServicePolicy = serde_json::from_str(json).unwrap();
            let policy = Some(Box::new(policy));
            let (expected_revision, create) = (None, true);
            self.propose(Command::PutPolicy { key: key(), policy, expected_revision, create });
        }

        fn evict(&mut self, id: &str) {
            let holder = Name::trusted("node-1");
            self.propose(Command::GrantLeadership { holder });
            let health = crate::Health {
                liveness: Liveness::Evicted,
                readiness: Readiness::NotReady,
                ..crate::Health::default()
            };
            let instance = &self.state.service(&key()).unwrap().instances[&Name::trusted(id)];
            let address_index = instance.address_index;
            let items = vec![HealthReport {
                key: key().instance(Name::trusted(id)),
                address_index,
                health,
            }];
            assert_eq!(self.propose(Command::ReportHealth { items }), Reply::Changed(vec![true]));
        }

        /// For each instance, the reason why it gets no traffic.
        fn decided(&self) -> Vec<Option<NoTrafficReason>> {
            let service = self.state.service(&key()).unwrap();
            let decision = service.in_traffic();
            service
                .instances
                .values()
                .map(|instance| decision.no_traffic_reason(instance))
                .collect()
        }
    }

    #[test]
    fn in_panic_mode_all_but_the_drained_get_traffic() {
        let mut world = World::new();
        world.policy(r#"{"health":{"panic_percent":50}}"#);
        world.evict("a");
        assert_eq!(world.decided(), [Some(NoTrafficReason::Evicted), None, None]);
        world.evict("b");
        assert_eq!(world.decided(), [None, None, None]);
        let key = key().instance(Name::trusted("c"));
        world.propose(Command::SetDrain { key, reason: Some("test".into()) });
        assert_eq!(world.decided(), [None, None, Some(NoTrafficReason::Drained)]);
    }

    #[test]
    fn versions_without_a_share_get_no_traffic() {
        let mut world = World::new();
        world.policy(
            r#"{"traffic":{"split":[{"version":"1","weight":100},{"version":"2","weight":0}]}}"#,
        );
        let no_share = Some(NoTrafficReason::NoShare);
        assert_eq!(world.decided(), [None, no_share, no_share]);
        // No instance of the split's versions is left, so all instances are used.
        world.evict("a");
        assert_eq!(world.decided(), [Some(NoTrafficReason::Evicted), None, None]);
    }
}
