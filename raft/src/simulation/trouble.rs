//! A run: nodes, clients that propose, and faults; then a calm period in which all nodes must recover.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::TransferLeaderRequest;
use openraft::{ChangeMembers, EntryPayload, ServerState};
use parking_lot::Mutex;

use super::disk::entry_hash;
use super::network::SimNet;
use super::node::{NewApp, SimNode};
use super::running::Running;
use super::step::Step;
use super::virtual_clock;
use super::world::{Violation, World, hash_of};
use super::{Outcome, Plan, Workload};
use crate::config::{Member, NodeId};
use crate::consensus::{self, Entry, Payload};

const NODES: u64 = 3;
const NODES_MAX: usize = 5;
const CLIENTS: usize = 4;
const READERS: usize = 2;
/// Number of writes and reads right after a leader was replaced early.
const BURST: usize = 40;
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Maximum time for the recovery of all nodes once all faults have ended.
const RECOVERY_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

type Work = Arc<Mutex<Box<dyn Workload>>>;

/// The parts of a run.
#[derive(Clone)]
struct Run {
    plan: Plan,
    net: SimNet,
    work: Work,
    over: Arc<AtomicBool>,
    /// Whether all faults have ended.
    calm: Arc<AtomicBool>,
    /// Number of reads that have begun.
    reads: Arc<AtomicU64>,
}

pub(super) async fn drive(plan: Plan, app: NewApp, work: Box<dyn Workload>) -> Outcome {
    let world = World::new(plan.seed);
    let net = SimNet { world, running: Arc::default() };
    let work = Arc::new(Mutex::new(work));
    let (over, calm, reads) = (Arc::default(), Arc::default(), Arc::default());
    let run = Run { plan, net, work, over, calm, reads };
    let mut trouble = Trouble { run: run.clone(), app, nodes: BTreeMap::new(), next: NODES + 1 };
    if let Err(reason) = trouble.found().await {
        run.broken("starts", reason);
        return run.net.world.lock().finish();
    }
    for client in 0..CLIENTS {
        tokio::spawn(propose(run.clone(), client));
    }
    for _ in 0..READERS {
        tokio::spawn(read(run.clone()));
    }
    tokio::spawn(lead(run.clone()));
    tokio::spawn(report(run.clone()));
    tokio::spawn(forge(run.clone()));
    if let Err(reason) = trouble.make().await {
        run.broken("starts", reason);
    }
    if !run.is_over() {
        trouble.calm().await;
    }
    run.over.store(true, Ordering::Relaxed);
    run.net.world.lock().finish()
}

