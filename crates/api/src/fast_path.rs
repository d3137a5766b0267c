//! The fast path: discovery by redirect and `resolve?redirect=1`, answered from the connection's own bytes.
//!
//! Place in the flow: between the socket and the HTTP library; every connection begins here. Behind the
//! library, most of the cost of a look-up is the library itself: a map of the header fields of the request,
//! another one for the answer, and a state machine around both. Here a plain request is parsed in the buffer
//! in which it arrived, and its complete answer is written. Route, look-up and choice are those of the
//! [`super::Front`] and of the router's handler; only the answer is encoded here. Any other request, and one
//! whose answer is no redirect, goes to the library byte for byte, together with everything that follows on
//! its connection. Nothing was done for that request before.
//!
//! **Invariant:** a client cannot tell which of the two answered. The tests in `tests/compat/fast_path.rs`
//! send the same bytes both ways.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::http::Method;
use axum::http::header::{self, HeaderMap, HeaderName};
use bytes::Bytes;
use httparse::{Header, Status};
use maxine_balance::Fields;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::compat::{self, LookUp, Preferred};
use super::middleware::{Shared, TRACEPARENT, context_of};
use super::native::{Basis, NO_STORE, PlainResolve};
use super::route::Route;
use super::well_formed;
use super::{AppState, RequestContext};
use maxine_discovery::{Outcome, TEXT_PREFIX};
use maxine_gateway::FieldLines;
use maxine_telemetry::Subject;

/// Maximum number of bytes that are read at once. Longer requests take the slow path.
const READ_LEN_MAX: usize = 8 * 1_024;
/// Maximum number of header fields of a request on the fast path.
const FIELDS_MAX: usize = 32;
/// Fields that the fast path reads or writes. If the header of the trace id had one of these names, there
/// would be two of it.
const FIELDS: [HeaderName; 14] = [
    header::ACCEPT,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::DATE,
    header::EXPECT,
    header::HOST,
    header::LOCATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VARY,
    header::X_CONTENT_TYPE_OPTIONS,
    TRACEPARENT,
];

/// Answers requests without the HTTP library.
pub(super) struct FastPath {
    state: AppState,
    edge: Arc<Shared>,
}

/// The buffers of a thread. Nothing is kept in them from one turn to the next, apart from the date.
struct Scratch {
    input: Box<[u8]>,
    output: Vec<u8>,
    date: Date,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: vec![0; READ_LEN_MAX].into_boxed_slice(),
        output: Vec::new(),
        date: Date::default(),
    });
}

/// The result of one turn of a connection.
enum Turn {
    /// Everything that was read, at `0` on the monotonic clock, was answered, and the answers were sent.
    Answered(u64),
    /// `0` are bytes of answers that must still be sent, and `1` are bytes for the library. Either may be
    /// empty.
    Left(Vec<u8>, Bytes),
    /// The other side has closed or was silent for too long, or the node is stopping.
    Ended,
}

impl FastPath {
    /// For a node with open discovery whose answers have the usual fields; `None` for other nodes.
    pub(super) fn new(state: AppState, edge: Arc<Shared>) -> Option<Self> {
        let is_usual = edge.allows_fast_path()
            && !FIELDS.contains(edge.trace_header())
            && !edge.trace_header().as_str().starts_with("x-maxine-");
        is_usual.then_some(Self { state, edge })
    }

