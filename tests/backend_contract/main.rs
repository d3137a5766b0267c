//! One contract, checked on every backend with real parts: real files, three Raft nodes with their own disks,
//! and a real `redis-server` (and `redis-sentinel`) that each test starts on a free loopback port.
//!
//! `contract` has the promises of all backends. A backend implements `Fixture`, and `contract_suite!`
//! generates a test of each promise. Tests for only one backend are in its own file.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::field_reassign_with_default,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, reads the real clock, and has no users"
)]

mod age;
mod changes;
mod contract;
mod files;
mod locks;
mod moving;
mod node;
mod raft;
mod redis_damage;
mod redis_failover;
mod redis_faults;
mod redis_server;
mod renewals;
mod split_brain;
mod table;
