//! What every request passes through, whatever route it takes.

mod edge;
mod trace;

pub use edge::{Edge, EdgeLayer};
