//! The edge: gives a request its trace ids, decides access on the matched route, and accounts for the request.
//!
//! Place in the flow: between the router and its handlers, and in the [`crate::Front`] for requests that do not use the
//! router. In both cases the matched route is known. A route without a rule in the access table is refused: a forgotten
//! rule denies access instead of granting it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{Method, Response, StatusCode, Version};
use axum::response::IntoResponse;
use futures::future::BoxFuture;
use tower::{Layer, Service};

use super::answer::{leave_out_body, not_modified_if_matched};
use super::break_glass::BreakGlassUse;
use super::cors::Cors;
use super::trace::{TRACEPARENT, context_of, is_long_poll};
use crate::access::AccessMode;
use crate::compat_error::{NOSNIFF, is_native};
use crate::native::add_freshness_headers;
use crate::send_monitor::{self, Streamed};
use crate::{AppState, AuthMethod, Caller, RequestContext, caller, field_names};
use maxine_actors::registry::write_trail;
use maxine_gateway::{ClientAddr, FieldLines, Peer};
use maxine_telemetry::{AttemptTrail, FinishedRequest, Sampler, Subject};

/// Adds an [`Edge`] to every route.
#[derive(Clone)]
pub struct EdgeLayer(Arc<Shared>);

/// The functions of the edge, for code that calls them without a [`tower::Service`].
pub(crate) struct Shared {
    pub(super) state: AppState,
    trace_header: HeaderName,
    cors: Cors,
    /// The field for answers over HTTPS.
    hsts: Option<HeaderValue>,
    /// Decides which new traces are exported. `None` if this node exports none.
    sampler: Option<Sampler>,
}

impl EdgeLayer {
    /// Creates the layer for a node's state.
    #[must_use]
    pub fn new(state: AppState) -> Self {
        let trace_header = state.trace_header().clone();
        let cors = Cors::new(state.clone());
        let max_age_s = state.settings().hsts_max_age_s;
        let hsts = HeaderValue::try_from(format!("max-age={max_age_s}")).ok();
        let hsts = hsts.filter(|_| max_age_s > 0);
        let sampler = state.telemetry().sampler();
        Self(Arc::new(Shared { state, trace_header, cors, hsts, sampler }))
    }

    /// The functions of the edge, for requests that do not pass through the router.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.0)
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { inner, shared: Arc::clone(&self.0) }
    }
}

/// The edge around one route.
#[derive(Clone)]
pub struct Edge<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request> for Edge<S>
where
    S: Service<Request, Error = Infallible>,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        if request.method() == Method::OPTIONS {
            let mut response = shared.cors.preflight(&request);
            response.extensions_mut().insert(field_names::OF_THE_COMPATIBLE_API);
            return Box::pin(std::future::ready(Ok(response)));
        }
        let native = is_native(request.uri().path());
        let peer = request.extensions().get::<Peer>().copied();
        let peer = peer.unwrap_or(Peer::plain([0, 0, 0, 0].into()));
        let matched = request.extensions().get::<MatchedPath>().cloned();
        let matched = matched.as_ref().map(MatchedPath::as_str);
        let mut record = shared.open(&request, peer);
        // A refused request is counted with its kind, too.
        record.about(shared.subject_of(request.method(), matched));
        request.extensions_mut().insert(record.context.clone());
        match shared.admit(&request, matched, &record.context) {
            Ok(caller) => {
                shared.track_break_glass(&mut record, &caller, &request);
                if caller.role.is_some() {
                    request.extensions_mut().insert(caller);
                }
                let may_write = !request.method().is_safe();
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let answer = shared.follow(&mut record, may_write, answer).await;
                    let mut response = answer.into_response();
                    if native {
                        add_freshness_headers(&shared.state, response.headers_mut());
                    }
                    Ok(shared.close(record, response))
                })
            }
            Err(mut refusal) => {
                if native {
                    add_freshness_headers(&shared.state, refusal.headers_mut());
                }
                let response = shared.close(record, *refusal);
                Box::pin(std::future::ready(Ok(response)))
            }
        }
    }
}

/// What the edge stores about a request in flight.
pub(crate) struct Record {
    /// The trace ids and the client of the request.
    pub(crate) context: RequestContext,
    finished: FinishedRequest,
    if_none_match: Option<HeaderValue>,
    /// Whether the request is for the compatible API, whose clients may depend on the case of field names.
    compatible: bool,
    /// The origin of the page that sent the request, if it is a page of another member.
    member_origin: Option<HeaderValue>,
    break_glass: Option<BreakGlassUse>,
}

impl Record {
    /// Records the kind of the request.
    pub(crate) fn about(&mut self, subject: Subject) {
        self.finished.subject = subject;
    }

    /// Stores the outcomes of the attempts to forward the request.
    pub(crate) fn attempted(&mut self, attempts: AttemptTrail) {
        self.finished.attempts = attempts;
    }
}

/// The account of a request that begins: a `GET` over HTTP/1.1, of a kind that is not known yet.
fn begun(context: &RequestContext, target: Box<str>, started_us: u64) -> FinishedRequest {
    FinishedRequest {
        subject: Subject::Other,
        method: Method::GET,
        target,
        version: Version::HTTP_11,
        client: context.client.ip,
        trace_id: context.trace_id.clone(),
        traceparent: context.traceparent.clone(),
        parent_span: context.parent_span,
        is_https: context.client.is_https,
        started_us,
        duration_us: 0,
        status: StatusCode::OK,
        attempts: AttemptTrail::default(),
        writes: Vec::new(),
        is_long_poll: false,
    }
}

