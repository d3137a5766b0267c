//! The compatible API over a real socket: one test for each endpoint, named after it.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::field_reassign_with_default,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, reads the real clock, and has no users"
)]

mod access;
mod actuator;
mod proxying;
mod services;
mod support;
mod wire;
