//! The replicated state machine: what Maxine stores, and how a command changes it.
//!
//! Place in the flow: a backend puts [`Proposal`]s in order. [`ControlState::apply`] turns each into an
//! [`Applied`] reply and [`Event`]s. `view` publishes the result to readers.
//!
//! **Invariant:** nothing here reads a clock, does I/O, draws a random number or iterates in hash order.
//! Every replica that applies the same proposals has the same state, byte for byte. Time enters only as
//! [`Proposal::proposed_at_ms`], which is clamped so that it never runs backwards.

#[cfg(all(feature = "next", not(debug_assertions)))]
compile_error!(
    "the feature `next` is for tests: a release must not have commands that no release knows"
);

mod address;
mod apply;
mod audit;
mod audit_action;
mod audit_class;
mod check;
mod check_reading;
mod codec;
mod command;
mod control_state;
mod dedup;
mod event;
mod faults;
mod field;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod health;
mod history;
mod identity;
mod in_traffic;
mod instance;
mod invisible;
mod kv;
mod kv_apply;
mod kv_key;
mod kv_state;
mod leadership;
pub mod limits;
mod lock_session;
mod log_entry;
mod name;
mod policy;
mod runtime_config;
mod snapshot;
mod traffic;
mod versioned;
mod wording;

pub use address::{Address, AddressParts, Scheme};
pub use audit::{AuditChain, AuditLog, AuditOutcome, AuditRecord};
pub use audit_action::AuditAction;
pub use audit_class::AuditClass;
pub use check::{Check, CheckKind, CheckReport, CheckState, CheckStatus};
pub use check_reading::CheckReading;
pub use codec::{CodecError, is_newer_version};
pub use command::{
    Actor, Applied, Batch, CheckExpiry, Command, Deregistration, Fence, HealthReport, ObjectKind,
    Proposal, Rejection, Reply, RequestId,
};
pub use control_state::{ControlState, FormerGrant, Grant, ServiceState};
pub use event::{Event, EventKind, RemovalCause};
pub use field::Field;
pub use health::{Health, Liveness, Readiness};
pub use history::History;
pub use identity::{EndedSession, Identities, Role, SigningKey, TokenRecord, User};
pub use in_traffic::{InTraffic, NoTrafficReason};
pub use instance::{Drain, Expiry, Instance, Registration};
pub use invisible::is_invisible;
pub use kv::{KvAction, KvChange, KvContent, KvEntry, KvMeta, KvOp, KvRefusal, KvValue};
pub use kv_key::KvKey;
pub use kv_state::KvState;
pub use leadership::Leadership;
pub use limits::{Given, Limit, LimitExceeded};
pub use lock_session::{
    LockBehavior, LockDelay, LockSession, LockSessionCheck, LockSessionEnd, LockSessionId,
    LockSessionSpec,
};
pub use log_entry::{
    decode_applied, decode_batch, decode_rejection, encode_applied, encode_batch, encode_rejection,
    named_version,
};
pub use name::{InstanceKey, Name, ServiceKey, ServiceRef};
pub use policy::*;
pub use runtime_config::{
    ConfigHistory, ConfigRecord, ConfigRevision, DiscoveryMode, LogFormat, RuntimeConfig,
    SelectionStrategy,
};
pub use snapshot::{SnapshotError, StateDigest};
pub use traffic::*;

/// The newest version of the state that this build understands. A version defines a set of commands, their
/// fields, and their effects. [`Command::needs`] says which version a command belongs to. `versioned`
/// describes how a value gets a new field.
///
/// The state itself has a version too ([`ControlState::version`]). An operator raises it once every voter
/// understands the new one. Until then, commands of a newer version are not proposed, and apply refuses them.
/// A replica stops before a command that it does not understand.
///
/// The feature `next` defines the version after this one, for the tests of mixed clusters.
pub const STATE_VERSION: u32 = if cfg!(feature = "next") { 4 } else { 3 };
