//! Collects the routes of the compatible API, the native API and the dashboard's files.

use axum::Router;
use axum::routing::MethodRouter;

use super::AppState;

/// Collects the routes for the router. It also lists them for the test that compares them with the access table.
pub(super) struct Routes {
    pub(super) router: Router<AppState>,
    /// Method and path of each route.
    pub(super) served: Vec<(String, String)>,
}

impl Routes {
    /// Adds a route for some methods, with and without a trailing slash.
    pub(super) fn add(
        mut self,
        methods: &[&str],
        path: &str,
        handlers: MethodRouter<AppState>,
    ) -> Self {
        self.served.extend(methods.iter().map(|method| ((*method).to_owned(), path.to_owned())));
        if !path.ends_with('/') && !path.ends_with('}') || path.ends_with("{service}") {
            self.router = self.router.route(&format!("{path}/"), handlers.clone());
        }
        self.router = self.router.route(path, handlers);
        self
    }
}
