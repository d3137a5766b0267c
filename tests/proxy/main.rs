//! The proxy against real sockets. `docs/reference/proxy-conformance.md` names these tests.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::field_reassign_with_default,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, reads the real clock, and has no users"
)]

#[path = "../support/authority.rs"]
mod authority;
mod bounds;
mod harness;
mod hostile;
mod intermediary;
mod misbehaving;
mod policies;
mod streaming;
mod table;
mod tls;
