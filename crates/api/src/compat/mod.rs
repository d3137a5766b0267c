//! The compatible API: what clients of the first Maxine rely on, byte for byte where they do.
//!
//! Where this server differs on purpose, `docs/reference/compatibility.md` says so.

mod actuator;
mod actuator_open;
mod browsers;
mod config;
mod discover;
#[cfg(any(test, feature = "fuzz"))]
pub(super) mod fuzz;
mod json;
mod logs;
mod proxy;
mod register;
mod registration;
mod servers;
mod session;
mod time;

use axum::routing::{any, get, post, put};

use super::routes::Routes;

pub(super) use browsers::keep_own;
pub(super) use discover::{
    Asked, DISCOVER, PLAIN_TEXT, Preferred, discover_at_once, find, preferred,
};
pub(super) use proxy::{forward_to_instance, forwards_options, proxied_route};
pub use session::account_sign_in;

/// The namespace of clients that know none.
const NAMESPACE: &str = maxine_state::ServiceKey::DEFAULT_NAMESPACE;

/// Adds every route; who may use each is in the access table.
pub(super) fn add_routes(routes: Routes) -> Routes {
    let clear = get(logs::clear).post(logs::clear).delete(logs::clear);
    routes
        .add(&["POST"], "/api/maxine/signin", post(session::sign_in))
        .add(&["PUT"], "/api/maxine/change-password", put(session::change_password))
        .add(&["GET", "PUT"], "/api/maxine/control/config", get(config::read).put(config::change))
        .add(&["POST"], "/api/maxine/serviceops/register", post(register::register))
        .add(&["GET"], "/api/maxine/serviceops/servers", get(servers::servers))
        .add(&["GET"], DISCOVER, get(discover::discover))
        .add(&["*"], "/api/maxine/serviceops/proxy/{service}", any(proxy::proxy))
        .add(&["*"], "/api/maxine/serviceops/proxy/{service}/{*path}", any(proxy::proxy))
        .add(&["GET"], "/api/actuator/health", get(actuator_open::health))
        .add(&["GET"], "/api/actuator/info", get(actuator_open::info))
        .add(&["GET"], "/api/actuator/metrics", get(actuator_open::metrics))
        .add(&["GET"], "/api/actuator/performance", get(actuator_open::performance))
        .add(&["GET"], "/api/actuator/status", get(actuator_open::status))
        .add(&["GET"], "/api/actuator/audit", get(actuator::audit))
        .add(&["GET"], "/api/actuator/alerts", get(actuator::alerts))
        .add(&["GET"], "/api/actuator/cluster", get(actuator::cluster))
        .add(&["GET"], "/api/actuator/traces", get(actuator::traces))
        .add(&["GET"], "/api/actuator/upstreams", get(actuator::upstreams))
        .add(&["GET"], "/api/actuator/prometheus", get(actuator::prometheus))
        .add(&["GET"], "/api/logs/recent", get(logs::recent))
        .add(&["GET"], "/api/logs/download", get(logs::download))
        .add(&["GET", "POST", "DELETE"], "/api/logs/recent/clear", clear)
        .add(&["GET"], "/logs/{file}", get(logs::file))
}
