//! One client's connection over HTTP/1.1. It reads requests, lets them be answered, and writes the answers, all on one
//! task.
//!
//! Place in the flow: [`super::serve`] accepts a connection and gives it a place. [`super::fast_path`] reads and answers
//! look-ups by redirect, and plain requests to instances. [`Answering`] answers all other requests. A connection that
//! begins with the preface of HTTP/2 goes to [`super::http2`].
//!
//! A connection that waits for a request holds no buffer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Response, StatusCode, Version};
use axum::response::IntoResponse;
use bytes::BytesMut;
use futures::future::Either;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::Sleep;

use super::answering::Answering;
use super::client_stream::{ClientRead, ClientWrite, write_now};
use super::compat::Relayed;
use super::compat_error::CompatError;
use super::credential_check;
use super::fast_path::{Answered, OUTPUT_LEN_MAX, Relay};
use super::http2;
use super::linger::LingeringStream;
use super::listener::{Client, Listener};
use super::send_monitor::{self, Reader, SendMonitor};
use super::well_formed;
use maxine_admission::Place;
use maxine_http1::{After, Asked, BadRequest, Connection, HeadWait, RequestHead, Upgrade};

/// Maximum number of bytes that are read at once while the connection waits for a request.
const READ_LEN_MAX: usize = 8 * 1_024;
/// Number of bytes of an unfinished head that each connection may hold. Further ones count as bytes of requests in
/// flight.
const HELD_LEN_FREE: usize = 8 * 1_024;
/// The first bytes of a connection over HTTP/2 (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The buffers of a thread, which its connections share. Nothing stays in them from one turn to the next.
struct Scratch {
    input: Box<[u8]>,
    output: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: vec![0; READ_LEN_MAX].into_boxed_slice(),
        output: Vec::new(),
    });
}

/// What happens next on a connection.
enum Next {
    /// A request. Its head was taken out of the bytes of the connection.
    Request(Box<RequestHead>),
    /// A request that is sent to an instance by the fast path.
    Relay(Box<Relay>),
    /// Bytes that are not a request.
    Bad(BadRequest),
    /// The beginning of a long head, for which there is no room.
    NoRoom,
    /// The preface of HTTP/2.
    Http2,
    /// The client has closed the connection or was silent for too long, or the node is stopping.
    End,
}

/// The result of one turn of a connection.
struct Turn {
    /// Set if requests were answered: when the wait for the client's next bytes began, in microseconds on the monotonic
    /// clock.
    since_us: Option<u64>,
    /// Bytes of answers that must still be sent.
    unsent: Vec<u8>,
    /// `None` if more bytes are needed.
    next: Option<Next>,
}

/// A connection that another protocol uses from now on.
pub(super) type Upgraded = (Upgrade, Client);

/// Serves a connection until it ends, or until another protocol uses it. Then that connection is returned.
pub(super) async fn serve(
    listener: &Listener,
    answering: Answering,
    stream: (ClientRead, ClientWrite),
) -> Option<Upgraded> {
    let Some(check) = answering.credential_check.clone() else {
        return Session { listener, answering }.run(stream).await;
    };
    tokio::select! {
        upgraded = Box::pin(Session { listener, answering }.run(stream)) => upgraded,
        () = check.failed() => {
            listener.metrics.connections_refused.inc();
            None
        }
    }
}

/// A connection that is being served.
struct Session<'a> {
    listener: &'a Listener,
    answering: Answering,
}

/// How long to wait for the client's next request.
struct Patience<'a> {
    timer: Pin<&'a mut Sleep>,
    max: Duration,
    /// When the wait for the client began, in microseconds on the monotonic clock.
    since_us: u64,
}

