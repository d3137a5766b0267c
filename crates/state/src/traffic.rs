//! The part of a service's policy that says how its instances are called.
//!
//! This is plain data with defaults and limits. The proxy carries it out. A part that is `None` or empty
//! costs a request nothing.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limits::{
    self, Limit, LimitExceeded, check_count, check_range, check_text, is_field_value, is_token,
};
use super::name::Name;
use super::versioned::{Needs, first_version, stored};

/// Maximum number of header rules of one kind, of version shares, and of networks in one policy.
pub const POLICY_ITEMS_MAX: usize = 64;

/// Time limits, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutPolicy {
    /// Time limit for name resolution, connection and TLS handshake, including waiting for a free
    /// connection, 10 to 60,000.
    #[schema(minimum = 10, maximum = 60_000)]
    pub connect_ms: u64,
    /// Time limit for the head of the answer, counted from the last byte of the request that the
    /// instance accepted, 10 to 3,600,000.
    #[schema(minimum = 10, maximum = 3_600_000)]
    pub response_ms: u64,
    /// Maximum time without a byte in either direction of a body or tunnel, 100 to 3,600,000.
    #[schema(minimum = 100, maximum = 3_600_000)]
    pub idle_ms: u64,
    /// Time limit for everything, including the last byte of the answer, up to 86,400,000; 0 means
    /// no limit.
    #[schema(minimum = 0, maximum = 86_400_000)]
    pub total_ms: u64,
}

stored!(TimeoutPolicy { connect_ms, response_ms, idle_ms, total_ms });

impl Default for TimeoutPolicy {
    fn default() -> Self {
        Self { connect_ms: 2_000, response_ms: 30_000, idle_ms: 60_000, total_ms: 0 }
    }
}

impl TimeoutPolicy {
    fn check(&self) -> Result<(), LimitExceeded> {
        check_range("timeouts.connect_ms", self.connect_ms, 10, 60_000)?;
        check_range("timeouts.response_ms", self.response_ms, 10, 3_600_000)?;
        check_range("timeouts.idle_ms", self.idle_ms, 100, 3_600_000)?;
        check_range("timeouts.total_ms", self.total_ms, 0, 86_400_000)
    }
}

/// A failure that may be worth another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// No connection: nothing was sent, so every method may be retried.
    Connect,
    /// The connection broke before the head of the response arrived.
    Reset,
    /// The head of the response did not arrive in time.
    Timeout,
}

first_version!(RetryOn { Connect, Reset, Timeout });

/// When a request is tried again, on another instance if there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Maximum number of attempts, including the first, 1 to 10.
    #[schema(minimum = 1, maximum = 10)]
    pub attempts: u32,
    /// Methods that may be repeated after something was sent.
    pub methods: Vec<String>,
    /// Failures that are retried.
    pub on: Vec<RetryOn>,
    /// Statuses that are retried, 400 to 599.
    pub statuses: Vec<u16>,
    /// Time limit for the head of the answer in one attempt, in milliseconds, up to 3,600,000; 0 means that
    /// only the response timeout applies.
    #[schema(minimum = 0, maximum = 3_600_000)]
    pub per_try_timeout_ms: u64,
    /// Pause before the second attempt, in milliseconds, 0 to 10,000. It doubles with each attempt,
    /// with full jitter.
    #[schema(minimum = 0, maximum = 10_000)]
    pub backoff_base_ms: u64,
    /// Maximum pause, in milliseconds, 0 to 60,000.
    #[schema(minimum = 0, maximum = 60_000)]
    pub backoff_max_ms: u64,
    /// Maximum share of retries, in percent of the requests, 0 to 100.
    #[schema(minimum = 0, maximum = 100)]
    pub budget_percent: u32,
    /// Number of retries per second that is always allowed, 0 to 10,000.
    #[schema(minimum = 0, maximum = 10_000)]
    pub budget_min_per_s: u32,
    /// Maximum length of a request body that is kept to be sent again, in bytes, 0 to 1,048,576.
    #[schema(minimum = 0, maximum = 1_048_576)]
    pub body_len_max: u64,
}

