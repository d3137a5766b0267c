//! The errors of this crate, and what each says about the request that failed: whether it took effect, and whether
//! a retry can help.

use std::path::PathBuf;

use crate::NodeId;

/// Whether a request that failed took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It changed nothing.
    NotDone,
    /// It may or may not have taken effect, or may do so later.
    Unknown,
}

/// Whether sending a request again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// No: the same request gets the same answer until somebody changes something.
    Never,
    /// Yes, after a pause, through any node.
    Later,
    /// Yes, through another node.
    AnotherNode,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings are out of range. All of them are listed.
    #[error("invalid configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// Another process uses the directory.
    #[error("data directory {} is in use by another process; stop it first", .0.display())]
    Locked(PathBuf),
    /// The directory belongs to another node, cluster or engine.
    #[error("this data directory cannot be used: {0}")]
    Identity(String),
    /// The disk failed or has damaged data. Nothing was changed.
    #[error("storage: {0}")]
    Storage(String),
    /// Certificates or keys could not be used.
    #[error("tls: {0}")]
    Tls(String),
    /// The peer port could not be opened.
    #[error("cannot listen on {addr}: {reason}")]
    Listen {
        /// The requested address.
        addr: std::net::SocketAddr,
        /// The error of the operating system.
        reason: String,
    },
    /// The consensus core refused to start.
    #[error("consensus: {0}")]
    Consensus(String),
}

/// Why a proposal got no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead, and nothing was appended. Retry at the hint.
    #[error("not the leader (hint: {hint:?})")]
    NotLeader {
        /// The node that may lead.
        hint: Option<NodeId>,
    },
    /// No leader was found in time, and nothing was appended. Retry later.
    #[error("no leader within the time allowed")]
    NoLeader,
    /// Too many proposals are in flight, and nothing was appended. Retry after a pause.
    #[error("too many proposals in flight")]
    Overloaded,
    /// The payload is larger than the limit. A retry does not help.
    #[error("payload of {len} bytes is over the limit of {max}")]
    TooLarge {
        /// Length of the payload in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The outcome is unknown: the proposal may have taken effect, or may still do so. Retry only with the
    /// same request id.
    #[error("outcome unknown: the proposal may yet be committed")]
    OutcomeUnknown,
    /// The node's disk failed, and the node is stopping.
    #[error("storage: {0}")]
    Storage(String),
    /// The leader refuses this proposal from this node, and nothing was appended. A retry does not help.
    #[error("the leader refused the proposal: {0}")]
    Refused(String),
    /// The node is stopping, and nothing was appended. Retry at another node.
    #[error("node is shutting down")]
    ShuttingDown,
}

impl ProposeError {
    /// Whether the proposal took effect.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::OutcomeUnknown | Self::Storage(_) => Outcome::Unknown,
            Self::NotLeader { .. }
            | Self::NoLeader
            | Self::Overloaded
            | Self::TooLarge { .. }
            | Self::Refused(_)
            | Self::ShuttingDown => Outcome::NotDone,
        }
    }

    /// Whether a retry can help. After an unknown outcome it is safe only if the application recognises a repeat.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoLeader | Self::Overloaded | Self::OutcomeUnknown => Retry::Later,
            Self::NotLeader { .. } | Self::Refused(_) | Self::Storage(_) | Self::ShuttingDown => {
                Retry::AnotherNode
            }
            Self::TooLarge { .. } => Retry::Never,
        }
    }
}

/// Why a read could not be served. A retry is always safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader was found, or no quorum confirmed it in time.
    #[error("no leader confirmed by a quorum within the time allowed")]
    NoLeader,
    /// The local state did not reach the index in time.
    #[error("state is at index {applied}, behind the required {required}")]
    Behind {
        /// The required index.
        required: u64,
        /// The index that the state has reached.
        applied: u64,
    },
    /// The node has stopped or is stopping.
    #[error("node is shutting down")]
    ShuttingDown,
}

