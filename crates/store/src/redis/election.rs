//! Elects the leader with a lease in Redis.
//!
//! A node measures its lease with its own monotonic clock. The time begins before the node sends the command
//! that takes or renews the lease, and a margin is subtracted. So a node that cannot renew its lease steps
//! down before Redis drops the lease. A jump of the wall clock has no effect.

use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use serde::Deserialize;

use super::Core;
use super::scripts;
use maxine_state::Leadership;

/// Minimum time by which a node gives up its lease before Redis drops it.
const MARGIN_MS_MIN: u64 = 50;
const POLL_MS_MIN: u64 = 50;
const POLL_MS_MAX: u64 = 1_000;
const RENEW_RETRY_MS: u64 = 100;
/// An answer that takes longer than this, in milliseconds, ends a silence of Redis.
const LATE_MS: u64 = 1_000;
/// For how long after a silence Redis may still carry out commands that nobody waits for any more, in milliseconds.
const SETTLE_MS: u64 = 500;
/// For how long after a silence, or after it took the lease, a leader renews the lease often, in milliseconds. So the
/// other nodes see that it leads.
const PROVE_MS: u64 = 5_000;
/// Interval between two of these renewals, in milliseconds.
const PROVE_INTERVAL_MS: u64 = 500;

/// The lease as Redis stores it, in the format of the Node.js Maxine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LeaseRecord {
    pub(super) instance_id: String,
    pub(super) token: String,
    pub(super) fencing_token: u64,
}

/// The lease as a script answers it: empty if there is none.
struct LeaseInRedis {
    text: String,
    /// The remaining time of the lease, in milliseconds.
    left_ms: u64,
}

/// When Redis was asked about the lease.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at_ms: u64,
    answered_ms: u64,
    /// By how much the holder gives up its lease before Redis drops it, in milliseconds.
    margin_ms: u64,
}

/// What this node knows about the lease.
#[derive(Debug, Default)]
pub(super) struct LeaseState {
    /// The text of this node's own lease, and until when it is valid, in milliseconds of the monotonic clock.
    held: Option<(Arc<str>, u64)>,
    /// The last lease that was seen, and until when it lasts unless it is renewed.
    seen: Option<(LeaseRecord, u64)>,
    /// The highest fencing token so far. Tokens never decrease, even if Redis loses its data.
    highest_fence: u64,
    /// Since when Redis has reported, without interruption, that there is no leader.
    vacant_since_ms: Option<u64>,
    /// Whether the last question was not answered.
    is_unanswered: bool,
    /// When Redis first answered after the last silence.
    returned_ms: Option<u64>,
    /// Set while the lease that was seen last may have no leader. Redis carries out commands of before a silence, so
    /// a node may get a lease that it no longer waits for. The lease is proven when it lasts longer than this: then
    /// its holder has renewed it.
    unproven_until_ms: Option<u64>,
    /// Until when this node renews its lease often.
    prove_until_ms: u64,
}

impl LeaseState {
    /// Records what Redis answered to a question. The time that a lease still lasts is counted from the question, so
    /// that it never ends later here than in Redis.
    fn note(&mut self, lease: &LeaseInRedis, asked: Asked) {
        let was_silent = std::mem::take(&mut self.is_unanswered);
        if was_silent || asked.answered_ms.saturating_sub(asked.at_ms) > LATE_MS {
            self.returned_ms = Some(asked.answered_ms);
            self.prove_until_ms = asked.answered_ms + PROVE_MS;
        }
        let record = serde_json::from_str::<LeaseRecord>(&lease.text).ok();
        let before = self.seen.take().filter(|(seen, _)| record.as_ref() == Some(seen));
        let seen_until_ms = before.map(|(_, until_ms)| until_ms);
        self.unproven_until_ms = self.unproven_after(lease, asked, seen_until_ms);
        self.seen = record.map(|record| (record, asked.at_ms + lease.left_ms));
        if let Some((record, _)) = &self.seen {
            self.highest_fence = self.highest_fence.max(record.fencing_token);
        }
        if lease.text.is_empty() {
            self.vacant_since_ms.get_or_insert(asked.at_ms);
        } else {
            self.vacant_since_ms = None;
        }
    }

