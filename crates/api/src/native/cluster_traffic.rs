//! The traffic in steps, summed over all nodes, with the nodes that are missing from the sum.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::calls;
use super::every_node::{self, AskedNode, OwnReport};
use super::extract::Params;
use super::fresh::{Fresh, Freshness};
use super::telemetry::TrafficQuery;
use crate::AppState;
use crate::problem::Problem;
use crate::stopping::Stopping;
use maxine_actors::peer::{TrafficStepReport, TrafficSteps};
use maxine_telemetry::{StepCounts, TrafficRange};

/// The traffic in one step through all nodes that answered.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct ClusterTrafficStep {
    /// When the step began, in milliseconds since 1970. It lasts `step_ms`.
    at_ms: u64,
    /// Requests of all kinds.
    requests: u64,
    /// Registrations and heartbeats. A batch counts as one.
    registrations: u64,
    /// Callers' look-ups: redirects and resolves.
    lookups: u64,
    /// Look-ups that ended with a status of 500 or more.
    lookups_failed: u64,
    /// Callers' requests that were forwarded.
    proxied: u64,
    /// Forwarded requests that ended with a status of 500 or more.
    proxied_failed: u64,
    /// p50 of the time until the head of the answer of a forwarded request, in microseconds, rounded up to a power of
    /// two; null if there were none.
    p50_us: Option<u64>,
    /// p95 of the same.
    p95_us: Option<u64>,
    /// p99 of the same.
    p99_us: Option<u64>,
}

impl From<&StepCounts> for ClusterTrafficStep {
    fn from(StepCounts { at_ms, requests, registrations, calls }: &StepCounts) -> Self {
        Self {
            at_ms: *at_ms,
            requests: *requests,
            registrations: *registrations,
            lookups: calls.lookups,
            lookups_failed: calls.lookups_failed,
            proxied: calls.proxied,
            proxied_failed: calls.proxied_failed,
            p50_us: calls.quantile_us(50),
            p95_us: calls.quantile_us(95),
            p99_us: calls.quantile_us(99),
        }
    }
}

/// The traffic through all nodes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClusterTraffic {
    /// Length of a step, in milliseconds.
    step_ms: u64,
    /// The clock of the node that answers, in milliseconds since 1970. The step that contains this time is not complete.
    now_ms: u64,
    /// The steps, oldest first. Steps without traffic are left out. Each node counts since it was started.
    items: Vec<ClusterTrafficStep>,
    /// The sum of all these steps.
    total: ClusterTrafficStep,
    /// The nodes that were asked. The sums are without those that did not answer.
    nodes: Vec<AskedNode>,
    /// Whether every node answered.
    complete: bool,
}

impl OwnReport for TrafficSteps {
    async fn report(self, app: &AppState) -> Result<Vec<TrafficStepReport>, Stopping> {
        let Self { service, is_day, since_ms } = self;
        let range = if is_day { TrafficRange::Day } else { TrafficRange::Recent };
        let steps = app.with_telemetry(move |telemetry| {
            telemetry.traffic().counts(service.as_ref(), range, since_ms)
        });
        let reports = steps.await?.into_iter().map(|step| TrafficStepReport {
            at_ms: step.at_ms,
            requests: step.requests,
            registrations: step.registrations,
            calls: calls::report(step.calls),
        });
        Ok(reports.collect())
    }
}

/// Shows the traffic through all nodes: all traffic of the last hour, or the traffic of one service in the last quarter
/// of an hour, or of the last 24 hours in longer steps. If the backend has no members, asks only this node and the
/// leader.
#[utoipa::path(
    get, path = "/api/v1/cluster/traffic", tag = "traffic", operation_id = "clusterTraffic",
    params(TrafficQuery, Freshness), responses((status = 200, body = ClusterTraffic)),
)]
pub(super) async fn cluster_traffic(
    State(app): State<AppState>,
    fresh: Fresh,
    Params(query): Params<TrafficQuery>,
) -> Result<Response, Problem> {
    let now_ms = app.clock().wall_ms();
    let (question, extent) = query.question(now_ms)?;
    let since_ms = question.since_ms;
    let own = question.clone().report(&app).await?;
    let answers = every_node::ask(&app, question, Ok(own)).await;
    let complete = answers.iter().all(|(_, report)| report.is_some());
    let (nodes, reports): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
    let steps = sums(reports.into_iter().flatten().flatten());
    let mut total = StepCounts { at_ms: since_ms, ..StepCounts::default() };
    if let Some(first) = steps.first() {
        total.at_ms = first.at_ms;
    }
    steps.iter().for_each(|step| total.add(step));
    let items = steps.iter().map(ClusterTrafficStep::from).collect();
    let (step_ms, total) = (extent.step_ms, ClusterTrafficStep::from(&total));
    Ok(fresh.json(ClusterTraffic { step_ms, now_ms, items, total, nodes, complete }))
}

/// Adds the steps that began at the same time, and puts them in order.
fn sums(reports: impl Iterator<Item = TrafficStepReport>) -> Vec<StepCounts> {
    let mut sums = BTreeMap::<u64, StepCounts>::new();
    for report in reports {
        let at_ms = report.at_ms;
        let step = StepCounts {
            at_ms,
            requests: report.requests,
            registrations: report.registrations,
            calls: calls::counted(report.calls),
        };
        sums.entry(at_ms)
            .or_insert_with(|| StepCounts { at_ms, ..StepCounts::default() })
            .add(&step);
    }
    sums.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_actors::peer::CallsReport;

    #[test]
    fn the_steps_of_several_nodes_are_added_by_time() {
        let report = |at_ms, proxied_failed, classes: &[u32]| TrafficStepReport {
            at_ms,
            requests: 9,
            registrations: 2,
            calls: CallsReport {
                lookups: 3,
                lookups_failed: 1,
                proxied: classes.iter().map(|n| u64::from(*n)).sum(),
                proxied_failed,
                classes: classes.to_vec(),
            },
        };
        // Each node has a step that the other does not have. The second is of another version, which has more classes.
        let long: Vec<u32> = (0..40).map(|class| u32::from(class == 39)).collect();
        let reports = [
            report(5_000, 1, &[2]),
            report(10_000, 0, &[]),
            report(0, 0, &[]),
            report(5_000, 1, &long),
        ];
        let steps = sums(reports.into_iter());
        let times: Vec<u64> = steps.iter().map(|step| step.at_ms).collect();
        assert_eq!(times, [0, 5_000, 10_000]);
        let both = ClusterTrafficStep::from(&steps[1]);
        assert_eq!((both.at_ms, both.requests, both.registrations), (5_000, 18, 4));
        assert_eq!((both.lookups, both.lookups_failed), (6, 2));
        assert_eq!((both.proxied, both.proxied_failed), (3, 2));
        assert_eq!((both.p50_us, both.p99_us), (Some(64), Some(64 << 21)));
        assert_eq!(ClusterTrafficStep::from(&steps[2]).p95_us, None);
    }
}
