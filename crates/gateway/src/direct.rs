//! Direct forwarding: a plain request is written from the bytes of one connection to those of another, and a plain
//! answer back in the same way, without maps of header fields in between.
//!
//! Place in the flow: the API's fast path offers a `GET` whose head it has parsed in its buffer. [`Forwarder::direct`]
//! takes it if the service's policy changes nothing about requests and answers. The choice of the instance, slots,
//! connections, limits and metrics are those of every forwarded request. Only the heads are written differently. An
//! answer that is not plain is handled like the answer to any other request.
//!
//! **Invariant:** neither an instance nor a client can tell whether a request was forwarded directly, apart from the
//! order of the fields.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use httparse::Header;
use hyper::StatusCode;
use hyper::header::HeaderName;
use hyper::http::uri::PathAndQuery;
use maxine_balance::{Fields, HashInput, Pick};
use maxine_http1::{LowerCase, PlainAnswer, push_field};

use super::client::{ClientAddr, Peer};
use super::compiled::CompiledPolicy;
use super::error::ProxyError;
use super::exchange::Answer;
use super::headers;
use super::http1::OnInterim;
use super::in_flight::InFlightGuard;
use super::interim::InterimSink;
use super::metrics::RequestRecord;
use super::pick::PickInput;
use super::pool::{DirectAnswer, Lease, Pool, Reuse, SendFailure};
use super::runtime::ServiceRuntime;
use super::slots::Holder;
use super::target;
use super::timer::timer_now;
use super::upstream::InFlight;
use super::{Chosen, Forwarded, Forwarder};
use maxine_admission::CallerClass;
use maxine_state::ServiceRef;
use maxine_telemetry::{AttemptOutcome, AttemptRecord, AttemptTrail, TraceName};

/// Memory to reserve for the head of a request, in bytes.
const HEAD_LEN: usize = 768;

/// A `GET` over HTTP/1.1 without content. Its target consists of characters that are allowed in a URL, and it has one
/// valid `Host`.
#[derive(Debug)]
pub struct PlainRequest<'a> {
    /// The service to forward to.
    pub service: ServiceRef<'a>,
    /// The path behind the service's name: empty, `/`, or `/x`.
    pub raw_path: &'a str,
    /// The query with its percent escapes, without the question mark.
    pub raw_query: Option<&'a str>,
    /// All header fields of the request.
    pub fields: &'a [Header<'a>],
    /// The same fields, for the choice of an instance.
    pub choice_fields: &'a dyn Fields,
    /// The client's address.
    pub client: ClientAddr,
    /// The field with the trace id, and its value.
    pub trace_id: (&'a HeaderName, &'a TraceName),
    /// The field with the trace parent, and its value.
    pub traceparent: (&'a HeaderName, &'a TraceName),
}

/// A plain request for which an instance was chosen.
pub struct Direct {
    forwarder: Forwarder,
    runtime: Arc<ServiceRuntime>,
    picked: Pick,
    holder: Holder,
    /// The head of the request to the instance.
    head: Vec<u8>,
    /// The position of path and query in the head.
    target: Range<usize>,
    /// When the choice of the instance began.
    choosing_us: u64,
    started_us: u64,
    /// `None` once [`Direct::run`] was called.
    in_flight_guard: Option<InFlightGuard>,
}

/// The outcome of a plain request.
#[derive(Debug)]
pub enum DirectOutcome<T> {
    /// The answer was plain.
    Plain {
        /// The value that was made from the answer.
        taken: T,
        /// The instance that answered.
        chosen: Option<Chosen>,
        /// The outcome of the attempt.
        trail: AttemptTrail,
    },
    /// The answer was not plain, or it is the proxy's own.
    Other(Box<Forwarded>),
}

