//! Messages to the leader over TCP. The leader's address and a token are in the leader's file, so only
//! processes that may read the shared files can call it.
//!
//! Request: `length u32 | token, 32 bytes | body`. Answer: `length u32 | 0 or 1 | body or refusal`. Both are
//! limited, and every step has a time limit. A connection must send its first token within a second. Connections
//! without a token use separate places, so they cannot take those of real callers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{CallError, PeerHandler};

/// Maximum size of a message, in bytes.
const BODY_LEN_MAX: usize = 4 * 1024 * 1024;
const TOKEN_LEN: usize = 32;
/// Maximum number of concurrent callers that have sent the token.
const CALLERS_MAX: usize = 64;
/// Maximum number of connections that have not sent the token yet. If there is one more, the oldest is
/// closed, because a real caller sends the token immediately.
const GREETINGS_MAX: usize = 64;
/// Time limit for the first token of a connection.
const GREETING: Duration = Duration::from_secs(1);
/// Maximum time for which a connection may be idle, and time limit for one exchange.
const IDLE: Duration = Duration::from_secs(30);

/// Accepts calls until the node stops.
pub(super) async fn serve(
    listener: TcpListener,
    token: String,
    leads: impl Fn() -> bool + Clone + Send + Sync + 'static,
    peers: Arc<dyn PeerHandler>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(CALLERS_MAX));
    let token = Token::new(&token);
    let mut greetings: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((mut stream, _)) = accepted else {
            // The cause may be too many open files; others may be closed soon.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        greetings.retain(|greeting| !greeting.is_finished());
        if greetings.len() >= GREETINGS_MAX
            && let Some(oldest) = greetings.pop_front()
        {
            oldest.abort();
        }
        let (leads, peers) = (leads.clone(), Arc::clone(&peers));
        let (places, connections, stopped) = (Arc::clone(&places), tasks.clone(), stop.clone());
        let greeting = async move {
            let greeted = tokio::time::timeout(GREETING, token.read(&mut stream)).await;
            let Ok(Ok(body_len)) = greeted else { return };
            // Above the limit, a caller is refused immediately, and retries.
            let Ok(place) = places.try_acquire_owned() else { return };
            connections.spawn(async move {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    _ = connection(stream, token, body_len, leads, peers) => {}
                }
                drop(place);
            });
        };
        let greeting = stop.clone().run_until_cancelled_owned(greeting);
        greetings.push_back(tasks.spawn(async move {
            let _ended = greeting.await;
        }));
    }
}

/// The token of callers, as a digest. The time of a comparison reveals nothing about the token.
#[derive(Clone, Copy)]
struct Token([u8; 32]);

