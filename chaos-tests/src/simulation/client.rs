//! A client: it registers one instance, keeps it alive with heartbeats, and sometimes stops or deregisters
//! it.

use std::sync::Arc;

use maxine_control::leases::LeaseId;
use maxine_state::{
    Actor, Address, Command, Deregistration, InstanceKey, Name, Proposal, Registration, RequestId,
    ServiceKey,
};

/// The present activity of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has no instance.
    Away,
    /// Its registration is in flight.
    Registering,
    /// It is registered and sends heartbeats.
    Alive,
    /// It is registered and silent.
    Silent,
    /// Its deregistration is in flight.
    Leaving,
}

/// One client with one instance.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) key: InstanceKey,
    pub(super) lease: LeaseId,
    pub(super) ttl_ms: u64,
    pub(super) phase: Phase,
    /// The write in flight. A repeat has the same id.
    pub(super) pending: Option<Arc<Proposal>>,
    pub(super) sent_ms: u64,
    pub(super) epoch: u64,
    pub(super) next_at_ms: u64,
    /// Until this time its instance fails every probe.
    pub(super) sick_until_ms: u64,
    /// From this time on it may be sick again; `u64::MAX` if it is always healthy.
    pub(super) sick_from_ms: u64,
}

impl Client {
    pub(super) fn new(nth: usize) -> Self {
        let service = ServiceKey::new(
            Name::trusted("default"),
            Name::trusted(&format!("service-{}", nth % 3)),
        );
        let key = service.instance(Name::trusted(&format!("instance-{nth}")));
        let lease = LeaseId::of_key(&key);
        let ttl_ms = 3_000 + 500 * (nth as u64 % 4);
        Self {
            key,
            lease,
            ttl_ms,
            phase: Phase::Away,
            pending: None,
            sent_ms: 0,
            epoch: 0,
            next_at_ms: 50 * nth as u64,
            sick_until_ms: 0,
            sick_from_ms: if Self::is_always_healthy(nth) { u64::MAX } else { 5_000 },
        }
    }

    /// Whether this client's instance is never sick.
    pub(super) fn is_always_healthy(nth: usize) -> bool {
        nth.is_multiple_of(2)
    }

    /// The registration of its instance. The address distinguishes one attempt from the next.
    pub(super) fn registration(&self, nth: u64) -> Command {
        let address = Address::parse(&format!("http://10.0.0.1:{}", 1_024 + nth % 60_000));
        let address = address.expect("a port from 1024 on makes an address");
        let registration = Registration::new(self.key.instance.clone(), address, self.ttl_ms);
        Command::Register { items: vec![(self.key.service.clone(), registration)] }
    }

    pub(super) fn deregistration(&self) -> Command {
        let item = Deregistration {
            key: self.key.clone(),
            lease_epoch: Some(self.epoch),
            forget_drain: false,
        };
        Command::Deregister { items: vec![item] }
    }

    pub(super) fn proposal(
        &self,
        id: u128,
        proposed_at_ms: u64,
        command: Command,
    ) -> Arc<Proposal> {
        let request_id = RequestId(id);
        Arc::new(Proposal {
            request_id,
            proposed_at_ms,
            fence: None,
            actor: Actor::system("client"),
            command,
        })
    }
}
