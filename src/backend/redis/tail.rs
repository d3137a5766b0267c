//! Follows the log, and mends what Redis lost.
//!
//! One task per node, with a connection of its own. After every silence it compares the log's end
//! with its own place: Redis may have been flushed, restored from a dump, or have failed over to
//! a replica that lacked the last writes.

use std::sync::Arc;

use redis::{RedisError, RedisResult, Value, cmd};

use super::Core;
use super::connect::Link;
use super::replica::{Entry, Position, Refusal};
use super::scripts;
use super::snapshot;
use super::stream::{self, PAGE_ENTRIES_MAX, RebuildError};
use crate::backend::StoreEvent;

/// How long one read waits for entries: bounds how old the age of the view can get unnoticed.
const BLOCK_MS: u64 = 250;
/// Most bytes that one script call puts back.
const PUT_BACK_LEN_MAX: usize = 4 * 1024 * 1024;

/// Why a session with Redis ended.
enum End {
    /// The connection is of no more use.
    Redis(RedisError),
    /// What is in Redis cannot be used; it is tried again, for somebody may mend it.
    Damaged(String),
    /// This node must not go on.
    Fatal(String),
    /// The node is stopping.
    Stop,
}

impl From<RedisError> for End {
    fn from(error: RedisError) -> Self {
        if stream::is_malformed(&error) {
            return Self::Damaged(error.to_string());
        }
        Self::Redis(error)
    }
}

impl From<RebuildError> for End {
    fn from(error: RebuildError) -> Self {
        match error {
            RebuildError::Redis(error) => error.into(),
            RebuildError::Damaged(text) => Self::Damaged(text),
            RebuildError::Codec(error) => Self::Fatal(error.to_string()),
        }
    }
}

