//! Explains why an instance gets traffic, or why not.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{InstancePath, NoParams, Params};
use super::fresh::{Fresh, Freshness};
use super::instance_nodes::KnownLease;
use super::known_checks::KnownChecks;
use super::shape::{CheckView, Detail, DrainView, HealthView};
use crate::observations::{self, ProbeObservation, ProxyStatus};
use crate::problem::Problem;
use crate::{AppState, CalledBy};
use maxine_control::health::{ProbeFrom, flap_delay_ms, flap_score};
use maxine_state::{
    Expiry, InTraffic, Instance, Liveness, NoTrafficReason, ProbeSpec, Readiness, Role,
    ServiceState,
};

/// Why an instance gets traffic, or does not.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HealthWhy {
    /// The namespace.
    namespace: String,
    /// The service.
    service: String,
    /// The instance.
    id: String,
    /// Whether it gets traffic now.
    routable: bool,
    /// The reason, in one line. `verdict.since_ms` and `drain` say since when it applies.
    why: String,
    /// Result of the health checks.
    verdict: HealthView,
    /// Whether the instance never expires.
    permanent: bool,
    /// The drain of the instance; null if it is not drained.
    drain: Option<DrainView>,
    /// The checks of the instance, in the order of their ids.
    checks: Vec<CheckView>,
    /// The probe that the health checker runs. Its kind is `heartbeat` if there is none.
    probe: ProbeSpec,
    /// Where the settings of the probe come from; null if there is no probe.
    probe_from: Option<ProbeFrom>,
    /// The instance as the proxy of the answering node sees it; null if that proxy does not call the instance.
    proxy: Option<ProxyStatus>,
    /// The latest probes that the answering node made, newest first.
    observations: Vec<ProbeObservation>,
    /// The last result that each other observer reported to the leader; null if the leader did not answer, so that
    /// these results are unknown.
    reports: Option<Vec<ProbeObservation>>,
}

/// Explains why an instance gets traffic, or does not.
#[utoipa::path(
    get, path = "/api/v1/services/{namespace}/{service}/instances/{id}/health", tag = "instances",
    operation_id = "instanceHealth",
    params(("namespace" = String, Path,), ("service" = String, Path,), ("id" = String, Path,), Freshness),
    responses((status = 200, body = HealthWhy)),
)]
pub(super) async fn instance_health(
    State(state): State<AppState>,
    fresh: Fresh,
    CalledBy(caller): CalledBy,
    InstancePath(key): InstancePath,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let service = fresh.service(&key.service)?;
    let instance = service.instances.get(&key.instance);
    let instance = instance.ok_or_else(|| Problem::not_found("instance", &key.to_string()))?;
    let policy = service.policy.as_ref().map(|record| &record.policy);
    let probe = state.health().effective_probe(instance, policy);
    let probe_from = probe.as_ref().map(|probe| probe.from);
    let probe = probe.map(|probe| probe.spec).unwrap_or_default();
    let probe = if caller.has(Role::Operator) { probe } else { probe.without_secrets() };
    let drain = service.drains.get(&key.instance);
    let proxy = observations::proxy_status(&state, &key);
    let in_traffic = service.in_traffic();
    let routable = in_traffic.has(instance);
    let address_index = instance.address_index;
    let observations = observations::own(&state, &key, address_index);
    let reports = observations::of_others(&state, &key, address_index).await;
    let all = [&observations[..], reports.as_deref().unwrap_or_default()].concat();
    let known = KnownChecks::of(instance, probe_from.is_some(), Detail::of(&caller), &all);
    let held_back = proxy.as_ref().and_then(|status| status.held_back.as_ref());
    let why = match held_back.filter(|_| routable) {
        Some(held_back) => format!(
            "other callers may use it, but the proxy of this node sends it nothing: {held_back}"
        ),
        None => {
            let lease = KnownLease::ask(&state, &key, instance).await;
            let now_ms = state.clock().wall_ms();
            why(service, &in_traffic, instance, &known, lease, now_ms)
        }
    };
    Ok(fresh.json(HealthWhy {
        namespace: key.service.namespace.as_str().into(),
        service: key.service.service.as_str().into(),
        id: key.instance.as_str().into(),
        routable,
        why,
        verdict: HealthView::present(service, instance, state.clock().wall_ms()),
        permanent: instance.registration.expiry == Expiry::Never,
        checks: known.into_views(),
        drain: drain.map(|drain| DrainView::from(drain.as_ref())),
        probe,
        probe_from,
        proxy,
        observations,
        reports,
    }))
}

