//! Determines the client's address, behind any number of trusted proxies.
//!
//! Place in the flow: the API's edge resolves it once per request, from the TCP peer and the headers of
//! trusted proxies. Sign-in limits, audit records, traces, discovery and the forwarder all use this value.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of the client and of the TCP peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr {
    /// The client's address: that of the peer, or the one that trusted proxies report.
    pub ip: IpAddr,
    /// The TCP peer.
    pub peer: IpAddr,
    /// Whether the peer is a trusted proxy.
    pub is_peer_trusted: bool,
}

impl ClientAddr {
    /// A client that is the peer itself.
    #[must_use]
    pub fn direct(peer: IpAddr) -> Self {
        let peer = peer.to_canonical();
        Self { ip: peer, peer, is_peer_trusted: false }
    }
}

/// The values of repeated header fields, in their order.
pub trait FieldLines {
    /// All values of a field.
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl DoubleEndedIterator<Item = &'a [u8]>;
}

impl FieldLines for HeaderMap {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(HeaderValue::as_bytes)
    }
}

/// Proxies whose reports about the client are accepted.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Trusts these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this address, in its canonical form, is one of them.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// Resolves the client. If the peer is trusted, the chain of addresses is read from its end, which the
    /// nearest proxy wrote. The first address that is no trusted proxy is the client. An entry that is no
    /// address ends the search, because its writer is unknown; the client is then the last accepted address.
    /// `Forwarded` is read if there is no `X-Forwarded-For`.
    #[must_use]
    pub fn resolve(&self, peer: IpAddr, fields: &impl FieldLines) -> ClientAddr {
        let direct = ClientAddr::direct(peer);
        if !self.contains(direct.peer) {
            return direct;
        }
        let (x_forwarded_for, forwarded) = (X_FORWARDED_FOR, header::FORWARDED);
        let has_forwarded_for = fields.lines(&x_forwarded_for).next().is_some();
        let ip = if has_forwarded_for {
            let chain = fields.lines(&x_forwarded_for).rev().flat_map(|line| {
                let entries = line.rsplit(|byte| *byte == b',');
                entries.map(|entry| node_address(entry.trim_ascii()))
            });
            self.first_untrusted(direct.peer, chain)
        } else {
            let chain = fields.lines(&forwarded).rev().flat_map(forwarded_for);
            self.first_untrusted(direct.peer, chain)
        };
        ClientAddr { ip, is_peer_trusted: true, ..direct }
    }

    fn first_untrusted(&self, peer: IpAddr, chain: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut believed = peer;
        for entry in chain {
            let Some(ip) = entry else { break };
            believed = ip;
            if !self.contains(ip) {
                break;
            }
        }
        believed
    }
}

/// The addresses of a `Forwarded` line (RFC 7239 section 4), the last element first; `None` for an element
/// without one.
fn forwarded_for(line: &[u8]) -> Vec<Option<IpAddr>> {
    let mut elements: Vec<_> = split_unquoted(line, b',').map(element_for).collect();
    elements.reverse();
    elements
}

/// The address in the `for` parameter of one element.
fn element_for(element: &[u8]) -> Option<IpAddr> {
    let mut addresses = split_unquoted(element, b';').filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii());
        name.eq_ignore_ascii_case(b"for").then_some(value)
    });
    let value = addresses.next()?;
    // Two such parameters contradict each other.
    if addresses.next().is_some() {
        return None;
    }
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    node_address(quoted.unwrap_or(value))
}

/// The parts of a text between separators, ignoring separators inside quotes.
fn split_unquoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |byte| {
        if is_escaped {
            is_escaped = false;
            return false;
        }
        match byte {
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ => return !is_quoted && *byte == separator,
        }
        false
    })
}

