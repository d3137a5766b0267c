//! The content of an answer, read from the connection as the client takes it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::super::connect::Stream;
use super::chunks::{Decoder, Part};
use super::connection::{Connection, Reason};
use super::head::{AnswerHead, Framing};
use super::sending::Sending;

/// What is left of the content.
#[derive(Clone, Copy, Debug)]
enum Left {
    Length(u64),
    Chunks(Decoder),
    UntilClose,
    Nothing,
}

/// The content of an answer. Dropping it closes the connection.
pub(crate) enum Received {
    /// Read here.
    Direct(Box<Direct>),
    /// Read by a task, which also writes the rest of the request, whether or not the client takes the answer. An
    /// instance that answers before the end of the request must not have to wait for the client.
    ByTask { parts: mpsc::Receiver<Result<Frame<Bytes>, Reason>>, left: Option<u64>, is_over: bool },
}

/// What reads the content of an answer from its connection.
pub(crate) struct Direct {
    connection: Option<Connection>,
    /// What is left of the request.
    sending: Sending,
    left: Left,
    keeps_open: bool,
}

impl Received {
    /// The answer with this head.
    pub(super) fn answer(
        head: AnswerHead,
        connection: Connection,
        sending: Sending,
    ) -> Response<Self> {
        let left = match head.framing {
            Framing::Length(0) => Left::Nothing,
            Framing::Length(len) => Left::Length(len),
            Framing::Chunked => Left::Chunks(Decoder::new()),
            Framing::UntilClose => Left::UntilClose,
        };
        let keeps_open = head.keeps_open;
        let is_early = !sending.is_done() && !matches!(left, Left::Nothing);
        let direct = Direct { connection: Some(connection), sending, left, keeps_open };
        let content = if is_early { direct.by_task() } else { Self::Direct(Box::new(direct)) };
        Response::from_parts(head.parts, content)
    }

    /// The connection, once the answer was read whole and another request may follow on it.
    pub(crate) fn take_connection(&mut self) -> Option<Connection> {
        let Self::Direct(direct) = self else { return None };
        let is_over = matches!(direct.left, Left::Nothing) && direct.sending.is_done();
        let connection = direct.connection.take()?;
        if is_over && direct.keeps_open { connection.after_answer() } else { None }
    }

    /// The connection after `101`, and what was already read of the other protocol.
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

    /// Reads the content until its end, or until nobody wants it.
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
                    // If nobody waits for it, nobody needs to know.
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

    /// The next part among the bytes that were read; `None` if more are needed.
    fn next(&mut self) -> Result<Option<Frame<Bytes>>, Reason> {
        let Some(connection) = &mut self.connection else { return Ok(None) };
        let bytes = &mut connection.bytes;
        match &mut self.left {
            Left::Nothing => Ok(None),
            _ if bytes.is_empty() => Ok(None),
            Left::UntilClose => Ok(Some(Frame::data(bytes.split().freeze()))),
            Left::Length(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= len as u64;
                let data = bytes.split_to(len).freeze();
                if *left == 0 {
                    self.left = Left::Nothing;
                }
                Ok(Some(Frame::data(data)))
            }
            Left::Chunks(decoder) => match decoder.decode(bytes).map_err(|_| Reason::NotHttp)? {
                None => Ok(None),
                Some(Part::Data(data)) => Ok(Some(Frame::data(data))),
                Some(Part::End(fields)) => {
                    self.left = Left::Nothing;
                    Ok(fields.map(Frame::trailers))
                }
            },
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
            if let Some(frame) = this.next()? {
                return Poll::Ready(Some(Ok(frame)));
            }
            let Some(connection) = &mut this.connection else { return Poll::Ready(None) };
            if matches!(this.left, Left::Nothing) {
                return Poll::Ready(None);
            }
            match ready!(connection.poll_read(cx)) {
                Ok(0) if matches!(this.left, Left::UntilClose) => {
                    this.left = Left::Nothing;
                    return Poll::Ready(None);
                }
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(Reason::Closed))),
                Ok(_) => {}
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.left, Left::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Left::Length(left) => SizeHint::with_exact(left),
            Left::Nothing => SizeHint::with_exact(0),
            Left::Chunks(_) | Left::UntilClose => SizeHint::default(),
        }
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
