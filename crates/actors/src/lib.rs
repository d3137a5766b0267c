//! The actors: each owns one piece of changing state on this node and the decisions about it.
//!
//! Place in the flow: the API hands writes to [`Registry`]; [`LeadershipActor`] tells the others
//! when this node holds the leader's duties; they propose through the [`maxine_store`].
//!
//! **Invariant:** no actor sits on the path of a request that only reads or forwards. Handlers
//! stay humble: decode, call a pure core, carry out what it decided.

pub mod clock_check;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod health_checker;
pub mod history;
pub mod leadership;
pub mod members;
pub mod observations;
pub mod peer;
pub mod proxy;
pub mod registry;
pub mod state_version;
pub mod supervisor;

pub use health_checker::{HealthChecker, HealthParts};
pub use leadership::{Duties, LeadershipActor, TAKEOVER_SILENCE};
pub use proxy::ProxyActor;
pub use registry::{Registry, WriteError, WriteRequest};
