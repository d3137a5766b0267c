//! Forwards one request: checks it, chooses an instance, makes attempts, and builds the answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body as AxumBody, HttpBody};
use futures::future::{Either, select};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::response;
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, StatusCode};
use maxine_balance::{Draw, HashInput, Pick};
use maxine_http1::Upgrade;
use tokio::time::Instant;

use super::client::ClientAddr;
use super::compiled::{CompiledPolicy, StickyCookie};
use super::content::Content;
use super::error::ProxyError;
use super::exchange::{Answer, Exchange, Times};
use super::in_flight::InFlightGuard;
use super::interim::InterimSink;
use super::metrics::RequestRecord;
use super::pick::{NoPick, PickInput};
use super::prefix::PrefixMap;
use super::request::{self, BodyPlan, Head, Inbound, Outgoing};
use super::request_body::{KeptBytes, Progress};
use super::response_body::{ResponseBody, ResponseWatch};
use super::runtime::ServiceRuntime;
use super::slots::Holder;
use super::target::RequestTarget;
use super::timer::timer_now;
use super::tunnel::{self, TunnelHold};
use super::upstream::Upstream;
use super::{Forwarder, framing, headers};
use maxine_admission::CallerClass;
use maxine_state::{Instance, RateLimitScope, ServiceKey};
use maxine_telemetry::{AttemptOutcome, AttemptRecord, AttemptTrail, SpanName, TraceName};

/// The field with the stable error code.
const X_MAXINE_ERROR: HeaderName = HeaderName::from_static("x-maxine-error");
/// The field with the span of the attempt.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The field with the number of attempts.
const X_MAXINE_ATTEMPTS: HeaderName = HeaderName::from_static("x-maxine-attempts");

/// Maximum length of a body that is collected before it is sent even without a policy for that, in bytes. Longer bodies
/// are streamed.
const SMALL_LEN_MAX: u64 = 16 * 1_024;

/// What the proxy needs to know about a request.
#[derive(Clone, Debug)]
pub struct ForwardContext {
    /// The service to forward to.
    pub service: ServiceKey,
    /// The path behind the service's name, with its percent escapes: empty, `/`, or `/x`.
    pub raw_path: String,
    /// The query with its percent escapes, without the question mark.
    pub raw_query: Option<String>,
    /// The path under which clients reach the service, without a trailing slash. `None` if it has none of its own.
    pub prefix: Option<String>,
    /// The address of the client.
    pub client: ClientAddr,
    /// Which limits of the whole node apply to the client. One with a credential of this cluster counts by its name,
    /// and may use the places that are reserved for such callers.
    pub caller_class: CallerClass,
    /// Maximum length of the request's body, in bytes; `None` for no limit.
    pub body_len_max: Option<u64>,
    /// Fields that replace the request's own fields of the same name: trace id and `traceparent`.
    pub trace: Vec<(HeaderName, HeaderValue)>,
    /// This node's span of the request. Each attempt then has a span of its own below it, which replaces `traceparent`.
    /// `None` if this node does not export traces.
    pub span: Option<SpanName>,
    /// Whether `Trailer` is forwarded, so that HTTP/1 carries trailers. The compatible API drops it.
    pub keep_trailer: bool,
    /// Receives interim answers. `None` if the client accepts none.
    pub interim: Option<InterimSink>,
}

/// The instance that answered, or that was tried last.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Which turn of the instance this was in round robin, from 0.
    pub share: u32,
    /// Path and query of the request to the instance, with the instance's base path.
    pub target: PathAndQuery,
}

/// The outcome of a request.
#[derive(Debug)]
pub struct Forwarded {
    /// The answer: the instance's, or the proxy's own.
    pub response: Response<AxumBody>,
    /// The instance. `None` if none was chosen.
    pub chosen: Option<Chosen>,
    /// The error, if the answer is the proxy's own.
    pub error: Option<ProxyError>,
    /// Number of attempts.
    pub attempts: u32,
    /// The outcome of each attempt.
    pub trail: AttemptTrail,
}