    /// Answers requests on a connection until one is for the library. Returns the bytes that were read of it;
    /// `None` once the connection has ended.
    pub(super) async fn serve(
        &self,
        stream: &mut TcpStream,
        peer: IpAddr,
        idle_max: Duration,
        stop: &CancellationToken,
    ) -> Option<Bytes> {
        let now_us = || self.state.clock().monotonic_us();
        let idle_max_us = u64::try_from(idle_max.as_micros()).unwrap_or(u64::MAX);
        let mut last_us = now_us();
        // It is moved only when it fires, which is rare.
        let mut deadline = pin!(tokio::time::sleep(idle_max));
        let mut stopped = pin!(stop.cancelled());
        loop {
            let turn = poll_fn(|context| {
                if let Poll::Ready(turn) = self.poll_turn(stream, peer, context) {
                    return Poll::Ready(turn);
                }
                // This is also done after every answer, because their only wake may have been the one that
                // brought the request.
                if stopped.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Turn::Ended);
                }
                while deadline.as_mut().poll(context).is_ready() {
                    let idle_us = now_us().saturating_sub(last_us);
                    if idle_us >= idle_max_us {
                        return Poll::Ready(Turn::Ended);
                    }
                    let left = Duration::from_micros(idle_max_us - idle_us);
                    let next = deadline.deadline() + left;
                    deadline.as_mut().reset(next);
                }
                Poll::Pending
            });
            match turn.await {
                Turn::Answered(at_us) => last_us = at_us,
                Turn::Left(unsent, rest) => {
                    if stream.write_all(&unsent).await.is_err() {
                        return None;
                    }
                    if !rest.is_empty() {
                        return Some(rest);
                    }
                    last_us = now_us();
                }
                Turn::Ended => return None,
            }
        }
    }

    /// Reads once, answers what it can, and sends as much as the system accepts.
    fn poll_turn(
        &self,
        stream: &mut TcpStream,
        peer: IpAddr,
        context: &mut Context<'_>,
    ) -> Poll<Turn> {
        SCRATCH.with_borrow_mut(|Scratch { input, output, date }| {
            let mut read = ReadBuf::new(input);
            match Pin::new(&mut *stream).poll_read(context, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(Turn::Ended),
                Poll::Ready(Ok(())) if read.filled().is_empty() => return Poll::Ready(Turn::Ended),
                Poll::Ready(Ok(())) => {}
            }
            output.clear();
            let read_us = self.state.clock().monotonic_us();
            let rest = self.answer(peer, read.filled(), read_us, date, output);
            let sent = match stream.try_write(output) {
                _ if output.is_empty() => 0,
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return Poll::Ready(Turn::Ended),
            };
            if sent == output.len() && rest.is_empty() {
                return Poll::Ready(Turn::Answered(read_us));
            }
            Poll::Ready(Turn::Left(output[sent..].to_vec(), Bytes::copy_from_slice(rest)))
        })
    }

    /// Answers one request after the other. The rest begins with the first request that is not answered here.
    fn answer<'a>(
        &self,
        peer: IpAddr,
        mut bytes: &'a [u8],
        read_us: u64,
        date: &mut Date,
        out: &mut Vec<u8>,
    ) -> &'a [u8] {
        while !bytes.is_empty() {
            let out_len = out.len();
            let one = AssertUnwindSafe(|| self.answer_one(peer, bytes, read_us, date, out));
            // After a panic, the library handles the request and answers the panic.
            let Some(len) = catch_unwind(one).ok().flatten() else {
                out.truncate(out_len);
                break;
            };
            bytes = &bytes[len..];
        }
        bytes
    }

    /// Answers the first request in `bytes`. Returns its length.
    fn answer_one(
        &self,
        peer: IpAddr,
        bytes: &[u8],
        read_us: u64,
        date: &mut Date,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        if self.state.store().exclusion().is_some() {
            return None;
        }
        let mut fields = [MaybeUninit::uninit(); FIELDS_MAX];
        let mut head = httparse::Request::new(&mut []);
        let parsed = head.parse_with_uninit_headers(bytes, &mut fields);
        let Ok(Status::Complete(len)) = parsed else { return None };
        let (path, query) = plain_target(&head)?;
        let given = Given::of(head.headers, self.edge.trace_header().as_str())?;
        let fields = ReadFields(head.headers);
        let client = self.edge.resolve(peer, &fields);
        let context = context_of(given.trace_id, given.traceparent, client);
        let subject = match Route::of(&self.state, &Method::GET, path, Some(query)) {
            Route::LookUp(look_up) => {
                self.discover(&look_up, given.accept, &fields, &context, date, out)?
            }
            Route::Router => {
                let resolve = PlainResolve::of(path, query)?;
                self.resolve(&resolve, &fields, &context, date, out)?
            }
            Route::Forward(_) => return None,
        };
        self.state.telemetry().metrics().fast_path.inc();
        self.edge.redirected(head.path?, subject, context, read_us);
        Some(len)
    }

    /// A redirect of the compatible API.
    fn discover(
        &self,
        look_up: &LookUp<'_>,
        accept: Option<&[u8]>,
        fields: &ReadFields<'_, '_>,
        context: &RequestContext,
        date: &mut Date,
        out: &mut Vec<u8>,
    ) -> Option<Subject> {
        let body = compat::preferred(accept);
        if body == Preferred::Html {
            return None;
        }
        let outcome = look_up.outcome(&self.state, context.client.ip, fields);
        let Outcome::Found(choice) = &outcome else { return None };

        let now_ms = self.state.clock().wall_ms();
        out.extend_from_slice(b"HTTP/1.1 302 Found\r\nLocation: ");
        let location_at = out.len();
        let address = choice.instance.registration.address.as_str();
        maxine_discovery::push_location(out, address, look_up.query.end_point.as_deref());
        let location = location_at..out.len();
        out.extend_from_slice(b"\r\nVary: Accept");
        let mut body_len = 0;
        if body == Preferred::Text {
            push_field(out, "Content-Type", compat::PLAIN_TEXT.as_bytes());
            body_len = TEXT_PREFIX.len() + location.len();
        }
        self.push_usual(context, out);
        push_field(out, "Content-Length", itoa::Buffer::new().format(body_len).as_bytes());
        push_field(out, "Date", date.at(now_ms));
        out.extend_from_slice(b"\r\n\r\n");
        if body == Preferred::Text {
            out.extend_from_slice(TEXT_PREFIX);
            out.extend_from_within(location);
        }
        Some(look_up.account(&self.state, outcome, &Method::GET, context, now_ms))
    }

    /// A redirect of the native API.
    fn resolve(
        &self,
        resolve: &PlainResolve,
        fields: &ReadFields<'_, '_>,
        context: &RequestContext,
        date: &mut Date,
        out: &mut Vec<u8>,
    ) -> Option<Subject> {
        let (basis, _) = Basis::present(&self.state);
        let (index, outcome) = resolve.outcome(&self.state, context.client.ip, fields);
        let Outcome::Found(choice) = &outcome else { return None };

        let now_ms = self.state.clock().wall_ms();
        out.extend_from_slice(b"HTTP/1.1 302 Found\r\nlocation: ");
        let address = choice.instance.registration.address.as_str();
        maxine_discovery::push_location(out, address, resolve.appended());
        let mut freshness = HeaderMap::with_capacity(8);
        freshness.insert(header::CACHE_CONTROL, NO_STORE);
        basis.at(index).put_headers(&self.state, &mut freshness);
        for (name, value) in &freshness {
            push_field(out, name.as_str(), value.as_bytes());
        }
        self.push_usual(context, out);
        push_field(out, "content-length", b"0");
        push_field(out, "date", date.at(now_ms));
        out.extend_from_slice(b"\r\n\r\n");
        Some(resolve.account(&self.state, outcome, context, now_ms))
    }

    /// The fields of every answer.
    fn push_usual(&self, context: &RequestContext, out: &mut Vec<u8>) {
        push_field(out, self.edge.trace_header().as_str(), b"");
        context.trace_id.push_to(out);
        push_field(out, TRACEPARENT.as_str(), b"");
        context.traceparent.push_to(out);
        push_field(out, header::X_CONTENT_TYPE_OPTIONS.as_str(), b"nosniff");
    }
}

