//! A client's connection.

use bytes::BytesMut;

/// A client's connection between two requests.
#[derive(Debug)]
pub struct Connection<R, W> {
    /// The reading half.
    pub read: R,
    /// The writing half.
    pub write: W,
    /// Bytes that were read from the client and belong to its next requests.
    pub bytes: BytesMut,
}