impl ReadError {
    /// Whether a retry can help. A read changes nothing, so it is always safe.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoLeader | Self::Behind { .. } => Retry::Later,
            Self::ShuttingDown => Retry::AnotherNode,
        }
    }
}

/// Why a message to another node got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No other node is known to lead.
    #[error("no other node is known to lead")]
    NoLeader,
    /// The target is not a member of the cluster.
    #[error("node {0} is not a member")]
    UnknownNode(NodeId),
    /// The message was not delivered. A retry is safe.
    #[error("node {node} is unreachable: {reason}")]
    Unreachable {
        /// The target.
        node: NodeId,
        /// The reason.
        reason: String,
    },
    /// The message was sent, and its answer did not arrive. The message may have been handled.
    #[error("node {node} gave no answer: {reason}")]
    NoAnswer {
        /// The target.
        node: NodeId,
        /// The reason.
        reason: String,
    },
    /// Too many messages wait for this node. Nothing was sent.
    #[error("too many messages wait for node {0}")]
    Overloaded(NodeId),
    /// The other node refused the message, which had no effect.
    #[error("node {node} refused: {reason}")]
    Refused {
        /// The target.
        node: NodeId,
        /// The reason that it gave.
        reason: String,
    },
    /// The message is over the frame limit.
    #[error("message of {len} bytes is over the limit of {max}")]
    TooLarge {
        /// Length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// This node is stopping.
    #[error("node is shutting down")]
    ShuttingDown,
}

impl CallError {
    /// Whether the message took effect.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NoAnswer { .. } => Outcome::Unknown,
            Self::NoLeader
            | Self::UnknownNode(_)
            | Self::Unreachable { .. }
            | Self::Overloaded(_)
            | Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::ShuttingDown => Outcome::NotDone,
        }
    }

    /// Whether sending it again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoLeader
            | Self::Unreachable { .. }
            | Self::NoAnswer { .. }
            | Self::Overloaded(_)
            | Self::Refused { .. } => Retry::Later,
            Self::ShuttingDown => Retry::AnotherNode,
            Self::UnknownNode(_) | Self::TooLarge { .. } => Retry::Never,
        }
    }
}

/// Why an administrative operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// No leader was found in time.
    #[error("no leader was found within the time allowed")]
    NoLeader,
    /// This node does not lead.
    #[error("not the leader (hint: {hint:?})")]
    NotLeader {
        /// The node that may lead.
        hint: Option<NodeId>,
    },
    /// The request is not possible in the cluster's present state.
    #[error("{0}")]
    Refused(String),
    /// The named node is no member of the cluster.
    #[error("{0}")]
    NoSuchMember(String),
    /// It was not confirmed: it may have taken effect, or may still do so. The status shows the result.
    #[error("it was not confirmed in time, and may still take effect")]
    OutcomeUnknown,
    /// This node's disk has not enough free space.
    #[error("{0}")]
    NoSpace(String),
    /// The disk or the output failed.
    #[error("io: {0}")]
    Io(String),
    /// The node is stopping.
    #[error("node is shutting down")]
    ShuttingDown,
}

impl AdminError {
    /// Whether the operation took effect.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::OutcomeUnknown => Outcome::Unknown,
            Self::NoLeader
            | Self::NotLeader { .. }
            | Self::Refused(_)
            | Self::NoSuchMember(_)
            | Self::NoSpace(_)
            | Self::Io(_)
            | Self::ShuttingDown => Outcome::NotDone,
        }
    }

    /// Whether a retry can help. After an unknown outcome the status of the cluster must be read first.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoLeader => Retry::Later,
            Self::NotLeader { .. } | Self::ShuttingDown => Retry::AnotherNode,
            Self::Refused(_)
            | Self::NoSuchMember(_)
            | Self::NoSpace(_)
            | Self::Io(_)
            | Self::OutcomeUnknown => Retry::Never,
        }
    }
}

impl From<std::io::Error> for AdminError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull => Self::NoSpace(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }
}
