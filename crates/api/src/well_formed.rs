//! Refuses malformed requests, and makes the refusal of bytes that are not a request.
//!
//! Place in the flow: behind the reading of heads, before everything else. A refused request is never forwarded, so no
//! instance has to handle it.

use axum::body::Body;
use axum::http::uri::Scheme;
use axum::http::{HeaderValue, Request, Response, StatusCode, Version, header};
use axum::response::IntoResponse;

use super::compat_error::CompatError;
use super::serve_limits::ServeLimits;
use maxine_http1::{BadRequest, HeadLimits, is_chunked_or_unencoded};

/// Limits on a request's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Maximum length of a head, in bytes.
    len_max: usize,
    fields_max: usize,
    /// Maximum length of a target, in bytes.
    target_len_max: usize,
}

impl Bounds {
    /// A target may have half the length of a head. If a head is too long, it is not read, so that it is unknown which
    /// part is too long.
    pub(super) fn of(limits: &ServeLimits) -> Self {
        let len_max = limits.header_len_max.max(8_192);
        Self { len_max, fields_max: limits.header_fields_max, target_len_max: len_max / 2 }
    }

    /// The limits for reading a head over HTTP/1.1.
    pub(super) fn of_heads(self) -> HeadLimits {
        HeadLimits { len_max: self.len_max, fields_max: self.fields_max }
    }
}

/// The answer to a malformed request; `None` for all others.
pub(super) fn refusal<B>(request: &Request<B>, bounds: Bounds) -> Option<Response<Body>> {
    let error = fault_of(request, bounds)?;
    let mut response = error.into_response();
    if request.version() < Version::HTTP_2 {
        // The sender may assume another end of the message than this node, so the connection must not be used again.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Some(response)
}

/// The answer to bytes that are not a request.
pub(super) fn bad_request(why: BadRequest, bounds: Bounds) -> CompatError {
    let Bounds { len_max, fields_max, .. } = bounds;
    let (status, text) = match why {
        BadRequest::NotHttp => {
            (StatusCode::BAD_REQUEST, "The request is not well-formed HTTP/1.1".to_owned())
        }
        BadRequest::TooLong => {
            let text = format!("The head of a request must have at most {len_max} bytes");
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text)
        }
        BadRequest::TargetTooLong => {
            (StatusCode::URI_TOO_LONG, too_long_target(bounds.target_len_max))
        }
        BadRequest::TooManyFields => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, too_many_fields(fields_max))
        }
        BadRequest::Framing => {
            let text = "The length of the request is ambiguous: it must have one Content-Length, or the \
                        transfer coding chunked over HTTP/1.1";
            (StatusCode::BAD_REQUEST, text.to_owned())
        }
        BadRequest::Coding => (StatusCode::NOT_IMPLEMENTED, UNKNOWN_CODING.to_owned()),
    };
    CompatError::new(status, text)
}

const UNKNOWN_CODING: &str = "The only transfer coding that is understood is chunked";

fn too_long_target(len_max: usize) -> String {
    format!("A request's target must have at most {len_max} bytes")
}

fn too_many_fields(fields_max: usize) -> String {
    format!("A request must have at most {fields_max} header fields")
}

fn fault_of<B>(request: &Request<B>, bounds: Bounds) -> Option<CompatError> {
    let headers = request.headers();
    if let Some(text) = fault_of_host(request) {
        return Some(CompatError::bad_request(text));
    }
    if request.uri().path_and_query().is_some_and(|t| t.as_str().len() > bounds.target_len_max) {
        let text = too_long_target(bounds.target_len_max);
        return Some(CompatError::new(StatusCode::URI_TOO_LONG, text));
    }
    // The HTTP library does not limit the number of fields over HTTP/2.
    if headers.len() > bounds.fields_max {
        let text = too_many_fields(bounds.fields_max);
        return Some(CompatError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text));
    }
    if !is_chunked_or_unencoded(headers) {
        return Some(CompatError::new(StatusCode::NOT_IMPLEMENTED, UNKNOWN_CODING));
    }
    let is_padded = |value: &HeaderValue| {
        let (first, last) = (value.as_bytes().first(), value.as_bytes().last());
        [first, last].into_iter().flatten().any(|byte| matches!(byte, b' ' | b'\t'))
    };
    // RFC 9113 section 8.2.1 forbids such a space. In HTTP/1 the parser removes it.
    if request.version() == Version::HTTP_2 && headers.values().any(is_padded) {
        let text = "The value of a header field must not begin or end with a space";
        return Some(CompatError::bad_request(text));
    }
    if request.version() == Version::HTTP_2 && request.uri().path().is_empty() {
        return Some(CompatError::bad_request("A request must have a path"));
    }
    None
}

/// What is wrong with the host of a request, which must be unambiguous (RFC 9112 section 3.2 and RFC 9113 section
/// 8.3.1).
fn fault_of_host<B>(request: &Request<B>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() || host.is_none() && request.version() == Version::HTTP_11 {
        return Some("An HTTP/1.1 request must have exactly one Host header");
    }
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if !host.is_none_or(is_host) || !authority.is_none_or(is_host) {
        return Some("The host of a request must be a name or an address, and may have a port");
    }
    if request.version() == Version::HTTP_2
        && let (Some(host), Some(authority)) = (host, authority)
    {
        let is_https = request.uri().scheme() == Some(&Scheme::HTTPS);
        let default: &[u8] = if is_https { b":443" } else { b":80" };
        let plain =
            |host: &'_ [u8]| host.strip_suffix(default).unwrap_or(host).to_ascii_lowercase();
        if plain(host) != plain(authority) {
            return Some("The Host header must be equal to :authority");
        }
    }
    None
}

/// Whether a value is a host, which may be empty, with an optional port (RFC 9110 section 7.2).
pub(super) fn is_host(value: &[u8]) -> bool {
    let (is_name, port) = match value.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let address = std::str::from_utf8(&rest[..end]).unwrap_or_default();
            (address.parse::<std::net::Ipv6Addr>().is_ok(), &rest[end + 1..])
        }
        None => {
            let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
            (is_registered_name(&value[..end]), &value[end..])
        }
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_name && is_port
}

/// Whether a text is a registered name (RFC 3986 section 3.2.2).
fn is_registered_name(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'%' => [bytes.next(), bytes.next()]
                .iter()
                .all(|hex| hex.is_some_and(u8::is_ascii_hexdigit)),
            byte => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte),
        };
        if !fits {
            return false;
        }
    }
    true
}
