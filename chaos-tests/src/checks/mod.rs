//! Checks whether a promise was broken, from the records alone. Each promise has its own file.
//!
//! A check is pure: it takes records and returns anomalies. The tests of each check show that it detects a
//! history that breaks its promise.

pub mod acknowledged;
pub mod ages;
pub mod digests;
pub mod leadership;
pub mod leases;
pub mod linearizable;
pub mod proxied;
pub mod strong_reads;
pub mod truth;
pub mod watches;
