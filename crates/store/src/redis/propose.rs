//! Writes to Redis: each batch becomes one entry, which a script appends and this node's own machine answers.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{
    ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, Value, from_redis_value,
};
use tokio::sync::TryAcquireError;

use super::connect::{Failure, Link, classify};
use super::replica::{Nonce, Position, Waiter};
use super::scripts::{APPEND, REPORT, Script};
use super::{Core, NO_ANSWER, no_answer, refusal_code, refused_with};
use crate::{ProposeError, WriteTime, encode_payload, needs_lease};
use maxine_state::{Applied, Batch};

/// Maximum size of an entry, in bytes.
pub(super) const ENTRY_LEN_MAX: usize = 15 * 1024 * 1024;
/// Pause between two attempts of one write, in milliseconds.
const RETRY_MS: u64 = 50;

/// An entry to append.
struct Written<'a> {
    payload: &'a [u8],
    nonce: Nonce,
    /// The state version that it needs. A replica that does not understand it must stop before it.
    version: u32,
    needs_lease: bool,
}

/// The result of one attempt.
enum Attempt {
    /// The entry is in the log.
    Appended,
    /// This attempt did not write the entry. Another attempt is useless, or useless for now.
    Refused(ProposeError),
    /// This attempt did not write the entry. This node must repair the log first.
    Repair,
    /// The entry may be in the log.
    Unknown,
    /// The entry is in the log, but too few servers confirmed it in time.
    Unconfirmed,
}

