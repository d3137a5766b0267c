//! Begins the history of a new cluster, and a new one when indexes will be used again: after a restore or a
//! recovery, and when the store lost acknowledged writes.
//!
//! Every answer has its history beside its index. So a client with a position in an earlier history starts
//! again, and misses no changes. Sessions end with their history, because records of ended sessions may be
//! lost with it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use super::clock_check;
use maxine_clock::Clock;
use maxine_state::{Actor as Who, Batch, Command, History, Name, Proposal, RequestId, SigningKey};
use maxine_store::{ControlStore, StoreEvent};
use maxine_view::View;

/// Time limit of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(200);

/// Watches the history until dropped.
pub async fn keep(store: Arc<dyn ControlStore>, view: Arc<View>, clock: Clock) {
    let mut leadership = store.leadership();
    let mut events = store.events();
    // The history in which writes were lost, until it has ended.
    let mut lost_in = None;
    loop {
        let snapshot = view.snapshot();
        let present = snapshot.state.history();
        let line = store.line().unwrap_or_default();
        // A new cluster has no history yet, and all members of a restored one know its line. The leader begins
        // the new history.
        let due = present.is_none() || line != snapshot.state.line();
        drop(snapshot);
        if due && store.leadership_now().is_leader || lost_in == Some(present) {
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
                // If a new history has begun already, another node noticed the loss earlier and began it.
                lost_in = lost.then_some(present);
            }
        }
    }
}

/// Returns when acknowledged writes may have been lost. Returns false if the store never reports a loss.
async fn next_loss(events: &mut Option<tokio::sync::broadcast::Receiver<StoreEvent>>) -> bool {
    let Some(receiver) = events else { return std::future::pending().await };
    loop {
        match receiver.recv().await {
            Ok(event) if event.is_loss() => return true,
            // A skipped event may have been a loss, so a new history is begun.
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
    before: Option<History>,
    line: u64,
) -> Result<(), String> {
    clock_check::settled(clock).await;
    let history = History::from_random(rand::random());
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
    if let Some(before) = before {
        tracing::warn!(
            %before,
            "data was restored or lost: a new history begins, watchers must start again, and sessions end"
        );
    }
    Ok(())
}
