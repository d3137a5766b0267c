//! How an attempt to write ended, and why a write has no reply.

use maxine_state::Applied;

/// How an attempt ended: with the replies, in the order of the batch, or with a failure.
pub type Attempted = Result<Vec<Applied>, Failure>;

/// Why an attempt gave no replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was written, and another attempt may succeed. Contains the reason as text.
    NotWritten(String),
    /// Nothing was written because this node does not lead. Commands that only the leader may propose would
    /// be refused again. Contains the reason as text.
    NotLeader(String),
    /// Nothing was written because too many writes are in flight.
    Overloaded,
    /// Nothing was written, and no further attempt can succeed. Contains the reason as text.
    Refused(String),
    /// Nothing was written because the batch is too large.
    TooLarge {
        /// Its size in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The outcome is unknown: it may have taken effect, or may still take effect.
    Unknown,
    /// The disk of this node failed. Contains the reason as text.
    Storage(String),
}

/// Why a write has no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing was written. Contains the reason as text.
    NotWritten(String),
    /// Nothing was written because too many writes wait.
    Overloaded,
    /// Nothing was written because too many writes from this address wait.
    AddressOverloaded,
    /// Nothing was written because the write is too large.
    TooLarge {
        /// Its size in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Nothing was written; the leader does not accept this kind of write from this node. Contains the reason as text.
    Refused(String),
    /// The outcome is unknown: it may have taken effect, or may still take effect.
    Unknown,
    /// The disk of this node failed. Contains the reason as text.
    Storage(String),
}
