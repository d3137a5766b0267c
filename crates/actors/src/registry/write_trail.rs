//! The writes that one request causes, for its trace.
//!
//! A request that is traced runs inside [`follow`]. Each write that its task makes through the registry is then noted.
//! Writes that other tasks make for it are not. Without [`follow`] nothing is noted, and nothing is allocated.

use std::cell::RefCell;

use maxine_state::Applied;
use maxine_view::View;

use super::intake::Answered;

/// Maximum number of writes of one request that are noted.
const WRITES_MAX: usize = 64;

tokio::task_local! {
    static WRITES: RefCell<Vec<FollowedWrite>>;
}

/// One write, with its times in microseconds on the monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowedWrite {
    /// When it was put into the actor's mailbox.
    pub submitted_us: u64,
    /// When its caller had the answer.
    pub answered_us: u64,
    /// Why it was not carried out. `None` if it was.
    pub error: Option<String>,
    /// Its way into the state. `None` if it did not get there.
    pub stages: Option<WriteStages>,
}

/// The way of a write into the state, with its times in microseconds on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteStages {
    /// When the actor took it from its mailbox.
    pub received_us: u64,
    /// When its batch was passed to the store.
    pub proposed_us: u64,
    /// When the store had answered.
    pub decided_us: u64,
    /// Number of writes in the batch.
    pub batch_len: usize,
    /// When this node began to apply the batch, and when the result was published, if that is known.
    pub applied_us: Option<(u64, u64)>,
    /// The index of the state after it.
    pub index: u64,
}

/// Runs a future, and returns the writes that it made. Dropping the returned future drops the inner one.
pub async fn follow<F: Future>(future: F) -> (F::Output, Vec<FollowedWrite>) {
    let noting = async move {
        let output = future.await;
        (output, WRITES.with(RefCell::take))
    };
    WRITES.scope(RefCell::default(), noting).await
}

/// Notes a write, if the task is followed.
pub(super) fn note(view: &View, submitted_us: u64, now_us: impl Fn() -> u64, answered: &Answered) {
    // An error means that nobody follows.
    let _unfollowed = WRITES.try_with(|writes| {
        let mut writes = writes.borrow_mut();
        if writes.len() >= WRITES_MAX {
            return;
        }
        let result = answered.result.as_ref();
        writes.push(FollowedWrite {
            submitted_us,
            answered_us: now_us(),
            error: result.err().map(ToString::to_string),
            stages: result.ok().map(|applied| stages(view, applied, answered)),
        });
    });
}

fn stages(view: &View, applied: &Applied, answered: &Answered) -> WriteStages {
    let batch = &answered.batch;
    // A repeated request gets the index of its first time, which was applied before.
    let is_own = |(began_us, _): &(u64, u64)| *began_us >= batch.proposed_us;
    WriteStages {
        received_us: answered.received_us,
        proposed_us: batch.proposed_us,
        decided_us: batch.decided_us,
        batch_len: batch.len,
        applied_us: view.applied_at(applied.index).filter(is_own),
        index: applied.index,
    }
}
