//! What every request passes through, whatever route it takes.

mod edge;
#[cfg(any(test, feature = "fuzz"))]
pub(super) mod fuzz;
mod trace;

pub(in crate::api) use edge::Shared;
pub use edge::{Edge, EdgeLayer};