impl Core {
    /// Appends `batch` and returns this node's replies to it.
    pub(super) async fn append(
        &self,
        batch: &Batch,
        time: WriteTime,
    ) -> Result<Vec<Applied>, ProposeError> {
        if self.stop.is_cancelled() {
            return Err(ProposeError::ShuttingDown);
        }
        if let Some(reason) = self.failure() {
            return Err(ProposeError::Storage(reason));
        }
        let payload = encode_payload(batch)?;
        if payload.len() > ENTRY_LEN_MAX {
            return Err(ProposeError::TooLarge { len: payload.len(), max: ENTRY_LEN_MAX });
        }
        let _permit = match self.room.try_acquire() {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits) => return Err(ProposeError::Overloaded),
            Err(TryAcquireError::Closed) => return Err(ProposeError::ShuttingDown),
        };
        let nonce: Nonce = rand::random();
        let mut waiter = self.replica.wait_for(nonce);
        let maybe_sent = AtomicBool::new(false);
        let needs_lease = needs_lease(batch);
        let version = batch.needs();
        let written = Written { payload: &payload, nonce, version, needs_lease };
        let mut work = pin!(self.attempts(&written, &mut waiter, &maybe_sent));
        for limit in [time.begin, time.end.saturating_sub(time.begin)] {
            match tokio::time::timeout(limit, &mut work).await {
                Ok(outcome) => return outcome,
                Err(_) if maybe_sent.load(Ordering::Relaxed) => {}
                Err(_) => return Err(self.not_written()),
            }
        }
        Err(ProposeError::OutcomeUnknown)
    }

    async fn attempts(
        &self,
        written: &Written<'_>,
        waiter: &mut Waiter<'_>,
        maybe_sent: &AtomicBool,
    ) -> Result<Vec<Applied>, ProposeError> {
        loop {
            match self.attempt(written, maybe_sent).await {
                Attempt::Appended => {
                    return waiter.answer().await.ok_or(ProposeError::OutcomeUnknown);
                }
                Attempt::Refused(error) if !maybe_sent.load(Ordering::Relaxed) => {
                    return Err(error);
                }
                Attempt::Unconfirmed => return Err(ProposeError::OutcomeUnknown),
                Attempt::Repair => self.want_repair(),
                Attempt::Refused(_) | Attempt::Unknown => {}
            }
            let pause = Duration::from_millis(RETRY_MS);
            if self.config.wait_replicas > 0 {
                // The log does not show whether the replicas have the entry. Only another attempt does.
                tokio::time::sleep(pause).await;
                continue;
            }
            // An earlier attempt may have succeeded; its replies then come through the log. Sending the same
            // requests again is safe, because apply answers a repeated request with its first reply.
            if let Ok(answer) = tokio::time::timeout(pause, waiter.answer()).await {
                return answer.ok_or(ProposeError::OutcomeUnknown);
            }
        }
    }

    async fn attempt(&self, written: &Written<'_>, maybe_sent: &AtomicBool) -> Attempt {
        let Written { payload, nonce, version, needs_lease } = *written;
        let lease: Arc<str> = match (needs_lease, self.held_lease()) {
            (false, _) => "".into(),
            (true, Some(lease)) => lease,
            (true, None) => return Attempt::Refused(self.not_leader()),
        };
        let position = self.replica.position();
        if position.epoch.is_empty() || self.is_broken() {
            return Attempt::Refused(self.not_written());
        }
        if let Some(why) = self.password_refusal() {
            return Attempt::Refused(ProposeError::StoreUnavailable(why.into()));
        }
        let (mut link, generation) = match self.main.get().await {
            Ok(found) => found,
            Err(error) => {
                let why = no_answer(&error).into();
                return Attempt::Refused(ProposeError::StoreUnavailable(why));
            }
        };
        let (seq, version) = (position.seq.to_string(), version.to_string());
        let args = [
            position.epoch.as_bytes(),
            seq.as_bytes(),
            &position.nonce,
            &nonce,
            payload,
            lease.as_bytes(),
            version.as_bytes(),
        ];
        let keys = [&*self.keys.head, &*self.keys.log, &*self.keys.leader];
        // From here on the entry may be written even if this future is dropped.
        let before = maybe_sent.swap(true, Ordering::Relaxed);
        let answer: RedisResult<(String, String, bool)> = if self.config.wait_replicas == 0 {
            let timeout = self.config.command_timeout();
            let answer: RedisResult<(String, String)> =
                APPEND.run(&mut link, &keys, &args, timeout).await;
            answer.map(|(word, text)| (word, text, true))
        } else {
            let answer = self.run_and_wait(&mut link, &APPEND, &keys, &args).await;
            answer.map(|((word, text), confirmed)| (word, text, confirmed))
        };
        match answer {
            Ok((word, text, confirmed)) => {
                maybe_sent.store(before || word == "OK", Ordering::Relaxed);
                if word == "OK" {
                    self.note_accepted();
                }
                match word.as_str() {
                    "OK" if confirmed => {
                        // The answer is the number of the entry.
                        let seq = text.parse().unwrap_or(position.seq);
                        self.note_confirmed(Position { seq, nonce, epoch: position.epoch });
                        Attempt::Appended
                    }
                    "OK" => Attempt::Unconfirmed,
                    "FENCED" => {
                        self.note_fenced(&text);
                        Attempt::Refused(self.not_leader())
                    }
                    "EMPTY" | "EPOCH" | "BEHIND" | "BLOCKED" => Attempt::Repair,
                    // The script has no such answer, so this one belongs to another command.
                    _ => {
                        maybe_sent.store(true, Ordering::Relaxed);
                        self.main.drop_link(generation);
                        Attempt::Unknown
                    }
                }
            }
            Err(error) => {
                self.main.report(generation, &error);
                self.note_refusal(&error, false);
                if classify(&error) == Failure::Refused {
                    maybe_sent.store(before, Ordering::Relaxed);
                    let why = match no_answer(&error) {
                        NO_ANSWER => refusal_code(&error).map_or(NO_ANSWER.into(), refused_with),
                        why => why.into(),
                    };
                    return Attempt::Refused(ProposeError::StoreUnavailable(why));
                }
                Attempt::Unknown
            }
        }
    }

    /// Whether the wanted number of replicas has everything that this node has applied.
    pub(super) async fn confirms_applied(&self) -> bool {
        let applied = self.replica.position();
        if self.config.wait_replicas == 0 || self.confirmed.lock().includes(&applied) {
            return true;
        }
        let Ok((mut link, generation)) = self.main.get().await else { return false };
        // WAIT counts from the last write of its own connection. Replicas that have this report have all
        // entries before it.
        let report = self.own_report();
        let args = report.each_ref().map(String::as_bytes);
        let asked = self.run_and_wait(&mut link, &REPORT, &[&*self.keys.nodes], &args).await;
        match asked {
            Ok((1_u64, true)) => {
                self.note_confirmed(applied);
                true
            }
            Ok(_) => false,
            Err(error) => {
                self.main.report(generation, &error);
                false
            }
        }
    }

    fn note_confirmed(&self, position: Position) {
        let mut confirmed = self.confirmed.lock();
        if !confirmed.includes(&position) {
            *confirmed = position;
        }
    }

    /// Runs a script that writes, and asks Redis whether the wanted number of replicas has the write. If not, a
    /// failover may lose it.
    async fn run_and_wait<T: FromRedisValue>(
        &self,
        link: &mut Link,
        script: &Script,
        keys: &[&str],
        args: &[&[u8]],
    ) -> RedisResult<(T, bool)> {
        let timeout =
            self.config.command_timeout() + Duration::from_millis(self.config.wait_timeout_ms);
        for by_hash in [true, false] {
            let mut pipeline = redis::pipe();
            let call =
                if by_hash { script.by_hash(keys, args) } else { script.by_code(keys, args) };
            pipeline.add_command(call);
            pipeline.cmd("WAIT").arg(self.config.wait_replicas).arg(self.config.wait_timeout_ms);
            let answers = link.query_all(&pipeline, 2, timeout).await?;
            let mut answers = answers.into_iter();
            let written = answers.next().unwrap_or(Value::Nil);
            if let Value::ServerError(error) = &written {
                if by_hash && error.kind() == Some(ServerErrorKind::NoScript) {
                    continue;
                }
                return Err(error.clone().into());
            }
            let written = from_redis_value(written)?;
            let have: u64 = from_redis_value(answers.next().unwrap_or(Value::Nil))?;
            return Ok((written, have >= u64::from(self.config.wait_replicas)));
        }
        Err(RedisError::from((
            ErrorKind::Client,
            "redis lost the script immediately after it was loaded",
        )))
    }

    /// The error for a write that was never sent.
    fn not_written(&self) -> ProposeError {
        let why = self.refuses_writes();
        ProposeError::StoreUnavailable(
            why.unwrap_or_else(|| "the store did not take the write in time".into()),
        )
    }

    fn not_leader(&self) -> ProposeError {
        let hint = self.lease_holder().map(|holder| holder.instance_id);
        let hint = hint.filter(|hint| *hint != self.config.instance_id);
        ProposeError::NotLeader { hint }
    }

    /// Stops leading, because another node has the lease according to Redis.
    fn note_fenced(&self, _present: &str) {
        tracing::warn!("a leader's command was refused: another node holds the lease");
        self.step_down();
    }
}