stored!(RetryPolicy {
    attempts,
    methods,
    on,
    statuses,
    per_try_timeout_ms,
    backoff_base_ms,
    backoff_max_ms,
    budget_percent,
    budget_min_per_s,
    body_len_max,
});

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 3,
            methods: ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"].map(String::from).into(),
            on: vec![RetryOn::Connect, RetryOn::Reset, RetryOn::Timeout],
            statuses: Vec::new(),
            per_try_timeout_ms: 0,
            backoff_base_ms: 25,
            backoff_max_ms: 250,
            budget_percent: 20,
            budget_min_per_s: 10,
            body_len_max: 65_536,
        }
    }
}

impl RetryPolicy {
    fn check(&self) -> Result<(), LimitExceeded> {
        check_range("retries.attempts", self.attempts.into(), 1, 10)?;
        check_methods("retries.methods", &self.methods)?;
        check_count("retries.on", self.on.len(), 3)?;
        check_statuses("retries.statuses", &self.statuses)?;
        check_range("retries.per_try_timeout_ms", self.per_try_timeout_ms, 0, 3_600_000)?;
        check_range("retries.backoff_base_ms", self.backoff_base_ms, 0, 10_000)?;
        check_range("retries.backoff_max_ms", self.backoff_max_ms, 0, 60_000)?;
        check_range("retries.budget_percent", self.budget_percent.into(), 0, 100)?;
        check_range("retries.budget_min_per_s", self.budget_min_per_s.into(), 0, 10_000)?;
        check_range("retries.body_len_max", self.body_len_max, 0, 1_048_576)
    }
}

/// A second request to another instance when the first takes long; the first answer wins. Only for
/// requests of the listed methods without a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HedgingPolicy {
    /// Time without the head of an answer after which the second request is sent, in milliseconds,
    /// 1 to 60,000.
    #[schema(minimum = 1, maximum = 60_000)]
    pub after_ms: u64,
    /// Methods that may be sent twice.
    pub methods: Vec<String>,
    /// Maximum share of second requests, in percent of the requests, 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    pub budget_percent: u32,
}

stored!(HedgingPolicy { after_ms, methods, budget_percent });

impl Default for HedgingPolicy {
    fn default() -> Self {
        Self { after_ms: 500, methods: vec!["GET".into(), "HEAD".into()], budget_percent: 10 }
    }
}

impl HedgingPolicy {
    fn check(&self) -> Result<(), LimitExceeded> {
        check_range("hedging.after_ms", self.after_ms, 1, 60_000)?;
        check_methods("hedging.methods", &self.methods)?;
        check_range("hedging.budget_percent", self.budget_percent.into(), 1, 100)
    }
}

/// Stops calling an instance that fails too often; each node decides by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CircuitBreakerPolicy {
    /// Number of failures in a row that opens the breaker, 1 to 10,000; 0 turns this off.
    #[schema(minimum = 0, maximum = 10_000)]
    pub consecutive_failures: u32,
    /// Share of failures that opens the breaker, in percent, 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    pub failure_percent: u32,
    /// Minimum number of requests in the window before the share is used, 1 to 100,000.
    #[schema(minimum = 1, maximum = 100_000)]
    pub requests_min: u64,
    /// Length of the window, in milliseconds, 100 to 600,000.
    #[schema(minimum = 100, maximum = 600_000)]
    pub window_ms: u64,
    /// Time that the breaker stays open before trial requests are sent, in milliseconds, 100 to
    /// 600,000.
    #[schema(minimum = 100, maximum = 600_000)]
    pub open_ms: u64,
    /// Number of successful trial requests in a row that closes the breaker, 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    pub trial_requests: u32,
}

stored!(CircuitBreakerPolicy {
    consecutive_failures,
    failure_percent,
    requests_min,
    window_ms,
    open_ms,
    trial_requests,
});

impl Default for CircuitBreakerPolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_percent: 50,
            requests_min: 20,
            window_ms: 10_000,
            open_ms: 5_000,
            trial_requests: 3,
        }
    }
}

