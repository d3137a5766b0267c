//! The reports of all nodes about themselves, fetched over the connections between the nodes. So a user of one node
//! sees all nodes, and can notice two nodes that both claim to lead.
//!
//! A node answers from memory. A node that does not answer in time is shown without a report, and does not delay the
//! answer further.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{NoParams, Params};
use super::fresh::{Basis, Fresh, Freshness};
use super::page::Page;
use crate::AppState;
use crate::state::WeakState;
use maxine_actors::peer::{self, LogReport, NodeReport, NodeStatus, PeerService, To};
use maxine_store::MemberView;
use maxine_telemetry::TrafficRange;

/// Time limit for the answer of a node.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);
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

/// Answers other nodes. It holds the node's parts weakly, because they hold this value.
pub struct NodeReports(WeakState);

impl NodeReports {
    /// Creates the service for a node's state.
    pub fn new(state: &AppState) -> Self {
        Self(state.downgrade())
    }
}

impl PeerService<NodeStatus> for NodeReports {
    fn answer(&self, _: NodeStatus) -> BoxFuture<'static, Result<Box<NodeReport>, String>> {
        let state = self.0.upgrade();
        async move { report(&state.ok_or("the node is stopping")?).await.map(Box::new) }.boxed()
    }
}

async fn report(app: &AppState) -> Result<NodeReport, String> {
    let leadership = app.store().leadership_now();
    let (basis, snapshot) = Basis::present(app);
    let since_ms = app.clock().wall_ms().saturating_sub(TRAFFIC_MS);
    let telemetry = app.telemetry().clone();
    // Reading the counts may wait for the disk, because they include requests that are not yet written to the request
    // log.
    let traffic = tokio::task::spawn_blocking(move || {
        telemetry.traffic().of_node(TrafficRange::Recent, since_ms)
    });
    let traffic = traffic.await.map_err(|_| "the node is stopping")?.total;
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
    Ok(NodeReport {
        node: app.settings().instance_id.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_ms: app.clock().monotonic_ms(),
        index: snapshot.index(),
        audit_head: snapshot.has_state().then(|| super::audit::hex(&snapshot.state.audit().head())),
        staleness_ms: basis.staleness_ms(app),
        term: leadership.known_term(),
        leader: leadership.leader,
        is_leader: leadership.is_leader,
        log,
        lookups: traffic.lookups,
        proxied: traffic.proxied,
        failed: traffic.failed,
    })
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
    let own = report(&app).await;
    let Some(cluster) = app.store().cluster() else {
        return fresh.json(Page::whole(without_members(&app, own).await));
    };
    let status = cluster.status();
    let each = status.members.into_iter().map(|member| {
        let own = (member.id == status.node_id).then(|| own.clone());
        ask(&app, member, own)
    });
    fresh.json(Page::whole(join_all(each).await))
}

async fn ask(
    app: &AppState,
    member: MemberView,
    own: Option<Result<NodeReport, String>>,
) -> NodeView {
    let answer = match own {
        Some(report) => report,
        None => ask_for_report(app, To::Member(member.id)).await,
    };
    let MemberView { id, name, http_addr, .. } = member;
    view(Some(id), name, http_addr, answer)
}

async fn ask_for_report(app: &AppState, to: To) -> Result<NodeReport, String> {
    let answer = peer::call(&**app.store(), to, NodeStatus, ANSWER_TIMEOUT).await;
    answer.map(|report| *report).map_err(|error| error.to_string())
}

async fn without_members(app: &AppState, own: Result<NodeReport, String>) -> Vec<NodeView> {
    let leadership = app.store().leadership_now();
    let leader = leadership.leader.filter(|_| !leadership.is_leader);
    let name = app.settings().instance_id.clone();
    let mut views = vec![view(None, name, String::new(), own)];
    if let Some(leader) = leader {
        let answer = ask_for_report(app, To::Leader).await;
        views.push(view(None, leader, String::new(), answer));
    }
    views
}

fn view(
    id: Option<u64>,
    name: String,
    http_addr: String,
    answer: Result<NodeReport, String>,
) -> NodeView {
    let problem = answer.as_ref().err().cloned();
    NodeView { id, name, http_addr, report: answer.ok(), problem }
}
