//! Drives the engines of a node: passes events in, and carries out the effects.

use std::sync::Arc;

use super::Fault;
use super::network::{Message, Place};
use super::node::{Asked, Timer, Waiter};
use super::order::HOPS_MAX;
use super::world::World;
use maxine_control::health::{ProbeAnswer, ProbeJob, ProbeStatus, VerdictContext};
use maxine_control::intake::{Attempted, Failure, IntakeEffect, IntakeEvent, Refusal};
use maxine_control::leadership::{LeadershipEffect, LeadershipEvent};
use maxine_control::leases::{ExpiryOutcome, LeaseEffect, LeaseEvent};
use maxine_state::{
    Applied, Command, Fence, FormerGrant, InstanceKey, Leadership, Proposal, Reply,
};

/// Time limit for the commit of a grant.
const GRANT_TIMEOUT_MS: u64 = 3_000;
/// Time limit for applying an expiry, and for one report to the leader.
const ANSWER_TIMEOUT_MS: u64 = 2_000;
/// After this time a node notices that the leader changed, and the outcome of a batch is unknown.
const BATCH_TIMEOUT_MS: u64 = 900;
/// Pause before a proposal without a known leader is forwarded again.
const FORWARD_PAUSE_MS: u64 = 300;

impl World {
    fn clock_ms(&self, nth: usize) -> u64 {
        self.nodes[nth].clock_ms(self.now_ms())
    }

    // --- what happens ----------------------------------------------------------------------------

    pub(super) fn tick(&mut self, nth: usize) {
        let (leader, term) = (self.facts.leader, self.facts.term);
        // A node notices a change of leadership at its tick, and not before.
        let now = Leadership {
            leader: leader.map(|leader| self.facts.nodes[leader].name.to_string()),
            is_leader: leader == Some(nth),
            term,
        };
        if self.nodes[nth].believes != now {
            self.nodes[nth].believes = now.clone();
            self.leadership(nth, LeadershipEvent::Changed(now));
        }
        self.leases(nth, LeaseEvent::Tick);
        self.intake(nth, IntakeEvent::Tick);
        self.observe(nth);
        self.decide(nth);
    }

    pub(super) fn receive(&mut self, to: Place, message: Message) {
        let node = match to {
            Place::Client(client) => return self.client_receives(client, message),
            Place::Node(node) if !self.facts.nodes[node].up => return,
            Place::Node(node) => node,
        };
        let paused_ms = self.facts.nodes[node].paused_until_ms;
        if paused_ms > self.now_ms() {
            // The message waits in the socket, and is the first one that the process reads.
            self.network.send(paused_ms, &mut self.rng, to, to, message);
            return;
        }
        self.node_receives(node, message);
    }

