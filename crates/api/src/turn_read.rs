//! Reads a connection in turns with the other tasks of its thread.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// So many bytes are read in one turn. The next read may exceed it.
const TURN_LEN: usize = 16 * 1_024;

/// Lets other tasks run after each [`TURN_LEN`] bytes. The HTTP library handles all frames that it can read before it
/// returns, and small frames without a request can be sent faster than they are handled.
pub(super) struct TurnRead<R> {
    read: R,
    left: usize,
}

impl<R> TurnRead<R> {
    pub(super) fn new(read: R) -> Self {
        Self { read, left: TURN_LEN }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for TurnRead<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left == 0 {
            this.left = TURN_LEN;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.read).poll_read(cx, buf);
        if polled.is_pending() {
            // The task waits, so the others have their turn.
            this.left = TURN_LEN;
        }
        ready!(polled)?;
        this.left = this.left.saturating_sub(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn others_have_their_turn_while_a_connection_has_much_to_read() {
        let bytes = vec![7; 10 * TURN_LEN];
        let mut read = TurnRead::new(&bytes[..]);
        let reading = async {
            let mut seen = Vec::new();
            let mut part = [0; 1_000];
            loop {
                match read.read(&mut part).await.unwrap() {
                    0 => return seen,
                    len => seen.extend_from_slice(&part[..len]),
                }
            }
        };
        let mut turns = 0;
        let others = async {
            loop {
                turns += 1;
                tokio::task::yield_now().await;
            }
        };
        let seen = tokio::select! {
            biased;
            seen = reading => seen,
            () = others => unreachable!(),
        };
        assert_eq!(seen, bytes);
        assert!((9..=10).contains(&turns), "{turns}");
    }
}
