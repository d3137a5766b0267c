//! The registry's actor: gathers writes into batches and sees them through.
//!
//! While one batch is on its way the next one gathers, so the batch grows with the load and a
//! lone write waits for nobody. Writes wait in three [`queues`](super::queues): Maxine's own, those of
//! callers with a credential, and those of strangers, who cannot hold the others up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use tokio_util::sync::CancellationToken;

use super::super::leadership::Duties;
use super::super::supervisor::Lifeline;
use super::expiry::ExpiryDuty;
use super::queues::{Queues, Submit};
use super::{RegistrySettings, WriteError};
use maxine_clock::Clock;
use maxine_state::{Applied, Batch, Fence, Proposal};
use maxine_store::{ControlStore, ProposeError};

/// Most batches on their way at once. With one, the next gathers for as long as this one takes, so
/// that fewer and larger ones are stored: a tenth more writes a second than with two.
const BATCHES_IN_FLIGHT_MAX: usize = 1;
/// Pause between two attempts while there is no leader, in milliseconds.
const RETRY_PAUSE_MS: u64 = 20;

/// Owns the queue of writes and the leader's lease duty.
pub struct RegistryActor {
    store: Arc<dyn ControlStore>,
    clock: Clock,
    duties: Duties,
    duty: ExpiryDuty,
    settings: RegistrySettings,
    queues: Queues,
    in_flight: usize,
    expiring: Option<CancellationToken>,
    _lifeline: Lifeline,
}

#[derive(Message)]
#[rtype(result = "()")]
struct DutiesChanged(Option<Fence>);

impl RegistryActor {
    pub(super) fn new(
        store: Arc<dyn ControlStore>,
        clock: Clock,
        duties: Duties,
        duty: ExpiryDuty,
        settings: RegistrySettings,
        lifeline: Lifeline,
    ) -> Self {
        Self {
            store,
            clock,
            duties,
            duty,
            queues: Queues::new(settings.pending_max),
            settings,
            in_flight: 0,
            expiring: None,
            _lifeline: lifeline,
        }
    }

    fn pump(&mut self, ctx: &mut Context<Self>) {
        while self.in_flight < BATCHES_IN_FLIGHT_MAX {
            let batch = self.queues.take_batch(self.clock.monotonic_ms());
            if batch.is_empty() {
                return;
            }
            self.in_flight += 1;
            let carry = carry(Arc::clone(&self.store), self.clock.clone(), batch);
            ctx.spawn(carry.into_actor(self).map(|(), actor, ctx| {
                actor.in_flight -= 1;
                actor.pump(ctx);
            }));
        }
    }
}

fn is_fenced(proposal: &Proposal) -> bool {
    proposal.fence.is_some()
}

fn unavailable(reason: &str) -> WriteError {
    WriteError::Unavailable { retry_after_s: 1, reason: reason.into() }
}

/// Sees one batch through: repeats it for as long as that is safe and its time lasts, then
/// answers everyone in it.
async fn carry(store: Arc<dyn ControlStore>, clock: Clock, batch: Vec<Submit>) {
    let deadline_ms = batch.iter().map(|submit| submit.deadline_ms).max().unwrap_or(0);
    let (mut proposals, mut replies) = (Vec::new(), Vec::new());
    for Submit { proposal, reply, .. } in batch {
        proposals.push(proposal);
        replies.push(reply);
    }
    let mut groups = VecDeque::from([(Batch { proposals }, replies)]);
    while let Some((batch, mut replies)) = groups.pop_front() {
        match attempt(&*store, &clock, &batch, deadline_ms).await {
            Ok(applied) => {
                for (reply, applied) in replies.into_iter().zip(applied) {
                    let _gone = reply.send(Ok(applied));
                }
            }
            // Together they are too large, each alone perhaps not.
            Err(WriteError::TooLarge { .. }) if batch.proposals.len() > 1 => {
                let mut proposals = batch.proposals;
                let half = proposals.len() / 2;
                let (later, replies_later) = (proposals.split_off(half), replies.split_off(half));
                groups.push_front((Batch { proposals: later }, replies_later));
                groups.push_front((Batch { proposals }, replies));
            }
            Err(error) => {
                for reply in replies {
                    let _gone = reply.send(Err(error.clone()));
                }
            }
        }
    }
}

