//! The connections to one instance, and the limit on them.
//!
//! An HTTP/1 connection carries one request at a time. Between two requests it is on a stack, whose top was used last.
//! One HTTP/2 connection carries many requests. [`Slots`] limits the requests in flight and those that wait.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::client::conn::{TrySendError, http2};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use super::connect::{self, Connector, Security};
use super::content::Content;
use super::error::ProxyError;
use super::http1::{self, Answered, OnInterim};
use super::idle_connections::KeepsIdle;
use super::lookup::LookupCaller;
use super::request_body::RequestBody;
use super::slots::{Holder, Slot, Slots};
use super::target::UpstreamAddress;
use super::timer::timer_now;
use super::wire::{InUse, WireState};
use maxine_admission::{Leave, NoPlace};
use maxine_clock::Clock;
use maxine_http1::PlainAnswer;
use maxine_state::{ConnectionPolicy, UpstreamProtocol};

/// Window of an HTTP/2 stream, in bytes. An instance may send this much of an answer whose client takes nothing. The
/// window of the whole connection is four times as large.
const WIDE_WINDOW_LEN: u32 = 512 * 1024;
/// Window of each further HTTP/2 connection and of its streams, in bytes. Such a connection holds as much as one over
/// HTTP/1.
const NARROW_WINDOW_LEN: u32 = maxine_http1::READ_LEN_MAX as u32;
/// Maximum number of bytes that wait to be sent on one HTTP/2 stream.
const SEND_BUFFER_LEN: usize = 512 * 1024;
/// The settings of a pool. If one changes, the pool is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolSettings {
    pub(crate) limits: ConnectionPolicy,
    pub(crate) protocol: UpstreamProtocol,
    pub(crate) insecure_tls: bool,
}

/// An HTTP/1 connection.
struct Http1 {
    connection: http1::Connection,
    opened_ms: u64,
    /// How long the connection may be idle, in milliseconds.
    idle_max_ms: u64,
}

/// An HTTP/2 connection.
#[derive(Clone)]
struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    wire: Arc<WireState>,
    opened_ms: u64,
    /// The connection's number in the pool, from 1.
    number: u64,
}

/// Which connections a request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// Any connection.
    Any,
    /// Only a new connection. Over HTTP/2, only one with a higher number than this.
    NewerThan(u64),
}

struct Idle {
    connection: Http1,
    since_ms: u64,
}

/// The connections to one instance.
pub(crate) struct Pool {
    address: UpstreamAddress,
    settings: PoolSettings,
    connector: Connector,
    clock: Clock,
    tasks: TaskTracker,
    idle: Mutex<Vec<Idle>>,
    /// Locked while the HTTP/2 connection is opened, so that only one is opened.
    shared: tokio::sync::Mutex<Option<Http2>>,
    slots: Arc<Slots>,
    /// Whether the host's name was resolved before.
    name_known: AtomicBool,
}

impl KeepsIdle for Pool {
    fn close_unused(&self, most: usize) -> usize {
        let closed = {
            let mut idle = self.idle.lock();
            let len = most.min(idle.len());
            idle.drain(..len).filter(|idle| idle.connection.connection.wire().give_up()).count()
        };
        if closed == most {
            return closed;
        }
        // While a connection is being opened, the HTTP/2 connection is not closed.
        let Ok(mut shared) = self.shared.try_lock() else { return closed };
        let is_unused = shared.as_ref().is_some_and(|kept| kept.wire.give_up());
        if is_unused {
            *shared = None;
        }
        closed + usize::from(is_unused)
    }
}

enum Sender {
    /// A connection that waits for its request.
    Http1(Http1),
    /// A connection whose request was sent. The content of the answer has the connection itself.
    Http1Sent {
        opened_ms: u64,
        idle_max_ms: u64,
    },
    Http2(Http2),
}

/// The use of one connection for one request. If an HTTP/1 connection is not returned by [`Lease::return_to_pool`], it
/// is closed.
pub(crate) struct Lease {
    sender: Sender,
    in_use: InUse,
    pool: Arc<Pool>,
    slot: Slot,
    /// Whether the connection carried a request before.
    pub(crate) reused: bool,
}

/// The answer to a direct request.
pub(crate) enum DirectAnswer<T> {
    /// The value that was made from a plain answer.
    Plain(T),
    /// The answer was not plain.
    Other(Box<(Response<Content>, Lease)>),
}

/// A request that got no answer.
pub(crate) struct SendFailure {
    /// The error for the client, if the request is not sent again.
    pub(crate) error: ProxyError,
    /// The request itself, if the connection never took it.
    pub(crate) unsent: Option<Request<RequestBody>>,
    /// Whether the connection took the request, but wrote no byte of it.
    pub(crate) nothing_written: bool,
}