impl Token {
    fn new(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Reads the beginning of a request. Returns the length of its body, or an error if the token is wrong.
    async fn read(&self, stream: &mut TcpStream) -> std::io::Result<usize> {
        let len = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
        let body_len = len.checked_sub(TOKEN_LEN).filter(|len| *len <= BODY_LEN_MAX);
        let body_len = body_len.ok_or(std::io::ErrorKind::InvalidData)?;
        let mut shown = [0; TOKEN_LEN];
        stream.read_exact(&mut shown).await?;
        let shown: [u8; 32] = Sha256::digest(shown).into();
        if shown == self.0 {
            Ok(body_len)
        } else {
            Err(std::io::ErrorKind::PermissionDenied.into())
        }
    }
}

/// Answers the requests of one caller. Its first request has had the right token.
async fn connection(
    mut stream: TcpStream,
    token: Token,
    mut body_len: usize,
    leads: impl Fn() -> bool,
    peers: Arc<dyn PeerHandler>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut body = vec![0; body_len];
        tokio::time::timeout(IDLE, stream.read_exact(&mut body)).await??;
        let body = Bytes::from(body);
        let answer = if leads() {
            tokio::time::timeout(IDLE, peers.handle(body)).await?
        } else {
            Err(String::from("this node does not lead"))
        };
        let (kind, body) = match answer {
            Ok(body) => (0, body),
            Err(text) => (1, Bytes::from(text)),
        };
        tokio::time::timeout(IDLE, write(&mut stream, &[&[kind], &body])).await??;
        body_len = tokio::time::timeout(IDLE, token.read(&mut stream)).await??;
    }
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Bytes> {
    let len = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    // The first byte says whether it is a body or a refusal.
    if len > BODY_LEN_MAX + 1 {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}

async fn write(stream: &mut TcpStream, parts: &[&[u8]]) -> std::io::Result<()> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let len = u32::try_from(len).map_err(|_| std::io::ErrorKind::InvalidData)?;
    let mut out = len.to_be_bytes().to_vec();
    for part in parts {
        out.extend_from_slice(part);
    }
    stream.write_all(&out).await
}

/// The caller's side. It keeps one connection.
#[derive(Default)]
pub(super) struct Caller {
    open: Mutex<Option<(String, TcpStream)>>,
}

impl Caller {
    /// Calls the leader at `addr`. The caller must set a time limit.
    pub(super) async fn call(
        &self,
        addr: &str,
        token: &str,
        body: &[u8],
    ) -> Result<Bytes, CallError> {
        if body.len() > BODY_LEN_MAX {
            let text = format!("{} bytes are more than {BODY_LEN_MAX}", body.len());
            return Err(CallError::Unsendable(text));
        }
        let mut open = self.open.lock().await;
        // The connection is taken out of `open`. If this future is dropped, a connection with half a message on it is
        // closed and not used again.
        let reused = open.take().filter(|(to, _)| to == addr).map(|(_, stream)| stream);
        if let Some(mut stream) = reused
            && is_idle(&stream)
            && send(&mut stream, token, body).await.is_ok()
        {
            // The leader may have handled the message, so it is not sent again.
            let answer = answer_of(&mut stream).await?;
            *open = Some((addr.to_owned(), stream));
            return decode(answer);
        }
        // The leader closed the idle connection, or did not get the whole message. It handles only whole messages.
        let mut stream = TcpStream::connect(addr).await.map_err(|_| CallError::Unreachable)?;
        send(&mut stream, token, body).await.map_err(no_answer)?;
        let answer = answer_of(&mut stream).await?;
        *open = Some((addr.to_owned(), stream));
        decode(answer)
    }
}

/// Whether the connection is open and has nothing to read. The leader closes a connection that was idle for too long.
fn is_idle(stream: &TcpStream) -> bool {
    let read = stream.try_read(&mut [0; 1]);
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

async fn send(stream: &mut TcpStream, token: &str, body: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    write(stream, &[token.as_bytes(), body]).await
}

async fn answer_of(stream: &mut TcpStream) -> Result<Bytes, CallError> {
    read(stream).await.map_err(no_answer)
}

fn no_answer(error: std::io::Error) -> CallError {
    CallError::NoAnswer(error.to_string())
}

fn decode(answer: Bytes) -> Result<Bytes, CallError> {
    match answer.first() {
        Some(0) => Ok(answer.slice(1..)),
        Some(_) => Err(CallError::Refused(String::from_utf8_lossy(&answer[1..]).into_owned())),
        None => Err(CallError::Unreadable(String::from("the answer is empty"))),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;

    /// Answers with the same body.
    struct Echo;

    impl PeerHandler for Echo {
        fn handle(&self, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
            async move { Ok(body) }.boxed()
        }
    }

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    async fn serving() -> (String, CancellationToken, TaskTracker) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let served =
            serve(listener, TOKEN.into(), || true, Arc::new(Echo), stop.clone(), tasks.clone());
        tasks.spawn(served);
        (addr, stop, tasks)
    }

    #[tokio::test]
    async fn connections_without_the_token_keep_no_caller_out() {
        let (addr, stop, tasks) = serving().await;
        let mut silent = Vec::new();
        for _ in 0..3 * CALLERS_MAX {
            silent.push(TcpStream::connect(&addr).await.unwrap());
        }
        let caller = Caller::default();
        for text in [&b"one"[..], b"", b"another"] {
            let answer = caller.call(&addr, TOKEN, text).await.unwrap();
            assert_eq!(answer, text);
        }
        // The server closed the oldest connection to make room, and the others because they sent nothing.
        for mut stream in silent {
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
        }
        assert_eq!(caller.call(&addr, TOKEN, b"still").await.unwrap(), "still");
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn another_token_and_a_message_that_is_too_long_are_turned_away() {
        let (addr, stop, tasks) = serving().await;
        let other = TOKEN.replace('0', "1");
        let refused = Caller::default().call(&addr, &other, b"x").await;
        assert!(matches!(refused, Err(CallError::NoAnswer(_))), "{refused:?}");
        for len in [0, TOKEN_LEN - 1, TOKEN_LEN + BODY_LEN_MAX + 1] {
            let mut stream = TcpStream::connect(&addr).await.unwrap();
            stream.write_u32(u32::try_from(len).unwrap()).await.unwrap();
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "{len}");
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    /// Reads one request as the server does, and returns its body.
    async fn request(stream: &mut TcpStream) -> Vec<u8> {
        let body_len = Token::new(TOKEN).read(stream).await.unwrap();
        let mut body = vec![0; body_len];
        stream.read_exact(&mut body).await.unwrap();
        body
    }

    #[tokio::test]
    async fn a_message_that_may_have_been_handled_is_not_sent_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let leader = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let first = request(&mut stream).await;
            write(&mut stream, &[&[0], &first]).await.unwrap();
            // It handles the second message, and is gone before it answers.
            let second = request(&mut stream).await;
            drop(stream);
            let again = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
            (second, again.is_ok())
        });
        let caller = Caller::default();
        assert_eq!(caller.call(&addr, TOKEN, b"first").await.unwrap(), "first");
        let unknown = caller.call(&addr, TOKEN, b"second").await;
        assert!(matches!(unknown, Err(CallError::NoAnswer(_))), "{unknown:?}");
        let (second, again) = leader.await.unwrap();
        assert_eq!((second.as_slice(), again), (&b"second"[..], false));
        // Now the leader does not listen any more, so this message was not handled.
        assert_eq!(caller.call(&addr, TOKEN, b"third").await, Err(CallError::Unreachable));
    }

    #[tokio::test]
    async fn a_connection_that_the_leader_closed_while_it_was_idle_is_replaced() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let caller = Caller::default();
        for text in [&b"one"[..], b"another"] {
            let answer = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let body = request(&mut stream).await;
                write(&mut stream, &[&[0], &body]).await.unwrap();
            };
            let (answer, ()) = tokio::join!(caller.call(&addr, TOKEN, text), answer);
            assert_eq!(answer.unwrap(), text);
            // The leader has closed the connection. Wait until the caller's side knows.
            let open = caller.open.lock().await;
            let (_, stream) = open.as_ref().unwrap();
            while is_idle(stream) {
                stream.readable().await.unwrap();
            }
        }
    }
}
