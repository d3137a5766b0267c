//! Asks every node the same question, and says which ones did not answer. Answers the same questions of other nodes.

use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use serde::Serialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::state::WeakState;
use crate::stopping::Stopping;
use maxine_actors::peer::{self, PeerRouter, PeerService, Question, To};
use maxine_store::ClusterStatus;

/// Time limit for the answer of a node.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);

/// A question that each node answers from what it knows itself.
pub(super) trait OwnReport: Question {
    /// What this node answers.
    fn report(self, app: &AppState) -> impl Future<Output = Result<Self::Answer, Stopping>> + Send;
}

/// Answers other nodes. It holds the node's parts weakly, because they hold this value.
struct OwnReports(WeakState);

impl<Q: OwnReport> PeerService<Q> for OwnReports {
    fn answer(&self, question: Q) -> BoxFuture<'static, Result<Q::Answer, String>> {
        let state = self.0.upgrade();
        let answer = async move {
            let state = state?;
            question.report(&state).await
        };
        answer.map(|answer| answer.map_err(String::from)).boxed()
    }
}

/// Makes this node answer the questions of other nodes about itself.
pub fn answer_peers(state: &AppState, peers: &PeerRouter) {
    let reports = || OwnReports(state.downgrade());
    peers.node_status.set(reports());
    peers.instance_status.set(reports());
    peers.node_alerts.set(reports());
    peers.service_traffic.set(reports());
    peers.objective_counts.set(reports());
    peers.traffic_steps.set(reports());
}

/// A node that was asked.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct AskedNode {
    /// Number of the node; null if the backend has no members.
    pub(super) id: Option<u64>,
    /// Name of the node.
    pub(super) name: String,
    /// URL at which clients reach the node; empty if unknown.
    pub(super) http_addr: String,
    /// Why the node did not answer; null if it did.
    pub(super) problem: Option<String>,
}

/// Asks all members; `own` is the answer of this node. If the backend has no members, asks only the leader. The order is
/// that of the members.
pub(super) async fn ask<Q: Question + Clone>(
    app: &AppState,
    question: Q,
    own: Result<Q::Answer, Stopping>,
) -> Vec<(AskedNode, Option<Q::Answer>)>
where
    Q::Answer: Clone,
{
    match app.store().cluster() {
        Some(cluster) => ask_members(app, cluster.status(), question, own, ANSWER_TIMEOUT).await,
        None => without_members(app, question, own).await,
    }
}

/// Asks all members, and waits for each at most `time_limit`; `own` is the answer of this node. The order is that of the
/// members.
pub(super) async fn ask_members<Q: Question + Clone>(
    app: &AppState,
    status: ClusterStatus,
    question: Q,
    own: Result<Q::Answer, Stopping>,
    time_limit: Duration,
) -> Vec<(AskedNode, Option<Q::Answer>)>
where
    Q::Answer: Clone,
{
    let each = status.members.into_iter().map(|member| {
        let own = (member.id == status.node_id).then(|| own.clone());
        let question = question.clone();
        async move {
            let answer = match own {
                Some(own) => own.map_err(String::from),
                None => ask_one(app, To::Member(member.id), question, time_limit).await,
            };
            asked(Some(member.id), member.name, member.http_addr, answer)
        }
    });
    join_all(each).await
}

async fn without_members<Q: Question>(
    app: &AppState,
    question: Q,
    own: Result<Q::Answer, Stopping>,
) -> Vec<(AskedNode, Option<Q::Answer>)> {
    let leadership = app.store().leadership_now();
    let name = app.settings().instance_id.clone();
    let mut nodes = vec![asked(None, name, String::new(), own.map_err(String::from))];
    if let Some(leader) = leadership.leader.filter(|_| !leadership.is_leader) {
        let answer = ask_one(app, To::Leader, question, ANSWER_TIMEOUT).await;
        nodes.push(asked(None, leader, String::new(), answer));
    }
    nodes
}

async fn ask_one<Q: Question>(
    app: &AppState,
    to: To,
    question: Q,
    time_limit: Duration,
) -> Result<Q::Answer, String> {
    let answer = peer::call(&**app.store(), to, question, time_limit).await;
    answer.map_err(|error| error.to_string())
}

fn asked<A>(
    id: Option<u64>,
    name: String,
    http_addr: String,
    answer: Result<A, String>,
) -> (AskedNode, Option<A>) {
    let problem = answer.as_ref().err().cloned();
    (AskedNode { id, name, http_addr, problem }, answer.ok())
}
