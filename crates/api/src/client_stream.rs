//! A client's connection, with or without TLS, split into its two directions.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::server::TlsStream;

use maxine_admission::Leave;

/// The direction in which the client sends.
pub(super) struct ClientRead {
    half: ReadHalf,
    /// Told when bytes have moved.
    leave: Option<Arc<Leave>>,
}

enum ReadHalf {
    Plain(OwnedReadHalf),
    Tls(tokio::io::ReadHalf<TlsStream<TcpStream>>),
}

/// The direction in which the client receives. With TLS, bytes that were written may stay in this process until they
/// are flushed.
pub(super) struct ClientWrite {
    half: WriteHalf,
    /// Told when bytes have moved.
    leave: Option<Arc<Leave>>,
}

enum WriteHalf {
    Plain(OwnedWriteHalf),
    Tls(tokio::io::WriteHalf<TlsStream<TcpStream>>),
}

/// Splits a connection without TLS.
pub(super) fn plain(stream: TcpStream) -> (ClientRead, ClientWrite) {
    let (read, write) = stream.into_split();
    halves(ReadHalf::Plain(read), WriteHalf::Plain(write))
}

/// Splits a connection with TLS.
pub(super) fn tls(stream: TlsStream<TcpStream>) -> (ClientRead, ClientWrite) {
    let (read, write) = tokio::io::split(stream);
    halves(ReadHalf::Tls(read), WriteHalf::Tls(write))
}

fn halves(read: ReadHalf, write: WriteHalf) -> (ClientRead, ClientWrite) {
    (ClientRead { half: read, leave: None }, ClientWrite { half: write, leave: None })
}

/// Tells `leave` from now on when bytes have moved on the connection.
pub(super) fn tell(
    leave: &Arc<Leave>,
    (read, write): (ClientRead, ClientWrite),
) -> (ClientRead, ClientWrite) {
    let leave = || Some(Arc::clone(leave));
    (ClientRead { leave: leave(), ..read }, ClientWrite { leave: leave(), ..write })
}

/// Tells that bytes have moved.
fn moved(leave: Option<&Arc<Leave>>) {
    if let Some(leave) = leave {
        leave.moved();
    }
}

impl ClientWrite {
    /// Writes as many bytes as the system accepts at once, and returns their number. With TLS it writes nothing,
    /// because a record that the system does not accept completely must be flushed later.
    pub(super) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        // Even an empty write would cost a system call.
        if bytes.is_empty() {
            return Ok(0);
        }
        match &self.half {
            WriteHalf::Plain(write) => match write.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                written => {
                    moved(self.leave.as_ref());
                    written
                }
            },
            WriteHalf::Tls(_) => Ok(0),
        }
    }
}

impl AsyncRead for ClientRead {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { half, leave } = self.get_mut();
        let read = match half {
            ReadHalf::Plain(read) => Pin::new(read).poll_read(cx, buf),
            ReadHalf::Tls(read) => Pin::new(read).poll_read(cx, buf),
        };
        if read.is_ready() {
            moved(leave.as_ref());
        }
        read
    }
}

impl AsyncWrite for ClientWrite {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { half, leave } = self.get_mut();
        let written = match half {
            WriteHalf::Plain(write) => Pin::new(write).poll_write(cx, bytes),
            WriteHalf::Tls(write) => Pin::new(write).poll_write(cx, bytes),
        };
        if written.is_ready() {
            moved(leave.as_ref());
        }
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { half, leave } = self.get_mut();
        let written = match half {
            WriteHalf::Plain(write) => Pin::new(write).poll_write_vectored(cx, parts),
            WriteHalf::Tls(write) => Pin::new(write).poll_write_vectored(cx, parts),
        };
        if written.is_ready() {
            moved(leave.as_ref());
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.half {
            WriteHalf::Plain(write) => write.is_write_vectored(),
            WriteHalf::Tls(write) => write.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().half {
            WriteHalf::Plain(write) => Pin::new(write).poll_flush(cx),
            WriteHalf::Tls(write) => Pin::new(write).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().half {
            WriteHalf::Plain(write) => Pin::new(write).poll_shutdown(cx),
            WriteHalf::Tls(write) => Pin::new(write).poll_shutdown(cx),
        }
    }
}
