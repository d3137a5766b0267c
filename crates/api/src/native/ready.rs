//! Tells whether this node can do its work, for load balancers and for scripts that wait for a start.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::Params;
use super::fresh::Answered;
use crate::AppState;
use maxine_store::StoreKind;

/// Maximum staleness of a ready node, in milliseconds.
const READY_STALENESS_MS_MAX: u64 = 2_000;

/// What a node must be ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Scope {
    /// Reads, look-ups and proxying, from a state that was confirmed at least once since the node started. It may be
    /// older now, and there may be no leader.
    Reads,
    /// Reads that are at most two seconds old, and writes through a confirmed leader. A node that refuses changes is
    /// not ready.
    #[default]
    Writes,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// What the node must be ready for: `writes`, the default, or `reads`.
    #[serde(default)]
    scope: Scope,
}

/// What a node reports about itself to anyone, without a credential.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    /// Whether the node is ready for what `scope` says.
    ready: bool,
    /// What the node must be ready for.
    scope: Scope,
    /// Why the node is not ready; null if it is ready.
    reason: Option<String>,
    /// This node's name.
    instance: String,
    /// The leader's name, if one was confirmed within its lease.
    leader: Option<String>,
    /// Whether this node is the leader.
    is_leader: bool,
    /// The index of the state that this node serves; null while it has none.
    index: Option<u64>,
    /// How old that state can be, in milliseconds; null if that is unknown.
    staleness_ms: Option<u64>,
}

/// Tells whether this node serves reads that are at most two seconds old, knows a leader that accepts writes, and
/// accepts changes itself: with a blocking audit sink that fails, it refuses them. With `scope=reads`, it tells whether
/// the node may get reads, look-ups and proxied requests: a node that was ready for them stays so without a leader.
///
/// If it is not ready, the answer is 503 with the reason. Without `scope=reads`, reads and look-ups may still work then.
#[utoipa::path(
    get, path = "/api/v1/ready", tag = "cluster", operation_id = "ready", params(Asked),
    responses(
        (status = 200, description = "Ready", body = Ready),
        (status = 503, description = "Not ready, with the reason", body = Ready),
    ),
    security(())
)]
pub(super) async fn ready(
    State(state): State<AppState>,
    Params(Asked { scope }): Params<Asked>,
    answered: Answered,
) -> (StatusCode, Json<Ready>) {
    let leadership = state.store().leadership_now();
    let staleness_ms = state.store().staleness_ms();
    let snapshot = answered.by_present(&state);
    let fresh = staleness_ms.is_some_and(|age_ms| age_ms <= READY_STALENESS_MS_MAX);
    let lacks = state.store().lacks_acknowledged().map(|upto| {
        format!(
            "this node has an older copy of its data directory: it lacks entries up to {upto} that it \
             had acknowledged, and is being filled"
        )
    });
    // While the service under the store is silent, no lease can be confirmed and no write can be made.
    let is_led = leadership.leader.is_some();
    let silence_ms = state.store().service_silence_ms().filter(|_| !is_led || !fresh);
    let silent = silence_ms.map(|silence_ms| no_answer_for(state.store().kind(), silence_ms));
    let reason = match state.not_serving_reason().or(lacks) {
        Some(reason) => Some(reason),
        // After that, the age of what is served is in every answer.
        None if scope == Scope::Reads => staleness_ms.is_none().then(|| not_confirmed(None)),
        None if silent.is_some() => silent,
        None if !is_led => {
            let missing = without_leader(state.store().kind(), state.store().refuses_writes());
            Some(format!("no leader is confirmed: {missing}"))
        }
        // Redis can refuse writes and still renew the leader's lease.
        None if let Some(why) = state.store().refuses_writes() => {
            Some(writes_fail(state.store().kind(), &why))
        }
        None if let Some(why) = state.registry().refuses_changes() => Some(why),
        None if !fresh => Some(not_confirmed(staleness_ms)),
        None if snapshot.state.grant().is_none() => {
            Some("the leader has not taken up its duties yet".to_owned())
        }
        // Without users, nobody could sign in.
        None if snapshot.state.identities().users.is_empty() => {
            Some("the first users are not there yet".to_owned())
        }
        None => None,
    };
    let ready = reason.is_none();
    let answer = Ready {
        ready,
        scope,
        reason,
        instance: state.settings().instance_id.clone(),
        leader: leadership.leader,
        is_leader: leadership.is_leader,
        index: snapshot.index(),
        staleness_ms,
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(answer))
}

/// Why the store refuses writes. A shared storage that is full may still take small ones.
fn writes_fail(kind: StoreKind, why: &str) -> String {
    match kind {
        StoreKind::SharedFile => format!("writes may fail: {why}"),
        _ => format!("writes are not taken: {why}"),
    }
}

/// What does not work without a leader, for a store of this kind. `refuses_writes` is why the store refuses writes, if
/// it does.
pub(super) fn without_leader(kind: StoreKind, refuses_writes: Option<String>) -> String {
    match refuses_writes {
        Some(why) => writes_fail(kind, &why),
        None if kind.orders_without_leader() => String::from(
            "heartbeats and health verdicts wait for one, and nothing expires; other writes need none",
        ),
        None => String::from("writes are not taken"),
    }
}

/// The service under the store, such as Redis, does not answer this node.
pub(super) fn no_answer_for(kind: StoreKind, silence_ms: u64) -> String {
    let service = match kind {
        StoreKind::Redis => "Redis",
        _ => "the store",
    };
    format!("{service} has not answered this node for {} s", silence_ms / 1_000)
}

/// A text for a node whose state is too old. The node cannot tell whether it is behind, or whether nobody answers.
fn not_confirmed(staleness_ms: Option<u64>) -> String {
    let since = match staleness_ms {
        Some(age_ms) => format!("for {} s", age_ms / 1_000),
        None => "since this node started".to_owned(),
    };
    format!(
        "nothing has confirmed this node's state {since}: it is catching up, or the leader or the store does not answer"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With Redis and with a shared file, clients can register while there is no leader.
    #[test]
    fn the_text_says_for_each_store_what_waits_for_a_leader() {
        let refused = || Some(String::from("the store refuses writes (OOM)"));
        for kind in [StoreKind::Redis, StoreKind::SharedFile] {
            assert_eq!(
                without_leader(kind, None),
                "heartbeats and health verdicts wait for one, and nothing expires; other writes need none"
            );
        }
        let why = "writes are not taken: the store refuses writes (OOM)";
        assert_eq!(without_leader(StoreKind::Redis, refused()), why);
        let why = "writes may fail: the store refuses writes (OOM)";
        assert_eq!(without_leader(StoreKind::SharedFile, refused()), why);
        assert_eq!(without_leader(StoreKind::Raft, None), "writes are not taken");
    }
}