/// An address in a form that proxies use: `IP`, `IPV4:PORT`, `[IPV6]` or `[IPV6]:PORT`.
fn node_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let ip = match bracketed {
        Some(ip) => IpAddr::V6(ip.parse().ok()?),
        None => match text.parse::<IpAddr>() {
            Ok(ip) => ip,
            Err(_) => text.parse::<SocketAddr>().ok()?.ip(),
        },
    };
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, fields: &[(&str, &str)]) -> String {
        let trusted = TrustedProxies::new(vec![
            "10.0.0.0/8".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ]);
        let field = |(n, v): &(&str, &str)| {
            (n.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(v.as_bytes()).unwrap())
        };
        let headers: HeaderMap = fields.iter().map(field).collect();
        trusted.resolve(peer.parse().unwrap(), &headers).ip.to_string()
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_a_trusted_proxy() {
        let chain = [("x-forwarded-for", "1.1.1.1, 2.2.2.2, 10.0.0.5")];
        assert_eq!(client("10.0.0.9", &chain), "2.2.2.2");
        assert_eq!(client("::ffff:10.0.0.9", &chain), "2.2.2.2");
        assert_eq!(client("9.9.9.9", &chain), "9.9.9.9", "a stranger's word does not count");
        let lines = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2,10.0.0.5")];
        assert_eq!(client("10.0.0.9", &lines), "2.2.2.2", "lines are one list");
        assert_eq!(client("10.0.0.9", &[("x-forwarded-for", "10.1.1.1, 10.0.0.5")]), "10.1.1.1");
        assert_eq!(client("10.0.0.9", &[]), "10.0.0.9");
    }

    #[test]
    fn entries_with_a_port_or_in_brackets_are_read() {
        for (entry, expected) in [
            ("2.2.2.2:4711", "2.2.2.2"),
            ("[2a00::1]:4711", "2a00::1"),
            ("[2a00::1]", "2a00::1"),
            ("2a00::1", "2a00::1"),
            ("::ffff:2.2.2.2", "2.2.2.2"),
        ] {
            let chain = format!("6.6.6.6, {entry}, 10.0.0.5:80, [2001:db8::5]:443");
            assert_eq!(client("10.0.0.9", &[("x-forwarded-for", &chain)]), expected, "{entry}");
        }
    }

    #[test]
    fn an_entry_that_is_no_address_ends_the_walk() {
        for entry in ["unknown", "", "2.2.2.2.2", "[2a00::1", "2.2.2.2:port", "a b", "[2.2.2.2]"] {
            let chain = format!("6.6.6.6, {entry}, 10.0.0.5");
            assert_eq!(client("10.0.0.9", &[("x-forwarded-for", &chain)]), "10.0.0.5", "{entry:?}");
            let chain = format!("6.6.6.6, {entry}");
            assert_eq!(client("10.0.0.9", &[("x-forwarded-for", &chain)]), "10.0.0.9", "{entry:?}");
        }
    }

    #[test]
    fn forwarded_is_read_where_it_is_alone() {
        for (value, expected) in [
            ("for=6.6.6.6, for=2.2.2.2;proto=https;by=10.0.0.5", "2.2.2.2"),
            ("For=\"[2a00::1]:4711\"", "2a00::1"),
            ("proto=http; for = \"2.2.2.2:80\"", "2.2.2.2"),
            ("for=2.2.2.2, for=10.0.0.5", "2.2.2.2"),
            // Separators within quotes do not separate.
            ("for=2.2.2.2;host=\"a,for=6.6.6.6;\\\",for=6.6.6.6\"", "2.2.2.2"),
            // An entry without an address ends the search.
            ("for=6.6.6.6, for=unknown", "10.0.0.9"),
            ("for=6.6.6.6, for=_hidden, for=10.0.0.5", "10.0.0.5"),
            ("for=6.6.6.6, proto=https", "10.0.0.9"),
            ("for=6.6.6.6;for=2.2.2.2", "10.0.0.9"),
            ("for=6.6.6.6, \"", "10.0.0.9"),
        ] {
            assert_eq!(client("10.0.0.9", &[("forwarded", value)]), expected, "{value}");
            assert_eq!(client("9.9.9.9", &[("forwarded", value)]), "9.9.9.9");
            let both = [("forwarded", value), ("x-forwarded-for", "3.3.3.3")];
            assert_eq!(client("10.0.0.9", &both), "3.3.3.3");
        }
    }
}
