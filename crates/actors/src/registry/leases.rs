//! Keeps the leases of this node: follows the registry, expires leases that run out, and passes the remaining
//! times to the next leader.
//!
//! [`Leases`] decides; this actor owns it and carries out what it returns. Heartbeats do not use this actor:
//! they renew the [`LeaseTable`] directly.

use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture,
};
use tokio::sync::watch;

use super::super::leadership::Duties;
use super::super::supervisor::DropNotifier;
use super::RegistrySettings;
use super::expiry_status::ExpiryStatus;
use super::takeover::{Inherit, Takeover};
use maxine_clock::Clock;
use maxine_control::leases::{
    EXPIRY_TICK_MS, ExpiryEvent, ExpiryOutcome, LeaseEffect, LeaseEvent, LeaseTable, Leases,
    RemainingTimes,
};
use maxine_state::{Actor as Who, Batch, Command, Event, Fence, Name, Proposal, Reply, RequestId};
use maxine_store::{Consistency, ControlStore, ProposeError, WriteOutcome};
use maxine_view::{Snapshot, View, WatchScope, WorkFact, WorkKind, WorkOutcome};

/// Time limit for the confirmation of leadership, and for one expiry.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of changes in one message.
const CHANGES_MAX: usize = 4_096;
/// Number of expired instances that the trace of an expiry names.
const NAMED_MAX: usize = 8;
/// Maximum number of messages that wait for the actor.
const MAILBOX_LEN: usize = 1_024;

/// What the lease actor needs.
#[derive(Clone)]
pub(super) struct LeaseParts {
    pub(super) node: Name,
    pub(super) store: Arc<dyn ControlStore>,
    pub(super) view: Arc<View>,
    pub(super) clock: Clock,
    pub(super) duties: Duties,
    pub(super) settings: RegistrySettings,
    /// The table, which outlives restarts of the actor.
    pub(super) table: Arc<LeaseTable>,
    /// Notified when [`LeaseTable::followed`] may have changed.
    pub(super) followed: watch::Sender<()>,
    /// Whether the next leader has received the remaining times.
    pub(super) handed_over: watch::Sender<bool>,
    pub(super) status: ExpiryStatus,
}

/// Owns the lease engine; see the module's documentation.
pub(super) struct LeaseActor {
    parts: LeaseParts,
    engine: Leases,
    /// The task that follows the registry, and its grant.
    following: Option<(Fence, SpawnHandle)>,
    _lifeline: DropNotifier,
}

#[derive(Message)]
#[rtype(result = "()")]
struct DutiesChanged(Option<Fence>);

#[derive(Message)]
#[rtype(result = "()")]
struct Tick;

/// The whole published state, under this grant.
#[derive(Message)]
#[rtype(result = "()")]
struct Published(Fence, Arc<Snapshot>);

/// The changes up to an index.
#[derive(Message)]
#[rtype(result = "()")]
struct Changes {
    fence: Fence,
    events: Vec<Arc<Event>>,
    index: u64,
}

/// Asks for the remaining times under the grant `former`, which the grant `present` ended.
#[derive(Message)]
#[rtype(result = "Result<Arc<RemainingTimes>, String>")]
pub(super) struct HandOver {
    pub(super) former: Fence,
    pub(super) present: Fence,
}

/// An operator confirmed that the silent instances are gone. The answer says whether anything was suspended.
#[derive(Message)]
#[rtype(result = "bool")]
pub(super) struct ConfirmSilence;

impl LeaseActor {
    pub(super) fn new(parts: LeaseParts, lifeline: DropNotifier) -> Self {
        let engine = Leases::new(
            parts.node.clone(),
            parts.settings.expiry.clone(),
            parts.settings.takeover_extra_ms,
            Arc::clone(&parts.table),
            parts.clock.monotonic_ms(),
        );
        Self { parts, engine, following: None, _lifeline: lifeline }
    }

