//! Linearizable reads: takes an index that is safe to read at, and waits until it is applied.

use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::LinearizerOption;
use openraft::storage::RaftStateMachine;

use crate::codec::{Channel, Request, Response};
use crate::consensus::TypeConfig;
use crate::error::ReadError;
use crate::inner::{Inner, RaftNode};
use crate::leadership::LeaderAt;
use crate::{clock, faults};

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLevel {
    /// The leader's lease for reads is sufficient. If it has run out, a quorum is asked.
    Leader,
    /// A quorum confirms the leader after the call began.
    Strong,
}

impl RaftNode {
    /// Takes an index at which a read is as fresh as `level` requires, on any node, and returns it once the
    /// local state has applied it. Ends within `timeout`. The future can be dropped safely.
    pub async fn read_index(&self, level: ReadLevel, timeout: Duration) -> Result<u64, ReadError> {
        let inner = &*self.inner;
        inner.counters.reads.fetch_add(1, Ordering::Relaxed);
        if faults::strong_read_without_barrier() {
            return Ok(*inner.applied.borrow());
        }
        let deadline = clock::now() + timeout;
        let index = loop {
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Err(ReadError::NoLeader);
            }
            let taken = match inner.leader_at() {
                LeaderAt::Here => read_index_here(inner, level, left).await,
                LeaderAt::There(leader, addr) => {
                    let request = Request::ReadIndex {
                        strong: level == ReadLevel::Strong,
                        timeout_ms: clock::millis(left),
                    };
                    match inner.links.get(leader, &addr, Channel::App).request(&request, left).await
                    {
                        Ok(Response::ReadIndex { index }) => Some(index),
                        _ => None,
                    }
                }
                LeaderAt::Unknown => None,
            };
            if let Some(index) = taken {
                break index;
            }
            if inner.lifecycle.stop.is_cancelled() {
                return Err(ReadError::ShuttingDown);
            }
            inner.pause(deadline).await;
        };
        wait_applied(inner, index, deadline.saturating_duration_since(clock::now())).await?;
        Ok(index)
    }
}

/// Asks the local core; `None` if this node does not lead or no quorum confirmed it in time.
pub(crate) async fn read_index_here(
    inner: &Inner,
    level: ReadLevel,
    timeout: Duration,
) -> Option<u64> {
    let deadline = clock::now() + timeout;
    let age = match level {
        ReadLevel::Strong => Duration::ZERO,
        // The next leader acknowledges nothing until this lease has run out.
        ReadLevel::Leader => inner.config.read_lease(),
    };
    let index = take_index(&inner.raft, age, timeout).await?;
    // An earlier leader may still answer reads that miss what this index contains.
    inner.succeeded(deadline).await.then_some(index)
}

/// Takes an index from the core, if it leads and a quorum has accepted a request that it sent at most `age` before
/// the call; with an age of zero, one that it sent after the call. Works with any state machine: that of a node, and
/// that of the simulation.
pub(crate) async fn take_index<SM>(
    raft: &openraft::Raft<TypeConfig, SM>,
    age: Duration,
    timeout: Duration,
) -> Option<u64>
where
    SM: RaftStateMachine<TypeConfig>,
{
    let option = LinearizerOption::new(Some(age), true).with_wait_timeout(timeout);
    let taking = raft.get_read_linearizer(option);
    let linearizer = tokio::time::timeout(timeout, taking).await.ok()?.ok()?;
    Some(linearizer.read_log_id().index())
}

pub(crate) async fn wait_applied(
    inner: &Inner,
    index: u64,
    timeout: Duration,
) -> Result<u64, ReadError> {
    let mut applied = inner.applied.clone();
    let now = *applied.borrow();
    if now >= index {
        return Ok(now);
    }
    let waited = tokio::select! {
        () = inner.lifecycle.stop.cancelled() => return Err(ReadError::ShuttingDown),
        waited = tokio::time::timeout(timeout, applied.wait_for(|applied| *applied >= index)) => waited.map(|result| result.map(|applied| *applied)),
    };
    match waited {
        Ok(Ok(reached)) => Ok(reached),
        Ok(Err(_)) => Err(ReadError::ShuttingDown),
        Err(_) => Err(ReadError::Behind { required: index, applied: *inner.applied.borrow() }),
    }
}