/// What the attempts of one request share.
struct Attempts<'a> {
    runtime: &'a ServiceRuntime,
    holder: Holder,
    head: Head,
    body: Outgoing,
    /// Counts the bytes of the body that are kept.
    kept: KeptBytes,
    progress: Arc<Progress>,
    draw: Draw,
    /// The instance that the sticky cookie names.
    sticky: Option<u64>,
    deadline: Option<Instant>,
    body_limit: u64,
    tried: Vec<usize>,
    span: Option<SpanName>,
    /// Number of attempts, of which a hedged one counts once.
    made: u32,
    /// Number of requests that were begun to instances.
    begun: u32,
    last: Option<Pick>,
    /// The path and query of the last attempt.
    path: Option<PathAndQuery>,
    interim: Option<InterimSink>,
    /// The path under which clients reach the service.
    prefix: Option<String>,
    trail: AttemptTrail,
}

/// An attempt for which an instance was chosen. Times are in microseconds on the monotonic clock.
#[derive(Clone, Copy)]
struct Begun {
    picked: Pick,
    /// Its number among the requests to instances, from 1.
    number: u32,
    choosing_us: u64,
    started_us: u64,
}

impl Forwarder {
    /// Forwards a request. The future may be dropped at any time, which aborts the request.
    pub async fn forward(&self, context: ForwardContext, request: Request<AxumBody>) -> Forwarded {
        let started_us = self.0.clock.monotonic_us();
        let in_flight_guard = InFlightGuard::enter(self);
        let runtime = self.runtime(context.service.as_ref());
        let mut forwarded = match &runtime {
            None => Forwarded::failed(ProxyError::NoInstance, None, 0),
            Some(runtime) => {
                let begun = self.begin(runtime, &context, request).await;
                match begun {
                    Err(error) => Forwarded::failed(error, None, 0),
                    Ok(mut attempts) => {
                        let leave = Arc::clone(attempts.kept.leave());
                        let outcome = tokio::select! {
                            biased;
                            outcome = self.attempt_all(&mut attempts) => outcome,
                            () = leave.displaced() => Err(ProxyError::Displaced),
                        };
                        let chosen = attempts.chosen();
                        let trail = std::mem::take(&mut attempts.trail);
                        let mut forwarded = match outcome {
                            Err(error) => Forwarded::failed(error, chosen, attempts.made),
                            Ok(answer) => self.deliver(&attempts, answer, chosen, in_flight_guard),
                        };
                        forwarded.trail = trail;
                        forwarded
                    }
                }
            }
        };
        if let Some(policy) = runtime.as_ref().and_then(|r| r.policy.response_rules.as_ref())
            && forwarded.error.is_none()
        {
            policy.apply(forwarded.response.headers_mut());
        }
        self.report(&context.service, &forwarded, started_us);
        forwarded
    }

    /// Reports a request that was answered to the metrics.
    pub(crate) fn report(&self, service: &ServiceKey, forwarded: &Forwarded, started_us: u64) {
        let elapsed_us = self.0.clock.monotonic_us().saturating_sub(started_us);
        self.0.metrics.request(&RequestRecord {
            service,
            instance: forwarded.chosen.as_ref().map(|chosen| &chosen.instance.registration.id),
            status: forwarded.response.status().as_u16(),
            error: forwarded.error.as_ref().map(ProxyError::code),
            attempts: forwarded.attempts,
            elapsed: Duration::from_micros(elapsed_us),
        });
    }

