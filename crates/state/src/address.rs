//! The address of an instance: a URL, parsed by the state's own grammar.
//!
//! Every replica checks every registration, and all must decide alike. A URL library is not used, because
//! another version of it could decide differently.
//!
//! ```text
//! address   = ( "http" / "https" ) "://" host [ ":" port ] [ path ]      scheme in any case
//! host      = "[" IPv6 address "]" / 1*( letter / digit / "-._~!$&'()*+,;=" )
//! port      = 1*digit, 1 to 65535
//! path      = "/" *( visible ASCII but # < > ? \ ` " / any character beyond ASCII ), without the segments . and ..
//! ```

use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::limits::{self, Limit, LimitExceeded, check_text};

/// The URL of an instance: `http://` or `https://`, a host, an optional port, and an optional base path
/// without a trailing slash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(Arc<str>);

impl Address {
    /// Parses a URL. Refuses another scheme, user information, a query, a fragment, a host with invalid
    /// characters, `..` in the path, and port 0.
    pub fn parse(text: &str) -> Result<Self, LimitExceeded> {
        check_text("address", text, 1, limits::ADDRESS_LEN_MAX)?;
        match check(text) {
            Ok(()) => Ok(Self(text.strip_suffix('/').unwrap_or(text).into())),
            Err(limit) => Err(LimitExceeded::new("address", limit, text)),
        }
    }

    /// Builds an address from its parts. The error names the part that is not allowed.
    pub fn from_parts(parts: &AddressParts<'_>) -> Result<Self, LimitExceeded> {
        let AddressParts { scheme, host, port, base_path } = *parts;
        let is_ipv6 = is_ipv6(host);
        if !is_ipv6 && !is_host(host) || host.is_empty() {
            return Err(LimitExceeded::new("host", Limit::Host, host));
        }
        if port == Some(0) {
            return Err(LimitExceeded::new("port", Limit::Range { min: 1, max: 65_535 }, 0));
        }
        if !base_path.is_empty() && !base_path.starts_with('/') {
            return Err(LimitExceeded::new("base_path", Limit::BasePath, base_path));
        }
        check_path(base_path).map_err(|limit| LimitExceeded::new("base_path", limit, base_path))?;
        let (open, close) = if is_ipv6 { ("[", "]") } else { ("", "") };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        Self::parse(&format!("{}://{open}{host}{close}{port}{base_path}", scheme.as_str()))
    }

    /// The URL, without a trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its scheme, host, port and base path.
    #[must_use]
    pub fn parts(&self) -> AddressParts<'_> {
        let url = Url::split(&self.0);
        let scheme = match url.scheme.eq_ignore_ascii_case(Scheme::Https.as_str()) {
            true => Scheme::Https,
            false => Scheme::Http,
        };
        let unbracketed = url.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        AddressParts {
            scheme,
            host: unbracketed.unwrap_or(url.host),
            port: url.port.strip_prefix(':').and_then(|digits| digits.parse().ok()),
            base_path: url.path,
        }
    }
}

/// The protocol that an instance is called with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// HTTP without TLS. Instances that do not speak HTTP at all have this scheme too.
    #[default]
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The scheme as it is written in a URL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of a URL that has none.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The parts of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressParts<'a> {
    /// The scheme.
    pub scheme: Scheme,
    /// A host name or an IP address; an IPv6 address without brackets.
    pub host: &'a str,
    /// The port, or `None` if the owner gave none. HTTP clients then use [`Scheme::default_port`].
    pub port: Option<u16>,
    /// The path that is put before every path on the instance. It is empty, or begins with a slash.
    pub base_path: &'a str,
}

impl AddressParts<'_> {
    /// The port that HTTP clients connect to.
    #[must_use]
    pub fn http_port(&self) -> u16 {
        self.port.unwrap_or_else(|| self.scheme.default_port())
    }
}

