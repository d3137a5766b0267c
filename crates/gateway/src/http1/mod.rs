//! HTTP/1.1 to instances: one connection, one request at a time (RFC 9112).
//!
//! Place in the flow: the pool keeps [`Connection`]s between requests, an attempt sends a request on one, and
//! [`Received`] is the content of the answer. No task and no queue stand between the request and the socket: whoever
//! waits for the head or reads the content also writes what is left of the request.
//!
//! **Invariant:** a connection is used again only after its request was written whole, its answer was read whole,
//! and nothing came after that answer.

mod connection;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod received;
mod sending;

pub(crate) use connection::{Answered, Connection, Failure, OnInterim, Reason};
pub(crate) use received::Received;
