//! Hands a connection over to another protocol (RFC 9110 section 7.8).

use std::io::Cursor;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::oneshot;

use super::connection::Connection;

/// Both directions of a connection after `101`, with what was already read of the other protocol.
pub trait Upgraded: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Upgraded for T {}

/// A connection with which another protocol goes on.
pub struct Tunnel {
    /// The connection.
    pub io: Box<dyn Upgraded>,
    /// What must be held until the connection is closed.
    pub held: Box<dyn Send>,
}

/// Receives the connection after an answer with `101`. An extension of that answer.
#[derive(Clone)]
pub struct Upgrade(Arc<Mutex<Option<TunnelSender>>>);

type TunnelSender = oneshot::Sender<Tunnel>;

impl std::fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upgrade")
    }
}

impl Upgrade {
    /// The extension, and where the connection arrives once the answer was written. It never arrives if the client
    /// has gone.
    #[must_use]
    pub fn new() -> (Self, oneshot::Receiver<Tunnel>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Hands the connection over, with what must be held as long as it is open.
    pub fn complete<R, W>(self, connection: Connection<R, W>, held: impl Send + 'static)
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let Some(to) = self.0.lock().take() else { return };
        let Connection { read, write, bytes } = connection;
        let io = Box::new(tokio::io::join(Cursor::new(bytes).chain(read), write));
        // Without a receiver, nobody wants the connection any more.
        let _ = to.send(Tunnel { io, held: Box::new(held) });
    }
}
