//! One outgoing connection to one peer, for one purpose.
//!
//! Requests are numbered and pipelined, and answers may arrive in any order. When a connection breaks, all
//! requests that wait for an answer fail at once. The next request opens it again, after a limited pause. A
//! silent peer is pinged and then given up, so that a recovered network is noticed quickly.
//!
//! When the certificates of this node change, the link waits for the answers to the requests in flight and closes the
//! connection. The next request opens a connection with the new certificates.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::context::Context;
use super::handshake::{self, HANDSHAKE_TIMEOUT, Reader, Writer};
use super::refusal;
use super::wire::{put_encoded, put_frame};
use crate::clock;
use crate::codec::{self, Channel, Request, Response};
use crate::config::NodeId;

/// Maximum number of requests that wait to be written.
const QUEUE_LEN_MAX: usize = 4_096;
/// Maximum number of requests that wait for an answer.
const PENDING_MAX: usize = 16_384;
/// Maximum number of bytes in one write.
const WRITE_BYTES_MAX: usize = 256 * 1024;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(250);
/// Interval between two checks whether requests in flight are answered.
const ANSWERS_TICK: Duration = Duration::from_millis(2);
/// Time without data after which the peer is pinged.
const PING_AFTER: Duration = Duration::from_millis(500);

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("too many requests wait for the peer")]
    Busy,
    /// The request was not sent.
    #[error("{0}")]
    Unreachable(String),
    /// The request was sent, but the connection broke.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The request may have been sent.
    #[error("no answer in time")]
    Timeout,
}

struct Outgoing {
    envelope: Vec<u8>,
    reply: oneshot::Sender<Result<Response, LinkError>>,
}

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Response, LinkError>>>>>;

/// A handle to a connection. The task of the connection ends with the last handle.
pub(crate) struct Link {
    queue: mpsc::Sender<Outgoing>,
    pub(crate) addr: String,
    connected: Arc<AtomicBool>,
}

/// An answer in flight.
pub(crate) struct Answer(oneshot::Receiver<Result<Response, LinkError>>);

impl Answer {
    /// Waits for the answer, at most this long.
    pub(crate) async fn within(self, timeout: Duration) -> Result<Response, LinkError> {
        match tokio::time::timeout(timeout, self.0).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(LinkError::Lost("the link was closed".to_owned())),
            Err(_) => Err(LinkError::Timeout),
        }
    }
}

