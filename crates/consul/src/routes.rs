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
    /// Read all services.
    Viewer,
    /// Register and deregister instances, and report their checks.
    Registration,
    /// Take an instance out of traffic.
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

/// Every route. A longer path comes before a shorter one that it begins with.
pub(crate) const ROUTES: &[Route] = &[
    route("GET", "catalog/services", Right::Viewer, Action::CatalogServices),
    route("GET", "catalog/service/", Right::Discovery, Action::CatalogService),
    route("GET", "catalog/connect/", Right::Discovery, Action::CatalogConnect),
    route("GET", "catalog/nodes", Right::Viewer, Action::CatalogNodes),
    route("GET", "catalog/node/", Right::Viewer, Action::CatalogNode),
    route("GET", "catalog/node-services/", Right::Viewer, Action::CatalogNodeServices),
    route("GET", "catalog/datacenters", Right::Open, Action::CatalogDatacenters),
    route("PUT", "catalog/register", Right::Registration, Action::CatalogRegister),
    route("PUT", "catalog/deregister", Right::Registration, Action::CatalogDeregister),
    route("GET", "health/service/", Right::Discovery, Action::HealthService),
    route("GET", "health/connect/", Right::Discovery, Action::CatalogConnect),
    route("GET", "health/checks/", Right::Discovery, Action::HealthChecks),
    route("GET", "health/node/", Right::Viewer, Action::HealthNode),
    route("GET", "health/state/", Right::Viewer, Action::HealthState),
    route("GET", "status/leader", Right::Discovery, Action::StatusLeader),
    route("GET", "status/peers", Right::Discovery, Action::StatusPeers),
    route("GET", "agent/self", Right::Discovery, Action::AgentSelf),
    route("GET", "agent/members", Right::Viewer, Action::AgentMembers),
    route("GET", "agent/services", Right::Viewer, Action::AgentServices),
    route("GET", "agent/checks", Right::Viewer, Action::AgentChecks),
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
    let matching = ROUTES.iter().find_map(|route| match route.path.strip_suffix('/') {
        None => (below == route.path).then_some((route, "")),
        Some(_) => {
            let name = below.strip_prefix(route.path).filter(|name| !name.is_empty())?;
            Some((route, name))
        }
    });
    match matching {
        Some((route, name)) if *method == route.method => Found::Route(route, decoded_path(name)),
        Some((route, _)) => Found::OtherMethod(route),
        None => Found::Unknown,
    }
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
            assert!(matches!(find(&Method::DELETE, &path), Found::OtherMethod(_)), "{path}");
        }
        for path in ["/v1/kv/a", "/v1", "/", "/v1/agent/service/", "/v1/health/service"] {
            assert!(matches!(find(&Method::GET, path), Found::Unknown), "{path}");
        }
    }
}
