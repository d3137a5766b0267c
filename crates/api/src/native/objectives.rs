//! The service level objectives and their error budgets over 30 days, summed over all nodes, with what is missing from
//! the sum.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::every_node::{self, AskedNode, OwnReport};
use super::extract::{NoParams, Params};
use super::fresh::{Fresh, Freshness};
use crate::AppState;
use crate::problem::Problem;
use crate::stopping::Stopping;
use maxine_actors::peer::{ObjectiveCounts, ObjectiveReport, ObjectivesReport};
use maxine_telemetry::{OBJECTIVE_WINDOW_MS, Objective, ObjectiveSum};

/// An hour, in milliseconds. Nodes count by the hour.
const HOUR_MS: u64 = 3_600_000;

/// A service level objective with its error budget.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct ObjectiveView {
    /// Its name.
    name: String,
    /// Its title.
    title: String,
    /// What it counts.
    about: String,
    /// The share of requests that must not fail.
    objective: f64,
    /// Requests through all nodes that answered.
    requests: u64,
    /// Failed requests among them.
    failures: u64,
    /// The share of the error budget that is left: 1 if nothing failed, 0 if it is used up, and negative beyond that;
    /// null if there were no requests.
    budget_left: Option<f64>,
}

/// What a node has counted.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct CountingNode {
    #[serde(flatten)]
    node: AskedNode,
    /// When it counted for the first time in the window, in milliseconds since 1970; null if it did not answer.
    began_ms: Option<u64>,
    /// For how long it has not counted since then, in milliseconds, because it was not running; null if it did not
    /// answer.
    missing_ms: Option<u64>,
}

/// The objectives.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ObjectivesView {
    /// Beginning of the window, in milliseconds since 1970: a whole hour 30 days ago.
    since_ms: u64,
    /// The clock of the node that answers, in milliseconds since 1970.
    now_ms: u64,
    /// The objectives.
    items: Vec<ObjectiveView>,
    /// The nodes that were asked. The sums are without those that did not answer.
    nodes: Vec<CountingNode>,
    /// Whether every node answered.
    complete: bool,
}

impl OwnReport for ObjectiveCounts {
    async fn report(self, app: &AppState) -> Result<ObjectivesReport, Stopping> {
        let counted = app.telemetry().objectives().counted(self.since_ms);
        let sums = counted.sums.into_iter().map(|(name, ObjectiveSum { requests, failures })| {
            ObjectiveReport { name, requests, failures }
        });
        let (began_ms, counted_ms) = (counted.began_ms, counted.counted_ms);
        Ok(ObjectivesReport { began_ms, counted_ms, sums: sums.collect() })
    }
}

/// Shows the service level objectives and their error budgets over the last 30 days, summed over all nodes. If the
/// backend has no members, asks only this node and the leader.
#[utoipa::path(
    get, path = "/api/v1/objectives", tag = "traffic", operation_id = "objectives",
    params(Freshness), responses((status = 200, body = ObjectivesView)),
)]
pub(super) async fn objectives(
    State(app): State<AppState>,
    fresh: Fresh,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let now_ms = app.clock().wall_ms();
    let since_ms = now_ms.saturating_sub(OBJECTIVE_WINDOW_MS) / HOUR_MS * HOUR_MS;
    let question = ObjectiveCounts { since_ms };
    let own = question.report(&app).await;
    let answers = every_node::ask(&app, question, own).await;
    let complete = answers.iter().all(|(_, report)| report.is_some());
    let items = items(
        app.telemetry().objectives().declared(),
        answers.iter().filter_map(|(_, report)| report.as_ref()),
    );
    let nodes = answers.into_iter().map(|(node, report)| counting(node, report, now_ms)).collect();
    Ok(fresh.json(ObjectivesView { since_ms, now_ms, items, nodes, complete }))
}

fn counting(node: AskedNode, report: Option<ObjectivesReport>, now_ms: u64) -> CountingNode {
    let missing = |report: &ObjectivesReport| {
        now_ms.saturating_sub(report.began_ms).saturating_sub(report.counted_ms)
    };
    CountingNode {
        node,
        began_ms: report.as_ref().map(|report| report.began_ms),
        missing_ms: report.as_ref().map(missing),
    }
}

fn items<'a>(
    declared: impl Iterator<Item = &'a Objective>,
    reports: impl Iterator<Item = &'a ObjectivesReport>,
) -> Vec<ObjectiveView> {
    let mut sums = BTreeMap::<&str, ObjectiveSum>::new();
    for report in reports.flat_map(|report| &report.sums) {
        let sum = sums.entry(&report.name).or_default();
        sum.requests += report.requests;
        sum.failures += report.failures;
    }
    let view = |objective: &Objective| {
        let sum = sums.get(&*objective.name).copied().unwrap_or_default();
        ObjectiveView {
            name: objective.name.clone(),
            title: objective.title.clone(),
            about: objective.about.clone(),
            objective: objective.objective,
            requests: sum.requests,
            failures: sum.failures,
            budget_left: budget_left(sum, objective.objective),
        }
    };
    declared.map(view).collect()
}

/// The conversions are exact far beyond any number of requests in 30 days.
fn budget_left(sum: ObjectiveSum, objective: f64) -> Option<f64> {
    let allowed = sum.requests as f64 * (1.0 - objective);
    (sum.requests > 0).then(|| 1.0 - sum.failures as f64 / allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objective(name: &str) -> Objective {
        Objective {
            name: name.into(),
            title: "Title".into(),
            about: "About".into(),
            objective: 0.99,
            failures: String::new(),
            total: String::new(),
        }
    }

    fn report(sums: &[(&str, u64, u64)]) -> ObjectivesReport {
        let sum = |(name, requests, failures): &(&str, u64, u64)| ObjectiveReport {
            name: (*name).into(),
            requests: *requests,
            failures: *failures,
        };
        ObjectivesReport {
            began_ms: 1_000,
            counted_ms: 3_000,
            sums: sums.iter().map(sum).collect(),
        }
    }

    #[test]
    fn the_budget_is_that_of_all_nodes_together() {
        let declared = [objective("calls"), objective("writes"), objective("idle")];
        // The second node is of another version, which has another objective.
        let reports = [
            report(&[("calls", 1_000, 2), ("writes", 100, 3)]),
            report(&[("calls", 3_000, 8), ("others", 7, 7)]),
        ];
        let items = items(declared.iter(), reports.iter());
        let shown: Vec<_> =
            items.iter().map(|item| (&*item.name, item.requests, item.failures)).collect();
        assert_eq!(shown, [("calls", 4_000, 10), ("writes", 100, 3), ("idle", 0, 0)]);
        let left = |at: usize| items[at].budget_left.map(|left| (left * 1_000.0).round());
        assert_eq!((left(0), left(1), left(2)), (Some(750.0), Some(-2_000.0), None));
    }

    #[test]
    fn the_time_in_which_a_node_did_not_count_is_named() {
        let node = |problem: Option<&str>| AskedNode {
            id: Some(1),
            name: "node-1".into(),
            http_addr: String::new(),
            problem: problem.map(Into::into),
        };
        let answered = counting(node(None), Some(report(&[])), 10_000);
        assert_eq!((answered.began_ms, answered.missing_ms), (Some(1_000), Some(6_000)));
        let away = counting(node(Some("unreachable")), None, 10_000);
        assert_eq!((away.began_ms, away.missing_ms), (None, None));
    }
}
