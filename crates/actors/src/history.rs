//! Begins another history where indexes are given out again: after a restore or a recovery, and
//! where the service that keeps the log lost acknowledged writes.
//!
//! Every answer tells its history beside its index, so that a client which comes back with a place in
//! the one that ended starts again instead of missing changes. Sessions end with their history: which of
//! them had been ended is lost with it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use super::clock_check;
use maxine_clock::Clock;
use maxine_state::{Actor as Who, Batch, Command, Name, Proposal, RequestId, SigningKey};
use maxine_store::{ControlStore, StoreEvent};
use maxine_view::View;

/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(200);

/// Watches over the history until dropped.
pub async fn keep(store: Arc<dyn ControlStore>, view: Arc<View>, clock: Clock) {
    let mut leadership = store.leadership();
    let mut events = store.events();
    // The history in which writes were lost, until it has ended.
    let mut lost_in = None;
    loop {
        let snapshot = view.snapshot();
        let present = snapshot.state.history();
        let line = store.line().unwrap_or_default();
        // All members of a restored cluster know its line; whoever leads begins the history of it.
        let restored = line != snapshot.state.line() && store.leadership_now().is_leader;
        drop(snapshot);
        if restored || lost_in == Some(present) {
            if let Err(error) = begin(&*store, &clock, present, line).await {
                tracing::debug!(%error, "another history has not begun yet, trying again");
                tokio::time::sleep(PAUSE).await;
            }
            continue;
        }
        lost_in = None;
        tokio::select! {
            changed = leadership.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            lost = next_loss(&mut events) => {
                // Where another one has begun meanwhile, a node that noticed sooner saw to it.
                lost_in = lost.then_some(present);
            }
        }
    }
}

/// Returns when acknowledged writes may have been lost; false where the store never says so.
async fn next_loss(events: &mut Option<tokio::sync::broadcast::Receiver<StoreEvent>>) -> bool {
    let Some(receiver) = events else { return std::future::pending().await };
    loop {
        match receiver.recv().await {
            Ok(event) if event.is_loss() => return true,
            // What was skipped may have been a loss: in doubt, another history.
            Err(RecvError::Lagged(_)) => return true,
            Ok(_) => {}
            Err(RecvError::Closed) => {
                *events = None;
                return false;
            }
        }
    }
}

async fn begin(
    store: &dyn ControlStore,
    clock: &Clock,
    before: u64,
    line: u64,
) -> Result<(), String> {
    clock_check::settled(clock).await;
    let history = rand::random::<u64>() | 1;
    let signing_key = SigningKey {
        key_id: Name::trusted(&format!("maxine-{:08x}", rand::random::<u32>())),
        secret: Box::new(rand::random::<[u8; 32]>()),
        created_at_ms: clock.wall_ms(),
    };
    let proposal = Proposal {
        request_id: RequestId(rand::random()),
        proposed_at_ms: clock.proposal_ms(),
        fence: None,
        actor: Who::system("history"),
        command: Command::BeginHistory { before, history, line, signing_key },
    };
    let batch = Batch { proposals: vec![proposal] };
    store.propose(batch, ATTEMPT_TIMEOUT.into()).await.map_err(|error| error.to_string())?;
    tracing::warn!(
        before = format!("{before:016x}"),
        "data was restored or lost: a new history begins, watchers must start again, and sessions end"
    );
    Ok(())
}
