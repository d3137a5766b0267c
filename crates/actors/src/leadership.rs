//! Starts and stops the duties of the leader, with their fence.
//!
//! [`Leadership`] decides; this actor owns it, passes in events of the store and the log, and carries out
//! what it returns.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use tokio::sync::watch;

use super::clock_check;
use super::supervisor::DropNotifier;
use maxine_clock::Clock;
use maxine_control::leadership::{
    FormerLeader, LeadershipEffect, LeadershipEngine, LeadershipEvent,
};
use maxine_state::{
    Actor as Who, AuditAction, Batch, Command, EventKind, Fence, Leadership, Name, Proposal,
    RequestId,
};
use maxine_store::ControlStore;
use maxine_view::{View, WatchScope, WorkFact, WorkKind, WorkOutcome, Working};

/// `Some(fence)` while this node holds the leader's duties.
pub type Duties = watch::Receiver<Option<Fence>>;

/// Time limit of one attempt to commit the grant.
const GRANT_TIMEOUT: Duration = Duration::from_secs(3);
/// If there was no leader for at most this time, the former leader handed over, because an election takes longer. In
/// milliseconds.
pub const HANDOVER_GAP_MS: u64 = 300;
/// Separator in the audit record of a takeover, before the time without a leader.
const TAKEOVER_GAP: &str = ", no leader for ";
/// What the record of a takeover says of a former leader that handed over: for a transfer, its removal or its stop.
const HANDED_OVER: &str = " handed over";
/// What the record of a takeover says if the former leader is the new one.
const LEADS_AGAIN: &str = " leads again";

/// The object of the audit record of a takeover: how the former leader's leadership ended, as far as the new leader
/// knows, and for how long no write could be acknowledged.
fn takeover_object(former: &str, is_itself: bool, gap_ms: u64) -> String {
    let ended = match gap_ms {
        _ if is_itself => LEADS_AGAIN,
        0..=HANDOVER_GAP_MS => HANDED_OVER,
        _ => "",
    };
    format!("{former}{ended}{TAKEOVER_GAP}{gap_ms} ms")
}

/// The former leader and the time without a leader, in milliseconds, from the audit record of a takeover.
#[must_use]
pub fn read_takeover(object: &str) -> Option<(&str, u64)> {
    let (former, gap) = object.rsplit_once(TAKEOVER_GAP)?;
    let gap_ms = gap.strip_suffix(" ms")?.parse().ok()?;
    let ended = [LEADS_AGAIN, HANDED_OVER].into_iter().find_map(|text| former.strip_suffix(text));
    Some((ended.unwrap_or(former), gap_ms))
}

/// Follows the backend's leadership and publishes the fence.
pub struct LeadershipActor {
    node: Name,
    store: Arc<dyn ControlStore>,
    view: Arc<View>,
    clock: Clock,
    duties: watch::Sender<Option<Fence>>,
    engine: LeadershipEngine,
    /// The election that gave this node the lead, until the grant. `None` also while nobody takes records of it.
    election: Option<Election>,
    _lifeline: DropNotifier,
}

/// An election for the traces of this node.
struct Election {
    term: u64,
    /// The name of the former leader, if it is known.
    former: Option<String>,
    working: Working,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Changed(Leadership);

/// A grant was applied, or the whole state was replaced.
#[derive(Message)]
#[rtype(result = "()")]
struct GrantMayHaveChanged;

impl LeadershipActor {
    /// An actor for the node `node`, which publishes its fence in `duties`.
    #[must_use]
    pub fn new(
        node: Name,
        store: Arc<dyn ControlStore>,
        view: Arc<View>,
        clock: Clock,
        duties: watch::Sender<Option<Fence>>,
        lifeline: DropNotifier,
    ) -> Self {
        let engine = LeadershipEngine::new(node.clone());
        Self { node, store, view, clock, duties, engine, election: None, _lifeline: lifeline }
    }

    fn latest_grant(&self) -> Option<Fence> {
        self.view.snapshot().state.grant().map(|grant| grant.fence)
    }

    fn step(&mut self, event: LeadershipEvent, ctx: &mut Context<Self>) {
        for effect in self.engine.step(event, self.clock.monotonic_ms()) {
            match effect {
                LeadershipEffect::AskForGrant { term, former } => {
                    self.begin_election(term, former.as_ref());
                    self.ask_for_grant(term, former, ctx);
                }
                LeadershipEffect::PauseBeforeGrant { term, ms } => {
                    ctx.run_later(Duration::from_millis(ms), move |actor, ctx| {
                        let now = actor.store.leadership_now();
                        actor.step(LeadershipEvent::Paused { term, now }, ctx);
                    });
                }
                LeadershipEffect::TakeUp { term, fence } => {
                    tracing::info!(node = %self.node, term, fence = fence.0, "leadership granted");
                    self.end_election(Ok(fence));
                    self.duties.send_replace(Some(fence));
                }
                LeadershipEffect::StandDown => self.stand_down(),
            }
        }
    }

    fn stand_down(&self) {
        if self.duties.send_replace(None).is_some() {
            tracing::warn!(node = %self.node, "leadership was lost; this node stops the leader's duties");
        }
    }