impl CircuitBreakerPolicy {
    fn check(&self) -> Result<(), LimitExceeded> {
        let consecutive = self.consecutive_failures.into();
        check_range("circuit_breaker.consecutive_failures", consecutive, 0, 10_000)?;
        check_range("circuit_breaker.failure_percent", self.failure_percent.into(), 1, 100)?;
        check_range("circuit_breaker.requests_min", self.requests_min, 1, 100_000)?;
        check_range("circuit_breaker.window_ms", self.window_ms, 100, 600_000)?;
        check_range("circuit_breaker.open_ms", self.open_ms, 100, 600_000)?;
        check_range("circuit_breaker.trial_requests", self.trial_requests.into(), 1, 100)
    }
}

/// Ejects instances that are worse than the others, for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutlierPolicy {
    /// Interval between two evaluations, in milliseconds, 100 to 600,000.
    #[schema(minimum = 100, maximum = 600_000)]
    pub interval_ms: u64,
    /// Minimum share of failures for an ejection, in percent, 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    pub failure_percent: u32,
    /// An instance is ejected if its mean latency exceeds this share of the median of all
    /// instances, in percent, 150 to 10,000; 0 turns this off.
    #[schema(minimum = 0, maximum = 10_000)]
    pub latency_percent: u32,
    /// Minimum number of requests in an interval for an instance to be evaluated, 1 to 100,000.
    #[schema(minimum = 1, maximum = 100_000)]
    pub requests_min: u64,
    /// Duration of the first ejection, in milliseconds, 100 to 3,600,000; it grows with each
    /// further one in a row.
    #[schema(minimum = 100, maximum = 3_600_000)]
    pub ejection_ms: u64,
    /// Maximum duration of an ejection, in milliseconds, 100 to 86,400,000.
    #[schema(minimum = 100, maximum = 86_400_000)]
    pub ejection_max_ms: u64,
    /// Maximum share of the service's instances that may be ejected at once, in percent, 0 to 90.
    #[schema(minimum = 0, maximum = 90)]
    pub ejected_percent_max: u32,
}

stored!(OutlierPolicy {
    interval_ms,
    failure_percent,
    latency_percent,
    requests_min,
    ejection_ms,
    ejection_max_ms,
    ejected_percent_max,
});

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self {
            interval_ms: 5_000,
            failure_percent: 50,
            latency_percent: 0,
            requests_min: 10,
            ejection_ms: 30_000,
            ejection_max_ms: 300_000,
            ejected_percent_max: 34,
        }
    }
}

impl OutlierPolicy {
    fn check(&self) -> Result<(), LimitExceeded> {
        check_range("outlier_ejection.interval_ms", self.interval_ms, 100, 600_000)?;
        check_range("outlier_ejection.failure_percent", self.failure_percent.into(), 1, 100)?;
        if self.latency_percent != 0 {
            let latency = self.latency_percent.into();
            check_range("outlier_ejection.latency_percent", latency, 150, 10_000)?;
        }
        check_range("outlier_ejection.requests_min", self.requests_min, 1, 100_000)?;
        check_range("outlier_ejection.ejection_ms", self.ejection_ms, 100, 3_600_000)?;
        check_range("outlier_ejection.ejection_max_ms", self.ejection_max_ms, 100, 86_400_000)?;
        let ejected = self.ejected_percent_max.into();
        check_range("outlier_ejection.ejected_percent_max", ejected, 0, 90)
    }
}

/// Limits on what one node sends to one instance at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionPolicy {
    /// Maximum number of requests in flight to one instance, 1 to 65,536. With HTTP/1 each has its
    /// own connection.
    #[schema(minimum = 1, maximum = 65_536)]
    pub connections_max: u32,
    /// Maximum number of requests that wait for a connection, 0 to 65,536. Beyond it, requests are
    /// refused with 503.
    #[schema(minimum = 0, maximum = 65_536)]
    pub pending_max: u32,
    /// Time that an idle connection is kept, in milliseconds, 0 to 3,600,000; less if the instance
    /// announces a shorter time in `Keep-Alive`.
    #[schema(minimum = 0, maximum = 3_600_000)]
    pub keep_alive_ms: u64,
    /// Maximum age of a connection, in milliseconds, 0 to 86,400,000; then a new one replaces it. 0 means no
    /// maximum. A name whose address has changed is called at its old address for at most this long.
    #[schema(minimum = 0, maximum = 86_400_000)]
    pub age_max_ms: u64,
}

