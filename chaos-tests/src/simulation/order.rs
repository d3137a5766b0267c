//! The ideal log: its order, which part of it each node knows, and how nodes apply it.

use std::sync::Arc;

use super::Fault;
use super::network::{Message, Place};
use super::world::World;
use crate::facts::{Entry, Removed, Step};
use maxine_control::leadership::LeadershipEvent;
use maxine_control::leases::LeaseEvent;
use maxine_state::{
    Actor, Applied, Command, ControlState, Event, EventKind, Fence, Proposal, Reply, RequestId,
};

/// Maximum number of nodes that forward a proposal.
pub(super) const HOPS_MAX: u8 = 6;

impl World {
    /// A proposal of Maxine itself.
    pub(super) fn proposal(
        &mut self,
        part: &str,
        proposed_at_ms: u64,
        fence: Option<Fence>,
        command: Command,
    ) -> Proposal {
        self.next_id += 1;
        let (request_id, actor) = (RequestId(self.next_id), Actor::system(part));
        Proposal { request_id, proposed_at_ms, fence, actor, command }
    }

    pub(super) fn push(&mut self, proposal: Proposal) {
        let term = self.facts.term;
        self.facts.log.push(Entry { term, proposal: Arc::new(proposal) });
    }

    /// Which part of the log a node can know: all of it, unless the node is cut off from the leader.
    pub(super) fn known_to(&self, node: usize) -> usize {
        match self.facts.leader {
            Some(leader) if leader != node && self.network.cut.contains(&(leader, node)) => {
                self.facts.nodes[node].position
            }
            _ => self.facts.log.len(),
        }
    }

    /// The node to which a node sends requests for the leader. A node that considers itself the leader
    /// handles them itself, and finds out.
    pub(super) fn towards_leader(&self, node: usize) -> Option<usize> {
        match self.facts.leader {
            Some(leader) if leader == node => Some(node),
            Some(leader) if !self.network.cut.contains(&(leader, node)) => Some(leader),
            _ => None,
        }
    }

    /// The real leader orders proposals, whoever sent them and however old they are. It has applied them
    /// before it answers.
    pub(super) fn order(
        &mut self,
        node: usize,
        to: usize,
        ask: u128,
        proposals: Vec<Arc<Proposal>>,
    ) {
        let first = self.facts.log.len();
        for mut proposal in proposals {
            if self.fault == Some(Fault::SkipFencing) && proposal.fence.is_some() {
                Arc::make_mut(&mut proposal).fence = self.newest_grant(node);
            }
            if let Ok(write) = proposal.actor.address.parse() {
                self.facts.ordered.insert(write);
            }
            self.push(Proposal::clone(&proposal));
            self.note(&[2, node as u64, self.facts.log.len() as u64]);
        }
        let mut applied: Vec<Applied> = Vec::new();
        self.preview(node, |position, done| {
            if position >= first {
                applied.push(done);
            }
        });
        let position = self.facts.log.len();
        let message = Message::Ordered { ask, applied, position };
        self.send(Place::Node(node), Place::Node(to), message);
    }

    /// Applies the rest of the log to a copy of a node's state.
    fn preview(&self, node: usize, mut each: impl FnMut(usize, Applied)) -> ControlState {
        let replica = &self.facts.nodes[node];
        let mut state = replica.state.clone();
        for (at, entry) in self.facts.log.iter().enumerate().skip(replica.position) {
            each(at, state.apply(&entry.proposal, &mut Vec::new()));
        }
        state
    }

    /// The fence that will be valid when a new entry is applied.
    fn newest_grant(&self, node: usize) -> Option<Fence> {
        self.preview(node, |_, _| {}).grant().map(|grant| grant.fence)
    }

    /// A node applies its next entry, and its engines follow.
    pub(super) fn apply(&mut self, nth: usize) -> Step {
        let replica = &mut self.facts.nodes[nth];
        let (position, before) = (replica.position, replica.state.clone());
        let proposal = Arc::clone(&self.facts.log[position].proposal);
        let mut events = Vec::new();
        let applied = replica.state.apply(&proposal, &mut events);
        replica.position += 1;
        let events: Vec<Arc<Event>> = events.into_iter().map(Arc::new).collect();
        let removed = removed(&before, &events);
        self.count(nth, position, &proposal, &applied, removed.len());
        self.note(&[1, nth as u64, position as u64, applied.index, events.len() as u64]);
        self.follow(nth, &events);
        if self.rng.u8(..100) < 4 {
            self.nodes[nth].take_snapshot(&self.facts.nodes[nth]);
        }
        Step::Applied { node: nth, position: position + 1, applied, events, removed }
    }

    fn count(
        &mut self,
        nth: usize,
        position: usize,
        proposal: &Proposal,
        applied: &Applied,
        removed: usize,
    ) {
        self.counts.applied += 1;
        let is_first = (self.facts.nodes.iter().enumerate())
            .all(|(other, replica)| other == nth || replica.position <= position);
        if !is_first {
            return;
        }
        self.counts.fenced_off += u64::from(matches!(applied.reply, Reply::Rejected(_)));
        match &proposal.command {
            Command::Expire { .. } => self.counts.expiries += removed as u64,
            Command::ReportHealth { items } => self.counts.verdicts += items.len() as u64,
            _ => {}
        }
    }

    /// Passes the new state of a node to its engines.
    fn follow(&mut self, nth: usize, events: &[Arc<Event>]) {
        let index = self.facts.nodes[nth].state.index();
        self.leases(nth, LeaseEvent::Changes { events, index });
        let clock_ms = self.nodes[nth].clock_ms(self.now_ms());
        let state = &self.facts.nodes[nth].state;
        for service in events.iter().filter_map(|event| event.kind.service()) {
            let present = state.service(service).map(AsRef::as_ref);
            let wall_ms = super::wall_ms(clock_ms);
            self.nodes[nth].observer.sync_service(service, present, clock_ms, wall_ms);
        }
        let is_grant =
            |event: &Arc<Event>| matches!(event.kind, EventKind::LeadershipGranted { .. });
        if events.iter().any(is_grant) {
            let (latest, now) = (self.latest_grant(nth), self.nodes[nth].believes.clone());
            self.leadership(nth, LeadershipEvent::GrantsChanged { latest, now });
        }
        self.take_answers(nth);
    }

    pub(super) fn latest_grant(&self, nth: usize) -> Option<Fence> {
        self.facts.nodes[nth].state.grant().map(|grant| grant.fence)
    }
}

fn removed(before: &ControlState, events: &[Arc<Event>]) -> Vec<Removed> {
    let each = events.iter().filter_map(|event| {
        let EventKind::InstanceRemoved { key, .. } = &event.kind else { return None };
        let service = before.service(&key.service);
        let old = service.and_then(|service| service.instances.get(&key.instance));
        Some(Removed {
            key: key.clone(),
            lease_epoch: old.map_or(0, |old| old.lease_epoch),
            registered_index: old.map_or(0, |old| old.registered_index),
        })
    });
    each.collect()
}
