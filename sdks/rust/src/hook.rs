//! The functions of a program that the client calls.

use std::sync::Arc;

/// A function that is called with each event of one kind. It must return soon, and must not block.
pub type Hook<T> = Arc<dyn Fn(&T) + Send + Sync>;
