//! One attempt within its time limits: leases a connection, sends the request, and waits for the head of the response.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderMap;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::content::Content;
use super::error::ProxyError;
use super::http1::OnInterim;
use super::interim::InterimSink;
use super::pool::{Lease, Pool, Reuse, SendFailure};
use super::request::{Head, Outgoing};
use super::request_body::{ExpectGate, Phase, Progress, RequestBody};
use super::slots::Holder;
use super::timer::timer_now;
use super::upstream::{InFlight, Upstream};
use maxine_clock::Clock;

/// The head of a response, and what is held until the response's last byte.
pub(crate) struct Answer {
    pub(crate) response: Response<Content>,
    pub(crate) lease: Lease,
    pub(crate) in_flight: InFlight,
}

/// Time limits of an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) connect: Duration,
    pub(crate) response: Duration,
    pub(crate) idle: Duration,
    pub(crate) deadline: Option<Instant>,
}

/// What one attempt needs.
pub(crate) struct Exchange<'a> {
    pub(crate) upstream: &'a Arc<Upstream>,
    /// The client for which the attempt is made.
    pub(crate) holder: Holder,
    pub(crate) head: &'a Head,
    /// Path and query of the request to this instance.
    pub(crate) path: PathAndQuery,
    pub(crate) times: Times,
    pub(crate) clock: &'a Clock,
    pub(crate) progress: &'a Progress,
    pub(crate) body_limit: u64,
    /// Receives interim answers.
    pub(crate) interim: Option<&'a InterimSink>,
}

impl Exchange<'_> {
    /// Makes the attempt. `headers` are the head's fields, or a copy of them if more attempts may follow.
    pub(crate) async fn run(
        &self,
        headers: HeaderMap,
        body: &mut Outgoing,
    ) -> Result<Answer, ProxyError> {
        let pool = self.upstream.pool.as_ref().ok_or(ProxyError::Resolve)?;
        let mut in_flight = InFlight::start(Arc::clone(self.upstream), self.clock.monotonic_us());
        let outcome = self.send(pool, headers, body).await;
        match outcome {
            Ok((response, lease)) => {
                let ok = response.status() < StatusCode::INTERNAL_SERVER_ERROR;
                in_flight.head(ok, self.clock.monotonic_us());
                Ok(Answer { response, lease, in_flight })
            }
            Err(error) => {
                if error.blames_instance() {
                    in_flight.head(false, self.clock.monotonic_us());
                }
                Err(error)
            }
        }
    }

    async fn send(
        &self,
        pool: &Arc<Pool>,
        headers: HeaderMap,
        body: &mut Outgoing,
    ) -> Result<(Response<Content>, Lease), ProxyError> {
        let fresh = self.head.upgrade.is_some();
        let reuse = if fresh { Reuse::NewerThan(0) } else { Reuse::Any };
        let lease = pool.lease(self.holder, self.connect_time()?, reuse).await?;
        let (is_reused, another) = (lease.reused, lease.newer_connection());
        let gate = (self.head.expects_continue && !matches!(body, Outgoing::Empty))
            .then(|| Arc::new(ExpectGate::default()));
        // An idle connection may turn out to be closed. If nothing of the request was written, or if the request may be
        // repeated (RFC 9112 section 9.3.1), it is sent again once, on a new connection. The same applies to a request
        // that an HTTP/2 instance refused (RFC 9113 section 8.7).
        let may_resend = (lease.reused || lease.is_http2()) && body.is_repeatable();
        let may_repeat = may_resend && is_idempotent(&self.head.method);
        let spare = may_resend.then(|| headers.clone());
        let taken = body.take(gate.as_ref()).ok_or(ProxyError::ClientBody)?;
        let request = self.head.request(headers, pool, self.path.clone(), taken)?;
        let on_interim = |status, fields| self.pass_interim(gate.as_deref(), status, fields);
        let failure = match self.await_head(lease, request, may_repeat, &on_interim).await? {
            Ok(answered) => return Ok(answered),
            Err(failure) => failure,
        };
        if let Some(error) = self.progress.failure(self.body_limit) {
            return Err(error);
        }
        let reason = failure.error;
        let refused = reason == ProxyError::Refused;
        // A repeated request would get the same invalid answer.
        if (!is_reused && !refused) || reason == ProxyError::BadResponse {
            return Err(reason);
        }
        let again = match (failure.unsent, spare) {
            (Some(unsent), _) => unsent,
            (None, Some(headers))
                if refused || failure.nothing_written || is_idempotent(&self.head.method) =>
            {
                let taken = body.take(None).ok_or(ProxyError::Reset)?;
                self.head.request(headers, pool, self.path.clone(), taken)?
            }
            (None, _) => return Err(reason),
        };
        // The future is boxed, because it is rarely needed and large.
        let again = Box::pin(async {
            let lease = pool.lease(self.holder, self.connect_time()?, another).await?;
            let sent = self.await_head(lease, again, false, &on_interim).await?;
            sent.map_err(|failure| self.progress.failure(self.body_limit).unwrap_or(failure.error))
        });
        again.await
    }

    /// Handles an interim answer: `100 Continue` opens the gate, and others are forwarded.
    fn pass_interim(&self, gate: Option<&ExpectGate>, status: StatusCode, fields: HeaderMap) {
        if status == StatusCode::CONTINUE {
            if let Some(gate) = gate {
                gate.open();
            }
        } else if let Some(interim) = self.interim {
            interim.send(status, fields);
        }
    }

    fn connect_time(&self) -> Result<Duration, ProxyError> {
        match self.times.deadline {
            None => Ok(self.times.connect),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(timer_now());
                if left.is_zero() {
                    return Err(ProxyError::TotalTimeout);
                }
                Ok(left.min(self.times.connect))
            }
        }
    }

    /// Waits for the head of the response. The instance's time does not run while the client has to send.
    async fn await_head(
        &self,
        lease: Lease,
        request: Request<RequestBody>,
        may_repeat: bool,
        on_interim: OnInterim<'_>,
    ) -> Result<Result<(Response<Content>, Lease), SendFailure>, ProxyError> {
        let leave = Arc::clone(lease.leave());
        let mut sending = std::pin::pin!(lease.send(request, may_repeat, on_interim));
        let started = timer_now();
        let mut allowed_until = started + self.times.response;
        loop {
            let until = self.times.deadline.map_or(allowed_until, |d| d.min(allowed_until));
            tokio::select! {
                biased;
                done = &mut sending => return Ok(done),
                () = leave.displaced() => return Err(ProxyError::Displaced),
                () = tokio::time::sleep_until(until) => {}
            }
            if self.times.deadline.is_some_and(|deadline| timer_now() >= deadline) {
                return Err(ProxyError::TotalTimeout);
            }
            let (phase, moved_at_us) = self.progress.now();
            if moved_at_us == 0 {
                return Err(ProxyError::ResponseTimeout);
            }
            let quiet =
                Duration::from_micros(self.clock.monotonic_us().saturating_sub(moved_at_us));
            let (left, error) = match phase {
                Phase::Client => {
                    let in_all = self.progress.client_time_left(self.times.idle, self.clock);
                    (self.times.idle.saturating_sub(quiet).min(in_all), ProxyError::ClientTimeout)
                }
                Phase::Upstream | Phase::Done => {
                    (self.times.response.saturating_sub(quiet), ProxyError::ResponseTimeout)
                }
            };
            if left.is_zero() {
                return Err(error);
            }
            allowed_until = timer_now() + left;
        }
    }
}

/// Whether the method may be repeated without a policy (RFC 9110 section 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}
