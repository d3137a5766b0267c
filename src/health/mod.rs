//! Health: what probes see, how it becomes a verdict, and the probes themselves.
//!
//! Place in the flow: the health checker actor follows the published state, asks [`HealthCore`]
//! which instances this node has to probe and when, runs a [`Prober`], and sends what changed to the
//! leader; there [`Verdicts`] decides when enough observers agree, and only that transition enters
//! the log.
//!
//! **Invariant:** the cores are pure: time comes in as a parameter and nothing here proposes. Nothing
//! here imports an actor, a backend or the API.

mod agenda;
mod core;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod probe;
mod spec;
mod track;
mod turns;
mod verdict;
mod wire;

pub use agenda::assigned;
pub use core::{HealthCore, ProbeJob, TrackView};
pub use probe::{ProbeAnswer, Prober};
pub use spec::{ActiveDefaults, EffectiveProbe, ProbeFrom, effective_probe};
pub use track::{ProbeRecord, ProbeStatus};
pub use turns::ProbeClass;
pub use verdict::{Decision, ObserverReport, VerdictContext, Verdicts};
pub use wire::{
    Observation, ObservationError, decode_ask, decode_observations, decode_reports, encode_ask,
    encode_observations, encode_reports,
};
