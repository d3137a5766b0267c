//! Code that every request passes through, whatever its route is.

mod admit;
mod answer;
mod break_glass;
mod cors;
mod edge;
#[cfg(any(test, feature = "fuzz"))]
pub(super) mod fuzz;
mod plain;
mod trace;

pub(crate) use admit::FaceRefusal;
pub(crate) use answer::leave_out_body;
pub use edge::{Edge, EdgeLayer};
pub(crate) use edge::{Record, Shared};
pub(crate) use trace::{TRACEPARENT, context_of};