    /// Does everything that comes before the first attempt.
    async fn begin<'a>(
        &self,
        runtime: &'a ServiceRuntime,
        context: &ForwardContext,
        request: Request<AxumBody>,
    ) -> Result<Attempts<'a>, ProxyError> {
        if self.0.stopping.load(Ordering::Relaxed) {
            return Err(ProxyError::Stopping);
        }
        let policy = &runtime.policy;
        let target = RequestTarget::new(&context.raw_path, context.raw_query.as_deref())?;
        let (parts, body) = request.into_parts();
        let client = context.client;
        let holder = Holder::of(&client, context.caller_class);
        self.check_rate(runtime, client.ip)?;
        let queries = [target.query(), parts.uri.query()].map(Option::unwrap_or_default);
        let input = HashInput { address: client.ip, fields: &parts.headers, queries, key: None };
        let draw = runtime.table.draw(&input, fastrand::u64(..));
        let sticky = request::sticky_instance(policy.sticky.as_ref(), &parts.headers);
        let inbound = Inbound {
            client,
            trace: &context.trace,
            keep_trailer: context.keep_trailer,
            version: parts.version,
            prefix: context.prefix.as_deref(),
        };
        let head =
            Head::prepare(parts.method, &parts.uri, target, parts.headers, &inbound, policy)?;
        let progress = Arc::new(Progress::default());
        let mirrored = Self::wants_mirror(runtime, &head);
        let body_limit = context.body_len_max.unwrap_or(u64::MAX);
        let plan = BodyPlan {
            keep_max: keep_max(policy, &head, mirrored, &body),
            limit: body_limit,
            idle: policy.idle,
        };
        let kept = self.0.kept_bodies.take(holder.address, holder.caller_class, 0);
        let kept = kept.map_err(|_| ProxyError::BodiesBusy)?;
        let mut kept = KeptBytes::new(kept, self.0.config.request_kept);
        let body = if body.is_end_stream() {
            Outgoing::Empty
        } else {
            Box::pin(Outgoing::prepare(body, &plan, &mut kept, &progress, &self.0.clock)).await?
        };
        if mirrored {
            self.mirror(runtime, &head, &body, &client, holder);
        }
        if let Some(retries) = &policy.retries {
            runtime.shared.retry_budget.earn(retries.budget_percent);
        }
        if let Some(hedging) = &policy.hedging {
            runtime.shared.hedge_budget.earn(hedging.budget_percent);
        }
        Ok(Attempts {
            runtime,
            holder,
            head,
            body,
            kept,
            progress,
            draw,
            sticky,
            deadline: policy.total.map(|total| timer_now() + total),
            body_limit,
            tried: Vec::new(),
            span: context.span,
            made: 0,
            begun: 0,
            last: None,
            path: None,
            interim: context.interim.clone(),
            prefix: context.prefix.clone(),
            trail: AttemptTrail::default(),
        })
    }

    fn check_rate(&self, runtime: &ServiceRuntime, client: IpAddr) -> Result<(), ProxyError> {
        let Some((shape, scope)) = runtime.policy.rate else { return Ok(()) };
        let now_us = self.0.clock.monotonic_us();
        let taken = match scope {
            RateLimitScope::Service => runtime.shared.rate.take(now_us, shape),
            RateLimitScope::Client => runtime.shared.client_rates().take(client, now_us, shape),
        };
        taken.map_err(|wait_us| ProxyError::RateLimited { retry_after_ms: wait_us.div_ceil(1_000) })
    }

    /// Makes attempts until one is answered or no more are allowed.
    async fn attempt_all(&self, attempts: &mut Attempts<'_>) -> Result<Answer, ProxyError> {
        loop {
            let outcome = self.attempt(attempts).await;
            let reason = match &outcome {
                Ok(answer) => {
                    let status = answer.response.status();
                    let retries = attempts.runtime.policy.retries.as_ref();
                    if !retries.is_some_and(|retries| retries.has_status(status)) {
                        return outcome;
                    }
                    None
                }
                Err(error) => Some(error.clone()),
            };
            if !self.may_retry(attempts, reason.as_ref()) {
                return outcome;
            }
            let label = match (&reason, &outcome) {
                (Some(error), _) => error.code(),
                (None, _) => "status",
            };
            self.0.metrics.retry(attempts.runtime.table.key(), label);
            // This drops the unwanted answer together with its connection.
            drop(outcome);
            self.back_off(attempts).await?;
        }
    }

    fn may_retry(&self, attempts: &Attempts<'_>, error: Option<&ProxyError>) -> bool {
        let Some(retries) = &attempts.runtime.policy.retries else { return false };
        let body = &attempts.body;
        let kept_len = body.is_repeatable().then(|| body.kept_len());
        let now_us = self.0.clock.monotonic_us();
        body.can_be_sent()
            && retries.allows(attempts.made, &attempts.head.method, kept_len, error)
            && attempts.runtime.shared.retry_budget.spend(now_us, retries.budget_min_per_s)
    }

    async fn back_off(&self, attempts: &mut Attempts<'_>) -> Result<(), ProxyError> {
        let Some(retries) = &attempts.runtime.policy.retries else { return Ok(()) };
        let has_untried = attempts.tried.len() < attempts.runtime.upstreams.len();
        let pause = retries.pause(attempts.made, has_untried);
        if pause.is_zero() {
            return Ok(());
        }
        if attempts.deadline.is_some_and(|deadline| timer_now() + pause >= deadline) {
            return Err(ProxyError::TotalTimeout);
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// One attempt, hedged if the policy says so.
    async fn attempt(&self, attempts: &mut Attempts<'_>) -> Result<Answer, ProxyError> {
        attempts.made += 1;
        let begun = self.pick(attempts)?;
        let hedging = attempts.runtime.policy.hedging.as_ref().filter(|hedging| {
            hedging.methods.has(&attempts.head.method)
                && matches!(attempts.body, Outgoing::Empty)
                && attempts.head.upgrade.is_none()
        });
        let Some(after) = hedging.map(|hedging| hedging.after) else {
            // The fields are copied only if another attempt may follow.
            let more = attempts
                .runtime
                .policy
                .retries
                .as_ref()
                .is_some_and(|retries| retries.has_attempts_after(attempts.made));
            let mut headers = if more {
                attempts.head.headers.clone()
            } else {
                std::mem::take(&mut attempts.head.headers)
            };
            name_span(&mut headers, attempts.span, begun.number);
            let outcome = self.exchange(attempts, begun.picked, headers).await;
            self.record_attempt(attempts, begun, outcome_of(&outcome));
            return outcome;
        };
        // The future is boxed, because most policies have no hedging, and it is large.
        Box::pin(self.hedged(attempts, begun, after)).await
    }

    /// Records the outcome of an attempt.
    fn record_attempt(&self, attempts: &mut Attempts<'_>, begun: Begun, outcome: AttemptOutcome) {
        let Begun { picked, number, choosing_us, started_us } = begun;
        attempts.trail.push(AttemptRecord {
            instance: Arc::clone(&attempts.runtime.upstreams[picked.position].instance),
            number,
            choosing_us,
            started_us,
            duration_us: self.0.clock.monotonic_us().saturating_sub(started_us),
            outcome,
        });
    }

    /// Chooses an instance for the next attempt.
    fn pick(&self, attempts: &mut Attempts<'_>) -> Result<Begun, ProxyError> {
        let runtime = attempts.runtime;
        let choosing_us = self.0.clock.monotonic_us();
        let input = PickInput {
            now_ms: choosing_us / 1_000,
            // Another attempt draws another random number, for the same caller.
            draw: Draw { random: fastrand::u64(..), ..attempts.draw },
            sticky: attempts.sticky,
            tried: &attempts.tried,
        };
        let picked =
            runtime.picker.pick(&runtime.table, &runtime.upstreams, &input).map_err(|none| {
                match none {
                    NoPick::NoInstance => ProxyError::NoInstance,
                    NoPick::AllGated => ProxyError::CircuitOpen,
                }
            })?;
        if runtime.policy.retries.is_some() || runtime.policy.hedging.is_some() {
            attempts.tried.push(picked.position);
        }
        attempts.last = Some(picked);
        attempts.begun += 1;
        let started_us = self.0.clock.monotonic_us();
        Ok(Begun { picked, number: attempts.begun, choosing_us, started_us })
    }

    fn times(&self, attempts: &Attempts<'_>) -> Times {
        let policy = &attempts.runtime.policy;
        let per_try = policy.retries.as_ref().and_then(|retries| retries.per_try);
        Times {
            connect: policy.connect,
            response: per_try.map_or(policy.response, |per_try| per_try.min(policy.response)),
            idle: policy.idle,
            deadline: attempts.deadline,
        }
    }

    async fn exchange(
        &self,
        attempts: &mut Attempts<'_>,
        picked: Pick,
        headers: HeaderMap,
    ) -> Result<Answer, ProxyError> {
        let times = self.times(attempts);
        let upstream = &attempts.runtime.upstreams[picked.position];
        let path = upstream.path_and_query(&attempts.head.target)?;
        attempts.path = Some(path.clone());
        let exchange = Exchange {
            upstream,
            holder: attempts.holder,
            head: &attempts.head,
            path,
            times,
            clock: &self.0.clock,
            progress: &attempts.progress,
            body_limit: attempts.body_limit,
            interim: attempts.interim.as_ref(),
        };
        let outcome = exchange.run(headers, &mut attempts.body).await;
        self.wake_breaker(attempts.runtime, picked.position);
        outcome
    }

    /// Wakes the proxy actor if an instance has reached the breaker's limit of failures in a row.
    pub(crate) fn wake_breaker(&self, runtime: &ServiceRuntime, position: usize) {
        if let Some(breaker) = runtime.policy.breaker() {
            let in_a_row = runtime.upstreams[position].signals.counts().bad_in_a_row;
            if breaker.consecutive_failures != 0 && in_a_row >= breaker.consecutive_failures {
                self.0.alarm.notify_one();
            }
        }
    }

    /// Makes a second attempt if the first one takes long. The first one that is answered is used.
    async fn hedged(
        &self,
        attempts: &mut Attempts<'_>,
        first: Begun,
        after: Duration,
    ) -> Result<Answer, ProxyError> {
        let times = self.times(attempts);
        let (clock, runtime, holder) = (&self.0.clock, attempts.runtime, attempts.holder);
        let span = attempts.span;
        let attempt_on = |upstream: Arc<Upstream>, head: &Head, number: u32| {
            let progress: Arc<Progress> = Arc::default();
            let mut headers = head.headers.clone();
            name_span(&mut headers, span, number);
            let head = Head {
                method: head.method.clone(),
                target: head.target.clone(),
                headers: HeaderMap::new(),
                upgrade: None,
                takes_trailers: head.takes_trailers,
                expects_continue: false,
                announces_empty: head.announces_empty,
                asked_host: None,
            };
            Box::pin(async move {
                let exchange = Exchange {
                    upstream: &upstream,
                    holder,
                    head: &head,
                    path: upstream.path_and_query(&head.target)?,
                    times,
                    clock,
                    progress: &progress,
                    body_limit: u64::MAX,
                    // Interim answers of two instances could contradict each other, so none are forwarded.
                    interim: None,
                };
                exchange.run(headers, &mut Outgoing::Empty).await
            })
        };
        let leader = Arc::clone(&runtime.upstreams[first.picked.position]);
        let mut primary = attempt_on(leader, &attempts.head, first.number);
        tokio::select! {
            biased;
            done = &mut primary => {
                self.wake_breaker(runtime, first.picked.position);
                self.record_attempt(attempts, first, outcome_of(&done));
                return done;
            }
            () = tokio::time::sleep(after) => {}
        }
        let affordable = runtime.shared.hedge_budget.spend(clock.monotonic_us(), 0);
        let second = if affordable { self.pick(attempts).ok() } else { None };
        let is_other = |second: &Begun| second.picked.position != first.picked.position;
        let Some(second) = second.filter(is_other) else {
            attempts.last = Some(first.picked);
            let outcome = primary.await;
            self.wake_breaker(runtime, first.picked.position);
            self.record_attempt(attempts, first, outcome_of(&outcome));
            return outcome;
        };
        self.0.metrics.hedge(runtime.table.key());
        let other = Arc::clone(&runtime.upstreams[second.picked.position]);
        let secondary = attempt_on(other, &attempts.head, second.number);
        // Waits until one of the attempts ends. If it was not answered, the other one continues.
        let (done, ender, other, left) = match select(primary, secondary).await {
            Either::Left((done, secondary)) => (done, first, second, secondary),
            Either::Right((done, primary)) => (done, second, first, primary),
        };
        self.wake_breaker(runtime, ender.picked.position);
        self.record_attempt(attempts, ender, outcome_of(&done));
        let (outcome, winner) = if done.is_ok() {
            drop(left);
            self.record_attempt(attempts, other, AttemptOutcome::LostHedge);
            (done, ender.picked)
        } else {
            let outcome = left.await;
            self.wake_breaker(runtime, other.picked.position);
            self.record_attempt(attempts, other, outcome_of(&outcome));
            (outcome, other.picked)
        };
        attempts.last = Some(winner);
        outcome
    }

    /// Builds the client's response from the instance's response.
    fn deliver(
        &self,
        attempts: &Attempts<'_>,
        answer: Answer,
        chosen: Option<Chosen>,
        in_flight_guard: InFlightGuard,
    ) -> Forwarded {
        let Answer { response, lease, in_flight } = answer;
        let made = attempts.made;
        let policy = &attempts.runtime.policy;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let protocol = response.headers().get(header::UPGRADE).cloned();
            let protocol = protocol.filter(|taken| {
                attempts.head.upgrade.as_ref().is_some_and(|o| headers::was_offered(o, taken))
            });
            let (mut parts, content) = response.into_parts();
            let upstream = match content {
                Content::Http1(received) => received.into_stream(),
                Content::Http2(_) => None,
            };
            let (Some(protocol), Some(upstream)) = (protocol, upstream) else {
                in_flight.response_failed(&ProxyError::BadResponse);
                return Forwarded::failed(ProxyError::BadResponse, chosen, made);
            };
            let (upgrade, client) = Upgrade::new();
            let hold: TunnelHold = (lease, in_flight, in_flight_guard);
            self.0.tasks.spawn(tunnel::run(client, upstream, policy.idle, hold));
            headers::strip_hop_by_hop(&mut parts.headers, false);
            headers::strip_maxines_own(&mut parts.headers);
            parts.headers.remove(header::CONTENT_LENGTH);
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, protocol);
            parts.version = hyper::Version::HTTP_11;
            parts.extensions.insert(upgrade);
            let response = Response::from_parts(parts, AxumBody::empty());
            let trail = AttemptTrail::default();
            return Forwarded { response, chosen, error: None, attempts: made, trail };
        }
        let (mut parts, incoming) = response.into_parts();
        strip_connection_fields(&mut parts, attempts.head.takes_trailers);
        attempts.map_prefix(&mut parts.headers);
        self.set_sticky_cookie(attempts, policy, &mut parts.headers);
        let watch = ResponseWatch {
            lease,
            in_flight,
            idle: policy.idle,
            deadline: attempts.deadline,
            in_flight_guard,
        };
        let response = Response::from_parts(parts, ResponseBody::wrap(incoming, watch));
        let trail = AttemptTrail::default();
        Forwarded { response, chosen, error: None, attempts: made, trail }
    }

    /// Builds the client's response from the instance's response to a direct request.
    pub(crate) fn deliver_direct(
        answer: Answer,
        chosen: Option<Chosen>,
        policy: &CompiledPolicy,
        in_flight_guard: InFlightGuard,
    ) -> Forwarded {
        let Answer { response, lease, in_flight } = answer;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            in_flight.response_failed(&ProxyError::BadResponse);
            return Forwarded::failed(ProxyError::BadResponse, chosen, 1);
        }
        let (mut parts, incoming) = response.into_parts();
        strip_connection_fields(&mut parts, false);
        let (idle, deadline) = (policy.idle, None);
        let watch = ResponseWatch { lease, in_flight, idle, deadline, in_flight_guard };
        let response = Response::from_parts(parts, ResponseBody::wrap(incoming, watch));
        let trail = AttemptTrail::default();
        Forwarded { response, chosen, error: None, attempts: 1, trail }
    }

    fn set_sticky_cookie(
        &self,
        attempts: &Attempts<'_>,
        policy: &CompiledPolicy,
        headers: &mut HeaderMap,
    ) {
        let Some(StickyCookie { name, max_age_s }) = &policy.sticky else { return };
        let Some(picked) = attempts.last else { return };
        let hash = attempts.runtime.upstreams[picked.position].name_hash;
        if attempts.sticky == Some(hash) {
            return;
        }
        let age = if *max_age_s > 0 { format!("; Max-Age={max_age_s}") } else { String::new() };
        let cookie = format!("{name}={hash:016x}; Path=/; HttpOnly; SameSite=Lax{age}");
        if let Ok(value) = HeaderValue::try_from(cookie) {
            headers.append(header::SET_COOKIE, value);
        }
    }
}

