//! Breaks a running Maxine cluster on purpose and checks what its clients saw.
//!
//! [`cluster`] runs the real program as real processes, [`network`] cuts what connects them,
//! [`workload`] sends requests and records every outcome, and [`checks`] decides afterwards, from
//! what was recorded alone, whether a promise was broken. [`scenario`] puts them together.

pub mod checks;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod consensus;
pub mod engine;
pub mod facts;
pub mod invariants;
pub mod journal;
pub mod known_faults;
pub mod nemesis;
pub mod network;
pub mod program;
pub mod report;
pub mod scenario;
pub mod simulation;
pub mod workload;
