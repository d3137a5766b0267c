//! A TCP connection to an instance that knows what was written to it.
//!
//! A request that goes out on a used connection can cross the instance's closing of it. Whether the
//! request may then go out again depends on whether any of it was written: this type counts the
//! bytes, and looks once more whether the other side has closed right before a request's first byte.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use maxine_admission::Place;

/// What is known of the bytes on a connection.
#[derive(Debug, Default)]
pub(crate) struct WireState {
    written: AtomicU64,
    check_next: AtomicBool,
}

impl WireState {
    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Has the next write fail, with nothing written, if the other side has closed or sent
    /// something meanwhile.
    pub(crate) fn check_before_next_write(&self) {
        self.check_next.store(true, Ordering::Release);
    }
}

/// A TCP connection.
#[derive(Debug)]
pub(crate) struct Wire {
    tcp: TcpStream,
    state: Arc<WireState>,
    /// Held until the connection is closed.
    _place: Place,
}

impl Wire {
    pub(crate) fn new(tcp: TcpStream, place: Place) -> Self {
        Self { tcp, state: Arc::default(), _place: place }
    }

    pub(crate) fn state(&self) -> &Arc<WireState> {
        &self.state
    }

    /// Whether a request may begin here: between two requests an instance has nothing to send.
    fn check(&self) -> io::Result<()> {
        if !self.state.check_next.load(Ordering::Acquire) {
            return Ok(());
        }
        self.state.check_next.store(false, Ordering::Release);
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(self.tcp.as_raw_fd(), &mut [0], flags) {
            Err(Errno::EAGAIN) => Ok(()),
            _ => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(len)) = &written {
            self.state.written.fetch_add(*len as u64, Ordering::AcqRel);
        }
        written
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        let written = Pin::new(&mut this.tcp).poll_write(cx, buf);
        this.count(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        let written = Pin::new(&mut this.tcp).poll_write_vectored(cx, bufs);
        this.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use maxine_admission::{PlaceLimits, Places, Standing};

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_closed_takes_nothing_of_the_next_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let places = Places::new(PlaceLimits { max: 1, per_address_max: 1, reserved: 0 });
        let place = places.take([127, 0, 0, 1].into(), Standing::Stranger, 1).unwrap();
        let mut wire = Wire::new(tcp, place);
        let state = Arc::clone(wire.state());
        state.check_before_next_write();
        wire.write_all(b"one").await.unwrap();
        assert_eq!(state.written(), 3);
        drop(server);
        state.check_before_next_write();
        wire.write_all(b"two").await.unwrap_err();
        assert_eq!(state.written(), 3, "nothing was written");
    }
}
