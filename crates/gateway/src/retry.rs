//! When an attempt is followed by another one, and after which pause.

use std::time::Duration;

use hyper::{Method, StatusCode};
use maxine_state::{RetryOn, RetryPolicy};

use super::error::ProxyError;
use super::methods::Methods;

/// The retry policy of a service, prepared for requests.
#[derive(Debug)]
pub(crate) struct Retries {
    /// Maximum number of attempts.
    attempts: u32,
    methods: Methods,
    on_connect: bool,
    on_reset: bool,
    on_timeout: bool,
    statuses: Vec<StatusCode>,
    /// Time limit of one attempt.
    pub(crate) per_try: Option<Duration>,
    backoff_base_ms: u64,
    backoff_max_ms: u64,
    pub(crate) budget_percent: u32,
    pub(crate) budget_min_per_s: u32,
    body_len_max: u64,
}

impl Retries {
    pub(crate) fn new(policy: &RetryPolicy) -> Self {
        let statuses = policy.statuses.iter();
        let per_try_ms = policy.per_try_timeout_ms;
        Self {
            attempts: policy.attempts,
            methods: Methods::new(&policy.methods),
            on_connect: policy.on.contains(&RetryOn::Connect),
            on_reset: policy.on.contains(&RetryOn::Reset),
            on_timeout: policy.on.contains(&RetryOn::Timeout),
            statuses: statuses.filter_map(|status| StatusCode::from_u16(*status).ok()).collect(),
            per_try: (per_try_ms > 0).then(|| Duration::from_millis(per_try_ms)),
            backoff_base_ms: policy.backoff_base_ms,
            backoff_max_ms: policy.backoff_max_ms,
            budget_percent: policy.budget_percent,
            budget_min_per_s: policy.budget_min_per_s,
            body_len_max: policy.body_len_max,
        }
    }

    /// Whether another attempt may follow an answer with this status.
    pub(crate) fn has_status(&self, status: StatusCode) -> bool {
        self.statuses.contains(&status)
    }

    /// Whether attempts are left after `made`.
    pub(crate) fn has_attempts_after(&self, made: u32) -> bool {
        made < self.attempts
    }

    /// The length up to which the body of a request is kept for another attempt, in bytes. `None` if there is no other
    /// attempt for its method.
    pub(crate) fn kept_len_max(&self, method: &Method) -> Option<u64> {
        (self.attempts > 1 && self.methods.has(method)).then_some(self.body_len_max)
    }

    /// Whether the policy allows another attempt after `made` attempts. `error` says why the last one failed. It is `None`
    /// if the last one was answered with a status after which the policy retries. The budget is not considered here.
    ///
    /// `kept_len` is the length of the body that is kept, in bytes; `None` if the body cannot be sent again.
    pub(crate) fn allows(
        &self,
        made: u32,
        method: &Method,
        kept_len: Option<u64>,
        error: Option<&ProxyError>,
    ) -> bool {
        if !self.has_attempts_after(made) {
            return false;
        }
        let is_repeatable = self.methods.has(method)
            && kept_len.is_some_and(|kept_len| kept_len <= self.body_len_max);
        match error {
            Some(error) if error.is_before_sending() => self.on_connect,
            Some(ProxyError::Reset | ProxyError::BadResponse) => self.on_reset && is_repeatable,
            Some(ProxyError::ResponseTimeout) => self.on_timeout && is_repeatable,
            Some(_) => false,
            None => is_repeatable,
        }
    }

    /// The pause after `made` attempts: a random time, up to the doubled pause of the policy (full jitter). There is none
    /// before the second attempt if an instance is left that was not tried yet.
    pub(crate) fn pause(&self, made: u32, has_untried: bool) -> Duration {
        if made == 1 && has_untried {
            return Duration::ZERO;
        }
        let doubled_ms = self.backoff_base_ms.saturating_mul(1 << (made - 1).min(16));
        Duration::from_millis(fastrand::u64(0..=doubled_ms.min(self.backoff_max_ms)))
    }
}
