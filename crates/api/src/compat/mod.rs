//! The compatible API, for clients of the first Maxine. It is equal byte for byte where they rely on it.
//!
//! `docs/reference/compatibility.md` lists the intended differences.

mod actuator;
mod actuator_open;
mod browsers;
mod config;
mod direct;
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

use super::compat_error::CompatError;
use super::routes::Routes;

pub(super) use browsers::{may_pass, strip_reserved_fields};
pub(super) use direct::{DirectForward, Relayed};
pub(super) use discover::{DISCOVER, LookUp, PLAIN_TEXT, Preferred, answer_look_up, preferred};
pub(super) use proxy::{Forward, Forwarding, forward};
pub(crate) use session::open_session;

/// The namespace of clients that do not know namespaces.
const NAMESPACE: &str = maxine_state::ServiceKey::DEFAULT_NAMESPACE;

/// Adds every route. The access table says who may use each.
pub(super) fn add_routes(routes: Routes) -> Routes {
    let clear = get(logs::clear).post(logs::clear).delete(logs::clear);
    routes
        .add(&["POST"], "/api/maxine/signin", post(session::sign_in))
        .add(&["PUT"], "/api/maxine/change-password", put(session::change_password))
        .add(&["GET", "PUT"], "/api/maxine/control/config", get(config::read).put(config::change))
        .add(&["POST"], "/api/maxine/serviceops/register", post(register::register))
        .add(&["GET"], "/api/maxine/serviceops/servers", get(servers::servers))
        .add(&["GET"], DISCOVER, get(answered_by_the_front))
        .add(&["*"], proxy::PROXY_ROUTES[0], any(answered_by_the_front))
        .add(&["*"], proxy::PROXY_ROUTES[1], any(answered_by_the_front))
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

/// Placeholder for the [`super::Front`], which takes these requests before the router sees them. The router needs the
/// routes for `OPTIONS` and for methods that the route does not have.
async fn answered_by_the_front() -> CompatError {
    CompatError::not_found()
}
