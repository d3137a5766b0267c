//! Asks every node the same question, and says which ones did not answer.

use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;
use utoipa::ToSchema;

use crate::AppState;
use maxine_actors::peer::{self, Question, To};

/// Time limit for the answer of a node.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);

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
    own: Q::Answer,
) -> Vec<(AskedNode, Option<Q::Answer>)>
where
    Q::Answer: Clone,
{
    let Some(cluster) = app.store().cluster() else {
        return without_members(app, question, own).await;
    };
    let status = cluster.status();
    let each = status.members.into_iter().map(|member| {
        let own = (member.id == status.node_id).then(|| own.clone());
        let question = question.clone();
        async move {
            let answer = match own {
                Some(own) => Ok(own),
                None => ask_one(app, To::Member(member.id), question).await,
            };
            asked(Some(member.id), member.name, member.http_addr, answer)
        }
    });
    join_all(each).await
}

async fn without_members<Q: Question>(
    app: &AppState,
    question: Q,
    own: Q::Answer,
) -> Vec<(AskedNode, Option<Q::Answer>)> {
    let leadership = app.store().leadership_now();
    let name = app.settings().instance_id.clone();
    let mut nodes = vec![asked(None, name, String::new(), Ok(own))];
    if let Some(leader) = leadership.leader.filter(|_| !leadership.is_leader) {
        let answer = ask_one(app, To::Leader, question).await;
        nodes.push(asked(None, leader, String::new(), answer));
    }
    nodes
}

async fn ask_one<Q: Question>(app: &AppState, to: To, question: Q) -> Result<Q::Answer, String> {
    let answer = peer::call(&**app.store(), to, question, ANSWER_TIMEOUT).await;
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
