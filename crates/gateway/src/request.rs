//! A request to an instance. Its head is prepared once for all attempts, and its body is kept if it may have to be sent
//! again.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as AxumBody;
use bytes::Bytes;
use hyper::body::Body;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Uri, Version};

use super::client::{ClientAddr, Peer};
use super::compiled::{CompiledPolicy, StickyCookie};
use super::error::ProxyError;
use super::headers::{self, Origin};
use super::pool::Pool;
use super::request_body::{self, CollectedBody, ExpectGate, KeptBytes, Progress, RequestBody};
use super::target::RequestTarget;
use maxine_clock::Clock;

/// The field with the path under which clients reach the service.
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The head of a request, without the fields that concern its connection.
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) target: RequestTarget,
    pub(crate) headers: HeaderMap,
    /// The protocols that the client offers to upgrade to, if they are forwarded.
    pub(crate) upgrade: Option<HeaderValue>,
    pub(crate) takes_trailers: bool,
    pub(crate) expects_continue: bool,
    /// Whether an empty body is sent with `Content-Length: 0` (RFC 9110 section 8.6).
    pub(crate) announces_empty: bool,
    /// The host in the client's request.
    pub(crate) asked_host: Option<HeaderValue>,
}

/// What is known about the origin of a request.
pub(crate) struct Inbound<'a> {
    pub(crate) client: ClientAddr,
    pub(crate) trace: &'a [(HeaderName, HeaderValue)],
    pub(crate) keep_trailer: bool,
    pub(crate) version: Version,
    /// The path under which clients reach the service. Policies can send it to instances.
    pub(crate) prefix: Option<&'a str>,
}

impl Head {
    /// Prepares the head. `headers` are the fields of the client's request.
    pub(crate) fn prepare(
        method: Method,
        uri: &Uri,
        mut target: RequestTarget,
        mut headers: HeaderMap,
        inbound: &Inbound<'_>,
        policy: &CompiledPolicy,
    ) -> Result<Self, ProxyError> {
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(ProxyError::Method);
        }
        // The parser accepts only one framing. A request with two must never reach an instance.
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        if chunked && headers.contains_key(header::CONTENT_LENGTH) {
            return Err(ProxyError::BadRequest("both Content-Length and Transfer-Encoding"));
        }
        let upgrade = headers::offered_upgrade(&headers)
            .filter(|_| inbound.version == Version::HTTP_11)
            .filter(|_| method == Method::GET && !policy_is_http2(policy));
        let takes_trailers = headers::accepts_trailers(&headers);
        let mut expects_continue = headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        // HTTP/1.0 has no interim answers (RFC 9110 section 10.1.1).
        if expects_continue && inbound.version == Version::HTTP_10 {
            headers.remove(header::EXPECT);
            expects_continue = false;
        }
        headers::strip_hop_by_hop(&mut headers, inbound.keep_trailer);
        headers::count_hop(&mut headers)?;
        if method == Method::OPTIONS {
            headers::count_max_forwards_down(&mut headers);
        }
        headers.append(header::VIA, via(inbound.version));
        // An absolute target and HTTP/2 have the host outside of the header fields. `Host` is ignored then.
        let named = headers.remove(header::HOST);
        let authority = uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
        let host = authority.and_then(Result::ok).or(named);
        let announces_empty = headers.remove(header::CONTENT_LENGTH).is_some()
            || matches!(method, Method::POST | Method::PUT | Method::PATCH);
        join_cookies(&mut headers);
        let ClientAddr { peer: ip, is_peer_tls: is_tls, is_peer_trusted: trusted, .. } =
            inbound.client;
        let origin = Origin { peer: Peer { ip, is_tls }, host: host.as_ref(), trusted };
        headers::set_forwarded(&mut headers, &origin);
        for (name, value) in inbound.trace {
            headers.insert(name, value.clone());
        }
        if let Some(prefix) = inbound.prefix.filter(|_| policy.prefix().forwarded)
            && let Ok(value) = HeaderValue::from_str(prefix)
        {
            headers.insert(X_FORWARDED_PREFIX, value);
        }
        if let Some(rules) = &policy.request_rules {
            rules.apply(&mut headers);
        }
        if !policy.prefix().trailing_slash {
            target.drop_lone_slash();
        }
        if let Some(rule) = policy.rewrite() {
            target.rewrite(rule);
        }
        Ok(Self {
            method,
            target,
            headers,
            upgrade,
            takes_trailers,
            expects_continue,
            announces_empty,
            asked_host: host,
        })
    }

    /// The request for one instance. `headers` are the head's fields, or a copy of them if more attempts may follow.
    pub(crate) fn request(
        &self,
        mut headers: HeaderMap,
        pool: &Pool,
        path: PathAndQuery,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, ProxyError> {
        let http2 = pool.is_http2();
        let uri = if http2 { pool.address().absolute(path)? } else { Uri::from(path) };
        if !http2 {
            headers.insert(header::HOST, pool.address().host_header.clone());
        }
        if let Some(protocol) = &self.upgrade {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocol.clone());
        } else if self.takes_trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            if !http2 {
                headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
            }
        }
        if body.is_end_stream() {
            // Without content, there is nothing to wait for (RFC 9110 section 10.1.1).
            if self.expects_continue {
                headers.remove(header::EXPECT);
            }
            if self.announces_empty {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
        } else if !http2 && body.size_hint().exact().is_none() {
            // Without this field, a `GET` would be taken for a request without a body.
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// The value of `Via`: the version of the client's request, and a name (RFC 9110 section 7.6.3).
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 maxine",
        Version::HTTP_2 => "2.0 maxine",
        _ => "1.1 maxine",
    })
}

