//! What each node knows about an instance: the requests in flight to it through that node's proxy, and the results of
//! that node's probes. An operator reads the requests in flight before and after a drain.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::every_node::{self, AskedNode, OwnReport};
use super::extract::{InstancePath, NoParams, Params};
use super::fresh::{Fresh, Freshness};
use crate::AppState;
use crate::observations::{self, ProbeObservation};
use crate::problem::Problem;
use crate::stopping::Stopping;
use maxine_actors::peer::{self, InstanceReport, InstanceStatus, PROBES_MAX, ProbeReport, To};
use maxine_state::{Expiry, Instance, InstanceKey};

/// Time limit for the answer of a node.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);

/// What one node knows about an instance.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstanceAtNode {
    /// Name of the node.
    node: String,
    /// Requests in flight through this node; null if the node did not answer.
    in_flight: Option<u64>,
    /// The latest probes that the node made, newest first; null if it did not answer.
    observations: Option<Vec<ProbeObservation>>,
}

/// What all nodes know about an instance.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstanceAtNodes {
    /// Requests in flight through all nodes that answered.
    in_flight: u64,
    /// Whether every node answered.
    complete: bool,
    /// What each node knows. If the backend has no members, only this node.
    nodes: Vec<InstanceAtNode>,
}

impl OwnReport for InstanceStatus {
    async fn report(self, app: &AppState) -> Result<InstanceReport, Stopping> {
        let Self(key) = &self;
        let probe = |seen: ProbeObservation| ProbeReport {
            at_ms: seen.at_ms,
            ok: seen.ok,
            detail: seen.detail,
            latency_ms: seen.latency_ms,
        };
        let snapshot = app.view().snapshot();
        let instance = snapshot.state.instance(key);
        let probes = instance
            .map(|instance| observations::own(app, key, instance.address_index))
            .unwrap_or_default();
        let probes = probes.into_iter().take(PROBES_MAX).map(probe).collect();
        let overdue_ms = app.registry().overdue_ms(key);
        Ok(InstanceReport { in_flight: app.forwarder().in_flight(key), probes, overdue_ms })
    }
}

/// What is known of the lease of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownLease {
    /// The instance is permanent.
    Permanent,
    /// It has not expired, according to the leader.
    Runs,
    /// Its time to live has ended, and the instance is kept only because expiry is suspended.
    Over {
        /// How long ago it ended, in milliseconds.
        for_ms: u64,
    },
    /// This node knows no leader. Without one nothing expires, and nobody takes heartbeats.
    NoLeader,
    /// The leader gave no answer.
    NoAnswer,
}

impl KnownLease {
    /// What this node knows without a question to the leader.
    pub(super) fn here(app: &AppState, instance: &Instance) -> Self {
        match instance.registration.expiry {
            Expiry::Never => Self::Permanent,
            Expiry::AfterSilence { .. } if app.store().leadership_now().leader.is_none() => {
                Self::NoLeader
            }
            Expiry::AfterSilence { .. } => Self::Runs,
        }
    }

    /// Asks the leader, because only the leader knows whether a time to live has ended.
    pub(super) async fn ask(app: &AppState, key: &InstanceKey, instance: &Instance) -> Self {
        let here = Self::here(app, instance);
        if here != Self::Runs {
            return here;
        }
        let overdue_ms = if app.store().leadership_now().is_leader {
            app.registry().overdue_ms(key)
        } else {
            let question = InstanceStatus(key.clone());
            match peer::call(&**app.store(), To::Leader, question, ANSWER_TIMEOUT).await {
                Ok(answer) => answer.overdue_ms,
                Err(_) => return Self::NoAnswer,
            }
        };
        overdue_ms.map_or(Self::Runs, |for_ms| Self::Over { for_ms })
    }
}

/// The answer of a node, as the API shows it. `report` is `None` if the node did not answer.
fn at_node(node: String, report: Option<InstanceReport>) -> InstanceAtNode {
    let Some(InstanceReport { in_flight, probes, .. }) = report else {
        return InstanceAtNode { node, in_flight: None, observations: None };
    };
    let seen = |probe: ProbeReport| ProbeObservation {
        node: node.clone(),
        at_ms: probe.at_ms,
        ok: probe.ok,
        detail: probe.detail,
        latency_ms: probe.latency_ms,
        passive: false,
    };
    let observations = Some(probes.into_iter().map(seen).collect());
    InstanceAtNode { node, in_flight: Some(in_flight), observations }
}

/// Asks every node about an instance: its requests in flight and latest probes.
#[utoipa::path(
    get, path = "/api/v1/services/{namespace}/{service}/instances/{id}/nodes",
    tag = "instances", operation_id = "instanceNodes",
    params(("namespace" = String, Path,), ("service" = String, Path,), ("id" = String, Path,), Freshness),
    responses((status = 200, body = InstanceAtNodes)),
)]
pub(super) async fn instance_nodes(
    State(app): State<AppState>,
    fresh: Fresh,
    InstancePath(key): InstancePath,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let service = fresh.service(&key.service)?;
    if !service.instances.contains_key(&key.instance) {
        return Err(Problem::not_found("instance", &key.to_string()));
    }
    let question = InstanceStatus(key);
    let own = question.clone().report(&app).await;
    let own_name = &app.settings().instance_id;
    let nodes: Vec<_> = match app.store().cluster() {
        None => vec![at_node(own_name.clone(), own.ok())],
        Some(cluster) => {
            let status = cluster.status();
            let own_id = Some(status.node_id);
            let name =
                |node: AskedNode| if node.id == own_id { own_name.clone() } else { node.name };
            every_node::ask_members(&app, status, question, own, ANSWER_TIMEOUT)
                .await
                .into_iter()
                .map(|(node, report)| at_node(name(node), report))
                .collect()
        }
    };
    let in_flight = nodes.iter().filter_map(|node| node.in_flight).sum();
    let complete = nodes.iter().all(|node| node.in_flight.is_some());
    Ok(fresh.json(InstanceAtNodes { in_flight, complete, nodes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "No probes" and "the node did not answer" were the same.
    #[test]
    fn what_a_node_that_did_not_answer_has_seen_is_unknown() {
        let report = InstanceReport { in_flight: 0, probes: Vec::new(), overdue_ms: None };
        let silent = serde_json::to_value(at_node("node-2".into(), None)).unwrap();
        let none = serde_json::json!({"node": "node-2", "in_flight": null, "observations": null});
        assert_eq!(silent, none);
        let answered = serde_json::to_value(at_node("node-2".into(), Some(report))).unwrap();
        assert_eq!(answered["observations"], serde_json::json!([]));
    }
}
