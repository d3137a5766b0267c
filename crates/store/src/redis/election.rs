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
}

impl LeaseState {
    /// Records what Redis answered to a question of `asked_ms`. The time that a lease still lasts is counted
    /// from the question, so that it never ends later here than in Redis.
    fn note(&mut self, lease: &LeaseInRedis, asked_ms: u64) {
        let record = serde_json::from_str::<LeaseRecord>(&lease.text).ok();
        self.seen = record.map(|record| (record, asked_ms + lease.left_ms));
        if let Some((record, _)) = &self.seen {
            self.highest_fence = self.highest_fence.max(record.fencing_token);
        }
        if lease.text.is_empty() {
            self.vacant_since_ms.get_or_insert(asked_ms);
        } else {
            self.vacant_since_ms = None;
        }
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
    /// that it holds for its writes until the lease runs out.
    pub(super) fn leadership_now(&self) -> Leadership {
        let is_confirmed = !self.is_unconfirmed();
        let is_leader = is_confirmed && self.held_lease().is_some();
        let names_another = |record: &LeaseRecord| record.instance_id != self.config.instance_id;
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
                lease.note(&LeaseInRedis { text, left_ms }, sent_ms);
                let until_ms = sent_ms + self.config.lease_ms - self.margin_ms();
                if let Some(held) = &mut lease.held {
                    held.1 = until_ms;
                }
                drop(lease);
                Duration::from_millis(self.config.renew_ms.min(self.remaining_ms()))
            }
            Ok(Ok((_, text, left_ms))) => {
                tracing::warn!("another node holds the lease: this node no longer leads");
                let mut lease = self.lease.lock();
                lease.held = None;
                lease.note(&LeaseInRedis { text, left_ms }, sent_ms);
                drop(lease);
                self.poll_pause()
            }
            Ok(Err(_)) | Err(_) => {
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
            self.lease.lock().vacant_since_ms = None;
            return self.poll_pause();
        };
        if let Some(until_ms) = self.note_answer(taken, &lease, sent_ms) {
            return Duration::from_millis(self.config.renew_ms.min(until_ms - sent_ms));
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
        let mut lease = self.lease.lock();
        lease.note(answer, sent_ms);
        if !taken || self.clock.monotonic_ms() >= until_ms {
            return None;
        }
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
