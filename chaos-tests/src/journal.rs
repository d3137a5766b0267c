//! Everything that a run saw, in order: operations, faults, claims to lead, anomalies, recoveries.
//!
//! Workloads and the nemesis write into it, checks and reports read it. It concludes nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::checks::digests::Digest;
use crate::client::Outcome;
use crate::clock;

/// What a client asked for.
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

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Acknowledged.
    Ok,
    /// Without effect.
    Refused,
    /// Nobody knows.
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

/// One operation; small, for there are millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it was sent.
    pub start_us: u64,
    /// When its outcome was known.
    pub end_us: u64,
    /// Through which node.
    pub node: u8,
    /// What.
    pub kind: OpKind,
    /// How it ended.
    pub ended: Ended,
}

/// One fault, from its beginning until it was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// Its kind.
    pub kind: String,
    /// The nodes that it was done to.
    pub nodes: Vec<u64>,
    /// Whether one of them led.
    pub hit_leader: bool,
    /// When it began.
    pub start_us: u64,
    /// When it was taken back.
    pub end_us: u64,
    /// The longest time without an acknowledged write from its beginning until recovery.
    pub unavailable_us: u64,
    /// From its being taken back until every node took a write.
    pub recovery_us: u64,
}

/// A node said that it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which node.
    pub node: u64,
    /// In which term; 0 where it was not told.
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

/// A node said how old its state is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgeClaim {
    /// Which node.
    pub node: u64,
    /// When it was asked.
    pub start_us: u64,
    /// The index of that state.
    pub index: u64,
    /// How old it can be, in milliseconds; `None` where the node did not know.
    pub staleness_ms: Option<u64>,
    /// Whether it said that it is ready.
    pub ready: bool,
}

/// A node said what it knows of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusClaim {
    /// Which node.
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
    /// The leader's name, where it named one.
    pub leader: Option<String>,
    /// Whether it said that it leads.
    pub is_leader: bool,
    /// The term.
    pub term: u64,
    /// How many voters there are, and how many of them it said can be lost.
    pub tolerance: Option<(u64, u64)>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Which check found it.
    pub check: String,
    /// What it found.
    pub detail: String,
    /// When, in microseconds.
    pub at_us: u64,
}

/// What was recorded.
#[derive(Debug, Default)]
pub struct Records {
    /// Every operation.
    pub operations: Vec<Operation>,
    /// Every fault that was taken back.
    pub faults: Vec<FaultRecord>,
    /// The present episode's claims to lead.
    pub claims: Vec<Claim>,
    /// The present episode's acknowledged writes.
    pub acknowledged: Vec<Acknowledgement>,
    /// What nodes said of their age in the present episode.
    pub ages: Vec<AgeClaim>,
    /// What nodes said of the cluster in the present episode.
    pub statuses: Vec<StatusClaim>,
    /// The digests that nodes told in the present episode, under load.
    pub digests: Vec<Digest>,
    /// Who led from when to when, of the episodes before.
    pub leaders: Vec<Claim>,
    /// How many claims were looked at.
    pub claims_seen: u64,
    /// Every broken promise.
    pub anomalies: Vec<Anomaly>,
    /// How many episodes were checked.
    pub episodes: u64,
    /// Figures of single checks, by name.
    pub figures: std::collections::BTreeMap<String, u64>,
}

/// The journal of a run.
#[derive(Debug, Default)]
pub struct Journal {
    records: Mutex<Records>,
}

/// More anomalies than these say nothing new.
const ANOMALIES_MAX: usize = 200;

impl Journal {
    /// What was recorded so far.
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

/// Puts claims of one node that follow each other together.
pub fn merge_claims(claims: &[Claim]) -> Vec<Claim> {
    let mut sorted: Vec<&Claim> = claims.iter().collect();
    sorted.sort_by_key(|claim| claim.end_us);
    let mut merged: Vec<Claim> = Vec::new();
    for claim in sorted {
        match merged.last_mut() {
            Some(last) if last.node == claim.node => last.end_us = claim.end_us,
            // From the answer on: the question may have waited for long.
            _ => merged.push(Claim { start_us: claim.end_us, ..claim.clone() }),
        }
    }
    merged
}
