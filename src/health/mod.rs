//! The probes of health checks, and how nodes tell the leader what they saw.
//!
//! Place in the flow: the health checker actor asks [`maxine_control::health::Observer`] which probes
//! are due, runs them with a [`Prober`], and sends what changed to the leader ([`encode_observations`]).
//!
//! **Invariant:** nothing here imports an actor, a backend or the API.

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod probe;
mod wire;

pub use probe::Prober;
pub use wire::{
    ObservationError, decode_ask, decode_observations, decode_reports, encode_ask,
    encode_observations, encode_reports,
};
