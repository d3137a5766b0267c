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
pub(super) type Reply = oneshot::Sender<Result<Applied, WriteError>>;

/// Owns the intake engine; see the module's documentation.
pub struct RegistryActor {
    store: Arc<dyn ControlStore>,
    clock: Clock,
    pending_max: usize,
    engine: Intake<Reply>,
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
        Self { store, clock, pending_max, engine: Intake::new(pending_max), _lifeline: lifeline }
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
                    // The caller may have gone; then nobody needs the answer.
                    let _gone = reply.send(answer.map_err(WriteError::from));
                }
            }
        }
    }

    fn propose(&mut self, attempt: u64, batch: Batch, time: WriteTime, ctx: &mut Context<Self>) {
        let store = Arc::clone(&self.store);
        let propose = async move { store.propose(batch, time).await };
        ctx.spawn(propose.into_actor(self).map(move |result, actor, ctx| {
            let end = result.map_err(failure);
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

    fn handle(&mut self, Submit(write): Submit, ctx: &mut Self::Context) {
        self.step(IntakeEvent::Submitted(write), ctx);
    }
}