    /// Until when the lease lasts if nobody renews it; `None` if its holder leads. `seen_until_ms` is until when the
    /// same lease was known to last, if it was seen before.
    fn unproven_after(
        &self,
        lease: &LeaseInRedis,
        asked: Asked,
        seen_until_ms: Option<u64>,
    ) -> Option<u64> {
        let is_settled = self.returned_ms.is_none_or(|at_ms| asked.at_ms >= at_ms + SETTLE_MS);
        if is_settled {
            let until_ms = self.unproven_until_ms.filter(|_| seen_until_ms.is_some())?;
            let is_renewed = asked.at_ms + lease.left_ms > until_ms;
            return (!is_renewed).then_some(until_ms);
        }
        // The holder has not given it up during the silence.
        let is_held =
            seen_until_ms.is_some_and(|until_ms| asked.answered_ms + asked.margin_ms < until_ms);
        let is_proven = is_held && self.unproven_until_ms.is_none();
        (!is_proven).then_some(asked.answered_ms + lease.left_ms)
    }

    fn note_unanswered(&mut self) {
        self.is_unanswered = true;
        self.vacant_since_ms = None;
    }
}

impl Core {
    /// The text of the lease, while this node holds it.
    pub(super) fn held_lease(&self) -> Option<Arc<str>> {
        let now_ms = self.clock.monotonic_ms();
        let lease = self.lease.lock();
        lease.held.as_ref().filter(|(_, until_ms)| now_ms < *until_ms).map(|(text, _)| text.clone())
    }

    /// The holder of the lease, until the lease that was seen last runs out. A lease of an earlier process of this
    /// node has no holder.
    pub(super) fn lease_holder(&self) -> Option<LeaseRecord> {
        let now_ms = self.clock.monotonic_ms();
        let lease = self.lease.lock();
        let (record, until_ms) = lease.seen.as_ref()?;
        let lasts = now_ms < *until_ms;
        let holds = match record.token == self.tokens.mine() {
            true => lease.held.as_ref().is_some_and(|(_, until_ms)| now_ms < *until_ms),
            // Each node has its own name. So a lease with this node's name is from an earlier process of this node.
            false => {
                record.instance_id != self.config.instance_id
                    && !self.tokens.is_of_ended_process(&record.token)
            }
        };
        (lasts && holds).then(|| record.clone())
    }

    /// Who leads now. While Redis does not answer, no lease can be confirmed, so nobody is known to lead. While Redis
    /// refuses writes, the lease cannot be renewed, so nobody leads once it has run out. This node may use the lease
    /// that it holds for its writes until the lease runs out. A lease that was first seen right after a silence of
    /// Redis names a leader once it was renewed.
    pub(super) fn leadership_now(&self) -> Leadership {
        let is_confirmed = !self.is_unconfirmed();
        let is_leader = is_confirmed && self.held_lease().is_some();
        let is_proven = self.lease.lock().unproven_until_ms.is_none();
        let names_another =
            |record: &LeaseRecord| is_proven && record.instance_id != self.config.instance_id;
        let holder = self.lease_holder().filter(|_| is_confirmed);
        let holder = holder.filter(|record| is_leader || names_another(record));
        let term = self.lease.lock().highest_fence;
        Leadership { leader: holder.map(|record| record.instance_id), is_leader, term }
    }

