//! The fast path: discovery by redirect and `resolve?redirect=1`, answered from the bytes of a connection, and plain
//! requests to forward.
//!
//! Place in the flow: [`super::connection`] offers the bytes that it has read. A request of the simplest form is parsed
//! in this buffer. The answer to a look-up is written at once, without maps of header fields; a request to forward is
//! written for its instance in the same way ([`Relay`]). Route, look-up and choice are those of the [`super::Front`]
//! and of the router's handler; only the heads are encoded here. The connection handles every other request, and every
//! look-up whose answer is not a redirect. Nothing has been done for such a request here.
//!
//! **Invariant:** a client cannot tell whether the fast path or the slow path answered. The tests in
//! `tests/compat/fast_path.rs` send the same bytes to both.

use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::{Method, StatusCode};
use httparse::{Header, Status};
use maxine_balance::Fields;

use super::compat::{self, DirectForward, LookUp, Preferred};
use super::middleware::{Record, Shared, TRACEPARENT, context_of};
use super::native::{Basis, NO_STORE, PlainResolve};
use super::route::Route;
use super::well_formed;
use super::{AppState, RequestContext};
use maxine_discovery::{Outcome, TEXT_PREFIX};
use maxine_gateway::{FieldLines, Peer};
use maxine_http1::{push_date, push_field, push_length};
use maxine_telemetry::Subject;

/// No more look-ups are answered while this number of bytes of answers waits to be sent.
pub(super) const OUTPUT_LEN_MAX: usize = 16 * 1_024;

/// Maximum number of header fields of a request on the fast path.
const FIELDS_MAX: usize = 32;
/// Maximum length of a target on the fast path, in bytes. The limit for all targets is at least as high.
const TARGET_LEN_MAX: usize = 4 * 1_024;
/// Fields that the fast path reads or writes. If the header of the trace id had one of these names, the field would be
/// written twice.
const FIELDS: [HeaderName; 19] = [
    header::ACCEPT,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::DATE,
    header::EXPECT,
    header::FORWARDED,
    header::HOST,
    header::LOCATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VARY,
    header::VIA,
    header::X_CONTENT_TYPE_OPTIONS,
    TRACEPARENT,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
];

/// A plain request to forward, for which an instance was chosen.
pub(super) struct Relay {
    pub(super) record: Record,
    pub(super) forward: DirectForward,
}

/// What the fast path did.
#[derive(Default)]
pub(super) struct Answered {
    /// The length of the requests that were answered, and of the one that must be forwarded.
    pub(super) len: usize,
    /// The last request, if it must be forwarded.
    pub(super) relay: Option<Box<Relay>>,
}

/// Answers look-ups from the bytes of a connection.
pub(super) struct FastPath {
    state: AppState,
    edge: Arc<Shared>,
}

impl FastPath {
    /// A fast path for a node with open discovery whose answers have only the usual fields. `None` for other nodes.
    pub(super) fn new(state: AppState, edge: Arc<Shared>) -> Option<Self> {
        let is_usual = edge.allows_fast_path()
            && !FIELDS.contains(edge.trace_header())
            && !edge.trace_header().as_str().starts_with("x-maxine-");
        is_usual.then_some(Self { state, edge })
    }

    /// Answers the requests in `bytes` one after the other. It stops at a request that is not for the fast path or must
    /// be forwarded, or when `out` has [`OUTPUT_LEN_MAX`] bytes. Writes the answers to `out`. `read_us` is when the
    /// bytes were read, in microseconds on the monotonic clock.
    pub(super) fn answer(
        &self,
        peer: Peer,
        bytes: &[u8],
        read_us: u64,
        out: &mut Vec<u8>,
    ) -> Answered {
        let mut answered = Answered::default();
        while answered.len < bytes.len() && out.len() < OUTPUT_LEN_MAX && answered.relay.is_none() {
            let out_len = out.len();
            let rest = &bytes[answered.len..];
            let one = AssertUnwindSafe(|| self.answer_one(peer, rest, read_us, out));
            // After a panic, the slow path handles the request and answers the panic.
            let Some((len, relay)) = catch_unwind(one).ok().flatten() else {
                out.truncate(out_len);
                break;
            };
            answered = Answered { len: answered.len + len, relay };
        }
        answered
    }

    /// Answers the first request in `bytes`, or prepares it for its instance. Returns its length. `None` if the slow
    /// path must handle it.
    fn answer_one(
        &self,
        peer: Peer,
        bytes: &[u8],
        read_us: u64,
        out: &mut Vec<u8>,
    ) -> Option<(usize, Option<Box<Relay>>)> {
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
        let context = context_of(self.edge.sampler(), given.trace_id, given.traceparent, client);
        let subject = match Route::of(&self.state, &Method::GET, path, query) {
            Route::LookUp(look_up) => {
                self.discover(&look_up, given.accept, &fields, &context, out)?
            }
            Route::Router => {
                let resolve = PlainResolve::of(path, query?)?;
                self.resolve(&resolve, &fields, &context, out)?
            }
            Route::Forward(forward) => {
                self.state.not_serving_reason().is_none().then_some(())?;
                let forward = forward.direct(&self.state, &context, fields.0, &fields)?;
                self.state.telemetry().metrics().proxy_fast_path.inc();
                let record = self.edge.open_plain(head.path?, forward.subject(), context, read_us);
                return Some((len, Some(Box::new(Relay { record, forward }))));
            }
        };
        self.state.telemetry().metrics().fast_path.inc();
        let record = self.edge.open_plain(head.path?, subject, context, read_us);
        self.edge.close_plain(record, StatusCode::FOUND);
        Some((len, None))
    }

