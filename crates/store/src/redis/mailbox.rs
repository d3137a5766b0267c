//! Messages between nodes through Redis. Every node has a list in Redis as its inbox.
//!
//! A call to the leader goes to the leader's inbox, and its answer goes to the caller's inbox. Both inboxes
//! are limited and disappear when unused, and every call has a deadline. So nodes need a connection to Redis
//! only, and not to each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use redis::{RedisError, RedisResult, cmd};
use tokio::sync::{Semaphore, oneshot};

use super::connect::Link;
use super::scripts;
use super::{Core, FORBIDDEN, refusal_code};
use crate::CallError;

/// Maximum number of messages in one inbox.
const INBOX_MESSAGES_MAX: u64 = 4_096;
/// How long an inbox exists after its last message, in milliseconds.
const INBOX_KEPT_MS: u64 = 60_000;
/// Maximum size of a message, in bytes.
const BODY_LEN_MAX: usize = 4 * 1024 * 1024;
/// Maximum number of messages that are read together.
const READ_TOGETHER_MAX: usize = 128;
/// Maximum size of the messages that are read together, in bytes. A single message is always smaller.
const READ_LEN_MAX: usize = 2 * (HEAD_LEN + BODY_LEN_MAX);
/// Minimum time between two warnings about messages that cannot be read, in milliseconds.
const WARNING_PAUSE_MS: u64 = 60_000;
/// Maximum number of calls that are handled concurrently.
const CONCURRENT_CALLS_MAX: usize = 64;
/// How long one read waits, in seconds.
const BLOCK_S: u64 = 1;
/// Length of the sender's token: 32 hexadecimal digits.
const TOKEN_LEN: usize = 32;
/// Length of the header before the body: kind, call number and sender.
const HEAD_LEN: usize = 1 + 8 + TOKEN_LEN;

/// What a message is. The number is its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Call = 1,
    Answer = 2,
    Refusal = 3,
}

/// The calls that wait for their answers.
#[derive(Default)]
pub(super) struct Calls {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Result<Bytes, CallError>>>>,
}

struct Waiting<'a> {
    calls: &'a Calls,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.calls.waiting.lock().remove(&self.number);
    }
}

/// The messages of an inbox that cannot be read. Other programs may write any number of them.
#[derive(Default)]
struct Unreadable {
    /// Their number since the last warning.
    count: u64,
    warned_ms: Option<u64>,
}

impl Unreadable {
    /// The number of messages to warn about now; 0 if none came, or if the last warning was a short time ago.
    fn due(&mut self, now_ms: u64) -> u64 {
        let is_early = self.warned_ms.is_some_and(|at_ms| now_ms - at_ms < WARNING_PAUSE_MS);
        if self.count == 0 || is_early {
            return 0;
        }
        self.warned_ms = Some(now_ms);
        std::mem::take(&mut self.count)
    }
}

struct Message {
    kind: Kind,
    number: u64,
    sender: String,
    body: Bytes,
}

fn encode(kind: Kind, number: u64, sender: &str, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_LEN + body.len());
    out.put_u8(kind as u8);
    out.put_u64(number);
    out.put_slice(sender.as_bytes());
    out.put_slice(body);
    out.freeze()
}

fn decode(message: Vec<u8>) -> Option<Message> {
    let message = Bytes::from(message);
    if message.len() < HEAD_LEN || message.len() > HEAD_LEN + BODY_LEN_MAX {
        return None;
    }
    let kind = match message[0] {
        1 => Kind::Call,
        2 => Kind::Answer,
        3 => Kind::Refusal,
        _ => return None,
    };
    let number = u64::from_be_bytes(message[1..9].try_into().ok()?);
    let sender = std::str::from_utf8(&message[9..HEAD_LEN]).ok()?;
    if !sender.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let sender = sender.to_owned();
    Some(Message { kind, number, sender, body: message.slice(HEAD_LEN..) })
}

