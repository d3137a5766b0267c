//! The fields that the state checks. Refusals are stored, so they contain a field's code. [`Field::as_str`]
//! gives the name.

use std::fmt;

use bincode::{Decode, Encode};

/// The names of the fields, as clients write them. The position of a name is its code. New names are
/// appended. A name that changes keeps its position.
const NAMES: &[&str] = &[
    "id",
    "name",
    "namespace",
    "service",
    "address",
    "weight",
    "ttl_ms",
    "zone",
    "version",
    "tags",
    "metadata",
    "instances",
    "services",
    "registrations",
    "items",
    "reason",
    "policy",
    "selection.hash_key.name",
    "probe.path",
    "probe.readiness_path",
    "probe.method",
    "probe.headers",
    "probe.expected_statuses",
    "probe.expected_body",
    "probe.interval_ms",
    "probe.timeout_ms",
    "probe.rise",
    "probe.fall",
    "probe.grace_ms",
    "probe.jitter_percent",
    "health.observers",
    "health.panic_percent",
    "health.slow_start_ms",
    "health.flap_score_max",
    "health.flap_half_life_ms",
    "health.passive_observers",
    "timeouts.connect_ms",
    "timeouts.response_ms",
    "timeouts.idle_ms",
    "timeouts.total_ms",
    "retries.attempts",
    "retries.methods",
    "retries.on",
    "retries.statuses",
    "retries.per_try_timeout_ms",
    "retries.backoff_base_ms",
    "retries.backoff_max_ms",
    "retries.budget_percent",
    "retries.budget_min_per_s",
    "retries.body_len_max",
    "hedging.after_ms",
    "hedging.methods",
    "hedging.budget_percent",
    "circuit_breaker.consecutive_failures",
    "circuit_breaker.failure_percent",
    "circuit_breaker.requests_min",
    "circuit_breaker.window_ms",
    "circuit_breaker.open_ms",
    "circuit_breaker.trial_requests",
    "outlier_ejection.interval_ms",
    "outlier_ejection.failure_percent",
    "outlier_ejection.latency_percent",
    "outlier_ejection.requests_min",
    "outlier_ejection.ejection_ms",
    "outlier_ejection.ejection_max_ms",
    "outlier_ejection.ejected_percent_max",
    "connections.connections_max",
    "connections.pending_max",
    "connections.keep_alive_ms",
    "connections.age_max_ms",
    "rate_limit.requests_per_s",
    "rate_limit.burst",
    "request_headers",
    "response_headers",
    "rewrite.strip_prefix",
    "rewrite.add_prefix",
    "split",
    "split.version",
    "split.weight",
    "mirror.service",
    "mirror.percent",
    "mirror.body_len_max",
    "mirror.in_flight_max",
    "sticky.cookie.name",
    "sticky.cookie.max_age_s",
    "sticky.header.name",
    "zone.local_instances_min",
    "zone.spill_in_flight",
    "heartbeat_timeout_s",
    "password_hash",
    "users",
    "keep_previous",
    "secret",
    "note",
    "tokens",
    "host",
    "port",
    "base_path",
    "node",
    "checks",
    "checks.id",
    "checks.ttl_ms",
    "output",
    "key",
    "prefix",
    "value",
    "operations",
    "keys",
    "values",
    "locks",
    "lock_sessions",
    "lock_delay_ms",
    "kv_keys_max",
    "kv_len_max",
    #[cfg(feature = "next")]
    "note_of_the_cluster",
];

/// A field that a value was given for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Field {
    /// A field that the state checks: its position among the names.
    Stored(u16),
    /// A field of a request that never reaches the state. Nothing that is stored contains it.
    OfRequest(Box<str>),
}

impl Field {
    /// Its name, as clients write it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stored(at) => {
                NAMES.get(usize::from(*at)).unwrap_or(&"a field of a newer version of maxine")
            }
            Self::OfRequest(name) => name,
        }
    }

    /// Whether the field may be stored.
    pub(super) fn is_code(&self) -> bool {
        matches!(self, Self::Stored(_))
    }
}

impl From<&str> for Field {
    fn from(name: &str) -> Self {
        let at = NAMES.iter().position(|known| *known == name);
        let code = at.and_then(|at| u16::try_from(at).ok());
        code.map_or_else(|| Self::OfRequest(name.into()), Self::Stored)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_the_state_checks_is_stored_as_its_place() {
        for (at, name) in NAMES.iter().enumerate() {
            let field = Field::from(*name);
            assert_eq!(
                (&field, field.as_str()),
                (&Field::Stored(at as u16), *name),
                "each name once"
            );
        }
        assert_eq!(Field::from("limit").as_str(), "limit");
        assert!(!Field::from("limit").is_code());
    }
}
