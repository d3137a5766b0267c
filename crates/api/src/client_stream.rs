//! A client's connection, with or without TLS, split into its two directions.

use std::io;

use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either::{self, Left as Plain, Right as Tls};

/// The direction in which the client sends: without TLS, or with it.
pub(super) type ClientRead = Either<OwnedReadHalf, ReadHalf<TlsStream<TcpStream>>>;

/// The direction in which the client receives: without TLS, or with it. With TLS, bytes that were written may stay in
/// this process until they are flushed.
pub(super) type ClientWrite = Either<OwnedWriteHalf, WriteHalf<TlsStream<TcpStream>>>;

/// Splits a connection without TLS.
pub(super) fn plain(stream: TcpStream) -> (ClientRead, ClientWrite) {
    let (read, write) = stream.into_split();
    (Plain(read), Plain(write))
}

/// Splits a connection with TLS.
pub(super) fn tls(stream: TlsStream<TcpStream>) -> (ClientRead, ClientWrite) {
    let (read, write) = tokio::io::split(stream);
    (Tls(read), Tls(write))
}

/// Writes as many bytes as the system accepts at once, and returns their number. With TLS it writes nothing, because a
/// record that the system does not accept completely must be flushed later.
pub(super) fn write_now(write: &ClientWrite, bytes: &[u8]) -> io::Result<usize> {
    // Even an empty write would cost a system call.
    if bytes.is_empty() {
        return Ok(0);
    }
    match write {
        Plain(write) => match write.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        },
        Tls(_) => Ok(0),
    }
}
