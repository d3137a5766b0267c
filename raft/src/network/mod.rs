//! How nodes talk to each other.
//!
//! Flow: [`links`] keeps one outgoing [`link`] per peer and purpose, so that bulk never delays a
//! heartbeat; [`listener`] accepts connections, [`handshake`] turns strangers away, and [`inbound`]
//! answers requests from the consensus core or the application. [`outbound`] is what the consensus
//! core sends through. Nothing here decides anything about leadership or state.

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
pub(crate) mod handshake;
pub(crate) mod inbound;
pub(crate) mod link;
pub(crate) mod links;
pub(crate) mod listener;
pub(crate) mod outbound;
pub(crate) mod snapshot_receiver;
pub(crate) mod tls;
pub(crate) mod wire;