/// Whether Redis refused a message before it was put into the inbox. After `NOPERM` this is unknown, because the
/// access rules may forbid a later command of the script; after `ERR` too, because it has many causes.
fn was_refused(error: &RedisError) -> bool {
    refusal_code(error).is_some_and(|code| code != FORBIDDEN && code != "ERR")
}

impl Core {
    /// Sends `body` to the holder of the lease, and waits for the answer.
    pub(super) async fn call(&self, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        if body.len() > BODY_LEN_MAX {
            let text = format!("{} bytes are more than {BODY_LEN_MAX}", body.len());
            return Err(CallError::Unsendable(text));
        }
        if self.stop.is_cancelled() {
            return Err(CallError::Unreachable);
        }
        if self.held_lease().is_some() {
            let handled = tokio::time::timeout(timeout, self.peers.handle(body)).await;
            return handled.map_err(|_| CallError::late())?.map_err(CallError::Refused);
        }
        let leader = self.lease_holder().filter(|holder| holder.token != self.tokens.mine());
        let leader = leader.filter(|holder| holder.token.len() == TOKEN_LEN);
        let Some(leader) = leader else { return Err(CallError::Unreachable) };
        let number = self.calls.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.calls.waiting.lock().insert(number, sender);
        let _waiting = Waiting { calls: &self.calls, number };
        let exchange = async {
            let message = encode(Kind::Call, number, self.tokens.mine(), &body);
            let link = self.main.get().await.map_err(|_| CallError::Unreachable)?;
            match self.post(link, &leader.token, &message).await {
                Ok(true) => {}
                Ok(false) => return Err(CallError::Overloaded),
                Err(error) if was_refused(&error) => return Err(CallError::Unreachable),
                Err(_) => {
                    let text = "whether Redis took the message is unknown";
                    return Err(CallError::NoAnswer(text.into()));
                }
            }
            answer.await.unwrap_or_else(|_| Err(CallError::late()))
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| Err(CallError::late()))
    }

    /// Puts a message into an inbox. Returns `false` if the inbox is full.
    async fn post(
        &self,
        (mut link, generation): (Link, u64),
        to: &str,
        message: &[u8],
    ) -> RedisResult<bool> {
        let inbox = self.keys.inbox(to);
        let (bound, kept) = (INBOX_MESSAGES_MAX.to_string(), INBOX_KEPT_MS.to_string());
        let args = [bound.as_bytes(), kept.as_bytes(), message];
        let timeout = self.config.command_timeout();
        let posted: RedisResult<u64> =
            scripts::POST.run(&mut link, &[&inbox], &args, timeout).await;
        posted.inspect_err(|error| self.main.report(generation, error)).map(|done| done == 1)
    }