    fn step(&mut self, event: LeaseEvent<'_>, ctx: &mut Context<Self>) {
        let effects = self.engine.step(event, self.parts.clock.monotonic_ms());
        self.parts.followed.send_replace(());
        for effect in effects {
            match effect {
                LeaseEffect::AskFormer { former, present } => {
                    let RegistrySettings { expiry, takeover_extra_ms, .. } = &self.parts.settings;
                    let client = Takeover {
                        store: Arc::clone(&self.parts.store),
                        leases: ctx.address().recipient(),
                        extra_ms: expiry.grace_ms + takeover_extra_ms,
                    };
                    let ask = async move { client.take_over(&former, present).await };
                    ctx.spawn(ask.into_actor(self));
                }
                LeaseEffect::Confirm { attempt } => self.confirm(attempt, ctx),
                LeaseEffect::Expire { attempt, fence, commands } => {
                    self.expire(attempt, fence, commands, ctx);
                }
                LeaseEffect::AskForGrant => self.ask_for_grant(ctx),
                // If this node no longer leads, other nodes report its stall.
                LeaseEffect::Report(ExpiryEvent::Stalled { by_ms })
                    if !self.parts.store.leadership_now().is_leader =>
                {
                    tracing::warn!(
                        stalled_ms = by_ms,
                        "leases were not checked for this time, because the process was paused or the store did not answer"
                    );
                }
                LeaseEffect::Report(event) => self.parts.status.report(event),
            }
        }
    }

    fn confirm(&mut self, attempt: u64, ctx: &mut Context<Self>) {
        let store = Arc::clone(&self.parts.store);
        let confirm = async move {
            let confirmed = store.barrier(Consistency::Strong, CONFIRM_TIMEOUT).await;
            if let Err(error) = &confirmed {
                tracing::debug!(%error, "leadership was not confirmed; expiry is put off");
            }
            // Renewals that arrived in the same packets as the confirmation are handled first.
            tokio::task::yield_now().await;
            confirmed.is_ok()
        };
        ctx.spawn(confirm.into_actor(self).map(move |leads, actor, ctx| {
            actor.step(LeaseEvent::Confirmed { attempt, leads }, ctx);
        }));
    }

    fn expire(
        &mut self,
        attempt: u64,
        fence: Fence,
        commands: Vec<Command>,
        ctx: &mut Context<Self>,
    ) {
        let (store, clock) = (Arc::clone(&self.parts.store), self.parts.clock.clone());
        let working = self.parts.view.begin_work(WorkKind::Expiry);
        let named = working.as_ref().map(|_| some_instances(&commands));
        let expire = async move { propose(&*store, &clock, fence, commands).await };
        ctx.spawn(expire.into_actor(self).map(move |expired, actor, ctx| {
            actor.parts.view.end_work(working, || outcome_of(&expired, named));
            match &expired {
                Ok(expired) => actor.parts.status.add_expired(expired.instances),
                Err(error) => tracing::debug!(%error, "expiry is put off"),
            }
            let outcome = match expired {
                Ok(_) => ExpiryOutcome::Applied,
                Err(NotExpired::Refused(error)) if error.outcome() == WriteOutcome::NotDone => {
                    ExpiryOutcome::NotDone
                }
                Err(_) => ExpiryOutcome::Unknown,
            };
            actor.step(LeaseEvent::Expired { attempt, outcome }, ctx);
        }));
    }

    /// Requests a new grant. The leadership actor sees it, and takes up the duties again.
    fn ask_for_grant(&mut self, ctx: &mut Context<Self>) {
        let (store, clock) = (Arc::clone(&self.parts.store), self.parts.clock.clone());
        if !store.leadership_now().is_leader {
            return;
        }
        let holder = self.parts.node.clone();
        let ask = async move {
            let command = Command::GrantLeadership { holder };
            let proposal = proposal(&clock, "leases", None, command);
            let batch = Batch { proposals: vec![proposal] };
            if let Err(error) = store.propose(batch, CONFIRM_TIMEOUT.into()).await {
                tracing::debug!(%error, "another grant was not committed; asking again");
            }
        };
        ctx.spawn(ask.into_actor(self));
    }