    fn node_receives(&mut self, nth: usize, message: Message) {
        match message {
            Message::Write { client, proposal } => self.take_write(nth, client, &proposal),
            Message::Order { node, ask, proposals, hops } => {
                self.forward(nth, node, ask, proposals, hops);
            }
            Message::Ordered { ask, applied, position } => {
                // A node answers once its own state shows the effect.
                self.nodes[nth].answers.push((position, ask, applied));
                self.take_answers(nth);
            }
            Message::Renew { client, lease, epoch, sent_ms, hops } => {
                let leads = self.facts.leader == Some(nth);
                if self.facts.nodes[nth].duties.is_some() && leads {
                    let clock_ms = self.clock_ms(nth);
                    let known = self.nodes[nth].leases.table().renew(lease, epoch, clock_ms);
                    let message = Message::Renewed { sent_ms, epoch, known };
                    self.send(Place::Node(nth), Place::Client(client), message);
                } else if let Some(leader) = self.towards_leader(nth)
                    && hops < HOPS_MAX
                    && leader != nth
                {
                    let message = Message::Renew { client, lease, epoch, sent_ms, hops: hops + 1 };
                    self.send(Place::Node(nth), Place::Node(leader), message);
                }
            }
            Message::AskLeases { node, former, present } => {
                let clock_ms = self.clock_ms(nth);
                let state = &self.facts.nodes[nth].state;
                let left = self.nodes[nth].leases.hand_over(former, present, state, clock_ms);
                if let Ok(left) = left {
                    let message = Message::LeftLeases { present, left };
                    self.send(Place::Node(nth), Place::Node(node), message);
                }
            }
            Message::LeftLeases { present, left } => {
                self.counts.handovers += u64::from(self.facts.nodes[nth].duties == Some(present));
                self.leases(
                    nth,
                    LeaseEvent::Inherited {
                        present,
                        leases: left.leases(),
                        suspended_ms: left.suspended_ms(),
                    },
                );
            }
            Message::Observed { node, ask, items } => {
                if self.facts.nodes[nth].duties.is_none() {
                    return;
                }
                let (clock_ms, observer) =
                    (self.clock_ms(nth), self.facts.nodes[node].name.clone());
                let verdicts = &mut self.nodes[nth].verdicts;
                items.into_iter().for_each(|o| verdicts.hear(observer.as_str(), o, clock_ms));
                self.send(Place::Node(nth), Place::Node(node), Message::Heard { ask });
            }
            Message::Heard { ask } => self.answered(nth, ask, Some(Vec::new())),
            Message::Done { .. } | Message::Refused { .. } | Message::Renewed { .. } => {}
        }
    }

    /// Orders proposals on this node, or forwards them towards the leader.
    fn forward(
        &mut self,
        nth: usize,
        node: usize,
        ask: u128,
        proposals: Vec<Arc<Proposal>>,
        hops: u8,
    ) {
        let leader = self.towards_leader(nth);
        if leader == Some(nth) {
            return self.order(nth, node, ask, proposals);
        }
        if hops == HOPS_MAX {
            return;
        }
        let message = Message::Order { node, ask, proposals, hops: hops + 1 };
        // If no leader is known, this node tries again a moment later.
        let wait_ms = if leader.is_none() { FORWARD_PAUSE_MS } else { 0 };
        let to = Place::Node(leader.unwrap_or(nth));
        let start_ms = self.now_ms() + wait_ms;
        self.network.send(start_ms, &mut self.rng, Place::Node(nth), to, message);
    }

    pub(super) fn timed(&mut self, nth: usize, timer: Timer) {
        match timer {
            Timer::GiveUp { ask } => self.answered(nth, ask, None),
            Timer::NoLeader { attempt } => {
                let end = Err(Failure::NotWritten("no leader is known".into()));
                self.intake(nth, IntakeEvent::Attempted { attempt, end });
            }
            Timer::RetryBatch { attempt } => self.intake(nth, IntakeEvent::Paused { attempt }),
            Timer::RetryGrant { term } => {
                let now = self.nodes[nth].believes.clone();
                self.leadership(nth, LeadershipEvent::Paused { term, now });
            }
            Timer::Confirm { attempt } => {
                let leads = self.facts.leader == Some(nth);
                self.leases(nth, LeaseEvent::Confirmed { attempt, leads });
            }
            Timer::Probed { job, took_ms } => self.probed(nth, &job, took_ms),
        }
    }

    /// Proposes commands.
    fn ask(&mut self, nth: usize, asked: Asked, proposals: Vec<Proposal>, timeout_ms: u64) {
        self.next_id += 1;
        let ask = self.next_id;
        // The leader's own proposals may be delayed by a busy process or a slow disk.
        let is_own = !matches!(asked, Asked::Batch { .. });
        let slow = is_own && self.slow_proposals && self.rng.u8(..4) == 0;
        let start_ms = self.now_ms() + if slow { self.rng.u64(..3_000) } else { 0 };
        self.nodes[nth].asked.insert(ask, asked);
        self.later(nth, timeout_ms, Timer::GiveUp { ask });
        let proposals = proposals.into_iter().map(Arc::new).collect();
        let message = Message::Order { node: nth, ask, proposals, hops: 0 };
        let place = Place::Node(nth);
        self.network.send(start_ms, &mut self.rng, place, place, message);
    }