impl Core {
    /// Follows the log until the node stops.
    pub(super) async fn run_tail(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            let connected = tokio::select! {
                () = self.stop.cancelled() => break,
                connected = self.connector.connect() => connected,
            };
            let end = match connected {
                Ok(mut link) => self.session(&mut link).await,
                Err(error) => End::Redis(error),
            };
            match end {
                End::Stop => break,
                End::Fatal(reason) => {
                    self.fail(reason);
                    break;
                }
                End::Redis(error) => self.note_unreachable(&error.to_string()),
                End::Damaged(text) => self.note_unreachable(&text),
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(self.connector.backoff()) => {}
            }
        }
    }

    async fn session(&self, link: &mut Link) -> End {
        let Err(end) = self.try_session(link).await;
        end
    }

    async fn try_session(&self, link: &mut Link) -> Result<std::convert::Infallible, End> {
        self.note_server(link).await?;
        self.synchronise(link).await?;
        self.note_reachable();
        let timeout = self.config.command_timeout();
        loop {
            let seq = self.replica.position().seq;
            let asked_ms = self.clock.monotonic_ms();
            let entries = tokio::select! {
                () = self.stop.cancelled() => return Err(End::Stop),
                entries = stream::follow(link, &self.keys, seq, BLOCK_MS, timeout) => entries?,
            };
            let whole_page = entries.len() == PAGE_ENTRIES_MAX;
            let repair = self.repair_wanted.swap(false, std::sync::atomic::Ordering::AcqRel);
            if entries.is_empty() || repair {
                self.synchronise(link).await?;
                continue;
            }
            let gap = entries.first().is_some_and(|entry| entry.seq != seq + 1);
            match self.replica.apply(entries) {
                // After a whole page there may be more.
                Ok(()) if whole_page => {}
                Ok(()) => self.note_complete(asked_ms),
                Err(Refusal::Codec(error)) => return Err(End::Fatal(error.to_string())),
                Err(Refusal::Broken) => self.follow_redis(link, !gap).await?,
            }
        }
    }

    /// Compares the log's end with this node's place, and mends what does not fit.
    async fn synchronise(&self, link: &mut Link) -> Result<(), End> {
        let timeout = self.config.command_timeout();
        let mine = self.replica.position();
        let asked_ms = self.clock.monotonic_ms();
        let Some(head) = stream::head(link, &self.keys, timeout).await? else {
            if mine.seq > 0 {
                self.put_state_back(link, &Position::default()).await?;
            } else {
                stream::create(link, &self.keys, timeout).await?;
                self.follow_redis(link, false).await?;
            }
            return Ok(());
        };
        if mine.epoch.is_empty() {
            return self.follow_redis(link, false).await;
        }
        if head.epoch != mine.epoch {
            if head.seq == 0 && mine.seq > 0 {
                return self.put_state_back(link, &head).await;
            }
            return self.follow_redis(link, mine.seq > 0).await;
        }
        if head.seq == mine.seq && head.nonce == mine.nonce {
            self.note_complete(asked_ms);
            return Ok(());
        }
        if head.seq > mine.seq {
            let next = stream::follow(link, &self.keys, mine.seq, 0, timeout).await?;
            // Nothing after this node's place although the log goes on: the entries are gone.
            return if next.is_empty() { self.follow_redis(link, false).await } else { Ok(()) };
        }
        match self.replica.kept_after(head.seq, &head.nonce) {
            Some(lost) => self.put_tail_back(link, head, lost).await,
            None => self.follow_redis(link, true).await,
        }
    }

    /// Redis is at an earlier entry of this very log: what came after it is written again, unless
    /// somebody else did so meanwhile.
    async fn put_tail_back(
        &self,
        link: &mut Link,
        head: Position,
        lost: Vec<Entry>,
    ) -> Result<(), End> {
        self.step_down();
        let (from, to) = (head.seq + 1, head.seq + lost.len() as u64);
        let mut at = head;
        let mut rest = lost.as_slice();
        let mut asked_ms = self.clock.monotonic_ms();
        while let Some(first) = rest.first() {
            let mut len = first.payload.len();
            let mut count = 1;
            while let Some(next) = rest.get(count)
                && count < PAGE_ENTRIES_MAX
                && len + next.payload.len() <= PUT_BACK_LEN_MAX
            {
                len += next.payload.len();
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            let seq = at.seq.to_string();
            let mut args: Vec<&[u8]> = vec![at.epoch.as_bytes(), seq.as_bytes(), &at.nonce];
            for entry in now {
                args.extend([entry.nonce.as_slice(), &entry.payload]);
            }
            let keys = [&*self.keys.head, &*self.keys.log];
            let timeout = self.config.command_timeout();
            asked_ms = self.clock.monotonic_ms();
            let done: u64 = scripts::PUT_BACK.run(link, &keys, &args, timeout).await?;
            if done != 1 {
                // Somebody was faster; the next comparison says what is to be done now.
                return Ok(());
            }
            if let Some(last) = now.last() {
                at = Position { seq: last.seq, nonce: last.nonce, ..at };
            }
            rest = later;
        }
        self.emit(StoreEvent::WritesPutBack { from, to });
        self.note_complete(asked_ms);
        Ok(())
    }

    /// Redis is empty: the whole state is put back as a snapshot, at its own place, so that the
    /// other nodes go on as if nothing had happened.
    async fn put_state_back(&self, link: &mut Link, replaces: &Position) -> Result<(), End> {
        self.step_down();
        let (state, position) = self.replica.state();
        let encoded = tokio::task::spawn_blocking(move || snapshot::encode(&state)).await;
        let encoded = match encoded {
            Ok(Ok(encoded)) => encoded,
            Ok(Err(error)) => return Err(End::Fatal(error.to_string())),
            Err(error) => return Err(End::Fatal(error.to_string())),
        };
        let timeout = self.config.command_timeout();
        let uploaded = snapshot::upload(link, &self.keys, &encoded, timeout).await?;
        let asked_ms = self.clock.monotonic_ms();
        let done =
            snapshot::install(link, &self.keys, &uploaded, &position, replaces, timeout).await?;
        if done {
            self.emit(StoreEvent::StatePutBack { position: position.seq });
            self.note_complete(asked_ms);
        }
        Ok(())
    }

    /// Takes Redis's word for what the state is.
    async fn follow_redis(&self, link: &mut Link, lost: bool) -> Result<(), End> {
        let before = self.replica.position();
        if lost {
            self.step_down();
        }
        let timeout = self.config.command_timeout();
        let asked_ms = self.clock.monotonic_ms();
        let rebuilt = stream::rebuild(link, &self.keys, timeout).await?;
        let now = rebuilt.position().clone();
        self.replica.replace(rebuilt);
        if lost {
            let replaced = now.epoch != before.epoch;
            self.emit(StoreEvent::WritesLost { had: before.seq, now: now.seq, replaced });
        }
        self.note_complete(asked_ms);
        Ok(())
    }

    /// Notices that another process answers than before. A user without the right to ask is fine.
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
            // A failover may have forgotten the lease: whoever leads from here on takes a new one.
            self.step_down();
            self.emit(StoreEvent::ServerChanged { before, now });
        }
        Ok(())
    }
}
