//! The rest of a request's body over HTTP/2 that nobody has read.
//!
//! If an answer ends before its request, the library resets the stream with NO_ERROR (RFC 9113 section 8.1). Some
//! clients then report an error instead of the status, for example curl 7.88. So the rest of a short body is read and
//! discarded before a refusal is sent. Over HTTP/1, [`super::linger`] has the same purpose.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use parking_lot::Mutex;

use super::send_monitor::Reader;
use maxine_admission::{Leave, Places};

/// Maximum number of bytes that are discarded.
const LEN_MAX: usize = 64 * 1_024;
/// How long to wait for the end of the body.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes that count as in flight meanwhile, for the part of the body that has just arrived.
const COUNTED_LEN: usize = 8 * 1_024;

/// The place for what is left of one request's body.
#[derive(Clone, Debug, Default)]
pub(super) struct UnreadBody(Arc<Mutex<Option<Incoming>>>);

impl UnreadBody {
    /// A body that comes to this place if it is dropped before its end.
    pub(super) fn keep(&self, incoming: Incoming) -> KeptBody {
        KeptBody { incoming: Some(incoming), unread: self.clone() }
    }

    /// Reads and discards what is left, if it is short and arrives soon, and if there is room for it.
    pub(super) async fn discard(&self, places: &Arc<Places>, reader: Reader) {
        let left = self.0.lock().take();
        let Some(body) = left else { return };
        let Ok(mut place) = places.take(reader.address, reader.caller_class, COUNTED_LEN) else {
            return;
        };
        let leave = Arc::new(Leave::after(Duration::ZERO));
        place.give_way(&leave);
        tokio::select! {
            () = read_to_end(body) => {}
            () = leave.displaced() => {}
        }
    }
}

/// Reads a body to its end, unless it is long or slow. Its bytes are discarded.
async fn read_to_end<B: HttpBody<Data = Bytes> + Unpin>(mut body: B) {
    if body.size_hint().lower() > LEN_MAX as u64 {
        return;
    }
    let reading = async {
        let mut len = 0;
        while let Some(Ok(frame)) = body.frame().await {
            len += frame.data_ref().map_or(0, Bytes::len);
            if len > LEN_MAX {
                return;
            }
        }
    };
    // The stream of a body that does not end in time is reset.
    let _ = tokio::time::timeout(TIMEOUT, reading).await;
}

/// The body of a request. If it is dropped before its end, the rest comes to an [`UnreadBody`].
#[derive(Debug)]
pub(super) struct KeptBody {
    /// `None` only while this is dropped.
    incoming: Option<Incoming>,
    unread: UnreadBody,
}

impl HttpBody for KeptBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.get_mut().incoming {
            Some(incoming) => Pin::new(incoming).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for KeptBody {
    fn drop(&mut self) {
        let rest = self.incoming.take().filter(|incoming| !incoming.is_end_stream());
        if rest.is_some() {
            *self.unread.0.lock() = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// A body of parts of `part_len` bytes. After `parts` of them, it neither continues nor ends.
    struct Parts<'a> {
        announced_len: u64,
        part_len: usize,
        parts: usize,
        read: &'a mut usize,
    }

    impl HttpBody for Parts<'_> {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let this = self.get_mut();
            if this.parts == 0 {
                return Poll::Pending;
            }
            this.parts -= 1;
            *this.read += this.part_len;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; this.part_len])))))
        }

        fn size_hint(&self) -> SizeHint {
            let mut hint = SizeHint::new();
            hint.set_lower(self.announced_len);
            hint
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_waited_for_no_longer_than_the_time_limit() {
        let mut read = 0;
        let body = Parts { announced_len: 9, part_len: 4, parts: 2, read: &mut read };
        tokio::time::timeout(2 * TIMEOUT, read_to_end(body)).await.unwrap();
        assert_eq!(read, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_body_is_not_read_to_its_end() {
        let mut read = 0;
        let body = Parts { announced_len: 0, part_len: 1_024, parts: 1_024, read: &mut read };
        tokio::time::timeout(TIMEOUT / 2, read_to_end(body)).await.unwrap();
        assert_eq!(read, LEN_MAX + 1_024);
        let announced_len = LEN_MAX as u64 + 1;
        let body = Parts { announced_len, part_len: 1, parts: 1, read: &mut read };
        tokio::time::timeout(TIMEOUT / 2, read_to_end(body)).await.unwrap();
        assert_eq!(read, LEN_MAX + 1_024, "nothing more was read");
    }
}
