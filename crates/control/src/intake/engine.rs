//! The engine of the intake. It works on one batch at a time, until the outcome is known or its time is over.

use std::collections::VecDeque;

use super::outcome::{Attempted, Failure, Refusal};
use super::queues::{Queues, Write, WriteTimes};
use crate::faults::{self, Fault};
use maxine_state::{Applied, Batch};

/// Pause between two attempts while there is no leader, in milliseconds.
const RETRY_PAUSE_MS: u64 = 20;

/// Interval at which [`IntakeEvent::Tick`] must come, in milliseconds. Writes that waited too long are
/// answered at most this much late.
pub const INTAKE_TICK_MS: u64 = 50;
/// The answer to a write that waited too long before it was proposed.
const NOT_STARTED: &str = "the write waited too long in the queue and was not started";

/// An event that concerns writes. `R` is the handle for answering a write.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "an event is passed on at once and never kept")]
pub enum IntakeEvent<R> {
    /// A caller submits a write.
    Submitted(Write<R>),
    /// The end of [`IntakeEffect::Propose`].
    Attempted {
        /// The attempt's number.
        attempt: u64,
        /// How it ended.
        end: Attempted,
    },
    /// The end of [`IntakeEffect::Pause`].
    Paused {
        /// The attempt's number.
        attempt: u64,
    },
    /// It is time to answer writes that waited too long.
    Tick,
}

/// What the driver has to do.
#[derive(Debug)]
pub enum IntakeEffect<R> {
    /// Propose a batch to the backend.
    Propose {
        /// The number to return in [`IntakeEvent::Attempted`].
        attempt: u64,
        /// The batch.
        batch: Batch,
        /// Time within which the attempt must begin, in milliseconds.
        begin_ms: u64,
        /// Time within which the attempt must end, in milliseconds.
        end_ms: u64,
    },
    /// Wait before the next attempt.
    Pause {
        /// The number to return in [`IntakeEvent::Paused`].
        attempt: u64,
        /// The duration, in milliseconds.
        ms: u64,
    },
    /// Answer a write.
    Answer(R, Result<Applied, Refusal>),
}

/// A batch in flight.
#[derive(Debug)]
struct Flight<R> {
    batch: Batch,
    /// For each proposal of the batch, its time limits and the handle of its caller.
    waiters: Vec<(WriteTimes, R)>,
    /// Whether an attempt may have taken effect. If so, no later answer may say that nothing was written.
    is_uncertain: bool,
}

/// The engine that collects the writes of a node into batches.
#[derive(Debug)]
pub struct Intake<R> {
    queues: Queues<R>,
    /// The batch in flight. There is at most one. With two, fewer writes would share an `fdatasync`, and the
    /// throughput would be lower.
    flight: Option<Flight<R>>,
    /// The parts of a batch that was too large and was split. They are proposed next.
    parts: VecDeque<Flight<R>>,
    attempts: u64,
}

impl<R> Intake<R> {
    /// An intake without writes. Up to `pending_max` writes of each class may wait.
    #[must_use]
    pub fn new(pending_max: usize) -> Self {
        let (queues, parts) = (Queues::new(pending_max), VecDeque::new());
        Self { queues, flight: None, parts, attempts: 0 }
    }

    /// Handles an event and returns what the driver has to do.
    #[must_use]
    pub fn step(&mut self, event: IntakeEvent<R>, now_ms: u64) -> Vec<IntakeEffect<R>> {
        let mut effects = Vec::new();
        match event {
            IntakeEvent::Submitted(write) => {
                if let Err((reply, refusal)) = self.queues.push(write) {
                    effects.push(IntakeEffect::Answer(reply, Err(refusal)));
                }
            }
            IntakeEvent::Attempted { attempt, end } if attempt == self.attempts => {
                self.attempted(end, now_ms, &mut effects);
            }
            IntakeEvent::Paused { attempt } if attempt == self.attempts => {
                self.attempt(now_ms, &mut effects);
            }
            IntakeEvent::Tick => refuse(self.queues.take_expired(now_ms), &mut effects),
            IntakeEvent::Attempted { .. } | IntakeEvent::Paused { .. } => {}
        }
        if self.flight.is_none() {
            self.next_batch(now_ms, &mut effects);
        }
        effects
    }

