//! One exchange on a client's connection: a request whose head was read, and the answer to it.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, Version};
use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::{Question, push_head};
use super::connection::Connection;
use super::content::Content;
use super::framing::Framing;
use super::interim::Interim;
use super::reader::Reader;
use super::request::RequestHead;
use super::request_content::{Arriving, RequestContent};
use super::sending::Sending;
use super::upgrade::Upgrade;

/// Memory to reserve for the head of an answer, in bytes.
const HEAD_LEN: usize = 512;
/// Number of bytes that are read at once to learn whether the client has gone.
const PEEK_LEN: usize = 1_024;
/// While an answer is made, no more is read from a client that has sent this number of bytes behind its request.
const AHEAD_LEN_MAX: usize = 8 * 1_024;

/// The client has gone before its request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client has closed the connection")]
pub struct Lost;

/// A request that was answered, before the answer is written.
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
    /// The client may send another request.
    Open(Connection<R, W>),
    /// The answer was written, and the connection has to be closed so that the answer arrives.
    Ending(Connection<R, W>),
    /// Another protocol uses it from now on, once the upgrade is completed.
    Upgraded(Upgrade, Connection<R, W>),
    /// The answer was not written completely. The connection was dropped.
    Gone,
}

/// Who has the reading half of the connection.
#[derive(Debug)]
enum Reading<R> {
    /// The exchange. The content of the request was read to its end, or as far as anyone wanted.
    Here(Reader<R>, Content),
    /// The code that reads the content.
    Lent(Arc<Arriving<R>>),
}

impl<R, W> Connection<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// Calls `answer` with the request whose head was taken from the connection, and waits for its answer. Interim
    /// answers are written at once. If the client leaves, or this future is dropped, the future of `answer` is dropped.
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
            let (body, arriving) = RequestContent::arriving(reader, content, expecting);
            (body, Reading::Lent(arriving))
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
    /// Waits for `answer` to a request over HTTP/1.1 that has no content, and writes the interim answers to it. Bytes
    /// that the client sends meanwhile are kept for its next request.
    pub async fn wait<T>(
        &mut self,
        interim: &OnceLock<Interim>,
        mut answer: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Lost> {
        let done = poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Ok(answer));
            }
            if let Some(interim) = interim.get()
                && let Poll::Ready(Err(_)) = interim.poll_write(cx, &mut self.write)
            {
                return Poll::Ready(Err(Lost));
            }
            poll_gone(&mut self.read, &mut self.bytes, cx).map(|()| Err(Lost))
        });
        done.await
    }

    /// The state in which an answer may be sent to a request over HTTP/1.1 that has this method and no content.
    /// `interim` are its interim answers.
    #[must_use]
    pub fn asked(self, method: Method, interim: Interim) -> Asked<R, W> {
        let Self { read, write, bytes } = self;
        let nothing = Content::new(Framing::Length(0));
        let reading = Reading::Here(Reader::new(read, bytes), nothing);
        let question = Question { method, version: Version::HTTP_11, keeps_open: true };
        Asked { reading, write, question, interim }
    }

    /// Writes an answer to bytes that are not a request. The connection must be closed afterwards.
    pub async fn refuse<B>(self, response: Response<B>, time_ms: u64) -> After<R, W>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        self.asked(Method::GET, Interim::default()).send(response, false, time_ms).await
    }
}

impl<R, W> Asked<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// Writes the answer. `may_stay` is whether the connection may carry another request. `time_ms` is the time in the
    /// answer's `Date`, in milliseconds since the Unix epoch.
    pub async fn send<B>(self, response: Response<B>, may_stay: bool, time_ms: u64) -> After<R, W>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let Self { mut reading, mut write, mut question, interim } = self;
        let (parts, body) = response.into_parts();
        question.keeps_open &= may_stay;
        let is_refusal = parts.status.is_client_error() || parts.status.is_server_error();
        // A refusal does not wait for the end of its request. The answer must then say that the connection ends,
        // because the rest of the content would be taken for the next request.
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
            // The code that answered before the end of the request may still read the request.
            poll_fn(|cx| reading.poll_here(cx)).await;
        }
        let is_over = reading.is_content_over();
        let Some(mut reader) = reading.into_reader() else { return After::Gone };
        reader.shrink();
        let connection = Connection { read: reader.io, write, bytes: reader.bytes };
        if let Some(upgrade) = parts.extensions.get::<Upgrade>() {
            return After::Upgraded(upgrade.clone(), connection);
        }
        if following.keeps_open && is_over {
            After::Open(connection)
        } else {
            After::Ending(connection)
        }
    }
}

