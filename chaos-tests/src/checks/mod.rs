//! Decides, from what was recorded alone, whether a promise was broken. One promise per file.
//!
//! A check is pure: it takes records and gives anomalies. Each is shown, in its own tests, to find
//! a history that breaks its promise.

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