    fn next_batch(&mut self, now_ms: u64, effects: &mut Vec<IntakeEffect<R>>) {
        self.flight = self.parts.pop_front();
        if self.flight.is_none() {
            let (mut proposals, mut waiters) = (Vec::new(), Vec::new());
            let (taken, late) = self.queues.take_batch(now_ms);
            refuse(late, effects);
            for write in taken {
                proposals.push(write.proposal);
                waiters.push((write.time, write.reply));
            }
            if waiters.is_empty() {
                return;
            }
            self.flight = Some(Flight { batch: Batch { proposals }, waiters, is_uncertain: false });
        }
        self.attempt(now_ms, effects);
    }

    fn attempt(&mut self, now_ms: u64, effects: &mut Vec<IntakeEffect<R>>) {
        let Some(flight) = &self.flight else { return };
        self.attempts += 1;
        let (begin_ms, end_ms) = flight.left_ms(now_ms);
        if begin_ms == 0 {
            return self.attempted(Err(Failure::NotWritten(NOT_STARTED.into())), now_ms, effects);
        }
        let (attempt, batch) = (self.attempts, flight.batch.clone());
        effects.push(IntakeEffect::Propose { attempt, batch, begin_ms, end_ms });
    }

    fn attempted(&mut self, end: Attempted, now_ms: u64, effects: &mut Vec<IntakeEffect<R>>) {
        let Some(mut flight) = self.flight.take() else { return };
        let failure = match end {
            Ok(applied) => {
                let answers = flight.waiters.into_iter().zip(applied);
                effects.extend(
                    answers.map(|((_, reply), done)| IntakeEffect::Answer(reply, Ok(done))),
                );
                return;
            }
            Err(failure) => failure,
        };
        // Together the writes are too large, but each half may fit.
        let is_split = matches!(failure, Failure::TooLarge { .. }) && flight.waiters.len() > 1;
        if is_split && !flight.is_uncertain {
            let [first, second] = flight.split();
            self.parts.push_front(second);
            self.parts.push_front(first);
            return;
        }
        match flight.judge(failure) {
            AfterFailure::Over(refusal) => flight.refuse_until(u64::MAX, &refusal, effects),
            // Writes whose time is over are answered, and the others are tried again.
            AfterFailure::Again(refusal) => {
                flight.refuse_until(now_ms + RETRY_PAUSE_MS, &refusal, effects);
            }
        }
        if !flight.waiters.is_empty() {
            self.flight = Some(flight);
            let attempt = self.attempts;
            effects.push(IntakeEffect::Pause { attempt, ms: RETRY_PAUSE_MS });
        }
    }
}

fn refuse<R>(late: Vec<R>, effects: &mut Vec<IntakeEffect<R>>) {
    let refusal = || Err(Refusal::NotWritten(NOT_STARTED.into()));
    effects.extend(late.into_iter().map(|reply| IntakeEffect::Answer(reply, refusal())));
}

/// What follows from a failure.
#[derive(Debug, PartialEq, Eq)]
enum AfterFailure {
    /// Every write of the batch gets this answer.
    Over(Refusal),
    /// The batch is tried again. Writes whose time is over get this answer.
    Again(Refusal),
}

impl<R> Flight<R> {
    /// The time in which this attempt must begin and end, in milliseconds.
    fn left_ms(&self, now_ms: u64) -> (u64, u64) {
        let end_ms = self.waiters.iter().map(|(time, _)| time.end_ms).max().unwrap_or(0);
        let begins = self.waiters.iter().map(|(time, _)| time.begin_ms);
        let first_ms = begins.min().unwrap_or(0).min(end_ms);
        let begin_ms = if self.is_uncertain { end_ms } else { first_ms };
        (begin_ms.saturating_sub(now_ms), end_ms.saturating_sub(now_ms))
    }