    pub(super) fn publish_leadership(&self) {
        let now = self.leadership_now();
        self.leadership.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                tracing::info!(leader = ?now.leader, is_leader = now.is_leader, term = now.term,
                    "leadership");
                *before = now;
            }
            changed
        });
    }

    /// Stops leading immediately. In Redis, the lease runs out later.
    pub(super) fn step_down(&self) {
        self.lease.lock().held = None;
        self.publish_leadership();
    }

    /// Takes and renews the lease, and notices its loss, until the node stops.
    pub(super) async fn run_election(self: Arc<Self>) {
        loop {
            let held = self.held_lease();
            let pause = match held {
                // A node that reaches Redis and no longer follows the log should not lead.
                Some(_) if self.has_lost_touch() => {
                    self.release().await;
                    self.poll_pause()
                }
                Some(text) => self.renew(&text).await,
                None => self.contend().await,
            };
            self.publish_leadership();
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.release().await;
    }

    fn has_lost_touch(&self) -> bool {
        let complete_ms = self.complete_ms.load(std::sync::atomic::Ordering::Acquire);
        let silent_ms = self.clock.monotonic_ms().saturating_sub(complete_ms);
        !self.is_caught_up() && silent_ms > self.config.lease_ms
    }

    fn margin_ms(&self) -> u64 {
        (self.config.lease_ms / 10).max(MARGIN_MS_MIN)
    }

    fn remaining_ms(&self) -> u64 {
        let now_ms = self.clock.monotonic_ms();
        self.lease.lock().held.as_ref().map_or(0, |(_, until_ms)| until_ms.saturating_sub(now_ms))
    }

    /// A question of `at_ms` that Redis has just answered.
    fn asked(&self, at_ms: u64) -> Asked {
        Asked { at_ms, answered_ms: self.clock.monotonic_ms(), margin_ms: self.margin_ms() }
    }

    fn renew_pause_ms(&self) -> u64 {
        let proves = self.clock.monotonic_ms() < self.lease.lock().prove_until_ms;
        if proves { self.config.renew_ms.min(PROVE_INTERVAL_MS) } else { self.config.renew_ms }
    }

    async fn renew(&self, text: &Arc<str>) -> Duration {
        let sent_ms = self.clock.monotonic_ms();
        let limit = Duration::from_millis(self.remaining_ms());
        let lease_ms = self.config.lease_ms.to_string();
        let run = async {
            let (mut link, generation) = self.main.get().await?;
            let args = [text.as_bytes(), lease_ms.as_bytes()];
            let keys = [&*self.keys.leader];
            let answer: RedisResult<(u64, String, u64)> =
                scripts::RENEW.run(&mut link, &keys, &args, limit).await;
            answer.inspect_err(|error| self.main.report(generation, error))
        };
        match tokio::time::timeout(limit, run).await {
            Ok(Ok((1, text, left_ms))) => {
                let mut lease = self.lease.lock();
                lease.note(&LeaseInRedis { text, left_ms }, self.asked(sent_ms));
                let until_ms = sent_ms + self.config.lease_ms - self.margin_ms();
                if let Some(held) = &mut lease.held {
                    held.1 = until_ms;
                }
                drop(lease);
                Duration::from_millis(self.renew_pause_ms().min(self.remaining_ms()))
            }
            Ok(Ok((_, text, left_ms))) => {
                tracing::warn!("another node holds the lease: this node no longer leads");
                let mut lease = self.lease.lock();
                lease.held = None;
                lease.note(&LeaseInRedis { text, left_ms }, self.asked(sent_ms));
                drop(lease);
                self.poll_pause()
            }
            Ok(Err(_)) | Err(_) => {
                self.lease.lock().note_unanswered();
                let remaining_ms = self.remaining_ms();
                if remaining_ms == 0 {
                    tracing::warn!("the lease could not be renewed: this node no longer leads");
                    self.step_down();
                }
                Duration::from_millis(RENEW_RETRY_MS.min(remaining_ms.max(1)))
            }
        }
    }

    async fn contend(&self) -> Duration {
        // A lease that ran out while this node was suspended is over, even if Redis still has it.
        self.lease.lock().held = None;
        let sent_ms = self.clock.monotonic_ms();
        let competes = self.config.election_enabled || self.is_needed();
        let may_lead = competes && self.is_caught_up() && !self.has_failed();
        let answer = if may_lead { self.acquire().await } else { self.look().await };
        let Ok((taken, lease)) = answer else {
            self.lease.lock().note_unanswered();
            return self.poll_pause();
        };
        if let Some(until_ms) = self.note_answer(taken, &lease, sent_ms) {
            return Duration::from_millis(self.renew_pause_ms().min(until_ms - sent_ms));
        }
        if self.lease_is_forgotten() {
            self.give_back(&lease.text).await;
        }
        self.poll_pause()
    }

    /// Whether there has been no leader for so long that no other node will lead. Then a node that does not
    /// compete takes the lease too. Otherwise, a node that is alone would never have a leader.
    fn is_needed(&self) -> bool {
        let now_ms = self.clock.monotonic_ms();
        let vacant_since_ms = self.lease.lock().vacant_since_ms;
        vacant_since_ms.is_some_and(|since_ms| now_ms - since_ms >= 2 * self.config.lease_ms)
    }

    /// Records the answer of Redis. Returns until when this node leads, if it got the lease.
    fn note_answer(&self, taken: bool, answer: &LeaseInRedis, sent_ms: u64) -> Option<u64> {
        let until_ms = sent_ms + self.config.lease_ms - self.margin_ms();
        let asked = self.asked(sent_ms);
        let now_ms = asked.answered_ms;
        let mut lease = self.lease.lock();
        lease.note(answer, asked);
        if !taken || now_ms >= until_ms {
            return None;
        }
        lease.prove_until_ms = now_ms + PROVE_MS;
        lease.held = Some((answer.text.as_str().into(), until_ms));
        Some(until_ms)
    }

    /// Whether Redis still has a lease that this node has given up, or that an earlier process of it left. The next
    /// lease has a new fencing token.
    fn lease_is_forgotten(&self) -> bool {
        let lease = self.lease.lock();
        lease.held.is_none()
            && lease.seen.as_ref().is_some_and(|(LeaseRecord { token, .. }, _)| {
                token == self.tokens.mine() || self.tokens.is_of_ended_process(token)
            })
    }

    async fn acquire(&self) -> RedisResult<(bool, LeaseInRedis)> {
        let name = serde_json::Value::from(self.config.instance_id.as_str()).to_string();
        let numbers = [
            self.config.lease_ms.to_string(),
            self.clock.wall_ms().to_string(),
            self.lease.lock().highest_fence.to_string(),
        ];
        let args = [
            name.as_bytes(),
            self.tokens.mine().as_bytes(),
            numbers[0].as_bytes(),
            numbers[1].as_bytes(),
            numbers[2].as_bytes(),
        ];
        let (mut link, generation) = self.main.get().await?;
        let keys = [&*self.keys.leader, &*self.keys.fence];
        let timeout = self.config.command_timeout();
        let answer: RedisResult<(u64, String, u64)> =
            scripts::ACQUIRE.run(&mut link, &keys, &args, timeout).await;
        answer
            .inspect_err(|error| self.main.report(generation, error))
            .map(|(taken, text, left_ms)| (taken == 1, LeaseInRedis { text, left_ms }))
    }

    async fn look(&self) -> RedisResult<(bool, LeaseInRedis)> {
        let (mut link, generation) = self.main.get().await?;
        let keys = [&*self.keys.leader];
        let timeout = self.config.command_timeout();
        let lease: RedisResult<(String, u64)> =
            scripts::LEASE.run(&mut link, &keys, &[], timeout).await;
        let (text, left_ms) = lease.inspect_err(|error| self.main.report(generation, error))?;
        Ok((false, LeaseInRedis { text, left_ms }))
    }

    fn poll_pause(&self) -> Duration {
        let full = (self.config.renew_ms / 5).clamp(POLL_MS_MIN, POLL_MS_MAX);
        Duration::from_millis(rand::random_range(full / 2..=full))
    }

    async fn release(&self) {
        let Some(text) = self.held_lease() else { return };
        self.step_down();
        self.give_back(&text).await;
    }

    async fn give_back(&self, text: &str) {
        let Ok((mut link, generation)) = self.main.get().await else { return };
        let timeout = Duration::from_millis(self.config.command_timeout_ms.min(1_000));
        let keys = [&*self.keys.leader];
        let released: RedisResult<u64> =
            scripts::RELEASE.run(&mut link, &keys, &[text.as_bytes()], timeout).await;
        if let Err(error) = released {
            self.main.report(generation, &error);
            tracing::info!(%error, "the lease could not be released; it ends when its time is over");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE_MS: u64 = 2_000;

    fn lease(holder: &str, fence: u64, left_ms: u64) -> LeaseInRedis {
        let text =
            serde_json::json!({"instanceId": holder, "token": holder, "fencingToken": fence});
        LeaseInRedis { text: text.to_string(), left_ms }
    }

    fn asked(at_ms: u64, answered_ms: u64) -> Asked {
        Asked { at_ms, answered_ms, margin_ms: 200 }
    }

    fn nobody() -> LeaseInRedis {
        LeaseInRedis { text: String::new(), left_ms: 0 }
    }

    /// A state that saw a lease of `a` at 0, and no answer after that.
    fn silent() -> LeaseState {
        let mut state = LeaseState::default();
        state.note(&lease("a", 1, LEASE_MS), asked(0, 1));
        assert_eq!(state.unproven_until_ms, None);
        state.note_unanswered();
        state
    }

    #[test]
    fn a_lease_that_was_taken_during_a_silence_names_nobody_until_it_is_renewed() {
        let mut state = silent();
        // Redis has carried out a request of `b` that `b` no longer waits for.
        state.note(&lease("b", 2, LEASE_MS), asked(5_000, 5_002));
        assert_eq!(state.unproven_until_ms, Some(7_002));
        // The same lease, later. A renewal that was still on its way counts for nothing.
        state.note(&lease("b", 2, LEASE_MS), asked(5_300, 5_301));
        assert_eq!(state.unproven_until_ms, Some(7_301));
        state.note(&lease("b", 2, 1_700), asked(5_600, 5_601));
        assert_eq!(state.unproven_until_ms, Some(7_301), "nobody has renewed it");
        state.note(&lease("b", 2, LEASE_MS), asked(5_900, 5_901));
        assert_eq!(state.unproven_until_ms, None);
    }

    #[test]
    fn a_lease_that_is_taken_after_the_silence_names_its_holder_at_once() {
        let mut state = silent();
        state.note(&lease("b", 2, LEASE_MS), asked(5_000, 5_002));
        state.note(&nobody(), asked(5_400, 5_401));
        state.note(&lease("c", 3, LEASE_MS), asked(5_600, 5_601));
        assert_eq!(state.unproven_until_ms, None);
    }

    /// A broken connection to a Redis that answers is no outage.
    #[test]
    fn a_lease_that_has_not_run_out_during_a_silence_still_names_its_holder() {
        let mut state = silent();
        state.note(&lease("a", 1, 500), asked(1_500, 1_501));
        assert_eq!(state.unproven_until_ms, None);
        state.note(&lease("a", 1, LEASE_MS), asked(1_600, 1_601));
        assert_eq!(state.unproven_until_ms, None);
    }

    /// The holder gives up its lease earlier than Redis drops it. A renewal that comes too late makes it longer.
    #[test]
    fn a_lease_that_its_holder_has_given_up_during_a_silence_names_nobody() {
        let mut state = silent();
        state.note(&lease("a", 1, LEASE_MS), asked(1_850, 1_851));
        assert_eq!(state.unproven_until_ms, Some(3_851));
        // An answer that took long is a silence, too.
        let mut state = LeaseState::default();
        state.note(&lease("a", 1, LEASE_MS), asked(0, 1));
        state.note(&lease("a", 1, LEASE_MS), asked(100, 4_000));
        assert_eq!(state.unproven_until_ms, Some(6_000));
    }
}
