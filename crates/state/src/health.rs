//! The replicated verdict on an instance's health. Only changes of a verdict enter the log. Single probe
//! results stay on the node that made them.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::versioned::{first_version, stored};

/// Whether an instance may get traffic.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Encode,
    Decode,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// No check has passed or failed yet, or no check is left. The instance gets traffic.
    #[default]
    Unknown,
    /// Its checks pass.
    Ready,
    /// A check fails. The instance gets no traffic.
    NotReady,
}

first_version!(Readiness { Unknown, Ready, NotReady });

/// Whether an instance is alive, or evicted.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Encode,
    Decode,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// The instance is alive.
    #[default]
    Alive,
    /// Its probes failed until the threshold. It is neither listed nor discovered. Its probes
    /// continue, and it returns when a probe succeeds. A heartbeat does not bring it back.
    Evicted,
}

first_version!(Liveness { Alive, Evicted });

/// The verdict, with its reason and its time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Health {
    /// Whether it may get traffic.
    pub readiness: Readiness,
    /// Whether it is alive, or evicted.
    pub liveness: Liveness,
    /// The reason, in one line; empty if nothing has been observed.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: Box<str>,
    /// When the verdict last changed, in milliseconds since 1970; 0 if nothing has been observed.
    pub since_ms: u64,
    /// How often the verdict changed recently. The score decays with time. A high score delays the recovery
    /// of a flapping instance.
    pub flap_score: u32,
}

stored!(Health { readiness, liveness, reason, since_ms, flap_score });

impl Health {
    /// Whether an instance with this verdict may get traffic.
    #[must_use]
    pub fn is_routable(&self) -> bool {
        self.liveness == Liveness::Alive && self.readiness != Readiness::NotReady
    }
}