fn push_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
}

/// The path and the query of a `GET` over HTTP/1.1 whose query has nothing but characters of a URL.
fn plain_target<'a>(head: &httparse::Request<'_, 'a>) -> Option<(&'a str, &'a str)> {
    if head.method != Some("GET") || head.version != Some(1) {
        return None;
    }
    let (path, query) = head.path?.split_once('?')?;
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?@!$&'()*+,;=%".contains(&byte);
    query.bytes().all(is_plain).then_some((path, query))
}

/// The parts of a request that an answer depends on, apart from the query.
#[derive(Default)]
struct Given<'a> {
    accept: Option<&'a [u8]>,
    trace_id: Option<&'a [u8]>,
    traceparent: Option<&'a [u8]>,
}

impl<'a> Given<'a> {
    /// `None` if a field asks for more than an answer: a body, another protocol, or the end of the
    /// connection.
    fn of(fields: &[Header<'a>], trace_header: &str) -> Option<Self> {
        let mut given = Self::default();
        let mut hosts = 0;
        for Header { name, value } in fields {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            let slot = match name.len() {
                4 if is("host") => {
                    if !well_formed::is_host(value) {
                        return None;
                    }
                    hosts += 1;
                    continue;
                }
                6 if is("accept") => &mut given.accept,
                10 if is("connection") && !value.eq_ignore_ascii_case(b"keep-alive") => {
                    return None;
                }
                6 if is("expect") => return None,
                7 if is("upgrade") => return None,
                14 if is("content-length") => return None,
                17 if is("transfer-encoding") => return None,
                11 if is("traceparent") => &mut given.traceparent,
                _ if is(trace_header) => &mut given.trace_id,
                _ => continue,
            };
            // If a field is repeated, the first one is used.
            slot.get_or_insert(value);
        }
        (hosts == 1).then_some(given)
    }
}

/// The header fields in the read buffer.
#[derive(Debug)]
struct ReadFields<'h, 'b>(&'h [Header<'b>]);

