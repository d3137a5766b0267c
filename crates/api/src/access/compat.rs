//! The access rules of the compatible API, and of the pages that a browser loads.

use super::{Access, Rule, change_by_get, rule};

/// One rule for each route of the compatible API.
pub(super) const RULES: &[Rule] = &[
    rule("POST", "/api/maxine/signin", Access::Open),
    rule("PUT", "/api/maxine/change-password", Access::Admin),
    rule("GET", "/api/maxine/control/config", Access::Viewer),
    rule("PUT", "/api/maxine/control/config", Access::Operator),
    rule("POST", "/api/maxine/serviceops/register", Access::Registration),
    rule("GET", "/api/maxine/serviceops/servers", Access::Viewer),
    rule("GET", "/api/maxine/serviceops/discover", Access::Discovery),
    rule("*", "/api/maxine/serviceops/proxy/{service}", Access::Discovery),
    rule("*", "/api/maxine/serviceops/proxy/{service}/{*path}", Access::Discovery),
    rule("GET", "/api/actuator/health", Access::Open),
    rule("GET", "/api/actuator/info", Access::Open),
    rule("GET", "/api/actuator/metrics", Access::Open),
    rule("GET", "/api/actuator/performance", Access::Open),
    rule("GET", "/api/actuator/status", Access::Open),
    rule("GET", "/api/actuator/audit", Access::Viewer),
    rule("GET", "/api/actuator/alerts", Access::Viewer),
    rule("GET", "/api/actuator/cluster", Access::Viewer),
    rule("GET", "/api/actuator/traces", Access::Viewer),
    rule("GET", "/api/actuator/upstreams", Access::Viewer),
    rule("GET", "/api/actuator/prometheus", Access::Viewer),
    rule("GET", "/api/logs/recent", Access::Viewer),
    rule("GET", "/api/logs/download", Access::Viewer),
    change_by_get("/api/logs/recent/clear", Access::Operator),
    rule("POST", "/api/logs/recent/clear", Access::Operator),
    rule("DELETE", "/api/logs/recent/clear", Access::Operator),
    rule("GET", "/logs/{file}", Access::Viewer),
    rule("GET", "/", Access::Open),
    rule("GET", "/ui/{*path}", Access::Open),
    rule("GET", "/assets/{*path}", Access::Open),
];

/// Paths below which even a missing route requires a token.
pub(super) const GUARDED_PREFIXES: &[&str] = &[
    "/api/maxine/verifyToken",
    "/api/maxine/change-password",
    "/api/maxine/control/config",
    "/api/maxine/serviceops/servers",
    "/api/actuator/audit",
    "/api/actuator/alerts",
    "/api/actuator/cluster",
    "/api/actuator/traces",
    "/api/actuator/upstreams",
    "/api/actuator/prometheus",
    "/api/logs/",
    "/logs/",
];
