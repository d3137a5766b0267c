//! Sends a request on a connection, and waits for the head of its answer.
//!
//! Each thread has one buffer into which answers to direct requests are read. An answer is copied out of it only if it
//! is not a [`PlainAnswer`].

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response, StatusCode};
use maxine_http1::{AnswerHead, Coding, HeadWait, PlainAnswer, Sending};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::connect;
use super::super::request_body::RequestBody;
use super::connection::{Connection, Reason};
use super::encode::encode;
use super::received::Received;

/// Maximum number of interim answers to one request.
const INTERIM_MAX: usize = 4_096;

/// Length of the thread's buffer, in bytes. Longer answers are not plain.
const PLAIN_LEN_MAX: usize = 16 * 1_024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; PLAIN_LEN_MAX].into_boxed_slice());
}

/// Receives interim answers, except `101`.
pub(crate) type OnInterim<'a> = &'a (dyn Fn(StatusCode, HeaderMap) + Send + Sync);

/// A request that was not answered.
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    /// The request itself, if the connection never took it.
    pub(crate) unsent: Option<Request<RequestBody>>,
    /// Whether no byte of the request was written.
    pub(crate) nothing_written: bool,
}

/// The answer to a direct request.
pub(crate) enum Answered<T> {
    /// The answer was plain, and this value was made from it. The connection can be used again.
    Plain(T, Connection),
    /// The answer was not plain.
    Other(Response<Received>),
}

/// The wait for the head of the final answer.
#[derive(Default)]
struct AnswerWait {
    head: HeadWait,
    interim_answers: usize,
}

impl Connection {
    /// Sends a request and waits for the head of the answer. With `check`, it first asks the system whether the
    /// instance has closed the connection, and writes nothing in that case. Dropping the future closes the connection.
    pub(crate) async fn send(
        self,
        request: Request<RequestBody>,
        check: bool,
        on_interim: OnInterim<'_>,
    ) -> Result<Response<Received>, Failure> {
        if check && !connect::is_silent_now(&self.reader.io) {
            let unsent = Some(request);
            return Err(Failure { reason: Reason::Closed, unsent, nothing_written: true });
        }
        let (parts, body) = request.into_parts();
        let sending = encode(&parts, body);
        self.answer(sending, &parts.method, on_interim).await
    }

    /// Sends a `GET` with this head. If the answer arrives as one plain answer, `take` is called with it, and reads it
    /// in the thread's buffer. Dropping the future closes the connection.
    pub(crate) async fn send_direct<T>(
        mut self,
        head: &[u8],
        on_interim: OnInterim<'_>,
        mut take: impl FnMut(&PlainAnswer<'_>) -> Option<T>,
    ) -> Result<Answered<T>, Failure> {
        let mut written = 0;
        let taken = poll_fn(|cx| {
            self.poll_write(cx, head, &mut written).map_err(|_| Reason::Closed)?;
            self.poll_plain(cx, written == head.len(), &mut take)
        });
        match taken.await {
            Ok(Some(taken)) => return Ok(Answered::Plain(taken, self)),
            Ok(None) => {}
            Err(reason) => {
                return Err(Failure { reason, unsent: None, nothing_written: written == 0 });
            }
        }
        let rest = head[written..].to_vec();
        let sending = Sending::new(rest, Coding::Length(0), Vec::new(), None);
        // The future is boxed, because most answers are plain, and it is large.
        let answer = Box::pin(self.answer(sending, &Method::GET, on_interim)).await;
        answer
            .map(Answered::Other)
            .map_err(|failure| Failure { nothing_written: written == 0, ..failure })
    }

    /// Writes as much of a head as the connection takes, and flushes it.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        head: &[u8],
        written: &mut usize,
    ) -> Result<(), std::io::Error> {
        let mut io = Pin::new(&mut self.reader.io);
        while let Some(rest) = head.get(*written..).filter(|rest| !rest.is_empty()) {
            match io.as_mut().poll_write(cx, rest)? {
                Poll::Ready(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(len) => *written += len,
                Poll::Pending => return Ok(()),
            }
        }
        match io.poll_flush(cx) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    /// Reads once into the thread's buffer. Returns the value that `take` made, or `None` if the answer is not plain,
    /// or if the request was not sent completely. Then the bytes are in the connection's own buffer.
    fn poll_plain<T>(
        &mut self,
        cx: &mut Context<'_>,
        is_sent: bool,
        take: &mut impl FnMut(&PlainAnswer<'_>) -> Option<T>,
    ) -> Poll<Result<Option<T>, Reason>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            let is_read = ready!(Pin::new(&mut self.reader.io).poll_read(cx, &mut read)).is_ok();
            let bytes = read.filled();
            if !is_read || bytes.is_empty() {
                return Poll::Ready(Err(Reason::Closed));
            }
            let taken = if is_sent { PlainAnswer::read(bytes, take).flatten() } else { None };
            if taken.is_none() {
                self.reader.bytes.extend_from_slice(bytes);
            }
            Poll::Ready(Ok(taken))
        })
    }

    /// Sends the rest of a request with the method `asked`, and waits for the head of its answer.
    async fn answer(
        mut self,
        mut sending: Sending<RequestBody>,
        asked: &Method,
        on_interim: OnInterim<'_>,
    ) -> Result<Response<Received>, Failure> {
        let mut wait = AnswerWait::default();
        let head = poll_fn(|cx| self.poll_head(cx, &mut sending, asked, &mut wait, on_interim));
        match head.await {
            Ok(head) => Ok(Received::answer(head, self, sending)),
            Err(reason) => {
                let nothing_written = !sending.is_any_written();
                Err(Failure { reason, unsent: None, nothing_written })
            }
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        sending: &mut Sending<RequestBody>,
        asked: &Method,
        wait: &mut AnswerWait,
        on_interim: OnInterim<'_>,
    ) -> Poll<Result<AnswerHead, Reason>> {
        loop {
            self.poll_send(cx, sending)?;
            let bytes = &mut self.reader.bytes;
            if wait.head.is_worth_reading(bytes, AnswerHead::LEN_MAX)
                && let Some((head, len)) =
                    AnswerHead::read(bytes, asked).map_err(|_| Reason::NotHttp)?
            {
                bytes.advance(len);
                if !is_interim(head.parts.status) {
                    return Poll::Ready(Ok(head));
                }
                wait.interim_answers += 1;
                if wait.interim_answers > INTERIM_MAX {
                    return Poll::Ready(Err(Reason::NotHttp));
                }
                on_interim(head.parts.status, head.parts.headers);
                wait.head = HeadWait::default();
                continue;
            }
            match ready!(self.reader.poll_read(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Reason::Closed)),
                Ok(_) => {}
            }
        }
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}
