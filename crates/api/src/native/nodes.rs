//! The reports of all nodes about themselves, fetched over the nodes' own connections. So a user of one node
//! sees all nodes, and would see two that both claim to lead.
//!
//! A node answers from memory. A node that does not answer in time is shown without a report, and delays
//! nobody further.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use bincode::{Decode, Encode};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{NoParams, Params};
use super::fresh::{Basis, Fresh, Freshness};
use super::page::Page;
use crate::AppState;
use crate::state::WeakState;
use maxine_actors::peer::{PeerKind, PeerService};
use maxine_store::MemberView;

/// Time limit for the answer of a node.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Maximum length of an answer, in bytes.
const ANSWER_LEN_MAX: usize = 16 * 1024;
/// The time over which a node counts its traffic for a report, in milliseconds.
const TRAFFIC_MS: u64 = 60_000;

/// The log of a node, as the node reports it.
#[derive(Clone, Debug, Encode, Decode, Serialize, ToSchema)]
pub(super) struct LogReport {
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    role: String,
    /// The number of the last log entry on it; null while it has none.
    last_log_index: Option<u64>,
    /// The last log entry that it knows to be committed; null while it knows of none.
    committed_index: Option<u64>,
    /// The last log entry that it has applied; null while that is none.
    applied_index: Option<u64>,
    /// How long its last sync took, in microseconds; null before the first sync.
    last_sync_us: Option<u64>,
    /// Whether its disk is stalled.
    disk_stalled: bool,
    /// The size of its log on disk, in bytes.
    log_disk_bytes: u64,
}

/// A node's report about itself.
#[derive(Clone, Debug, Encode, Decode, Serialize, ToSchema)]
pub(super) struct NodeReport {
    /// Its name.
    node: String,
    /// Maxine's version on it.
    version: String,
    /// How long it has been running, in milliseconds.
    uptime_ms: u64,
    /// The index of its state.
    index: u64,
    /// The newest hash of its audit log: the same on every node at an index.
    audit_head: String,
    /// How old its state can be, in milliseconds; null where it does not know.
    staleness_ms: Option<u64>,
    /// The leader, as that node knows it.
    leader: Option<String>,
    /// Whether it claims to be the leader.
    is_leader: bool,
    /// The term it is in.
    term: u64,
    /// Its log; null where the backend has none.
    log: Option<LogReport>,
    /// Callers' look-ups in the last minute.
    lookups: u64,
    /// Callers' requests that it forwarded in the last minute.
    proxied: u64,
    /// Those of both that ended in a status of 500 or more.
    failed: u64,
}

/// A node, and its answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeView {
    /// Its number; null where the backend has no members.
    id: Option<u64>,
    /// Its name.
    name: String,
    /// URL at which clients reach it; empty if unknown.
    http_addr: String,
    /// Its report; null if it did not answer.
    report: Option<NodeReport>,
    /// Why there is no report.
    problem: Option<String>,
}

/// Versions are only ever appended.
#[derive(Encode, Decode)]
enum Wire {
    V1(NodeReport),
}

fn encode(report: NodeReport) -> Result<Bytes, String> {
    let config = bincode::config::standard().with_limit::<ANSWER_LEN_MAX>();
    let bytes = bincode::encode_to_vec(Wire::V1(report), config);
    bytes.map(Bytes::from).map_err(|error| error.to_string())
}

fn decode(bytes: &[u8]) -> Result<NodeReport, String> {
    let config = bincode::config::standard().with_limit::<ANSWER_LEN_MAX>();
    let (wire, _) = bincode::decode_from_slice(bytes, config).map_err(|error| error.to_string())?;
    let Wire::V1(report) = wire;
    Ok(report)
}

/// Answers other nodes. It has only a weak reference to the node's parts, because they own it.
pub struct NodeReports(WeakState);

impl NodeReports {
    /// For a node's state.
    pub fn new(state: &AppState) -> Self {
        Self(state.downgrade())
    }
}

impl PeerService for NodeReports {
    fn answer(&self, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let state = self.0.upgrade();
        async move {
            let state = state.ok_or("the node is stopping")?;
            encode(report(&state).await?)
        }
        .boxed()
    }
}

async fn report(app: &AppState) -> Result<NodeReport, String> {
    let leadership = app.store().leadership_now();
    let (basis, snapshot) = Basis::present(app);
    let since_ms = app.clock().wall_ms().saturating_sub(TRAFFIC_MS);
    let telemetry = app.telemetry().clone();
    // It includes what the writer has not written yet, which may wait for the disk.
    let traffic = tokio::task::spawn_blocking(move || telemetry.traffic().of_node(since_ms));
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
        index: snapshot.state.index(),
        audit_head: super::audit::hex(&snapshot.state.audit().head()),
        staleness_ms: basis.staleness_ms(app),
        leader: leadership.leader,
        is_leader: leadership.is_leader,
        term: leadership.term,
        log,
        lookups: traffic.lookups,
        proxied: traffic.proxied,
        failed: traffic.failed,
    })
}

/// Asks every node what it knows and believes. If the backend has no members: this node and the
/// leader.
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
        None => {
            let message = Bytes::from_static(&[PeerKind::Report as u8]);
            let answer = app.store().call_member(member.id, message, ANSWER_TIMEOUT).await;
            answer.map_err(|error| error.to_string()).and_then(|bytes| decode(&bytes))
        }
    };
    let MemberView { id, name, http_addr, .. } = member;
    view(Some(id), name, http_addr, answer)
}

async fn without_members(app: &AppState, own: Result<NodeReport, String>) -> Vec<NodeView> {
    let leadership = app.store().leadership_now();
    let leader = leadership.leader.filter(|_| !leadership.is_leader);
    let name = app.settings().instance_id.clone();
    let mut views = vec![view(None, name, String::new(), own)];
    if let Some(leader) = leader {
        let message = Bytes::from_static(&[PeerKind::Report as u8]);
        let answer = app.store().call_leader(message, ANSWER_TIMEOUT).await;
        let answer = answer.map_err(|error| error.to_string()).and_then(|bytes| decode(&bytes));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_keeps_its_bytes() {
        let log = LogReport {
            role: "leader".into(),
            last_log_index: Some(9),
            committed_index: Some(8),
            applied_index: Some(7),
            last_sync_us: None,
            disk_stalled: false,
            log_disk_bytes: 5,
        };
        let report = NodeReport {
            node: "n".into(),
            version: "v".into(),
            uptime_ms: 1,
            index: 2,
            audit_head: "ab".into(),
            staleness_ms: Some(3),
            leader: Some("n".into()),
            is_leader: true,
            term: 4,
            log: Some(log),
            lookups: 10,
            proxied: 11,
            failed: 12,
        };
        let bytes = encode(report).unwrap();
        let expected = b"\0\x01n\x01v\x01\x02\x02ab\x01\x03\x01\x01n\x01\x04\x01\x06leader\
                         \x01\x09\x01\x08\x01\x07\0\0\x05\x0a\x0b\x0c";
        assert_eq!(&bytes[..], expected);
        assert_eq!(decode(&bytes).unwrap().log.unwrap().role, "leader");
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
