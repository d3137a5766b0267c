//! Interim answers (RFC 9110 section 15.2) to a client, such as `103 Early Hints`.
//!
//! An interim answer is only a hint, so it is dropped if it exceeds a limit.
//!
//! **Invariant:** no interim answer is written after the head of the final answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::task::AtomicWaker;
use http::StatusCode;
use http::header::HeaderMap;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;

use super::fields::push_fields;

/// Maximum number of interim answers to one request. Further ones are dropped.
const COUNT_MAX: u32 = 8;
/// Maximum length of the interim answers that wait to be written, in bytes.
const LEN_MAX: usize = 16 * 1_024;

/// The interim answers to one request. All clones share them.
#[derive(Clone, Debug, Default)]
pub struct Interim(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The task that writes to the connection.
    writer: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    count: u32,
    waiting: Vec<u8>,
    written: usize,
    is_closed: bool,
}

impl Interim {
    /// Sends an interim answer with these fields, or drops it.
    pub fn send(&self, status: StatusCode, fields: &HeaderMap) {
        let reason = status.canonical_reason().unwrap_or_default();
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        push_fields(&mut head, fields);
        head.extend_from_slice(b"\r\n");
        let mut state = self.0.state.lock();
        let is_room = state.count < COUNT_MAX && state.waiting.len() + head.len() <= LEN_MAX;
        if state.is_closed || !is_room {
            return;
        }
        state.count += 1;
        state.waiting.extend_from_slice(&head);
        drop(state);
        self.0.writer.wake();
    }

    /// Writes the answers that wait. An answer that is sent later wakes the task.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        io: &mut W,
    ) -> Poll<io::Result<()>> {
        // The task is registered before the check for waiting bytes. Otherwise an answer that is sent in between would
        // not wake it.
        self.0.writer.register(cx.waker());
        let mut state = self.0.state.lock();
        while let Some(rest) = state.waiting.get(state.written..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut *io).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            state.written += written;
        }
        state.waiting.clear();
        state.written = 0;
        drop(state);
        Pin::new(io).poll_flush(cx)
    }

    /// Reports that the final answer begins. Returns the bytes that must be written before it; later interim answers
    /// are dropped.
    pub(super) fn close(&self) -> Vec<u8> {
        let mut state = self.0.state.lock();
        state.is_closed = true;
        let mut rest = std::mem::take(&mut state.waiting);
        rest.drain(..std::mem::take(&mut state.written));
        rest
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    const WIRE: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";

    fn hint(interim: &Interim) {
        let fields = [("link", "</a>")].map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()));
        interim.send(StatusCode::EARLY_HINTS, &fields.into_iter().collect());
    }

    #[tokio::test]
    async fn a_hint_is_written_whole_and_none_after_the_final_answer_began() {
        let (mut near, mut far) = duplex(WIRE.len() + 10);
        let interim = Interim::default();
        hint(&interim);
        hint(&interim);
        let written = futures::poll!(poll_fn(|cx| interim.poll_write(cx, &mut near)));
        assert!(written.is_pending(), "the client takes no more");
        let rest = interim.close();
        hint(&interim);
        assert_eq!(interim.close(), b"", "nothing after the answer");
        drop(near);
        let mut seen = Vec::new();
        far.read_to_end(&mut seen).await.unwrap();
        assert_eq!([seen, rest].concat(), WIRE.repeat(2).as_bytes());
    }

    #[test]
    fn hints_are_bounded() {
        let interim = Interim::default();
        for _ in 0..100 {
            hint(&interim);
        }
        assert_eq!(interim.close().len(), WIRE.len() * COUNT_MAX as usize);
    }
}