impl Forwarder {
    /// Chooses an instance for a request, and writes the head for it. `None` if the request or the policy needs
    /// [`Forwarder::forward`]. Nothing was done for the request in that case.
    #[must_use]
    pub fn direct(&self, request: &PlainRequest<'_>) -> Option<Direct> {
        let choosing_us = self.0.clock.monotonic_us();
        if self.0.stopping.load(Ordering::Relaxed) || !target::is_plain_path(request.raw_path) {
            return None;
        }
        let runtime = self.runtime(request.service)?;
        if !runtime.policy.is_plain() || runtime.upstreams.is_empty() {
            return None;
        }
        let left_out = left_out(request)?;
        let query = request.raw_query.unwrap_or_default();
        let input = HashInput {
            address: request.client.ip,
            fields: request.choice_fields,
            queries: [query, query],
            key: None,
        };
        let input = PickInput {
            now_ms: choosing_us / 1_000,
            draw: runtime.table.draw(&input, fastrand::u64(..)),
            sticky: None,
            tried: &[],
        };
        let picked = runtime.picker.pick(&runtime.table, &runtime.upstreams, &input).ok()?;
        // Without a span, the short time of the choice is part of the attempt, and the clock is read once less.
        let has_span = request.traceparent.1.span().is_some();
        let started_us = if has_span { self.0.clock.monotonic_us() } else { choosing_us };
        let address = runtime.upstreams[picked.position].pool.as_ref()?.address();
        let mut head = Vec::with_capacity(HEAD_LEN);
        head.extend_from_slice(b"GET ");
        let from = head.len();
        let is_lone_slash = request.raw_path == "/" && !runtime.policy.prefix().trailing_slash;
        let path = if is_lone_slash { "" } else { request.raw_path };
        address.push_target(&mut head, path, request.raw_query);
        let target = from..head.len();
        head.extend_from_slice(b" HTTP/1.1\r\n");
        push_field(&mut head, "host", address.host_header.as_bytes());
        push_request_fields(&mut head, request, left_out);
        Some(Direct {
            forwarder: self.clone(),
            picked,
            holder: Holder::of(&request.client, CallerClass::Stranger),
            head,
            target,
            choosing_us,
            started_us,
            in_flight_guard: Some(InFlightGuard::enter(self)),
            runtime,
        })
    }
}

impl Direct {
    /// Sends the request and waits for the answer. `take` is called with a plain answer, and reads it in its buffer. If
    /// it returns `None`, the answer is handled like any other. Interim answers go to `interim`. Dropping the future
    /// aborts the request. Must be called only once.
    pub async fn run<T>(
        &mut self,
        interim: impl Fn() -> InterimSink + Send + Sync,
        mut take: impl FnMut(&PlainAnswer<'_>) -> Option<T>,
    ) -> DirectOutcome<T> {
        // These are borrowed instead of moved into the future, because a large future costs a copy for each request.
        let Self { forwarder, runtime, head, target, in_flight_guard, .. } = self;
        let (holder, picked) = (self.holder, self.picked);
        let (choosing_us, started_us) = (self.choosing_us, self.started_us);
        let guard = in_flight_guard.take().unwrap_or_else(|| InFlightGuard::enter(forwarder));
        let upstream = &runtime.upstreams[picked.position];
        let chosen = || {
            let target = Bytes::copy_from_slice(&head[target.clone()]);
            let target = PathAndQuery::from_maybe_shared(target).ok()?;
            Some(Chosen { instance: Arc::clone(&upstream.instance), share: picked.share, target })
        };
        let clock = &forwarder.0.clock;
        let mut in_flight = InFlight::start(Arc::clone(upstream), started_us);
        let on_interim = |status, fields| {
            if status != StatusCode::CONTINUE {
                interim().send(status, fields);
            }
        };
        let mut status = None;
        let taking = |answer: &PlainAnswer<'_>| {
            let taken = take(answer)?;
            status = Some(answer.status);
            Some(taken)
        };
        let exchange = Exchange { holder, head, policy: &runtime.policy };
        let outcome = match &upstream.pool {
            Some(pool) => exchange.run(pool, &on_interim, taking).await,
            None => Err(ProxyError::Resolve),
        };
        if let Ok(DirectAnswer::Other(other)) = &outcome {
            status = Some(other.0.status());
        }
        let now_us = clock.monotonic_us();
        match (&outcome, status) {
            (Ok(_), Some(status)) => {
                in_flight.head(status < StatusCode::INTERNAL_SERVER_ERROR, now_us);
            }
            (Err(error), _) if error.blames_instance() => {
                in_flight.head(false, now_us);
            }
            _ => {}
        }
        forwarder.wake_breaker(runtime, picked.position);
        let mut trail = AttemptTrail::default();
        trail.push(AttemptRecord {
            instance: Arc::clone(&upstream.instance),
            number: 1,
            choosing_us,
            started_us,
            duration_us: now_us.saturating_sub(started_us),
            outcome: match (&outcome, status) {
                (Err(error), _) => AttemptOutcome::Failed(error.code()),
                (Ok(_), status) => AttemptOutcome::Answered(status.unwrap_or_default()),
            },
        });
        let outcome = match outcome {
            Ok(DirectAnswer::Plain(taken)) => {
                forwarder.0.metrics.request(&RequestRecord {
                    service: runtime.table.key(),
                    instance: Some(&upstream.instance.registration.id),
                    status: status.unwrap_or_default().as_u16(),
                    error: None,
                    attempts: 1,
                    elapsed: Duration::from_micros(now_us.saturating_sub(started_us)),
                });
                return DirectOutcome::Plain { taken, chosen: chosen(), trail };
            }
            Ok(DirectAnswer::Other(other)) => {
                let (response, lease) = *other;
                let answer = Answer { response, lease, in_flight };
                Forwarder::deliver_direct(answer, chosen(), &runtime.policy, guard)
            }
            Err(error) => Forwarded::failed(error, chosen(), 1),
        };
        let forwarded = Forwarded { trail, ..outcome };
        forwarder.report(runtime.table.key(), &forwarded, started_us);
        DirectOutcome::Other(Box::new(forwarded))
    }
}

