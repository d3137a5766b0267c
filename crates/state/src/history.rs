//! The identity of a history of the state.

use std::fmt;
use std::num::NonZeroU64;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::versioned::fixed;

/// Identifies the history in which indexes count. It is chosen at random when a cluster is founded, and again
/// whenever indexes may be used a second time. So two clusters, and two histories of one cluster, have
/// different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(NonZeroU64);

fixed!(History);

impl History {
    /// A history from random bits.
    #[must_use]
    pub const fn from_random(bits: u64) -> Self {
        match NonZeroU64::new(bits) {
            Some(bits) => Self(bits),
            // Zero is no history. One of 2^64 values is used twice, which makes no difference.
            None => Self(NonZeroU64::MAX),
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for History {
    /// Sixteen hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.get())
    }
}
