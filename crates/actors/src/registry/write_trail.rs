//! The writes that one request causes, for its trace.
//!
//! A request that is traced runs inside [`follow`]. Each write that its task makes through the registry is then noted.
//! Writes that other tasks make for it are not. Without [`follow`] nothing is noted, and nothing is allocated.

use std::cell::RefCell;

use maxine_state::Applied;
use maxine_view::{View, WriteRecord, WriteStages};

use super::intake::Answered;

/// Maximum number of writes of one request that are noted.
const WRITES_MAX: usize = 64;

tokio::task_local! {
    static WRITES: RefCell<Vec<WriteRecord>>;
}

/// Runs a future, and returns the writes that it made. Dropping the returned future drops the inner one.
pub async fn follow<F: Future>(future: F) -> (F::Output, Vec<WriteRecord>) {
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
        writes.push(WriteRecord {
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