impl TryFrom<String> for Address {
    type Error = LimitExceeded;
    fn try_from(text: String) -> Result<Self, LimitExceeded> {
        Self::parse(&text)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.0.as_ref().into()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A URL split at its separators. Nothing is checked yet.
struct Url<'a> {
    scheme: &'a str,
    authority: &'a str,
    /// The host, with its brackets if it has any.
    host: &'a str,
    /// What follows the host: empty, or a colon and the port.
    port: &'a str,
    path: &'a str,
}

impl<'a> Url<'a> {
    fn split(text: &'a str) -> Self {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (host, port) = match authority.find(']') {
            Some(end) => authority.split_at(end + 1),
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        Self { scheme, authority, host, port, path }
    }
}

fn check(text: &str) -> Result<(), Limit> {
    let Url { scheme, authority, host, port, path } = Url::split(text);
    let is_bracketed = authority.contains(['[', '@']);
    if !is_bracketed && authority.bytes().filter(|b| *b == b':').count() > 1 {
        return Err(Limit::UrlBrackets);
    }
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Limit::UrlScheme);
    }
    if authority.contains('@') {
        return Err(Limit::UrlUser);
    }
    if host.is_empty() {
        return Err(Limit::UrlHost);
    }
    if !is_host(host) {
        return Err(Limit::Url);
    }
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
        return Err(Limit::UrlPort);
    }
    check_path(path)
}

fn check_path(path: &str) -> Result<(), Limit> {
    if !path.chars().all(is_of_path) {
        return Err(Limit::UrlPath);
    }
    // Most paths contain neither character, and then the slower check below is skipped. Every node checks
    // every registration in apply.
    if path.contains(['.', '%']) {
        let lower = path.to_ascii_lowercase().replace("%2e", ".");
        if lower.split('/').any(|segment| segment == ".." || segment == ".") {
            return Err(Limit::UrlDots);
        }
    }
    Ok(())
}

fn is_host(host: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&b);
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => is_ipv6(inner),
        None => host.bytes().all(is_part),
    }
}

fn is_port(digits: &str) -> bool {
    let add = |sum: u32, b: u8| match b {
        b'0'..=b'9' => Some(sum * 10 + u32::from(b - b'0')).filter(|sum| *sum <= 65_535),
        _ => None,
    };
    digits.bytes().try_fold(0, add).is_some_and(|port| port > 0)
}

/// RFC 4291, section 2.2: eight groups of up to four hexadecimal digits; the last two may be written as an IPv4
/// address, and one run of groups that are 0 may be left out as `::`.
fn is_ipv6(text: &str) -> bool {
    match text.split_once("::") {
        // A second `::` would leave an empty group here.
        Some((front, back)) => match (groups(front, false), groups(back, true)) {
            (Some(front), Some(back)) => front + back < 8,
            _ => false,
        },
        None => groups(text, true) == Some(8),
    }
}

/// The number of groups in `text`; 0 if it is empty.
fn groups(text: &str, may_end_in_ipv4: bool) -> Option<usize> {
    if text.is_empty() {
        return Some(0);
    }
    let mut count = 0;
    let mut rest = text.split(':').peekable();
    while let Some(group) = rest.next() {
        let is_last = rest.peek().is_none();
        if is_last && may_end_in_ipv4 && is_ipv4(group) {
            return Some(count + 2);
        }
        if !(1..=4).contains(&group.len()) || !group.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        count += 1;
    }
    Some(count)
}

fn is_ipv4(text: &str) -> bool {
    let is_part = |part: &str| {
        let digits = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        let zero_first = part.len() > 1 && part.starts_with('0');
        digits && !zero_first && part.parse::<u8>().is_ok()
    };
    text.split('.').count() == 4 && text.split('.').all(is_part)
}

fn is_of_path(c: char) -> bool {
    match c {
        '"' | '#' | '<' | '>' | '?' | '\\' | '`' => false,
        _ => c > '~' || c.is_ascii_graphic(),
    }
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
