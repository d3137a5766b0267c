//! Declares the metrics of the Raft log and its disk. Only a node in Raft mode shows them.

use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGauge, Registry};

use super::declare::{register, signed};

/// The values of a node's Raft log at the time of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct RaftGauges {
    /// The term.
    pub term: u64,
    /// The last entry of the log on this node; `None` while it has none.
    pub last_log_index: Option<u64>,
    /// The last entry known to be committed; `None` while none is.
    pub committed_index: Option<u64>,
    /// The last entry applied here; `None` while none is.
    pub applied_index: Option<u64>,
    /// The entry of the last snapshot; `None` without a snapshot.
    pub snapshot_index: Option<u64>,
    /// How long the last sync of the log took, in microseconds; `None` before the first one.
    pub last_sync_us: Option<u64>,
    /// Whether the disk of the log is stalled.
    pub disk_stalled: bool,
    /// The size of the log on disk, in bytes.
    pub log_disk_bytes: u64,
    /// How many voters are needed for writes.
    pub majority: usize,
    /// How many voters are known to be reachable; `None` on a node that does not belong to the cluster any more.
    pub reachable_voters: Option<usize>,
    /// How many more voters may fail; `None` on a node that does not belong to the cluster any more.
    pub failures_tolerated: Option<usize>,
}

/// The metrics, in a registry of their own.
#[derive(Clone, Debug)]
pub(super) struct RaftMetrics {
    registry: Registry,
    term: IntGauge,
    last_log_index: Gauge,
    committed_index: Gauge,
    applied_index: Gauge,
    snapshot_index: Gauge,
    last_sync_seconds: Gauge,
    disk_stalled: IntGauge,
    log_bytes: IntGauge,
    voters_needed: IntGauge,
    voters_reachable: Gauge,
    failures_tolerated: Gauge,
}

impl RaftMetrics {
    /// Declares them.
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        let always = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("the name is a constant and valid");
            register(&registry, gauge)
        };
        // These are NaN while the value is unknown, because 0 would be a value.
        let sometimes = |name: &str, help: &str| {
            let gauge = Gauge::new(name, help).expect("the name is a constant and valid");
            register(&registry, gauge)
        };
        Self {
            term: always("maxine_raft_term", "The term, which each election raises"),
            last_log_index: sometimes(
                "maxine_raft_last_log_index",
                "The last entry of the log on this node. NaN while it has none",
            ),
            committed_index: sometimes(
                "maxine_raft_committed_index",
                "The last log entry known to be committed. NaN while none is",
            ),
            applied_index: sometimes(
                "maxine_raft_applied_index",
                "The last log entry applied on this node. NaN while none is",
            ),
            snapshot_index: sometimes(
                "maxine_raft_snapshot_index",
                "The log entry of the last snapshot. NaN without a snapshot",
            ),
            last_sync_seconds: sometimes(
                "maxine_raft_last_sync_seconds",
                "How long the last sync of the log to the disk took. NaN before the first one",
            ),
            disk_stalled: always(
                "maxine_raft_disk_stalled",
                "1 if a sync of the log to the disk takes too long, else 0",
            ),
            log_bytes: always("maxine_raft_log_bytes", "The size of the log on disk"),
            voters_needed: always(
                "maxine_raft_voters_needed",
                "How many voters must be reachable for writes",
            ),
            voters_reachable: sometimes(
                "maxine_raft_voters_reachable",
                "How many voters are known to be reachable, this node included. NaN on a removed node",
            ),
            failures_tolerated: sometimes(
                "maxine_raft_failures_tolerated",
                "How many more voters may fail before writes stop. NaN on a removed node",
            ),
            registry,
        }
    }

    /// Adds them with these values.
    pub(super) fn add_to(&self, families: &mut Vec<MetricFamily>, raft: &RaftGauges) {
        // The conversions are exact far beyond any index, duration and number of voters.
        let number = |number: Option<u64>| number.map_or(f64::NAN, |number| number as f64);
        let voters = |voters: Option<usize>| number(voters.map(|voters| voters as u64));
        self.term.set(signed(raft.term));
        self.last_log_index.set(number(raft.last_log_index));
        self.committed_index.set(number(raft.committed_index));
        self.applied_index.set(number(raft.applied_index));
        self.snapshot_index.set(number(raft.snapshot_index));
        self.last_sync_seconds.set(number(raft.last_sync_us) / 1e6);
        self.disk_stalled.set(raft.disk_stalled.into());
        self.log_bytes.set(signed(raft.log_disk_bytes));
        self.voters_needed.set(signed(raft.majority as u64));
        self.voters_reachable.set(voters(raft.reachable_voters));
        self.failures_tolerated.set(voters(raft.failures_tolerated));
        families.extend(self.registry.gather());
        families.sort_by(|a, b| a.name().cmp(b.name()));
    }
}
