//! The compatible API over a real socket: one test for each endpoint, named after it.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::field_reassign_with_default,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, reads the real clock, and has no users"
)]

mod access;
mod actuator;
mod direct;
mod fast_path;
mod one_outcome;
mod one_selection;
mod otlp;
mod peers;
mod proxying;
mod rfc9110;
mod rfc9112;
mod rfc9112_connections;
mod rfc9113;
mod rfc9113_instances;
mod services;
mod support;
mod wire;

/// The name of an endpoint's test: `/api/maxine/change-password` is `change_password`, `/logs/{file}` is `logs_file`.
fn test_name(path: &str) -> String {
    const PREFIXES: [&str; 5] = [
        "/api/maxine/serviceops/",
        "/api/maxine/control/",
        "/api/maxine/",
        "/api/actuator/",
        "/api/",
    ];
    let prefix = PREFIXES.into_iter().find(|prefix| path.starts_with(prefix)).unwrap_or("/");
    let path = path[prefix.len()..].replace("/{service}", "").replace("/{*path}", "");
    path.replace(['/', '-'], "_").replace(['{', '}'], "")
}

#[test]
fn every_endpoint_has_a_test_named_after_it() {
    let sources = [
        include_str!("access.rs"),
        include_str!("actuator.rs"),
        include_str!("proxying.rs"),
        include_str!("services.rs"),
    ]
    .concat();
    let of_this_api = |path: &&str| {
        path.starts_with("/logs/")
            || (path.starts_with("/api/")
                && !path.starts_with("/api/v1/")
                && !path.starts_with("/api/docs"))
    };
    let paths: std::collections::BTreeSet<&str> =
        maxine_api::access::rules().map(|rule| rule.path).filter(of_this_api).collect();
    assert!(paths.len() > 20, "{paths:?}");
    for path in paths {
        let test =
            format!("#[tokio::test(flavor = \"multi_thread\")]\nasync fn {}() {{", test_name(path));
        assert!(sources.contains(&test), "{path} has no test named {}", test_name(path));
    }
}
