//! Health: which probes a node runs, what it sees, and how that becomes a verdict.
//!
//! Each node has an [`Observer`], which knows which instances the node has to probe and when, and
//! what the leader has not heard yet. The leader has [`Verdicts`], which decide when enough observers
//! agree. Only such a transition enters the log.

mod agenda;
mod observer;
mod spec;
mod track;
mod turns;
mod verdict;

pub use observer::{Observer, PROBE_TICK_MS, ProbeJob, ProbeTable, TrackView};
pub use spec::{ActiveDefaults, EffectiveProbe, ProbeFrom, effective_probe};
pub use track::{ProbeAnswer, ProbeRecord, ProbeStatus};
pub use turns::ProbeClass;
pub use verdict::{Observation, ObserverReport, VerdictContext, Verdicts};