/// Removes the fields from an instance's answer that concern its connection, and those that only Maxine may set.
fn strip_connection_fields(parts: &mut response::Parts, takes_trailers: bool) {
    // A length beside another framing, or in a response without content, has no meaning and must not be forwarded.
    if parts.headers.contains_key(header::TRANSFER_ENCODING)
        || parts.status == StatusCode::NO_CONTENT
    {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    framing::merge_content_length(&mut parts.headers);
    // This answer names the protocol that would be accepted (RFC 9110 section 15.5.22).
    let wanted = (parts.status == StatusCode::UPGRADE_REQUIRED)
        .then(|| parts.headers.get(header::UPGRADE).cloned())
        .flatten();
    headers::strip_hop_by_hop(&mut parts.headers, takes_trailers);
    headers::strip_maxines_own(&mut parts.headers);
    if let Some(protocol) = wanted {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, protocol);
    }
    parts.version = hyper::Version::HTTP_11;
    parts.extensions.clear();
}

/// Makes the instance's work part of the attempt's span.
fn name_span(headers: &mut HeaderMap, span: Option<SpanName>, number: u32) {
    if let Some(span) = span {
        let span = TraceName::Span(span.of_attempt(number));
        headers.insert(TRACEPARENT, span.header_value());
    }
}