stored!(ConnectionPolicy { connections_max, pending_max, keep_alive_ms, age_max_ms });

impl Default for ConnectionPolicy {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            pending_max: 1_024,
            keep_alive_ms: 60_000,
            age_max_ms: 300_000,
        }
    }
}

impl ConnectionPolicy {
    fn check(&self) -> Result<(), LimitExceeded> {
        check_range("connections.connections_max", self.connections_max.into(), 1, 65_536)?;
        check_range("connections.pending_max", self.pending_max.into(), 0, 65_536)?;
        check_range("connections.keep_alive_ms", self.keep_alive_ms, 0, 3_600_000)?;
        check_range("connections.age_max_ms", self.age_max_ms, 0, 86_400_000)
    }
}

/// Which requests a rate limit counts together.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RateLimitScope {
    /// All requests.
    #[default]
    Service,
    /// The requests of each client address.
    Client,
}

first_version!(RateLimitScope { Service, Client });

/// Requests per second that one node lets through; more are refused with 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitPolicy {
    /// Sustained rate, in requests per second, 1 to 1,000,000.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub requests_per_s: u32,
    /// Number of requests that may arrive at once, 1 to 1,000,000.
    #[schema(minimum = 1, maximum = 1_000_000)]
    #[serde(default = "one")]
    pub burst: u32,
    /// Whether requests are counted for the whole service, or for each client.
    #[serde(default)]
    pub scope: RateLimitScope,
}

stored!(RateLimitPolicy { requests_per_s, burst, scope });

fn one() -> u32 {
    1
}

impl RateLimitPolicy {
    fn check(&self) -> Result<(), LimitExceeded> {
        check_range("rate_limit.requests_per_s", self.requests_per_s.into(), 1, 1_000_000)?;
        check_range("rate_limit.burst", self.burst.into(), 1, 1_000_000)
    }
}

/// Changes of headers. Fields are first removed, then set, then added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderRules {
    /// Names of the fields to remove.
    pub remove: Vec<String>,
    /// Fields that replace all fields of the same name.
    pub set: Vec<(String, String)>,
    /// Fields that are added.
    pub add: Vec<(String, String)>,
}

stored!(HeaderRules { remove, set, add });

/// Header fields that belong to a message's framing or connection. No rule may change them.
const PROTECTED_FIELDS: [&str; 8] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl HeaderRules {
    /// Whether there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    fn check(&self, field: &str) -> Result<(), LimitExceeded> {
        let fields = || self.set.iter().chain(&self.add);
        check_count(field, self.remove.len() + fields().count(), POLICY_ITEMS_MAX)?;
        for name in self.remove.iter().chain(fields().map(|(name, _)| name)) {
            check_header_name(field, name)?;
            if PROTECTED_FIELDS.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(LimitExceeded::new(field, Limit::NoFramingField, name.as_str()));
            }
        }
        for (_, value) in fields() {
            check_text(field, value, 0, limits::TEXT_LEN_MAX)?;
            if !is_field_value(value) {
                return Err(LimitExceeded::new(field, Limit::HeaderValue, value.as_str()));
            }
        }
        Ok(())
    }
}

/// How the path is changed. The instance's base path is put before the result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RewritePolicy {
    /// Prefix that is removed from the path, if the path begins with it (whole segments only).
    pub strip_prefix: String,
    /// Prefix that is added to the path.
    pub add_prefix: String,
}

stored!(RewritePolicy { strip_prefix, add_prefix });

