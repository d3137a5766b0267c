//! The registry's actor: gathers writes into batches and sees them through.
//!
//! While one batch is on its way the next one gathers, so the batch grows with the load and a
//! lone write waits for nobody. Writes wait in three [`queues`](super::queues): Maxine's own, those of
//! callers with a credential, and those of strangers, who cannot hold the others up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::super::leadership::Duties;
use super::super::supervisor::Lifeline;
use super::expiry::ExpiryDuty;
use super::queues::{Deadlines, Queues, Submit};
use super::{RegistrySettings, WriteError};
use maxine_clock::Clock;
use maxine_state::{Applied, Batch, Fence, Proposal};
use maxine_store::{ControlStore, ProposeError, WriteTime};

/// Most batches on their way at once. With one, the next gathers for as long as this one takes, so
/// that fewer and larger ones are stored: a tenth more writes a second than with two.
const BATCHES_IN_FLIGHT_MAX: usize = 1;
/// Pause between two attempts while there is no leader, in milliseconds.
const RETRY_PAUSE_MS: u64 = 20;
/// How often the queues are searched for writes that waited too long. They are answered by so much later.
const LATE_CHECK: Duration = Duration::from_millis(50);

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

/// A batch on its way, and who waits for it.
struct Underway {
    batch: Batch,
    waiters: Vec<Waiter>,
}

struct Waiter {
    time: Deadlines,
    reply: oneshot::Sender<Result<Applied, WriteError>>,
}

impl Waiter {
    fn answer(self, result: Result<Applied, WriteError>) {
        // The caller may have gone; then nobody needs the answer.
        let _gone = self.reply.send(result);
    }
}

impl Underway {
    fn new(batch: Vec<Submit>) -> Self {
        let (mut proposals, mut waiters) = (Vec::new(), Vec::new());
        for Submit { proposal, time, reply, .. } in batch {
            proposals.push(proposal);
            waiters.push(Waiter { time, reply });
        }
        Self { batch: Batch { proposals }, waiters }
    }

    fn end_ms(&self) -> u64 {
        self.waiters.iter().map(|waiter| waiter.time.end_ms).max().unwrap_or(0)
    }

    /// When the first of them waits no longer for its write to begin.
    fn begin_ms(&self) -> u64 {
        self.waiters.iter().map(|waiter| waiter.time.begin_ms).min().unwrap_or(0)
    }

    /// Splits off the second half.
    fn split(&mut self) -> Self {
        let half = self.waiters.len() / 2;
        let proposals = self.batch.proposals.split_off(half);
        Self { batch: Batch { proposals }, waiters: self.waiters.split_off(half) }
    }

    /// Takes out those whose writes had to begin by `now_ms`, and answers them with `error`.
    fn refuse_late(&mut self, now_ms: u64, error: &WriteError) {
        let each = self.batch.proposals.drain(..).zip(self.waiters.drain(..));
        let (late, in_time): (Vec<_>, Vec<_>) =
            each.partition(|(_, waiter)| waiter.time.begin_ms <= now_ms);
        late.into_iter().for_each(|(_, waiter)| waiter.answer(Err(error.clone())));
        (self.batch.proposals, self.waiters) = in_time.into_iter().unzip();
    }
}

/// Sees one batch through: repeats it for as long as that is safe and its time lasts, then
/// answers everyone in it.
async fn carry(store: Arc<dyn ControlStore>, clock: Clock, batch: Vec<Submit>) {
    let mut groups = VecDeque::from([Underway::new(batch)]);
    while let Some(mut group) = groups.pop_front() {
        match attempt(&*store, &clock, &mut group).await {
            Ok(applied) => {
                for (waiter, applied) in group.waiters.into_iter().zip(applied) {
                    waiter.answer(Ok(applied));
                }
            }
            // Together they are too large, each alone perhaps not.
            Err(WriteError::TooLarge { .. }) if group.waiters.len() > 1 => {
                let later = group.split();
                groups.push_front(later);
                groups.push_front(group);
            }
            Err(error) => {
                for waiter in group.waiters {
                    waiter.answer(Err(error.clone()));
                }
            }
        }
    }
}

