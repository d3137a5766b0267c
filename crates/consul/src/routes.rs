//! The table of routes: what they do, and the right that each needs.

use http::Method;

use super::text::decoded_path;
use std::borrow::Cow;

/// What a caller must be allowed to do. The program maps it to the same decision that other APIs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Nothing: the answer says nothing about the registry.
    Open,
    /// Look up one service.
    Discovery,
    /// Read all services, keys and lock sessions.
    Viewer,
    /// Register and deregister instances, and report their checks.
    Registration,
    /// Take an instance out of traffic, change keys, hold locks.
    Operator,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    CatalogServices,
    CatalogService,
    CatalogNodes,
    CatalogNode,
    CatalogNodeServices,
    CatalogDatacenters,
    CatalogRegister,
    CatalogDeregister,
    CatalogConnect,
    HealthService,
    HealthChecks,
    HealthNode,
    HealthState,
    StatusLeader,
    StatusPeers,
    AgentSelf,
    AgentMembers,
    AgentServices,
    AgentService,
    AgentChecks,
    AgentHealthById,
    AgentHealthByName,
    ServiceRegister,
    ServiceDeregister,
    ServiceMaintenance,
    CheckRegister,
    CheckDeregister,
    CheckPass,
    CheckWarn,
    CheckFail,
    CheckUpdate,
    KvGet,
    KvPut,
    KvDelete,
    SessionCreate,
    SessionDestroy,
    SessionRenew,
    SessionInfo,
    SessionList,
    SessionNode,
    Txn,
}

/// A route.
#[derive(Debug)]
pub(crate) struct Route {
    /// The path below `/v1/`. If it ends with a slash, a name follows.
    pub(crate) path: &'static str,
    pub(crate) method: &'static str,
    pub(crate) right: Right,
    pub(crate) action: Action,
}

const fn route(method: &'static str, path: &'static str, right: Right, action: Action) -> Route {
    Route { path, method, right, action }
}

/// The path of keys. The name that follows may be empty: all keys begin with it.
const KV: &str = "kv/";

/// Every route. A longer path comes before a shorter one that it begins with.
pub(crate) const ROUTES: &[Route] = &[
    route("GET", "catalog/services", Right::Discovery, Action::CatalogServices),
    route("GET", "catalog/service/", Right::Discovery, Action::CatalogService),
    route("GET", "catalog/connect/", Right::Discovery, Action::CatalogConnect),
    route("GET", "catalog/nodes", Right::Discovery, Action::CatalogNodes),
    route("GET", "catalog/node/", Right::Viewer, Action::CatalogNode),
    route("GET", "catalog/node-services/", Right::Viewer, Action::CatalogNodeServices),
    route("GET", "catalog/datacenters", Right::Open, Action::CatalogDatacenters),
    route("PUT", "catalog/register", Right::Registration, Action::CatalogRegister),
    route("PUT", "catalog/deregister", Right::Registration, Action::CatalogDeregister),
    route("GET", "health/service/", Right::Discovery, Action::HealthService),
    route("GET", "health/connect/", Right::Discovery, Action::CatalogConnect),
    route("GET", "health/checks/", Right::Discovery, Action::HealthChecks),
    route("GET", "health/node/", Right::Viewer, Action::HealthNode),
    route("GET", "health/state/", Right::Discovery, Action::HealthState),
    route("GET", "status/leader", Right::Discovery, Action::StatusLeader),
    route("GET", "status/peers", Right::Discovery, Action::StatusPeers),
    route("GET", "agent/self", Right::Discovery, Action::AgentSelf),
    route("GET", "agent/members", Right::Viewer, Action::AgentMembers),
    route("GET", "agent/services", Right::Discovery, Action::AgentServices),
    route("GET", "agent/checks", Right::Discovery, Action::AgentChecks),
    route("GET", "agent/health/service/id/", Right::Discovery, Action::AgentHealthById),
    route("GET", "agent/health/service/name/", Right::Discovery, Action::AgentHealthByName),
    route("PUT", "agent/service/register", Right::Registration, Action::ServiceRegister),
    route("PUT", "agent/service/deregister/", Right::Registration, Action::ServiceDeregister),
    route("PUT", "agent/service/maintenance/", Right::Operator, Action::ServiceMaintenance),
    route("GET", "agent/service/", Right::Discovery, Action::AgentService),
    route("PUT", "agent/check/register", Right::Registration, Action::CheckRegister),
    route("PUT", "agent/check/deregister/", Right::Registration, Action::CheckDeregister),
    route("PUT", "agent/check/pass/", Right::Registration, Action::CheckPass),
    route("PUT", "agent/check/warn/", Right::Registration, Action::CheckWarn),
    route("PUT", "agent/check/fail/", Right::Registration, Action::CheckFail),
    route("PUT", "agent/check/update/", Right::Registration, Action::CheckUpdate),
    route("GET", KV, Right::Viewer, Action::KvGet),
    route("PUT", KV, Right::Operator, Action::KvPut),
    route("DELETE", KV, Right::Operator, Action::KvDelete),
    route("PUT", "session/create", Right::Operator, Action::SessionCreate),
    route("PUT", "session/destroy/", Right::Operator, Action::SessionDestroy),
    route("PUT", "session/renew/", Right::Operator, Action::SessionRenew),
    route("GET", "session/info/", Right::Viewer, Action::SessionInfo),
    route("GET", "session/list", Right::Viewer, Action::SessionList),
    route("GET", "session/node/", Right::Viewer, Action::SessionNode),
    // Its body decides whether it changes something, and the right is decided before the body is read.
    route("PUT", "txn", Right::Operator, Action::Txn),
];

