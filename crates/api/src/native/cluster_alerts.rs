//! The alerts of all nodes. Each node has its own list, so only all of them together can say that nothing is wrong.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::every_node::{self, AskedNode, OwnReport};
use super::extract::{NoParams, Params};
use super::fresh::{Fresh, Freshness};
use crate::AppState;
use crate::stopping::Stopping;
use maxine_actors::peer::{ALERTS_MAX, AlertReport, AlertsReport, NodeAlerts};
use maxine_telemetry::{Alert, AlertState, Severity};

/// An alert of one of the nodes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClusterAlert {
    /// Number of the alert on its node, from 1.
    id: u64,
    /// The node that raised it.
    node: String,
    /// When it began, in milliseconds since 1970.
    time_ms: u64,
    /// The state of the alert.
    state: AlertState,
    /// When it was resolved, in milliseconds since 1970; null before that.
    resolved_ms: Option<u64>,
    /// How urgent it is.
    severity: Severity,
    /// The kind, such as `upstream.evicted`.
    #[serde(rename = "type")]
    kind: String,
    /// The object that it concerns, such as a member's name.
    object: String,
    /// A description in one line.
    message: String,
    /// Further values, by name.
    #[schema(value_type = Object)]
    details: Map<String, Value>,
    /// The page in `docs/operations` with the instructions.
    runbook: String,
    /// The user who acknowledged it, if anyone did.
    acknowledged_by: Option<String>,
    /// Whether a silence kept it from the webhook when it was raised.
    silenced: bool,
}

/// The alerts of all nodes that answered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClusterAlerts {
    /// The newest alerts of each node, newest first. Of each node, there are at most 200, with active ones before all
    /// others.
    items: Vec<ClusterAlert>,
    /// Number of active alerts that are left out.
    left_out: u64,
    /// The nodes that were asked.
    nodes: Vec<AskedNode>,
    /// Whether every node answered. Only then does an empty list mean that there are no alerts.
    complete: bool,
}

impl OwnReport for NodeAlerts {
    async fn report(self, app: &AppState) -> Result<AlertsReport, Stopping> {
        Ok(reported(app.telemetry().alerts().newest_first()))
    }
}

/// Every active alert comes before all others, so that none is left out for one that is over.
fn reported(mut alerts: Vec<Alert>) -> AlertsReport {
    alerts.sort_by_key(|alert| alert.state != AlertState::Active);
    let left_out = alerts.iter().skip(ALERTS_MAX);
    let left_out = left_out.filter(|alert| alert.state == AlertState::Active).count() as u64;
    alerts.truncate(ALERTS_MAX);
    let alerts = alerts.into_iter().map(|alert| AlertReport {
        id: alert.id,
        time_ms: alert.time_ms,
        is_event: alert.state == AlertState::Event,
        resolved_ms: alert.resolved_ms,
        is_critical: alert.severity == Severity::Critical,
        kind: alert.kind.name().into(),
        object: alert.object,
        message: alert.message,
        details: Value::Object(alert.details).to_string(),
        runbook: alert.runbook.into(),
        acknowledged_by: alert.acknowledged_by,
        silenced: alert.silenced,
    });
    AlertsReport { alerts: alerts.collect(), left_out }
}

fn view(node: &str, alert: AlertReport) -> ClusterAlert {
    let state = match (alert.is_event, alert.resolved_ms) {
        (true, _) => AlertState::Event,
        (false, None) => AlertState::Active,
        (false, Some(_)) => AlertState::Resolved,
    };
    ClusterAlert {
        id: alert.id,
        node: node.into(),
        time_ms: alert.time_ms,
        state,
        resolved_ms: alert.resolved_ms,
        severity: if alert.is_critical { Severity::Critical } else { Severity::Warning },
        kind: alert.kind,
        object: alert.object,
        message: alert.message,
        details: serde_json::from_str(&alert.details).unwrap_or_default(),
        runbook: alert.runbook,
        acknowledged_by: alert.acknowledged_by,
        silenced: alert.silenced,
    }
}

/// Asks every node for its alerts. If the backend has no members, asks only this node and the leader.
#[utoipa::path(
    get, path = "/api/v1/cluster/alerts", tag = "alerts", operation_id = "clusterAlerts",
    params(Freshness), responses((status = 200, body = ClusterAlerts)),
)]
pub(super) async fn cluster_alerts(
    State(app): State<AppState>,
    fresh: Fresh,
    _: Params<NoParams>,
) -> Response {
    let own = NodeAlerts.report(&app).await;
    let answers = every_node::ask(&app, NodeAlerts, own).await;
    fresh.json(together(answers))
}

fn together(answers: Vec<(AskedNode, Option<AlertsReport>)>) -> ClusterAlerts {
    let complete = answers.iter().all(|(_, report)| report.is_some());
    let (mut items, mut left_out, mut nodes) = (Vec::new(), 0, Vec::new());
    for (node, report) in answers {
        let AlertsReport { alerts, left_out: more } =
            report.unwrap_or(AlertsReport { alerts: Vec::new(), left_out: 0 });
        items.extend(alerts.into_iter().map(|alert| view(&node.name, alert)));
        left_out += more;
        nodes.push(node);
    }
    items.sort_by_key(|alert| std::cmp::Reverse(alert.time_ms));
    ClusterAlerts { items, left_out, nodes, complete }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_telemetry::AlertKind;

    fn alert(id: u64, state: AlertState) -> Alert {
        Alert {
            id,
            node: "node-2".into(),
            time_ms: id,
            state,
            resolved_ms: (state == AlertState::Resolved).then_some(9),
            severity: Severity::Critical,
            stage: 0,
            kind: AlertKind::ALL[0],
            object: "o".into(),
            message: "m".into(),
            details: Map::from_iter([("n".to_owned(), Value::from(1))]),
            runbook: "r",
            acknowledged_by: None,
            silenced: false,
        }
    }

    #[test]
    fn an_active_alert_is_never_left_out_for_one_that_is_over() {
        let mut all: Vec<Alert> =
            (2..=ALERTS_MAX as u64 + 9).map(|id| alert(id, AlertState::Resolved)).collect();
        all.push(alert(1, AlertState::Active));
        let report = reported(all);
        assert_eq!((report.alerts.len(), report.alerts[0].id, report.left_out), (ALERTS_MAX, 1, 0));
        let many = (0..ALERTS_MAX as u64 + 3).map(|id| alert(id, AlertState::Active)).collect();
        assert_eq!(reported(many).left_out, 3);
    }

    #[test]
    fn a_node_that_did_not_answer_makes_the_list_incomplete() {
        let node = |name: &str, answer: Option<AlertsReport>| {
            let problem = answer.is_none().then(|| "no answer".to_owned());
            let http_addr = String::new();
            (AskedNode { id: None, name: name.into(), http_addr, problem }, answer)
        };
        let report = reported(vec![alert(1, AlertState::Active)]);
        let all =
            together(vec![node("node-1", Some(report.clone())), node("node-2", Some(report))]);
        assert!(all.complete);
        assert_eq!(all.items.len(), 2);
        assert_eq!((&*all.items[0].node, all.items[0].details.len()), ("node-1", 1));
        assert_eq!(all.items[0].state, AlertState::Active);
        let none = together(vec![node("node-1", None)]);
        assert!(!none.complete && none.items.is_empty());
    }
}
