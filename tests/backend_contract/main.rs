//! One contract, checked on every backend against the real thing: real files, three Raft nodes
//! on disks of their own, a real `redis-server` (and `redis-sentinel`) that each test starts on a
//! free loopback port.
//!
//! `contract` holds what all of them promise; a backend joins by implementing `Fixture`, and
//! `contract_suite!` makes a test of each promise. What only one backend can do is in its own file.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::field_reassign_with_default,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, reads the real clock, and has no users"
)]

mod age;
mod contract;
mod files;
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