    /// Reads this node's inbox until the node stops.
    pub(super) async fn run_inbox(self: Arc<Self>) {
        let room = Arc::new(Semaphore::new(CONCURRENT_CALLS_MAX));
        let mut unreadable = Unreadable::default();
        while !self.stop.is_cancelled() {
            let read = async {
                let mut link = self.connector.connect().await?;
                loop {
                    for message in self.take(&mut link).await? {
                        match decode(message) {
                            Some(message) => self.receive(message, &room).await,
                            None => unreadable.count += 1,
                        }
                    }
                    let count = unreadable.due(self.clock.monotonic_ms());
                    if count > 0 {
                        tracing::warn!(
                            count,
                            "messages in the inbox of this node in redis cannot be read"
                        );
                    }
                }
            };
            let ended: RedisResult<()> = tokio::select! {
                () = self.stop.cancelled() => break,
                ended = read => ended,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "the inbox cannot be read");
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(self.connector.backoff()) => {}
            }
        }
    }

    /// Takes messages out of the inbox. If there are none, waits for one.
    ///
    /// A script takes existing messages, and leaves out those that are too long. Redis cannot wait for a message without
    /// reading it. So if another program writes a large one while this node waits, the node reads it as a whole, once.
    async fn take(&self, link: &mut Link) -> RedisResult<Vec<Vec<u8>>> {
        let inbox = self.keys.inbox(self.tokens.mine());
        let timeout = self.config.command_timeout();
        let bounds = [READ_TOGETHER_MAX, HEAD_LEN + BODY_LEN_MAX, READ_LEN_MAX];
        let bounds = bounds.map(|bound| bound.to_string());
        let args = bounds.each_ref().map(String::as_bytes);
        let found: Vec<Vec<u8>> = scripts::TAKE.run(link, &[&inbox], &args, timeout).await?;
        if !found.is_empty() {
            return Ok(found);
        }
        let mut command = cmd("BLPOP");
        command.arg(&inbox).arg(BLOCK_S);
        let wait = timeout + Duration::from_secs(BLOCK_S);
        let first: Option<(String, Vec<u8>)> = link.query(&command, wait).await?;
        Ok(first.into_iter().map(|(_, message)| message).collect())
    }

    async fn receive(self: &Arc<Self>, message: Message, room: &Arc<Semaphore>) {
        match message.kind {
            Kind::Call => {
                // While all places are taken, the inbox fills up. Callers are refused once it is full.
                let Ok(place) = Arc::clone(room).acquire_owned().await else { return };
                let core = Arc::clone(self);
                self.tasks.spawn(async move {
                    core.answer(message).await;
                    drop(place);
                });
            }
            Kind::Answer => self.resolve(message.number, Ok(message.body)),
            Kind::Refusal => {
                let text = String::from_utf8_lossy(&message.body).into_owned();
                self.resolve(message.number, Err(CallError::Refused(text)));
            }
        }
    }

    fn resolve(&self, number: u64, answer: Result<Bytes, CallError>) {
        if let Some(waiting) = self.calls.waiting.lock().remove(&number) {
            // The caller may have given up.
            let _ = waiting.send(answer);
        }
    }

    async fn answer(&self, message: Message) {
        let handled = if self.held_lease().is_none() {
            Err(String::from("this node does not lead"))
        } else {
            let limit = Duration::from_millis(self.config.lease_ms);
            let handled = tokio::time::timeout(limit, self.peers.handle(message.body)).await;
            // Whether the message took effect is unknown, so there is nothing to answer.
            let Ok(handled) = handled else { return };
            handled
        };
        let answer = match &handled {
            Ok(body) => encode(Kind::Answer, message.number, self.tokens.mine(), body),
            Err(text) => encode(Kind::Refusal, message.number, self.tokens.mine(), text.as_bytes()),
        };
        let posted = async { self.post(self.main.get().await?, &message.sender, &answer).await };
        if let Err(error) = posted.await {
            tracing::debug!(%error, "an answer could not be delivered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire_and_foreign_ones_do_not() {
        let token = "0123456789abcdef0123456789abcdef";
        let decoded = decode(encode(Kind::Call, 7, token, b"body").to_vec()).unwrap();
        assert_eq!((decoded.kind, decoded.number, &*decoded.sender), (Kind::Call, 7, token));
        assert_eq!(&*decoded.body, b"body");
        assert!(decode(vec![1; 10]).is_none());
        let mut unknown = encode(Kind::Refusal, 7, token, b"").to_vec();
        unknown[0] += 1;
        assert!(decode(unknown).is_none());
        assert!(decode(vec![b'/'; 60]).is_none(), "a sender is part of a key's name");
    }

    #[test]
    fn unreadable_messages_give_one_warning_a_minute_with_their_number() {
        let mut unreadable = Unreadable::default();
        assert_eq!(unreadable.due(5), 0);
        unreadable.count = 1;
        assert_eq!(unreadable.due(10), 1);
        unreadable.count = 4_000;
        assert_eq!(unreadable.due(11), 0);
        assert_eq!(unreadable.due(10 + WARNING_PAUSE_MS), 4_000);
        assert_eq!(unreadable.due(10 + 3 * WARNING_PAUSE_MS), 0, "none came since");
    }
}
