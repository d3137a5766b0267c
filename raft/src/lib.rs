//! A replicated log as a library.
//!
//! Place in the flow: an application proposes opaque payloads on any node. This crate orders them through
//! Raft, makes them durable on a majority, and passes them to the application's [`Application::apply`] in the
//! same order on every node.
//!
//! It never interprets a payload, does not use HTTP, and lets no type of the consensus library reach a disk,
//! the network or its public interface.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod acknowledged;
mod application;
mod backup;
mod clock;
mod codec;
mod config;
mod consensus;
mod error;
mod exclusion;
mod faults;
mod forward;
mod freshness;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod leadership;
mod membership;
mod network;
mod node;
pub mod offline;
pub mod pki;
mod propose;
mod quorum;
mod read;
mod roster;
mod runtime;
#[cfg(feature = "simulation")]
pub mod simulation;
mod status;
mod storage;
mod transfer;

pub use application::{Application, CommittedEntry, PeerHandler, SnapshotEncoder};
pub use backup::BackupInfo;
pub use config::{Config, EngineKind, Member, NodeId, PeerTls};
pub use error::{AdminError, CallError, ProposeError, ReadError, StartError};
pub use exclusion::Exclusion;
pub use node::RaftNode;
pub use propose::{ProposeTime, Proposed};
pub use status::{Counters, Leadership, MemberStatus, Role, Status};

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLevel {
    /// The leader's lease is sufficient. If it is too old, a quorum is asked.
    Leader,
    /// A quorum confirms the leader after the call began.
    Strong,
}

/// The receiver of a message of [`RaftNode::call`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One node by its id.
    Node(NodeId),
    /// The present leader.
    Leader,
}
