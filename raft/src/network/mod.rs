//! Communication between nodes.
//!
//! Flow: [`links`] has one outgoing [`link`] for each peer and purpose, so that bulk data never delays a
//! heartbeat. [`listener`] accepts connections, and [`handshake`] refuses strangers. [`inbound`] answers
//! requests with the consensus core or the application. The consensus core sends through [`outbound`].
//! Nothing here decides about leadership or state.

pub(crate) mod contacts;
pub(crate) mod context;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod greetings;
pub(crate) mod handshake;
pub(crate) mod inbound;
pub(crate) mod link;
pub(crate) mod links;
pub(crate) mod listener;
pub(crate) mod outbound;
mod places;
mod refusal;
pub(crate) mod snapshot_receiver;
pub(crate) mod tls;
pub(crate) mod trust;
pub(crate) mod wire;
