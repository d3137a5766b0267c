//! The end of an upgrade: the state's version is raised to the newest that every voter understands.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{NoParams, OptionalJsonBody, Params};
use super::fresh::Write;
use crate::actors::state_version;
use crate::api::AppState;
use crate::api::problem::{Problem, ProblemKind};
use maxine_state::{Command, STATE_VERSION};

/// The state's versions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StateVersions {
    /// The version that the state has: what belongs to a newer one is refused.
    pub(super) current: u32,
    /// The newest version that this node understands.
    pub(super) understood: u32,
}

/// How an upgrade is finished.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FinishBody {
    /// Says that every node was upgraded. Required in redis and shared-file mode, where nodes do not know each other.
    all_nodes_upgraded: bool,
}

/// A finished upgrade.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Finished {
    /// The index of the state right after it.
    index: u64,
    /// The version that the state has now.
    state_version: u32,
    /// Whether it was raised: false if it was the newest already.
    raised: bool,
}

/// Finishes an upgrade: raises the version of the state to the newest that every voter understands. Before that, nodes
/// can go back to the older version of Maxine; afterwards an older node stops. If a voter was not upgraded or not met
/// yet, the answer is 409, names it, and nothing was changed.
#[utoipa::path(
    post, path = "/api/v1/cluster/upgrade/finish", tag = "cluster", operation_id = "finishUpgrade",
    request_body = Option<FinishBody>, responses((status = 200, body = Finished)),
)]
pub(super) async fn finish_upgrade(
    State(app): State<AppState>,
    _: Params<NoParams>,
    write: Write,
    OptionalJsonBody(body): OptionalJsonBody<FinishBody>,
) -> Result<Json<Finished>, Problem> {
    let has = app.view().snapshot().state.version();
    let voters = state_version::voters(&**app.store(), &app.settings().instance_id).await;
    let conflict = |detail: String| Problem::new(ProblemKind::Conflict, detail);
    let common = voters.common().ok_or_else(|| {
        conflict(format!("the upgrade cannot be finished: {}", voters.who_lacks(STATE_VERSION)))
    })?;
    if common < STATE_VERSION {
        let lacking = voters.who_lacks(STATE_VERSION);
        return Err(conflict(format!("the upgrade cannot be finished: {lacking}")));
    }
    if common > has && voters.may_be_others && !body.all_nodes_upgraded {
        let mut problem = conflict("this node does not know the other nodes".into());
        problem.action =
            "Upgrade every node, then say so: maxine cluster upgrade finish --all-nodes-upgraded.";
        return Err(problem);
    }
    let to = common.max(has);
    let applied = write.propose(&app, Command::RaiseStateVersion { to }).await?;
    let raised = applied.reply == maxine_state::Reply::Changed(vec![true]);
    Ok(Json(Finished { index: applied.index, state_version: to, raised }))
}