    /// Begins the record of an election, at the time at which the former leader was lost. Further attempts at the grant
    /// belong to the same election.
    fn begin_election(&mut self, term: u64, former: Option<&FormerLeader>) {
        if self.election.as_ref().is_some_and(|election| election.term == term) {
            return;
        }
        self.end_election(Err("another term began before the grant"));
        let Some(working) = self.view.begin_work(WorkKind::Election) else { return };
        let gap_ms = former.and_then(|former| self.gap_ms(former)).unwrap_or(0);
        let former = former.map(|former| former.name.clone());
        let working = working.earlier_by_ms(gap_ms);
        self.election = Some(Election { term, former, working });
    }

    fn end_election(&mut self, outcome: Result<Fence, &str>) {
        let Some(Election { term, former, working }) = self.election.take() else { return };
        self.view.end_work(Some(working), || {
            let mut facts = vec![("maxine.term", WorkFact::from(term))];
            facts.extend(former.map(|name| ("maxine.former_leader", WorkFact::from(name))));
            WorkOutcome {
                index: outcome.ok().map(|fence| fence.0),
                error: outcome.err().map(str::to_owned),
                facts,
            }
        });
    }

    /// The time without a leader that this node knows of, in milliseconds.
    fn gap_ms(&self, former: &FormerLeader) -> Option<u64> {
        former.lost_for_ms.max(self.store.leader_silence_ms(&former.name))
    }

    /// The audit record of a takeover: the previous leader, and how long there was none. In that time, no write was
    /// acknowledged. `None` if replicas do not hear each other.
    fn takeover(&self, former: FormerLeader) -> Option<Command> {
        self.store.cluster()?;
        let gap_ms = self.gap_ms(&former)?;
        let is_itself = former.name == self.node.as_str();
        let object = takeover_object(&former.name, is_itself, gap_ms);
        Some(Command::RecordAudit {
            items: vec![(AuditAction::LeadershipTakeover, object.into(), true)],
        })
    }

    fn ask_for_grant(&mut self, term: u64, former: Option<FormerLeader>, ctx: &mut Context<Self>) {
        let grant = Command::GrantLeadership { holder: self.node.clone() };
        let commands = [Some(grant), former.and_then(|former| self.takeover(former))];
        let (store, clock) = (Arc::clone(&self.store), self.clock.clone());
        let ask = async move {
            // A new leader's clock is compared before it proposes anything.
            clock_check::settled(&clock).await;
            let proposal = |command| Proposal {
                request_id: RequestId(rand::random()),
                proposed_at_ms: clock.proposal_ms(),
                fence: None,
                actor: Who::system("leadership"),
                command,
            };
            let proposals = commands.into_iter().flatten().map(proposal).collect();
            store.propose(Batch { proposals }, GRANT_TIMEOUT.into()).await
        };
        ctx.spawn(ask.into_actor(self).map(move |result, actor, ctx| {
            if let Err(error) = &result {
                tracing::debug!(%error, "the leader's grant was not committed; asking again");
            }
            let reply = result.ok().and_then(|applied| applied.into_iter().next());
            let reply = reply.map(|applied| applied.reply);
            let latest = actor.latest_grant();
            actor.step(LeadershipEvent::Answered { term, reply, latest }, ctx);
        }));
    }
}

impl Actor for LeadershipActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let mut leadership = self.store.leadership();
        let addr = ctx.address();
        ctx.spawn(
            async move {
                loop {
                    let now = leadership.borrow_and_update().clone();
                    let sent = addr.send(Changed(now)).await.is_ok();
                    if !sent || leadership.changed().await.is_err() {
                        return;
                    }
                }
            }
            .into_actor(self),
        );
        ctx.spawn(watch_grants(Arc::clone(&self.view), ctx.address()).into_actor(self));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.stand_down();
    }
}

impl Handler<Changed> for LeadershipActor {
    type Result = ();

    fn handle(&mut self, Changed(leadership): Changed, ctx: &mut Self::Context) {
        if !leadership.is_leader {
            self.end_election(Err("this node lost the lead before the grant"));
        }
        self.step(LeadershipEvent::Changed(leadership), ctx);
    }
}

impl Handler<GrantMayHaveChanged> for LeadershipActor {
    type Result = ();

    fn handle(&mut self, _: GrantMayHaveChanged, ctx: &mut Self::Context) {
        let (latest, now) = (self.latest_grant(), self.store.leadership_now());
        self.step(LeadershipEvent::GrantsChanged { latest, now }, ctx);
    }
}

/// Notifies the actor of every grant, until the actor has stopped.
async fn watch_grants(view: Arc<View>, actor: actix::Addr<LeadershipActor>) {
    loop {
        let after = view.index();
        let subscribed = view.hub().subscribe(WatchScope::Everything, after);
        // Earlier grants are in the state already.
        if actor.send(GrantMayHaveChanged).await.is_err() {
            return;
        }
        let Ok(mut watcher) = subscribed else { continue };
        while let Ok(events) = watcher.next(1_024).await {
            let is_grant = |kind: &EventKind| matches!(kind, EventKind::LeadershipGranted { .. });
            if events.iter().any(|event| is_grant(&event.kind))
                && actor.send(GrantMayHaveChanged).await.is_err()
            {
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "leadership_tests.rs"]
mod tests;
