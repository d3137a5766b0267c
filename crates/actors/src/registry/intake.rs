//! The registry's actor: accepts writes and answers them.
//!
//! [`Intake`] decides what goes into the next batch and how each write is answered. This actor owns it,
//! proposes its batches, and answers the callers.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use tokio::sync::oneshot;

use super::super::supervisor::DropNotifier;
use super::WriteError;
use maxine_clock::Clock;
use maxine_control::intake::{
    Failure, INTAKE_TICK_MS, Intake, IntakeEffect, IntakeEvent, Refusal, Write,
};
use maxine_state::{Applied, Batch};
use maxine_store::{ControlStore, ProposeError, WriteTime};

/// The handle for answering a write.
pub(super) struct Reply {
    sender: oneshot::Sender<Answered>,
    /// When the actor took the write, in microseconds on the monotonic clock.
    received_us: u64,
}

impl Reply {
    /// A handle, and the receiver of the answer.
    pub(super) fn new() -> (Self, oneshot::Receiver<Answered>) {
        let (sender, answer) = oneshot::channel();
        (Self { sender, received_us: 0 }, answer)
    }
}

/// The answer to a write.
pub(super) struct Answered {
    pub(super) result: Result<Applied, WriteError>,
    /// When the actor took the write, in microseconds on the monotonic clock.
    pub(super) received_us: u64,
    /// The batch that was in flight when it was answered: its own if it was carried out.
    pub(super) batch: BatchTimes,
}

/// The latest attempt to write a batch. Times are in microseconds on the monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchTimes {
    /// When it was passed to the store.
    pub(super) proposed_us: u64,
    /// When the store answered.
    pub(super) decided_us: u64,
    /// Number of writes.
    pub(super) len: usize,
}

/// Owns the intake engine; see the module's documentation.
pub struct RegistryActor {
    store: Arc<dyn ControlStore>,
    clock: Clock,
    pending_max: usize,
    engine: Intake<Reply>,
    /// The batch in flight. There is at most one.
    batch: BatchTimes,
    _lifeline: DropNotifier,
}

/// Submits a write.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Submit(pub(super) Write<Reply>);

impl RegistryActor {
    pub(super) fn new(
        store: Arc<dyn ControlStore>,
        clock: Clock,
        pending_max: usize,
        lifeline: DropNotifier,
    ) -> Self {
        let (engine, batch) = (Intake::new(pending_max), BatchTimes::default());
        Self { store, clock, pending_max, engine, batch, _lifeline: lifeline }
    }

    fn step(&mut self, event: IntakeEvent<Reply>, ctx: &mut Context<Self>) {
        for effect in self.engine.step(event, self.clock.monotonic_ms()) {
            match effect {
                IntakeEffect::Propose { attempt, batch, begin_ms, end_ms } => {
                    let (begin, end) =
                        (Duration::from_millis(begin_ms), Duration::from_millis(end_ms));
                    self.propose(attempt, batch, WriteTime { begin, end }, ctx);
                }
                IntakeEffect::Pause { attempt, ms } => {
                    ctx.run_later(Duration::from_millis(ms), move |actor, ctx| {
                        actor.step(IntakeEvent::Paused { attempt }, ctx);
                    });
                }
                IntakeEffect::Answer(reply, answer) => {
                    let Reply { sender, received_us } = reply;
                    let result = answer.map_err(WriteError::from);
                    // The caller may have gone; then nobody needs the answer.
                    let _gone = sender.send(Answered { result, received_us, batch: self.batch });
                }
            }
        }
    }

    fn propose(&mut self, attempt: u64, batch: Batch, time: WriteTime, ctx: &mut Context<Self>) {
        let store = Arc::clone(&self.store);
        let (proposed_us, len) = (self.clock.monotonic_us(), batch.proposals.len());
        self.batch = BatchTimes { proposed_us, decided_us: proposed_us, len };
        let propose = async move { store.propose(batch, time).await };
        ctx.spawn(propose.into_actor(self).map(move |result, actor, ctx| {
            let end = result.map_err(failure);
            actor.batch.decided_us = actor.clock.monotonic_us();
            actor.step(IntakeEvent::Attempted { attempt, end }, ctx);
        }));
    }
}

fn failure(error: ProposeError) -> Failure {
    match error {
        ProposeError::NoLeader
        | ProposeError::StoreUnavailable(_)
        | ProposeError::NotBegun
        | ProposeError::ShuttingDown => Failure::NotWritten(error.to_string()),
        ProposeError::NotLeader { .. } => Failure::NotLeader(error.to_string()),
        ProposeError::Overloaded => Failure::Overloaded,
        ProposeError::Refused(_) => Failure::Refused(error.to_string()),
        ProposeError::TooLarge { len, max } => Failure::TooLarge { len, max },
        ProposeError::OutcomeUnknown => Failure::Unknown,
        ProposeError::Storage(why) => Failure::Storage(why),
    }
}

impl From<Refusal> for WriteError {
    fn from(refusal: Refusal) -> Self {
        let retry_after_s = 1;
        match refusal {
            Refusal::NotWritten(reason) => Self::Unavailable { retry_after_s, reason },
            Refusal::Overloaded => Self::Overloaded { retry_after_s },
            Refusal::AddressOverloaded => Self::AddressOverloaded { retry_after_s },
            Refusal::TooLarge { len, max } => Self::TooLarge { len, max },
            Refusal::Refused(reason) => Self::Refused(reason),
            Refusal::Unknown => Self::OutcomeUnknown { retry_after_s },
            Refusal::Storage(why) => Self::Storage(why),
        }
    }
}

impl Actor for RegistryActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.pending_max);
        ctx.run_interval(Duration::from_millis(INTAKE_TICK_MS), |actor, ctx| {
            actor.step(IntakeEvent::Tick, ctx);
        });
    }
}

impl Handler<Submit> for RegistryActor {
    type Result = ();

    fn handle(&mut self, Submit(mut write): Submit, ctx: &mut Self::Context) {
        write.reply.received_us = self.clock.monotonic_us();
        self.step(IntakeEvent::Submitted(write), ctx);
    }
}
