//! The decisions of a node, as pure engines.
//!
//! Place in the flow: an actor passes each event and the time to its engine, and carries out what the
//! engine returns. The simulator of the chaos tests does the same with simulated time and network.
//!
//! **Invariant:** nothing here reads a clock, starts a task, waits or does I/O.

pub mod faults;
pub mod health;