impl SendFailure {
    fn over_http1(failure: http1::Failure) -> Self {
        let http1::Failure { reason, unsent, nothing_written } = failure;
        tracing::debug!(?reason, "an upstream gave no answer");
        let error = match reason {
            http1::Reason::NotHttp => ProxyError::BadResponse,
            http1::Reason::Closed | http1::Reason::Content => ProxyError::Reset,
        };
        Self { error, unsent, nothing_written }
    }

    fn over_http2(mut failure: TrySendError<Request<RequestBody>>) -> Self {
        let unsent = failure.take_message();
        let error = failure.into_error();
        tracing::debug!(%error, "an upstream gave no answer");
        let is_bad = error.is_parse() || error.is_parse_too_large() || error.is_parse_status();
        let error = match is_bad {
            _ if is_refusal(&error) => ProxyError::Refused,
            true => ProxyError::BadResponse,
            false => ProxyError::Reset,
        };
        Self { error, unsent, nothing_written: false }
    }
}

/// Whether an instance states that it did not process a request over HTTP/2. It either refused the stream, or excluded
/// it when it closed the connection (RFC 9113 sections 6.8 and 8.7). The library reports a stream that the instance may
/// have processed as broken.
fn is_refusal(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    source.and_then(|source| source.downcast_ref::<h2::Error>()).is_some_and(|error| {
        error.is_remote()
            && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

impl Pool {
    pub(crate) fn new(
        address: UpstreamAddress,
        settings: PoolSettings,
        connector: Connector,
        clock: Clock,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        let ConnectionPolicy { connections_max, pending_max, .. } = settings.limits;
        let slots = Slots::new(connections_max, pending_max, connector.request_kept());
        let pool = Arc::new(Self {
            address,
            settings,
            connector,
            clock,
            tasks,
            idle: Mutex::new(Vec::new()),
            shared: tokio::sync::Mutex::new(None),
            slots,
            name_known: AtomicBool::new(false),
        });
        pool.connector.pools().add(&pool);
        pool
    }

    pub(crate) fn address(&self) -> &UpstreamAddress {
        &self.address
    }

    pub(crate) fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.settings.protocol == UpstreamProtocol::Http2
    }

    /// The number of idle connections.
    pub(crate) fn idle_len(&self) -> usize {
        self.idle.lock().len()
    }

    /// Leases a connection: an idle one if that is allowed, or a new one. All but the usual case is in boxed futures,
    /// so that the future of a usual request is small.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        holder: Holder,
        timeout: Duration,
        reuse: Reuse,
    ) -> Result<Lease, ProxyError> {
        // The usual case needs no timer.
        let slot = self.slots.take(holder);
        if let Some(slot) = slot {
            if reuse == Reuse::Any
                && let Some((connection, in_use)) = self.pop_idle(holder, slot.leave())?
            {
                return Ok(self.leased(Sender::Http1(connection), in_use, slot, true));
            }
            return Box::pin(self.lease_new(holder, timeout, reuse, slot)).await;
        }
        Box::pin(self.lease_later(holder, timeout, reuse)).await
    }

    /// Opens a connection for a request that has a slot.
    async fn lease_new(
        self: &Arc<Self>,
        holder: Holder,
        timeout: Duration,
        reuse: Reuse,
        slot: Slot,
    ) -> Result<Lease, ProxyError> {
        let open = self.open(holder, reuse, slot.leave());
        let opened = tokio::time::timeout(timeout, open).await;
        let (sender, in_use, reused) = opened.map_err(|_| ProxyError::ConnectTimeout)??;
        Ok(self.leased(sender, in_use, slot, reused))
    }

    /// Waits for a slot first.
    async fn lease_later(
        self: &Arc<Self>,
        holder: Holder,
        timeout: Duration,
        reuse: Reuse,
    ) -> Result<Lease, ProxyError> {
        let waiting = self.slots.wait(holder).ok_or(ProxyError::Overloaded)?;
        let deadline = timer_now() + timeout;
        let slot = waiting.slot_before(deadline).await.ok_or(ProxyError::Overloaded)?;
        let work = async {
            if reuse == Reuse::Any
                && let Some((connection, in_use)) = self.pop_idle(holder, slot.leave())?
            {
                return Ok(self.leased(Sender::Http1(connection), in_use, slot, true));
            }
            let (sender, in_use, reused) = self.open(holder, reuse, slot.leave()).await?;
            Ok(self.leased(sender, in_use, slot, reused))
        };
        tokio::time::timeout_at(deadline, work).await.map_err(|_| ProxyError::ConnectTimeout)?
    }

    fn leased(self: &Arc<Self>, sender: Sender, in_use: InUse, slot: Slot, reused: bool) -> Lease {
        let pool = Arc::clone(self);
        Lease { sender, in_use, pool, slot, reused }
    }

    /// An idle connection, which this holder uses from now on. An error if the holder uses as many connections as it
    /// may.
    fn pop_idle(
        &self,
        holder: Holder,
        leave: &Arc<Leave>,
    ) -> Result<Option<(Http1, InUse)>, ProxyError> {
        let mut idle = self.idle.lock();
        while let Some(candidate) = idle.pop() {
            if self.is_stale(&candidate) {
                continue;
            }
            let wire = candidate.connection.connection.wire();
            match wire.enter(holder.address, holder.caller_class, Some(leave)) {
                Ok(in_use) => return Ok(Some((candidate.connection, in_use))),
                Err(NoPlace::Address) => {
                    idle.push(candidate);
                    return Err(ProxyError::ConnectionsBusy);
                }
                // The connection was given up, or the holder may use no more connections of the node. It is closed.
                Err(NoPlace::Node) => {
                    candidate.connection.connection.wire().give_up();
                }
            }
        }
        Ok(None)
    }

    fn is_stale(&self, idle: &Idle) -> bool {
        let idle_ms = self.clock.monotonic_ms().saturating_sub(idle.since_ms);
        !idle.connection.connection.is_silent()
            || idle_ms > idle.connection.idle_max_ms
            || self.is_too_old(idle.connection.opened_ms)
    }

    /// Whether a connection is too old for new requests. The limit makes this node resolve the name again, in case its
    /// address has changed.
    fn is_too_old(&self, opened_ms: u64) -> bool {
        let age_max_ms = self.settings.limits.age_max_ms;
        age_max_ms != 0 && self.clock.monotonic_ms().saturating_sub(opened_ms) > age_max_ms
    }

    /// Closes idle connections that the instance has closed or that are too old.
    pub(crate) fn reap(&self) {
        self.idle.lock().retain(|idle| !self.is_stale(idle));
    }

    async fn open(
        self: &Arc<Self>,
        holder: Holder,
        reuse: Reuse,
        leave: &Arc<Leave>,
    ) -> Result<(Sender, InUse, bool), ProxyError> {
        if !self.is_http2() {
            let (opened, in_use) = self.open_http1(holder, leave).await?;
            return Ok((Sender::Http1(opened), in_use, false));
        }
        let above = match reuse {
            Reuse::Any => 0,
            Reuse::NewerThan(number) => number,
        };
        let mut shared = self.shared.lock().await;
        let usable = |kept: &&Http2| {
            kept.number > above && !kept.sender.is_closed() && !self.is_too_old(kept.opened_ms)
        };
        if let Some(kept) = shared.as_ref().filter(usable) {
            // Other requests use the connection too, so it does not give way.
            match kept.wire.enter(holder.address, holder.caller_class, None) {
                Ok(in_use) => return Ok((Sender::Http2(kept.clone()), in_use, true)),
                Err(NoPlace::Address) => return Err(ProxyError::ConnectionsBusy),
                Err(NoPlace::Node) => {
                    kept.wire.give_up();
                }
            }
        }
        let (sender, wire) = self.open_http2(holder).await?;
        let in_use = wire.first_use(None);
        // The previous connection ends when its requests are answered.
        let opened_ms = self.clock.monotonic_ms();
        let number = shared.as_ref().map_or(1, |before| before.number + 1);
        let opened = Http2 { sender, wire, opened_ms, number };
        *shared = Some(opened.clone());
        Ok((Sender::Http2(opened), in_use, false))
    }

    fn lookup_caller(&self, holder: Holder) -> LookupCaller<'_> {
        LookupCaller {
            address: holder.address,
            caller_class: holder.caller_class,
            name_known: &self.name_known,
        }
    }

    async fn open_http1(
        &self,
        holder: Holder,
        leave: &Arc<Leave>,
    ) -> Result<(Http1, InUse), ProxyError> {
        let security = Security { insecure: self.settings.insecure_tls, http2: false };
        let asker = self.lookup_caller(holder);
        let stream = self.connector.connect(&self.address, security, asker).await?;
        let wire = Arc::clone(connect::wire_state(&stream));
        let idle_max_ms = self.settings.limits.keep_alive_ms;
        let in_use = wire.first_use(Some(leave));
        let opened_ms = self.clock.monotonic_ms();
        Ok((Http1 { connection: http1::Connection::new(stream), opened_ms, idle_max_ms }, in_use))
    }

    async fn open_http2(
        &self,
        holder: Holder,
    ) -> Result<(http2::SendRequest<RequestBody>, Arc<WireState>), ProxyError> {
        let security = Security { insecure: self.settings.insecure_tls, http2: true };
        let asker = self.lookup_caller(holder);
        let stream = self.connector.connect(&self.address, security, asker).await?;
        let wire = Arc::clone(connect::wire_state(&stream));
        let wide = self.connector.wide_windows();
        let (stream_len, connection_len) = match wide {
            Some(_) => (WIDE_WINDOW_LEN, 4 * WIDE_WINDOW_LEN),
            None => (NARROW_WINDOW_LEN, NARROW_WINDOW_LEN),
        };
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(stream_len)
            .initial_connection_window_size(connection_len)
            .max_send_buf_size(SEND_BUFFER_LEN)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| ProxyError::Connect)?;
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "http/2 connection to an upstream ended");
            }
            drop(wide);
        });
        Ok((sender, wire))
    }

    fn put_idle(&self, connection: Http1) {
        if self.is_too_old(connection.opened_ms) {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() < self.settings.limits.connections_max as usize {
            idle.push(Idle { connection, since_ms: self.clock.monotonic_ms() });
        }
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The value of the field `Keep-Alive`.
fn keep_alive_of<B>(response: &Response<B>) -> Option<&[u8]> {
    response.headers().get(KEEP_ALIVE).map(HeaderValue::as_bytes)
}

/// How long a connection may be idle, in milliseconds: as long as the instance announces in `Keep-Alive`, but at most
/// `max_ms`. A margin is subtracted, so that no request is sent while the instance closes the connection.
fn announced_idle_ms(keep_alive: Option<&[u8]>, max_ms: u64) -> u64 {
    let announced = || {
        let text = std::str::from_utf8(keep_alive?).ok()?;
        let timeout = text.split(',').find_map(|item| item.trim().strip_prefix("timeout="))?;
        let ms = timeout.trim().parse::<u64>().ok()?.saturating_mul(1_000);
        Some(ms - (ms / 2).min(1_000))
    };
    announced().map_or(max_ms, |ms| ms.min(max_ms))
}

impl Lease {
    /// The signal that the request must end, because a client that has fewer requests needs its slot or connection.
    pub(crate) fn leave(&self) -> &Arc<Leave> {
        self.slot.leave()
    }

    /// Sends a request and waits for the head of the response. `may_repeat` is whether the caller may send the request
    /// a second time after it was written. If not, nothing is written to a connection that the instance has closed. A
    /// lease sends one request.
    pub(crate) async fn send(
        mut self,
        request: Request<RequestBody>,
        may_repeat: bool,
        on_interim: OnInterim<'_>,
    ) -> Result<(Response<Content>, Self), SendFailure> {
        match self.sender {
            Sender::Http1(Http1 { connection, opened_ms, idle_max_ms }) => {
                // The check costs a system call.
                let check = self.reused && !may_repeat;
                let sent = connection.send(request, check, on_interim).await;
                let response = sent.map_err(SendFailure::over_http1)?;
                let idle_max_ms = announced_idle_ms(keep_alive_of(&response), idle_max_ms);
                self.sender = Sender::Http1Sent { opened_ms, idle_max_ms };
                Ok((response.map(Content::Http1), self))
            }
            Sender::Http2(ref mut connection) => {
                let sent = connection.sender.try_send_request(request).await;
                let response = sent.map_err(SendFailure::over_http2)?;
                Ok((response.map(Content::Http2), self))
            }
            Sender::Http1Sent { .. } => unreachable!("a lease sends one request"),
        }
    }

    /// Sends a `GET` with this head over HTTP/1. If the answer is plain, `take` is called with it, and the connection
    /// returns to the pool.
    pub(crate) async fn send_direct<T>(
        mut self,
        head: &[u8],
        on_interim: OnInterim<'_>,
        mut take: impl FnMut(&PlainAnswer<'_>) -> Option<T>,
    ) -> Result<DirectAnswer<T>, SendFailure> {
        let Sender::Http1(Http1 { connection, opened_ms, idle_max_ms }) = self.sender else {
            unreachable!("a direct request goes over HTTP/1, and a lease sends one request")
        };
        let mut announced_ms = idle_max_ms;
        let taking = |answer: &PlainAnswer<'_>| {
            announced_ms = announced_idle_ms(answer.keep_alive, idle_max_ms);
            take(answer)
        };
        match connection.send_direct(head, on_interim, taking).await {
            Ok(Answered::Plain(taken, connection)) => {
                self.sender = Sender::Http1Sent { opened_ms, idle_max_ms: announced_ms };
                self.return_to_pool(Some(connection));
                Ok(DirectAnswer::Plain(taken))
            }
            Ok(Answered::Other(response)) => {
                let idle_max_ms = announced_idle_ms(keep_alive_of(&response), idle_max_ms);
                self.sender = Sender::Http1Sent { opened_ms, idle_max_ms };
                Ok(DirectAnswer::Other(Box::new((response.map(Content::Http1), self))))
            }
            Err(failure) => Err(SendFailure::over_http1(failure)),
        }
    }

    /// Which connection to lease if this one cannot be used again.
    pub(crate) fn newer_connection(&self) -> Reuse {
        match &self.sender {
            Sender::Http2(connection) => Reuse::NewerThan(connection.number),
            Sender::Http1(_) | Sender::Http1Sent { .. } => Reuse::NewerThan(0),
        }
    }

    /// Whether the connection is HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// Returns the connection when the request and the response are complete. `connection` is the HTTP/1 connection, if
    /// it can be used again.
    pub(crate) fn return_to_pool(self, connection: Option<http1::Connection>) {
        // From now on, no request uses the connection.
        drop(self.in_use);
        if let (Sender::Http1Sent { opened_ms, idle_max_ms }, Some(connection)) =
            (self.sender, connection)
        {
            self.pool.put_idle(Http1 { connection, opened_ms, idle_max_ms });
        }
        drop(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::super::client::{ClientAddr, Peer};
    use super::super::connect::{TlsRoots, WIDE_MAX};
    use super::super::egress::EgressPolicy;
    use super::*;
    use maxine_admission::CallerClass;
    use maxine_state::Address;

    /// The stream window in the first settings that an HTTP/2 client sends (RFC 9113 section 6.5).
    async fn announced_window(stream: &mut TcpStream) -> u32 {
        let mut head = [0; 24 + 9];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!((&head[..3], head[27]), (&b"PRI"[..], 4));
        let len = u32::from_be_bytes([0, head[24], head[25], head[26]]) as usize;
        let mut settings = vec![0; len];
        stream.read_exact(&mut settings).await.unwrap();
        let window = settings.chunks(6).find(|setting| setting[..2] == [0, 4]).unwrap();
        u32::from_be_bytes([window[2], window[3], window[4], window[5]])
    }

    /// The bytes that instances may send and that no client takes are limited. For connections beyond a number, the
    /// limit is that of HTTP/1.
    #[tokio::test]
    async fn a_limited_number_of_http2_connections_has_wide_windows() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let address = Address::parse(&address).unwrap();
        let places = crate::ConnectionLimits::of(4_096).places();
        let egress = EgressPolicy::new(vec![], vec![], true);
        let connector = Connector::new(egress, &TlsRoots::System, places).unwrap();
        let settings = PoolSettings {
            limits: ConnectionPolicy::default(),
            protocol: UpstreamProtocol::Http2,
            insecure_tls: false,
        };
        let holder = Holder::of(
            &ClientAddr::direct(Peer::plain([10, 0, 0, 1].into())),
            CallerClass::Stranger,
        );
        let mut held = Vec::new();
        let mut windows = Vec::new();
        for _ in 0..=WIDE_MAX {
            let address = UpstreamAddress::parse(&address).unwrap();
            let (connector, clock) = (connector.clone(), Clock::system());
            let pool = Pool::new(address, settings, connector, clock, TaskTracker::new());
            let lease = pool.lease(holder, Duration::from_secs(5), Reuse::Any);
            let (lease, accepted) = futures::join!(lease, listener.accept());
            let (mut stream, _) = accepted.unwrap();
            windows.push(announced_window(&mut stream).await);
            held.push((lease.unwrap_or_else(|error| panic!("{error}")), stream));
        }
        assert_eq!(windows.pop(), Some(NARROW_WINDOW_LEN));
        assert_eq!(windows, [WIDE_WINDOW_LEN; WIDE_MAX]);
    }

    #[test]
    fn a_connection_is_given_up_before_the_instance_closes_it() {
        let announced = |text: &str| announced_idle_ms(Some(text.as_bytes()), 60_000);
        assert_eq!(announced("timeout=5"), 4_000);
        assert_eq!(announced("max=100, timeout=1"), 500);
        assert_eq!(announced("timeout=0"), 0);
        assert_eq!((announced("timeout=soon"), announced("timeout=600")), (60_000, 60_000));
        assert_eq!(announced_idle_ms(None, 60_000), 60_000);
    }
}