impl RewritePolicy {
    fn check(&self) -> Result<(), LimitExceeded> {
        for (field, prefix) in
            [("rewrite.strip_prefix", &self.strip_prefix), ("rewrite.add_prefix", &self.add_prefix)]
        {
            check_text(field, prefix, 0, limits::TEXT_LEN_MAX)?;
            let valid = prefix.is_empty() || prefix.starts_with('/') && !prefix.ends_with('/');
            let plain = prefix.bytes().all(|b| {
                b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~')
            });
            if !valid || !plain || prefix.split('/').any(|s| s == "." || s == "..") {
                return Err(LimitExceeded::new(field, Limit::PathPrefix, prefix.as_str()));
            }
        }
        Ok(())
    }
}

/// Makes a service usable under the path that clients use through the proxy
/// (`/api/maxine/serviceops/proxy/SERVICE`), although the service expects to be called at the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixPolicy {
    /// Sends the path to instances in `X-Forwarded-Prefix`.
    pub forwarded: bool,
    /// Rewrites `Location` and `Content-Location` of answers so that they lead through the proxy.
    pub locations: bool,
    /// Rewrites the `Path` of cookies that instances set.
    pub cookie_paths: bool,
    /// Keeps the slash at the end of `proxy/SERVICE/`. If true, the instance's base path is requested with
    /// a slash at its end; if false, without one.
    pub trailing_slash: bool,
}

stored!(PrefixPolicy { forwarded, locations, cookie_paths, trailing_slash });

impl Default for PrefixPolicy {
    fn default() -> Self {
        Self { forwarded: true, locations: true, cookie_paths: true, trailing_slash: true }
    }
}

impl PrefixPolicy {
    /// All options off.
    pub const OFF: Self =
        Self { forwarded: false, locations: false, cookie_paths: false, trailing_slash: false };
}

/// Who answers `OPTIONS` requests to a service.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OptionsPolicy {
    /// Maxine answers, according to its CORS settings.
    #[default]
    Answer,
    /// The instance answers.
    Forward,
}

first_version!(OptionsPolicy { Answer, Forward });

/// A version's share of the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionShare {
    /// The version that instances name in their registration.
    #[schema(value_type = String)]
    pub version: Name,
    /// Its weight, relative to the sum of all weights, 0 to 1,000.
    #[schema(minimum = 0, maximum = 1_000)]
    pub weight: u32,
}

stored!(VersionShare { version, weight });

/// Copies of requests for another service; the answers to the copies are discarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MirrorPolicy {
    /// The service that gets the copies, in the same namespace.
    #[schema(value_type = String)]
    pub service: Name,
    /// Share of the requests, in percent, 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    pub percent: u32,
    /// Maximum length of a body that is copied, in bytes, 0 to 1,048,576. Requests with a longer
    /// body are not copied.
    #[schema(minimum = 0, maximum = 1_048_576)]
    #[serde(default = "mirror_body_len_max")]
    pub body_len_max: u64,
    /// Maximum number of copies in flight, 1 to 1,024. Beyond it, requests are not copied.
    #[schema(minimum = 1, maximum = 1_024)]
    #[serde(default = "mirror_in_flight_max")]
    pub in_flight_max: u32,
}

stored!(MirrorPolicy { service, percent, body_len_max, in_flight_max });

fn mirror_body_len_max() -> u64 {
    65_536
}

fn mirror_in_flight_max() -> u32 {
    64
}

impl MirrorPolicy {
    fn check(&self) -> Result<(), LimitExceeded> {
        check_text("mirror.service", self.service.as_str(), 1, limits::NAME_LEN_MAX)?;
        check_range("mirror.percent", self.percent.into(), 1, 100)?;
        check_range("mirror.body_len_max", self.body_len_max, 0, 1_048_576)?;
        check_range("mirror.in_flight_max", self.in_flight_max.into(), 1, 1_024)
    }
}

