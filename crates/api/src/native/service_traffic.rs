//! The calls to each service, summed over all nodes, with the nodes that are missing from the sum.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::calls;
use super::every_node::{self, AskedNode, OwnReport};
use super::extract::Params;
use super::fresh::{Fresh, Freshness};
use crate::AppState;
use crate::problem::Problem;
use crate::stopping::Stopping;
use maxine_actors::peer::{ServiceTraffic, ServiceTrafficReport};
use maxine_state::limits::check_range;
use maxine_telemetry::ServiceCalls;

/// Time that is looked back by default, in milliseconds.
const WINDOW_MS: u64 = 60_000;
/// Maximum time that is looked back, in milliseconds: what a node keeps of each service.
const WINDOW_MS_MAX: u64 = 900_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Window {
    /// How far to look back, in milliseconds; 60,000 if left out. It is rounded up to whole steps of 5 s.
    #[param(minimum = 5000, maximum = 900_000)]
    window_ms: Option<u64>,
}

/// The calls to a service through all nodes.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct ServiceCallsView {
    /// The namespace.
    namespace: String,
    /// The service.
    service: String,
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

/// The calls to each service.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ServicesTraffic {
    /// How far was looked back, in milliseconds.
    window_ms: u64,
    /// The clock of the node that answers, in milliseconds since 1970.
    now_ms: u64,
    /// The services that were called, in the order of their names. Each node counts the 500 that were called last.
    items: Vec<ServiceCallsView>,
    /// The nodes that were asked. The sums are without those that did not answer.
    nodes: Vec<AskedNode>,
    /// Whether every node answered.
    complete: bool,
}

impl OwnReport for ServiceTraffic {
    async fn report(self, app: &AppState) -> Result<Vec<ServiceTrafficReport>, Stopping> {
        let since_ms = app.clock().wall_ms().saturating_sub(self.window_ms);
        let calls =
            app.with_telemetry(move |telemetry| telemetry.traffic().of_services(since_ms)).await?;
        let reports = calls.into_iter().map(|(key, calls)| ServiceTrafficReport {
            namespace: key.namespace.as_str().into(),
            service: key.service.as_str().into(),
            calls: calls::report(calls),
        });
        Ok(reports.collect())
    }
}

/// Shows the calls to each service through all nodes. If the backend has no members, asks only this node and the leader.
#[utoipa::path(
    get, path = "/api/v1/traffic/services", tag = "traffic", operation_id = "servicesTraffic",
    params(Window, Freshness), responses((status = 200, body = ServicesTraffic)),
)]
pub(super) async fn services_traffic(
    State(app): State<AppState>,
    fresh: Fresh,
    Params(query): Params<Window>,
) -> Result<Response, Problem> {
    let window_ms = query.window_ms.unwrap_or(WINDOW_MS);
    check_range("window_ms", window_ms, 5_000, WINDOW_MS_MAX)?;
    let question = ServiceTraffic { window_ms };
    let own = question.report(&app).await?;
    let answers = every_node::ask(&app, question, Ok(own)).await;
    let complete = answers.iter().all(|(_, report)| report.is_some());
    let (nodes, reports): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
    let items = sums(reports.into_iter().flatten().flatten());
    let now_ms = app.clock().wall_ms();
    Ok(fresh.json(ServicesTraffic { window_ms, now_ms, items, nodes, complete }))
}

fn sums(reports: impl Iterator<Item = ServiceTrafficReport>) -> Vec<ServiceCallsView> {
    let mut sums = BTreeMap::<(String, String), ServiceCalls>::new();
    for report in reports {
        let ServiceTrafficReport { namespace, service, calls } = report;
        sums.entry((namespace, service)).or_default().add(&calls::counted(calls));
    }
    let view = |((namespace, service), calls): ((String, String), ServiceCalls)| ServiceCallsView {
        namespace,
        service,
        lookups: calls.lookups,
        lookups_failed: calls.lookups_failed,
        proxied: calls.proxied,
        proxied_failed: calls.proxied_failed,
        p50_us: calls.quantile_us(50),
        p95_us: calls.quantile_us(95),
        p99_us: calls.quantile_us(99),
    };
    sums.into_iter().map(view).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_actors::peer::CallsReport;

    #[test]
    fn the_calls_of_several_nodes_are_added_by_service() {
        let report = |service: &str, proxied_failed, classes: &[u32]| ServiceTrafficReport {
            namespace: "default".into(),
            service: service.into(),
            calls: CallsReport {
                lookups: 1,
                lookups_failed: 0,
                proxied: classes.iter().map(|n| u64::from(*n)).sum(),
                proxied_failed,
                classes: classes.to_vec(),
            },
        };
        // The second node is of another version, which has more classes.
        let long: Vec<u32> = (0..40).map(|class| u32::from(class == 39)).collect();
        let reports = [report("b", 2, &[2]), report("a", 0, &[]), report("b", 1, &long)];
        let items = sums(reports.into_iter());
        assert_eq!(items.iter().map(|item| &*item.service).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((items[0].lookups, items[0].proxied, items[0].p50_us), (1, 0, None));
        let b = &items[1];
        assert_eq!((b.lookups, b.proxied, b.proxied_failed), (2, 3, 3));
        assert_eq!((b.p50_us, b.p99_us), (Some(64), Some(64 << 21)));
    }
}
