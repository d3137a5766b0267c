//! Determines the client's address, behind any number of trusted proxies.
//!
//! Place in the flow: the API's edge resolves the client once per request, from the TCP peer and the header fields of
//! trusted proxies. Sign-in limits, audit records, traces, discovery and the forwarder all use the result.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The other end of a connection to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub ip: IpAddr,
    /// Whether the connection uses TLS.
    pub is_tls: bool,
}

impl Peer {
    /// The other end of a connection without TLS.
    #[must_use]
    pub fn plain(ip: IpAddr) -> Self {
        Self { ip, is_tls: false }
    }
}

/// The address of the client and of the TCP peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr {
    /// The client's address: the peer's, or the one that trusted proxies report.
    pub ip: IpAddr,
    /// The TCP peer.
    pub peer: IpAddr,
    /// Whether the peer is a trusted proxy.
    pub is_peer_trusted: bool,
    /// Whether the connection of the peer uses TLS.
    pub is_peer_tls: bool,
    /// Whether the client uses HTTPS: towards this node, or towards trusted proxies that report so.
    pub is_https: bool,
    /// Whether a trusted proxy speaks for a client whose address it does not say. Then `ip` is that of the proxy.
    pub is_unknown: bool,
}

impl ClientAddr {
    /// A client that is the peer itself.
    #[must_use]
    pub fn direct(Peer { ip, is_tls }: Peer) -> Self {
        let peer = ip.to_canonical();
        Self {
            ip: peer,
            peer,
            is_peer_trusted: false,
            is_peer_tls: is_tls,
            is_https: is_tls,
            is_unknown: false,
        }
    }
}

/// The values of header fields that may be repeated, in their order.
pub trait FieldLines {
    /// All values of a field.
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl DoubleEndedIterator<Item = &'a [u8]>;
}

impl FieldLines for HeaderMap {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(HeaderValue::as_bytes)
    }
}

/// The proxies whose reports about the client are accepted.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Trusts the proxies in these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether no proxy is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this address, in its canonical form, is a trusted proxy.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// Resolves the client. If the peer is trusted, the chain of addresses is read from its end, which the nearest
    /// proxy wrote. The first address that is not a trusted proxy is the client. An entry that is not an address ends
    /// the search, because its writer is unknown; then the last accepted address is the client. `Forwarded` is read
    /// only if there is no `X-Forwarded-For`.
    ///
    /// If the peer is trusted, its `X-Forwarded-Proto` says whether the client uses HTTPS; without it, the `proto` of
    /// the last `Forwarded` element; and without both, the peer's own connection.
    #[must_use]
    pub fn resolve(&self, peer: Peer, fields: &impl FieldLines) -> ClientAddr {
        let direct = ClientAddr::direct(peer);
        if !self.contains(direct.peer) {
            return direct;
        }
        let (x_forwarded_for, forwarded) = (X_FORWARDED_FOR, header::FORWARDED);
        let has_forwarded_for = fields.lines(&x_forwarded_for).next().is_some();
        let (ip, is_unknown) = if has_forwarded_for {
            let chain = fields.lines(&x_forwarded_for).rev().flat_map(|line| {
                let entries = line.rsplit(|byte| *byte == b',');
                entries.map(|entry| node_address(entry.trim_ascii()))
            });
            self.first_untrusted(direct.peer, chain)
        } else {
            let chain = fields.lines(&forwarded).rev().flat_map(forwarded_for);
            self.first_untrusted(direct.peer, chain)
        };
        let is_https = is_reported_https(fields).unwrap_or(direct.is_https);
        ClientAddr { ip, is_peer_trusted: true, is_https, is_unknown, ..direct }
    }

    /// The address, and whether an entry that is not an address ended the search.
    fn first_untrusted(
        &self,
        peer: IpAddr,
        chain: impl Iterator<Item = Option<IpAddr>>,
    ) -> (IpAddr, bool) {
        let mut believed = peer;
        for entry in chain {
            let Some(ip) = entry else { return (believed, true) };
            believed = ip;
            if !self.contains(ip) {
                break;
            }
        }
        (believed, false)
    }
}

/// Whether a proxy reports that its client uses HTTPS; `None` if it reports no scheme. If `X-Forwarded-Proto` has several
/// schemes, one for each proxy, all must be `https`.
fn is_reported_https(fields: &impl FieldLines) -> Option<bool> {
    let x_forwarded_proto = X_FORWARDED_PROTO;
    let mut lines = fields.lines(&x_forwarded_proto).peekable();
    if lines.peek().is_some() {
        let is_https = |scheme: &[u8]| scheme.trim_ascii().eq_ignore_ascii_case(b"https");
        return Some(lines.all(|line| line.split(|byte| *byte == b',').all(is_https)));
    }
    let forwarded = header::FORWARDED;
    let last = fields.lines(&forwarded).next_back()?;
    let element = split_unquoted(last, b',').last()?;
    parameter(element, b"proto").map(|scheme| scheme.eq_ignore_ascii_case(b"https"))
}

