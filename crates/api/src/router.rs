//! The router: the routes of the compatible API, the native API and the dashboard's files.

use axum::Router;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;

use super::middleware::EdgeLayer;
use super::routes::Routes;
use super::{AppState, compat, compat_error, native, openapi, ui};

/// Builds the router of a node.
pub(super) fn build(state: AppState) -> Router {
    let routes = collect(|native| native::wrap(native, &state));
    let router = routes.router.fallback(ui::fallback);
    let router = router.layer(CatchPanicLayer::custom(compat_error::panicked));
    router.layer(EdgeLayer::new(state.clone())).with_state(state)
}

/// The OpenAPI document of the native API.
#[must_use]
pub fn document() -> OpenApi {
    native::router().into_openapi()
}

/// Collects all routes. `wrap` adds the layers of the native routes.
fn collect(wrap: impl FnOnce(Router<AppState>) -> Router<AppState>) -> Routes {
    let (native, document) = native::router().split_for_parts();
    let mut served = Vec::new();
    for (path, item) in &document.paths.paths {
        let methods = [
            ("GET", item.get.is_some()),
            ("PUT", item.put.is_some()),
            ("POST", item.post.is_some()),
            ("DELETE", item.delete.is_some()),
            ("PATCH", item.patch.is_some()),
        ];
        let present = methods.iter().filter(|(_, present)| *present);
        served.extend(present.map(|(method, _)| ((*method).to_owned(), path.clone())));
    }
    served.extend(openapi::PAGES.map(|path| ("GET".to_owned(), path.to_owned())));
    let router = wrap(native).merge(openapi::pages(document));
    let routes = Routes { router, served };
    ui::add_routes(compat::add_routes(routes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::access::rules;

    /// The router's `Debug` text contains its paths. So the test also finds a route that was added neither through
    /// [`super::Routes`] nor through the OpenAPI document.
    fn paths_of_the_router(routes: &super::Routes) -> BTreeSet<String> {
        let text = format!("{:?}", routes.router);
        // The router lists its fallback like a path.
        let quoted = text
            .split('"')
            .skip(1)
            .step_by(2)
            .filter(|text| text.starts_with('/') && !text.contains("__private__"));
        quoted
            .map(|path| if path == "/" { path } else { path.trim_end_matches('/') }.to_owned())
            .collect()
    }

    #[test]
    fn every_route_declares_its_role_and_every_rule_of_the_table_is_a_route() {
        let routes = super::collect(|native| native);
        let served: BTreeSet<(&str, &str)> =
            routes.served.iter().map(|(m, p)| (m.as_str(), p.as_str())).collect();
        let declared: BTreeSet<(&str, &str)> = rules().map(|r| (r.method, r.path)).collect();
        let undeclared: Vec<_> = served.difference(&declared).collect();
        assert!(undeclared.is_empty(), "routes that declare no role: {undeclared:?}");
        let declared_paths: BTreeSet<String> = rules().map(|r| r.path.to_owned()).collect();
        let paths = paths_of_the_router(&routes);
        assert!(paths.len() > 20, "the walk finds no routes: {paths:?}");
        let undeclared: Vec<_> = paths.difference(&declared_paths).collect();
        assert!(undeclared.is_empty(), "paths that declare no role: {undeclared:?}");
        let missing: Vec<_> = declared_paths.difference(&paths).collect();
        assert!(missing.is_empty(), "lines of the table without a route: {missing:?}");
    }
}
