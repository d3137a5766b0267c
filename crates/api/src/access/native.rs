//! The access rules of the native API.

use super::{Access, Rule, rule};

const INSTANCE: &str = "/api/v1/services/{namespace}/{service}/instances/{id}";
const DRAIN: &str = "/api/v1/services/{namespace}/{service}/instances/{id}/drain";
const POLICY: &str = "/api/v1/services/{namespace}/{service}/policy";
const SILENCE: &str = "/api/v1/alerts/silences/{type}";
const LOG_LEVEL: &str = "/api/v1/log-levels/{module}";

/// One rule for each route of the native API.
pub(super) const RULES: &[Rule] = &[
    // Documents. They contain nothing about the registry.
    rule("GET", "/api/v1/openapi.json", Access::Open),
    rule("GET", "/api/docs", Access::Open),
    rule("GET", "/api/docs/{*rest}", Access::Open),
    rule("GET", "/problems/{slug}", Access::Open),
    // Services and instances.
    rule("GET", "/api/v1/namespaces", Access::Viewer),
    rule("GET", "/api/v1/services", Access::Viewer),
    rule("GET", "/api/v1/services/{namespace}/{service}", Access::Viewer),
    rule("DELETE", "/api/v1/services/{namespace}/{service}", Access::Operator),
    rule("GET", "/api/v1/instances", Access::Viewer),
    rule("GET", "/api/v1/services/{namespace}/{service}/instances", Access::Discovery),
    rule("GET", INSTANCE, Access::Discovery),
    rule("PUT", INSTANCE, Access::Registration),
    rule("DELETE", INSTANCE, Access::Registration),
    rule(
        "POST",
        "/api/v1/services/{namespace}/{service}/instances/{id}/heartbeat",
        Access::Registration,
    ),
    rule(
        "PUT",
        "/api/v1/services/{namespace}/{service}/instances/{id}/checks/{check}",
        Access::Registration,
    ),
    rule("PUT", DRAIN, Access::Operator),
    rule("DELETE", DRAIN, Access::Operator),
    rule("GET", "/api/v1/services/{namespace}/{service}/instances/{id}/health", Access::Viewer),
    rule("GET", "/api/v1/services/{namespace}/{service}/instances/{id}/nodes", Access::Viewer),
    rule("POST", "/api/v1/registrations", Access::Registration),
    rule("POST", "/api/v1/heartbeats", Access::Registration),
    rule("GET", "/api/v1/resolve/{namespace}/{service}", Access::Discovery),
    rule("GET", "/api/v1/resolve/{namespace}/{service}/explain", Access::Viewer),
    rule("GET", "/api/v1/prometheus/targets", Access::Viewer),
    // Keys, locks and lock sessions. Values can be configuration of any service, so a token is always required.
    rule("GET", "/api/v1/kv", Access::Viewer),
    rule("DELETE", "/api/v1/kv", Access::Operator),
    rule("GET", "/api/v1/kv/{key}", Access::Viewer),
    rule("PUT", "/api/v1/kv/{key}", Access::Operator),
    rule("DELETE", "/api/v1/kv/{key}", Access::Operator),
    rule("POST", "/api/v1/transactions", Access::Operator),
    rule("GET", "/api/v1/sessions", Access::Viewer),
    rule("POST", "/api/v1/sessions", Access::Operator),
    rule("GET", "/api/v1/sessions/{id}", Access::Viewer),
    rule("DELETE", "/api/v1/sessions/{id}", Access::Operator),
    rule("POST", "/api/v1/sessions/{id}/renew", Access::Operator),
    rule("GET", "/api/v1/locks", Access::Viewer),
    rule("GET", "/api/v1/locks/{key}", Access::Viewer),
    rule("PUT", "/api/v1/locks/{key}", Access::Operator),
    rule("DELETE", "/api/v1/locks/{key}", Access::Operator),
    // Policies and configuration.
    rule("GET", POLICY, Access::Viewer),
    rule("PUT", POLICY, Access::Operator),
    rule("PATCH", POLICY, Access::Operator),
    rule("DELETE", POLICY, Access::Operator),
    rule("GET", "/api/v1/services/{namespace}/{service}/policy/history", Access::Viewer),
    rule("GET", "/api/v1/config", Access::Viewer),
    rule("PUT", "/api/v1/config", Access::Operator),
    rule("PATCH", "/api/v1/config", Access::Operator),
    rule("GET", "/api/v1/config/history", Access::Viewer),
    // Watches. The handlers require a viewer if more than one service is watched.
    rule("GET", "/api/v1/watch", Access::Discovery),
    rule("GET", "/api/v1/changes", Access::Discovery),
    // The cluster.
    rule("GET", "/api/v1/ready", Access::Open),
    rule("GET", "/api/v1/cluster/status", Access::Viewer),
    rule("GET", "/api/v1/cluster/digest", Access::Viewer),
    rule("GET", "/api/v1/cluster/leadership", Access::Viewer),
    rule("GET", "/api/v1/cluster/nodes", Access::Viewer),
    rule("GET", "/api/v1/cluster/alerts", Access::Viewer),
    rule("GET", "/api/v1/cluster/traffic", Access::Viewer),
    rule("DELETE", "/api/v1/cluster/nodes/{name}", Access::Admin),
    rule("POST", "/api/v1/cluster/members", Access::Admin),
    rule("POST", "/api/v1/cluster/members/{id}/promote", Access::Admin),
    rule("DELETE", "/api/v1/cluster/members/{id}", Access::Admin),
    rule("POST", "/api/v1/cluster/transfer", Access::Admin),
    rule("POST", "/api/v1/cluster/snapshot", Access::Admin),
    rule("POST", "/api/v1/cluster/upgrade/finish", Access::Admin),
    #[cfg(feature = "next")]
    rule("GET", "/api/v1/cluster/note", Access::Viewer),
    #[cfg(feature = "next")]
    rule("PUT", "/api/v1/cluster/note", Access::Operator),
    rule("POST", "/api/v1/cluster/expiry/confirm", Access::Operator),
    // A backup contains password hashes and signing keys.
    rule("GET", "/api/v1/cluster/backup", Access::Admin),
    // Records.
    rule("GET", "/api/v1/audit", Access::Viewer),
    rule("GET", "/api/v1/audit/verify", Access::Viewer),
    rule("GET", "/api/v1/audit/export", Access::Viewer),
    rule("POST", "/api/v1/audit/clock/confirm", Access::Admin),
    rule("GET", "/api/v1/alerts", Access::Viewer),
    rule("POST", "/api/v1/alerts/{id}/ack", Access::Operator),
    rule("GET", "/api/v1/alerts/silences", Access::Viewer),
    rule("PUT", SILENCE, Access::Operator),
    rule("DELETE", SILENCE, Access::Operator),
    rule("GET", "/api/v1/log-levels", Access::Viewer),
    rule("PUT", LOG_LEVEL, Access::Admin),
    rule("DELETE", LOG_LEVEL, Access::Admin),
    rule("GET", "/api/v1/traces", Access::Viewer),
    rule("GET", "/api/v1/traffic", Access::Viewer),
    rule("GET", "/api/v1/traffic/services", Access::Viewer),
    rule("GET", "/api/v1/objectives", Access::Viewer),
    // People, tokens, keys.
    rule("POST", "/api/v1/session", Access::Open),
    rule("DELETE", "/api/v1/session", Access::Open),
    // Whoever signs in has no credential yet.
    rule("GET", "/api/v1/session/providers", Access::Open),
    rule("GET", "/api/v1/session/providers/{provider}/start", Access::Open),
    rule("POST", "/api/v1/session/providers/{provider}/start", Access::Open),
    rule("GET", "/api/v1/session/providers/{provider}/callback", Access::Open),
    rule("POST", "/api/v1/session/providers/{provider}/finish", Access::Open),
    rule("GET", "/api/v1/session/providers/{provider}/sign-out", Access::Open),
    rule("POST", "/api/v1/session/providers/{provider}/device", Access::Open),
    rule("POST", "/api/v1/session/providers/{provider}/device/poll", Access::Open),
    rule("POST", "/api/v1/session/renew", Access::Viewer),
    rule("GET", "/api/v1/me", Access::Viewer),
    rule("PUT", "/api/v1/me/password", Access::Viewer),
    rule("GET", "/api/v1/users", Access::Admin),
    rule("PUT", "/api/v1/users/{name}", Access::Admin),
    rule("DELETE", "/api/v1/users/{name}", Access::Admin),
    rule("GET", "/api/v1/tokens", Access::Admin),
    rule("POST", "/api/v1/tokens", Access::Admin),
    rule("DELETE", "/api/v1/tokens/{id}", Access::Admin),
    rule("GET", "/api/v1/keys", Access::Admin),
    rule("POST", "/api/v1/keys/rotate", Access::Admin),
    rule("GET", "/api/v1/access", Access::Viewer),
];
