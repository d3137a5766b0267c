//! The scheduler: decides what happens when, and in which order.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::client::{Client, Phase};
use super::network::{Message, Network, Place};
use super::node::{Node, Timer};
use super::{Fault, Plan};
use crate::facts::{Acknowledged, Facts, Step};
use maxine_control::leases::EXPIRY_TICK_MS;
use maxine_state::{
    Command, HealthPolicy, ProbeKind, ProbeSpec, Proposal, RequestId, ServicePolicy,
};

pub(super) const NODES: usize = 3;
const CLIENTS: usize = 8;
/// Pause before a client asks again.
const RETRY_MS: u64 = 1_500;
/// How long there is no leader after one was lost.
const ELECTION_MS: (u64, u64) = (600, 1_600);

/// The whole simulation.
#[derive(Debug)]
pub(super) struct World {
    pub(super) facts: Facts,
    pub(super) rng: fastrand::Rng,
    until_ms: u64,
    pub(super) fault: Option<Fault>,
    pub(super) slow_proposals: bool,
    pub(super) network: Network,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    /// Later actions of nodes, by time and a unique number. The value has the node and the number of its
    /// process's start.
    timers: BTreeMap<(u64, u64), (usize, u64, Timer)>,
    /// The node whose probes sometimes reach nothing.
    pub(super) blind: usize,
    elect_at_ms: u64,
    next_trouble_ms: u64,
    trouble_ends_ms: u64,
    pub(super) next_id: u128,
    trace: DefaultHasher,
    pub(super) counts: Counts,
}