/// A text that says when the instance can recover at the earliest, if its health changed often. Empty if nothing delays
/// its recovery.
fn recovery(service: &ServiceState, instance: &Instance, now_ms: u64) -> String {
    let policy = service.policy.as_ref().and_then(|record| record.policy.health);
    let Some(delay_ms) = flap_delay_ms(instance.health(), policy, now_ms) else {
        return String::new();
    };
    let (score, limit) =
        (flap_score(instance.health(), policy, now_ms), policy.unwrap_or_default().flap_score_max);
    format!(
        "; its health changed often (flap score {score}, limit {limit}), so it recovers in {} s at the earliest",
        delay_ms.div_ceil(1_000)
    )
}

/// Why an instance gets traffic, or does not, in one line.
pub(super) fn why(
    service: &ServiceState,
    in_traffic: &InTraffic<'_>,
    instance: &Instance,
    known: &KnownChecks,
    lease: KnownLease,
    now_ms: u64,
) -> String {
    let drain = service.drains.get(&instance.registration.id);
    let health = &instance.verdict();
    let reason = if health.reason.is_empty() { "no reason given" } else { &health.reason };
    match (in_traffic.no_traffic_reason(instance), drain) {
        (Some(NoTrafficReason::Drained), Some(drain)) => {
            let reason = if drain.reason.is_empty() { "no reason given" } else { &drain.reason };
            return format!("drained by {}: {reason}", drain.by);
        }
        (Some(NoTrafficReason::NoShare), _) => {
            return match &instance.registration.version {
                Some(version) => format!(
                    "the policy splits the traffic between versions, and version {version} has no share"
                ),
                None => "the policy splits the traffic between versions, and the instance has no version".into(),
            };
        }
        _ => {}
    }
    let recovery = recovery(service, instance, now_ms);
    let verdict = match (health.liveness, health.readiness) {
        (Liveness::Evicted, _) => format!("evicted by its health checks: {reason}{recovery}"),
        (Liveness::Alive, Readiness::NotReady) => {
            format!("its health checks fail: {reason}{recovery}")
        }
        (Liveness::Alive, readiness) => {
            let checks = (!known.is_empty()).then(|| known.text(reason));
            alive(lease, checks.as_deref(), readiness == Readiness::Ready)
        }
    };
    if in_traffic.panic_mode() {
        let why = "the service is in panic mode: too many instances are unhealthy, so all are used";
        return format!("{why} ({verdict})");
    }
    verdict
}

/// Why an instance that no check has taken out gets traffic. `checks` is what is known of its checks; `None` if it has
/// none.
fn alive(lease: KnownLease, checks: Option<&str>, is_ready: bool) -> String {
    let beside_checks = |text: &str| match checks {
        Some(checks) => format!("{text}; {checks}"),
        None => text.to_owned(),
    };
    match (lease, checks) {
        // Checks that pass do not matter if the lease has ended, or may have.
        (KnownLease::Over { for_ms }, _) => beside_checks(&format!(
            "its time to live ended at least {} s ago, but expiry is suspended, because too many instances became silent \
             at the same time",
            for_ms / 1_000
        )),
        (KnownLease::NoLeader, _) => beside_checks(
            "this node knows no leader: without one nothing expires, and whether the instance still sends heartbeats is \
             not known",
        ),
        (KnownLease::NoAnswer, _) => beside_checks(
            "whether its lease has expired is not known, because the leader gave no answer",
        ),
        (KnownLease::Permanent | KnownLease::Runs, Some(checks)) if is_ready => checks.to_owned(),
        (KnownLease::Permanent, checks) => {
            format!("it is permanent, and {}", checks.unwrap_or("it has no checks"))
        }
        (KnownLease::Runs, Some(checks)) => format!("its lease has not expired, and {checks}"),
        (KnownLease::Runs, None) => {
            "its lease has not expired, and only the lease decides: it has no checks".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: without a leader, where nothing expires, an instance that had ended long ago had a lease that "has not
    /// expired".
    #[test]
    fn a_lease_that_nobody_judges_is_never_said_to_run() {
        let passes = Some("its health checks pass");
        for lease in [KnownLease::NoLeader, KnownLease::NoAnswer] {
            for is_ready in [true, false] {
                let bare = alive(lease, None, is_ready);
                assert!(bare.contains("not known") && !bare.contains("has not expired"), "{bare}");
                let with_checks = alive(lease, passes, is_ready);
                assert_eq!(with_checks, format!("{bare}; its health checks pass"));
            }
        }
        let runs = alive(KnownLease::Runs, None, true);
        assert!(
            runs.starts_with("its lease has not expired, and only the lease decides"),
            "{runs}"
        );
        assert_eq!(alive(KnownLease::Runs, passes, true), "its health checks pass");
        assert_eq!(
            alive(KnownLease::Permanent, None, true),
            "it is permanent, and it has no checks"
        );
        let over = alive(KnownLease::Over { for_ms: 7_900 }, passes, true);
        assert!(over.starts_with("its time to live ended at least 7 s ago"), "{over}");
    }
}