/// What a path and a method ask for.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// This route, and the name in the path.
    Route(&'static Route, Cow<'a, str>),
    /// A route with another method.
    OtherMethod(&'static Route),
    /// No route.
    Unknown,
}

/// Finds the route of a request.
pub(crate) fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
    let Some(below) = path.strip_prefix("/v1/") else { return Found::Unknown };
    let mut matching = ROUTES.iter().filter_map(|route| match route.path.strip_suffix('/') {
        None => (below == route.path).then_some((route, "")),
        Some(_) => {
            let name = below.strip_prefix(route.path)?;
            (!name.is_empty() || route.path == KV).then_some((route, name))
        }
    });
    let Some((first, name)) = matching.next() else { return Found::Unknown };
    let others = matching.map(|(route, _)| route).take_while(|route| route.path == first.path);
    match std::iter::once(first).chain(others).find(|route| *method == route.method) {
        Some(route) => Found::Route(route, decoded_path(name)),
        None => Found::OtherMethod(first),
    }
}

/// The methods of the routes with this path, with commas between them.
pub(crate) fn methods_of(path: &str) -> String {
    let of_it = ROUTES.iter().filter(|route| route.path == path);
    of_it.map(|route| route.method).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_route_hides_another_one() {
        for route in ROUTES {
            let name = if route.path.ends_with('/') { "x%2Fy" } else { "" };
            let path = format!("/v1/{}{name}", route.path);
            let method = route.method.parse().unwrap();
            let Found::Route(found, name) = find(&method, &path) else { panic!("{path}") };
            assert_eq!(found.action, route.action, "{path}");
            assert!(name.is_empty() || name == "x/y", "{path}");
            assert!(matches!(find(&Method::PATCH, &path), Found::OtherMethod(_)), "{path}");
        }
        assert_eq!(methods_of(KV), "GET,PUT,DELETE");
        assert!(matches!(find(&Method::GET, "/v1/kv/"), Found::Route(_, name) if name.is_empty()));
        for path in ["/v1/kv", "/v1", "/", "/v1/agent/service/", "/v1/health/service"] {
            assert!(matches!(find(&Method::GET, path), Found::Unknown), "{path}");
        }
    }
}
