//! One finished request, as traces, the request log and the counters use it.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use http::{Method, StatusCode, Uri, Version};

use super::TraceName;
use super::secrets::{HIDDEN, is_token};
use crate::AttemptTrail;
use maxine_view::{ServiceCounter, WriteRecord};

/// Maximum length of a stored request target, in bytes.
const TARGET_LEN_MAX: usize = 2_048;

/// The kind of a request, as its handler reports it, with the requested service if it is registered.
#[derive(Clone, Debug, Default)]
pub enum Subject {
    /// A look-up: a redirect to an instance, or a resolve.
    Lookup(Option<Arc<ServiceCounter>>),
    /// A request to forward to an instance.
    Proxied(Option<Arc<ServiceCounter>>),
    /// A registration, a heartbeat, or a batch of them.
    Registration,
    /// Anything else.
    #[default]
    Other,
}

/// A request that was answered.
#[derive(Clone, Debug)]
pub struct FinishedRequest {
    /// The kind of the request.
    pub subject: Subject,
    /// The method.
    pub method: Method,
    /// The request target, up to 2,048 bytes. It has the query only if a setting asks for it. It is a copy:
    /// the original is part of the connection's read buffer, which could not be reused while it is kept.
    pub target: Box<str>,
    /// The protocol's version.
    pub version: Version,
    /// The client's network address.
    pub client: IpAddr,
    /// The trace id.
    pub trace_id: TraceName,
    /// The W3C trace parent.
    pub traceparent: TraceName,
    /// The client's span, if this node exports traces and the client named one.
    pub parent_span: Option<NonZeroU64>,
    /// Whether the client used HTTPS.
    pub is_https: bool,
    /// When it began, on the monotonic clock, in microseconds.
    pub started_us: u64,
    /// Time until the head of the answer was ready, in microseconds.
    pub duration_us: u64,
    /// The answer's status.
    pub status: StatusCode,
    /// The attempts of a forwarded request.
    pub attempts: AttemptTrail,
    /// The writes that the request caused. Empty unless this node exports traces.
    pub writes: Vec<WriteRecord>,
    /// Whether its target asks Maxine to wait for a change, so that it takes long without being slow. False unless this
    /// node exports traces. Without meaning for a forwarded request, whose query is for its instance.
    pub is_long_poll: bool,
}

/// Parts of the names of parameters whose values are credentials. Names are compared in lower case, without `-`, `_` and
/// `.`.
const SECRET_PARTS: [&str; 20] = [
    "token",
    "secret",
    "passw",
    "pwd",
    "apikey",
    "accesskey",
    "authoriz",
    "credential",
    "signature",
    "session",
    "jwt",
    "assertion",
    "bearer",
    "passphrase",
    "privatekey",
    "authkey",
    "sessid",
    "cookie",
    "saml",
    "verifier",
];
/// Whole names of such parameters.
const SECRET_NAMES: [&str; 13] = [
    "auth", "code", "hmac", "key", "otp", "pass", "pin", "psk", "pw", "sid", "sig", "ticket",
    "totp",
];

/// Appends a query, with the values hidden that look like credentials.
fn push_hiding(out: &mut String, query: &str) {
    for (at, pair) in query.split('&').enumerate() {
        if at > 0 {
            out.push('&');
        }
        match pair.split_once('=') {
            Some((name, value)) if is_secret(name, value) => {
                out.push_str(name);
                out.push('=');
                out.push_str(HIDDEN);
            }
            // A token can be the whole query.
            None if is_token(pair) => out.push_str(HIDDEN),
            _ => out.push_str(pair),
        }
    }
}

fn is_secret(name: &str, value: &str) -> bool {
    if value.is_empty() {
        return false;
    }
    let plain = |c: &char| !matches!(c, '-' | '_' | '.');
    // A name with escapes could be any name.
    let name: String = name.to_ascii_lowercase().chars().filter(plain).collect();
    name.contains('%')
        || SECRET_NAMES.contains(&&*name)
        || SECRET_PARTS.iter().any(|part| name.contains(part))
        || is_token(value)
}

impl FinishedRequest {
    /// The part of a request's target that is stored.
    #[must_use]
    pub fn target_of(uri: &Uri, with_query: bool) -> Box<str> {
        Self::kept(uri.path_and_query().map_or("/", |target| target.as_str()), with_query)
    }

    /// The part of a target's text that is stored. A query may contain data that is only for its receiver.
    #[must_use]
    pub fn kept(target: &str, with_query: bool) -> Box<str> {
        let Some((path, query)) = target.split_once('?') else {
            return target[..target.floor_char_boundary(TARGET_LEN_MAX)].into();
        };
        let mut kept = path.to_owned();
        if with_query {
            kept.push('?');
            push_hiding(&mut kept, query);
        }
        kept.truncate(kept.floor_char_boundary(TARGET_LEN_MAX));
        kept.into()
    }

    /// The target without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// A finished request with its time.
#[derive(Clone, Debug)]
pub struct Trace {
    /// When it began, in milliseconds since 1970.
    pub time_ms: u64,
    /// The request.
    pub request: FinishedRequest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query_that_look_like_credentials_are_hidden() {
        let kept = |target: &str| FinishedRequest::kept(target, true).into_string();
        for (target, shown) in [
            ("/x", "/x"),
            ("/x?", "/x?"),
            ("/x?page=2&sort=name", "/x?page=2&sort=name"),
            ("/x?a=1&access_token=s3cret&b=2", "/x?a=1&access_token=(hidden)&b=2"),
            ("/x?Password=s3cret", "/x?Password=(hidden)"),
            ("/x?X-Amz-Signature=s3cret", "/x?X-Amz-Signature=(hidden)"),
            ("/x?api_key=s3cret&key=s3cret", "/x?api_key=(hidden)&key=(hidden)"),
            ("/x?bearer=s3cret&BEARER=s3cret", "/x?bearer=(hidden)&BEARER=(hidden)"),
            (
                "/x?passphrase=a&private_key=b&otp=1",
                "/x?passphrase=(hidden)&private_key=(hidden)&otp=(hidden)",
            ),
            (
                "/x?PHPSESSID=a&SAMLResponse=b&code_verifier=c",
                "/x?PHPSESSID=(hidden)&SAMLResponse=(hidden)&code_verifier=(hidden)",
            ),
            ("/x?ticket=a&tickets=2", "/x?ticket=(hidden)&tickets=2"),
            ("/x?p%61ssword=s3cret", "/x?p%61ssword=(hidden)"),
            ("/x?next=eyJhbGciOi.eyJzdWIi.c2ln", "/x?next=(hidden)"),
            ("/x?eyJhbGciOi.eyJzdWIi.c2ln", "/x?(hidden)"),
            ("/x?token=", "/x?token="),
            ("/x?monkey=bar", "/x?monkey=bar"),
        ] {
            assert_eq!(kept(target), shown);
        }
        assert_eq!(&*FinishedRequest::kept("/x?page=2", false), "/x");
        let long = format!("/x?page={}", "é".repeat(TARGET_LEN_MAX));
        assert!(kept(&long).len() <= TARGET_LEN_MAX);
    }
}
