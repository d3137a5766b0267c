//! Breaks a running Maxine cluster on purpose and checks what its clients observed.
//!
//! [`cluster`] runs the real program as processes, and [`network`] cuts the connections between them.
//! [`workload`] sends requests and records every outcome. [`checks`] then decides from the records alone
//! whether a promise was broken. [`scenario`] combines these parts.

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