/// The counters of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) applied: u64,
    pub(super) elections: u64,
    pub(super) handovers: u64,
    pub(super) expiries: u64,
    pub(super) verdicts: u64,
    pub(super) refusals: u64,
    pub(super) fenced_off: u64,
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let network = Network::new(rng.u8(..8), rng.u8(..6), rng.u64(2..60));
        let mut facts = Facts::default();
        let mut nodes = Vec::new();
        for nth in 0..NODES {
            let (node, replica) = Node::new(nth, rng.i64(-5..=5), rng.u64(..));
            nodes.push(node);
            facts.nodes.push(replica);
        }
        let clients: Vec<Client> = (0..CLIENTS).map(Client::new).collect();
        let healthy = clients.iter().enumerate().filter(|(nth, _)| Client::is_always_healthy(*nth));
        facts.always_healthy = healthy.map(|(_, client)| client.key.clone()).collect();
        let mut world = Self {
            facts,
            blind: rng.usize(..NODES),
            rng,
            until_ms: plan.virtual_ms,
            fault: plan.fault,
            slow_proposals: plan.slow_proposals,
            network,
            nodes,
            clients,
            timers: BTreeMap::new(),
            elect_at_ms: 200,
            next_trouble_ms: 3_000,
            trouble_ends_ms: u64::MAX,
            next_id: 1,
            trace: DefaultHasher::new(),
            counts: Counts::default(),
        };
        world.set_policies();
        world
    }

    /// The first entries of the log: every instance is probed, and two nodes have to agree.
    fn set_policies(&mut self) {
        let spec = ProbeSpec {
            kind: ProbeKind::Http,
            interval_ms: 1_000,
            timeout_ms: 500,
            fall: 2,
            grace_ms: 0,
            ..ProbeSpec::default()
        };
        let health = HealthPolicy { observers: 2, ..HealthPolicy::default() };
        let policy =
            ServicePolicy { probe: Some(spec), health: Some(health), ..ServicePolicy::default() };
        let mut services: Vec<_> = self.clients.iter().map(|c| c.key.service.clone()).collect();
        services.sort();
        services.dedup();
        for key in services {
            let policy = Some(Box::new(policy.clone()));
            let command = Command::PutPolicy { key, policy, expected_revision: None, create: true };
            let proposal = self.proposal("operator", super::wall_ms(0), None, command);
            self.push(proposal);
        }
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    pub(super) fn note(&mut self, words: &[u64]) {
        words.hash(&mut self.trace);
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.facts.now_ms
    }

    pub(super) fn send(&mut self, from: Place, to: Place, message: Message) {
        self.network.send(self.facts.now_ms, &mut self.rng, from, to, message);
    }

    /// Schedules an action of a node after this time.
    pub(super) fn later(&mut self, nth: usize, ms: u64, timer: Timer) {
        self.next_id += 1;
        let key = (self.now_ms() + ms, self.next_id as u64);
        self.timers.insert(key, (nth, self.nodes[nth].starts, timer));
    }

    /// Takes the next step; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Step> {
        // A node applies known entries one at a time; each is a step.
        for node in 0..NODES {
            let replica = &self.facts.nodes[node];
            let ready = replica.runs(self.now_ms()) && replica.position < self.known_to(node);
            if ready && self.rng.u8(..4) > 0 {
                return Some(self.apply(node));
            }
        }
        let now_ms = self.now_ms().max(self.next_ms()?);
        self.facts.now_ms = now_ms;
        if now_ms >= self.until_ms {
            return None;
        }
        self.note(&[0, now_ms]);
        if self.network.next_ms().is_some_and(|at_ms| at_ms <= now_ms) {
            if let Some((_, to, message)) = self.network.deliver() {
                self.receive(to, message);
            }
        } else if self.timers.first_key_value().is_some_and(|((at_ms, _), _)| *at_ms <= now_ms) {
            self.ring();
        } else if self.elect_at_ms <= now_ms {
            self.elect();
        } else if self.trouble_ends_ms <= now_ms {
            self.end_trouble();
        } else if self.next_trouble_ms <= now_ms {
            self.make_trouble();
        } else if let Some(client) =
            (0..CLIENTS).find(|nth| self.clients[*nth].next_at_ms <= now_ms)
        {
            self.act(client);
        } else if let Some(node) = (0..NODES).find(|nth| self.tick_ms(*nth) <= now_ms) {
            self.nodes[node].next_tick_ms = now_ms + EXPIRY_TICK_MS;
            if self.facts.nodes[node].up {
                self.tick(node);
            }
        }
        Some(Step::Other)
    }

    fn tick_ms(&self, nth: usize) -> u64 {
        self.nodes[nth].next_tick_ms.max(self.facts.nodes[nth].paused_until_ms)
    }

    fn next_ms(&self) -> Option<u64> {
        let ticks = (0..NODES).map(|nth| self.tick_ms(nth));
        let clients = self.clients.iter().map(|client| client.next_at_ms);
        let others = [self.elect_at_ms, self.next_trouble_ms, self.trouble_ends_ms];
        let timer = self.timers.first_key_value().map(|((at_ms, _), _)| *at_ms);
        ticks.chain(clients).chain(others).chain(self.network.next_ms()).chain(timer).min()
    }

    fn ring(&mut self) {
        let Some(((_, id), (nth, start, timer))) = self.timers.pop_first() else { return };
        let replica = &self.facts.nodes[nth];
        if !replica.up || self.nodes[nth].starts != start {
            return;
        }
        if replica.paused_until_ms > self.now_ms() {
            // The process handles the timer when it is resumed.
            self.timers.insert((replica.paused_until_ms, id), (nth, start, timer));
            return;
        }
        self.timed(nth, timer);
    }

    // --- clients ---------------------------------------------------------------------------------

    pub(super) fn client_receives(&mut self, nth: usize, message: Message) {
        let client = &mut self.clients[nth];
        let is_pending = |id| client.pending.as_ref().is_some_and(|p| p.request_id.0 == id);
        match message {
            Message::Done { id, applied } if is_pending(id) => {
                self.facts.replies.insert(id, applied.clone());
                client.pending = None;
                let epoch = match &applied.reply {
                    maxine_state::Reply::Registered(items) => {
                        items.first().and_then(|item| item.as_ref().ok().copied())
                    }
                    _ => None,
                };
                match (client.phase, epoch) {
                    (Phase::Registering, Some(epoch)) => {
                        client.phase = Phase::Alive;
                        client.epoch = epoch;
                        let holds_until_ms = client.sent_ms + client.ttl_ms;
                        let reply = Acknowledged { lease_epoch: epoch, holds_until_ms };
                        self.facts.acknowledged.insert(client.key.clone(), reply);
                    }
                    _ => client.phase = Phase::Away,
                }
            }
            Message::Refused { id } if is_pending(id) => {
                client.pending = None;
                client.phase = Phase::Away;
            }
            Message::Renewed { sent_ms, epoch, known }
                if client.phase == Phase::Alive && epoch == client.epoch =>
            {
                if known {
                    let reply = self.facts.acknowledged.entry(client.key.clone()).or_default();
                    reply.holds_until_ms = reply.holds_until_ms.max(sent_ms + client.ttl_ms);
                } else {
                    client.phase = Phase::Away;
                    self.facts.acknowledged.remove(&client.key);
                }
            }
            _ => {}
        }
    }

    fn act(&mut self, nth: usize) {
        let node = Place::Node(self.rng.usize(..NODES));
        let dice = self.rng.u8(..100);
        let now_ms = self.now_ms();
        let client = &mut self.clients[nth];
        client.next_at_ms = now_ms + 400 + self.rng.u64(..300);
        if client.sick_from_ms <= now_ms && dice < 8 {
            client.sick_until_ms = now_ms + self.rng.u64(3_000..12_000);
            client.sick_from_ms = client.sick_until_ms + 4_000;
        }
        if let Some(pending) = client.pending.clone() {
            // The same write again, with the same id.
            let mut proposal = Proposal::clone(&pending);
            if self.fault == Some(Fault::ForgetRequestId) {
                self.next_id += 1;
                proposal.request_id = RequestId(self.next_id << 64);
            }
            client.next_at_ms = now_ms + RETRY_MS;
            let message = Message::Write { client: nth, proposal: Arc::new(proposal) };
            return self.send(Place::Client(nth), node, message);
        }
        let command = match client.phase {
            Phase::Away => {
                client.phase = Phase::Registering;
                Some(client.registration(now_ms))
            }
            Phase::Alive if dice < 3 => {
                client.phase = Phase::Leaving;
                self.facts.acknowledged.remove(&client.key);
                Some(client.deregistration())
            }
            Phase::Alive if dice < 6 => {
                client.phase = Phase::Silent;
                client.next_at_ms = now_ms + client.ttl_ms * self.rng.u64(5..25) / 10;
                None
            }
            // The client was only slow. Its next heartbeat arrives when its lease may just have run out.
            Phase::Silent if dice < 60 => {
                client.phase = Phase::Alive;
                None
            }
            Phase::Silent => {
                client.phase = Phase::Away;
                self.facts.acknowledged.remove(&client.key);
                None
            }
            Phase::Alive => {
                let (lease, epoch) = (client.lease, client.epoch);
                let message =
                    Message::Renew { client: nth, lease, epoch, sent_ms: now_ms, hops: 0 };
                return self.send(Place::Client(nth), node, message);
            }
            Phase::Registering | Phase::Leaving => None,
        };
        let Some(command) = command else { return };
        self.next_id += 1;
        let client = &mut self.clients[nth];
        let proposal = client.proposal(self.next_id, super::wall_ms(now_ms), command);
        client.pending = Some(Arc::clone(&proposal));
        client.sent_ms = now_ms;
        client.next_at_ms = now_ms + RETRY_MS;
        self.send(Place::Client(nth), node, Message::Write { client: nth, proposal });
    }

    // --- trouble ---------------------------------------------------------------------------------

    fn elect(&mut self) {
        self.elect_at_ms = u64::MAX;
        let able: Vec<usize> = (0..NODES)
            .filter(|node| self.facts.nodes[*node].runs(self.now_ms()))
            .filter(|node| self.heard_by(*node).count() * 2 > NODES)
            .collect();
        let Some(leader) = able.get(self.rng.usize(..able.len().max(1))).copied() else {
            self.elect_at_ms = self.now_ms() + ELECTION_MS.0;
            return;
        };
        self.facts.term += 1;
        self.counts.elections += 1;
        self.facts.leader = Some(leader);
        // Some leaders fail again immediately, with their proposals still in flight.
        if self.rng.u8(..5) == 0 && self.trouble_ends_ms == u64::MAX {
            self.next_trouble_ms = self.now_ms() + self.rng.u64(100..2_500);
        }
        self.note(&[3, self.facts.term, leader as u64]);
    }

    /// The nodes with which a node can exchange messages, itself included.
    pub(super) fn heard_by(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        let cut = &self.network.cut;
        (0..NODES)
            .filter(move |other| !cut.contains(&(node, *other)) && !cut.contains(&(*other, node)))
    }

    fn lose_leader(&mut self) {
        self.facts.leader = None;
        self.elect_at_ms = self.now_ms() + self.rng.u64(ELECTION_MS.0..ELECTION_MS.1);
    }

    fn make_trouble(&mut self) {
        let node = self.rng.usize(..NODES);
        let lasts_ms = self.rng.u64(200..6_000);
        let kind = self.rng.u8(..5);
        self.note(&[4, node as u64, u64::from(kind)]);
        match kind {
            0 => {
                self.facts.nodes[node].up = false;
                self.facts.nodes[node].duties = None;
            }
            1 => self.facts.nodes[node].paused_until_ms = self.now_ms() + lasts_ms,
            2 => {
                for other in (0..NODES).filter(|other| *other != node) {
                    self.network.cut.extend([(node, other), (other, node)]);
                }
            }
            3 => self.restart_leases(node),
            // Leadership moves without a fault, as in a transfer.
            _ => {}
        }
        if kind == 4 || self.facts.leader == Some(node) && kind != 3 {
            self.lose_leader();
        }
        self.trouble_ends_ms = self.now_ms() + lasts_ms;
        self.next_trouble_ms = u64::MAX;
    }

    fn end_trouble(&mut self) {
        self.trouble_ends_ms = u64::MAX;
        self.next_trouble_ms = self.now_ms() + self.rng.u64(500..9_000);
        self.network.cut.clear();
        for nth in 0..NODES {
            let replica = &mut self.facts.nodes[nth];
            if !replica.up {
                self.nodes[nth].restart(replica, self.facts.now_ms);
                if self.fault == Some(Fault::SkipEntry) && replica.position < self.facts.log.len() {
                    replica.position += 1;
                }
            }
        }
        self.note(&[5]);
    }
}
