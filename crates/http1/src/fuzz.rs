//! Fuzz targets: a request that this crate accepts must mean the same to the HTTP library, and a plain answer must mean
//! the same to both readers of answers.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use maxine_fuzzing::Target;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer_head::AnswerHead;
use super::content::Content;
use super::framing::Framing;
use super::plain_answer::PlainAnswer;
use super::request::{HeadLimits, RequestHead};

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "client_request", run: requests, seeds },
    Target { name: "plain_answer", run: plain_answer, seeds: answers },
];

const LIMITS: HeadLimits = HeadLimits { len_max: 8_192, fields_max: 100 };
/// Maximum number of requests of one input that are compared.
const REQUESTS_MAX: usize = 4;

/// A request that was read with its whole content.
#[derive(Debug, PartialEq)]
struct Whole {
    method: Method,
    uri: Uri,
    fields: HeaderMap,
    content: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// The input is what a client sends before it closes the connection.
fn requests(bytes: &[u8]) {
    let ours = by_this_crate(bytes);
    if ours.is_empty() {
        return;
    }
    let theirs = by_library(bytes.to_vec());
    assert!(theirs.len() >= ours.len(), "the library does not accept {ours:?}, only {theirs:?}");
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(*ours, theirs);
    }
}

fn by_this_crate(bytes: &[u8]) -> Vec<Whole> {
    let (mut bytes, mut all) = (BytesMut::from(bytes), Vec::new());
    while all.len() < REQUESTS_MAX {
        let Ok(Some((head, len))) = RequestHead::read(&bytes, LIMITS) else { break };
        let _ = bytes.split_to(len);
        // The library treats the bytes after a `CONNECT` as another protocol. It also closes a connection of HTTP/1.0
        // if it cannot read an option beside `keep-alive`. Neither can be compared any further.
        let mut options = head.parts.headers.get_all(header::CONNECTION).iter();
        let keeps_open = head.keeps_open
            && head.parts.method != Method::CONNECT
            && options.all(|options| options.to_str().is_ok());
        let Some(whole) = whole(head, &mut bytes) else { break };
        all.push(whole);
        if !keeps_open {
            break;
        }
    }
    all
}

fn whole(head: RequestHead, bytes: &mut BytesMut) -> Option<Whole> {
    let mut left = Content::new(head.framing);
    let (mut content, mut trailers) = (Vec::new(), None);
    while let Some(frame) = left.next(bytes).ok()? {
        match frame.into_data() {
            Ok(data) => content.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let parts = head.parts;
    let fields = normal(parts.headers);
    let whole = Whole { method: parts.method, uri: parts.uri, fields, content, trailers };
    left.is_over().then_some(whole)
}

/// The fields, with `Content-Length` in one form, because the two readers write it in different ways.
fn normal(mut fields: HeaderMap) -> HeaderMap {
    let len = super::content_len(&fields).expect("a length");
    fields.remove(header::CONTENT_LENGTH);
    if let Some(len) = len {
        fields.insert(header::CONTENT_LENGTH, len.into());
    }
    fields
}

fn by_library(bytes: Vec<u8>) -> Vec<Whole> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let all = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let all = Arc::clone(&all);
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let trailers = body.trailers().cloned();
                let content = body.to_bytes().to_vec();
                let fields = normal(parts.headers);
                let (method, uri) = (parts.method, parts.uri);
                all.lock().push(Whole { method, uri, fields, content, trailers });
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    runtime.block_on(async {
        let (near, mut far) = tokio::io::duplex(bytes.len() + 64 * 1_024);
        let mut builder = hyper::server::conn::http1::Builder::new();
        let serving =
            builder.max_headers(LIMITS.fields_max).serve_connection(TokioIo::new(near), service);
        let client = async {
            let _ = far.write_all(&bytes).await;
            let mut answers = Vec::new();
            let _ = far.read_to_end(&mut answers).await;
        };
        // The client must not close the connection: the library would drop a request that it has not answered yet.
        tokio::select! {
            _ = serving => {}
            () = client => {}
            () = settled() => {}
        }
    });
    let mut all = all.lock();
    std::mem::take(&mut *all)
}

/// Ready after the other futures of the task had many turns. That is long enough, because nothing here waits for a
/// socket or a clock.
async fn settled() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

fn plain_answer(bytes: &[u8]) {
    let read = PlainAnswer::read(bytes, |answer| {
        let mut fields = format!("HTTP/1.1 {} -\r\n", answer.status.as_u16()).into_bytes();
        let are_read = answer.push_fields(&mut fields, |_, _| true);
        fields.extend_from_slice(b"\r\n");
        (answer.status, are_read.then_some(fields), answer.content.len())
    });
    let Some((status, fields, content_len)) = read else { return };
    let read = |bytes| AnswerHead::read(bytes, &Method::GET).ok().flatten();
    let (head, head_len) = read(bytes).expect("the other reader accepts a plain answer");
    assert_eq!((head.parts.status, head_len + content_len), (status, bytes.len()));
    assert_eq!(head.framing, Framing::Length(content_len as u64));
    assert!(head.keeps_open);
    if let Some(fields) = fields {
        let (copy, _) = read(&fields).expect("the fields are those of an answer");
        let mut expected = head.parts.headers;
        expected.remove(header::CONTENT_LENGTH);
        assert_eq!(copy.parts.headers, expected);
    }
}

fn answers() -> Vec<Vec<u8>> {
    maxine_fuzzing::texts(&[
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ncontent-length: 5\r\nX-A:  b \r\nx-a: c\r\n\r\nhello",
        "HTTP/1.1 404 Not Found\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0",
        "HTTP/1.1 200\nContent-Length: 02\nUpgrade: h2c\n\nok",
    ])
}

fn seeds() -> Vec<Vec<u8>> {
    maxine_fuzzing::texts(&[
        "GET /a?b=%20c HTTP/1.1\r\nHost: h\r\nX-A:  b \r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx-sum: 1\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "PUT http://h/a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /a HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 02\r\n\r\nokGET / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close, x\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\nHost: h\nX: a\r\n b\nY:\r\n\n",
        "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
    ])
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 3_000);
    }
}
