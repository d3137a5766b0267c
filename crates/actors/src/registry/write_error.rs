//! Why a write has no reply: whether it took effect, and what its caller can do.

use maxine_state::Rejection;
use maxine_store::{Retry, WriteOutcome};

/// When a retry makes sense after the storage of a node failed, in seconds. Until then, the node may have been
/// restarted or replaced.
const STORAGE_RETRY_S: u64 = 5;

/// A write that did not come back with a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Nothing was written: no leader is known, or the store takes no writes.
    #[error("nothing was written: {reason}")]
    Unavailable {
        /// When a retry makes sense, in seconds.
        retry_after_s: u64,
        /// The reason, as text for the caller.
        reason: String,
    },
    /// Nothing was written: too many writes are in flight.
    #[error("nothing was written: too many writes are in flight")]
    Overloaded {
        /// When a retry makes sense, in seconds.
        retry_after_s: u64,
    },
    /// Nothing was written: too many writes of one address are in flight.
    #[error("nothing was written: too many writes from your address are in flight")]
    AddressOverloaded {
        /// When a retry makes sense, in seconds.
        retry_after_s: u64,
    },
    /// Nothing was written: the user has made too many changes of policies, configuration, users or tokens through this
    /// node.
    #[error(
        "nothing was written: this user or token has made too many changes of policies, configuration, users or tokens \
         through this node; this limit protects the audit records of others; try again in \
         {retry_after_s} s"
    )]
    TooManyChanges {
        /// When the next change is possible, in seconds.
        retry_after_s: u64,
    },
    /// The write may have taken effect, or may still do so. A retry with the same request id is safe, because the
    /// write takes effect only once.
    #[error("the outcome is unknown; repeat the request with the same Idempotency-Key")]
    OutcomeUnknown {
        /// When a retry makes sense, in seconds.
        retry_after_s: u64,
    },
    /// Nothing was written: too large.
    #[error("the write is {len} bytes long, the limit is {max}")]
    TooLarge {
        /// Its size in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Nothing was written: the leader does not accept this kind of write from this node.
    #[error("nothing was written: {0}")]
    Refused(String),
    /// Nothing was changed: the command does not fit the state.
    #[error("{rejection}")]
    Rejected {
        /// The reason.
        rejection: Rejection,
        /// The index of the state that refused it.
        index: u64,
    },
    /// The store failed; this node stops.
    #[error("storage failed: {0}")]
    Storage(String),
}

impl WriteError {
    /// Whether the write took effect.
    #[must_use]
    pub fn outcome(&self) -> WriteOutcome {
        match self {
            Self::OutcomeUnknown { .. } | Self::Storage(_) => WriteOutcome::Unknown,
            Self::Unavailable { .. }
            | Self::Overloaded { .. }
            | Self::AddressOverloaded { .. }
            | Self::TooManyChanges { .. }
            | Self::TooLarge { .. }
            | Self::Refused(_)
            | Self::Rejected { .. } => WriteOutcome::NotDone,
        }
    }

    /// Whether a retry can help. After an unknown outcome, a retry is safe only with the same request id.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused(_) => Retry::AnotherNode,
            Self::TooLarge { .. } => Retry::Never,
            Self::Rejected { rejection, .. } => match rejection {
                // The node that sent the command does not lead any more.
                Rejection::StaleFence { .. } | Rejection::FenceMissing => Retry::AnotherNode,
                Rejection::Limit(_)
                | Rejection::NotFound { .. }
                | Rejection::Exists { .. }
                | Rejection::RevisionMismatch { .. }
                | Rejection::Managed(_)
                | Rejection::StateVersion { .. }
                | Rejection::RequestIdReused => Retry::Never,
            },
            Self::Unavailable { .. }
            | Self::Overloaded { .. }
            | Self::AddressOverloaded { .. }
            | Self::TooManyChanges { .. }
            | Self::OutcomeUnknown { .. }
            | Self::Storage(_) => Retry::Later,
        }
    }

    /// When a retry makes sense, in seconds. `None` if a retry does not help, or may follow immediately.
    #[must_use]
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Unavailable { retry_after_s, .. }
            | Self::Overloaded { retry_after_s }
            | Self::AddressOverloaded { retry_after_s }
            | Self::TooManyChanges { retry_after_s }
            | Self::OutcomeUnknown { retry_after_s } => Some(*retry_after_s),
            Self::Storage(_) => Some(STORAGE_RETRY_S),
            Self::Refused(_) | Self::TooLarge { .. } | Self::Rejected { .. } => None,
        }
    }
}