    /// Handles the replies whose effect this node's state shows.
    pub(super) fn take_answers(&mut self, nth: usize) {
        let position = self.facts.nodes[nth].position;
        let answers = std::mem::take(&mut self.nodes[nth].answers);
        let (ready, later) = answers.into_iter().partition(|(at, _, _)| *at <= position);
        self.nodes[nth].answers = later;
        let ready: Vec<_> = ready;
        for (_, ask, applied) in ready {
            self.answered(nth, ask, Some(applied));
        }
    }

    /// Handles the answer to a question of a node; `None` if its time is over.
    fn answered(&mut self, nth: usize, ask: u128, applied: Option<Vec<Applied>>) {
        match self.nodes[nth].asked.remove(&ask) {
            Some(Asked::Grant { term }) => {
                let reply = applied.and_then(|applied| applied.into_iter().next());
                let (reply, latest) = (reply.map(|applied| applied.reply), self.latest_grant(nth));
                self.leadership(nth, LeadershipEvent::Answered { term, reply, latest });
            }
            Some(Asked::Expire { attempt }) => {
                let reply = applied.and_then(|applied| applied.into_iter().next());
                let is_applied = reply.is_some_and(|a| matches!(a.reply, Reply::Changed(_)));
                let outcome =
                    if is_applied { ExpiryOutcome::Applied } else { ExpiryOutcome::Unknown };
                self.leases(nth, LeaseEvent::Expired { attempt, outcome });
            }
            Some(Asked::Batch { attempt }) => {
                let end: Attempted = applied.ok_or(Failure::Unknown);
                self.intake(nth, IntakeEvent::Attempted { attempt, end });
            }
            Some(Asked::Report { items }) => {
                let (is_delivered, clock_ms) = (applied.is_some(), self.clock_ms(nth));
                self.nodes[nth].observer.reported(&items, is_delivered, clock_ms);
            }
            Some(Asked::AnotherGrant) | None => {}
        }
    }

    // --- leadership ------------------------------------------------------------------------------

    pub(super) fn leadership(&mut self, nth: usize, event: LeadershipEvent) {
        let clock_ms = self.clock_ms(nth);
        for effect in self.nodes[nth].leadership.step(event, clock_ms) {
            match effect {
                LeadershipEffect::AskForGrant { term, .. } => {
                    let holder = self.facts.nodes[nth].name.clone();
                    let command = Command::GrantLeadership { holder };
                    let at_ms = super::wall_ms(clock_ms);
                    let proposal = self.proposal("leadership", at_ms, None, command);
                    self.ask(nth, Asked::Grant { term }, vec![proposal], GRANT_TIMEOUT_MS);
                }
                LeadershipEffect::PauseBeforeGrant { term, ms } => {
                    self.later(nth, ms, Timer::RetryGrant { term });
                }
                LeadershipEffect::TakeUp { fence, .. } => self.take_up(nth, fence),
                LeadershipEffect::StandDown => {
                    self.facts.nodes[nth].duties = None;
                    self.leases(nth, LeaseEvent::DutiesLost);
                }
            }
        }
    }

    fn take_up(&mut self, nth: usize, fence: Fence) {
        self.facts.nodes[nth].duties = Some(fence);
        self.leases(nth, LeaseEvent::DutiesGranted(fence));
        let state = self.facts.nodes[nth].state.clone();
        self.leases(nth, LeaseEvent::State(&state));
    }

    // --- leases ----------------------------------------------------------------------------------

