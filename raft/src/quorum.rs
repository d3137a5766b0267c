//! Asks the members whether they answer, how far each is, and which members they know.
//!
//! A change of the voters is refused unless the members themselves have just shown that it is safe. What the
//! leader remembers is not sufficient: a member that is unknown or silent counts as lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::clock;
use crate::codec::{Channel, Request, Response};
use crate::config::{Member, NodeId};
use crate::consensus::{self, majority_of};
use crate::error::AdminError;
use crate::inner::Inner;
use crate::network::link::LinkError;

/// Maximum number of entries that a learner may lack to become a voter.
const PROMOTE_LAG_MAX: u64 = 1_000;
/// Time limit for the answer of one member.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Pause before a member is asked again.
const PAUSE: Duration = Duration::from_millis(50);
/// Pause before the members are asked again about an unknown node.
const STRANGER_PAUSE: Duration = Duration::from_millis(300);

/// Asks a member for the index that it has applied. The handshake has proven that it is this member, of this
/// cluster and line of history.
async fn applied_on(inner: &Inner, id: NodeId, addr: &str) -> Result<u64, String> {
    let link = inner.links.get(id, addr, Channel::App);
    match link.request(&Request::AppliedIndex, ANSWER_TIMEOUT).await {
        Ok(Response::AppliedIndex { applied }) => Ok(applied),
        Ok(other) => Err(format!("unexpected answer {other:?}")),
        Err(LinkError::Timeout) => {
            Err(format!("{addr}: no answer within {} ms", ANSWER_TIMEOUT.as_millis()))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until a learner was reached and has nearly all entries, both by its own report and by the leader's
/// comparison of the logs. Fails with the learner's position at `deadline`.
pub(crate) async fn caught_up(
    inner: &Inner,
    id: NodeId,
    addr: &str,
    deadline: Instant,
) -> Result<(), AdminError> {
    loop {
        let missing = match applied_on(inner, id, addr).await {
            Err(reason) => format!("the leader cannot connect to it: {reason}"),
            Ok(applied) => {
                let (last, lag) = inner.with_metrics(|metrics| {
                    (metrics.last_log_index.unwrap_or(0), consensus::lag(metrics, id))
                });
                match lag {
                    None => "it was reached, but has stored no entry yet".to_owned(),
                    Some(lag) if lag.max(last.saturating_sub(applied)) <= PROMOTE_LAG_MAX => {
                        return Ok(());
                    }
                    Some(_) => format!("it has applied {applied} of {last} entries"),
                }
            }
        };
        if clock::now() + PAUSE >= deadline {
            return Err(AdminError::Refused(format!(
                "node {id} was not made a voter: {missing}. The voters are the same as before"
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Fails unless a majority of the voters after the change answers now.
pub(crate) async fn majority_answers(
    inner: &Inner,
    change: &str,
    voters_after: &BTreeSet<NodeId>,
    members: &BTreeMap<NodeId, Member>,
    deadline: Instant,
) -> Result<(), AdminError> {
    let needed = majority_of(voters_after.len());
    loop {
        let others = voters_after.iter().filter(|id| **id != inner.config.node_id);
        let answers = others.map(|id| async move {
            let Some(member) = members.get(id) else {
                return Some(format!("node {id} has no address"));
            };
            let answer = applied_on(inner, *id, &member.peer_addr).await;
            answer.err().map(|reason| format!("node {id} was not reached: {reason}"))
        });
        let silent: Vec<String> = join_all(answers).await.into_iter().flatten().collect();
        let reached = voters_after.len() - silent.len();
        if reached >= needed {
            return Ok(());
        }
        if clock::now() + PAUSE >= deadline {
            return Err(AdminError::Refused(format!(
                "{change} would leave no majority: {needed} of {} voters are needed and {reached} {} ({}). The \
                 voters are the same as before",
                voters_after.len(),
                if reached == 1 { "is reachable" } else { "are reachable" },
                silent.join("; "),
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks every known member for the membership, after an unknown node has sent entries or asked for a vote.
/// Only the answers of known members count, because an unknown node cannot vouch for itself.
pub(crate) async fn ask_about_unknown_nodes(inner: &Inner) {
    let known = known_members(inner);
    let asked = known.iter().map(|(id, member)| async move {
        let link = inner.links.get(*id, &member.peer_addr, Channel::App);
        link.request(&Request::Membership, ANSWER_TIMEOUT).await
    });
    for answer in join_all(asked).await {
        if let Ok(Response::Membership { index, membership }) = answer
            && let Ok(membership) = consensus::membership_from_dto(membership)
        {
            inner.roster.record_report(index, &membership);
        }
    }
    tokio::select! {
        () = inner.lifecycle.stop.cancelled() => {}
        () = tokio::time::sleep(STRANGER_PAUSE) => {}
    }
}

/// Pings every other member. So this node knows, even without a leader, which members answer, and whether it
/// still belongs to the cluster.
pub(crate) async fn ping_members(inner: &Inner) {
    let pings = known_members(inner).into_iter().map(|(id, member)| async move {
        let link = inner.links.get(id, &member.peer_addr, Channel::App);
        // The link itself records which peers answer.
        let _ = link.request(&Request::Ping, ANSWER_TIMEOUT).await;
    });
    join_all(pings).await;
}

/// The other members, by the newest membership on this node.
fn known_members(inner: &Inner) -> Vec<(NodeId, Member)> {
    inner.with_metrics(|metrics| {
        let nodes = metrics.membership_config.nodes();
        let others = nodes.filter(|(id, _)| **id != inner.config.node_id);
        others.map(|(id, member)| (*id, member.clone())).collect()
    })
}
