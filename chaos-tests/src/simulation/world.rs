//! The scheduler: nodes, clients, the ideal log, and everything that goes wrong between them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use maxine::actors::registry::{Due, FormerLease};
use maxine_state::{Actor, Applied, Command, Fence, InstanceKey, Proposal, Reply, RequestId};

use super::Plan;
use super::client::{Client, Phase};
use super::network::{Message, Network, Place};
use super::node::{Node, Step, TICK_MS};

/// A known fault of the control plane, to show that an invariant catches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The leader's duties take effect under whatever fence is present: no fencing at all.
    SkipFencing,
    /// Leases are expired without confirming that this node still leads.
    ExpireUnconfirmed,
    /// A new leader opens leases as if it had heard every renewal until now.
    NoTakeoverGrace,
    /// A new leader takes leases for shorter than the one before said they had to run.
    HandOverShort,
    /// A node skips an entry of the log after a restart.
    SkipEntry,
    /// A retried write gets a new request id.
    ForgetRequestId,
    /// A leader that a late grant of another node superseded does not ask again.
    SupersededForGood,
}

impl Fault {
    /// Every one with its name.
    pub const ALL: &[(Self, &'static str)] = &[
        (Self::SkipFencing, "skip-fencing"),
        (Self::ExpireUnconfirmed, "expire-unconfirmed"),
        (Self::NoTakeoverGrace, "no-takeover-grace"),
        (Self::HandOverShort, "hand-over-short"),
        (Self::SkipEntry, "skip-entry"),
        (Self::ForgetRequestId, "forget-request-id"),
        (Self::SupersededForGood, "superseded-for-good"),
    ];
}

/// What a client was told, for the invariants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// The lease of its registration.
    pub lease_epoch: u64,
    /// Until when the lease surely holds, by the world's clock.
    pub holds_until_ms: u64,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    rng: fastrand::Rng,
    now_ms: u64,
    until_ms: u64,
    fault: Option<Fault>,
    slow_proposals: bool,
    network: Network,
    /// The nodes.
    pub nodes: Vec<Node>,
    clients: Vec<Client>,
    /// The order, with the leader's term of each entry.
    pub log: Vec<(u64, Arc<Proposal>)>,
    /// Who really leads, and in which term.
    pub leader: Option<usize>,
    /// The present term.
    pub term: u64,
    elect_at_ms: u64,
    next_trouble_ms: u64,
    trouble_ends_ms: u64,
    next_id: u128,
    /// What clients were told, by instance.
    pub acknowledged: BTreeMap<InstanceKey, Acknowledged>,
    /// Replies that clients got, by request.
    pub replies: BTreeMap<u128, Applied>,
    trace: DefaultHasher,
    /// Entries applied over all nodes.
    pub applied: u64,
    /// Changes of leadership.
    pub elections: u64,
    /// Those in which the new leader learned what was left of the leases.
    pub handovers: u64,
    /// Leases that ran out.
    pub expiries: u64,
    /// Entries refused for their fence, on the first node.
    pub fenced_off: u64,
}

