//! What every request passes through, whatever route it takes.

mod edge;
#[cfg(any(test, feature = "fuzz"))]
pub(super) mod fuzz;
mod trace;

pub use edge::{Edge, EdgeLayer};
pub(crate) use edge::{Shared, TRACEPARENT, context_of};