impl<R: AsyncRead + Unpin> Reading<R> {
    /// Ready once the client has closed the connection. Other bytes from the client are kept for its next request.
    /// While content is left that nobody reads, a departure is not noticed.
    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_here(cx));
        let Self::Here(reader, content) = self else { return Poll::Ready(()) };
        if !content.is_over() {
            return Poll::Pending;
        }
        poll_gone(&mut reader.io, &mut reader.bytes, cx)
    }

    /// Ready once nobody else has the reading half.
    fn poll_here(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Lent(arriving) = self
            && let Some((reader, content)) = ready!(arriving.poll_left(cx))
        {
            *self = Self::Here(reader, content);
        }
        Poll::Ready(())
    }

    /// Whether the content was read to its end. Content that nobody wants is skipped as far as it has already arrived.
    fn is_content_over(&mut self) -> bool {
        if let Self::Lent(arriving) = self
            && let Some((reader, content)) = arriving.take_if_left()
        {
            *self = Self::Here(reader, content);
        }
        let Self::Here(reader, content) = self else { return false };
        while let Ok(Some(_)) = content.next(&mut reader.bytes) {}
        content.is_over()
    }

    /// The reading half. It is taken back if somebody still reads.
    fn into_reader(self) -> Option<Reader<R>> {
        match self {
            Self::Here(reader, _) => Some(reader),
            Self::Lent(arriving) => arriving.take_back().map(|(reader, _)| reader),
        }
    }
}

