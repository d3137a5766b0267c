//! The reports of all nodes about themselves, fetched over the connections between the nodes. So a user of one node
//! sees all nodes, and can notice two nodes that both claim to lead.
//!
//! A node answers from memory. A node that does not answer in time is shown without a report, and does not delay the
//! answer further.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::every_node::{self, AskedNode, OwnReport};
use super::extract::{NoParams, Params};
use super::fresh::{Basis, Fresh, Freshness};
use super::page::Page;
use crate::AppState;
use crate::stopping::Stopping;
use maxine_actors::peer::{LogReport, NodeReport, NodeStatus};
use maxine_telemetry::TrafficRange;

/// The period for which a node counts its traffic for a report, in milliseconds.
const TRAFFIC_MS: u64 = 60_000;

/// A node, and its report.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeView {
    /// Number of the node; null if the backend has no members.
    id: Option<u64>,
    /// Name of the node.
    name: String,
    /// URL at which clients reach the node; empty if unknown.
    http_addr: String,
    /// Report of the node; null if it did not answer.
    report: Option<NodeReport>,
    /// Why there is no report; null if there is one.
    problem: Option<String>,
}

impl OwnReport for NodeStatus {
    async fn report(self, app: &AppState) -> Result<Box<NodeReport>, Stopping> {
        let leadership = app.store().leadership_now();
        let (basis, snapshot) = Basis::present(app);
        let since_ms = app.clock().wall_ms().saturating_sub(TRAFFIC_MS);
        let traffic = app.with_telemetry(move |telemetry| {
            telemetry.traffic().of_node(TrafficRange::Recent, since_ms)
        });
        let traffic = traffic.await?.total;
        let log = app.store().cluster().map(|cluster| {
            let status = cluster.status();
            LogReport {
                role: status.role,
                last_log_index: status.last_log_index,
                committed_index: status.committed_index,
                applied_index: status.applied_index,
                last_sync_us: status.last_sync_us,
                disk_stalled: status.disk_stalled,
                log_disk_bytes: status.log_disk_bytes,
            }
        });
        Ok(Box::new(NodeReport {
            node: app.settings().instance_id.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_ms: app.clock().monotonic_ms(),
            index: snapshot.index(),
            audit_head: snapshot
                .has_state()
                .then(|| super::audit::hex(&snapshot.state.audit().head())),
            staleness_ms: basis.staleness_ms(app),
            term: leadership.known_term(),
            leader: leadership.leader,
            is_leader: leadership.is_leader,
            log,
            lookups: traffic.lookups,
            proxied: traffic.proxied,
            failed: traffic.failed,
        }))
    }
}

/// Asks every node for its report about itself and the cluster. If the backend has no members, asks only this node and
/// the leader.
#[utoipa::path(
    get, path = "/api/v1/cluster/nodes", tag = "cluster", operation_id = "clusterNodes",
    params(Freshness), responses((status = 200, body = Page<NodeView>)),
)]
pub(super) async fn nodes(
    State(app): State<AppState>,
    fresh: Fresh,
    _: Params<NoParams>,
) -> Response {
    let own = NodeStatus.report(&app).await;
    let answers = every_node::ask(&app, NodeStatus, own).await;
    fresh.json(Page::whole(answers.into_iter().map(view).collect()))
}

fn view((node, report): (AskedNode, Option<Box<NodeReport>>)) -> NodeView {
    let AskedNode { id, name, http_addr, problem } = node;
    NodeView { id, name, http_addr, report: report.map(|report| *report), problem }
}