    fn follows(&self, fence: Fence) -> bool {
        self.following.is_some_and(|(following, _)| following == fence)
    }
}

fn proposal(clock: &Clock, part: &str, fence: Option<Fence>, command: Command) -> Proposal {
    Proposal {
        request_id: RequestId(rand::random()),
        proposed_at_ms: clock.proposal_ms(),
        fence,
        actor: Who::system(part),
        command,
    }
}

/// Why an expiry was not carried out.
#[derive(Debug, thiserror::Error)]
enum NotExpired {
    /// The store did not order it, or its outcome is unknown.
    #[error(transparent)]
    Refused(#[from] ProposeError),
    /// It was ordered, but the state refused it, or the reply has a wrong type.
    #[error("{0}")]
    Reply(String),
}

/// What was expired.
#[derive(Debug, Default)]
struct Expired {
    /// Number of instances.
    instances: u64,
    /// The index of the state after it.
    index: Option<u64>,
}

/// Names some of the instances that are to be expired, for a trace.
fn some_instances(commands: &[Command]) -> String {
    let keys = commands.iter().flat_map(|command| match command {
        Command::Expire { items } => &items[..],
        _ => &[],
    });
    let names: Vec<String> = keys.take(NAMED_MAX).map(|(key, _)| key.to_string()).collect();
    names.join(", ")
}

/// The outcome of an expiry, for its trace.
fn outcome_of(expired: &Result<Expired, NotExpired>, named: Option<String>) -> WorkOutcome {
    let named = named.filter(|named| !named.is_empty());
    let named = named.map(|named| ("maxine.instances", WorkFact::from(named)));
    let (index, error, number) = match expired {
        Ok(done) => (done.index, None, Some(("maxine.expired", WorkFact::from(done.instances)))),
        Err(error) => (None, Some(error.to_string()), None),
    };
    WorkOutcome { index, error, facts: number.into_iter().chain(named).collect() }
}

/// Proposes the expiry.
async fn propose(
    store: &dyn ControlStore,
    clock: &Clock,
    fence: Fence,
    commands: Vec<Command>,
) -> Result<Expired, NotExpired> {
    let is_of_instances: Vec<bool> =
        commands.iter().map(|command| matches!(command, Command::Expire { .. })).collect();
    let proposal = |command| proposal(clock, "lease-expiry", Some(fence), command);
    let batch = Batch { proposals: commands.into_iter().map(proposal).collect() };
    let applied = store.propose(batch, CONFIRM_TIMEOUT.into()).await?;
    let mut expired = Expired::default();
    for (is_of_instances, applied) in is_of_instances.into_iter().zip(applied) {
        expired.index = Some(applied.index);
        match applied.reply {
            Reply::Changed(changed) if is_of_instances => {
                expired.instances += changed.into_iter().filter(|gone| *gone).count() as u64;
            }
            Reply::Changed(_) => {}
            Reply::Rejected(rejection) => return Err(NotExpired::Reply(rejection.to_string())),
            other => {
                let text = format!("an unexpected reply to an expiry: {other:?}");
                return Err(NotExpired::Reply(text));
            }
        }
    }
    Ok(expired)
}

/// Passes the published state and its changes to the actor, until the actor has stopped.
async fn follow(view: Arc<View>, fence: Fence, actor: actix::Addr<LeaseActor>) {
    loop {
        let snapshot = view.snapshot();
        let after = snapshot.state.index();
        if actor.send(Published(fence, snapshot)).await.is_err() {
            return;
        }
        let Ok(mut watcher) = view.hub().subscribe(WatchScope::Everything, after) else { continue };
        let mut published = view.hub().published();
        loop {
            // The index is read first, so that all changes taken below reach at least that far. Not every
            // index has a change, so the last change alone would not show how far the table is.
            let index = *published.borrow_and_update();
            // The watcher is too far behind, or the state was replaced, so it starts again with the whole
            // state.
            let Ok(events) = watcher.take(CHANGES_MAX) else { break };
            let is_all = events.is_empty();
            let index = if is_all { index.max(after) } else { watcher.after() };
            if actor.send(Changes { fence, events, index }).await.is_err() {
                return;
            }
            if is_all && published.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Actor for LeaseActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_LEN);
        ctx.run_interval(Duration::from_millis(EXPIRY_TICK_MS), |_, ctx| ctx.notify(Tick));
        let (mut duties, addr) = (self.parts.duties.clone(), ctx.address());
        ctx.spawn(
            async move {
                loop {
                    let fence = *duties.borrow_and_update();
                    let sent = addr.send(DutiesChanged(fence)).await.is_ok();
                    if !sent || duties.changed().await.is_err() {
                        return;
                    }
                }
            }
            .into_actor(self),
        );
    }
}

impl Handler<DutiesChanged> for LeaseActor {
    type Result = ();