/// Ready once the client has closed the connection. What the client sends is kept in `bytes`, up to [`AHEAD_LEN_MAX`].
/// If it has sent more than that, its departure is not noticed here.
fn poll_gone<R: AsyncRead + Unpin>(
    read: &mut R,
    bytes: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<()> {
    while bytes.len() < AHEAD_LEN_MAX {
        let mut some = [const { MaybeUninit::uninit() }; PEEK_LEN];
        let mut some = ReadBuf::uninit(&mut some);
        match ready!(Pin::new(&mut *read).poll_read(cx, &mut some)) {
            Ok(()) if !some.filled().is_empty() => bytes.extend_from_slice(some.filled()),
            Ok(()) | Err(_) => return Poll::Ready(()),
        }
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex};
    use tokio::sync::oneshot;

    use super::super::request::HeadLimits;
    use super::*;

    type Near = Connection<ReadHalf<DuplexStream>, WriteHalf<DuplexStream>>;
    type Content = RequestContent<ReadHalf<DuplexStream>>;

    /// A connection whose client has sent these bytes, and the client.
    fn connection(bytes: &str) -> (Near, RequestHead, DuplexStream) {
        let (near, far) = duplex(64 * 1_024);
        let (read, write) = tokio::io::split(near);
        let limits = HeadLimits { len_max: 1_000, fields_max: 10 };
        let (head, len) = RequestHead::read(bytes.as_bytes(), limits).unwrap().unwrap();
        let bytes = BytesMut::from(&bytes.as_bytes()[len..]);
        (Connection { read, write, bytes }, head, far)
    }

    fn answer(text: &'static str) -> Response<Full<Bytes>> {
        Response::new(Full::new(Bytes::from_static(text.as_bytes())))
    }

    async fn whole(content: Content) -> Result<Bytes, super::super::ContentError> {
        Ok(content.collect().await?.to_bytes())
    }

    const POST: &str = "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nhello";

    #[tokio::test]
    async fn a_connection_continues_with_the_bytes_behind_the_content() {
        let (near, head, mut far) = connection(POST);
        far.write_all(b"worldGET /next").await.unwrap();
        let asking = near.ask(head, |request, _| async {
            assert_eq!(whole(request.into_body()).await.unwrap(), "helloworld");
            answer("done")
        });
        let (response, asked) = asking.await.unwrap();
        let After::Open(near) = asked.send(response, true, 0).await else { panic!("it ended") };
        assert_eq!(near.bytes, "GET /next");
        let mut seen = [0; 15];
        far.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"HTTP/1.1 200 OK");
    }

    /// Content may arrive while the answer is written, and another task may read it.
    #[tokio::test]
    async fn an_answer_before_the_end_of_its_request_does_not_end_the_reading() {
        let (near, head, mut far) = connection(POST);
        let (to, read) = oneshot::channel();
        let asking = near.ask(head, |request, _| async {
            tokio::spawn(async move { to.send(whole(request.into_body()).await) });
            answer("early")
        });
        let (response, asked) = asking.await.unwrap();
        let sent = tokio::spawn(asked.send(response, true, 0));
        let mut seen = Vec::new();
        while !seen.ends_with(b"early") {
            seen.push(far.read_u8().await.unwrap());
        }
        assert!(!String::from_utf8(seen).unwrap().contains("close"));
        far.write_all(b"world").await.unwrap();
        assert_eq!(read.await.unwrap().unwrap(), "helloworld");
        assert!(matches!(sent.await.unwrap(), After::Open(_)));
    }

    #[tokio::test]
    async fn a_refusal_before_the_end_of_its_request_ends_the_connection() {
        let (near, head, _far) = connection(POST);
        let asking = near.ask(head, |_, _| async {
            let mut refusal = answer("no");
            *refusal.status_mut() = http::StatusCode::FORBIDDEN;
            refusal
        });
        let (response, asked) = asking.await.unwrap();
        assert!(matches!(asked.send(response, true, 0).await, After::Ending(_)));
        // Content that has already arrived is skipped.
        let (near, head, _far) = connection("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello");
        let asking = near.ask(head, |_, _| async {
            let mut refusal = answer("no");
            *refusal.status_mut() = http::StatusCode::FORBIDDEN;
            refusal
        });
        let (response, asked) = asking.await.unwrap();
        assert!(matches!(asked.send(response, true, 0).await, After::Open(_)));
    }

    /// The client may have sent its next request before it left.
    #[tokio::test]
    async fn a_departure_is_noticed_behind_bytes_that_the_client_sent() {
        let rest = |len| format!("GET / HTTP/1.1\r\n\r\n{}", "x".repeat(len));
        for len in [0, 1, AHEAD_LEN_MAX - 1] {
            let (near, head, far) = connection(&rest(len));
            drop(far);
            let asking = near.ask(head, |_, _| std::future::pending::<Response<Full<Bytes>>>());
            assert!(matches!(asking.await, Err(Lost)), "{len}");
        }
        // Later bytes are kept up to the limit.
        let (mut near, _, mut far) = connection(&rest(1));
        far.write_all(&vec![b'y'; 2 * AHEAD_LEN_MAX]).await.unwrap();
        let never = pin!(std::future::pending::<()>());
        let interim = OnceLock::new();
        assert!(futures::poll!(pin!(near.wait(&interim, never))).is_pending());
        assert!((AHEAD_LEN_MAX..AHEAD_LEN_MAX + PEEK_LEN).contains(&near.bytes.len()));
    }

    /// The code that closes the connection discards the rest of the request, so that the answer arrives.
    #[tokio::test]
    async fn a_refusal_takes_the_connection_back_from_whoever_still_reads() {
        let (near, head, _far) = connection(POST);
        let (to, read) = oneshot::channel();
        let asking = near.ask(head, |request, _| async {
            tokio::spawn(async move { to.send(whole(request.into_body()).await) });
            tokio::task::yield_now().await;
            let mut refusal = answer("no");
            *refusal.status_mut() = http::StatusCode::BAD_REQUEST;
            refusal
        });
        let (response, asked) = asking.await.unwrap();
        let After::Ending(near) = asked.send(response, true, 0).await else { panic!("not ending") };
        assert_eq!(read.await.unwrap().unwrap_err(), super::super::ContentError::Closed);
        drop(near);
    }

    #[tokio::test]
    async fn a_request_whose_client_has_gone_is_dropped_at_any_stage() {
        struct Dropped(Option<oneshot::Sender<()>>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                let _ = self.0.take().map(|to| to.send(()));
            }
        }
        for request in
            ["GET / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"]
        {
            let (near, head, far) = connection(request);
            let (to, is_dropped) = oneshot::channel();
            let asking = tokio::spawn(near.ask(head, |request, _| async move {
                let _dropped = Dropped(Some(to));
                whole(request.into_body()).await.unwrap();
                std::future::pending::<Response<Full<Bytes>>>().await
            }));
            tokio::task::yield_now().await;
            drop(far);
            is_dropped.await.unwrap();
            assert_eq!(asking.await.unwrap().err(), Some(Lost));
        }
        // An answer that never ends.
        let (near, head, far) = connection("GET / HTTP/1.1\r\n\r\n");
        let (response, asked) = near.ask(head, |_, _| async { answer("") }).await.unwrap();
        let silent = futures::stream::pending::<Result<hyper::body::Frame<Bytes>, Infallible>>();
        let response = response.map(|_| http_body_util::StreamBody::new(silent));
        let sent = tokio::spawn(asked.send(response, true, 0));
        drop(far);
        assert!(matches!(sent.await.unwrap(), After::Gone));
    }

    #[tokio::test]
    async fn content_is_asked_for_once_it_is_wanted() {
        let request = "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        let (near, head, mut far) = connection(request);
        let (now, wanted) = oneshot::channel();
        let asking = tokio::spawn(near.ask(head, |request, _| async {
            wanted.await.unwrap();
            assert_eq!(whole(request.into_body()).await.unwrap(), "hello");
            answer("done")
        }));
        tokio::task::yield_now().await;
        assert!(futures::poll!(std::pin::pin!(far.read_u8())).is_pending(), "it is not wanted yet");
        now.send(()).unwrap();
        let mut seen = [0; 25];
        far.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"HTTP/1.1 100 Continue\r\n\r\n");
        far.write_all(b"hello").await.unwrap();
        let (response, asked) = asking.await.unwrap().unwrap();
        assert!(matches!(asked.send(response, true, 0).await, After::Open(_)));
    }
}
