//! Follows the log.
//!
//! Each node has one such task, with its own connection. After every silence, and whenever something does not
//! fit, it calls [`super::repair`] to compare the end of the log with this node's position.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{RedisError, RedisResult, Value, cmd};

use super::connect::Link;
use super::replica::{Entry, Refusal, Skipped};
use super::stream::{self, Page, RebuildError};
use super::survey::parse_id;
use super::{Core, FORBIDDEN, is_refusal, no_answer, refusal_code};
use crate::StoreEvent;

/// How long one read waits for entries, in milliseconds. After a read without entries, the position is compared with
/// the end of the log, so the staleness of an idle node does not grow beyond this.
const BLOCK_MS: u64 = 250;
/// Maximum pause before unusable content is checked again, in milliseconds.
const DAMAGED_PAUSE_MS_MAX: u64 = 500;

/// How long an entry that was already skipped delays the next read, in milliseconds.
const PASSED_PAUSE_MS: u64 = 50;

/// Why a session with Redis ended.
pub(super) enum End {
    /// The connection can no longer be used.
    Redis(RedisError),
    /// The content of Redis cannot be used yet. [`super::repair`] says how long that can last.
    Damaged(String),
    /// This node must stop.
    Fatal(String),
    /// The node is stopping.
    Stop,
}

