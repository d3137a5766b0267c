//! The two sides of a conformance test: a node with one instance, which answers by a script and records what
//! it received, and clients that send raw bytes or raw HTTP/2 frames.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Server, node};

/// The path below which the instances of the service are reached.
pub(crate) const PROXIED: &str = "/api/maxine/serviceops/proxy/s";
/// A request that follows another one on its connection.
pub(crate) const INNER: &str =
    "GET /api/maxine/serviceops/proxy/s/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
/// Time limit for everything that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The first bytes of an HTTP/2 client.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The requests that an instance received.
pub(crate) type Seen = Arc<Mutex<Vec<String>>>;

/// A node, and one instance of the service `s`.
pub(crate) struct Rig {
    pub(crate) server: Server,
    seen: Seen,
}

impl Rig {
    /// An instance that speaks HTTP/1: `answer` makes the bytes of an answer from a request's head.
    /// An empty answer closes the connection; so does one that ends with [`CLOSE`].
    pub(crate) async fn http1(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let seen = Seen::default();
        let answer = Arc::new(answer);
        let kept = Arc::clone(&seen);
        Self::with(seen, move |stream| serve_http1(stream, Arc::clone(&kept), Arc::clone(&answer)))
            .await
    }

    /// An instance that runs `serve` for each connection.
    pub(crate) async fn with<F>(seen: Seen, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Option<()>> + Send + 'static,
    {
        Self { seen, ..Self::at(listen(serve).await).await }
    }

    /// An instance on this port of loopback.
    pub(crate) async fn at(port: u16) -> Self {
        let server = Server::start().await;
        server.register(node("s", "n", port)).await;
        Self { server, seen: Seen::default() }
    }

    /// Sets the service's policy.
    pub(crate) async fn policy(&self, policy: &Value) {
        let token = self.server.admin().await;
        let put = self.server.put("/api/v1/services/default/s/policy", policy);
        let answer = put.bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }

    /// Makes the node use HTTP/2 to the instance.
    pub(crate) async fn over_http2(self) -> Self {
        self.policy(&json!({"traffic": {"protocol": "http2"}})).await;
        self
    }

    /// Sends a request: its first line and fields, without `Host` and the empty line at the end. Returns
    /// everything that is answered.
    pub(crate) async fn ask(&self, line: &str, fields: &str) -> String {
        self.raw(&format!("{line}\r\nHost: h\r\nConnection: close\r\n{fields}\r\n")).await
    }

    /// A `GET` of a path of the service.
    pub(crate) async fn get(&self, path: &str, fields: &str) -> String {
        self.ask(&format!("GET {PROXIED}{path} HTTP/1.1"), fields).await
    }

    /// Sends bytes. Returns everything that is answered.
    pub(crate) async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        self.server.raw(bytes.as_ref()).await
    }

    /// Takes the requests that the instance received since the last call.
    pub(crate) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// Runs `serve` for each connection to a new port.
pub(crate) async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = Option<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream));
        }
    });
    port
}

/// Placed after an answer, it means that the instance closes the connection.
pub(crate) const CLOSE: &[u8] = b"<close>";