async fn attempt(
    store: &dyn ControlStore,
    clock: &Clock,
    batch: &Batch,
    deadline_ms: u64,
) -> Result<Vec<Applied>, WriteError> {
    // Once one attempt may have taken effect, no later refusal can say that nothing was written.
    let mut uncertain = false;
    loop {
        let left_ms = deadline_ms.saturating_sub(clock.monotonic_ms());
        let error = if left_ms == 0 {
            ProposeError::NoLeader
        } else {
            match store.propose(batch.clone(), Duration::from_millis(left_ms)).await {
                Ok(applied) => return Ok(applied),
                Err(error) => error,
            }
        };
        match &error {
            ProposeError::TooLarge { len, max } => {
                return Err(WriteError::TooLarge { len: *len, max: *max });
            }
            // A node whose disk fails under a write may already have sent it to the others.
            ProposeError::Storage(_) if uncertain => {
                return Err(WriteError::OutcomeUnknown { retry_after_s: 1 });
            }
            ProposeError::Storage(why) => return Err(WriteError::Storage(why.clone())),
            ProposeError::Refused(_) if !uncertain => return Err(unavailable(&error.to_string())),
            // Its leadership is over; another attempt would be refused alike.
            ProposeError::NotLeader { .. }
                if !uncertain && batch.proposals.iter().any(is_fenced) =>
            {
                return Err(unavailable(&error.to_string()));
            }
            _ => uncertain |= !error.is_clean(),
        }
        let left_ms = deadline_ms.saturating_sub(clock.monotonic_ms());
        if left_ms <= RETRY_PAUSE_MS {
            return Err(match error {
                _ if uncertain => WriteError::OutcomeUnknown { retry_after_s: 1 },
                ProposeError::Overloaded => WriteError::Overloaded { retry_after_s: 1 },
                _ => unavailable(&error.to_string()),
            });
        }
        tokio::time::sleep(Duration::from_millis(RETRY_PAUSE_MS)).await;
    }
}

impl Actor for RegistryActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.settings.pending_max);
        let mut duties = self.duties.clone();
        let addr = ctx.address();
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

impl Drop for RegistryActor {
    fn drop(&mut self) {
        if let Some(expiring) = self.expiring.take() {
            expiring.cancel();
        }
    }
}

impl Handler<Submit> for RegistryActor {
    type Result = ();

    fn handle(&mut self, submit: Submit, ctx: &mut Self::Context) {
        self.queues.push(submit);
        self.pump(ctx);
    }
}

impl Handler<DutiesChanged> for RegistryActor {
    type Result = ();

    fn handle(&mut self, DutiesChanged(fence): DutiesChanged, ctx: &mut Self::Context) {
        if let Some(expiring) = self.expiring.take() {
            expiring.cancel();
        }
        let Some(fence) = fence else {
            self.duty.stand_down();
            return;
        };
        let cancel = CancellationToken::new();
        self.expiring = Some(cancel.clone());
        let run = self.duty.clone().run(fence);
        let guarded = async move {
            tokio::select! {
                // First of all: once told to end it must not touch the table that its successor
                // fills.
                biased;
                () = cancel.cancelled() => {}
                () = run => {}
            }
        };
        ctx.spawn(guarded.into_actor(self));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use bytes::Bytes;
    use tokio::sync::watch;

    use super::*;
    use maxine_state::Leadership;
    use maxine_store::{CallError, Consistency, ReadError};

    /// Answers with these errors, one after the other.
    struct Failing(Mutex<VecDeque<ProposeError>>);

    #[async_trait]
    impl ControlStore for Failing {
        async fn propose(&self, _: Batch, _: Duration) -> Result<Vec<Applied>, ProposeError> {
            Err(self.0.lock().unwrap().pop_front().unwrap())
        }

        async fn barrier(&self, _: Consistency, _: Duration) -> Result<(), ReadError> {
            Ok(())
        }

        fn leadership(&self) -> watch::Receiver<Leadership> {
            watch::channel(Leadership::default()).1
        }

        fn staleness_ms(&self) -> Option<u64> {
            Some(0)
        }

        async fn call_leader(&self, _: Bytes, _: Duration) -> Result<Bytes, CallError> {
            Ok(Bytes::new())
        }

        fn kind(&self) -> &'static str {
            "failing"
        }

        async fn shutdown(&self) {}
    }

    #[tokio::test]
    async fn a_disk_that_fails_after_an_attempt_does_not_make_the_outcome_known() {
        let batch = Batch { proposals: Vec::new() };
        let outcome = async |errors: Vec<ProposeError>| {
            let store = Failing(Mutex::new(errors.into()));
            attempt(&store, &Clock::manual(), &batch, 10_000).await.unwrap_err()
        };
        let failed = || ProposeError::Storage("no space left".into());
        let known = outcome(vec![ProposeError::NoLeader, failed()]).await;
        assert!(matches!(known, WriteError::Storage(_)), "{known:?}");
        let unknown = outcome(vec![ProposeError::OutcomeUnknown, failed()]).await;
        assert!(matches!(unknown, WriteError::OutcomeUnknown { .. }), "{unknown:?}");
    }
}