/// Joins several `Cookie` fields into one. HTTP/2 clients may split the field (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.nth(1).is_none() {
        return;
    }
    let lines: Vec<&[u8]> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::try_from(lines.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

fn policy_is_http2(policy: &CompiledPolicy) -> bool {
    policy.pool.protocol == maxine_state::UpstreamProtocol::Http2
}

/// The hash of an instance's name in the request's sticky cookie.
pub(crate) fn sticky_instance(sticky: Option<&StickyCookie>, headers: &HeaderMap) -> Option<u64> {
    u64::from_str_radix(headers::cookie(headers, &sticky?.name)?, 16).ok()
}

/// A request's body, which may be sendable only once.
pub(crate) enum Outgoing {
    /// There is no body.
    Empty,
    /// The whole body.
    Whole(Bytes),
    /// A stream that can be sent once. `None` after it was sent.
    Once(Option<Box<RequestBody>>),
}

/// How the body of a request is handled.
pub(crate) struct BodyPlan {
    /// Maximum length of a body that is kept to be sent again, in bytes. With `None`, every body is streamed.
    pub(crate) keep_max: Option<u64>,
    pub(crate) limit: u64,
    pub(crate) idle: Duration,
}

impl Outgoing {
    /// Reads the client's body, which is not empty, and collects it if the plan says so. `kept` counts the collected
    /// bytes.
    pub(crate) async fn prepare(
        body: AxumBody,
        plan: &BodyPlan,
        kept: &mut KeptBytes,
        progress: &Arc<Progress>,
        clock: &Clock,
    ) -> Result<Self, ProxyError> {
        let max = plan.limit;
        if body.size_hint().lower() > max {
            return Err(ProxyError::BodyTooLarge { max });
        }
        let Some(keep_max) = plan.keep_max else {
            let stream = RequestBody::stream(body, max, Arc::clone(progress), clock.clone());
            return Ok(Self::Once(Some(Box::new(stream))));
        };
        Ok(match request_body::collect(body, keep_max.min(max), plan.idle, kept).await? {
            CollectedBody::Whole(bytes) if bytes.is_empty() => Self::Empty,
            CollectedBody::Whole(bytes) => Self::Whole(bytes),
            CollectedBody::TooLong(front, rest) => {
                let had: u64 = front
                    .iter()
                    .filter_map(|frame| frame.data_ref())
                    .map(|data| data.len() as u64)
                    .sum();
                let left = max.checked_sub(had).ok_or(ProxyError::BodyTooLarge { max })?;
                let progress = Arc::clone(progress);
                let body = RequestBody::prefixed(front, rest, left, progress, clock.clone());
                Self::Once(Some(Box::new(body)))
            }
        })
    }

    /// Whether the body can be sent more than once.
    pub(crate) fn is_repeatable(&self) -> bool {
        !matches!(self, Self::Once(_))
    }

    /// Length of the body in bytes, if it is kept.
    pub(crate) fn kept_len(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Empty | Self::Once(_) => 0,
        }
    }

    /// Whether the body can be sent at least once.
    pub(crate) fn can_be_sent(&self) -> bool {
        !matches!(self, Self::Once(None))
    }

    /// The body for one attempt. The gate, if there is one, holds it back. `None` if the body was already sent.
    pub(crate) fn take(&mut self, gate: Option<&Arc<ExpectGate>>) -> Option<RequestBody> {
        let body = match self {
            Self::Empty => return Some(RequestBody::empty()),
            Self::Whole(bytes) => RequestBody::full(bytes.clone()),
            Self::Once(body) => *body.take()?,
        };
        Some(match gate {
            Some(gate) => body.gated(Arc::clone(gate)),
            None => body,
        })
    }
}
