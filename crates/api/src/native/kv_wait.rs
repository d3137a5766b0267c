//! Waits of reads for a change of keys or lock sessions.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRef;

use super::fresh::Fresh;
use super::history_index::HistoryIndex;
use super::watch::{Watchers, may_not_go_on};
use crate::lists::Lists;
use crate::problem::{Problem, ProblemKind};
use crate::stopping::Stopping;
use crate::{AppState, Caller};
use maxine_state::limits::check_range;
use maxine_view::KvScope;

/// How long a read waits if it does not say so, in milliseconds.
const WAIT_MS_DEFAULT: u64 = 30_000;
/// Maximum wait, in milliseconds.
const WAIT_MS_MAX: u64 = 60_000;
/// After this time, a waiting read checks whether its credential is still valid, in milliseconds.
const PART_MS: u64 = 10_000;

/// What a read waits for.
pub(super) struct Wait {
    /// A change after this index; `None` for an answer at once.
    pub(super) index: Option<HistoryIndex>,
    /// For how long, in milliseconds.
    pub(super) wait_ms: Option<u64>,
}

/// Waits until the index of `scope` is above the asked one, or until the time is over. `fresh` has the state of that
/// moment then.
pub(super) async fn wait(
    state: &AppState,
    watchers: &Watchers,
    caller: &Caller,
    client: IpAddr,
    fresh: &mut Fresh,
    scope: &KvScope,
    asked: Wait,
) -> Result<(), Problem> {
    let wait_ms = asked.wait_ms.unwrap_or(WAIT_MS_DEFAULT);
    check_range("wait_ms", wait_ms, 0, WAIT_MS_MAX)?;
    let Some(after) = asked.index else { return Ok(()) };
    let history = fresh.state().history();
    if !after.is_in(history) {
        let detail = after.has_ended(history);
        return Err(Problem::new(ProblemKind::Compacted, detail).with_field("index"));
    }
    let (_place, leave) = watchers.admit(caller, client)?;
    let mut reader = state.view().kv_reader(scope);
    if !reader.has_index() {
        // This reads all keys with the prefix. Later readers of the same prefix use the result.
        let lists = Arc::<Lists>::from_ref(state);
        let _listing = lists.begin(client, caller).await?;
        let _ = reader.index();
    }
    let mut left_ms = wait_ms;
    while left_ms > 0 {
        let part_ms = left_ms.min(PART_MS);
        left_ms -= part_ms;
        let changed = reader.changed_after(after.index);
        let changed = tokio::time::timeout(Duration::from_millis(part_ms), changed);
        let changed = state.ending().run_until_cancelled(changed);
        let changed = tokio::select! {
            biased;
            changed = changed => changed,
            // Another client has the place. The answer is that of a wait that ended without a change.
            () = leave.displaced() => break,
        };
        let Some(changed) = changed else { return Err(Stopping.into()) };
        if changed.is_ok() || may_not_go_on(state, caller) {
            break;
        }
    }
    if let Some(reason) = state.store().exclusion() {
        return Err(Problem::new(ProblemKind::Unavailable, reason));
    }
    if !state.security().is_still_valid(caller) {
        let detail = "the credential of this request stopped being valid while it waited";
        return Err(Problem::new(ProblemKind::Unauthorized, detail));
    }
    fresh.renew(state);
    Ok(())
}
