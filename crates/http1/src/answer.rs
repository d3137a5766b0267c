//! The head of an answer to a client, as bytes (RFC 9112 sections 4 and 6).

use http::header::{self, HeaderName};
use http::{HeaderValue, Method, StatusCode, Version, response};
use hyper::body::Body;

use super::date::push_date;
use super::fields::{announced_trailers, push_field, push_length};
use super::framing;
use super::sending::Coding;

/// How the names of fields are written. An extension of an answer; without it, names are in lower case.
#[derive(Clone, Copy, Debug)]
pub struct FieldNames(pub for<'a> fn(&'a HeaderName) -> &'a str);

fn in_lower_case(name: &HeaderName) -> &str {
    name.as_str()
}

/// What the head of an answer depends on, beside the answer itself.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) version: Version,
    /// Whether the connection may stay open after the answer.
    pub(super) keeps_open: bool,
}

/// What follows the head of an answer.
#[derive(Debug)]
pub(super) struct Following {
    /// `None` if the answer has no content.
    pub(super) coding: Option<Coding>,
    /// The trailer fields that may follow.
    pub(super) announced: Vec<HeaderName>,
    /// Whether the connection stays open after the answer.
    pub(super) keeps_open: bool,
}

/// Writes the head of an answer whose content is `body`. `time_ms` is the value of `Date`, in milliseconds since the
/// Unix epoch.
pub(super) fn push_head<B: Body>(
    out: &mut Vec<u8>,
    parts: &response::Parts,
    body: &B,
    question: &Question,
    time_ms: u64,
) -> Following {
    let FieldNames(name_of) = parts.extensions.get().copied().unwrap_or(FieldNames(in_lower_case));
    push_status(out, parts.status, question.version);
    let is_old = question.version == Version::HTTP_10;
    let following = following(parts, body, question);
    let is_chunked = following.coding == Some(Coding::Chunked);
    for (name, value) in &parts.headers {
        match *name {
            // Written below, with their true values.
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING => continue,
            header::CONNECTION if is_about_the_end(value) => continue,
            header::TRAILER if !is_chunked => continue,
            _ => {}
        }
        push_field(out, name_of(name), value.as_bytes());
    }
    match following.coding {
        Some(Coding::Chunked) => {
            push_field(out, name_of(&header::TRANSFER_ENCODING), b"chunked");
        }
        Some(Coding::Length(len)) => push_length(out, name_of(&header::CONTENT_LENGTH), len),
        Some(Coding::UntilClose) => {}
        None => push_length_without_content(out, parts, question, name_of),
    }
    match following.keeps_open {
        _ if is_upgrade(parts.status) => {}
        false => push_field(out, name_of(&header::CONNECTION), b"close"),
        true if is_old => push_field(out, name_of(&header::CONNECTION), b"keep-alive"),
        true => {}
    }
    if !parts.headers.contains_key(header::DATE) {
        out.extend_from_slice(name_of(&header::DATE).as_bytes());
        out.extend_from_slice(b": ");
        push_date(out, time_ms);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    following
}

/// Writes the first line of an answer.
pub fn push_status(out: &mut Vec<u8>, status: StatusCode, version: Version) {
    let version: &[u8] = if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    out.extend_from_slice(version);
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("Unknown").as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Whether an answer ends HTTP on its connection.
fn is_upgrade(status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS
}

fn following<B: Body>(parts: &response::Parts, body: &B, question: &Question) -> Following {
    let may_stay = question.keeps_open
        && framing::keeps_open(&parts.headers, Version::HTTP_11)
        && !is_upgrade(parts.status);
    if !has_content(parts.status, &question.method) {
        return Following { coding: None, announced: Vec::new(), keeps_open: may_stay };
    }
    let declared_len = || framing::content_len(&parts.headers).ok().flatten();
    let coding = match body.size_hint().exact() {
        _ if body.is_end_stream() => Coding::Length(0),
        Some(len) => Coding::Length(len),
        None => match declared_len() {
            Some(len) => Coding::Length(len),
            None if question.version == Version::HTTP_10 => Coding::UntilClose,
            None => Coding::Chunked,
        },
    };
    let announced = match coding {
        Coding::Chunked => announced_trailers(&parts.headers),
        Coding::Length(_) | Coding::UntilClose => Vec::new(),
    };
    let keeps_open = may_stay && coding != Coding::UntilClose;
    Following { coding: Some(coding), announced, keeps_open }
}

/// Whether a `Connection` field states only whether the connection ends.
fn is_about_the_end(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    value.eq_ignore_ascii_case(b"close") || value.eq_ignore_ascii_case(b"keep-alive")
}

/// Whether such an answer has content (RFC 9112 section 6.3).
fn has_content(status: StatusCode, method: &Method) -> bool {
    *method != Method::HEAD
        && !status.is_informational()
        && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Writes the length for an answer to `HEAD`: it is the length that `GET` would have. No other answer without content
/// has a length.
fn push_length_without_content(
    out: &mut Vec<u8>,
    parts: &response::Parts,
    question: &Question,
    name_of: for<'a> fn(&'a HeaderName) -> &'a str,
) {
    let is_about_get = question.method == Method::HEAD
        && !parts.status.is_informational()
        && parts.status != StatusCode::NO_CONTENT;
    if let Some(len) = parts.headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes)
        && is_about_get
    {
        push_field(out, name_of(&header::CONTENT_LENGTH), len);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Response;
    use http_body_util::BodyExt;
    use http_body_util::{Empty, Full, StreamBody, combinators::BoxBody};
    use hyper::body::Frame;

    use super::*;

    type AnyBody = BoxBody<Bytes, std::convert::Infallible>;

    fn streamed() -> AnyBody {
        BodyExt::boxed(StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, _>>()))
    }

    /// The head without its date, and what follows it.
    fn head(
        answer: http::response::Builder,
        body: &AnyBody,
        method: Method,
        version: Version,
    ) -> (String, Option<Coding>, bool) {
        let (parts, ()) = answer.body(()).unwrap().into_parts();
        let question = Question { method, version, keeps_open: true };
        let mut out = Vec::new();
        let following = push_head(&mut out, &parts, body, &question, 0);
        let head = String::from_utf8(out).unwrap();
        let head = head.replace("date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n", "");
        (head, following.coding, following.keeps_open)
    }

    #[test]
    fn content_is_framed_as_client_and_status_allow() {
        let full = || BodyExt::boxed(Full::new(Bytes::from_static(b"hello")));
        let none = || BodyExt::boxed(Empty::<Bytes>::new());
        let ok = || Response::builder();
        let (get, new, old) = (Method::GET, Version::HTTP_11, Version::HTTP_10);
        let rows = [
            (
                ok(),
                none(),
                get.clone(),
                new,
                "content-length: 0\r\n",
                Some(Coding::Length(0)),
                true,
            ),
            (
                ok(),
                full(),
                get.clone(),
                new,
                "content-length: 5\r\n",
                Some(Coding::Length(5)),
                true,
            ),
            (
                ok(),
                streamed(),
                get.clone(),
                new,
                "transfer-encoding: chunked\r\n",
                Some(Coding::Chunked),
                true,
            ),
            (
                ok(),
                streamed(),
                get.clone(),
                old,
                "connection: close\r\n",
                Some(Coding::UntilClose),
                false,
            ),
            (
                ok(),
                full(),
                get.clone(),
                old,
                "content-length: 5\r\nconnection: keep-alive\r\n",
                Some(Coding::Length(5)),
                true,
            ),
            (
                ok().header("content-length", "7"),
                streamed(),
                get.clone(),
                new,
                "content-length: 7\r\n",
                Some(Coding::Length(7)),
                true,
            ),
            (
                ok().header("content-length", "7"),
                none(),
                Method::HEAD,
                new,
                "content-length: 7\r\n",
                None,
                true,
            ),
            (ok(), full(), Method::HEAD, new, "", None, true),
            (
                ok().status(204).header("content-length", "7"),
                none(),
                get.clone(),
                new,
                "",
                None,
                true,
            ),
            (
                ok().status(304).header("content-length", "7"),
                none(),
                get.clone(),
                new,
                "",
                None,
                true,
            ),
            (
                ok().header("connection", "close"),
                full(),
                get.clone(),
                new,
                "content-length: 5\r\nconnection: close\r\n",
                Some(Coding::Length(5)),
                false,
            ),
            (
                ok().header("trailer", "x-sum"),
                full(),
                get.clone(),
                new,
                "content-length: 5\r\n",
                Some(Coding::Length(5)),
                true,
            ),
            (
                ok().header("transfer-encoding", "gzip"),
                full(),
                get,
                new,
                "content-length: 5\r\n",
                Some(Coding::Length(5)),
                true,
            ),
        ];
        for (answer, body, method, version, fields, coding, keeps_open) in rows {
            let shown = format!("{answer:?} {method} {version:?}");
            let (head, followed_by, stays) = head(answer, &body, method, version);
            let (line, said) = head.split_once("\r\n").unwrap();
            assert!(
                line.starts_with(if version == old { "HTTP/1.0 " } else { "HTTP/1.1 " }),
                "{shown}"
            );
            assert_eq!((said, followed_by, stays), (fields, coding, keeps_open), "{shown}");
        }
    }

    #[test]
    fn an_upgrade_keeps_its_options_and_other_answers_add_theirs() {
        let fields = |answer: http::response::Builder| {
            head(answer, &BodyExt::boxed(Empty::new()), Method::GET, Version::HTTP_11).0
        };
        let upgrade = Response::builder().status(101).header("connection", "upgrade");
        assert_eq!(fields(upgrade), "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n");
        let required = Response::builder().status(426);
        let required = required.header("connection", "upgrade").header("connection", "close");
        let expected = "HTTP/1.1 426 Upgrade Required\r\nconnection: upgrade\r\n\
                        content-length: 0\r\nconnection: close\r\n";
        assert_eq!(fields(required), expected);
    }

    #[test]
    fn names_are_written_as_the_answer_says() {
        fn capital(name: &HeaderName) -> &str {
            if *name == header::CONTENT_LENGTH { "Content-Length" } else { name.as_str() }
        }
        let answer = Response::builder().extension(FieldNames(capital)).header("x-a", "1");
        let body = BodyExt::boxed(Empty::new());
        let (head, ..) = head(answer, &body, Method::GET, Version::HTTP_11);
        assert_eq!(head, "HTTP/1.1 200 OK\r\nx-a: 1\r\nContent-Length: 0\r\n");
    }
}
