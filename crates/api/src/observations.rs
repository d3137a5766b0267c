//! What this node knows about an instance from its probes and its proxy, in the API's form.

use super::AppState;
use maxine_control::health::{ObserverReport, ProbeStatus};
use maxine_gateway::UpstreamStatus;
use maxine_state::InstanceKey;

/// The status of an instance at one node's proxy.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct ProxyStatus {
    /// Name of the node.
    pub(super) node: String,
    /// Why this node's proxy sends no requests to the instance although it is registered and healthy; null if it sends
    /// some.
    pub(super) held_back: Option<String>,
    /// Requests, connections and signals of the instance.
    #[serde(flatten)]
    pub(super) status: UpstreamStatus,
}

/// What one probe of an instance found.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct ProbeObservation {
    /// The node that probed.
    pub(super) node: String,
    /// When the probe ended, by the clock of that node, in milliseconds since 1970.
    pub(super) at_ms: u64,
    /// Whether the instance passed.
    pub(super) ok: bool,
    /// The result, in one line.
    pub(super) detail: String,
    /// Duration, in milliseconds; null if it was not measured.
    pub(super) latency_ms: Option<f64>,
    /// Whether the result comes from requests of that node's proxy instead of a probe.
    #[serde(skip)]
    pub(super) passive: bool,
}

/// The status of an instance at this node's proxy; `None` if this proxy has never called it.
pub(super) fn proxy_status(state: &AppState, key: &InstanceKey) -> Option<ProxyStatus> {
    let (status, held_back) = state.forwarder().upstream_status(key)?;
    let node = state.settings().instance_id.clone();
    Some(ProxyStatus { node, held_back: held_back.map(str::to_owned), status })
}

/// The latest probes by this node of the instance's present address, newest first. `address_index` is that of the
/// instance. Probes of an earlier address or registration are left out.
pub(super) fn own(
    state: &AppState,
    key: &InstanceKey,
    address_index: u64,
) -> Vec<ProbeObservation> {
    let track = state.health().track(key);
    let Some(track) = track.filter(|track| track.address_index == address_index) else {
        return Vec::new();
    };
    let node = &state.settings().instance_id;
    let own = track.records.iter().map(|record| ProbeObservation {
        node: node.clone(),
        at_ms: record.at_ms,
        ok: record.status == ProbeStatus::Good,
        detail: record.detail.clone(),
        latency_ms: Some(record.latency_us as f64 / 1_000.0),
        passive: false,
    });
    own.collect()
}

/// The last result that each other observer of the instance's present address reported to the leader. This node's proxy
/// counts as another observer. `None` if the leader did not answer, so that the results are unknown.
pub(super) async fn of_others(
    state: &AppState,
    key: &InstanceKey,
    address_index: u64,
) -> Option<Vec<ProbeObservation>> {
    let node = &state.settings().instance_id;
    let reports = state.health().reports(key).await?.into_iter();
    // This node knows its own probes in more detail, so their reports are left out.
    let others = reports
        .filter(|report| report.address_index == address_index)
        .filter(|report| report.passive || report.observer != *node);
    let shown = others.map(|report: ObserverReport| ProbeObservation {
        at_ms: report.last.at_ms,
        ok: report.last.ok,
        detail: match report.passive {
            true => format!("the proxy there: {}", report.last.detail),
            false => report.last.detail,
        },
        node: report.observer,
        latency_ms: None,
        passive: report.passive,
    });
    Some(shown.collect())
}