/// An answer of HTTP/1.1 with a length.
pub(crate) fn answer(status: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// An answer with the content `ok`.
pub(crate) fn ok() -> Vec<u8> {
    answer("200 OK", "", "ok")
}

async fn serve_http1(
    mut stream: TcpStream,
    seen: Seen,
    answer: Arc<impl Fn(&str) -> Vec<u8>>,
) -> Option<()> {
    loop {
        let request = read_request(&mut stream).await?;
        let head = request.split_inclusive("\r\n\r\n").next()?.to_owned();
        seen.lock().unwrap().push(request);
        let bytes = answer(&head);
        let (bytes, closes) = match bytes.strip_suffix(CLOSE) {
            Some(rest) => (rest, true),
            None => (&bytes[..], bytes.is_empty()),
        };
        stream.write_all(bytes).await.ok()?;
        if closes {
            return None;
        }
    }
}

/// Reads one request with its body, in the framing in which it comes.
pub(crate) async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    if head.contains("\r\ntransfer-encoding: chunked\r\n") {
        let from = bytes.len();
        while !bytes[from..].ends_with(b"\r\n\r\n") || !is_whole(&bytes[from..]) {
            bytes.push(stream.read_u8().await.ok()?);
        }
    } else if let Some((_, rest)) = head.split_once("\r\ncontent-length: ") {
        let len: usize = rest.split("\r\n").next()?.parse().ok()?;
        let from = bytes.len();
        bytes.resize(from + len, 0);
        stream.read_exact(&mut bytes[from..]).await.ok()?;
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a body in chunks has its last one.
fn is_whole(body: &[u8]) -> bool {
    body.starts_with(b"0\r\n") || body.windows(5).any(|window| window == b"\r\n0\r\n")
}

pub(crate) fn status_of(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

pub(crate) fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// The values of a field of a message, in their order; names are compared in lower case.
pub(crate) fn values<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    let head = message.split("\r\n\r\n").next().unwrap_or_default();
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

/// A frame of HTTP/2.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
/// Flags: the end of a stream (an acknowledgement, of settings and pings), and of a field block.
pub(crate) const END: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field block: literals without indexing, without Huffman's code.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            let mut len = text.len();
            if len < 127 {
                out.push(u8::try_from(len).unwrap());
            } else {
                out.push(127);
                len -= 127;
                while len >= 128 {
                    out.push(u8::try_from(len % 128 + 128).unwrap());
                    len /= 128;
                }
                out.push(u8::try_from(len).unwrap());
            }
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// The block of a `GET`, with more fields.
pub(crate) fn get_block(path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", path)];
    block(&[&pseudo[..], fields].concat())
}

/// A `GET` in one frame.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END | END_HEADERS, stream, get_block(path, &[]))
}

/// One side of an HTTP/2 connection, frame by frame.
pub(crate) struct Wire(pub(crate) TcpStream);

impl Wire {
    /// A client that has sent its preface and empty settings.
    pub(crate) async fn client(server: &Server) -> Self {
        let mut wire = Self(TcpStream::connect(server.addr).await.unwrap());
        wire.send([PREFACE, &frame(SETTINGS, 0, 0, [])].concat()).await;
        wire
    }

    /// A server that has sent its settings; `None` if the client does not use HTTP/2.
    pub(crate) async fn server(mut stream: TcpStream) -> Option<Self> {
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).await.ok()?;
        assert_eq!(preface, PREFACE);
        let mut wire = Self(stream);
        wire.send(frame(SETTINGS, 0, 0, [])).await;
        Some(wire)
    }

    /// Sends bytes; the other side may have closed.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.write_all(bytes.as_ref()).await;
    }

    /// The next frame; settings and pings are acknowledged. `None` at the end.
    pub(crate) async fn read(&mut self) -> Option<Frame> {
        let frame = tokio::time::timeout(PATIENCE, self.read_frame()).await.expect("it hangs")?;
        if frame.flags & END == 0 && matches!(frame.kind, SETTINGS | PING) {
            let echoed = if frame.kind == PING { &frame.payload[..] } else { &[] };
            self.send(self::frame(frame.kind, END, 0, echoed)).await;
        }
        Some(frame)
    }

    async fn read_frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; len as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of one kind; `None` at the end.
    pub(crate) async fn next(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.read().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// The outcome of a stream.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        while let Some(frame) = self.read().await {
            match frame.kind {
                HEADERS if frame.stream == stream => {
                    return Outcome::Status(status_in(&frame.payload));
                }
                RST_STREAM if frame.stream == stream => return Outcome::Reset(frame.code(0)),
                GOAWAY if frame.code(4) != 0 => return Outcome::GoAway(frame.code(4)),
                _ => {}
            }
        }
        Outcome::Closed
    }
}

impl Frame {
    /// The number at this position of the payload. The error code of a reset is at 0, and that of a GOAWAY at
    /// 4.
    pub(crate) fn code(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// The outcome of a request for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer.
    Status(u16),
    /// An error of the stream.
    Reset(u32),
    /// An error of the connection.
    GoAway(u32),
    Closed,
}

/// Error codes (RFC 9113 section 7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const STREAM_CLOSED: u32 = 5;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const COMPRESSION_ERROR: u32 = 9;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// The status at the beginning of a field block: an entry of the static table, or its name from that table
/// and three digits, which may be in Huffman's code.
fn status_in(block: &[u8]) -> u16 {
    // A change of the table's size may come first.
    let block = if block[0] & 0xe0 == 0x20 { &block[1..] } else { block };
    match block[0] {
        0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(block[0] - 0x88)],
        _ => {
            let len = usize::from(block[1] & 0x7f);
            let value = &block[2..2 + len];
            let text = if block[1] & 0x80 == 0 {
                String::from_utf8_lossy(value).into_owned()
            } else {
                digits(value)
            };
            text.parse().unwrap_or(0)
        }
    }
}

/// Three digits in Huffman's code (RFC 7541 appendix B): five bits for 0, 1 and 2, six for the others.
fn digits(bytes: &[u8]) -> String {
    let bits: Vec<u8> =
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |n| byte >> n & 1)).collect();
    let mut rest = &bits[..];
    let mut text = String::new();
    for _ in 0..3 {
        let five = rest[..5].iter().fold(0, |value, bit| value << 1 | bit);
        let (digit, len) = if five < 3 { (five, 5) } else { ((five << 1 | rest[5]) - 0x19 + 3, 6) };
        text.push(char::from(b'0' + digit));
        rest = &rest[len..];
    }
    text
}

#[test]
fn digits_are_read_as_they_are_coded() {
    // RFC 7541 has the first one in its appendix C.6.1.
    assert_eq!((digits(&[0x64, 0x02]), digits(&[0x6c, 0x0d, 0x7f])), ("302".into(), "504".into()));
}
