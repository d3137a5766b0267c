//! What an error says about the request that failed: whether it took effect, and whether a retry can help.

use serde::{Deserialize, Serialize};

/// Whether a request that failed took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteOutcome {
    /// It changed nothing.
    NotDone,
    /// It may or may not have taken effect, or may do so later.
    Unknown,
}

/// Whether sending a request again can help. If the outcome is unknown, a repeat is safe only with the same request
/// id (`Idempotency-Key`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// No: the same request gets the same answer until somebody changes something.
    Never,
    /// Yes, after a pause, through any node.
    Later,
    /// Yes, through another node.
    AnotherNode,
}
