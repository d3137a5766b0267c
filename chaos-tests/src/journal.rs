//! Records all events of a run in order: operations, faults, claims of leadership, anomalies and recoveries.
//!
//! Workloads and the nemesis write to it; checks and reports read it. It makes no judgement.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::checks::digests::Digest;
use crate::client::Outcome;
use crate::clock;

/// The kind of a client's operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpKind {
    /// One registration.
    Register,
    /// Ten registrations at once.
    RegisterBatch,
    /// A deregistration.
    Deregister,
    /// Compare-and-set of a register.
    CompareAndSet,
    /// A strong read of a register.
    StrongRead,
    /// A batch of heartbeats.
    Heartbeats,
    /// A request that a node forwards.
    Proxied,
}

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Acknowledged.
    Ok,
    /// It had no effect.
    Refused,
    /// The outcome is unknown.
    Unknown,
}

impl From<&Outcome> for Ended {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Ok { .. } => Self::Ok,
            Outcome::Refused { .. } => Self::Refused,
            Outcome::Unknown(_) => Self::Unknown,
        }
    }
}

/// One operation. It is small, because there are millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it was sent.
    pub start_us: u64,
    /// When its outcome was known.
    pub end_us: u64,
    /// The node.
    pub node: u8,
    /// The kind.
    pub kind: OpKind,
    /// The outcome.
    pub ended: Ended,
}

/// One fault, from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// Its kind.
    pub kind: String,
    /// The affected nodes.
    pub nodes: Vec<u64>,
    /// Whether one of them was the leader.
    pub hit_leader: bool,
    /// When it began.
    pub start_us: u64,
    /// When it ended.
    pub end_us: u64,
    /// The longest time without an acknowledged write, from its beginning until recovery.
    pub unavailable_us: u64,
    /// The time from its end until every node accepted a write.
    pub recovery_us: u64,
}

/// A node reported that it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The node.
    pub node: u64,
    /// The term; 0 if the answer had none.
    pub term: u64,
    /// When it was asked.
    pub start_us: u64,
    /// When its answer came.
    pub end_us: u64,
}

/// A write was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// When its answer came.
    pub end_us: u64,
    /// The index of the state right after it.
    pub index: u64,
}

/// A node reported its staleness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgeClaim {
    /// The node.
    pub node: u64,
    /// When it was asked.
    pub start_us: u64,
    /// The index of its state.
    pub index: u64,
    /// The reported staleness, in milliseconds; `None` if the node did not know it.
    pub staleness_ms: Option<u64>,
    /// Whether it reported to be ready.
    pub ready: bool,
}

/// A node reported the status of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusClaim {
    /// The node.
    pub node: u64,
    /// Its name.
    pub name: String,
    /// When it was asked.
    pub start_us: u64,
    /// When its answer came.
    pub end_us: u64,
    /// The index in the answer.
    pub index: u64,
    /// The index in the answer's header.
    pub header_index: u64,
    /// The leader's name, if the answer had one.
    pub leader: Option<String>,
    /// Whether it reported that it leads.
    pub is_leader: bool,
    /// The term.
    pub term: u64,
    /// The number of voters, and how many of them may fail according to the answer.
    pub tolerance: Option<(u64, u64)>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anomaly {
    /// The check that found it.
    pub check: String,
    /// The finding.
    pub detail: String,
    /// When, in microseconds.
    pub at_us: u64,
}

/// The records of a run.
#[derive(Debug, Default)]
pub struct Records {
    /// Every operation.
    pub operations: Vec<Operation>,
    /// Every fault that has ended.
    pub faults: Vec<FaultRecord>,
    /// The claims of leadership in the present episode.
    pub claims: Vec<Claim>,
    /// The acknowledged writes of the present episode.
    pub acknowledged: Vec<Acknowledgement>,
    /// The reported staleness in the present episode.
    pub ages: Vec<AgeClaim>,
    /// The reported status of the cluster in the present episode.
    pub statuses: Vec<StatusClaim>,
    /// The digests that nodes reported under load, in the present episode.
    pub digests: Vec<Digest>,
    /// The leaders of earlier episodes, with their times.
    pub leaders: Vec<Claim>,
    /// Number of claims that were checked.
    pub claims_seen: u64,
    /// Every broken promise.
    pub anomalies: Vec<Anomaly>,
    /// Number of episodes that were checked.
    pub episodes: u64,
    /// The figures of single checks, by name.
    pub figures: std::collections::BTreeMap<String, u64>,
}

/// The journal of a run.
#[derive(Debug, Default)]
pub struct Journal {
    records: Mutex<Records>,
}

/// Maximum number of anomalies that are recorded.
const ANOMALIES_MAX: usize = 200;

impl Journal {
    /// The records so far.
    pub fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an operation that began at `start_us` and ended now.
    pub fn operation(&self, kind: OpKind, node: u64, start_us: u64, ended: Ended) {
        let node = u8::try_from(node).unwrap_or(u8::MAX);
        let end_us = clock::now_us();
        self.records().operations.push(Operation { start_us, end_us, node, kind, ended });
    }

    /// Records a broken promise.
    pub fn anomaly(&self, check: &str, detail: impl Into<String>) {
        let anomaly =
            Anomaly { check: check.into(), detail: detail.into(), at_us: clock::now_us() };
        let mut records = self.records();
        if records.anomalies.len() < ANOMALIES_MAX {
            records.anomalies.push(anomaly);
        }
    }

    /// Adds to a figure.
    pub fn count(&self, name: &str, by: u64) {
        *self.records().figures.entry(name.into()).or_default() += by;
    }
}

/// Merges consecutive claims of a node.
pub fn merge_claims(claims: &[Claim]) -> Vec<Claim> {
    let mut sorted: Vec<&Claim> = claims.iter().collect();
    sorted.sort_by_key(|claim| claim.end_us);
    let mut merged: Vec<Claim> = Vec::new();
    for claim in sorted {
        match merged.last_mut() {
            Some(last) if last.node == claim.node => last.end_us = claim.end_us,
            // The time of the answer is used, because the question may have waited.
            _ => merged.push(Claim { start_us: claim.end_us, ..claim.clone() }),
        }
    }
    merged
}