impl Session<'_> {
    async fn run(self, (read, write): (ClientRead, ClientWrite)) -> Option<Upgraded> {
        let mut client = Connection { read, write, bytes: BytesMut::new() };
        let idle = Duration::from_millis(self.listener.limits.header_timeout_ms);
        let first = match &self.answering.credential_check {
            Some(_) => idle.min(credential_check::TIMEOUT),
            None => idle,
        };
        let since_us = self.now_us();
        let timer = pin!(tokio::time::sleep(first));
        let mut patience = Patience { timer, max: first, since_us };
        let stop = self.listener.stop.clone();
        let mut stopped = pin!(stop.cancelled());
        let mut is_first = true;
        loop {
            let next = self.next(&mut client, is_first, &mut patience, stopped.as_mut());
            let after = match next.await {
                Next::End => return None,
                Next::Http2 => {
                    Box::pin(http2::serve(self.listener, self.answering, client)).await;
                    return None;
                }
                Next::Request(head) => Box::pin(self.exchange(client, head)).await,
                Next::Relay(relay) => Box::pin(self.relay(client, relay)).await,
                Next::Bad(why) => {
                    let refusal = well_formed::bad_request(why, self.answering.bounds);
                    client.refuse(refusal.into_response(), self.wall_ms()).await
                }
                Next::NoRoom => {
                    let text = "too many requests with long heads are arriving; retry in 1 s";
                    let refusal = CompatError::new(StatusCode::SERVICE_UNAVAILABLE, text);
                    let refusal = refusal.with_retry_after_s(Some(1)).into_response();
                    client.refuse(refusal, self.wall_ms()).await
                }
            };
            client = match after {
                After::Open(client) => client,
                After::Ending(client) => {
                    linger(client).await;
                    return None;
                }
                After::Upgraded(upgrade, client) => return Some((upgrade, client)),
                After::Gone => return None,
            };
            is_first = false;
            patience.max = idle;
            patience.since_us = self.now_us();
        }
    }

    /// Waits for what happens next, and answers look-ups meanwhile.
    async fn next(
        &self,
        client: &mut Client,
        is_first: bool,
        patience: &mut Patience<'_>,
        mut stopped: Pin<&mut impl Future<Output = ()>>,
    ) -> Next {
        let is_unread = !client.bytes.is_empty();
        let mut state = Waiting { is_first, head: HeadWait::default(), is_unread, room: None };
        loop {
            let turn = poll_fn(|cx| {
                if let Poll::Ready(turn) = self.poll_turn(client, &mut state, cx) {
                    return Poll::Ready(Some(turn));
                }
                // These are also polled after an answer was sent, because the wake that brought the request may have
                // been their only one.
                if stopped.as_mut().poll(cx).is_ready() || patience.poll_over(self.now_us(), cx) {
                    return Poll::Ready(None);
                }
                Poll::Pending
            });
            let Some(Turn { since_us, unsent, next }) = turn.await else { return Next::End };
            if let Some(since_us) = since_us {
                (state.is_first, patience.since_us) = (false, since_us);
            }
            if !unsent.is_empty() {
                if !self.send_rest(client, &unsent).await {
                    return Next::End;
                }
                patience.since_us = self.now_us();
            }
            if let Some(next) = next {
                return next;
            }
        }
    }

    /// Sends the rest of answers. Returns false if the client does not take it in time, or if too many bytes wait for
    /// this client or for others.
    async fn send_rest(&self, client: &mut Client, unsent: &[u8]) -> bool {
        let Answering { peer, caller_class, .. } = self.answering;
        let reader = Reader { address: peer.ip, caller_class };
        let usual = Duration::from_millis(self.listener.limits.send_timeout_ms.into());
        let Some((_place, patience)) = self.listener.unsent.hold(reader, unsent.len(), usual)
        else {
            return false;
        };
        let sent = tokio::time::timeout(patience, async {
            client.write.write_all(unsent).await?;
            // With TLS, what was written may still wait here.
            client.write.flush().await
        });
        let stalled = match sent.await {
            Ok(Ok(())) => return true,
            // The system has its own time limit.
            Ok(Err(error)) => error.kind() == io::ErrorKind::TimedOut,
            Err(_) => true,
        };
        if stalled {
            self.listener.metrics.connections_stalled.inc();
        }
        false
    }

    /// Reads once, answers look-ups, and sends as much of the answers as the system accepts.
    fn poll_turn(
        &self,
        client: &mut Client,
        state: &mut Waiting,
        cx: &mut Context<'_>,
    ) -> Poll<Turn> {
        let ended = |next| Poll::Ready(Turn { since_us: None, unsent: Vec::new(), next });
        SCRATCH.with_borrow_mut(|Scratch { input, output }| {
            let mut read = ReadBuf::new(input);
            if !std::mem::take(&mut state.is_unread) {
                match ready!(Pin::new(&mut client.read).poll_read(cx, &mut read)) {
                    Ok(()) if !read.filled().is_empty() => {}
                    Ok(()) | Err(_) => return ended(Some(Next::End)),
                }
            }
            let mut waiting = std::mem::take(&mut client.bytes);
            let bytes = if waiting.is_empty() {
                read.filled()
            } else {
                waiting.extend_from_slice(read.filled());
                &waiting
            };
            if !state.head.is_worth_reading(bytes, self.listener.head_limits.len_max) {
                client.bytes = waiting;
                return ended(self.no_room(&mut state.room, client.bytes.len()));
            }
            output.clear();
            let read_us = self.now_us();
            let (len, answered, next) = self.find(bytes, state.is_first, read_us, output);
            // The rest of the bytes was not parsed, because the output is full.
            state.is_unread = output.len() >= OUTPUT_LEN_MAX && next.is_none();
            if waiting.is_empty() {
                waiting = BytesMut::from(&bytes[len..]);
            } else {
                let _ = waiting.split_to(len);
            }
            client.bytes = waiting;
            let next = next.or_else(|| self.no_room(&mut state.room, client.bytes.len()));
            state.head.take(len);
            let Ok(sent) = write_now(&client.write, output) else { return ended(Some(Next::End)) };
            let since_us = answered.then_some(read_us);
            Poll::Ready(Turn { since_us, unsent: output[sent..].to_vec(), next })
        })
    }

    /// Charges the bytes of an unfinished head that are more than every connection may hold. Returns what happens if
    /// there is no room for them.
    fn no_room(&self, room: &mut Option<Place>, len: usize) -> Option<Next> {
        let over = len.saturating_sub(HELD_LEN_FREE);
        let held = room.as_ref().map_or(0, Place::count);
        if over <= held {
            return None;
        }
        let taken = match room {
            Some(room) => room.grow(over - held),
            None => {
                let Answering { front, peer, caller_class, .. } = &self.answering;
                front.bodies().take(peer.ip, *caller_class, over).map(|place| *room = Some(place))
            }
        };
        taken.err().map(|_| Next::NoRoom)
    }

    /// Answers look-ups into `output`, and reads the head of the first other request. Returns the length of the bytes
    /// that both used, whether anything was answered, and what happens next.
    fn find(
        &self,
        bytes: &[u8],
        is_first: bool,
        read_us: u64,
        output: &mut Vec<u8>,
    ) -> (usize, bool, Option<Next>) {
        let Answering { front, peer, credential_check, place, .. } = &self.answering;
        let fast_path = front.fast_path().filter(|_| credential_check.is_none());
        let answered = fast_path.map(|fast_path| fast_path.answer(*peer, bytes, read_us, output));
        let Answered { len: answered_len, relay } = answered.unwrap_or_default();
        let is_answered = answered_len > 0;
        if let Some(place) = place.as_ref().filter(|_| is_answered || relay.is_some()) {
            place.has_spoken();
        }
        if let Some(relay) = relay {
            return (answered_len, is_answered, Some(Next::Relay(relay)));
        }
        let rest = &bytes[answered_len..];
        if rest.is_empty() || output.len() >= OUTPUT_LEN_MAX {
            return (answered_len, is_answered, None);
        }
        if is_first && !is_answered {
            if rest.starts_with(HTTP2_PREFACE) {
                return (0, false, Some(Next::Http2));
            }
            if HTTP2_PREFACE.starts_with(rest) {
                return (0, false, None);
            }
        }
        match RequestHead::read(rest, self.listener.head_limits) {
            Ok(None) => (answered_len, is_answered, None),
            Ok(Some((head, len))) => {
                (answered_len + len, is_answered, Some(Next::Request(Box::new(head))))
            }
            Err(why) => (answered_len, is_answered, Some(Next::Bad(why))),
        }
    }

    /// Lets a request be answered, and writes the answer.
    async fn exchange(
        &self,
        client: Client,
        head: Box<RequestHead>,
    ) -> After<ClientRead, ClientWrite> {
        let reader = self.answering.reader(&head.parts.headers);
        let asking = client.ask(*head, |request, interim| match self.answering.refusal(&request) {
            Some(refusal) => Either::Left(std::future::ready(refusal)),
            None => Either::Right(self.answering.answer(request, Some(interim))),
        });
        let Ok((response, asked)) = asking.await else { return After::Gone };
        self.deliver(asked, reader, response).await
    }

    /// Waits for the answer to a request that the fast path has sent to an instance, and writes it.
    async fn relay(&self, mut client: Client, relay: Box<Relay>) -> After<ClientRead, ClientWrite> {
        let interim = OnceLock::new();
        let stop = &self.listener.stop;
        // If the client leaves, this function returns and drops the future, which aborts the request.
        let answer = pin!(self.answering.front.relay(relay, &interim, stop));
        let Ok(answer) = client.wait(&interim, answer).await else { return After::Gone };
        match answer {
            // A plain answer begins with its own first byte, so no interim answer came before it.
            Relayed::Plain(encoded) => {
                let Ok(sent) = write_now(&client.write, &encoded) else { return After::Gone };
                let unsent = &encoded[sent..];
                if !unsent.is_empty() && !self.send_rest(&mut client, unsent).await {
                    return After::Gone;
                }
                if stop.is_cancelled() { After::Ending(client) } else { After::Open(client) }
            }
            Relayed::Other(response) => {
                let reader = self.answering.reader(&HeaderMap::new());
                let asked = client.asked(Method::GET, interim.get().cloned().unwrap_or_default());
                Box::pin(self.deliver(asked, reader, response)).await
            }
        }
    }

    /// Writes an answer. Its bytes are charged to `reader` until the client has taken them.
    async fn deliver(
        &self,
        asked: Asked<ClientRead, ClientWrite>,
        reader: Reader,
        response: Response<Body>,
    ) -> After<ClientRead, ClientWrite> {
        if !send_monitor::is_watched(Version::HTTP_11, &response) {
            return self.send(asked, response).await;
        }
        let monitor =
            SendMonitor::new(self.answering.front.clock().clone(), self.listener.unsent.clone());
        let response = monitor.watch(Version::HTTP_11, reader, response, None);
        let patience = Duration::from_millis(self.listener.limits.send_timeout_ms.into());
        tokio::select! {
            after = self.send(asked, response) => after,
            () = monitor.stalled(patience) => {
                self.listener.metrics.connections_stalled.inc();
                After::Gone
            }
        }
    }

    async fn send(
        &self,
        asked: Asked<ClientRead, ClientWrite>,
        response: Response<Body>,
    ) -> After<ClientRead, ClientWrite> {
        let may_stay = !self.listener.stop.is_cancelled();
        asked.send(response, may_stay, self.wall_ms()).await
    }

    fn now_us(&self) -> u64 {
        self.answering.front.clock().monotonic_us()
    }

    fn wall_ms(&self) -> u64 {
        self.answering.front.clock().wall_ms()
    }
}

/// The state of a connection that waits for a request.
struct Waiting {
    /// Whether the connection has had no request.
    is_first: bool,
    head: HeadWait,
    /// Whether the connection holds bytes that were read and not parsed.
    is_unread: bool,
    /// The place for the bytes of a long head, until the head is complete.
    room: Option<Place>,
}

impl Patience<'_> {
    /// Whether the client's time is over. The timer is only moved when it fires, because moving it for each request
    /// would cost more.
    fn poll_over(&mut self, now_us: u64, cx: &mut Context<'_>) -> bool {
        while self.timer.as_mut().poll(cx).is_ready() {
            let idle = Duration::from_micros(now_us.saturating_sub(self.since_us));
            let Some(left) = self.max.checked_sub(idle).filter(|left| !left.is_zero()) else {
                return true;
            };
            let next = self.timer.deadline() + left;
            self.timer.as_mut().reset(next);
        }
        false
    }
}

/// Closes a connection so that its last answer arrives.
async fn linger(client: Client) {
    let mut stream = LingeringStream::new(tokio::io::join(client.read, client.write));
    // This is best effort, because the client may have gone.
    let _ = stream.shutdown().await;
}
