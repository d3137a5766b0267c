//! One exchange on a client's connection: a request whose head was read, and its answer.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, Version};
use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::{Question, Upgrade, push_head};
use super::content::{Content, Reader};
use super::framing::Framing;
use super::interim::Interim;
use super::request::RequestHead;
use super::request_content::{RequestContent, Returned, Shelf};
use super::sending::Sending;

/// Room for the head of an answer, in bytes.
const HEAD_LEN: usize = 512;
/// Number of bytes that are read to learn whether the client has gone. A longer buffer would be held by every request
/// that waits.
const PEEK_LEN: usize = 256;

/// A client's connection between two requests.
#[derive(Debug)]
pub struct Connection<R, W> {
    /// The reading half.
    pub read: R,
    /// The writing half.
    pub write: W,
    /// What was read and belongs to the next requests.
    pub bytes: BytesMut,
}

/// The client has gone. Nothing was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client has closed the connection")]
pub struct Lost;

/// A request whose answer is there, and not written yet.
#[derive(Debug)]
pub struct Asked<R, W> {
    reading: Reading<R>,
    write: W,
    question: Question,
    interim: Interim,
}

/// A connection after an answer.
#[derive(Debug)]
pub enum After<R, W> {
    /// It may have another request.
    Open(Connection<R, W>),
    /// The answer was written, and the connection has to be closed so that the answer arrives.
    Ending(Connection<R, W>),
    /// It is closed, or another protocol goes on with it.
    Gone,
}

/// Who has the reading half.
#[derive(Debug)]
enum Reading<R> {
    /// The content of the request was read to its end, or as far as anyone wanted.
    Here(Reader<R>, Content),
    /// Whoever reads the content.
    Lent(Arc<Shelf<R>>),
}

impl<R, W> Connection<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// Has `answer` answer the request with this head, which was taken from the connection. Its interim answers are
    /// written at once. Dropping the future, or losing the client, drops what `answer` returned.
    pub async fn ask<A, B>(
        self,
        head: RequestHead,
        answer: impl FnOnce(Request<RequestContent<R>>, Interim) -> A,
    ) -> Result<(Response<B>, Asked<R, W>), Lost>
    where
        A: Future<Output = Response<B>>,
    {
        let Self { read, mut write, bytes } = self;
        let RequestHead { parts, framing, keeps_open, expects_continue } = head;
        let question =
            Question { method: parts.method.clone(), version: parts.version, keeps_open };
        let interim = Interim::default();
        let (reader, content) = (Reader::new(read, bytes), Content::new(framing));
        let (body, mut reading) = if framing == Framing::Length(0) {
            (RequestContent::empty(), Reading::Here(reader, content))
        } else {
            let expecting = expects_continue.then(|| interim.clone());
            let (body, shelf) = RequestContent::arriving(reader, content, expecting);
            (body, Reading::Lent(shelf))
        };
        let takes_interim = parts.version == Version::HTTP_11;
        let mut answer = pin!(answer(Request::from_parts(parts, body), interim.clone()));
        let response = poll_fn(|cx| {
            if let Poll::Ready(response) = answer.as_mut().poll(cx) {
                return Poll::Ready(Ok(response));
            }
            if takes_interim && let Poll::Ready(Err(_)) = interim.poll_write(cx, &mut write) {
                return Poll::Ready(Err(Lost));
            }
            reading.poll_lost(cx).map(|()| Err(Lost))
        });
        let response = response.await?;
        Ok((response, Asked { reading, write, question, interim }))
    }
}

impl<R, W> Connection<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// Writes an answer to bytes that are no request. The connection ends with it.
    pub async fn refuse<B>(self, response: Response<B>, time_ms: u64) -> After<R, W>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let Self { read, write, bytes } = self;
        let nothing = Content::new(Framing::Length(0));
        let reading = Reading::Here(Reader::new(read, bytes), nothing);
        let (method, version) = (Method::GET, Version::HTTP_11);
        let question = Question { method, version, keeps_open: false };
        let asked = Asked { reading, write, question, interim: Interim::default() };
        asked.send(response, false, time_ms).await
    }
}

impl<R, W> Asked<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// Writes the answer. `may_stay` is whether the connection may have another request. `time_ms` is the answer's
    /// date, in milliseconds since the Unix epoch.
    pub async fn send<B>(self, response: Response<B>, may_stay: bool, time_ms: u64) -> After<R, W>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let Self { mut reading, mut write, mut question, interim } = self;
        let (parts, body) = response.into_parts();
        question.keeps_open &= may_stay;
        let is_refusal = parts.status.is_client_error() || parts.status.is_server_error();
        // Whoever refuses a request does not wait for its end. The client must know that the connection ends, because
        // the rest of the content would be read as its next request.
        if is_refusal && !reading.is_content_over() {
            question.keeps_open = false;
        }
        let mut front = interim.close();
        front.reserve(HEAD_LEN);
        let following = push_head(&mut front, &parts, &body, &question, time_ms);
        let body = following.coding.and_then(|_| (!body.is_end_stream()).then_some(body));
        let coding = following.coding.unwrap_or(super::Coding::Length(0));
        let mut sending = Sending::new(front, coding, following.announced, body);
        let sent = poll_fn(|cx| match sending.poll_write(&mut write, cx) {
            Poll::Ready(sent) => Poll::Ready(sent.is_ok()),
            Poll::Pending => reading.poll_lost(cx).map(|()| false),
        });
        if !sent.await {
            return After::Gone;
        }
        drop(sending);
        if following.keeps_open {
            // Whoever answers before the end of a request may still read it.
            poll_fn(|cx| reading.poll_here(cx)).await;
        }
        let is_over = reading.is_content_over();
        let Reading::Here(mut reader, _) = reading else { return After::Gone };
        if let Some(upgrade) = parts.extensions.get::<Upgrade>() {
            upgrade.complete(reader.io, write, reader.bytes.freeze());
            return After::Gone;
        }
        reader.shrink();
        let connection = Connection { read: reader.io, write, bytes: reader.bytes };
        if following.keeps_open && is_over {
            After::Open(connection)
        } else {
            After::Ending(connection)
        }
    }
}

impl<R: AsyncRead + Unpin> Reading<R> {
    /// Ready once the client has closed the connection. What it sends beside that waits for its turn.
    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_here(cx));
        let Self::Here(reader, content) = self else { return Poll::Ready(()) };
        if !content.is_over() || !reader.bytes.is_empty() {
            return Poll::Pending;
        }
        let mut few = [const { MaybeUninit::uninit() }; PEEK_LEN];
        let mut few = ReadBuf::uninit(&mut few);
        match ready!(Pin::new(&mut reader.io).poll_read(cx, &mut few)) {
            Ok(()) if !few.filled().is_empty() => {
                reader.bytes.extend_from_slice(few.filled());
                Poll::Pending
            }
            Ok(()) | Err(_) => Poll::Ready(()),
        }
    }

    /// Waits until the reading half is here.
    fn poll_here(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Lent(shelf) = self {
            let Returned { reader, content } = ready!(shelf.poll_take(cx));
            *self = Self::Here(reader, content);
        }
        Poll::Ready(())
    }

    /// Whether the content was read to its end. Content that nobody wants and that has arrived already is passed over.
    fn is_content_over(&mut self) -> bool {
        if let Self::Lent(shelf) = self
            && let Some(Returned { reader, content }) = shelf.take()
        {
            *self = Self::Here(reader, content);
        }
        let Self::Here(reader, content) = self else { return false };
        while let Ok(Some(_)) = content.next(&mut reader.bytes) {}
        content.is_over()
    }
}