/// Sends a client to the same instance while that is routable.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StickyPolicy {
    /// By a cookie that Maxine sets; it names the instance by a hash.
    Cookie {
        /// What the cookie's name begins with; a hash of the service's name follows.
        name: String,
        /// How long the browser keeps it, in seconds, 0 to 31,536,000; 0 for the session.
        #[schema(minimum = 0, maximum = 31_536_000)]
        #[serde(default)]
        max_age_s: u64,
    },
    /// By the hash of a request header's value, whatever the strategy is. Requests without the header are not
    /// sticky. Redirected and resolved requests are sticky too.
    Header {
        /// The header's name.
        name: String,
    },
}

impl Needs for StickyPolicy {
    fn needs(&self) -> u32 {
        match self {
            Self::Cookie { name, max_age_s } => (name, max_age_s).needs(),
            Self::Header { name } => name.needs(),
        }
    }
}

impl StickyPolicy {
    fn check(&self) -> Result<(), LimitExceeded> {
        match self {
            Self::Cookie { name, max_age_s } => {
                check_header_name("sticky.cookie.name", name)?;
                check_range("sticky.cookie.max_age_s", *max_age_s, 0, 31_536_000)
            }
            Self::Header { name } => check_header_name("sticky.header.name", name),
        }
    }
}

/// Prefers instances in this node's zone, whether a request is proxied, redirected or resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ZonePolicy {
    /// If the zone has fewer routable instances than this, all zones are used, 1 to 10,000.
    #[schema(minimum = 1, maximum = 10_000)]
    pub local_instances_min: u32,
    /// If there are more requests in flight per instance of the zone than this, all zones are used,
    /// 1 to 65,536; 0 turns this off.
    #[schema(minimum = 0, maximum = 65_536)]
    pub spill_in_flight: u32,
}

stored!(ZonePolicy { local_instances_min, spill_in_flight });

impl Default for ZonePolicy {
    fn default() -> Self {
        Self { local_instances_min: 1, spill_in_flight: 0 }
    }
}

impl ZonePolicy {
    fn check(&self) -> Result<(), LimitExceeded> {
        check_range("zone.local_instances_min", self.local_instances_min.into(), 1, 10_000)?;
        check_range("zone.spill_in_flight", self.spill_in_flight.into(), 0, 65_536)
    }
}

/// Protocol for connections to the instances.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: with prior knowledge over plain TCP, or by ALPN over TLS. gRPC needs it.
    Http2,
}

first_version!(UpstreamProtocol { Http1, Http2 });

/// How a service's instances are called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrafficPolicy {
    /// Time limits.
    pub timeouts: TimeoutPolicy,
    /// When a request is tried again; by default never.
    pub retries: Option<RetryPolicy>,
    /// A second request when the first takes long.
    pub hedging: Option<HedgingPolicy>,
    /// Stops calling an instance that fails.
    pub circuit_breaker: Option<CircuitBreakerPolicy>,
    /// Ejects instances that are worse than the others.
    pub outlier_ejection: Option<OutlierPolicy>,
    /// Limits on what one node sends to one instance at a time.
    pub connections: ConnectionPolicy,
    /// Rate limit.
    pub rate_limit: Option<RateLimitPolicy>,
    /// Changes of the request's headers.
    pub request_headers: HeaderRules,
    /// Changes of the response's headers.
    pub response_headers: HeaderRules,
    /// How the path changes.
    pub rewrite: Option<RewritePolicy>,
    /// Makes paths in answers lead through the proxy; if absent, they are not changed.
    pub prefix: Option<PrefixPolicy>,
    /// Who answers `OPTIONS` requests.
    pub options: OptionsPolicy,
    /// Shares of versions; if empty, all versions are treated alike. For strategies that hash, the caller's hash
    /// chooses the version too.
    pub split: Vec<VersionShare>,
    /// Copies of requests for another service.
    pub mirror: Option<MirrorPolicy>,
    /// Sends a client to the same instance.
    pub sticky: Option<StickyPolicy>,
    /// Prefers instances in this node's zone.
    pub zone: Option<ZonePolicy>,
    /// Protocol for connections to the instances.
    pub protocol: UpstreamProtocol,
    /// HTTPS: if true, the instances' certificates are not verified.
    pub insecure_tls: bool,
    /// Whether the least-request strategy also considers how fast instances answered recently. Only for proxied
    /// requests.
    pub latency_aware: bool,
    /// A note on how the service is called. Test builds use it as a field of the next version.
    #[cfg(feature = "next")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