    fn split(self) -> [Self; 2] {
        let Self { batch: Batch { mut proposals }, mut waiters, is_uncertain } = self;
        let half = proposals.len() / 2;
        let (later, waiters_later) = (proposals.split_off(half), waiters.split_off(half));
        let first = Self { batch: Batch { proposals }, waiters, is_uncertain };
        [first, Self { batch: Batch { proposals: later }, waiters: waiters_later, is_uncertain }]
    }

    /// Removes the writes whose time is over at `until_ms`, and answers them. Once an attempt may have taken
    /// effect, all writes stay together until the time of the last one is over.
    fn refuse_until(
        &mut self,
        until_ms: u64,
        refusal: &Refusal,
        effects: &mut Vec<IntakeEffect<R>>,
    ) {
        let end_ms = self.waiters.iter().map(|(time, _)| time.end_ms).max().unwrap_or(0);
        let each = self.batch.proposals.drain(..).zip(self.waiters.drain(..));
        let (late, in_time): (Vec<_>, Vec<_>) = each.partition(|(_, (time, _))| {
            until_ms >= if self.is_uncertain { end_ms } else { time.begin_ms.min(end_ms) }
        });
        (self.batch.proposals, self.waiters) = in_time.into_iter().unzip();
        let answers = late.into_iter().map(|(_, (_, reply))| reply);
        effects.extend(answers.map(|reply| IntakeEffect::Answer(reply, Err(refusal.clone()))));
    }

    fn judge(&mut self, failure: Failure) -> AfterFailure {
        let was_uncertain = self.is_uncertain;
        // A node whose disk fails during a write may already have sent the write to other nodes.
        let may_be_written = matches!(failure, Failure::Unknown | Failure::Storage(_));
        self.is_uncertain |= may_be_written && !faults::is_on(Fault::ForgetUncertainty);
        let has_fence = self.batch.proposals.iter().any(|proposal| proposal.fence.is_some());
        let refusal = match failure {
            Failure::Storage(why) => {
                return AfterFailure::Over(unless(was_uncertain, Refusal::Storage(why)));
            }
            Failure::TooLarge { len, max } => {
                return AfterFailure::Over(unless(was_uncertain, Refusal::TooLarge { len, max }));
            }
            Failure::Refused(why) if !was_uncertain => {
                return AfterFailure::Over(Refusal::Refused(why));
            }
            // The leadership under which the command was decided has ended, so another attempt would be refused too.
            Failure::NotLeader(why) if has_fence && !was_uncertain => {
                return AfterFailure::Over(Refusal::NotWritten(why));
            }
            Failure::Refused(why) | Failure::NotLeader(why) | Failure::NotWritten(why) => {
                Refusal::NotWritten(why)
            }
            Failure::Overloaded => Refusal::Overloaded,
            Failure::Unknown => Refusal::NotWritten("there was no answer in time".into()),
        };
        AfterFailure::Again(unless(self.is_uncertain, refusal))
    }
}

