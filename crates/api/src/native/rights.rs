//! Who may use which route, as the edge decides it. The handlers of some routes check more, such as whether a lock
//! session holds a key.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{NoParams, Params};
use super::fresh::{Fresh, Freshness};
use super::page::Page;
use crate::access::{self, Access, AccessMode};
use crate::{AppState, Caller};
use maxine_state::Role;

/// The prefix of the routes of this API.
const PREFIX: &str = "/api/v1/";
const ROLES: [Role; 3] = [Role::Viewer, Role::Operator, Role::Admin];

/// Who may use a route.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct RouteRights {
    /// The method.
    method: &'static str,
    /// The path, as in the OpenAPI document.
    path: &'static str,
    /// Whether no credential is needed.
    open: bool,
    /// The roles that may use the route.
    roles: Vec<Role>,
    /// The setting of this node that decides whether a credential is needed; null if none does.
    setting: Option<&'static str>,
}

/// Lists the routes of this API, and who may use each of them on this node. `GET` covers `HEAD`.
#[utoipa::path(
    get, path = "/api/v1/access", tag = "identities", operation_id = "listAccess",
    params(Freshness), responses((status = 200, body = Page<RouteRights>)),
)]
pub(super) async fn list_access(
    State(app): State<AppState>,
    fresh: Fresh,
    _: Params<NoParams>,
) -> Response {
    let settings = app.settings();
    fresh.json(Page::whole(rights(settings.registration_access, settings.discovery_access)))
}

fn rights(registration: AccessMode, discovery: AccessMode) -> Vec<RouteRights> {
    let rules = access::rules().filter(|rule| rule.path.starts_with(PREFIX));
    let rights = rules.map(|rule| {
        let required = rule.access.required_role(registration, discovery);
        let may = |role: &Role| {
            let caller = Caller { role: Some(*role), ..Caller::default() };
            required.is_none_or(|required| caller.has(required))
        };
        RouteRights {
            method: rule.method,
            path: rule.path,
            open: required.is_none(),
            roles: ROLES.into_iter().filter(may).collect(),
            setting: setting_of(rule.access),
        }
    });
    rights.collect()
}

/// The setting that decides whether a route with this access needs a credential.
fn setting_of(access: Access) -> Option<&'static str> {
    match access {
        Access::Registration => Some("registration_access"),
        Access::Discovery => Some("discovery_access"),
        Access::Open | Access::Viewer | Access::Operator | Access::Admin => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSTANCE: &str = "/api/v1/services/{namespace}/{service}/instances/{id}";

    fn of(rights: &[RouteRights], method: &str, path: &str) -> (bool, Vec<Role>) {
        let found = rights.iter().find(|r| r.method == method && r.path == path);
        let found = found.unwrap_or_else(|| panic!("{method} {path} is not listed"));
        (found.open, found.roles.clone())
    }

    #[test]
    fn the_rights_are_those_that_the_edge_decides_by() {
        let open = rights(AccessMode::Open, AccessMode::Open);
        let closed = rights(AccessMode::Token, AccessMode::Token);
        assert_eq!(open.len(), closed.len());
        for rights in [&open, &closed] {
            let drain = of(rights, "PUT", &format!("{INSTANCE}/drain"));
            assert_eq!(drain, (false, vec![Role::Operator, Role::Admin]));
            assert_eq!(of(rights, "GET", "/api/v1/users"), (false, vec![Role::Admin]));
            assert_eq!(of(rights, "GET", "/api/v1/me"), (false, ROLES.to_vec()));
            assert_eq!(of(rights, "POST", "/api/v1/session"), (true, ROLES.to_vec()));
        }
        // The settings decide about registration and discovery.
        assert_eq!(of(&open, "PUT", INSTANCE), (true, ROLES.to_vec()));
        assert_eq!(of(&closed, "PUT", INSTANCE), (false, vec![Role::Operator, Role::Admin]));
        assert_eq!(of(&open, "GET", INSTANCE), (true, ROLES.to_vec()));
        assert_eq!(of(&closed, "GET", INSTANCE), (false, ROLES.to_vec()));
    }
}