fn outcome_of(outcome: &Result<Answer, ProxyError>) -> AttemptOutcome {
    match outcome {
        Ok(answer) => AttemptOutcome::Answered(answer.response.status()),
        Err(error) => AttemptOutcome::Failed(error.code()),
    }
}

/// Maximum length of a body that is kept to be sent again, in bytes. `None` if the body is streamed.
fn keep_max(policy: &CompiledPolicy, head: &Head, mirrored: bool, body: &AxumBody) -> Option<u64> {
    // A small body is kept even without a policy, because it may have to be sent again on a new connection.
    let small = body.size_hint().exact().filter(|len| *len <= SMALL_LEN_MAX);
    let retries = policy.retries.as_ref();
    let for_retries = retries.and_then(|retries| retries.kept_len_max(&head.method));
    let for_mirror = policy.mirror().filter(|_| mirrored).map(|mirror| mirror.body_len_max);
    // The instance must answer a client that waits for `100 Continue`, so the body is not collected before.
    if head.expects_continue {
        None
    } else {
        for_retries.max(for_mirror).max(small).filter(|max| *max > 0)
    }
}

impl Attempts<'_> {
    /// Converts paths in an answer so that they lead through the proxy, if the policy says so.
    fn map_prefix(&self, headers: &mut HeaderMap) {
        let policy = self.runtime.policy.prefix();
        if !policy.locations && !policy.cookie_paths {
            return;
        }
        let upstream = self.last.and_then(|picked| self.runtime.upstreams.get(picked.position));
        let pool = upstream.and_then(|upstream| upstream.pool.as_ref());
        let (Some(prefix), Some(pool)) = (&self.prefix, pool) else { return };
        let map = PrefixMap {
            prefix,
            upstream: pool.address(),
            rewrite: self.runtime.policy.rewrite(),
            asked_host: self.head.asked_host.as_ref(),
        };
        map.apply(policy, headers);
    }

    fn chosen(&self) -> Option<Chosen> {
        let picked = self.last?;
        let upstream = self.runtime.upstreams.get(picked.position)?;
        let target = match &self.path {
            Some(path) => path.clone(),
            None => upstream.path_and_query(&self.head.target).ok()?,
        };
        Some(Chosen { instance: Arc::clone(&upstream.instance), share: picked.share, target })
    }
}

impl ProxyError {
    /// Adds the error's code and the number of attempts to an answer of the proxy itself.
    pub fn add_headers(&self, headers: &mut HeaderMap, attempts: u32) {
        headers.insert(X_MAXINE_ERROR, HeaderValue::from_static(self.code()));
        headers.insert(X_MAXINE_ATTEMPTS, HeaderValue::from(attempts));
    }
}

impl Forwarded {
    /// The proxy's own answer: the status and code of the error, and a message.
    pub(crate) fn failed(error: ProxyError, chosen: Option<Chosen>, attempts: u32) -> Self {
        let body = serde_json::json!({ "message": error.to_string() }).to_string();
        let mut response = Response::new(AxumBody::from(body));
        *response.status_mut() = error.status();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, json);
        error.add_headers(headers, attempts);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(retry_after_s) = error.retry_after_s() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
        }
        // A part of the request may still arrive, so the client's connection cannot be used again.
        if matches!(
            error,
            ProxyError::BodyTooLarge { .. } | ProxyError::ClientTimeout | ProxyError::ClientBody
        ) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let trail = AttemptTrail::default();
        Self { response, chosen, error: Some(error), attempts, trail }
    }
}
