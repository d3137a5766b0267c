//! The native API over a real listening server, with the registry behind it and commands ordered in
//! memory.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::field_reassign_with_default,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, reads the real clock, and has no users"
)]

mod access;
mod api;
mod audit;
mod codings;
mod explain;
#[path = "../support/idp.rs"]
mod idp;
mod index;
mod kv;
mod model;
mod openapi;
mod outside;
#[path = "../support/page.rs"]
mod page;
mod prometheus;
mod support;
mod tour;
mod traffic;
mod watch;