    pub(super) fn leases(&mut self, nth: usize, event: LeaseEvent<'_>) {
        let clock_ms = self.clock_ms(nth);
        for effect in self.nodes[nth].leases.step(event, clock_ms) {
            match effect {
                LeaseEffect::AskFormer { former, present } => {
                    self.ask_what_is_left(nth, &former, present);
                }
                LeaseEffect::Confirm { attempt } => {
                    let is_slow = self.rng.u8(..10) == 0;
                    let ms = if is_slow { self.rng.u64(..2_000) } else { self.rng.u64(1..60) };
                    self.later(nth, ms, Timer::Confirm { attempt });
                }
                LeaseEffect::Expire { attempt, fence, commands } => {
                    let at_ms = super::wall_ms(clock_ms);
                    let mut proposals = Vec::new();
                    for command in commands {
                        proposals.push(self.proposal("lease-expiry", at_ms, Some(fence), command));
                    }
                    self.ask(nth, Asked::Expire { attempt }, proposals, ANSWER_TIMEOUT_MS);
                }
                LeaseEffect::AskForGrant => {
                    let holder = self.facts.nodes[nth].name.clone();
                    let command = Command::GrantLeadership { holder };
                    let at_ms = super::wall_ms(clock_ms);
                    let proposal = self.proposal("leases", at_ms, None, command);
                    self.ask(nth, Asked::AnotherGrant, vec![proposal], GRANT_TIMEOUT_MS);
                }
                LeaseEffect::Report(_) => {}
            }
        }
    }

    /// A new leader asks the previous one for the remaining times of the leases.
    fn ask_what_is_left(&mut self, node: usize, former: &FormerGrant, present: Fence) {
        // Without an answer each lease has its whole time, in which a late expiry of the previous leader
        // would show.
        if self.fault == Some(Fault::SkipFencing) {
            return;
        }
        let holder = self.facts.nodes.iter().position(|node| node.name == former.holder);
        let Some(holder) = holder else { return };
        let message = Message::AskLeases { node, former: former.fence, present };
        self.send(Place::Node(node), Place::Node(holder), message);
    }

    /// The lease engine of a node panics, and is started again.
    pub(super) fn restart_leases(&mut self, nth: usize) {
        self.nodes[nth].restart_leases(self.facts.now_ms);
        if let Some(fence) = self.facts.nodes[nth].duties {
            self.take_up(nth, fence);
        }
    }

    // --- writes ----------------------------------------------------------------------------------

    /// A node accepts a client's write. The write's number is used as the client's address.
    fn take_write(&mut self, nth: usize, client: usize, proposal: &Proposal) {
        self.next_id += 1;
        let (id, write) = (proposal.request_id.0, self.next_id as u64);
        let mut proposal = proposal.clone();
        proposal.actor.address = write.to_string().into();
        let waiter = Waiter::Client { client, id, write };
        let write = self.nodes[nth].write(proposal, waiter, self.facts.now_ms);
        self.intake(nth, IntakeEvent::Submitted(write));
    }

    fn intake(&mut self, nth: usize, event: IntakeEvent<Waiter>) {
        let clock_ms = self.clock_ms(nth);
        for effect in self.nodes[nth].intake.step(event, clock_ms) {
            match effect {
                IntakeEffect::Propose { attempt, .. } if self.towards_leader(nth).is_none() => {
                    self.later(nth, 1, Timer::NoLeader { attempt });
                }
                IntakeEffect::Propose { attempt, batch, end_ms, .. } => {
                    let timeout_ms = end_ms.min(BATCH_TIMEOUT_MS);
                    self.ask(nth, Asked::Batch { attempt }, batch.proposals, timeout_ms);
                }
                IntakeEffect::Pause { attempt, ms } => {
                    self.later(nth, ms, Timer::RetryBatch { attempt });
                }
                IntakeEffect::Answer(Waiter::Verdicts, _) => self.nodes[nth].verdicts.proposed(),
                IntakeEffect::Answer(Waiter::Client { client, id, write }, answer) => {
                    let message = match answer {
                        Ok(applied) => Message::Done { id, applied },
                        // No answer is sent, so the client asks again, with the same id.
                        Err(Refusal::Unknown) => continue,
                        Err(_) => {
                            self.counts.refusals += 1;
                            self.facts.refused.push(write);
                            Message::Refused { id }
                        }
                    };
                    self.send(Place::Node(nth), Place::Client(client), message);
                }
            }
        }
    }

