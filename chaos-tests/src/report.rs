//! The report of a run: a JSON file with its figures, and an HTML page that shows them.

mod html;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::journal::{Anomaly, Claim, Ended, FaultRecord, OpKind, Records};

/// How a run was started. With it, its schedule can be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The scenario.
    pub scenario: String,
    /// `raft` or `redis`.
    pub backend: String,
    /// `proxied`, `namespaces` or `loopback`.
    pub network: String,
    /// The seed of all random choices.
    pub seed: u64,
    /// Maximum number of episodes.
    pub rounds: u64,
    /// Maximum time, in seconds.
    pub seconds: u64,
    /// The previous version's program, if there was one.
    #[serde(default)]
    pub previous: Option<String>,
    /// The selected faults of the scenario; empty for all of them.
    #[serde(default)]
    pub faults: Vec<String>,
}

/// Durations of one kind of fault, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    pub p50_ms: u64,
    /// The maximum.
    pub max_ms: u64,
}

impl Spread {
    fn of(mut values_us: Vec<u64>) -> Self {
        values_us.sort_unstable();
        let at = |position: usize| values_us.get(position).copied().unwrap_or(0) / 1_000;
        Self { p50_ms: at(values_us.len() / 2), max_ms: at(values_us.len().saturating_sub(1)) }
    }
}

/// The effects of one kind of fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultFigures {
    /// Number of faults.
    pub count: u64,
    /// Number of these that affected the leader.
    pub hit_leader: u64,
    /// The longest time without an acknowledged write on any node.
    pub unavailable: Spread,
    /// The same for the faults that affected the leader.
    pub unavailable_leader_hit: Spread,
    /// From the end of the fault until every node accepted a write.
    pub recovery: Spread,
}

/// The figures of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How it was started.
    pub start: Start,
    /// The build of Maxine: `debug` or `release`, from the program's directory.
    pub program: String,
    /// When it ended, in milliseconds since 1970.
    pub ended_at_ms: u64,
    /// How long it took, in seconds.
    pub took_s: u64,
    /// Number of episodes that were checked.
    pub episodes: u64,
    /// Operations, by kind and outcome.
    pub operations: BTreeMap<String, BTreeMap<String, u64>>,
    /// Number of all operations.
    pub operations_total: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<String, FaultFigures>,
    /// Faults that were left out, with what this machine lacked.
    #[serde(default)]
    pub skipped: BTreeMap<String, String>,
    /// Number of answers about leadership.
    pub leadership_answers: u64,
    /// Figures of single checks.
    pub checks: BTreeMap<String, u64>,
    /// Broken promises.
    pub anomalies: Vec<Anomaly>,
    /// Why the harness could not continue; null if it did.
    pub harness_error: Option<String>,
}

impl Report {
    /// Computes the figures.
    pub fn new(
        start: Start,
        program: String,
        records: &Records,
        harness_error: Option<String>,
    ) -> Self {
        let mut operations: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for operation in &records.operations {
            let kind = operations.entry(kind_name(operation.kind)).or_default();
            *kind.entry(ended_name(operation.ended).into()).or_default() += 1;
        }
        Self {
            start,
            program,
            ended_at_ms: clock::wall_ms(),
            took_s: clock::now_us() / 1_000_000,
            episodes: records.episodes,
            operations,
            operations_total: records.operations.len() as u64,
            faults: fault_figures(&records.faults),
            skipped: BTreeMap::new(),
            leadership_answers: records.claims_seen,
            checks: records.figures.clone(),
            anomalies: records.anomalies.clone(),
            harness_error,
        }
    }

    /// Writes `report.json` and `report.html` into `dir`.
    pub fn write(&self, records: &Records, dir: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("report.json"), serde_json::to_vec_pretty(self)?)?;
        std::fs::write(dir.join("report.html"), html::page(self, records))?;
        Ok(())
    }

    /// Whether every promise was kept and the harness finished.
    pub fn is_clean(&self) -> bool {
        self.anomalies.is_empty() && self.harness_error.is_none()
    }
}

fn kind_name(kind: OpKind) -> String {
    let text = serde_json::to_value(kind).unwrap_or_default();
    text.as_str().unwrap_or_default().to_owned()
}

fn ended_name(ended: Ended) -> &'static str {
    match ended {
        Ended::Ok => "ok",
        Ended::Refused => "refused",
        Ended::Unknown => "unknown",
    }
}

fn fault_figures(faults: &[FaultRecord]) -> BTreeMap<String, FaultFigures> {
    let mut by_kind: BTreeMap<&str, Vec<&FaultRecord>> = BTreeMap::new();
    for fault in faults {
        by_kind.entry(&fault.kind).or_default().push(fault);
    }
    let figures = |faults: Vec<&FaultRecord>| {
        let hit: Vec<_> = faults.iter().filter(|fault| fault.hit_leader).collect();
        FaultFigures {
            count: faults.len() as u64,
            hit_leader: hit.len() as u64,
            unavailable: Spread::of(faults.iter().map(|fault| fault.unavailable_us).collect()),
            unavailable_leader_hit: Spread::of(
                hit.iter().map(|fault| fault.unavailable_us).collect(),
            ),
            recovery: Spread::of(faults.iter().map(|fault| fault.recovery_us).collect()),
        }
    };
    by_kind.into_iter().map(|(kind, faults)| (kind.to_owned(), figures(faults))).collect()
}

/// The leaders over time, for the picture.
fn leaders(records: &Records) -> &[Claim] {
    &records.leaders
}
