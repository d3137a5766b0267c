//! The native API under `/api/v1`.
//!
//! Place in the flow: the edge has decided access. The handlers here read from the view ([`fresh::Fresh`])
//! and write through the registry ([`fresh::Write`]). Requests are parsed strictly ([`extract`]), and errors
//! are problems ([`super::problem`]). `docs/reference/native-api.md` has the table of routes.

mod audit;
mod backup;
mod batches;
mod calls;
mod change;
mod checks;
mod cluster;
mod cluster_alerts;
mod cluster_audit;
mod cluster_traffic;
mod counts;
mod every_node;
mod explain;
mod extract;
mod fresh;
#[cfg(any(test, feature = "fuzz"))]
pub(super) mod fuzz;
mod health;
mod history_index;
mod identities;
mod instance_nodes;
mod instances;
mod known_checks;
mod kv;
mod kv_wait;
mod leadership;
mod lock_sessions;
mod log_levels;
mod merge_patch;
mod nodes;
#[cfg(feature = "next")]
mod note;
mod objectives;
mod page;
mod policies;
mod policy_history;
mod prometheus;
mod providers;
mod ready;
mod resolve;
mod rights;
mod search;
mod service_traffic;
mod services;
mod session;
mod shape;
mod telemetry;
mod upgrade;
mod watch;

pub use every_node::answer_peers;
pub(super) use fresh::add_freshness_headers;
pub(super) use fresh::{Basis, NO_STORE};
pub(super) use resolve::PlainResolve;
pub use shape::{CheckKindView, ServiceHealth};

use std::sync::Arc;

use axum::body::Body;
use axum::http::Response;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::{Problem, ProblemKind};
use super::{AppState, Caller, compat_error, openapi};
use maxine_state::limits::OPEN_PROBE_TIMEOUT_MS_MAX;
use maxine_state::{Given, ProbeKind, ProbeSpec, Registration};

/// The routes, each with its entry in the OpenAPI document.
pub fn router() -> OpenApiRouter<AppState> {
    let mut router = OpenApiRouter::with_openapi(openapi::skeleton())
        .routes(routes!(services::list_namespaces))
        .routes(routes!(services::list_services))
        .routes(routes!(services::get_service, services::delete_service))
        .routes(routes!(search::search_instances))
        .routes(routes!(instances::list_instances))
        .routes(routes!(
            instances::get_instance,
            instances::register_instance,
            instances::deregister_instance
        ))
        .routes(routes!(instances::heartbeat))
        .routes(routes!(checks::report_check))
        .routes(routes!(instances::drain_instance, instances::undrain_instance))
        .routes(routes!(health::instance_health))
        .routes(routes!(instance_nodes::instance_nodes))
        .routes(routes!(batches::register_batch))
        .routes(routes!(batches::heartbeat_batch))
        .routes(routes!(resolve::resolve))
        .routes(routes!(explain::explain_resolve))
        .routes(routes!(prometheus::list_targets))
        .routes(routes!(
            policies::get_policy,
            policies::put_policy,
            policies::patch_policy,
            policies::delete_policy
        ))
        .routes(routes!(policy_history::policy_history))
        .routes(routes!(policies::get_config, policies::put_config, policies::patch_config))
        .routes(routes!(policies::config_history))
        .routes(routes!(watch::watch))
        .routes(routes!(watch::poll_changes))
        .merge(kv_routes())
        .merge(cluster_routes())
        .merge(identity_routes())
        .merge(record_routes());
    openapi::complete(router.get_openapi_mut());
    router
}

fn kv_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(kv::list_kv, kv::delete_tree))
        .routes(routes!(kv::get_kv, kv::put_kv, kv::delete_kv))
        .routes(routes!(kv::run_transaction))
        .routes(routes!(lock_sessions::list_sessions, lock_sessions::create_session))
        .routes(routes!(lock_sessions::get_session, lock_sessions::end_session))
        .routes(routes!(lock_sessions::renew_session))
        .routes(routes!(lock_sessions::list_locks))
        .routes(routes!(
            lock_sessions::get_lock,
            lock_sessions::take_lock,
            lock_sessions::release_lock
        ))
}