impl Fields for ReadFields<'_, '_> {
    fn field(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }
}

impl FieldLines for ReadFields<'_, '_> {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let named = |field: &&Header<'_>| field.name.eq_ignore_ascii_case(name.as_str());
        self.0.iter().filter(named).map(|field| field.value)
    }
}

/// The text of a `Date`, which most answers share with the previous one.
#[derive(Default)]
struct Date {
    second: Option<u64>,
    text: String,
}

impl Date {
    fn at(&mut self, time_ms: u64) -> &[u8] {
        let second = time_ms / 1_000;
        if self.second != Some(second) {
            self.second = Some(second);
            self.text =
                httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        }
        self.text.as_bytes()
    }
}

/// Fuzz target: a request that is answered here is parsed as the library parses it.
#[cfg(any(test, feature = "fuzz"))]
pub(super) mod fuzz {
    use axum::http::{HeaderMap, HeaderValue, Uri};

    use super::*;
    use crate::route::is_discovery;

    pub(crate) fn head(bytes: &[u8]) {
        let mut fields = [MaybeUninit::uninit(); FIELDS_MAX];
        let mut head = httparse::Request::new(&mut []);
        let parsed = head.parse_with_uninit_headers(bytes, &mut fields);
        let Ok(Status::Complete(len)) = parsed else { return };
        let (Some((path, query)), Some(given)) =
            (plain_target(&head), Given::of(head.headers, "x-trace-id"))
        else {
            return;
        };
        if !is_discovery(path) {
            return;
        }
        assert!(bytes[..len].ends_with(b"\n"), "the head ends with a line");
        let uri: Uri = head.path.unwrap_or_default().parse().expect("a plain target is a URI");
        assert_eq!((uri.path(), uri.query()), (path, Some(query)));
        assert!(
            uri.host().is_none()
                && uri.path_and_query().is_some_and(|t| Some(t.as_str()) == head.path)
        );
        let mut headers = HeaderMap::new();
        for Header { name, value } in &*head.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_bytes(value).expect("a value"));
        }
        assert_eq!(headers.get_all(header::HOST).iter().count(), 1);
        for other in ["content-length", "transfer-encoding", "expect", "upgrade"] {
            assert!(!headers.contains_key(other), "{other}");
        }
        let mut connection = headers.get_all(header::CONNECTION).iter();
        assert!(connection.all(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive")));
        let first = |name| headers.get(name).map(HeaderValue::as_bytes);
        assert_eq!(given.accept, first("accept"));
        assert_eq!(given.trace_id, first("x-trace-id"));
        assert_eq!(given.traceparent, first("traceparent"));
        assert_eq!(ReadFields(head.headers).field("x-user"), first("x-user"));
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let line = "GET /api/maxine/serviceops/discover?serviceName=a&endPoint=/x%20y HTTP/1.1\r\n";
        let fields = [
            "Host: h\r\nAccept: */*\r\nconnection: Keep-Alive\r\nX-User: u\r\nx-user: v\r\n",
            "host: h\r\nx-trace-id: mine\r\nTraceParent: t\r\naccept:\r\nx-trace-id: other\r\n",
            "host: h\r\nhost: h\r\nconnection: close\r\ncontent-length: 1\r\nexpect: 100-continue\r\n",
        ];
        fields.map(|fields| format!("{line}{fields}\r\n").into_bytes()).to_vec()
    }
}