    /// Answers a look-up of the compatible API with a redirect. `None` if the answer is something else.
    fn discover(
        &self,
        look_up: &LookUp<'_>,
        accept: Option<&[u8]>,
        fields: &ReadFields<'_, '_>,
        context: &RequestContext,
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
        out.extend_from_slice(b"\r\nVary: Accept\r\n");
        let mut body_len = 0;
        if body == Preferred::Text {
            push_field(out, "Content-Type", compat::PLAIN_TEXT.as_bytes());
            body_len = TEXT_PREFIX.len() + location.len();
        }
        self.push_usual(context, out);
        push_length(out, "Content-Length", body_len as u64);
        push_date_field(out, "Date", now_ms);
        out.extend_from_slice(b"\r\n");
        if body == Preferred::Text {
            out.extend_from_slice(TEXT_PREFIX);
            out.extend_from_within(location);
        }
        Some(look_up.account(&self.state, outcome, &Method::GET, context, now_ms))
    }

    /// Answers a resolution of the native API with a redirect. `None` if the answer is something else.
    fn resolve(
        &self,
        resolve: &PlainResolve,
        fields: &ReadFields<'_, '_>,
        context: &RequestContext,
        out: &mut Vec<u8>,
    ) -> Option<Subject> {
        let (basis, _) = Basis::present(&self.state);
        let (index, outcome) = resolve.outcome(&self.state, context.client.ip, fields);
        let Outcome::Found(choice) = &outcome else { return None };

        let now_ms = self.state.clock().wall_ms();
        out.extend_from_slice(b"HTTP/1.1 302 Found\r\nlocation: ");
        let address = choice.instance.registration.address.as_str();
        maxine_discovery::push_location(out, address, resolve.appended());
        out.extend_from_slice(b"\r\n");
        let mut freshness = HeaderMap::with_capacity(8);
        freshness.insert(header::CACHE_CONTROL, NO_STORE);
        basis.at(index).put_headers(&self.state, &mut freshness);
        for (name, value) in &freshness {
            push_field(out, name.as_str(), value.as_bytes());
        }
        self.push_usual(context, out);
        push_length(out, "content-length", 0);
        push_date_field(out, "date", now_ms);
        out.extend_from_slice(b"\r\n");
        Some(resolve.account(&self.state, outcome, context, now_ms))
    }

    /// Writes the fields that every answer has.
    fn push_usual(&self, context: &RequestContext, out: &mut Vec<u8>) {
        out.extend_from_slice(self.edge.trace_header().as_str().as_bytes());
        out.extend_from_slice(b": ");
        context.trace_id.push_to(out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(TRACEPARENT.as_str().as_bytes());
        out.extend_from_slice(b": ");
        context.traceparent.push_to(out);
        out.extend_from_slice(b"\r\n");
        push_field(out, header::X_CONTENT_TYPE_OPTIONS.as_str(), b"nosniff");
    }
}

fn push_date_field(out: &mut Vec<u8>, name: &str, now_ms: u64) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    push_date(out, now_ms);
    out.extend_from_slice(b"\r\n");
}

/// The path and the query of a `GET` over HTTP/1.1. `None` if the target is too long, or if its query has characters
/// that are not allowed in a URL.
fn plain_target<'a>(head: &httparse::Request<'_, 'a>) -> Option<(&'a str, Option<&'a str>)> {
    let target = head.path.filter(|target| target.len() <= TARGET_LEN_MAX)?;
    if head.method != Some("GET") || head.version != Some(1) {
        return None;
    }
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?@!$&'()*+,;=%".contains(&byte);
    match target.split_once('?') {
        Some((path, query)) => query.bytes().all(is_plain).then_some((path, Some(query))),
        None => Some((target, None)),
    }
}

/// The fields of a request on which an answer depends.
#[derive(Default)]
struct Given<'a> {
    accept: Option<&'a [u8]>,
    trace_id: Option<&'a [u8]>,
    traceparent: Option<&'a [u8]>,
}

impl<'a> Given<'a> {
    /// Reads these fields. `None` if a field asks for more than an answer: it announces a body, another protocol, or
    /// the end of the connection.
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
            // If a field is repeated, the first value is used.
            slot.get_or_insert(value);
        }
        (hosts == 1).then_some(given)
    }
}

/// The header fields of a request, in the read buffer.
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

/// Fuzz target: a request that the fast path answers must be parsed in the same way as other requests.
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
        assert_eq!((uri.path(), uri.query()), (path, query));
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