fn cluster_routes() -> OpenApiRouter<AppState> {
    let router = OpenApiRouter::new();
    #[cfg(feature = "next")]
    let router = router.routes(routes!(note::get_note, note::put_note));
    router
        .routes(routes!(ready::ready))
        .routes(routes!(cluster::status))
        .routes(routes!(cluster::digest))
        .routes(routes!(leadership::leadership))
        .routes(routes!(nodes::nodes))
        .routes(routes!(cluster_alerts::cluster_alerts))
        .routes(routes!(cluster::add_member))
        .routes(routes!(cluster::promote_member))
        .routes(routes!(cluster::remove_member))
        .routes(routes!(cluster::transfer))
        .routes(routes!(cluster::snapshot))
        .routes(routes!(upgrade::finish_upgrade))
        .routes(routes!(upgrade::forget_node))
        .routes(routes!(cluster::confirm_silence))
        .routes(routes!(backup::backup))
}

fn identity_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(session::sign_in, session::sign_out))
        .routes(routes!(providers::list_providers))
        .routes(routes!(providers::begin_in_browser, providers::begin_of_program))
        .routes(routes!(providers::finish_in_browser))
        .routes(routes!(providers::finish_of_program))
        .routes(routes!(providers::sign_out_at_provider))
        .routes(routes!(providers::begin_on_device))
        .routes(routes!(providers::poll_device))
        .routes(routes!(session::renew_session))
        .routes(routes!(session::who_am_i))
        .routes(routes!(session::change_own_password))
        .routes(routes!(identities::list_users))
        .routes(routes!(identities::put_user, identities::delete_user))
        .routes(routes!(identities::list_tokens, identities::create_token))
        .routes(routes!(identities::delete_token))
        .routes(routes!(identities::list_keys))
        .routes(routes!(identities::rotate_keys))
        .routes(routes!(rights::list_access))
}

fn record_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(audit::list_audit))
        .routes(routes!(audit::verify_audit))
        .routes(routes!(audit::export_audit))
        .routes(routes!(audit::confirm_clock))
        .routes(routes!(telemetry::list_alerts))
        .routes(routes!(telemetry::acknowledge_alert))
        .routes(routes!(telemetry::list_silences))
        .routes(routes!(telemetry::silence_alerts, telemetry::unsilence_alerts))
        .routes(routes!(log_levels::list_log_levels))
        .routes(routes!(log_levels::set_log_level, log_levels::reset_log_level))
        .routes(routes!(telemetry::list_traces))
        .routes(routes!(telemetry::traffic))
        .routes(routes!(service_traffic::services_traffic))
        .routes(routes!(objectives::objectives))
        .routes(routes!(cluster_traffic::cluster_traffic))
}

/// Adds the layers that all native routes share.
pub(super) fn wrap(router: Router<AppState>, state: &AppState) -> Router<AppState> {
    router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(state.clone(), fresh::put_headers))
        .layer(Extension(Arc::new(watch::Watchers::new(state.settings().watchers))))
}

/// The answer for a handler that panicked. The panic itself is only logged.
fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response<Body> {
    compat_error::log_panic(panic.as_ref());
    Problem::new(ProblemKind::Internal, "an internal error occurred").into_response()
}

/// Refuses an instance whose address is in a network that the operator forbids.
pub(super) fn check_target(state: &AppState, registration: &Registration) -> Result<(), Problem> {
    state.forwarder().egress().check_address(&registration.address).map_err(|reason| {
        let limit = format!("in a network that may be called: {reason}");
        Problem::limit("address", &limit, Given::from(registration.address.as_str()))
    })
}

/// Minimum interval of a probe that a caller without a credential registers, in milliseconds.
const OPEN_PROBE_INTERVAL_MS_MIN: u64 = 5_000;

/// Refuses a probe that a caller without a credential may not register. Such a caller may only choose the path and the
/// times. Otherwise anyone could send arbitrary requests to any address, and see the results.
pub(super) fn check_probe(caller: &Caller, probe: Option<&ProbeSpec>) -> Result<(), Problem> {
    let Some(probe) = probe.filter(|_| caller.role.is_none()) else { return Ok(()) };
    let plain = ProbeSpec {
        kind: probe.kind.clone(),
        path: probe.path.clone(),
        interval_ms: probe.interval_ms,
        timeout_ms: probe.timeout_ms,
        rise: probe.rise,
        fall: probe.fall,
        grace_ms: probe.grace_ms,
        ..ProbeSpec::default()
    };
    if *probe == plain
        && probe.interval_ms >= OPEN_PROBE_INTERVAL_MS_MIN
        && probe.timeout_ms <= OPEN_PROBE_TIMEOUT_MS_MAX
        && matches!(probe.kind, ProbeKind::Heartbeat | ProbeKind::Http)
    {
        return Ok(());
    }
    let detail = "this check needs a token: without one, a check can only be HTTP with a path, thresholds, an interval \
                  of at least 5 s and a time limit of at most 5 s";
    Err(Problem::new(ProblemKind::Unauthorized, detail).with_field("probe"))
}