impl Shared {
    /// Gives the request its trace ids, and stores what accounting for it needs.
    pub(crate) fn open<B>(&self, request: &http::Request<B>, peer: Peer) -> Record {
        let headers = request.headers();
        let started_us = self.state.clock().monotonic_us();
        let given = (headers.get(&self.trace_header), headers.get(&TRACEPARENT));
        let given = (given.0.map(HeaderValue::as_bytes), given.1.map(HeaderValue::as_bytes));
        let client = self.resolve(peer, headers);
        // The native API refuses a malformed value. The compatible API ignores it.
        let timeout_ms = caller::timeout_ms(headers).ok().flatten();
        let answer_by_ms = timeout_ms.map(|ms| started_us / 1_000 + ms);
        let context =
            RequestContext { answer_by_ms, ..context_of(self.sampler, given.0, given.1, client) };
        let target = FinishedRequest::target_of(request.uri(), self.state.settings().log_queries);
        let finished = FinishedRequest {
            method: request.method().clone(),
            version: request.version(),
            is_long_poll: self.sampler.is_some() && is_long_poll(request.uri()),
            ..begun(&context, target, started_us)
        };
        let if_none_match = headers.get(header::IF_NONE_MATCH).cloned();
        let member_origin = self.cors.member_origin(request);
        let compatible = !is_native(request.uri().path());
        let break_glass = None;
        Record { context, finished, if_none_match, compatible, member_origin, break_glass }
    }

    /// Waits for the answer to a request. If this node exports traces, it notes the writes that the request causes, and
    /// what the request logs belongs to its span.
    pub(crate) async fn follow<F: Future>(
        &self,
        record: &mut Record,
        may_write: bool,
        answer: F,
    ) -> F::Output {
        let answer = maxine_admission::build_aside(answer);
        let Some(span) = record.context.traceparent.span() else { return answer.await };
        let answer = maxine_telemetry::in_span(span, answer);
        if !may_write {
            return answer.await;
        }
        let (answer, writes) = write_trail::follow(answer).await;
        record.finished.writes = writes;
        answer
    }

    /// Resolves the client's address. It is done once for each request.
    pub(crate) fn resolve(&self, peer: Peer, fields: &impl FieldLines) -> ClientAddr {
        self.state.settings().trusted_proxies.resolve(peer, fields)
    }

    /// Makes a request with the break-glass token leave a record of its outcome in the audit log.
    pub(crate) fn track_break_glass<B>(
        &self,
        record: &mut Record,
        caller: &Caller,
        request: &http::Request<B>,
    ) {
        if caller.via == AuthMethod::BreakGlass {
            let actor = record.context.actor(caller);
            record.break_glass = Some(BreakGlassUse::new(self.state.audit(), actor, request));
        }
    }

    /// Adds the headers that every answer has, and accounts for the request.
    pub(crate) fn close(&self, mut record: Record, mut response: Response<Body>) -> Response<Body> {
        if let Some(subject) = response.extensions_mut().remove() {
            record.about(subject);
        }
        let is_own = record.finished.attempts.is_empty();
        // An instance's answer keeps its `ETag` and the spelling of its field names.
        if is_own {
            if let Some(asked) = &record.if_none_match {
                not_modified_if_matched(&record.finished.method, asked, &mut response);
            }
            if record.compatible {
                response.extensions_mut().insert(field_names::OF_THE_COMPATIBLE_API);
            }
        } else if send_monitor::is_watched(record.finished.version, &response) {
            response.extensions_mut().insert(Streamed);
        }
        let headers = response.headers_mut();
        // A trace id of the instance is kept.
        headers.entry(&self.trace_header).or_insert_with(|| record.context.trace_id.header_value());
        headers.entry(TRACEPARENT).or_insert_with(|| record.context.traceparent.header_value());
        if is_own {
            headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(NOSNIFF);
            if let Some(hsts) = self.hsts.as_ref().filter(|_| record.context.client.is_https) {
                headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
            }
        }
        self.cors.admit_origin(headers, record.member_origin);
        if is_own && record.finished.method == Method::HEAD {
            leave_out_body(&mut response);
        }
        record.finished.status = response.status();
        if let Some(used) = &mut record.break_glass {
            used.answered(response.status());
        }
        self.account(record.finished);
        response
    }

    /// Accounts for a request that ends now. Its duration is counted up to now.
    fn account(&self, mut finished: FinishedRequest) {
        let now_us = self.state.clock().monotonic_us();
        finished.duration_us = now_us.saturating_sub(finished.started_us);
        self.state.telemetry().request_finished(finished);
    }

    /// Whether discovery needs no token and its answers have only the usual headers.
    pub(crate) fn allows_fast_path(&self) -> bool {
        self.state.settings().discovery_access == AccessMode::Open && !self.cors.has_origin()
    }

    /// Decides which new traces are exported. `None` if this node exports none.
    pub(crate) fn sampler(&self) -> Option<Sampler> {
        self.sampler
    }

    /// The header that carries the trace id.
    pub(crate) fn trace_header(&self) -> &HeaderName {
        &self.trace_header
    }

    /// Opens the record of a `GET` over HTTP/1.1 without a credential, which the fast path reads from its bytes.
    pub(crate) fn open_plain(
        &self,
        target: &str,
        subject: Subject,
        context: RequestContext,
        started_us: u64,
    ) -> Record {
        let target = FinishedRequest::kept(target, self.state.settings().log_queries);
        let finished = FinishedRequest { subject, ..begun(&context, target, started_us) };
        Record {
            context,
            finished,
            if_none_match: None,
            compatible: true,
            member_origin: None,
            break_glass: None,
        }
    }

    /// Accounts for a request whose answer was written without [`Shared::close`].
    pub(crate) fn close_plain(&self, mut record: Record, status: StatusCode) {
        record.finished.status = status;
        self.account(record.finished);
    }
}
