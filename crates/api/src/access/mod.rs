//! The table of routes and of the roles that may use them.
//!
//! Place in the flow: the [`super::middleware::Edge`] looks up the path of the route that the router matched,
//! never the path that the client sent. A route that is not in the table is refused to everyone, and a test
//! fails for it.

mod compat;
mod native;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use axum::http::Method;
use xxhash_rust::xxh3::Xxh3Default;

use maxine_state::Role;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone.
    Open,
    /// Anyone. If the setting `registration_access` is `token`: operators and admins.
    Registration,
    /// Anyone. If the setting `discovery_access` is `token`: viewers and higher roles.
    Discovery,
    /// Viewers and higher roles.
    Viewer,
    /// Operators and admins.
    Operator,
    /// Admins.
    Admin,
}

/// Whether a kind of route requires a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessMode {
    /// No token is required.
    #[default]
    Open,
    /// A token is required.
    Token,
}

impl Access {
    /// Whether the route also works on a node that must not serve its state, because it no longer belongs to its
    /// cluster or has no state yet. `path` is the path of the request.
    #[must_use]
    pub fn is_about_the_node(self, path: &str) -> bool {
        self == Self::Open || NODE_ROUTES.iter().any(|prefix| path.starts_with(prefix))
    }

    /// The lowest role that is admitted; `None` if everyone is.
    #[must_use]
    pub fn required_role(self, registration: AccessMode, discovery: AccessMode) -> Option<Role> {
        match self {
            Self::Open => None,
            Self::Registration => (registration == AccessMode::Token).then_some(Role::Operator),
            Self::Discovery => (discovery == AccessMode::Token).then_some(Role::Viewer),
            Self::Viewer => Some(Role::Viewer),
            Self::Operator => Some(Role::Operator),
            Self::Admin => Some(Role::Admin),
        }
    }
}

/// Routes about the node itself rather than the registry. Open routes work too.
const NODE_ROUTES: [&str; 10] = [
    "/api/v1/cluster/status",
    "/api/v1/cluster/nodes",
    "/api/v1/cluster/alerts",
    "/api/v1/alerts",
    "/api/v1/traces",
    "/api/v1/log-levels",
    "/api/v1/me",
    "/api/actuator/",
    "/api/logs/",
    "/logs/",
];

/// One rule of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The method. `*` means all methods of the route. `GET` covers `HEAD`.
    pub method: &'static str,
    /// The route's path in the router, without a trailing slash.
    pub path: &'static str,
    /// Who may use the route.
    pub access: Access,
    /// Whether the route changes something although its method is `GET`. A redirect can make a browser send such a
    /// request, so the dashboard's cookie never authorizes it.
    pub changes_by_get: bool,
}

/// Creates a rule.
pub(super) const fn rule(method: &'static str, path: &'static str, access: Access) -> Rule {
    Rule { method, path, access, changes_by_get: false }
}

/// Creates a rule for a `GET` that changes something.
pub(super) const fn change_by_get(path: &'static str, access: Access) -> Rule {
    Rule { method: "GET", path, access, changes_by_get: true }
}

/// All rules.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    compat::RULES.iter().chain(native::RULES)
}

/// The result of a look-up of a matched route and a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The rule of the route.
    Route(&'static Rule),
    /// The route exists, but not with this method.
    OtherMethod,
    /// No route was matched.
    Unmatched,
    /// The router has a route without a rule. Nobody may use it.
    Undeclared,
}

/// The table, prepared for look-ups.
#[derive(Debug)]
pub struct AccessTable {
    by_path: HashMap<&'static str, Vec<&'static Rule>, BuildHasherDefault<Xxh3Default>>,
}

impl Default for AccessTable {
    fn default() -> Self {
        let mut by_path: HashMap<_, Vec<_>, _> = HashMap::default();
        for rule in rules() {
            by_path.entry(rule.path).or_default().push(rule);
        }
        Self { by_path }
    }
}

impl AccessTable {
    /// Looks up who may use a matched route.
    #[must_use]
    pub fn of_route(&self, method: &Method, matched_path: &str) -> Decision {
        let path = match matched_path.strip_suffix('/') {
            Some("") | None => matched_path,
            Some(stripped) => stripped,
        };
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        let Some(rules) = self.by_path.get(path) else { return Decision::Undeclared };
        rules
            .iter()
            .find(|rule| rule.method == method || rule.method == "*")
            .map_or(Decision::OtherMethod, |rule| Decision::Route(rule))
    }

    /// The methods of a matched route, for `Allow`.
    #[must_use]
    pub fn methods_of(&self, matched_path: &str) -> String {
        let path = matched_path.strip_suffix('/').unwrap_or(matched_path);
        let rules = self.by_path.get(path).map(Vec::as_slice).unwrap_or_default();
        let mut methods: Vec<&str> = rules.iter().map(|rule| rule.method).collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        methods.push("OPTIONS");
        methods.join(", ")
    }
}

/// Who may learn that a path has no route. A path that begins like a guarded path is guarded, too.
#[must_use]
pub fn of_unmatched(path: &str) -> Access {
    if compat::GUARDED_PREFIXES.iter().any(|prefix| path.starts_with(prefix)) {
        return Access::Viewer;
    }
    Access::Open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_is_repeated_and_no_path_ends_in_a_slash() {
        let mut lines: Vec<_> = rules().map(|r| (r.path, r.method)).collect();
        let len = lines.len();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), len);
        assert!(lines.iter().all(|(path, _)| *path == "/" || !path.ends_with('/')));
    }

    #[test]
    fn head_requires_the_same_role_as_get() {
        let table = AccessTable::default();
        let path = "/api/maxine/control/config";
        let access = |method, path| match table.of_route(&method, path) {
            Decision::Route(rule) => rule.access,
            other => panic!("{other:?}"),
        };
        assert_eq!(access(Method::HEAD, path), Access::Viewer);
        assert_eq!(access(Method::PUT, path), Access::Operator);
        assert_eq!(access(Method::GET, "/api/maxine/control/config/"), Access::Viewer);
        assert_eq!(table.of_route(&Method::DELETE, path), Decision::OtherMethod);
        assert_eq!(
            table.of_route(&Method::GET, "/api/maxine/control/CONFIG"),
            Decision::Undeclared
        );
    }
}
