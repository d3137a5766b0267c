//! An upgraded connection: copies bytes in both directions until one side ends, or until nothing moves for too long.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use maxine_http1::Tunnel;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;

use super::connect::Stream;
use super::in_flight::InFlightGuard;
use super::pool::Lease;
use super::upstream::InFlight;

/// Length of the buffer for each direction, in bytes.
const BUFFER_LEN: usize = 16 * 1024;

/// What a tunnel holds until it ends: the connection's lease and the counters.
pub(crate) type TunnelHold = (Lease, InFlight, InFlightGuard);

/// Copies bytes until the end of the tunnel. `client` receives the client's connection, and `upstream` is the
/// instance's connection with the bytes that were already read from it. A tunnel in which nothing moves for `idle` is
/// closed, and so is one whose slot or connection a client with fewer of them needs.
pub(crate) async fn run(
    client: oneshot::Receiver<Tunnel>,
    (upstream, mut read): (Stream, Bytes),
    idle: Duration,
    hold: TunnelHold,
) {
    let Ok(Tunnel { io: client, closed, held }) = client.await else {
        tracing::debug!("the client of an upgrade has gone");
        return;
    };
    let moved = Arc::new(AtomicU64::new(0));
    let mut client = Counted { io: client, moved: Arc::clone(&moved) };
    let mut upstream = Counted { io: upstream, moved: Arc::clone(&moved) };
    let carry = async {
        client.write_all_buf(&mut read).await?;
        client.flush().await?;
        tokio::io::copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER_LEN, BUFFER_LEN)
            .await
    };
    let stalled = async {
        let mut seen = moved.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(idle).await;
            let now = moved.load(Ordering::Relaxed);
            if now == seen {
                return;
            }
            seen = now;
        }
    };
    tokio::select! {
        ended = carry => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a tunnel broke off");
            }
        }
        () = stalled => tracing::debug!("a tunnel was closed because nothing moved"),
        () = hold.0.leave().displaced() => tracing::debug!("a tunnel was closed for another client"),
        () = closed => tracing::debug!("a tunnel was closed because another client needs its connection"),
    }
    drop((client, upstream));
    drop((hold, held));
}

/// Counts the bytes that are read, so that an idle tunnel is detected.
struct Counted<T> {
    io: T,
    moved: Arc<AtomicU64>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.moved.fetch_add(read as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
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
