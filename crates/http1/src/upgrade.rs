//! Hands a connection over to another protocol (RFC 9110 section 7.8).

use std::io::{self, Cursor};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::connection::Connection;

/// Both directions of a connection after `101`, with what was already read of the other protocol.
pub trait Upgraded: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Upgraded for T {}

/// Receives the connection after an answer with `101`. An extension of that answer.
#[derive(Clone)]
pub struct Upgrade(Arc<Mutex<Option<Receiver>>>);

type Receiver = oneshot::Sender<Box<dyn Upgraded>>;

impl std::fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upgrade")
    }
}

impl Upgrade {
    /// The extension, and where the connection arrives once the answer was written. It never arrives if the client
    /// has gone.
    #[must_use]
    pub fn new() -> (Self, oneshot::Receiver<Box<dyn Upgraded>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Hands the connection over, with what must be held as long as it is open.
    pub fn complete<R, W>(self, connection: Connection<R, W>, held: impl Send + Unpin + 'static)
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let Some(to) = self.0.lock().take() else { return };
        let Connection { read, write, bytes } = connection;
        let io = tokio::io::join(Cursor::new(bytes).chain(read), write);
        // Without a receiver, nobody wants the connection any more.
        let _ = to.send(Box::new(Holding { io, _held: held }));
    }
}

/// A connection, and what is held as long as it is open.
struct Holding<T, H> {
    io: T,
    _held: H,
}

impl<T: AsyncRead + Unpin, H: Unpin> AsyncRead for Holding<T, H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin, H: Unpin> AsyncWrite for Holding<T, H> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