/// Proposes a batch until there is an answer for all of it. Those whose time to begin is over are
/// answered on the way, while it is certain that nothing was proposed.
async fn attempt(
    store: &dyn ControlStore,
    clock: &Clock,
    group: &mut Underway,
) -> Result<Vec<Applied>, WriteError> {
    // Once one attempt may have taken effect, no later refusal can say that nothing was written.
    let mut uncertain = false;
    loop {
        let now_ms = clock.monotonic_ms();
        let end_ms = group.end_ms();
        let begin_ms = if uncertain { end_ms } else { group.begin_ms().min(end_ms) };
        let left = |until_ms: u64| Duration::from_millis(until_ms.saturating_sub(now_ms));
        let time = WriteTime { begin: left(begin_ms), end: left(end_ms) };
        let error = if time.begin.is_zero() {
            ProposeError::NoLeader
        } else {
            match store.propose(group.batch.clone(), time).await {
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
                if !uncertain && group.batch.proposals.iter().any(is_fenced) =>
            {
                return Err(unavailable(&error.to_string()));
            }
            _ => uncertain |= !error.is_clean(),
        }
        let soon_ms = clock.monotonic_ms() + RETRY_PAUSE_MS;
        if uncertain {
            if soon_ms >= end_ms {
                return Err(WriteError::OutcomeUnknown { retry_after_s: 1 });
            }
        } else {
            let error = match error {
                ProposeError::Overloaded => WriteError::Overloaded { retry_after_s: 1 },
                _ => unavailable(&error.to_string()),
            };
            group.refuse_late(soon_ms, &error);
            if group.waiters.is_empty() {
                return Err(error);
            }
        }
        tokio::time::sleep(Duration::from_millis(RETRY_PAUSE_MS)).await;
    }
}

impl Actor for RegistryActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.settings.pending_max);
        ctx.run_interval(LATE_CHECK, |actor, _| {
            actor.queues.refuse_late(actor.clock.monotonic_ms());
        });
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
    use maxine_state::{Command, Leadership, Name, RequestId};
    use maxine_store::{CallError, Consistency, ReadError};

    /// Answers with these errors, one after the other.
    struct Failing(Mutex<VecDeque<ProposeError>>);

    #[async_trait]
    impl ControlStore for Failing {
        async fn propose(&self, _: Batch, _: WriteTime) -> Result<Vec<Applied>, ProposeError> {
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

    fn underway(
        begin_ms: &[u64],
    ) -> (Underway, Vec<oneshot::Receiver<Result<Applied, WriteError>>>) {
        let (mut waiters, mut answers) = (Vec::new(), Vec::new());
        for begin_ms in begin_ms {
            let (reply, answer) = oneshot::channel();
            waiters.push(Waiter { time: Deadlines { begin_ms: *begin_ms, end_ms: 10_000 }, reply });
            answers.push(answer);
        }
        let proposals = begin_ms.iter().map(|_| Proposal {
            request_id: RequestId(1),
            proposed_at_ms: 1,
            fence: None,
            actor: maxine_state::Actor::system("test"),
            command: Command::DeleteUser { name: Name::trusted("ada") },
        });
        (Underway { batch: Batch { proposals: proposals.collect() }, waiters }, answers)
    }

    #[tokio::test]
    async fn a_disk_that_fails_after_an_attempt_does_not_make_the_outcome_known() {
        let outcome = async |errors: Vec<ProposeError>| {
            let store = Failing(Mutex::new(errors.into()));
            let (mut group, _answers) = underway(&[10_000]);
            attempt(&store, &Clock::manual(), &mut group).await.unwrap_err()
        };
        let failed = || ProposeError::Storage("no space left".into());
        let known = outcome(vec![ProposeError::NoLeader, failed()]).await;
        assert!(matches!(known, WriteError::Storage(_)), "{known:?}");
        let unknown = outcome(vec![ProposeError::OutcomeUnknown, failed()]).await;
        assert!(matches!(unknown, WriteError::OutcomeUnknown { .. }), "{unknown:?}");
    }

    /// While nothing was proposed, whoever waits no longer is told so, and the others go on. Once
    /// it may have been proposed, nobody is told that nothing was written.
    #[tokio::test]
    async fn each_write_of_a_batch_that_never_began_is_refused_in_its_own_time() {
        let first = |errors: Vec<ProposeError>| async {
            let store = Failing(Mutex::new(errors.into()));
            let (mut group, mut answers) = underway(&[RETRY_PAUSE_MS, 10_000]);
            let clock = Clock::manual();
            let error = attempt(&store, &clock, &mut group).await.unwrap_err();
            assert!(matches!(error, WriteError::Storage(_) | WriteError::OutcomeUnknown { .. }));
            (group.waiters.len(), answers.remove(0).try_recv())
        };
        let failed = || ProposeError::Storage("no space left".into());
        let (left, answer) = first(vec![ProposeError::NoLeader, failed()]).await;
        assert_eq!(left, 1);
        assert!(matches!(answer, Ok(Err(WriteError::Unavailable { .. }))), "{answer:?}");
        let (left, answer) = first(vec![ProposeError::OutcomeUnknown, failed()]).await;
        assert_eq!((left, answer.is_err()), (2, true));
    }
}