/// The refusal, or `Unknown` if an attempt may have taken effect.
fn unless(is_uncertain: bool, refusal: Refusal) -> Refusal {
    if is_uncertain { Refusal::Unknown } else { refusal }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{Actor, Command, Fence, Proposal, Reply, RequestId};
    use std::net::Ipv4Addr;

    fn write(reply: u32, fence: Option<Fence>) -> Write<u32> {
        let proposal = Proposal {
            request_id: RequestId(reply.into()),
            proposed_at_ms: 1,
            fence,
            actor: Actor::system("test"),
            command: Command::Deregister { items: Vec::new() },
        };
        let time = WriteTimes { begin_ms: 10_000, end_ms: 10_000 };
        Write { proposal, time, address: Ipv4Addr::UNSPECIFIED.into(), reply }
    }

    fn proposed(effects: &[IntakeEffect<u32>]) -> Option<(u64, usize)> {
        effects.iter().find_map(|effect| match effect {
            IntakeEffect::Propose { attempt, batch, .. } => Some((*attempt, batch.proposals.len())),
            _ => None,
        })
    }

    fn answers(effects: Vec<IntakeEffect<u32>>) -> Vec<(u32, Result<Applied, Refusal>)> {
        let each = effects.into_iter().filter_map(|effect| match effect {
            IntakeEffect::Answer(reply, answer) => Some((reply, answer)),
            _ => None,
        });
        each.collect()
    }

    /// The answer to a write whose attempts end with these failures, 100 ms apart.
    fn answer_after(failures: Vec<Failure>, fence: Option<Fence>) -> Refusal {
        let mut intake = Intake::new(16);
        let mut now_ms = 0;
        let mut effects = intake.step(IntakeEvent::Submitted(write(1, fence)), now_ms);
        for failure in failures {
            now_ms += 100;
            let (attempt, _) = proposed(&effects).expect("it is tried again");
            let end = Err(failure);
            effects = intake.step(IntakeEvent::Attempted { attempt, end }, now_ms);
            if matches!(effects[..], [IntakeEffect::Pause { .. }]) {
                effects = intake.step(IntakeEvent::Paused { attempt }, now_ms + 20);
            }
        }
        answers(effects).pop().expect("it is answered").1.unwrap_err()
    }

    #[test]
    fn once_an_attempt_may_have_taken_effect_no_refusal_says_that_nothing_was_written() {
        let failed = || Failure::Storage("no space left".into());
        let not_written = || Failure::NotWritten("no leader is known".into());
        let at_last = |first: Failure, last: Failure| {
            let mut intake = Intake::new(16);
            let _propose = intake.step(IntakeEvent::Submitted(write(1, None)), 0);
            let end = |attempt, failure| IntakeEvent::Attempted { attempt, end: Err(failure) };
            assert!(matches!(intake.step(end(1, first), 1)[..], [IntakeEffect::Pause { .. }]));
            let _propose = intake.step(IntakeEvent::Paused { attempt: 1 }, 21);
            answers(intake.step(end(2, last), 9_990))
                .pop()
                .expect("its time is over")
                .1
                .unwrap_err()
        };
        assert_eq!(
            answer_after(vec![not_written(), failed()], None),
            Refusal::Storage("no space left".into())
        );
        assert_eq!(answer_after(vec![Failure::Unknown, failed()], None), Refusal::Unknown);
        assert_eq!(at_last(Failure::Unknown, not_written()), Refusal::Unknown);
        assert_eq!(at_last(Failure::Unknown, Failure::Overloaded), Refusal::Unknown);
        assert_eq!(at_last(not_written(), Failure::Overloaded), Refusal::Overloaded);
    }

    /// Once a batch may have been proposed, no write in it is answered as not written.
    #[test]
    fn each_write_of_a_batch_that_never_began_is_refused_in_its_own_time() {
        let first_answers = |failure: Failure| {
            let mut intake = Intake::new(16);
            let _propose = intake.step(IntakeEvent::Submitted(write(0, None)), 0);
            let mut short = write(1, None);
            short.time.begin_ms = 100;
            assert!(intake.step(IntakeEvent::Submitted(short), 0).is_empty());
            assert!(intake.step(IntakeEvent::Submitted(write(2, None)), 0).is_empty());
            let end = Ok(vec![Applied { index: 1, reply: Reply::Done }]);
            let effects = intake.step(IntakeEvent::Attempted { attempt: 1, end }, 10);
            let times = effects.iter().find_map(|effect| match effect {
                IntakeEffect::Propose { begin_ms, end_ms, .. } => Some((*begin_ms, *end_ms)),
                _ => None,
            });
            assert_eq!(times, Some((90, 9_990)));
            let end = Err(failure);
            let effects = intake.step(IntakeEvent::Attempted { attempt: 2, end }, 90);
            let again = effects.iter().any(|effect| matches!(effect, IntakeEffect::Pause { .. }));
            assert!(again, "the other goes on");
            answers(effects)
        };
        let why = || String::from("no leader is known");
        let first = first_answers(Failure::NotWritten(why()));
        assert_eq!(first, [(1, Err(Refusal::NotWritten(why())))]);
        assert_eq!(first_answers(Failure::Unknown), []);
    }

    #[test]
    fn a_write_that_waits_behind_a_slow_batch_is_refused_in_its_own_time() {
        let mut intake = Intake::new(16);
        let _propose = intake.step(IntakeEvent::Submitted(write(0, None)), 0);
        let mut short = write(1, None);
        short.time.begin_ms = 100;
        assert!(intake.step(IntakeEvent::Submitted(short), 0).is_empty());
        assert!(intake.step(IntakeEvent::Tick, 99).is_empty());
        let late = answers(intake.step(IntakeEvent::Tick, 100));
        assert_eq!(late, [(1, Err(Refusal::NotWritten(NOT_STARTED.into())))]);
    }

    #[test]
    fn what_only_the_leader_may_write_is_not_tried_again_elsewhere() {
        let not_leader = || Failure::NotLeader("this node is not the leader".into());
        let refused = answer_after(vec![not_leader()], Some(Fence(3)));
        assert_eq!(refused, Refusal::NotWritten("this node is not the leader".into()));
        let unknown = answer_after(
            vec![Failure::Unknown, not_leader(), Failure::Storage(String::new())],
            Some(Fence(3)),
        );
        assert_eq!(unknown, Refusal::Unknown);
    }

    #[test]
    fn one_batch_is_on_its_way_while_the_next_gathers_and_a_late_end_is_ignored() {
        let mut intake = Intake::new(16);
        let effects = intake.step(IntakeEvent::Submitted(write(1, None)), 0);
        assert_eq!(proposed(&effects), Some((1, 1)));
        for reply in 2..=4 {
            assert!(intake.step(IntakeEvent::Submitted(write(reply, None)), 1).is_empty());
        }
        let applied = |n| vec![Applied { index: 1, reply: Reply::Done }; n];
        let end = |attempt, n| IntakeEvent::Attempted { attempt, end: Ok(applied(n)) };
        let effects = intake.step(end(1, 1), 2);
        assert_eq!(proposed(&effects), Some((2, 3)));
        assert_eq!(answers(effects).len(), 1);
        assert!(intake.step(end(1, 1), 3).is_empty());
        assert_eq!(answers(intake.step(end(2, 3), 4)).len(), 3);
    }

    #[test]
    fn a_batch_that_is_too_large_is_split_until_each_part_fits() {
        let mut intake = Intake::new(16);
        let mut effects = intake.step(IntakeEvent::Submitted(write(0, None)), 0);
        for reply in 1..=5 {
            effects.extend(intake.step(IntakeEvent::Submitted(write(reply, None)), 0));
        }
        let mut answered = Vec::new();
        while let Some((attempt, len)) = proposed(&effects) {
            let end = match len {
                1 | 2 => Ok(vec![Applied { index: 1, reply: Reply::Done }; len]),
                _ => Err(Failure::TooLarge { len: 9, max: 5 }),
            };
            effects = intake.step(IntakeEvent::Attempted { attempt, end }, 1);
            for effect in &effects {
                if let IntakeEffect::Answer(reply, answer) = effect {
                    answered.push((*reply, answer.is_ok()));
                }
            }
        }
        assert_eq!(answered, [0, 1, 2, 3, 4, 5].map(|reply| (reply, true)));
    }
}
