//! Tests of whole nodes: most of them run a three-node cluster of real processes on real disks.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::field_reassign_with_default,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, reads the real clock, and has no users"
)]

mod alerts;
mod audit_forward;
#[path = "../support/authority.rs"]
mod authority;
mod backups;
mod clocks;
mod consul_ids;
mod consul_nodes;
mod dashboard;
mod data_plane;
mod dev;
mod error_stream;
mod faults;
mod https;
mod in_process;
mod left_clients;
mod locks;
mod lost_majority;
mod metrics;
mod namespace;
mod nothing_to_change;
mod one_index;
mod open_files;
mod rolling;
mod service_manager;
mod stored_files;