/// One attempt to get an answer.
struct Exchange<'a> {
    holder: Holder,
    head: &'a [u8],
    policy: &'a CompiledPolicy,
}

impl Exchange<'_> {
    /// Sends the request. If an idle connection turns out to be closed, the request is sent once more, on a new
    /// connection: a `GET` may be repeated (RFC 9112 section 9.3.1).
    async fn run<T>(
        &self,
        pool: &Arc<Pool>,
        on_interim: OnInterim<'_>,
        mut take: impl FnMut(&PlainAnswer<'_>) -> Option<T>,
    ) -> Result<DirectAnswer<T>, ProxyError> {
        let lease = pool.lease(self.holder, self.policy.connect, Reuse::Any).await?;
        let (is_reused, another) = (lease.reused, lease.newer_connection());
        let failure = match self.send(lease, on_interim, &mut take).await? {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        // A repeated request would get the same invalid answer.
        if !is_reused || failure.error == ProxyError::BadResponse {
            return Err(failure.error);
        }
        // The future is boxed, because it is rarely needed and large.
        let again = Box::pin(async {
            let lease = pool.lease(self.holder, self.policy.connect, another).await?;
            let sent = self.send(lease, on_interim, &mut take).await?;
            sent.map_err(|failure| failure.error)
        });
        again.await
    }

    async fn send<T>(
        &self,
        lease: Lease,
        on_interim: OnInterim<'_>,
        take: &mut impl FnMut(&PlainAnswer<'_>) -> Option<T>,
    ) -> Result<Result<DirectAnswer<T>, SendFailure>, ProxyError> {
        let until = timer_now() + self.policy.response;
        let leave = Arc::clone(lease.leave());
        let sent = lease.send_direct(self.head, on_interim, take);
        tokio::select! {
            biased;
            sent = tokio::time::timeout_at(until, sent) => {
                sent.map_err(|_| ProxyError::ResponseTimeout)
            }
            () = leave.displaced() => Err(ProxyError::Displaced),
        }
    }
}

/// The fields that are not sent to the instance, as bits by their position. `None` if the request is not plain: a field
/// asks for more than an answer, or says something about the client or the connection that must be handled.
fn left_out(request: &PlainRequest<'_>) -> Option<u32> {
    if request.fields.len() > u32::BITS as usize {
        return None;
    }
    let mut left_out = 0;
    for (at, Header { name, value }) in request.fields.iter().enumerate() {
        let lower = LowerCase::of(name)?;
        let lower = lower.as_str();
        let is_left_out = match lower {
            "connection" if !value.eq_ignore_ascii_case(b"keep-alive") => return None,
            "te" | "trailer" | "upgrade" | "expect" | "content-length" | "transfer-encoding"
            | "x-consul-token" => {
                return None;
            }
            "host" => true,
            _ if headers::is_maxines_own(lower) || lower.contains('_') => return None,
            _ if headers::is_reserved_for_proxies(lower) => return None,
            _ => {
                headers::concerns_connection(lower)
                    || lower == request.trace_id.0.as_str()
                    || lower == request.traceparent.0.as_str()
            }
        };
        left_out |= u32::from(is_left_out) << at;
    }
    Some(left_out)
}

/// Writes the fields of the request to the instance, except `Host`, and the end of the head.
fn push_request_fields(out: &mut Vec<u8>, request: &PlainRequest<'_>, left_out: u32) {
    let mut host = None;
    for (at, Header { name, value }) in request.fields.iter().enumerate() {
        if left_out & (1 << at) == 0 {
            // `left_out` has refused names that are too long, so this never fails.
            let lower = LowerCase::of(name);
            push_field(out, lower.as_ref().map_or(name, LowerCase::as_str), value);
        } else if name.eq_ignore_ascii_case("host") {
            host = Some(*value);
        }
    }
    let own = [request.trace_id, request.traceparent];
    for (name, value) in own {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        value.push_to(out);
        out.extend_from_slice(b"\r\n");
    }
    let ClientAddr { peer: ip, is_peer_tls: is_tls, .. } = request.client;
    headers::push_first_hop(out, Peer { ip, is_tls }, host);
    out.extend_from_slice(b"\r\n");
}
