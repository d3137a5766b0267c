//! A TCP connection to an instance. It knows which client is charged with it, and whether the instance is silent.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use maxine_admission::{CallerClass, Leave, NoPlace, Place};

/// The record of who uses a connection.
#[derive(Debug)]
pub(crate) struct WireState(Mutex<Usage>);

/// How many requests use a connection. The address of the first of these requests is charged with the connection.
#[derive(Debug)]
struct Usage {
    requests: usize,
    /// The place of the connection. `None` once the connection is closed or given up.
    place: Option<Place>,
}

/// The use of a connection for one request. When the last use is dropped, nobody is charged with the connection.
#[derive(Debug)]
pub(crate) struct InUse(Arc<WireState>);

impl Drop for InUse {
    fn drop(&mut self) {
        let mut usage = self.0.0.lock();
        usage.requests -= 1;
        if usage.requests == 0
            && let Some(place) = &mut usage.place
        {
            place.set_unused();
        }
    }
}

impl WireState {
    /// The record of a new connection, in use for the request that opened it. Its client holds `place`.
    fn opened(place: Place) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Usage { requests: 1, place: Some(place) })))
    }

    /// The use for the request that opened the connection. Must be called at most once; without the call, that use ends
    /// with the connection. With `leave`, the request is asked to leave when another client needs the connection.
    pub(crate) fn first_use(self: &Arc<Self>, leave: Option<&Arc<Leave>>) -> InUse {
        if let (Some(place), Some(leave)) = (&mut self.0.lock().place, leave) {
            place.give_way(leave);
        }
        InUse(Arc::clone(self))
    }

    /// Uses the connection for a request of this client. The error is [`NoPlace::Address`] if the client uses as many
    /// connections as it may, and [`NoPlace::Node`] if the connection was given up or has to be. `leave` is as in
    /// [`Self::first_use`].
    pub(crate) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        caller_class: CallerClass,
        leave: Option<&Arc<Leave>>,
    ) -> Result<InUse, NoPlace> {
        let mut usage = self.0.lock();
        let is_first = usage.requests == 0;
        let Some(place) = &mut usage.place else { return Err(NoPlace::Node) };
        if is_first {
            place.set_user(address, caller_class)?;
            if let Some(leave) = leave {
                place.give_way(leave);
            }
        }
        usage.requests += 1;
        Ok(InUse(Arc::clone(self)))
    }

    /// Gives the place back if no request uses the connection, and returns whether it did so. The caller must close the
    /// connection then, because [`enter`](Self::enter) refuses from now on.
    pub(crate) fn give_up(&self) -> bool {
        let mut usage = self.0.lock();
        usage.requests == 0 && usage.place.take().is_some()
    }
}

/// A TCP connection.
#[derive(Debug)]
pub(crate) struct Wire {
    tcp: TcpStream,
    state: Arc<WireState>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        let place = self.state.0.lock().place.take();
        drop(place);
    }
}

impl Wire {
    /// A connection that holds `place` until it is closed.
    pub(crate) fn new(tcp: TcpStream, place: Place) -> Self {
        Self { tcp, state: WireState::opened(place) }
    }

    pub(crate) fn state(&self) -> &Arc<WireState> {
        &self.state
    }

    /// Whether the other side has neither closed the connection nor sent anything, as far as the system has reported
    /// it. This costs no system call if nothing was reported.
    pub(crate) fn is_silent(&self) -> bool {
        let mut cx = Context::from_waker(futures::task::noop_waker_ref());
        self.tcp.poll_read_ready(&mut cx).is_pending() || self.is_silent_now()
    }

    /// Like [`Self::is_silent`], but asks the system.
    pub(crate) fn is_silent_now(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.tcp.as_raw_fd(), &mut [0], flags) == Err(Errno::EAGAIN)
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
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, bufs)
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
    use maxine_admission::{CallerClass, PlaceLimits, Places};

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_closed_is_not_silent_and_its_place_becomes_free() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let places = Places::new(PlaceLimits { max: 1, per_address_max: 1, reserved: 0 });
        let place = places.take([127, 0, 0, 1].into(), CallerClass::Stranger, 1).unwrap();
        let mut wire = Wire::new(tcp, place);
        let state = Arc::clone(wire.state());
        assert!(wire.is_silent() && wire.is_silent_now());
        wire.write_all(b"one").await.unwrap();
        assert!(wire.is_silent_now());
        server.set_zero_linger().unwrap();
        drop(server);
        assert!(!wire.is_silent_now());
        wire.tcp.readable().await.unwrap();
        assert!(!wire.is_silent(), "the system has reported it");
        assert_eq!((places.taken(), places.unused()), (1, 0));
        drop(state.first_use(None));
        assert_eq!((places.taken(), places.unused()), (1, 1));
        let client = |last: u8| state.enter([10, 0, 0, last].into(), CallerClass::Stranger, None);
        let (one, other) = (client(1).unwrap(), client(2).unwrap());
        assert_eq!((places.unused(), state.give_up()), (0, false), "requests use it");
        drop(one);
        assert_eq!(places.unused(), 0, "another request still uses it");
        drop(other);
        assert_eq!((places.unused(), state.give_up(), places.taken()), (1, true, 0));
        assert_eq!(client(1).unwrap_err(), NoPlace::Node, "it was given up");
        drop(wire);
        assert_eq!(places.taken(), 0);
    }
}
