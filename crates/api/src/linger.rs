//! Closes connections so that their last answer arrives.
//!
//! If a socket is closed while bytes of its client are unread, the connection is reset. The client then loses what it
//! has not read yet, for example an answer that was sent before the end of its request. So the sending direction is
//! closed first, and incoming bytes are discarded for a moment.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long to wait until the client closes the connection or sends a byte.
const QUIET: Duration = Duration::from_millis(250);
/// How long incoming bytes are discarded, from the first one on.
const BUSY: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are discarded.
const DRAINED_LEN_MAX: usize = 16 * 1_024 * 1_024;

/// A connection that lingers when it is shut down.
#[derive(Debug)]
pub(super) struct LingeringStream<T> {
    io: T,
    ending: Option<Ending>,
}

#[derive(Debug)]
struct Ending {
    until: Pin<Box<Sleep>>,
    drained_len: usize,
}

impl<T> LingeringStream<T> {
    pub(super) fn new(io: T) -> Self {
        Self { io, ending: None }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for LingeringStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LingeringStream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ending.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        let ending = this.ending.get_or_insert_with(|| Ending {
            until: Box::pin(tokio::time::sleep(QUIET)),
            drained_len: 0,
        });
        let mut waste = [0; 4_096];
        loop {
            if ending.drained_len > DRAINED_LEN_MAX || ending.until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut read = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {
                    if ending.drained_len == 0 {
                        ending.until = Box::pin(tokio::time::sleep(BUSY));
                    }
                    ending.drained_len += read.filled().len();
                }
                // The client has closed the connection, or it broke.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn an_answer_before_the_requests_end_arrives() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = LingeringStream::new(stream);
            stream.write_all(b"no").await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&vec![7; 4 * 1_024 * 1_024]).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"no");
        drop(client);
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_ends_is_not_waited_for_longer() {
        let (near, mut far) = tokio::io::duplex(64);
        let ended = tokio::spawn(async move { LingeringStream::new(near).shutdown().await });
        tokio::time::timeout(2 * QUIET, ended).await.unwrap().unwrap().unwrap();
        let (near, mut busy) = tokio::io::duplex(64);
        let ended = tokio::spawn(async move { LingeringStream::new(near).shutdown().await });
        let sends = tokio::spawn(async move { while busy.write_all(b"more").await.is_ok() {} });
        tokio::time::timeout(2 * BUSY, ended).await.unwrap().unwrap().unwrap();
        sends.await.unwrap();
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    }
}
