//! One error type per boundary; each variant says whether a retry is safe.

use std::path::PathBuf;

use crate::NodeId;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings out of range, all of them.
    #[error("invalid configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// Another process owns the directory.
    #[error("data directory {} is in use by another process; stop it first", .0.display())]
    Locked(PathBuf),
    /// The directory belongs to another node, cluster or engine.
    #[error("this data directory cannot be used: {0}")]
    Identity(String),
    /// The disk failed or holds damaged data; nothing was changed.
    #[error("storage: {0}")]
    Storage(String),
    /// Certificates or keys could not be used.
    #[error("tls: {0}")]
    Tls(String),
    /// The peer port could not be opened.
    #[error("cannot listen on {addr}: {reason}")]
    Listen {
        /// The address asked for.
        addr: std::net::SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// The consensus core refused to start.
    #[error("consensus: {0}")]
    Consensus(String),
}

/// Why a proposal got no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead; nothing was appended. Retry at the hint.
    #[error("not the leader (hint: {hint:?})")]
    NotLeader {
        /// Who may lead.
        hint: Option<NodeId>,
    },
    /// No leader was found in time; nothing was appended. Retry later.
    #[error("no leader within the time allowed")]
    NoLeader,
    /// Too many proposals in flight; nothing was appended. Retry after a pause.
    #[error("too many proposals in flight")]
    Overloaded,
    /// The payload is over the limit; a retry cannot help.
    #[error("payload of {len} bytes is over the limit of {max}")]
    TooLarge {
        /// Length of the payload in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The proposal may or may not take effect. Retry only with the same request id.
    #[error("outcome unknown: the proposal may yet be committed")]
    OutcomeUnknown,
    /// The node's disk failed; the node is stopping.
    #[error("storage: {0}")]
    Storage(String),
    /// The leader does not take it from this node; nothing was appended. A retry can't help.
    #[error("the leader refused the proposal: {0}")]
    Refused(String),
    /// The node is stopping; nothing was appended. Retry elsewhere.
    #[error("node is shutting down")]
    ShuttingDown,
}

impl ProposeError {
    /// Whether nothing was appended, so that any retry is safe.
    pub fn is_safe_to_retry(&self) -> bool {
        matches!(
            self,
            Self::NotLeader { .. } | Self::NoLeader | Self::Overloaded | Self::ShuttingDown
        )
    }
}

/// Why a read could not be served. A retry is always safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader was found, or it could not confirm itself with a quorum in time.
    #[error("no leader confirmed by a quorum within the time allowed")]
    NoLeader,
    /// The local state did not reach the index in time.
    #[error("state is at index {applied}, behind the required {required}")]
    Behind {
        /// The index that was waited for.
        required: u64,
        /// The index that the state has reached.
        applied: u64,
    },
    /// The node has stopped or is stopping.
    #[error("node is shutting down")]
    ShuttingDown,
}

/// Why a message to another node got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody leads, so there is no one to call.
    #[error("no leader known")]
    NoLeader,
    /// The target is not a member of the cluster.
    #[error("node {0} is not a member")]
    UnknownNode(NodeId),
    /// The message was not delivered; a retry is safe.
    #[error("node {node} is unreachable: {reason}")]
    Unreachable {
        /// The target.
        node: NodeId,
        /// What went wrong.
        reason: String,
    },
    /// The message may have been handled.
    #[error("no answer from node {0} in time")]
    Timeout(NodeId),
    /// Too many messages wait for this node; nothing was sent.
    #[error("too many messages wait for node {0}")]
    Overloaded(NodeId),
    /// The other side's handler failed.
    #[error("node {node} refused: {reason}")]
    Remote {
        /// The target.
        node: NodeId,
        /// Its reason.
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

/// Why an administrative operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// No leader was found in time.
    #[error("no leader was found within the time allowed")]
    NoLeader,
    /// This node does not lead.
    #[error("not the leader (hint: {hint:?})")]
    NotLeader {
        /// Who may lead.
        hint: Option<NodeId>,
    },
    /// The request does not fit the cluster's present state.
    #[error("{0}")]
    Refused(String),
    /// The node that it is about is no member of the cluster.
    #[error("{0}")]
    NoSuchMember(String),
    /// It did not finish in time and may yet take effect; look at the status.
    #[error("it did not finish in time and may still take effect")]
    Timeout,
    /// The disk or the output failed.
    #[error("io: {0}")]
    Io(String),
    /// The node is stopping.
    #[error("node is shutting down")]
    ShuttingDown,
}

impl From<std::io::Error> for AdminError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}
