//! The names of header fields with the capital letters that the Node.js Maxine uses.
//!
//! Names are equal in upper and lower case. But a client that stores an answer's fields in a plain map finds
//! `Location` only under the written name. hyper writes names in lower case, unless the answer has the names
//! of another, parsed answer. So an example answer is parsed here.

use axum::http::Extensions;
use bytes::Bytes;
use futures::FutureExt;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An answer with every name that the Node.js Maxine writes with capitals, as often as it may occur. The
/// Node.js Maxine writes its own fields (`x-trace-id`, `traceparent`) and those of instances in lower case.
const EXAMPLE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Location: /\r\n\
    Vary: Accept\r\n\
    Vary: Origin\r\n\
    Content-Type: text/plain\r\n\
    Content-Length: 0\r\n\
    Content-Disposition: inline\r\n\
    Cache-Control: no-store\r\n\
    ETag: \"\"\r\n\
    Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
    Connection: keep-alive\r\n\
    Retry-After: 1\r\n\
    Access-Control-Allow-Origin: *\r\n\
    Access-Control-Allow-Methods: GET\r\n\
    Access-Control-Allow-Headers: a\r\n\
    Access-Control-Expose-Headers: a\r\n\r\n";
/// Maximum number of polls of the exchange below. Each of its few steps needs one or two.
const POLLS_MAX: usize = 64;

/// The extension with which hyper writes an answer's names as in [`EXAMPLE`]. It is empty, and that is
/// logged, if hyper has changed so that it cannot be obtained.
pub(super) fn of_the_compatible_api() -> Extensions {
    let (client, mut server) = tokio::io::duplex(4_096);
    let read = async {
        let mut builder = http1::Builder::new();
        builder.preserve_header_case(true);
        let (mut sender, connection) = builder.handshake(TokioIo::new(client)).await.ok()?;
        let request = hyper::Request::get("/").body(Empty::<Bytes>::new()).ok()?;
        let answer = sender.send_request(request);
        let serve = async {
            // The answer is sent once the request has begun to arrive, so that it is not too early.
            server.read_u8().await.ok()?;
            server.write_all(EXAMPLE).await.ok()
        };
        tokio::select! {
            _ = connection => None,
            (answer, _) = futures::future::join(answer, serve) => {
                answer.ok().map(|answer| answer.into_parts().0.extensions)
            }
        }
    };
    // Nothing here waits for a socket or a clock, so polling is sufficient.
    let mut read = Box::pin(read);
    for _ in 0..POLLS_MAX {
        if let Some(read) = (&mut read).now_or_never() {
            match read {
                Some(names) => return names,
                None => break,
            }
        }
    }
    tracing::error!("header names of the compatible API are written in lower case");
    Extensions::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_can_be_had() {
        assert!(!of_the_compatible_api().is_empty());
    }
}
