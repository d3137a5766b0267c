//! Finishes an upgrade: raises the version of the state to the newest that every voter understands.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::cluster_audit::record;
use super::extract::{NamePath, NoParams, Params};
use super::fresh::Write;
use crate::AppState;
use crate::problem::{Problem, ProblemKind};
use maxine_actors::state_version;
use maxine_state::{AuditAction, Command, STATE_VERSION};
use maxine_store::StoreNode;

/// Versions of the state.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StateVersions {
    /// The version that the state has. Commands and fields of a newer version are refused. Null while this node has no
    /// state.
    pub(super) current: Option<u32>,
    /// The newest version that this node understands.
    pub(super) understood: u32,
}

/// Outcome of finishing an upgrade.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Finished {
    /// The index of the state right after the upgrade was finished.
    index: u64,
    /// The version that the state has now.
    state_version: u32,
    /// Whether the version was raised. False if it was the newest already.
    raised: bool,
}

/// Finishes an upgrade: raises the version of the state to the newest that every voter understands. Before that, nodes
/// can go back to the older version of Maxine; afterwards, a node of the older version stops. Voters are the members
/// with a vote or, in redis and shared-file mode, the nodes that have an entry in the store. If a voter was not
/// upgraded or is not known yet, the answer is 409, names it, and nothing was changed.
#[utoipa::path(
    post, path = "/api/v1/cluster/upgrade/finish", tag = "cluster", operation_id = "finishUpgrade",
    responses((status = 200, body = Finished)),
)]
pub(super) async fn finish_upgrade(
    State(app): State<AppState>,
    _: Params<NoParams>,
    write: Write,
) -> Result<Json<Finished>, Problem> {
    let has = app.view().snapshot().state.version();
    let voters = state_version::voters(&**app.store(), &app.settings().instance_id).await;
    let conflict = |detail: String| Problem::new(ProblemKind::Conflict, detail);
    let common = voters.common().ok_or_else(|| {
        conflict(format!(
            "the upgrade cannot be finished: {}",
            voters.voters_without(STATE_VERSION)
        ))
    })?;
    if common < STATE_VERSION {
        let lacking = voters.voters_without(STATE_VERSION);
        return Err(conflict(format!("the upgrade cannot be finished: {lacking}")));
    }
    let to = common.max(has);
    let applied = write.propose(&app, Command::RaiseStateVersion { to }).await?;
    let raised = applied.reply == maxine_state::Reply::Changed(vec![true]);
    Ok(Json(Finished { index: applied.index, state_version: to, raised }))
}

/// Removes the entry of a node from the store (redis and shared-file mode), so that the node no longer counts when an
/// upgrade is finished. The leader, this node, and a node that has reported within the last 10 seconds are refused with
/// 409: they run, and would have a new entry within two seconds. While nodes cannot report, because the store accepts
/// no writes, the answer is 503. The entry of a silent node is removed automatically after a day. Members of a Raft
/// cluster are removed with `DELETE /cluster/members/{id}`.
#[utoipa::path(
    delete, path = "/api/v1/cluster/nodes/{name}", tag = "cluster", operation_id = "forgetNode",
    params(("name" = String, Path,)),
    responses((status = 204)),
)]
pub(super) async fn forget_node(
    State(app): State<AppState>,
    NamePath(name): NamePath,
    _: Params<NoParams>,
    write: Write,
) -> Result<StatusCode, Problem> {
    let unavailable = |_| {
        let detail = "the list of nodes cannot be read from the store now; nothing was changed";
        Problem::new(ProblemKind::Unavailable, detail).with_retry_after_s(1)
    };
    let Some(nodes) = app.store().nodes().await.map_err(unavailable)? else {
        let detail = format!("the backend {} keeps no entries of nodes", app.store().kind());
        let mut problem = Problem::new(ProblemKind::NotSupported, detail);
        problem.action = match app.store().cluster() {
            Some(_) => {
                "Remove a member with DELETE /api/v1/cluster/members/{id} (maxine cluster remove ID)."
            }
            None => "There is nothing to forget: this node shares its state with no other.",
        };
        return Err(problem);
    };
    let own = app.settings().instance_id.as_str();
    if let Some(why) = runs(name.as_str(), own, &nodes, app.store().leadership_now().leader) {
        let mut problem = Problem::new(ProblemKind::Conflict, why);
        problem.action =
            "Stop the node first. A node that is stopped in the ordinary way leaves no entry.";
        return Err(problem);
    }
    // This node runs. If its own reports do not arrive, the silence of other nodes proves nothing.
    let own_is_silent = nodes.iter().any(|node| node.name == own && node.is_silent());
    let no_reports = app.store().refuses_writes().or_else(|| {
        own_is_silent.then(|| String::from("the reports of this node do not reach the store"))
    });
    if let Some(why) = no_reports {
        let detail = format!("it is not known which nodes run: {why}; nothing was changed");
        return Err(Problem::new(ProblemKind::Unavailable, detail).with_retry_after_s(1));
    }
    app.registry().check_change(&write.actor)?;
    let audit = app.audit().clone();
    let forget = async move {
        if !app.store().forget_node(name.as_str()).await.map_err(unavailable)? {
            return Err(Problem::not_found("node", name.as_str()));
        }
        record(&app, write, AuditAction::NodeForget, name.to_string(), None).await;
        Ok(StatusCode::NO_CONTENT)
    };
    audit.run_recorded(forget).await
}

/// Why a node must not be forgotten: it is known to run, or it holds the leader's lease. `None` if it may be forgotten.
fn runs(name: &str, own: &str, nodes: &[StoreNode], leader: Option<String>) -> Option<String> {
    if name == own {
        return Some(format!("{name} runs: it answers this request"));
    }
    if leader.as_deref() == Some(name) {
        return Some(format!(
            "{name} is the leader until its lease ends. If it has stopped, try again after that"
        ));
    }
    let node = nodes.iter().find(|node| node.name == name && !node.is_silent())?;
    Some(format!(
        "{name} runs: it reported {} ms ago. Only a node that has been silent for {} s can be forgotten",
        node.last_seen_ms,
        StoreNode::SILENT_MS / 1_000
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// During an outage of the store every entry is old, including that of the leader.
    #[test]
    fn a_node_that_is_known_to_run_is_not_forgotten_however_old_its_entry_is() {
        let node = |name: &str, last_seen_ms| StoreNode {
            name: name.into(),
            state_version: STATE_VERSION,
            last_seen_ms,
            addresses: Vec::new(),
        };
        let nodes = [node("a", 17_000), node("b", 17_000), node("c", 17_000), node("d", 900)];
        let why = |name| runs(name, "a", &nodes, Some("b".into()));
        assert_eq!(why("a").unwrap(), "a runs: it answers this request");
        assert_eq!(
            why("b").unwrap(),
            "b is the leader until its lease ends. If it has stopped, try again after that"
        );
        assert_eq!(why("c"), None);
        assert!(why("d").unwrap().starts_with("d runs: it reported 900 ms ago"));
    }
}