const NODES: usize = 3;
const CLIENTS: usize = 8;
const RETRY_MS: u64 = 1_500;
/// How long a lost leader is not replaced.
const ELECTION_MS: (u64, u64) = (600, 1_600);
const WALL_BASE_MS: u64 = 1_700_000_000_000;
/// Most nodes that a proposal is forwarded through.
const HOPS_MAX: u8 = 6;

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let nodes = (0..NODES).map(|nth| Node::new(nth, rng.i64(-5..=5))).collect();
        let network = Network::new(rng.u8(..8), rng.u8(..6), rng.u64(2..60));
        Self {
            rng,
            now_ms: 0,
            until_ms: plan.virtual_ms,
            fault: plan.fault,
            slow_proposals: plan.slow_proposals,
            network,
            nodes,
            clients: (0..CLIENTS).map(Client::new).collect(),
            log: Vec::new(),
            leader: None,
            term: 0,
            elect_at_ms: 200,
            next_trouble_ms: 3_000,
            trouble_ends_ms: u64::MAX,
            next_id: 1,
            acknowledged: BTreeMap::new(),
            replies: BTreeMap::new(),
            trace: DefaultHasher::new(),
            applied: 0,
            elections: 0,
            handovers: 0,
            expiries: 0,
            fenced_off: 0,
        }
    }

    /// Virtual milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// Takes the next step; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Step> {
        // Entries that a node knows of are applied one at a time, each a step of its own.
        for node in 0..NODES {
            let ready = self.nodes[node].runs(self.now_ms)
                && self.nodes[node].position < self.known_to(node);
            if ready && self.rng.u8(..4) > 0 {
                return Some(self.apply(node));
            }
        }
        let ticks = self.nodes.iter().map(|node| node.next_tick_ms.max(node.paused_until_ms));
        let clients = self.clients.iter().map(|client| client.next_at_ms);
        let others = [self.elect_at_ms, self.next_trouble_ms, self.trouble_ends_ms];
        let next_ms = ticks.chain(clients).chain(others).chain(self.network.next_ms()).min()?;
        self.now_ms = self.now_ms.max(next_ms);
        if self.now_ms >= self.until_ms {
            return None;
        }
        self.note(&[0, self.now_ms]);
        if self.network.next_ms().is_some_and(|at_ms| at_ms <= self.now_ms) {
            if let Some((_, to, message)) = self.network.deliver() {
                self.receive(to, message);
            }
        } else if self.elect_at_ms <= self.now_ms {
            self.elect();
        } else if self.trouble_ends_ms <= self.now_ms {
            self.end_trouble();
        } else if self.next_trouble_ms <= self.now_ms {
            self.make_trouble();
        } else if let Some(client) =
            (0..CLIENTS).find(|nth| self.clients[*nth].next_at_ms <= self.now_ms)
        {
            self.act(client);
        } else if let Some(node) = (0..NODES).find(|nth| {
            self.nodes[*nth].next_tick_ms.max(self.nodes[*nth].paused_until_ms) <= self.now_ms
        }) {
            self.tick(node);
        }
        Some(Step::Other)
    }

    fn note(&mut self, words: &[u64]) {
        words.hash(&mut self.trace);
    }

    /// How much of the log a node can know: all of it, unless it is cut off from the leader.
    fn known_to(&self, node: usize) -> usize {
        match self.leader {
            Some(leader) if leader != node && self.network.cut.contains(&(leader, node)) => {
                self.nodes[node].position
            }
            _ => self.log.len(),
        }
    }

    // --- the log ---------------------------------------------------------------------------------

    fn apply(&mut self, node: usize) -> Step {
        let position = self.nodes[node].position;
        let proposal = Arc::clone(&self.log[position].1);
        let (applied, events, removed) = self.nodes[node].apply(&proposal, self.now_ms);
        self.applied += 1;
        self.note(&[1, node as u64, position as u64, applied.index, events.len() as u64]);
        if node == 0 {
            self.fenced_off += u64::from(matches!(applied.reply, Reply::Rejected(_)));
            let expired = matches!(proposal.command, Command::Expire { .. });
            self.expiries += if expired { removed.len() as u64 } else { 0 };
        }
        let mine = self.nodes[node].asked.filter(|(_, id)| *id == proposal.request_id.0);
        // The answer counts only while the node still takes itself for the leader of that term.
        if let Some((term, _)) = mine
            && self.nodes[node].believes == Some(term)
        {
            let grace = self.fault != Some(Fault::NoTakeoverGrace);
            self.nodes[node].take_up(&applied.reply, self.now_ms, grace);
            self.ask_what_is_left(node);
        }
        if self.rng.u8(..100) < 4 {
            self.nodes[node].take_snapshot();
        }
        Step::Applied { node, position: position + 1, applied, events, removed }
    }

    /// A new leader asks the one before what was left of the leases.
    fn ask_what_is_left(&mut self, node: usize) {
        // Without an answer each lease has its whole time, in which a late expiry of the leader before
        // would show.
        if self.fault == Some(Fault::SkipFencing) {
            return;
        }
        let Some(present) = self.nodes[node].duties else { return };
        let Some(former) = self.nodes[node].former() else { return };
        let Some(holder) = self.nodes.iter().position(|node| node.name == former.holder) else {
            return;
        };
        let message = Message::AskLeases { node, former: former.fence, present };
        let (from, to) = (Place::Node(node), Place::Node(holder));
        self.network.send(self.now_ms, &mut self.rng, from, to, message);
    }

    /// The real leader orders a proposal, whoever sent it and however old it is.
    fn order(&mut self, node: usize, proposal: &Arc<Proposal>, answer_to: Place) {
        let mut proposal = Arc::clone(proposal);
        if self.fault == Some(Fault::SkipFencing) && proposal.fence.is_some() {
            Arc::make_mut(&mut proposal).fence = self.newest_grant(node);
        }
        self.log.push((self.term, Arc::clone(&proposal)));
        self.note(&[2, node as u64, self.log.len() as u64]);
        // The leader has applied it before it answers.
        let mut preview = self.nodes[node].state.clone();
        for (_, entry) in &self.log[self.nodes[node].position..] {
            let mut events = Vec::new();
            let applied = preview.apply(entry, &mut events);
            if entry.request_id == proposal.request_id {
                let id = proposal.request_id.0;
                let message = Message::Applied { id, applied };
                self.network.send(
                    self.now_ms,
                    &mut self.rng,
                    Place::Node(node),
                    answer_to,
                    message,
                );
                return;
            }
        }
    }

    /// The fence that will be the present one when a new entry is applied.
    fn newest_grant(&self, node: usize) -> Option<Fence> {
        let mut state = self.nodes[node].state.clone();
        for (_, entry) in &self.log[self.nodes[node].position..] {
            state.apply(entry, &mut Vec::new());
        }
        state.grant().map(|grant| grant.fence)
    }

    // --- messages --------------------------------------------------------------------------------

    fn receive(&mut self, to: Place, message: Message) {
        match (to, message) {
            (Place::Node(node), message) if self.nodes[node].up => {
                let paused_ms = self.nodes[node].paused_until_ms;
                if paused_ms > self.now_ms {
                    // It waits in the socket, and is the first thing that the process sees.
                    let wait_ms = paused_ms - self.now_ms;
                    self.network.send(self.now_ms + wait_ms, &mut self.rng, to, to, message);
                    return;
                }
                self.node_receives(node, message);
            }
            (Place::Client(client), message) => self.client_receives(client, message),
            _ => {}
        }
    }

    /// Where a node sends what only the leader can do: a node that takes itself for the leader does
    /// it itself, and finds out.
    fn towards_leader(&self, node: usize) -> Option<usize> {
        match self.leader {
            Some(leader) if leader == node => Some(node),
            Some(leader) if !self.network.cut.contains(&(leader, node)) => Some(leader),
            _ => None,
        }
    }

    fn node_receives(&mut self, node: usize, message: Message) {
        match message {
            Message::Propose { proposal, answer_to, hops } => match self.towards_leader(node) {
                Some(leader) if leader == node => self.order(node, &Arc::new(*proposal), answer_to),
                Some(leader) if hops < HOPS_MAX => {
                    let message = Message::Propose { proposal, answer_to, hops: hops + 1 };
                    self.network.send(
                        self.now_ms,
                        &mut self.rng,
                        Place::Node(node),
                        Place::Node(leader),
                        message,
                    );
                }
                // No leader is known: tried again a moment later, as the product does.
                _ if hops < HOPS_MAX => {
                    let message = Message::Propose { proposal, answer_to, hops: hops + 1 };
                    let later_ms = self.now_ms + 300;
                    self.network.send(
                        later_ms,
                        &mut self.rng,
                        Place::Node(node),
                        Place::Node(node),
                        message,
                    );
                }
                _ => {}
            },
            Message::Renew { client, lease, epoch, sent_ms, hops } => {
                if self.nodes[node].duties.is_some() && self.leader == Some(node) {
                    let clock_ms = self.nodes[node].clock_ms(self.now_ms);
                    let known = self.nodes[node].leases.renew(lease, epoch, clock_ms);
                    let message = Message::Renewed { sent_ms, epoch, known };
                    self.network.send(
                        self.now_ms,
                        &mut self.rng,
                        Place::Node(node),
                        Place::Client(client),
                        message,
                    );
                } else if let Some(leader) = self.towards_leader(node)
                    && hops < HOPS_MAX
                    && leader != node
                {
                    let message = Message::Renew { client, lease, epoch, sent_ms, hops: hops + 1 };
                    self.network.send(
                        self.now_ms,
                        &mut self.rng,
                        Place::Node(node),
                        Place::Node(leader),
                        message,
                    );
                }
            }
            Message::AskLeases { node: asks, former, present } => {
                let left = self.nodes[node].left(former, present, self.now_ms);
                let (from, to) = (Place::Node(node), Place::Node(asks));
                if let Some(left) = left {
                    let message = Message::LeftLeases { present, left };
                    self.network.send(self.now_ms, &mut self.rng, from, to, message);
                }
            }
            Message::LeftLeases { present, left } => {
                let heir = &self.nodes[node];
                if heir.duties == Some(present) {
                    let clock_ms = heir.clock_ms(self.now_ms);
                    let short_ms = if self.fault == Some(Fault::HandOverShort) { 3_000 } else { 0 };
                    let left = left.leases().iter().map(|lease| FormerLease {
                        left_ms: lease.left_ms.saturating_sub(short_ms),
                        ..*lease
                    });
                    heir.leases.inherit(present, &left.collect::<Vec<_>>(), clock_ms);
                    self.handovers += 1;
                }
            }
            Message::Applied { .. } | Message::Renewed { .. } => {}
        }
    }

    fn client_receives(&mut self, nth: usize, message: Message) {
        let client = &mut self.clients[nth];
        match message {
            Message::Applied { id, applied } => {
                if client.pending.as_ref().is_none_or(|pending| pending.request_id.0 != id) {
                    return;
                }
                self.replies.insert(id, applied.clone());
                client.pending = None;
                let epoch = match &applied.reply {
                    Reply::Registered(items) => {
                        items.first().and_then(|item| item.as_ref().ok().copied())
                    }
                    _ => None,
                };
                match (client.phase, epoch) {
                    (Phase::Registering, Some(epoch)) => {
                        client.phase = Phase::Alive;
                        client.epoch = epoch;
                        let holds_until_ms = client.sent_ms + client.ttl_ms;
                        let told = Acknowledged { lease_epoch: epoch, holds_until_ms };
                        self.acknowledged.insert(client.key.clone(), told);
                    }
                    _ => client.phase = Phase::Away,
                }
            }
            Message::Renewed { sent_ms, epoch, known }
                if client.phase == Phase::Alive && epoch == client.epoch =>
            {
                if known {
                    let told = self.acknowledged.entry(client.key.clone()).or_default();
                    told.holds_until_ms = told.holds_until_ms.max(sent_ms + client.ttl_ms);
                } else {
                    client.phase = Phase::Away;
                    self.acknowledged.remove(&client.key);
                }
            }
            _ => {}
        }
    }

    // --- clients ---------------------------------------------------------------------------------

    fn act(&mut self, nth: usize) {
        let node = Place::Node(self.rng.usize(..NODES));
        let dice = self.rng.u8(..100);
        let now_ms = self.now_ms;
        let client = &mut self.clients[nth];
        client.next_at_ms = now_ms + 400 + self.rng.u64(..300);
        if let Some(pending) = client.pending.clone() {
            // The same write again, under the same id.
            let mut proposal = Proposal::clone(&pending);
            if self.fault == Some(Fault::ForgetRequestId) {
                self.next_id += 1;
                proposal.request_id = RequestId(self.next_id << 64);
            }
            client.next_at_ms = now_ms + RETRY_MS;
            let message = Message::Propose {
                proposal: Box::new(proposal),
                answer_to: Place::Client(nth),
                hops: 0,
            };
            self.network.send(now_ms, &mut self.rng, Place::Client(nth), node, message);
            return;
        }
        let command = match client.phase {
            Phase::Away => {
                client.phase = Phase::Registering;
                Some(client.registration(now_ms))
            }
            Phase::Alive if dice < 3 => {
                client.phase = Phase::Leaving;
                self.acknowledged.remove(&client.key);
                Some(client.deregistration())
            }
            Phase::Alive if dice < 6 => {
                client.phase = Phase::Silent;
                client.next_at_ms = now_ms + client.ttl_ms * self.rng.u64(5..25) / 10;
                None
            }
            // It was only slow: its next heartbeat comes when its lease may just have run out.
            Phase::Silent if dice < 60 => {
                client.phase = Phase::Alive;
                None
            }
            Phase::Silent => {
                client.phase = Phase::Away;
                self.acknowledged.remove(&client.key);
                None
            }
            Phase::Alive => {
                let (lease, epoch) = (client.lease, client.epoch);
                let message =
                    Message::Renew { client: nth, lease, epoch, sent_ms: now_ms, hops: 0 };
                self.network.send(now_ms, &mut self.rng, Place::Client(nth), node, message);
                None
            }
            Phase::Registering | Phase::Leaving => None,
        };
        let Some(command) = command else { return };
        self.next_id += 1;
        let client = &mut self.clients[nth];
        let proposal = client.proposal(self.next_id, WALL_BASE_MS + now_ms, command);
        client.pending = Some(Arc::clone(&proposal));
        client.sent_ms = now_ms;
        client.next_at_ms = now_ms + RETRY_MS;
        let proposal = Box::new(Proposal::clone(&proposal));
        let message = Message::Propose { proposal, answer_to: Place::Client(nth), hops: 0 };
        self.network.send(now_ms, &mut self.rng, Place::Client(nth), node, message);
    }

    // --- nodes -----------------------------------------------------------------------------------

    fn tick(&mut self, nth: usize) {
        let (now_ms, leads, term) = (self.now_ms, self.leader == Some(nth), self.term);
        let node = &mut self.nodes[nth];
        node.next_tick_ms = now_ms + TICK_MS;
        if !node.up {
            return;
        }
        node.absorb_stall(now_ms);
        // It notices a change of leadership with its tick, not before.
        let believes = leads.then_some(term);
        if node.believes != believes {
            node.believes = believes;
            node.superseded = false;
            node.stand_down(now_ms);
        }
        if let Some(term) = node.believes
            && node.duties.is_none()
            && !(node.superseded && self.fault == Some(Fault::SupersededForGood))
            && node.asked.is_none_or(|_| now_ms > node.asked_at_ms + 3_000)
        {
            self.next_id += 1;
            let holder = node.name.clone();
            (node.asked, node.asked_at_ms) = (Some((term, self.next_id)), now_ms);
            self.propose(nth, self.next_id, None, Command::GrantLeadership { holder });
            return;
        }
        if let Some(fence) = node.duties {
            self.expire(nth, fence);
        }
    }

    fn expire(&mut self, nth: usize, fence: Fence) {
        let now_ms = self.now_ms;
        let leads = self.leader == Some(nth);
        let node = &mut self.nodes[nth];
        let clock_ms = node.clock_ms(now_ms);
        let Due::Expire(due) = node.leases.due(clock_ms, 64) else { return };
        // Confirming asks a majority; a node that does not lead gets no confirmation.
        if !leads && self.fault != Some(Fault::ExpireUnconfirmed) {
            node.leases.give_back(&due);
            return;
        }
        let items = node.leases.still_due(due, clock_ms);
        node.leases.queue_again(&items);
        if items.is_empty() {
            return;
        }
        self.next_id += 1;
        self.propose(nth, self.next_id, Some(fence), Command::Expire { items });
    }

    fn propose(&mut self, nth: usize, id: u128, fence: Option<Fence>, command: Command) {
        let proposed_at_ms = WALL_BASE_MS + self.nodes[nth].clock_ms(self.now_ms);
        let actor = Actor::system("leader");
        let proposal =
            Proposal { request_id: RequestId(id), proposed_at_ms, fence, actor, command };
        let message =
            Message::Propose { proposal: Box::new(proposal), answer_to: Place::Node(nth), hops: 0 };
        // A busy process or a slow disk stands between deciding and proposing.
        let slow = self.slow_proposals && self.rng.u8(..4) == 0;
        let start_ms = self.now_ms + if slow { self.rng.u64(..3_000) } else { 0 };
        self.network.send(start_ms, &mut self.rng, Place::Node(nth), Place::Node(nth), message);
    }

    // --- trouble ---------------------------------------------------------------------------------

    fn elect(&mut self) {
        self.elect_at_ms = u64::MAX;
        let reachable = |node: usize, cut: &std::collections::BTreeSet<(usize, usize)>| {
            (0..NODES)
                .filter(|other| !cut.contains(&(node, *other)) && !cut.contains(&(*other, node)))
                .count()
        };
        let able: Vec<usize> = (0..NODES)
            .filter(|node| self.nodes[*node].runs(self.now_ms))
            .filter(|node| reachable(*node, &self.network.cut) * 2 > NODES)
            .collect();
        let Some(leader) = able.get(self.rng.usize(..able.len().max(1))).copied() else {
            self.elect_at_ms = self.now_ms + ELECTION_MS.0;
            return;
        };
        self.term += 1;
        self.elections += 1;
        self.leader = Some(leader);
        // Some leaders fall again at once, with what they just proposed still under way.
        if self.rng.u8(..5) == 0 && self.trouble_ends_ms == u64::MAX {
            self.next_trouble_ms = self.now_ms + self.rng.u64(100..2_500);
        }
        self.note(&[3, self.term, leader as u64]);
    }

    fn lose_leader(&mut self) {
        self.leader = None;
        self.elect_at_ms = self.now_ms + self.rng.u64(ELECTION_MS.0..ELECTION_MS.1);
    }

    fn make_trouble(&mut self) {
        let node = self.rng.usize(..NODES);
        let lasts_ms = self.rng.u64(200..6_000);
        let kind = self.rng.u8(..4);
        self.note(&[4, node as u64, u64::from(kind)]);
        match kind {
            0 => self.nodes[node].crash(self.now_ms),
            1 => self.nodes[node].paused_until_ms = self.now_ms + lasts_ms,
            2 => {
                for other in (0..NODES).filter(|other| *other != node) {
                    self.network.cut.extend([(node, other), (other, node)]);
                }
            }
            // Leadership moves without a fault, as when it is handed over.
            _ => {}
        }
        if self.leader == Some(node) || kind == 3 {
            self.lose_leader();
        }
        self.trouble_ends_ms = self.now_ms + lasts_ms;
        self.next_trouble_ms = u64::MAX;
    }

    fn end_trouble(&mut self) {
        self.trouble_ends_ms = u64::MAX;
        self.next_trouble_ms = self.now_ms + self.rng.u64(500..9_000);
        self.network.cut.clear();
        for nth in 0..NODES {
            if !self.nodes[nth].up {
                self.nodes[nth].restart(self.now_ms);
                if self.fault == Some(Fault::SkipEntry) && self.nodes[nth].position < self.log.len()
                {
                    self.nodes[nth].position += 1;
                }
            }
        }
        self.note(&[5]);
    }
}