    // --- health ----------------------------------------------------------------------------------

    /// The nodes that a node considers live.
    fn live(&self, nth: usize) -> Vec<String> {
        let live = self.heard_by(nth).filter(|other| self.facts.nodes[*other].runs(self.now_ms()));
        live.map(|other| self.facts.nodes[other].name.to_string()).collect()
    }

    fn observe(&mut self, nth: usize) {
        let (clock_ms, live) = (self.clock_ms(nth), self.live(nth));
        let (observer, replica) = (&mut self.nodes[nth].observer, &self.facts.nodes[nth]);
        if observer.set_live(live) {
            observer.sync(&replica.state, clock_ms, super::wall_ms(clock_ms));
        }
        for job in observer.due(clock_ms) {
            let took_ms = self.rng.u64(1..job.spec.timeout_ms);
            self.later(nth, took_ms, Timer::Probed { job: Box::new(job), took_ms });
        }
        let items = self.nodes[nth].observer.outbox(self.facts.term, clock_ms);
        if items.is_empty() {
            return;
        }
        let leader = self.towards_leader(nth).filter(|leader| *leader != nth);
        let node = &mut self.nodes[nth];
        if self.facts.nodes[nth].duties.is_some() {
            let name = self.facts.nodes[nth].name.as_str();
            items.iter().for_each(|item| node.verdicts.hear(name, item.clone(), clock_ms));
            return node.observer.reported(&items, true, clock_ms);
        }
        let Some(leader) = leader else {
            return node.observer.reported(&items, false, clock_ms);
        };
        self.next_id += 1;
        let ask = self.next_id;
        self.nodes[nth].asked.insert(ask, Asked::Report { items: items.clone() });
        self.later(nth, ANSWER_TIMEOUT_MS, Timer::GiveUp { ask });
        let message = Message::Observed { node: nth, ask, items };
        self.send(Place::Node(nth), Place::Node(leader), message);
    }

    fn probed(&mut self, nth: usize, job: &ProbeJob, took_ms: u64) {
        let is_good = !self.is_blind(nth) && !self.is_sick(&job.key);
        let status = if is_good { ProbeStatus::Good } else { ProbeStatus::Dead };
        let answer = ProbeAnswer { status, detail: String::new(), latency_us: took_ms * 1_000 };
        let clock_ms = self.clock_ms(nth);
        self.nodes[nth].observer.done(job, Some(&answer), clock_ms, super::wall_ms(clock_ms));
    }

    /// Whether the probes of a node reach no instance now.
    fn is_blind(&self, nth: usize) -> bool {
        self.blind == nth && (self.now_ms() / 8_000) % 2 == 1
    }

    fn is_sick(&self, key: &InstanceKey) -> bool {
        let mut clients = self.clients.iter();
        clients.any(|client| client.key == *key && client.sick_until_ms > self.now_ms())
    }

    fn decide(&mut self, nth: usize) {
        let (clock_ms, live_nodes) = (self.clock_ms(nth), self.live(nth).len());
        let fence = self.facts.nodes[nth].duties;
        let node = &mut self.nodes[nth];
        node.verdicts.set_duties(fence, clock_ms);
        if fence.is_none() || !node.verdicts.is_due(clock_ms) {
            return;
        }
        let context = VerdictContext {
            state: &self.facts.nodes[nth].state,
            live_nodes,
            observers: 1,
            now_ms: clock_ms,
            wall_ms: super::wall_ms(clock_ms),
        };
        let items = node.verdicts.decide(&context, node.observer.unprobed());
        if items.is_empty() {
            return;
        }
        let command = Command::ReportHealth { items };
        let at_ms = super::wall_ms(clock_ms);
        let proposal = self.proposal("health-checker", at_ms, fence, command);
        let write = self.nodes[nth].write(proposal, Waiter::Verdicts, self.facts.now_ms);
        self.intake(nth, IntakeEvent::Submitted(write));
    }
}
