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
mod belonging;
mod clock;
mod codec;
mod compaction;
mod config;
mod consensus;
mod consensus_core;
mod error;
mod exclusion;
mod faults;
mod forward;
mod freshness;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod inner;
mod leadership;
mod led;
mod lifecycle;
mod membership;
mod network;
mod node;
pub mod offline;
pub mod pki;
mod propose;
mod quorum;
mod read;
mod room;
mod roster;
mod runtime;
#[cfg(feature = "simulation")]
pub mod simulation;
mod state_age;
mod status;
mod status_report;
mod storage;
mod succession;
mod supervision;
mod suspicion;
mod transfer;

pub use application::{Application, CommittedEntry, PeerHandler, SnapshotEncoder};
pub use backup::BackupInfo;
pub use config::{Config, EngineKind, Member, NodeId, PeerTls};
pub use error::{AdminError, CallError, Outcome, ProposeError, ReadError, Retry, StartError};
pub use exclusion::Exclusion;
pub use forward::Target;
pub use inner::RaftNode;
pub use propose::{ProposeTime, Proposed};
pub use read::ReadLevel;
pub use room::check_room;
pub use status::{Counters, Leadership, MemberStatus, Role, Status};
pub use storage::snapshot_attempts::SnapshotFailure;