impl Link {
    pub(crate) fn open(
        context: Arc<Context>,
        target: NodeId,
        addr: String,
        channel: Channel,
    ) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE_LEN_MAX);
        let connected = Arc::new(AtomicBool::new(false));
        let task = LinkTask {
            context: context.clone(),
            target,
            addr: addr.clone(),
            channel,
            connected: connected.clone(),
            next_id: 0,
            unsent: None,
        };
        context.runtime.spawn(task.run(requests));
        Self { queue, addr, connected }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Queues a request. Requests of one caller are sent in order.
    pub(crate) fn start(&self, request: &Request) -> Result<Answer, LinkError> {
        let (reply, answer) = oneshot::channel();
        let outgoing = Outgoing { envelope: codec::encode(request), reply };
        match self.queue.try_send(outgoing) {
            Ok(()) => Ok(Answer(answer)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(LinkError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(LinkError::Unreachable("the node is stopping".to_owned()))
            }
        }
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn request(
        &self,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, LinkError> {
        self.start(request)?.within(timeout).await
    }
}

struct LinkTask {
    context: Arc<Context>,
    target: NodeId,
    addr: String,
    channel: Channel,
    connected: Arc<AtomicBool>,
    next_id: u64,
    /// A request that was taken from the queue, and waits for the next connection.
    unsent: Option<Outgoing>,
}

impl LinkTask {
    async fn run(mut self, mut queue: mpsc::Receiver<Outgoing>) {
        let mut backoff = BACKOFF_MIN;
        let mut retry_at: Option<Instant> = None;
        let mut last_error = String::new();
        let mut logged = String::new();
        loop {
            let first = match self.unsent.take() {
                Some(first) => Some(first),
                None => queue.recv().await,
            };
            let Some(first) = first else { return };
            if first.reply.is_closed() {
                continue;
            }
            if retry_at.is_some_and(|at| clock::now() < at) {
                let _ = first.reply.send(Err(LinkError::Unreachable(last_error.clone())));
                continue;
            }
            let connected = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.connect())
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            match connected {
                Ok((reader, writer)) => {
                    backoff = BACKOFF_MIN;
                    logged.clear();
                    self.connected.store(true, Ordering::Relaxed);
                    tracing::debug!(target_node = self.target, channel = ?self.channel, addr = %self.addr, "link established");
                    let ended = self.drive(reader, writer, first, &mut queue).await;
                    self.connected.store(false, Ordering::Relaxed);
                    tracing::debug!(target_node = self.target, channel = ?self.channel, reason = %ended, "link ended");
                    last_error = ended;
                    retry_at = None;
                }
                Err(error) => {
                    let reason = format!("{}: {error}", self.addr);
                    // It is logged once, and not at every attempt. The reason of a certificate that has expired contains
                    // the present time, so what it means is compared instead.
                    if let Some(meaning) = refusal::meaning(&error) {
                        let is_told = error.kind() == io::ErrorKind::PermissionDenied;
                        let said = if is_told { &*reason } else { meaning };
                        if said != logged {
                            tracing::warn!(target_node = self.target, addr = %self.addr, %error, "{meaning}");
                            said.clone_into(&mut logged);
                        }
                    }
                    tracing::debug!(target_node = self.target, channel = ?self.channel, %reason, "cannot connect");
                    last_error = reason;
                    let _ = first.reply.send(Err(LinkError::Unreachable(last_error.clone())));
                    // Jitter prevents that peers make all attempts at the same time.
                    retry_at =
                        Some(clock::now() + backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0));
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    async fn connect(&self) -> io::Result<(Reader, Writer)> {
        let tcp = TcpStream::connect(&self.addr).await?;
        tcp.set_nodelay(true)?;
        let stream =
            self.context.transport.connect(tcp, &self.context.me.cluster_id, self.target).await?;
        let (reader, writer, peer) = handshake::greet(
            &self.context.me,
            stream,
            self.target,
            self.channel,
            self.context.frame_len_max,
        )
        .await?;
        self.context.contacts.connected(peer.node_id, peer.app_version, peer.protocol);
        self.context.contacts.introduced(peer.node_id, peer.introduction);
        Ok((reader, writer))
    }

    /// Carries requests until the connection breaks. Returns the reason.
    async fn drive(
        &mut self,
        reader: Reader,
        mut writer: Writer,
        first: Outgoing,
        queue: &mut mpsc::Receiver<Outgoing>,
    ) -> String {
        let pending: Pending = Arc::default();
        let started = clock::now();
        let heard_ms = Arc::new(AtomicU64::new(0));
        let read = read_answers(
            reader,
            pending.clone(),
            heard_ms.clone(),
            started,
            self.context.clone(),
            self.target,
        );
        let mut reading = self.context.runtime.spawn(read);
        let ended = tokio::select! {
            biased;
            ended = &mut reading => ended.unwrap_or_else(|error| error.to_string()),
            ended = self.write_requests(&mut writer, first, queue, &pending, &heard_ms, started) => ended,
        };
        reading.abort();
        for (_, reply) in pending.lock().drain() {
            let _ = reply.send(Err(LinkError::Lost(ended.clone())));
        }
        ended
    }

    async fn write_requests(
        &mut self,
        writer: &mut Writer,
        first: Outgoing,
        queue: &mut mpsc::Receiver<Outgoing>,
        pending: &Pending,
        heard_ms: &AtomicU64,
        started: Instant,
    ) -> String {
        let mut buffer = Vec::with_capacity(16 * 1024);
        let mut next = Some(first);
        let certificates = self.context.transport.changes();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.context.transport.changes() != certificates && buffer.is_empty() {
                self.unsent = next.take();
                self.answered(pending).await;
                return "the certificates were replaced".to_owned();
            }
            if next.is_none() {
                tokio::select! {
                    outgoing = queue.recv() => match outgoing {
                        Some(outgoing) => next = Some(outgoing),
                        None => return "the node is stopping".to_owned(),
                    },
                    _ = tick.tick() => {
                        pending.lock().retain(|_, reply| !reply.is_closed());
                        let silent = clock::since(started).saturating_sub(Duration::from_millis(heard_ms.load(Ordering::Relaxed)));
                        if silent > self.context.silence_max {
                            return format!("node {} was silent for {} ms", self.target, silent.as_millis());
                        }
                        if silent > PING_AFTER {
                            put_frame(u64::MAX, &Request::Ping, &mut buffer);
                        }
                    }
                }
            }
            while let Some(outgoing) = next.take() {
                self.enqueue(outgoing, pending, &mut buffer);
                if buffer.len() < WRITE_BYTES_MAX {
                    next = queue.try_recv().ok();
                }
            }
            if buffer.is_empty() {
                continue;
            }
            let write = async {
                writer.write_all(&buffer).await?;
                writer.flush().await
            };
            match tokio::time::timeout(self.context.silence_max, write).await {
                Ok(Ok(())) => buffer.clear(),
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return "the peer does not read".to_owned(),
            }
        }
    }

    /// Waits until the requests in flight are answered, but not longer than the peer may be silent.
    async fn answered(&self, pending: &Pending) {
        let answered = async {
            while pending.lock().values().any(|reply| !reply.is_closed()) {
                tokio::time::sleep(ANSWERS_TICK).await;
            }
        };
        let _ = tokio::time::timeout(self.context.silence_max, answered).await;
    }

    fn enqueue(&mut self, outgoing: Outgoing, pending: &Pending, buffer: &mut Vec<u8>) {
        if outgoing.reply.is_closed() {
            return;
        }
        if outgoing.envelope.len() + 8 > self.context.frame_len_max {
            let reason =
                format!("message of {} bytes is over the frame limit", outgoing.envelope.len());
            let _ = outgoing.reply.send(Err(LinkError::Unreachable(reason)));
            return;
        }
        let mut waiting = pending.lock();
        if waiting.len() >= PENDING_MAX {
            let _ = outgoing.reply.send(Err(LinkError::Busy));
            return;
        }
        self.next_id += 1;
        waiting.insert(self.next_id, outgoing.reply);
        drop(waiting);
        put_encoded(self.next_id, &outgoing.envelope, buffer);
    }
}

async fn read_answers(
    mut reader: Reader,
    pending: Pending,
    heard_ms: Arc<AtomicU64>,
    started: Instant,
    context: Arc<Context>,
    from: NodeId,
) -> String {
    loop {
        match reader.next().await {
            Ok(Some((id, body))) => {
                heard_ms.store(clock::millis(clock::since(started)), Ordering::Relaxed);
                context.contacts.heard(from);
                let reply = pending.lock().remove(&id);
                match codec::decode::<Response>(&body) {
                    Ok(response) => {
                        if let Response::Removed(reason) = &response {
                            context.me.refusals.removed(reason);
                        }
                        if let Some(reply) = reply {
                            let _ = reply.send(Ok(response));
                        }
                    }
                    Err(error) => return format!("malformed answer: {error}"),
                }
            }
            Ok(None) => return "the peer closed the connection".to_owned(),
            Err(error) => return error.to_string(),
        }
    }
}
