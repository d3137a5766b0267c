//! The actors. Each owns one part of the changing state of this node, and the decisions about it.
//!
//! Place in the flow: the API passes writes to [`Registry`]. [`LeadershipActor`] notifies the other actors
//! when this node has the leader's duties, and they propose through the [`maxine_store`].
//!
//! **Invariant:** no actor is on the path of a request that only reads or forwards. A handler decodes a
//! message, calls a pure engine, and carries out the result.

pub mod clock_check;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod health_checker;
pub mod history;
pub mod leadership;
pub mod members;
pub mod peer;
pub mod proxy;
pub mod registry;
pub mod state_version;
pub mod supervisor;

pub use health_checker::{HealthChecker, HealthParts};
pub use leadership::{Duties, HANDOVER_GAP_MS, LeadershipActor, read_takeover};
pub use proxy::ProxyActor;
pub use registry::{Registry, WriteError, WriteRequest};