impl Run {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.net.world.lock().is_broken()
    }

    fn broken(&self, invariant: &'static str, detail: String) {
        self.net.world.lock().broken(Violation { invariant, detail, at_ms: 0 });
    }

    fn dice(&self, from: u64, to: u64) -> u64 {
        self.net.world.lock().dice.range(from, to)
    }

    async fn pause(&self, from_ms: u64, to_ms: u64) {
        let ms = self.dice(from_ms, to_ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// A random running node.
    fn any_running(&self) -> Option<(NodeId, Running)> {
        let running = self.net.running.lock().clone();
        let nth = self.dice(0, running.len() as u64);
        running.into_iter().nth(usize::try_from(nth).unwrap_or(0))
    }

    /// Every node that considers itself the leader.
    fn leaders(&self) -> Vec<(NodeId, Running)> {
        let running = self.net.running.lock().clone();
        let leads =
            |node: &Running| node.raft.metrics().borrow_watched().state == ServerState::Leader;
        running.into_iter().filter(|(_, node)| leads(node)).collect()
    }

    /// Reads at one node.
    async fn read(&self, id: NodeId, node: &Running, is_strong: bool) {
        let read = self.reads.fetch_add(1, Ordering::Relaxed);
        self.net.world.lock().happened(&Step::ReadBegan { read });
        let answer = node.read(is_strong, PATIENCE).await;
        let alive = self.net.running.lock().get(&id).map(|now| now.process);
        if let Some(index) = answer
            && alive == Some(node.process)
        {
            self.net.world.lock().happened(&Step::ReadEnded { read, node: id, index });
        }
    }

    /// The node stands for election as if the leader's process were gone.
    async fn stand_early(&self, id: NodeId, node: &Running) {
        let vote = node.raft.metrics().borrow_watched().vote;
        if !vote.committed || vote.leader_id.voted_for == id || self.calm.load(Ordering::Relaxed) {
            return;
        }
        {
            let mut world = self.net.world.lock();
            world.outcome.forged += 1;
            world.note(("forged", id, vote.leader_id.term));
        }
        let request = TransferLeaderRequest::new(vote, id, None);
        // The process may have ended.
        drop(node.raft.handle_transfer_leader(request).await);
    }

    /// Proposes through one node. Returns the leader that the node names, if it does not lead.
    async fn write(&self, id: NodeId, node: &Running, payload: Bytes) -> Option<NodeId> {
        let writing = node.raft.client_write(Payload(payload.clone()));
        match tokio::time::timeout(PATIENCE, writing).await {
            Ok(Ok(response)) => {
                let by = node.raft.metrics().borrow_watched().current_term;
                node.succeeded().await;
                let alive = self.net.running.lock().get(&id).map(|now| now.process);
                // A process that was killed in the meantime answered nobody.
                if alive == Some(node.process) {
                    let log_id = response.log_id;
                    let written = EntryPayload::Normal(Payload(payload.clone()));
                    let entry = entry_hash(&Entry { log_id, payload: written });
                    let id = consensus::log_id_to_dto(&log_id);
                    self.net.world.lock().happened(&Step::Acknowledged { id, entry, by });
                    self.work.lock().answered(&payload, &response.data.0);
                }
                None
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                forward.leader_id
            }
            _ => None,
        }
    }
}

/// A client: it makes one proposal after another, through any node.
async fn propose(run: Run, client: usize) {
    while !run.is_over() {
        run.pause(10, 250).await;
        let payload = {
            let mut world = run.net.world.lock();
            run.work.lock().client(client, &mut world.dice)
        };
        let Some((id, node)) = run.any_running() else { continue };
        let Some(leader) = run.write(id, &node, payload.clone()).await else { continue };
        let leader_runs = run.net.running.lock().get(&leader).cloned();
        if let Some(node) = leader_runs {
            run.write(leader, &node, payload).await;
        }
    }
}

/// A client that reads at a node that considers itself the leader.
async fn read(run: Run) {
    while !run.is_over() {
        run.pause(5, 60).await;
        let leaders = run.leaders();
        let at = run.dice(0, leaders.len() as u64);
        let Some((id, node)) = leaders.into_iter().nth(usize::try_from(at).unwrap_or(0)) else {
            continue;
        };
        let is_strong = run.net.world.lock().dice.percent(20);
        run.read(id, &node, is_strong).await;
    }
}

/// Notes which nodes report that they lead.
async fn report(run: Run) {
    while !run.is_over() {
        tokio::time::sleep(LOOK_EVERY).await;
        let running = run.net.running.lock().clone();
        for (node, term) in running.iter().filter_map(|(id, node)| Some((*id, node.reports()?))) {
            run.net.world.lock().happened(&Step::Reports { node, term });
        }
    }
}

/// From time to time, some node and a majority find evidence that the leader is gone, whether it is or not.
async fn forge(run: Run) {
    while !run.is_over() && !run.calm.load(Ordering::Relaxed) {
        run.pause(300, 4_000).await;
        let Some((id, node)) = run.any_running() else { continue };
        run.stand_early(id, &node).await;
    }
}

/// Every node that considers itself the leader does the leader's work. Some of it is late and is ordered by a
/// later leader.
async fn lead(run: Run) {
    while !run.is_over() {
        run.pause(100, 900).await;
        for (id, node) in run.leaders() {
            let (payload, late) = {
                let mut world = run.net.world.lock();
                let payload = run.work.lock().leader(id, &mut world.dice);
                (payload, world.dice.percent(30))
            };
            let run = run.clone();
            tokio::spawn(async move {
                if late {
                    run.pause(200, 3_000).await;
                }
                if let Some(leader) = run.write(id, &node, payload.clone()).await {
                    let leader_runs = run.net.running.lock().get(&leader).cloned();
                    if let Some(node) = leader_runs {
                        run.write(leader, &node, payload).await;
                    }
                }
            });
        }
    }
}

struct Trouble {
    run: Run,
    app: NewApp,
    nodes: BTreeMap<NodeId, SimNode>,
    next: NodeId,
}

fn member(id: NodeId) -> Member {
    Member {
        peer_addr: format!("node-{id}:1"),
        http_addr: format!("http://node-{id}"),
        name: format!("node-{id}"),
    }
}

impl Trouble {
    async fn found(&mut self) -> Result<(), String> {
        for id in 1..=NODES {
            self.add(id).await?;
        }
        let first = self.run.net.running.lock().get(&1).cloned().ok_or("node 1 does not run")?;
        let members: BTreeMap<NodeId, Member> = (1..=NODES).map(|id| (id, member(id))).collect();
        first.raft.initialize(members).await.map_err(|error| error.to_string())
    }

    async fn add(&mut self, id: NodeId) -> Result<(), String> {
        let drift = i64::try_from(self.run.dice(0, 21)).unwrap_or(10) - 10;
        self.nodes.insert(id, SimNode::new(id, drift));
        self.start(id).await
    }

    async fn start(&self, id: NodeId) -> Result<(), String> {
        let Some(node) = self.nodes.get(&id) else { return Ok(()) };
        node.start(&self.run.net, &self.app, self.run.plan.fault).await
    }

    async fn start_all(&self, ids: &[NodeId]) -> Result<(), String> {
        for id in ids {
            self.start(*id).await?;
        }
        Ok(())
    }

    fn crash(&self, id: NodeId) {
        let kept = match self.run.dice(0, 3) {
            0 => 0,
            1 => 100,
            _ => self.run.dice(0, 100),
        };
        self.crash_keeping(id, kept);
    }

    fn crash_keeping(&self, id: NodeId, kept: u64) {
        if let Some(node) = self.nodes.get(&id) {
            let lost = node.crash(&self.run.net, kept);
            let mut world = self.run.net.world.lock();
            world.outcome.crashes += 1;
            world.outcome.writes_lost += lost;
            world.note(("crash", id, lost));
        }
    }

    fn any(&self) -> NodeId {
        let nth = self.run.dice(0, self.nodes.len() as u64);
        self.nodes.keys().copied().nth(usize::try_from(nth).unwrap_or(0)).unwrap_or(1)
    }

    /// Causes one fault after another until the time is over.
    async fn make(&mut self) -> Result<(), String> {
        let until =
            self.run.net.world.lock().started + Duration::from_millis(self.run.plan.virtual_ms);
        self.run.pause(1_000, 2_500).await;
        while virtual_clock::now() < until && !self.run.is_over() {
            match self.run.dice(0, 16) {
                0..3 => {
                    let id = self.any();
                    self.crash(id);
                    self.run.pause(100, 3_000).await;
                    self.start(id).await?;
                }
                3 => {
                    let all: Vec<NodeId> = self.nodes.keys().copied().collect();
                    all.iter().for_each(|id| self.crash(*id));
                    self.run.pause(50, 500).await;
                    self.start_all(&all).await?;
                }
                4..8 => {
                    self.cut();
                    self.run.pause(200, 5_000).await;
                    self.run.net.world.lock().cut.clear();
                }
                8 => {
                    let id = self.any();
                    let lasts_ms = self.run.dice(500, 6_000);
                    self.slow_disk(id, lasts_ms);
                }
                9 => self.hand_over(),
                10 => self.lose_power_after_an_acknowledgement().await?,
                11 => self.lose_a_vote().await?,
                12 | 13 => self.replace_a_leader_that_is_cut_off().await,
                _ => self.change_members().await?,
            }
            self.run.pause(100, 2_500).await;
        }
        Ok(())
    }

    fn slow_disk(&self, id: NodeId, lasts_ms: u64) {
        let until_ms = self.run.net.world.lock().now_ms() + lasts_ms;
        if let Some(node) = self.nodes.get(&id) {
            node.disk.lock().slow_until_ms = until_ms;
        }
    }

    /// Waits until a count grows, at most as long as a client waits.
    async fn next(&self, count: impl Fn(&Outcome) -> u64) -> bool {
        let before = count(&self.run.net.world.lock().outcome);
        let grows = async {
            while count(&self.run.net.world.lock().outcome) == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, grows).await.is_ok()
    }

    /// All nodes lose power at the moment in which a client gets an acknowledgement. Everything that was not
    /// synced is lost.
    async fn lose_power_after_an_acknowledgement(&self) -> Result<(), String> {
        if !self.next(|outcome| outcome.acknowledged).await {
            return Ok(());
        }
        let all: Vec<NodeId> = self.nodes.keys().copied().collect();
        all.iter().for_each(|id| self.crash_keeping(*id, 0));
        self.run.pause(50, 500).await;
        self.start_all(&all).await
    }

    /// The voters of a new leader lose power before they hear from it again, and elect another one without
    /// it.
    async fn lose_a_vote(&self) -> Result<(), String> {
        let Some((old, _)) = self.run.leaders().pop() else { return Ok(()) };
        let all: Vec<NodeId> = self.nodes.keys().copied().collect();
        all.iter().for_each(|id| self.slow_disk(*id, 3_000));
        self.crash_keeping(old, 100);
        let elected = self.next(|outcome| outcome.leaders).await;
        let new = self.run.leaders().pop().map(|(id, _)| id);
        if let (true, Some(new)) = (elected, new) {
            let others: Vec<NodeId> = all.iter().copied().filter(|id| *id != new).collect();
            let pairs = others.iter().flat_map(|id| [(new, *id), (*id, new)]);
            self.run.net.world.lock().cut.extend(pairs);
            others.iter().for_each(|id| self.crash_keeping(*id, 0));
            all.iter().for_each(|id| self.slow_disk(*id, 0));
            self.start_all(&others).await?;
            self.run.pause(2_000, 5_000).await;
            self.run.net.world.lock().cut.clear();
            return Ok(());
        }
        self.start(old).await
    }

    /// A leader is cut off from all others, and at the same moment another node and a majority find that its process
    /// is gone, as behind a firewall that refuses connections. Clients still reach the leader.
    async fn replace_a_leader_that_is_cut_off(&self) {
        let Some((old, former)) = self.run.leaders().pop() else { return };
        let is_one_way = self.run.net.world.lock().dice.percent(30);
        {
            let mut world = self.run.net.world.lock();
            world.outcome.partitions += 1;
            world.note(("cut-off", old, is_one_way));
            for other in self.nodes.keys().copied().filter(|other| *other != old) {
                world.cut.insert((old, other));
                if !is_one_way {
                    world.cut.insert((other, old));
                }
            }
        }
        let others: Vec<(NodeId, Running)> = {
            let running = self.run.net.running.lock();
            running.iter().filter(|(id, _)| **id != old).map(|(id, n)| (*id, n.clone())).collect()
        };
        let at = usize::try_from(self.run.dice(0, others.len() as u64)).unwrap_or(0);
        if let Some((id, node)) = others.into_iter().nth(at) {
            self.run.stand_early(id, &node).await;
            // Clients write at the new leader and read at the former one, while both may believe that they lead.
            for _ in 0..BURST {
                let payload = {
                    let mut world = self.run.net.world.lock();
                    self.run.work.lock().client(CLIENTS, &mut world.dice)
                };
                let (run, new) = (self.run.clone(), node.clone());
                tokio::spawn(async move { run.write(id, &new, payload).await });
                let (run, former) = (self.run.clone(), former.clone());
                tokio::spawn(async move { run.read(old, &former, false).await });
                self.run.pause(2, 10).await;
            }
        }
        self.run.pause(200, 3_000).await;
        self.run.net.world.lock().cut.clear();
    }

    /// A partition: symmetric, one way, or with a bridge.
    fn cut(&self) {
        let all: Vec<NodeId> = self.nodes.keys().copied().collect();
        let one = self.any();
        let kind = self.run.dice(0, 4);
        let mut world = self.run.net.world.lock();
        world.outcome.partitions += 1;
        world.note(("cut", one, kind));
        for other in all.iter().copied().filter(|other| *other != one) {
            match kind {
                0 => world.cut.extend([(one, other), (other, one)]),
                1 => drop(world.cut.insert((one, other))),
                2 => drop(world.cut.insert((other, one))),
                // One node is reached by all others, which do not reach each other.
                _ => {
                    let others = all.iter().filter(|third| **third != one && **third != other);
                    let pairs: Vec<_> = others.map(|third| (other, *third)).collect();
                    world.cut.extend(pairs);
                }
            }
        }
    }

    fn hand_over(&self) {
        let to = self.any();
        for (_, node) in self.run.leaders() {
            // As a real node does: the next leader relies on this one not waiting for an earlier one.
            if node.waits_until(node.config.longest_wait()).is_some() {
                continue;
            }
            let term = node.raft.metrics().borrow_watched().current_term;
            node.transferring.store(term, Ordering::Relaxed);
            tokio::spawn(async move { drop(node.raft.trigger().transfer_leader(to).await) });
        }
    }

    /// Adds a new member and makes it a voter, or removes one if there are many.
    async fn change_members(&mut self) -> Result<(), String> {
        let Some((_, leader)) = self.run.leaders().pop() else { return Ok(()) };
        let voters: BTreeSet<NodeId> =
            leader.raft.metrics().borrow_watched().membership_config.voter_ids().collect();
        let done = if self.nodes.len() < NODES_MAX {
            let id = self.next;
            self.next += 1;
            self.add(id).await?;
            let change = async {
                leader.raft.add_learner(id, member(id), false).await.ok()?;
                let add = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
                leader.raft.change_membership(add, false).await.ok()
            };
            tokio::time::timeout(PATIENCE, change).await.ok().flatten().is_some()
        } else {
            let nth = usize::try_from(self.run.dice(0, voters.len() as u64)).unwrap_or(0);
            let Some(id) = voters.iter().copied().nth(nth) else { return Ok(()) };
            let remove = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
            let change = leader.raft.change_membership(remove, false);
            let removed = voters.len() > 3
                && matches!(tokio::time::timeout(PATIENCE, change).await, Ok(Ok(_)));
            if removed {
                self.crash(id);
                self.nodes.remove(&id);
            }
            removed
        };
        let mut world = self.run.net.world.lock();
        world.outcome.member_changes += u64::from(done);
        world.note(("members", hash_of(&voters), done));
        Ok(())
    }

    /// Ends all faults. Within a limited time every voter must have every acknowledged write, and new writes
    /// must be accepted.
    async fn calm(&mut self) {
        self.run.calm.store(true, Ordering::Relaxed);
        {
            let mut world = self.run.net.world.lock();
            world.cut.clear();
            world.loss_percent = 0;
        }
        let all: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in all {
            let runs = self.run.net.running.lock().contains_key(&id);
            if !runs && let Err(reason) = self.start(id).await {
                self.run.broken("starts", reason);
                return;
            }
        }
        let acknowledged = self.run.net.world.lock().outcome.acknowledged;
        let recovering = async {
            while !self.run.is_over() && !self.is_whole(acknowledged) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(RECOVERY_MAX, recovering).await.is_err() {
            let reason = format!("not all is well {RECOVERY_MAX:?} after the last fault");
            self.run.broken("recovers", reason);
        }
    }

    /// Whether one node leads, a write was acknowledged since, and every voter has applied as much as the
    /// leader.
    fn is_whole(&self, acknowledged_before: u64) -> bool {
        let leaders = self.run.leaders();
        let [(_, leader)] = leaders.as_slice() else { return false };
        let metrics = leader.raft.metrics().borrow_watched().clone();
        let applied = |id: &NodeId| {
            let running = self.run.net.running.lock();
            let node = running.get(id)?;
            node.raft.metrics().borrow_watched().last_applied.as_ref().map(|id| id.index)
        };
        let leads = metrics.local_committed.as_ref().map_or(0, |id| id.index);
        let reached = metrics
            .membership_config
            .voter_ids()
            .all(|id| applied(&id).is_some_and(|index| index + 10 >= leads));
        reached && self.run.net.world.lock().outcome.acknowledged > acknowledged_before
    }
}