impl From<RedisError> for End {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl From<RebuildError> for End {
    fn from(error: RebuildError) -> Self {
        match error {
            RebuildError::Redis(error) => Self::Redis(error),
            RebuildError::Newer(text) => Self::Fatal(text),
        }
    }
}

impl Core {
    /// Follows the log until the node stops.
    pub(super) async fn run_tail(self: Arc<Self>) {
        // The number of failed attempts since the log was last followed.
        let mut failed = 0_u32;
        while !self.stop.is_cancelled() {
            let connected = tokio::select! {
                () = self.stop.cancelled() => break,
                connected = self.connector.connect() => connected,
            };
            let mut is_following = false;
            let end = match connected {
                Ok(mut link) => self.session(&mut link, &mut is_following).await,
                Err(error) => End::Redis(error),
            };
            let pause = match end {
                End::Stop => break,
                End::Fatal(reason) => {
                    self.fail(reason);
                    break;
                }
                End::Redis(error) => {
                    self.note_silence(&error);
                    self.caught_up.send_replace(false);
                    failed = if is_following { 1 } else { failed.saturating_add(1) };
                    // A node that was paused finds that its own time limits are over, although Redis answers.
                    // So one failure proves nothing. Only an attempt that began after it shows that Redis does not
                    // answer.
                    if failed > 1 {
                        self.report_unreachable(&error).await;
                    }
                    self.connector.backoff()
                }
                End::Damaged(text) => {
                    tracing::warn!(text, "the data in redis cannot be used yet");
                    Duration::from_millis((self.config.lease_ms / 4).min(DAMAGED_PAUSE_MS_MAX))
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn report_unreachable(&self, error: &RedisError) {
        // A server that started later than this node may be of another kind than expected.
        let mismatch = super::topology::check(&self.config).await.err();
        self.note_failed_attempt(error, mismatch);
    }

    /// Records that Redis cannot be used because of `error`. `mismatch` says why the server is of another kind than
    /// expected, if it is.
    pub(super) fn note_failed_attempt(&self, error: &RedisError, mismatch: Option<String>) {
        // The access rules may forbid only reads, which says nothing about writes.
        let is_forbidden = refusal_code(error) == Some(FORBIDDEN);
        if mismatch.is_none() && is_refusal(error) && !is_forbidden {
            self.note_refusal(error, false);
            return self.note_unreachable(no_answer(error), None);
        }
        let reason = mismatch.unwrap_or_else(|| error.to_string());
        self.note_unreachable(no_answer(error), Some(&reason));
    }

    /// Follows the log until a failure. Sets `is_following` once it has followed.
    async fn session(&self, link: &mut Link, is_following: &mut bool) -> End {
        let Err(end) = self.try_session(link, is_following).await;
        end
    }

    async fn try_session(
        &self,
        link: &mut Link,
        is_following: &mut bool,
    ) -> Result<std::convert::Infallible, End> {
        self.note_server(link).await?;
        self.synchronise(link).await?;
        let timeout = self.config.command_timeout();
        // The last id that was skipped.
        let mut passed = String::new();
        loop {
            let seq = self.replica.position().seq;
            let after = read_after(seq, &passed);
            let asked_ms = self.clock.monotonic_ms();
            let page = tokio::select! {
                () = self.stop.cancelled() => return Err(End::Stop),
                page = stream::page(link, &self.keys, &after, BLOCK_MS, timeout) => page?,
            };
            let page = self.without_forged(link, page).await?;
            *is_following = true;
            self.note_heard();
            let repair = self.repair_wanted.swap(false, Ordering::AcqRel);
            if let Some(last) = page.skipped.last().filter(|last| last.id != passed) {
                self.report_skipped(&page.skipped);
                passed.clone_from(&last.id);
            } else if !page.skipped.is_empty() {
                // It is still there, after the head. The leader repairs the log.
                tokio::time::sleep(Duration::from_millis(PASSED_PAUSE_MS)).await;
            }
            if page.entries.is_empty() || repair {
                self.synchronise(link).await?;
                continue;
            }
            match self.replica.apply(page.entries) {
                Ok(skipped) => {
                    self.report_skipped(&skipped);
                    // There may be more entries after a full page.
                    if !page.is_full {
                        self.note_complete(asked_ms);
                    }
                }
                Err(Refusal::Broken) => self.synchronise(link).await?,
                Err(other @ Refusal::OtherVersion { .. }) => {
                    return Err(End::Fatal(other.to_string()));
                }
            }
        }
    }

    /// Skips what is after the head, from the first entry that says that it is from a newer Maxine. A leader writes an
    /// entry and the head in one step, so something else has written that entry. What is after the head is repaired.
    async fn without_forged(&self, link: &mut Link, mut page: Page) -> RedisResult<Page> {
        let Some(first) = page.entries.iter().position(Entry::claims_newer) else {
            return Ok(page);
        };
        let head = stream::head(link, &self.keys, self.config.command_timeout()).await?;
        let Some(head) = head else { return Ok(page) };
        let is_after = |entry: &Entry| entry.seq > head.seq;
        let Some(at) = page.entries.iter().skip(first).position(is_after) else { return Ok(page) };
        for entry in page.entries.drain(first + at..) {
            let reason = String::from("it is after the end of the log");
            page.skipped.push(Skipped { id: format!("{}-0", entry.seq), reason });
        }
        Ok(page)
    }

    /// Every replica skips the same entries. Each reports them once, when it passes them.
    pub(super) fn report_skipped(&self, skipped: &[Skipped]) {
        let Some(first) = skipped.first() else { return };
        self.emit(StoreEvent::EntriesSkipped {
            first: first.id.clone(),
            count: skipped.len() as u64,
            reason: first.reason.clone(),
        });
    }

    /// Notices that a different server process answers than before. If the access rules forbid `INFO`, this check is
    /// left out.
    async fn note_server(&self, link: &mut Link) -> RedisResult<()> {
        if link.is_cluster() {
            return Ok(());
        }
        let mut command = cmd("INFO");
        command.arg("server");
        let info: Value = match link.query(&command, self.config.command_timeout()).await {
            Ok(info) => info,
            Err(error) if error.is_io_error() => return Err(error),
            Err(_) => return Ok(()),
        };
        let text = match info {
            Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Value::VerbatimString { text, .. } => text,
            _ => return Ok(()),
        };
        let run_id = text.lines().find_map(|line| line.strip_prefix("run_id:"));
        let Some(now) = run_id.map(|id| id.trim().to_owned()) else { return Ok(()) };
        let before = self.run_id.lock().replace(now.clone());
        if let Some(before) = before.filter(|before| *before != now) {
            // A failover may have lost the lease, so the next leader takes a new one.
            self.step_down();
            self.emit(StoreEvent::ServerChanged { before, now });
        }
        Ok(())
    }
}

/// The id after which the next read begins: the id of entry `seq`, or the last skipped id if it comes between that
/// entry and the next one.
fn read_after(seq: u64, passed: &str) -> String {
    match parse_id(passed) {
        Some((at, _)) if at == seq => passed.to_owned(),
        _ => format!("{seq}-0"),
    }
}