stored!(TrafficPolicy {
    timeouts, retries, hedging, circuit_breaker, outlier_ejection, connections, rate_limit, request_headers,
    response_headers, rewrite, prefix, options, split, mirror, sticky, zone, protocol, insecure_tls, latency_aware,
} later LaterTrafficField {
    #[cfg(feature = "next")]
    4 Note(note: Option<String>),
});

impl TrafficPolicy {
    /// Checks every bound.
    pub fn check(&self) -> Result<(), LimitExceeded> {
        self.timeouts.check()?;
        self.retries.as_ref().map_or(Ok(()), RetryPolicy::check)?;
        self.hedging.as_ref().map_or(Ok(()), HedgingPolicy::check)?;
        self.circuit_breaker.as_ref().map_or(Ok(()), CircuitBreakerPolicy::check)?;
        self.outlier_ejection.as_ref().map_or(Ok(()), OutlierPolicy::check)?;
        self.connections.check()?;
        self.rate_limit.as_ref().map_or(Ok(()), RateLimitPolicy::check)?;
        self.request_headers.check("request_headers")?;
        self.response_headers.check("response_headers")?;
        self.rewrite.as_ref().map_or(Ok(()), RewritePolicy::check)?;
        check_count("split", self.split.len(), POLICY_ITEMS_MAX)?;
        let mut total = 0;
        for share in &self.split {
            check_text("split.version", share.version.as_str(), 1, limits::NAME_LEN_MAX)?;
            check_range("split.weight", share.weight.into(), 0, 1_000)?;
            total += share.weight;
        }
        if !self.split.is_empty() && total == 0 {
            return Err(LimitExceeded::new("split.weight", Limit::SomeWeight, 0));
        }
        self.mirror.as_ref().map_or(Ok(()), MirrorPolicy::check)?;
        self.sticky.as_ref().map_or(Ok(()), StickyPolicy::check)?;
        #[cfg(feature = "next")]
        self.note
            .as_ref()
            .map_or(Ok(()), |note| check_text("note", note, 0, limits::TEXT_LEN_MAX))?;
        self.zone.as_ref().map_or(Ok(()), ZonePolicy::check)
    }
}

/// How probe results lead to a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthPolicy {
    /// Number of nodes that must agree on a verdict, 1 to 7; fewer if fewer nodes run. Twice this number minus one
    /// nodes probe each instance.
    #[schema(minimum = 1, maximum = 7)]
    pub observers: u32,
    /// If more than this share of the instances is unhealthy, all are used (panic mode), in
    /// percent, 0 to 100; 0 turns this off. It keeps traffic flowing when the probes themselves are
    /// wrong.
    #[schema(minimum = 0, maximum = 100)]
    pub panic_percent: u32,
    /// Time in which a recovered instance grows to its full share of the traffic, in milliseconds,
    /// 0 to 3,600,000.
    #[schema(minimum = 0, maximum = 3_600_000)]
    pub slow_start_ms: u64,
    /// A recovery is delayed while the flap score is at least this, 0 to 100,000; 0 turns this off. Each change
    /// of health adds 1,000; the score halves every `flap_half_life_ms`.
    #[schema(minimum = 0, maximum = 100_000)]
    pub flap_score_max: u32,
    /// Half-life of the flap score, in milliseconds, 1,000 to 86,400,000.
    #[schema(minimum = 1_000, maximum = 86_400_000)]
    pub flap_half_life_ms: u64,
    /// If the proxies of this many nodes ejected an instance, it counts as not ready, 0 to 7; 0
    /// turns this off.
    #[schema(minimum = 0, maximum = 7)]
    pub passive_observers: u32,
}

stored!(HealthPolicy {
    observers,
    panic_percent,
    slow_start_ms,
    flap_score_max,
    flap_half_life_ms,
    passive_observers,
});

impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            observers: 1,
            panic_percent: 50,
            slow_start_ms: 0,
            flap_score_max: 4_000,
            flap_half_life_ms: 60_000,
            passive_observers: 0,
        }
    }
}

impl HealthPolicy {
    /// Checks every bound.
    pub fn check(&self) -> Result<(), LimitExceeded> {
        check_range("health.observers", self.observers.into(), 1, 7)?;
        check_range("health.panic_percent", self.panic_percent.into(), 0, 100)?;
        check_range("health.slow_start_ms", self.slow_start_ms, 0, 3_600_000)?;
        check_range("health.flap_score_max", self.flap_score_max.into(), 0, 100_000)?;
        check_range("health.flap_half_life_ms", self.flap_half_life_ms, 1_000, 86_400_000)?;
        check_range("health.passive_observers", self.passive_observers.into(), 0, 7)
    }
}

fn check_header_name(field: &str, name: &str) -> Result<(), LimitExceeded> {
    if !is_token(name) {
        return Err(LimitExceeded::new(field, Limit::HeaderName, name));
    }
    Ok(())
}

fn check_methods(field: &str, methods: &[String]) -> Result<(), LimitExceeded> {
    check_count(field, methods.len(), 16)?;
    for method in methods {
        if !is_token(method) || method.len() > 16 {
            return Err(LimitExceeded::new(field, Limit::Methods, method.as_str()));
        }
    }
    Ok(())
}

fn check_statuses(field: &str, statuses: &[u16]) -> Result<(), LimitExceeded> {
    check_count(field, statuses.len(), POLICY_ITEMS_MAX)?;
    statuses.iter().try_for_each(|status| check_range(field, (*status).into(), 400, 599))
}

#[cfg(test)]
mod tests {
    use super::super::policy::ServicePolicy;

    fn parsed(json: &str) -> Result<ServicePolicy, String> {
        let policy: ServicePolicy = serde_json::from_str(json).map_err(|e| e.to_string())?;
        policy.check().map_err(|error| error.to_string())?;
        Ok(policy)
    }

    #[test]
    fn an_empty_policy_is_valid_and_every_section_has_defaults() {
        assert!(parsed("{}").is_ok());
        let all = r#"{"traffic":{"retries":{},"hedging":{},"circuit_breaker":{},
            "outlier_ejection":{},"rate_limit":{"requests_per_s":5},"rewrite":{},
            "mirror":{"service":"shadow","percent":10},"sticky":{"cookie":{"name":"s"}},
            "zone":{},"split":[{"version":"v1","weight":9},{"version":"v2","weight":1}]},
            "health":{}}"#;
        let policy = parsed(all).unwrap();
        assert_eq!(policy.traffic.retries.unwrap().attempts, 3);
        assert_eq!(policy.traffic.rate_limit.unwrap().burst, 1);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_its_field() {
        for (json, field) in [
            (r#"{"traffic":{"timeouts":{"connect_ms":1}}}"#, "timeouts.connect_ms"),
            (r#"{"traffic":{"retries":{"attempts":11}}}"#, "retries.attempts"),
            (r#"{"traffic":{"retries":{"statuses":[200]}}}"#, "retries.statuses"),
            (r#"{"traffic":{"request_headers":{"set":[["Host","x"]]}}}"#, "request_headers"),
            (r#"{"traffic":{"response_headers":{"add":[["a b","x"]]}}}"#, "response_headers"),
            (r#"{"traffic":{"rewrite":{"add_prefix":"/a/../b"}}}"#, "rewrite.add_prefix"),
            (r#"{"traffic":{"split":[{"version":"a","weight":0}]}}"#, "split.weight"),
            (r#"{"traffic":{"mirror":{"service":"x","percent":0}}}"#, "mirror.percent"),
            (r#"{"traffic":{"nonsense":1}}"#, "nonsense"),
            (r#"{"health":{"observers":0}}"#, "health.observers"),
        ] {
            let error = parsed(json).unwrap_err();
            assert!(error.contains(field), "{json}: {error}");
        }
    }
}
