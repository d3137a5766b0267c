//! Health: which probes a node runs, what they find, and how that becomes a verdict.
//!
//! Each node has an [`Observer`]. It knows which instances the node has to probe and when, and what it still
//! has to report to the leader. The leader has [`Verdicts`], which decides when enough observers agree. Only
//! a change of a verdict enters the log.

mod agenda;
mod observer;
mod probe_queue;
mod spec;
mod track;
mod verdict;

pub use observer::{Observer, PROBE_TICK_MS, ProbeJob, ProbeTable};
pub use probe_queue::ProbeClass;
pub use spec::{ActiveDefaults, EffectiveProbe, ProbeFrom, effective_probe};
pub use track::{ProbeAnswer, ProbeRecord, ProbeStatus, TrackView};
pub use verdict::{
    LastResult, Observation, ObserverReport, VerdictContext, Verdicts, flap_delay_ms, flap_score,
};
