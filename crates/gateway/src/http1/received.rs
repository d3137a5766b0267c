//! The content of an answer. It is read from the connection as fast as the client takes it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use maxine_http1::{AnswerHead, Content, Sending};
use tokio::sync::mpsc;

use super::super::connect::Stream;
use super::super::request_body::RequestBody;
use super::connection::{Connection, Reason};

/// The content of an answer. Dropping it closes the connection.
pub(crate) enum Received {
    /// The content is read by whoever polls this value.
    Direct(Box<Direct>),
    /// A task reads the content and writes the rest of the request, even if the client does not take the answer. So an
    /// instance that answers before the end of the request need not wait for the client.
    ByTask { parts: mpsc::Receiver<Result<Frame<Bytes>, Reason>>, left: Option<u64>, is_over: bool },
}

/// Reads the content of an answer from its connection.
pub(crate) struct Direct {
    connection: Option<Connection>,
    /// The rest of the request.
    sending: Sending<RequestBody>,
    left: Content,
    keeps_open: bool,
}

impl Received {
    /// The response with this head.
    pub(super) fn answer(
        head: AnswerHead,
        connection: Connection,
        sending: Sending<RequestBody>,
    ) -> Response<Self> {
        let left = Content::new(head.framing);
        let keeps_open = head.keeps_open;
        let is_early = !sending.is_done() && !left.is_over();
        let direct = Direct { connection: Some(connection), sending, left, keeps_open };
        let content = if is_early { direct.by_task() } else { Self::Direct(Box::new(direct)) };
        Response::from_parts(head.parts, content)
    }

    /// The connection, if the answer was read completely and the connection can be used again.
    pub(crate) fn take_connection(&mut self) -> Option<Connection> {
        let Self::Direct(direct) = self else { return None };
        let is_over = direct.left.is_over() && direct.sending.is_done();
        let connection = direct.connection.take()?;
        if is_over && direct.keeps_open { connection.after_answer() } else { None }
    }

    /// The connection after `101`, and the bytes that were already read of the other protocol.
    pub(crate) fn into_stream(self) -> Option<(Stream, Bytes)> {
        let Self::Direct(direct) = self else { return None };
        direct.connection.map(Connection::into_stream)
    }
}

impl Direct {
    fn by_task(self) -> Received {
        let left = self.size_hint().exact();
        let (to, parts) = mpsc::channel(1);
        tokio::spawn(self.drive(to));
        Received::ByTask { parts, left, is_over: false }
    }

    /// Reads the content until its end, or until nobody wants it any more.
    async fn drive(mut self, to: mpsc::Sender<Result<Frame<Bytes>, Reason>>) {
        loop {
            let mut place = pin!(to.reserve());
            let place = poll_fn(|cx| {
                if let Some(connection) = &mut self.connection {
                    connection.poll_send(cx, &mut self.sending)?;
                }
                place.as_mut().poll(cx).map(Ok::<_, Reason>)
            });
            let place = match place.await {
                Ok(Ok(place)) => place,
                Ok(Err(_)) => return,
                Err(reason) => {
                    // The send fails only if nobody waits for the content.
                    let _ = to.send(Err(reason)).await;
                    return;
                }
            };
            let part = tokio::select! {
                () = to.closed() => return,
                part = poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)) => part,
            };
            let Some(part) = part else { return };
            let is_last = part.is_err();
            place.send(part);
            if is_last {
                return;
            }
        }
    }
}

impl Body for Direct {
    type Data = Bytes;
    type Error = Reason;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Reason>>> {
        let this = self.get_mut();
        loop {
            if let Some(connection) = &mut this.connection {
                connection.poll_send(cx, &mut this.sending)?;
            }
            let Some(connection) = &mut this.connection else { return Poll::Ready(None) };
            let next = this.left.next(&mut connection.reader.bytes);
            if let Some(frame) = next.map_err(|_| Reason::NotHttp)? {
                return Poll::Ready(Some(Ok(frame)));
            }
            if this.left.is_over() {
                return Poll::Ready(None);
            }
            match ready!(connection.reader.poll_read(cx)) {
                Ok(0) if this.left.ends_with_connection() => return Poll::Ready(None),
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(Reason::Closed))),
                Ok(_) => {}
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.size_hint()
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Reason;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Reason>>> {
        match self.get_mut() {
            Self::Direct(direct) => Pin::new(&mut **direct).poll_frame(cx),
            Self::ByTask { parts, left, is_over } => {
                let part = ready!(parts.poll_recv(cx));
                *is_over = part.is_none();
                if let (Some(Ok(frame)), Some(left)) = (&part, left) {
                    *left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
                }
                Poll::Ready(part)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Direct(direct) => direct.is_end_stream(),
            Self::ByTask { left, is_over, .. } => *is_over || *left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Direct(direct) => direct.size_hint(),
            Self::ByTask { left, .. } => left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
