//! The present process of a simulated node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;

use super::machine::SimMachine;
use super::{KnownFault, virtual_clock};
use crate::config::Config;
use crate::consensus::{TypeConfig, quorum_ack_age};
use crate::read::take_index;
use crate::succession::Succession;

pub(super) type SimRaft = openraft::Raft<TypeConfig, SimMachine>;

/// How often a reader looks whether an entry is applied.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A process.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) raft: SimRaft,
    /// The number of the process on this node.
    pub(super) process: u64,
    /// Until this time the process grants no vote, because votes that it granted before a stop are not on its
    /// disk.
    pub(super) votes_from: tokio::time::Instant,
    pub(super) succession: Arc<Succession>,
    /// The settings, as the node's own clock runs.
    pub(super) config: Arc<Config>,
    /// How much faster its clock runs, in percent; negative if it runs slower.
    pub(super) drift_percent: i64,
    /// The newest term in which it has begun to transfer its leadership.
    pub(super) transferring: Arc<AtomicU64>,
    pub(super) fault: Option<KnownFault>,
}

impl Running {
    /// A duration as this node's clock measures it.
    pub(super) fn measured(&self, micros: u64) -> u64 {
        micros * 100_u64.saturating_add_signed(self.drift_percent) / 100
    }

    pub(super) fn waits_until(&self, wait: Duration) -> Option<Instant> {
        let metrics = self.raft.metrics();
        let (state, term) = {
            let metrics = metrics.borrow_watched();
            (metrics.state, metrics.current_term)
        };
        if state == ServerState::Leader {
            self.succession.leads(term, || false);
        }
        let now = virtual_clock::now().into_std();
        self.succession.waits_until(wait, self.config.longest_wait(), now)
    }

    /// Waits before an acknowledgement, as a real node does.
    pub(super) async fn succeeded(&self) {
        while self.fault != Some(KnownFault::AnswerEarly)
            && let Some(until) = self.waits_until(self.config.wait_for_reads())
        {
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// The term in which the node reports that it leads; `None` if it does not.
    pub(super) fn reports(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let term = metrics.current_term;
        let leads = metrics.state == ServerState::Leader
            && self.transferring.load(Ordering::Relaxed) != term
            && quorum_ack_age(&metrics).is_some_and(|age| age < self.config.report_lease());
        let waits = self.waits_until(self.config.wait_for_reports()).is_some()
            && self.fault != Some(KnownFault::ReportEarly);
        (leads && !waits).then_some(term)
    }

    /// Reads as a real node does: takes an index, waits until it is applied, and until no earlier leader can answer.
    pub(super) async fn read(&self, is_strong: bool, patience: Duration) -> Option<u64> {
        let age = if is_strong { Duration::ZERO } else { self.config.read_lease() };
        let index = take_index(&self.raft, age, patience).await?;
        let applied = async {
            let reached = || {
                let metrics = self.raft.metrics();
                let applied = metrics.borrow_watched().last_applied;
                applied.is_some_and(|id| id.index >= index)
            };
            while !reached() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(patience, applied).await.ok()?;
        self.succeeded().await;
        Some(index)
    }
}
