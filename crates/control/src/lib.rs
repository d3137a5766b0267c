//! The decisions of a node, as pure engines.
//!
//! Place in the flow: an actor passes each event and the time to its engine, and carries out what the
//! engine returns. The simulator of the chaos tests does the same with simulated time and network.
//!
//! | engine | decides |
//! |---|---|
//! | [`intake`] | which writes go into the next batch, and how each is answered |
//! | [`leases`] | until when each instance is registered, what is expired, and what the next leader learns |
//! | [`health`] | which probes a node runs, and when enough observers agree on a verdict |
//! | [`leadership`] | when this node has the leader's duties, and under which fence |
//!
//! **Invariant:** nothing here reads a clock, starts a task, waits, does I/O or holds a lock. Two tables
//! are shared with other threads, [`leases::LeaseTable`] and [`health::ProbeTable`]; they are lock-free.

pub mod faults;
pub mod health;
pub mod intake;
pub mod leadership;
pub mod leases;
