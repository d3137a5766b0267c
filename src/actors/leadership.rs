//! Who leads, and under which fence: starts and stops the duties that only the leader has.
//!
//! When the backend says that this node leads, the actor proposes a grant. The grant's index is
//! the fencing token for everything the leader does; apply refuses what carries an older one, so a
//! leader that was paused cannot act even if it has not noticed yet.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use tokio::sync::watch;

use super::clock_check;
use super::supervisor::Lifeline;
use maxine_clock::Clock;
use maxine_state::Leadership;
use maxine_state::{
    Actor as Who, AuditAction, Batch, Command, EventKind, Fence, Name, Proposal, Reply, RequestId,
};
use maxine_store::ControlStore;
use maxine_view::{View, WatchScope};

/// `Some(fence)` while this node holds the leader's duties.
pub type Duties = watch::Receiver<Option<Fence>>;

/// How long one attempt to have the grant committed may take.
const GRANT_TIMEOUT: Duration = Duration::from_secs(3);
/// In the audit record of a takeover: what stands between the former leader's name and how long it was silent.
pub(crate) const TAKEOVER_SILENCE: &str = ", silent for ";
/// Pause after a failed attempt.
const GRANT_PAUSE: Duration = Duration::from_millis(50);

/// Follows the backend's leadership and holds the fence.
pub struct LeadershipActor {
    node: Name,
    store: Arc<dyn ControlStore>,
    view: Arc<View>,
    clock: Clock,
    duties: watch::Sender<Option<Fence>>,
    /// The term for which a grant was asked or held.
    term: Option<u64>,
    /// Who led last, as far as this node knows, and since when nobody does.
    former: Option<Former>,
    _lifeline: Lifeline,
}

/// The leader before.
struct Former {
    name: String,
    /// When this node noticed that it leads no more, by the monotonic clock.
    lost_at_ms: Option<u64>,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Changed(Leadership);

/// A grant was applied, or the whole state was replaced: is what this node holds the latest still?
#[derive(Message)]
#[rtype(result = "()")]
struct GrantMayHaveChanged;

impl LeadershipActor {
    /// An actor for the node called `node`, which tells `duties` what it holds.
    #[must_use]
    pub fn new(
        node: Name,
        store: Arc<dyn ControlStore>,
        view: Arc<View>,
        clock: Clock,
        duties: watch::Sender<Option<Fence>>,
        lifeline: Lifeline,
    ) -> Self {
        Self { node, store, view, clock, duties, term: None, former: None, _lifeline: lifeline }
    }

    fn stand_down(&mut self) {
        self.term = None;
        if self.duties.send_replace(None).is_some() {
            tracing::warn!(node = %self.node, "leadership was lost; this node stops the leader's duties");
        }
    }

    fn note_former(&mut self, now: &Leadership) {
        match (&now.leader, &mut self.former) {
            (None, Some(former)) if former.lost_at_ms.is_none() => {
                former.lost_at_ms = Some(self.clock.monotonic_ms());
            }
            // While this node leads, the one before stays known until the grant has told of it.
            (Some(leader), _) if !now.is_leader => {
                self.former = Some(Former { name: leader.clone(), lost_at_ms: None });
            }
            _ => {}
        }
    }

    /// Whom this node took over from and how long nobody had heard of that one, for the audit log:
    /// writes were not acknowledged meanwhile. Nothing where replicas do not hear each other.
    fn takeover(&self) -> Option<Command> {
        let former = self.former.as_ref()?;
        self.store.cluster()?;
        let lost = former.lost_at_ms.map(|at_ms| self.clock.monotonic_ms().saturating_sub(at_ms));
        let silent_ms = lost.max(self.store.leader_silence_ms(&former.name))?;
        let object = format!("{}{TAKEOVER_SILENCE}{silent_ms} ms", former.name);
        Some(Command::RecordAudit {
            items: vec![(AuditAction::LeadershipTakeover, object.into(), true)],
        })
    }

    fn ask_for_grant(&mut self, term: u64, ctx: &mut Context<Self>) {
        self.term = Some(term);
        let grant = Command::GrantLeadership { holder: self.node.clone() };
        let commands = [Some(grant), self.takeover()];
        let (store, clock) = (Arc::clone(&self.store), self.clock.clone());
        let ask = async move {
            // A leader's clock is compared before the first thing that it proposes.
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
            if actor.term != Some(term) {
                return;
            }
            let reply = result.map(|applied| applied.into_iter().next().map(|a| a.reply));
            // A grant that an old leader asked for may have come in right behind ours.
            let latest = actor.view.snapshot().state.grant().map(|grant| grant.fence);
            if let Ok(Some(Reply::Granted(fence))) = reply
                && latest == Some(fence)
            {
                tracing::info!(node = %actor.node, term, fence = fence.0, "leadership granted");
                actor.duties.send_replace(Some(fence));
                actor.former = Some(Former { name: actor.node.to_string(), lost_at_ms: None });
                return;
            }
            tracing::debug!(?reply, "the leader's grant was not committed; asking again");
            ctx.run_later(GRANT_PAUSE, move |actor, ctx| {
                let still = {
                    let leadership = actor.store.leadership();
                    let now = leadership.borrow();
                    now.is_leader && now.term == term
                };
                if still && actor.term == Some(term) {
                    actor.ask_for_grant(term, ctx);
                }
            });
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
        self.note_former(&leadership);
        if !leadership.is_leader {
            self.stand_down();
        } else if self.term != Some(leadership.term) {
            self.stand_down();
            self.ask_for_grant(leadership.term, ctx);
        }
    }
}

impl Handler<GrantMayHaveChanged> for LeadershipActor {
    type Result = ();

    fn handle(&mut self, _: GrantMayHaveChanged, ctx: &mut Self::Context) {
        let latest = self.view.snapshot().state.grant().map(|grant| grant.fence);
        let held = *self.duties.borrow();
        if held.is_none() || held == latest {
            return;
        }
        self.stand_down();
        // An old leader's grant can come in late, and a store that lost writes can have lost the
        // grant. Whoever leads now asks again: otherwise nobody would have the duties until the
        // next election.
        let now = self.store.leadership_now();
        if now.is_leader {
            self.ask_for_grant(now.term, ctx);
        }
    }
}

/// Tells the actor of every grant, until it is gone.
async fn watch_grants(view: Arc<View>, actor: actix::Addr<LeadershipActor>) {
    loop {
        let after = view.index();
        let subscribed = view.hub().subscribe(WatchScope::Everything, after);
        // What went past before this moment is in the state already.
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
