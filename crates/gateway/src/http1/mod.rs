//! HTTP/1.1 to instances (RFC 9112). A connection carries one request at a time.
//!
//! Place in the flow: the pool keeps idle [`Connection`]s, an attempt sends a request on one, and [`Received`] is the
//! content of the answer. No task and no queue stand between the request and the socket: the code that waits for the
//! head or reads the content also writes the rest of the request.
//!
//! **Invariant:** a connection is used again only after its request was written completely, its answer was read
//! completely, and nothing came after that answer.

mod connection;
mod encode;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod received;
mod send;

pub(crate) use connection::{Connection, Reason};
pub(crate) use received::Received;
pub(crate) use send::{Answered, Failure, OnInterim};