    fn handle(&mut self, DutiesChanged(fence): DutiesChanged, ctx: &mut Self::Context) {
        if let Some((_, following)) = self.following.take() {
            ctx.cancel_future(following);
        }
        let Some(fence) = fence else {
            return self.step(LeaseEvent::DutiesLost, ctx);
        };
        self.parts.handed_over.send_replace(false);
        self.step(LeaseEvent::DutiesGranted(fence), ctx);
        let follow = follow(Arc::clone(&self.parts.view), fence, ctx.address());
        self.following = Some((fence, ctx.spawn(follow.into_actor(self))));
    }
}

impl Handler<Published> for LeaseActor {
    type Result = ();

    fn handle(&mut self, Published(fence, snapshot): Published, ctx: &mut Self::Context) {
        if self.follows(fence) {
            self.step(LeaseEvent::State(&snapshot.state), ctx);
        }
    }
}

impl Handler<Changes> for LeaseActor {
    type Result = ();

    fn handle(&mut self, changes: Changes, ctx: &mut Self::Context) {
        if self.follows(changes.fence) {
            let Changes { events, index, .. } = changes;
            self.step(LeaseEvent::Changes { events: &events, index }, ctx);
        }
    }
}

impl Handler<Tick> for LeaseActor {
    type Result = ();

    fn handle(&mut self, _: Tick, ctx: &mut Self::Context) {
        let is_refused = self.parts.store.refuses_writes().is_some();
        self.step(LeaseEvent::StoreRefuses(is_refused), ctx);
        self.step(LeaseEvent::Tick, ctx);
    }
}

impl Handler<Inherit> for LeaseActor {
    type Result = ();

    fn handle(&mut self, inherit: Inherit, ctx: &mut Self::Context) {
        let Inherit { present, leases, suspended_ms } = inherit;
        self.step(LeaseEvent::Inherited { present, leases: &leases, suspended_ms }, ctx);
    }
}

impl Handler<HandOver> for LeaseActor {
    type Result = Result<Arc<RemainingTimes>, String>;

    fn handle(&mut self, ask: HandOver, _: &mut Self::Context) -> Self::Result {
        let (snapshot, now_ms) = (self.parts.view.snapshot(), self.parts.clock.monotonic_ms());
        let left = self.engine.hand_over(ask.former, ask.present, &snapshot.state, now_ms);
        left.map_err(|why| why.to_string())
    }
}

impl Handler<ConfirmSilence> for LeaseActor {
    type Result = bool;

    fn handle(&mut self, _: ConfirmSilence, _: &mut Self::Context) -> bool {
        self.engine.confirm_silence(self.parts.clock.monotonic_ms())
    }
}
