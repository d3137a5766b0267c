//! Fuzz target: an answer that is accepted here must mean the same to the HTTP library.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::header::{self, HeaderMap};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use maxine_http1::{AnswerHead, Content};

/// An answer that was read with its whole content.
#[derive(Debug, PartialEq)]
struct Whole {
    status: StatusCode,
    fields: HeaderMap,
    content: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// The first byte chooses the method. The rest is what the instance sends before it closes the connection.
pub(crate) fn answer(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let asked = if choice % 2 == 0 { Method::GET } else { Method::HEAD };
    let Some(mut ours) = by_this_crate(&asked, bytes) else { return };
    let theirs = by_library(asked, bytes.to_vec());
    let mut theirs = theirs.unwrap_or_else(|| panic!("the library does not accept {ours:?}"));
    // With chunks, `Content-Length` has no meaning, and one of the two readers removes it.
    if ours.fields.contains_key(header::TRANSFER_ENCODING) {
        ours.fields.remove(header::CONTENT_LENGTH);
        theirs.fields.remove(header::CONTENT_LENGTH);
    }
    assert_eq!(ours, theirs);
}

fn by_this_crate(asked: &Method, bytes: &[u8]) -> Option<Whole> {
    let mut bytes = BytesMut::from(bytes);
    let head = loop {
        let (head, len) = AnswerHead::read(&bytes, asked).ok()??;
        let _ = bytes.split_to(len);
        let status = head.parts.status;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return None;
        }
        if !status.is_informational() {
            break head;
        }
    };
    let mut left = Content::new(head.framing);
    let (mut content, mut trailers) = (Vec::new(), None);
    while let Some(frame) = left.next(&mut bytes).ok()? {
        match frame.into_data() {
            Ok(data) => content.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    if !left.ends_with_connection() {
        return None;
    }
    Some(Whole { status: head.parts.status, fields: head.parts.headers, content, trailers })
}

fn by_library(asked: Method, bytes: Vec<u8>) -> Option<Whole> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async move {
        let (near, mut far) = tokio::io::duplex(bytes.len() + 4_096);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty>(TokioIo::new(near)).await.ok()?;
        let request = Request::builder().method(asked).uri("/").header("host", "h");
        let request = request.body(Empty::new()).ok()?;
        let instance = async {
            let mut request = [0; 1];
            let _ = far.read(&mut request).await;
            let _ = far.write_all(&bytes).await;
            let _ = far.shutdown().await;
            std::future::pending::<()>().await;
        };
        let asking = async {
            let answer = sender.send_request(request).await.ok()?;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.ok()?;
            let trailers = body.trailers().cloned();
            let content = body.to_bytes().to_vec();
            Some(Whole { status: parts.status, fields: parts.headers, content, trailers })
        };
        let driving = async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = asking => answer,
            () = driving => None,
            () = instance => None,
        }
    })
}

type Empty = http_body_util::Empty<Bytes>;

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A:  b \r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.0 200\r\n\r\nuntil the end",
        "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0A \r\n0123456789\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nX: a\r\n b\nY:\r\n\n",
    ];
    let with = |choice: u8| move |text: &&str| [&[choice], text.as_bytes()].concat();
    answers.iter().map(with(0)).chain(answers.iter().map(with(1))).collect()
}
