//! Messages to the leader over TCP: its address and a token stand in the leader's file, so only
//! those who may read the shared files can call it.
//!
//! Request: `length u32 | token, 32 bytes | body`; answer: `length u32 | 0 or 1 | body or refusal`.
//! Both are bounded and every step has a time limit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{CallError, PeerHandler};

/// Largest message.
const BODY_LEN_MAX: usize = 4 * 1024 * 1024;
const TOKEN_LEN: usize = 32;
/// Most callers at once.
const CALLERS_MAX: usize = 64;
/// How long a connection may be idle, and how long one exchange may take.
const IDLE: Duration = Duration::from_secs(30);

/// Takes calls until the node stops.
pub(super) async fn serve(
    listener: TcpListener,
    token: String,
    leads: impl Fn() -> bool + Clone + Send + Sync + 'static,
    peers: Arc<dyn PeerHandler>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let room = Arc::new(Semaphore::new(CALLERS_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Too many open files, say: others may close some meanwhile.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Over the bound a caller is turned away at once; it retries.
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (token, leads, peers) = (token.clone(), leads.clone(), Arc::clone(&peers));
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = connection(stream, &token, leads, peers) => {}
            }
            drop(place);
        });
    }
}

async fn connection(
    mut stream: TcpStream,
    token: &str,
    leads: impl Fn() -> bool,
    peers: Arc<dyn PeerHandler>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let message = tokio::time::timeout(IDLE, read(&mut stream)).await??;
        if message.len() < TOKEN_LEN || &message[..TOKEN_LEN] != token.as_bytes() {
            return Ok(());
        }
        let body = message.slice(TOKEN_LEN..);
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
    }
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Bytes> {
    let len = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if len > BODY_LEN_MAX + TOKEN_LEN {
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

/// The caller's side: keeps one connection.
#[derive(Default)]
pub(super) struct Caller {
    open: Mutex<Option<(String, TcpStream)>>,
}

impl Caller {
    /// Calls the leader at `addr`; the caller limits the time.
    pub(super) async fn call(
        &self,
        addr: &str,
        token: &str,
        body: &[u8],
    ) -> Result<Bytes, CallError> {
        if body.len() > BODY_LEN_MAX {
            let text = format!("{} bytes are more than {BODY_LEN_MAX}", body.len());
            return Err(CallError::Refused(text));
        }
        let mut open = self.open.lock().await;
        // Taken out: a call that is given up half way leaves no half-used connection behind.
        let reused = open.take().filter(|(to, _)| to == addr).map(|(_, stream)| stream);
        if let Some(mut stream) = reused
            && let Ok(answer) = exchange(&mut stream, token, body).await
        {
            *open = Some((addr.to_owned(), stream));
            return decode(answer);
        }
        let connected = TcpStream::connect(addr).await.map_err(|_| CallError::Unreachable)?;
        let mut stream = connected;
        let answer = exchange(&mut stream, token, body).await;
        let answer = answer.map_err(|_| CallError::Unreachable)?;
        *open = Some((addr.to_owned(), stream));
        decode(answer)
    }
}

async fn exchange(stream: &mut TcpStream, token: &str, body: &[u8]) -> std::io::Result<Bytes> {
    stream.set_nodelay(true)?;
    write(stream, &[token.as_bytes(), body]).await?;
    read(stream).await
}

fn decode(answer: Bytes) -> Result<Bytes, CallError> {
    match answer.first() {
        Some(0) => Ok(answer.slice(1..)),
        Some(_) => Err(CallError::Refused(String::from_utf8_lossy(&answer[1..]).into_owned())),
        None => Err(CallError::Unreachable),
    }
}
