//! Turns the codes of the state into text. Nothing else turns a refusal into a sentence.
//!
//! Neither apply nor the stored state may depend on a text in this file. Texts may change with every version,
//! and replicas of two versions must still have the same bytes.

use std::error::Error;
use std::fmt::{Display, Formatter, Result};

use super::command::{ObjectKind, Rejection};
use super::limits::{Given, Limit, LimitExceeded};

impl Error for LimitExceeded {}
impl Error for Rejection {}

impl Display for LimitExceeded {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.limit == Limit::SomeAdmin {
            return write!(
                f,
                "at least one user must be an admin, and {} is the only one",
                self.given()
            );
        }
        write!(f, "{} must be {}, got {}", self.field, self.limit, self.given())
    }
}

impl LimitExceeded {
    /// The given value as text. A long text is cut.
    #[must_use]
    pub fn given(&self) -> String {
        match (self.limit, &self.value) {
            // The text may be empty, so the length comes first.
            (Limit::Length { .. }, Given::Text { start, len }) => {
                let cut = if start.len() as u64 == *len { "" } else { "…" };
                format!("{len} bytes: {}{cut}", start.escape_debug())
            }
            _ => self.value.to_string(),
        }
    }
}

impl Display for Limit {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let words = match self {
            Self::Range { min, max } => return write!(f, "from {min} to {max}"),
            Self::Length { min, max } => return write!(f, "{min} to {max} bytes long"),
            Self::Password { chars_min, len_max } => {
                return write!(
                    f,
                    "at least {chars_min} characters and at most {len_max} bytes long"
                );
            }
            Self::TotalLength { max } => return write!(f, "at most {max} bytes in all"),
            Self::Count { max } => return write!(f, "at most {max} items"),
            Self::WholeRegistry { max, is_open: false } => {
                return write!(f, "at most {max} in the whole registry");
            }
            Self::WholeRegistry { max, is_open: true } => {
                return write!(
                    f,
                    "at most {max} in the whole registry for callers without a credential"
                );
            }
            Self::NoControlCharacters => "free of control characters",
            Self::NoInvisibleCharacters => {
                "free of characters that show nothing or that change the direction of writing"
            }
            Self::NoDotName => "a name other than . and ..",
            Self::NoColon => {
                "without a colon, which marks tokens and parts of Maxine in the audit log"
            }
            Self::Namespace => "1 to 63 lower-case letters, digits or inner hyphens",
            Self::HeaderName => "a header name",
            Self::HeaderValue => "a valid field value",
            Self::HeaderFields => "valid header fields",
            Self::NoFramingField => "no field of framing or connection",
            Self::Methods => "methods of up to 16 letters",
            Self::NoUrl => "a path on the instance, not a URL",
            Self::PathPrefix => {
                "a path such as /api, of letters, digits, - _ ~ . without dot segments"
            }
            Self::SomeWeight => "above 0 for one version at least",
            Self::SomeAdmin => "left with at least one admin",
            Self::Url => "a URL such as http://10.0.0.1:8080 with an optional base path",
            Self::UrlBrackets => {
                "a URL with the IPv6 address in brackets, such as http://[::1]:8080"
            }
            Self::UrlScheme => "a URL with the scheme http or https",
            Self::UrlUser => "a URL without user information",
            Self::UrlHost => "a URL with a host",
            Self::UrlPort => "a URL with a port from 1 to 65535",
            Self::UrlPath => "a URL without query, fragment, space, quote or backslash",
            Self::RootedPath => "a path on the instance that begins with /",
            Self::UrlDots => "a URL without . or .. in its path",
            Self::Host => "a host name or an IP address, without a port",
            Self::BasePath => "a path that begins with a slash, or left out",
            Self::ProbeId => "probe for a probe, and another id for every other check",
            Self::Unique => "given once",
            Self::NotIfPermanent => "left out if the instance is permanent",
            Self::AllKeys { max } => return write!(f, "at most {max} in all"),
            Self::NotCritical => "a check that is not critical",
        };
        f.write_str(words)
    }
}

impl Display for Given {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text { start, len } if start.len() as u64 == *len => start.escape_debug().fmt(f),
            Self::Text { start, len } => write!(f, "{}… ({len} bytes)", start.escape_debug()),
            Self::Bytes(len) => write!(f, "{len} bytes"),
            Self::Characters(len) => write!(f, "{len} characters"),
            Self::Items(count) => write!(f, "{count} items"),
        }
    }
}

impl Display for ObjectKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Service => "service",
            Self::Instance => "instance",
            Self::Policy => "policy of service",
            Self::User => "user",
            Self::Token => "token",
            Self::SigningKey => "signing key",
            Self::ClusterIdentity => "cluster identity",
            Self::Check => "check",
            Self::LockSession => "lock session",
        })
    }
}

impl Display for Rejection {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Limit(limit) => limit.fmt(f),
            Self::NotFound { kind, name } => write!(f, "{kind} {name} does not exist"),
            Self::Exists { kind, name } => write!(f, "{kind} {name} exists already"),
            Self::RevisionMismatch { expected: 0, actual } => {
                write!(f, "it exists already, with the revision {actual}")
            }
            Self::RevisionMismatch { expected, actual } => {
                write!(
                    f,
                    "the revision is {actual}, not {expected}; read it again and repeat the change"
                )
            }
            Self::StaleFence { got, current } => {
                write!(f, "proposed under fence {got}, but the present one is {current}")
            }
            Self::RequestIdReused => f.write_str(
                "the Idempotency-Key was used before, for a request with another body or query",
            ),
            Self::FenceMissing => f.write_str("only the leader may do this"),
            Self::StateVersion { needs, has } => {
                write!(f, "this needs state version {needs}, and the cluster has version {has}")
            }
            Self::Managed(name) => {
                write!(f, "{name} is managed by the environment and cannot be changed at run time")
            }
        }
    }
}
