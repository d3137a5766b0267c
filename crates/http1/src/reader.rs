//! Reads from a connection into a buffer, and takes parts out of it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncRead;

/// Number of bytes to read at first. It doubles, up to [`READ_LEN_MAX`], each time that a read fills it.
pub(super) const READ_LEN_MIN: usize = 8 * 1_024;
/// Maximum number of bytes that are read at once. If nobody takes them, a connection holds this much memory.
pub const READ_LEN_MAX: usize = 64 * 1_024;

/// A part of the content that is shorter than this (in bytes) is copied out of the buffer. A longer part shares the
/// buffer, which then cannot be reused. So a part never keeps more than four times its own length in memory.
const SHARED_LEN_MIN: usize = READ_LEN_MAX / 4;

/// Takes the first `len` bytes out of `bytes`.
pub(super) fn take(bytes: &mut BytesMut, len: usize) -> Bytes {
    if len >= SHARED_LEN_MIN {
        return bytes.split_to(len).freeze();
    }
    let part = Bytes::copy_from_slice(&bytes[..len]);
    bytes.advance(len);
    part
}

/// Reads from a connection into a buffer.
#[derive(Debug)]
pub struct Reader<R> {
    /// The connection.
    pub io: R,
    /// Bytes that were read and not taken yet.
    pub bytes: BytesMut,
    read_len: usize,
}

impl<R> Reader<R> {
    /// Reads from `io`, from which `bytes` were already read.
    #[must_use]
    pub fn new(io: R, bytes: BytesMut) -> Self {
        Self { io, bytes, read_len: READ_LEN_MIN }
    }

    /// Frees the buffer if it is empty, so that an idle connection holds none.
    pub fn shrink(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
            self.read_len = READ_LEN_MIN;
        }
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads more bytes into the buffer, and returns their number. It is 0 when the peer sends no more.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.bytes.reserve(self.read_len);
        let io = Pin::new(&mut self.io);
        let len = ready!(tokio_util::io::poll_read_buf(io, cx, &mut self.bytes))?;
        if len >= self.read_len {
            self.read_len = (self.read_len * 2).min(READ_LEN_MAX);
        }
        Poll::Ready(Ok(len))
    }
}