/// The addresses of a `Forwarded` line (RFC 7239 section 4), the last element first. `None` for an element without an
/// address.
fn forwarded_for(line: &[u8]) -> Vec<Option<IpAddr>> {
    let mut elements: Vec<_> = split_unquoted(line, b',').map(element_for).collect();
    elements.reverse();
    elements
}

/// The address in the `for` parameter of one element. `None` if there is none, or more than one.
fn element_for(element: &[u8]) -> Option<IpAddr> {
    parameter(element, b"for").and_then(node_address)
}

/// A parameter of an element, without its quotes; `None` if the element does not have it exactly once.
fn parameter<'a>(element: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut values = split_unquoted(element, b';').filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let is_it = pair[..at].trim_ascii().eq_ignore_ascii_case(name);
        is_it.then_some(pair[at + 1..].trim_ascii())
    });
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some(quoted.unwrap_or(value))
}

/// The parts of a text between separators. Separators inside quotes are ignored.
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

/// An address in one of the forms that proxies use: `IP`, `IPV4:PORT`, `[IPV6]` or `[IPV6]:PORT`.
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
        trusted.resolve(Peer::plain(peer.parse().unwrap()), &headers).ip.to_string()
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
    fn an_entry_that_is_not_an_address_ends_the_search() {
        for entry in ["unknown", "", "2.2.2.2.2", "[2a00::1", "2.2.2.2:port", "a b", "[2.2.2.2]"] {
            let chain = format!("6.6.6.6, {entry}, 10.0.0.5");
            assert_eq!(client("10.0.0.9", &[("x-forwarded-for", &chain)]), "10.0.0.5", "{entry:?}");
            let chain = format!("6.6.6.6, {entry}");
            assert_eq!(client("10.0.0.9", &[("x-forwarded-for", &chain)]), "10.0.0.9", "{entry:?}");
        }
    }

    #[test]
    fn a_client_that_its_proxy_does_not_name_is_unknown_and_not_the_proxy() {
        let trusted = TrustedProxies::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let is_unknown = |fields: &[(&'static str, &'static str)]| {
            let field = |(n, v): &(&'static str, &'static str)| {
                (HeaderName::from_static(n), HeaderValue::from_static(v))
            };
            let headers: HeaderMap = fields.iter().map(field).collect();
            trusted.resolve(Peer::plain([127, 0, 0, 2].into()), &headers).is_unknown
        };
        for entry in ["unknown", "junk", "1.2.3.4,", "2130706433"] {
            assert!(is_unknown(&[("x-forwarded-for", entry)]), "{entry}");
        }
        assert!(is_unknown(&[("forwarded", "for=_hidden")]));
        assert!(!is_unknown(&[("x-forwarded-for", "1.2.3.4")]));
        assert!(!is_unknown(&[("x-forwarded-for", "127.0.0.1")]), "somebody on this machine");
        assert!(!is_unknown(&[]), "the peer itself");
    }

    #[test]
    fn forwarded_is_read_only_without_x_forwarded_for() {
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

    #[test]
    fn a_client_uses_https_if_its_connection_or_a_trusted_proxy_says_so() {
        let trusted = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let is_https = |ip: [u8; 4], is_tls: bool, fields: &[(&str, &str)]| {
            let field = |(n, v): &(&str, &str)| {
                (n.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(v.as_bytes()).unwrap())
            };
            let headers: HeaderMap = fields.iter().map(field).collect();
            trusted.resolve(Peer { ip: ip.into(), is_tls }, &headers).is_https
        };
        let (proxy, stranger) = ([10, 0, 0, 9], [9, 9, 9, 9]);
        for is_tls in [false, true] {
            assert_eq!(is_https(stranger, is_tls, &[]), is_tls);
            assert_eq!(is_https(stranger, is_tls, &[("x-forwarded-proto", "https")]), is_tls);
            assert_eq!(is_https(stranger, is_tls, &[("x-forwarded-proto", "http")]), is_tls);
            assert_eq!(is_https(proxy, is_tls, &[("x-forwarded-for", "2.2.2.2")]), is_tls);
            for (scheme, expected) in
                [("https", true), ("HTTPS, https", true), ("http", false), ("https,http", false)]
            {
                assert_eq!(is_https(proxy, is_tls, &[("x-forwarded-proto", scheme)]), expected);
            }
            for (element, expected) in [
                ("for=2.2.2.2;proto=https", true),
                ("for=2.2.2.2;proto=\"https\"", true),
                ("for=2.2.2.2;proto=https, for=10.0.0.1;proto=http", false),
                ("for=2.2.2.2", is_tls),
            ] {
                assert_eq!(
                    is_https(proxy, is_tls, &[("forwarded", element)]),
                    expected,
                    "{element}"
                );
            }
        }
    }
}
