//! Encodes a request to an instance.

use hyper::body::Body;
use hyper::header;
use hyper::http::request;
use maxine_http1::{Coding, Sending, announced_trailers, push_fields, push_length};

use super::super::request_body::RequestBody;

/// Memory to reserve for the head of a request, in bytes.
const HEAD_LEN: usize = 1_024;

/// The message for a request with this head and content.
pub(super) fn encode(parts: &request::Parts, body: RequestBody) -> Sending<RequestBody> {
    let is_chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
    let (is_empty, len) = (body.is_end_stream(), body.size_hint().exact());
    let (coding, announced_len) = match len {
        _ if is_empty => (Coding::Length(0), None),
        Some(len) if !is_chunked => (Coding::Length(len), Some(len)),
        _ => (Coding::Chunked, None),
    };
    let mut head = Vec::with_capacity(HEAD_LEN);
    push_request(&mut head, parts, announced_len);
    let announced = match coding {
        Coding::Chunked => announced_trailers(&parts.headers),
        Coding::Length(_) | Coding::UntilClose => Vec::new(),
    };
    Sending::new(head, coding, announced, (!is_empty).then_some(body))
}

/// Writes the head of a request. `content_len` is the length of its content in bytes, or `None` if the fields say how
/// the content is framed.
fn push_request(out: &mut Vec<u8>, parts: &request::Parts, content_len: Option<u64>) {
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    match parts.uri.path_and_query() {
        Some(target) => out.extend_from_slice(target.as_str().as_bytes()),
        None => out.push(b'/'),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    push_fields(out, &parts.headers);
    if let Some(len) = content_len {
        push_length(out, "content-length", len);
    }
    out.extend_from_slice(b"\r\n");
}
