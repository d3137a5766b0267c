//! Header fields of forwarded requests and answers. Removes hop-by-hop fields (RFC 9110 section 7.6.1), and sets
//! `Forwarded` (RFC 7239) and `X-Forwarded-*`.

use std::io::Write;
use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::client::{Peer, X_FORWARDED_FOR, X_FORWARDED_PROTO};
use super::error::ProxyError;

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_MAXINE_HOPS: HeaderName = HeaderName::from_static("x-maxine-hops");

/// The numbers of Maxine proxies that a request may pass. A request that passes more is in a loop: an instance's
/// address leads back to Maxine.
const HOPS: [&str; 8] = ["1", "2", "3", "4", "5", "6", "7", "8"];

/// Maximum length of an `X-Forwarded-For` or `Forwarded` value that is extended, in bytes. A longer value is replaced.
const CHAIN_LEN_MAX: usize = 4_096;

/// Removes the fields that concern only the connection, including those that `Connection` names. With `keep_trailer`,
/// `Trailer` stays, which announces fields behind the body.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, keep_trailer: bool) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // A client must not be able to remove the framing or the host in this way.
            .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    let concerns = |name: &&HeaderName| {
        concerns_connection(name.as_str()) && !(keep_trailer && **name == header::TRAILER)
    };
    // Most heads have at most one such field. Looking at each name once costs less than looking each field of the list
    // up.
    while let Some(name) = headers.keys().find(concerns).cloned() {
        headers.remove(name);
    }
}

/// Removes the fields that only Maxine may set from an instance's answer. Otherwise a client could not tell whether
/// Maxine or the instance answered.
pub(crate) fn strip_maxines_own(headers: &mut HeaderMap) {
    let is_maxines = |name: &&HeaderName| is_maxines_own(name.as_str());
    while let Some(name) = headers.keys().find(is_maxines).cloned() {
        headers.remove(name);
    }
}

/// Whether only Maxine may set a field.
pub(crate) fn is_maxines_own(name: &str) -> bool {
    name.starts_with("x-maxine-")
}

/// Whether a field of an instance's answer is forwarded: it does not concern only the connection, and is not Maxine's
/// own. The name must be in lower case.
#[must_use]
pub fn is_forwarded_field(name: &str) -> bool {
    !concerns_connection(name) && !is_maxines_own(name)
}

/// Whether a field of an answer affects every page of its origin, which is the node's, or is a command to a proxy in
/// front of the node. No instance may set such a field.
#[must_use]
pub fn affects_whole_origin(name: &str) -> bool {
    matches!(
        name,
        "clear-site-data"
            | "service-worker-allowed"
            | "strict-transport-security"
            | "alt-svc"
            | "nel"
            | "report-to"
            | "expect-ct"
            | "public-key-pins"
            | "reporting-endpoints"
            | "set-login"
            | "speculation-rules"
            | "use-as-dictionary"
            | "accept-ch"
            | "critical-ch"
            | "sec-session-registration"
            | "secure-session-registration"
            // A proxy in front of this node would obey these as commands of the node.
            | "x-accel-redirect"
            | "x-sendfile"
            | "x-sendfile2"
            | "x-lighttpd-send-file"
            | "x-litespeed-location"
            | "x-reproxy-file"
            | "x-reproxy-url"
    )
}

/// Whether a field always concerns only one connection, even if `Connection` does not name it.
pub(crate) fn concerns_connection(name: &str) -> bool {
    match name.len() {
        2 => name == "te",
        7 => name == "trailer" || name == "upgrade",
        10 => name == "connection" || name == "keep-alive",
        14 => name == "http2-settings",
        16 => name == "proxy-connection",
        17 => name == "transfer-encoding",
        18 => name == "proxy-authenticate",
        19 => name == "proxy-authorization",
        _ => false,
    }
}

/// Increments the number of Maxine proxies that a request has passed. Fails if the request is in a loop.
pub(crate) fn count_hop(headers: &mut HeaderMap) -> Result<(), ProxyError> {
    let passed = match headers.get(X_MAXINE_HOPS) {
        None => 0,
        // A value that is not a number counts as 0.
        Some(value) => value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0),
    };
    let next = HOPS.get(passed).ok_or(ProxyError::Loop)?;
    headers.insert(X_MAXINE_HOPS, HeaderValue::from_static(next));
    Ok(())
}

/// For an `OPTIONS` request: the value of `Max-Forwards` to forward, and whether the request may be forwarded at all
/// (RFC 9110 section 7.6.2). `None` for a request without the field.
fn max_forwards(headers: &HeaderMap) -> Option<(u32, bool)> {
    let text = headers.get(header::MAX_FORWARDS)?.to_str().ok()?;
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| match text.parse::<u32>() {
        Ok(hops) => (hops.saturating_sub(1), hops > 0),
        Err(_) => (u32::MAX, true),
    })
}

/// Whether this node must answer an `OPTIONS` request instead of an instance, because its `Max-Forwards` is 0.
#[must_use]
pub fn is_last_forward(headers: &HeaderMap) -> bool {
    max_forwards(headers).is_some_and(|(_, goes_on)| !goes_on)
}

/// Decrements `Max-Forwards` of an `OPTIONS` request.
pub(crate) fn count_max_forwards_down(headers: &mut HeaderMap) {
    if let Some((left, _)) = max_forwards(headers) {
        headers.insert(header::MAX_FORWARDS, HeaderValue::from(left));
    }
}

/// Whether the client offered the protocol that an instance switches to.
pub(crate) fn was_offered(offer: &HeaderValue, taken: &HeaderValue) -> bool {
    let (Ok(offer), Ok(taken)) = (offer.to_str(), taken.to_str()) else { return false };
    taken.split(',').all(|protocol| {
        let protocol = protocol.trim();
        offer.split(',').any(|offered| offered.trim().eq_ignore_ascii_case(protocol))
    })
}

/// Whether `TE` says that the client accepts trailers.
pub(crate) fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case("trailers")))
}

/// The protocols that a request offers to upgrade to. `None` if the offer is ignored, as for HTTP/2 (RFC 9110 section
/// 7.8 lets a server ignore any offer).
pub(crate) fn offered_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let listed = headers.get_all(header::CONNECTION).iter().any(|value| {
        value.to_str().is_ok_and(|value| {
            value.split(',').any(|item| item.trim().eq_ignore_ascii_case("upgrade"))
        })
    });
    let offer = headers.get(header::UPGRADE).filter(|_| listed)?;
    let text = offer.to_str().ok()?;
    let refused = text.split(',').any(|protocol| {
        let name = protocol.trim().split('/').next().unwrap_or_default();
        name.is_empty()
            || name.eq_ignore_ascii_case("h2c")
            || name.eq_ignore_ascii_case("h2")
            || name.eq_ignore_ascii_case("http")
            || name.eq_ignore_ascii_case("tls")
    });
    (!refused).then(|| offer.clone())
}

/// What the next hop learns about the origin of a request.
pub(crate) struct Origin<'a> {
    pub(crate) peer: Peer,
    pub(crate) host: Option<&'a HeaderValue>,
    pub(crate) trusted: bool,
}

/// Sets `X-Forwarded-*` and `Forwarded`. The values of a trusted proxy are extended. Those of any other client are
/// replaced.
pub(crate) fn set_forwarded(headers: &mut HeaderMap, origin: &Origin<'_>) {
    let is_forged = |name: &HeaderName| {
        // No proxy writes underscores in names, but some servers read them as hyphens.
        is_reserved_for_proxies(name.as_str()) && (!origin.trusted || name.as_str().contains('_'))
    };
    // The loop is skipped in the usual case, because untrusted clients seldom send such a field.
    if headers.keys().any(is_forged) {
        let named = headers.keys().filter(|name| is_forged(name));
        for name in named.cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
    }
    // A trusted proxy that writes one of the two fields forwards the client's own value of the other one.
    if headers.contains_key(&X_FORWARDED_FOR) {
        headers.remove(header::FORWARDED);
    }
    let proto = if origin.peer.is_tls { "https" } else { "http" };
    let peer = origin.peer.ip.to_canonical();
    extend_chain(headers, &X_FORWARDED_FOR, &peer.to_string());
    if !headers.contains_key(&X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    let mut element = match peer {
        IpAddr::V4(ip) => format!("for={ip};proto={proto}"),
        IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto={proto}"),
    };
    if let Some(host) = origin.host {
        if !headers.contains_key(&X_FORWARDED_HOST) {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
        if let Some(text) = host.to_str().ok().filter(|text| !text.contains(['"', '\\'])) {
            element.push_str(";host=\"");
            element.push_str(text);
            element.push('"');
        }
    }
    extend_chain(headers, &header::FORWARDED, &element);
}

/// Writes the fields that Maxine adds to a request that has passed no proxy: `Via`, and the same as [`count_hop`] and
/// [`set_forwarded`] set. `host` is the host in the client's request.
pub(crate) fn push_first_hop(out: &mut Vec<u8>, peer: Peer, host: Option<&[u8]>) {
    let proto: &[u8] = if peer.is_tls { b"https" } else { b"http" };
    let mut push = |text: &[u8]| out.extend_from_slice(text);
    let mut address = [0; ADDRESS_LEN_MAX];
    let (address, is_ipv6) = address_text(peer.ip.to_canonical(), &mut address);
    push(b"x-maxine-hops: ");
    push(HOPS[0].as_bytes());
    push(b"\r\nvia: 1.1 maxine\r\nx-forwarded-proto: ");
    push(proto);
    push(b"\r\nx-forwarded-for: ");
    push(address);
    if let Some(host) = host {
        push(b"\r\nx-forwarded-host: ");
        push(host);
    }
    push(if is_ipv6 { b"\r\nforwarded: for=\"[" } else { b"\r\nforwarded: for=" });
    push(address);
    push(if is_ipv6 { b"]\";proto=" } else { b";proto=" });
    push(proto);
    let quotable = |host: &&[u8]| !host.iter().any(|byte| matches!(byte, b'"' | b'\\'));
    if let Some(host) = host.filter(quotable) {
        push(b";host=\"");
        push(host);
        push(b"\"");
    }
    push(b"\r\n");
}

/// Maximum length of the text of an address, in bytes.
const ADDRESS_LEN_MAX: usize = 46;

/// The text of an address, and whether it is an IPv6 address.
fn address_text(address: IpAddr, buffer: &mut [u8; ADDRESS_LEN_MAX]) -> (&[u8], bool) {
    let mut rest = &mut buffer[..];
    // The buffer is long enough for every address, so writing cannot fail.
    match address {
        // This is much faster than the general formatting, which would take a twentieth of the time for a whole
        // request.
        IpAddr::V4(ip) => {
            for (at, octet) in ip.octets().into_iter().enumerate() {
                let dot: &[u8] = if at == 0 { b"" } else { b"." };
                drop(rest.write_all(dot));
                drop(rest.write_all(itoa::Buffer::new().format(octet).as_bytes()));
            }
        }
        IpAddr::V6(ip) => drop(write!(rest, "{ip}")),
    }
    let left = rest.len();
    (&buffer[..ADDRESS_LEN_MAX - left], address.is_ipv6())
}

/// Whether a field describes the origin of a request, or the request before a proxy changed it. Servers trust such
/// fields, so an untrusted client must not be able to send them.
pub(crate) fn is_reserved_for_proxies(name: &str) -> bool {
    const NAMES: [&str; 36] = [
        "cf-visitor",
        "cf-connecting-ip",
        "cf-connecting-ipv6",
        "cf-pseudo-ipv4",
        "client-ip",
        "cluster-client-ip",
        "fastly-client-ip",
        "fly-client-ip",
        "forwarded",
        "forwarded-for",
        "front-end-https",
        "true-client-ip",
        "wl-proxy-client-ip",
        "proxy-client-ip",
        // CGI programs read it as the address of a proxy for their own requests.
        "proxy",
        "remote-user",
        "ssl-client-verify",
        "x-azure-clientip",
        "x-azure-socketip",
        "x-arr-ssl",
        "x-auth-request-user",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-coming-from",
        "x-forwarded",
        "x-http-host-override",
        "x-host",
        "x-originating-ip",
        "x-proxyuser-ip",
        "x-real-ip",
        "x-remote-addr",
        "x-remote-ip",
        "x-remote-user",
        "x-scheme",
        "x-ssl-client-verify",
        "x-url-scheme",
    ];
    const PREFIXES: [&str; 6] = [
        "x-forwarded-",
        "x-original-",
        "x-rewrite-",
        "x-envoy-external-",
        "x-envoy-original-",
        "x-appengine-user-ip",
    ];
    let is_candidate = matches!(
        name.as_bytes().first(),
        Some(b'c' | b'f' | b'p' | b'r' | b's' | b't' | b'w' | b'x')
    );
    if !is_candidate {
        return false;
    }
    if name.contains('_') {
        return is_reserved_for_proxies(&name.replace('_', "-"));
    }
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn extend_chain(headers: &mut HeaderMap, name: &HeaderName, item: &str) {
    let mut chain = String::new();
    for value in headers.get_all(name).iter().filter_map(|value| value.to_str().ok()) {
        chain.push_str(value);
        chain.push_str(", ");
    }
    if chain.len() > CHAIN_LEN_MAX {
        chain.clear();
    }
    chain.push_str(item);
    if let Ok(value) = HeaderValue::try_from(chain) {
        headers.insert(name.clone(), value);
    }
}

/// A cookie's value, by name.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(n, v): &(&str, &str)| {
            (n.parse::<HeaderName>().unwrap(), HeaderValue::from_str(v).unwrap())
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn a_request_in_a_loop_is_stopped() {
        let mut headers = HeaderMap::new();
        for hop in HOPS {
            count_hop(&mut headers).unwrap();
            assert_eq!(headers[X_MAXINE_HOPS], hop);
        }
        assert_eq!(count_hop(&mut headers), Err(ProxyError::Loop));
        let mut headers = map(&[("x-maxine-hops", "many")]);
        count_hop(&mut headers).unwrap();
        assert_eq!(headers[X_MAXINE_HOPS], "1");
    }

    #[test]
    fn every_field_of_the_connection_is_known_as_such() {
        let all = [
            "connection",
            "http2-settings",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "transfer-encoding",
            "upgrade",
        ];
        assert!(all.into_iter().all(concerns_connection));
        assert!(concerns_connection("trailer") && !concerns_connection("host"));
    }

    #[test]
    fn hop_by_hop_fields_are_removed() {
        let mut headers = map(&[
            ("connection", "close, X-Secret, content-length"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "x"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("content-length", "4"),
            ("x-kept", "2"),
        ]);
        assert!(accepts_trailers(&headers));
        strip_hop_by_hop(&mut headers, false);
        assert_eq!(headers, map(&[("content-length", "4"), ("x-kept", "2")]));
    }

    #[test]
    fn forwarded_fields_of_strangers_are_replaced_and_of_trusted_proxies_extended() {
        let host = HeaderValue::from_static("shop.example");
        let peer = Peer::plain("203.0.113.9".parse().unwrap());
        let mut origin = Origin { peer, host: Some(&host), trusted: false };
        let forged = map(&[("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=10.0.0.1")]);
        let mut headers = forged.clone();
        set_forwarded(&mut headers, &origin);
        assert_eq!(headers["x-forwarded-for"], "203.0.113.9");
        assert_eq!(headers["forwarded"], "for=203.0.113.9;proto=http;host=\"shop.example\"");
        assert_eq!(headers["x-forwarded-host"], "shop.example");
        // Servers trust many fields beside those that are set here.
        let mut headers = map(&[
            ("x-forwarded-prefix", "/admin"),
            ("x-original-url", "/admin"),
            ("x-original-host", "admin.example"),
            ("x-rewrite-url", "/admin"),
            ("true-client-ip", "10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("x-client-ip", "10.0.0.1"),
            ("cf-connecting-ip", "10.0.0.1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("x-real_ip", "10.0.0.1"),
            ("x-originating-ip", "10.0.0.1"),
            ("x-azure-clientip", "10.0.0.1"),
            ("x-own", "kept"),
            ("x-originals", "kept"),
        ]);
        set_forwarded(&mut headers, &origin);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let set = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
        assert_eq!(names, [&set[..], &["x-originals", "x-own"]].concat());
        origin.trusted = true;
        let mut headers = forged;
        set_forwarded(&mut headers, &origin);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1, 203.0.113.9");
        let own = "for=203.0.113.9;proto=http;host=\"shop.example\"";
        assert_eq!(headers["forwarded"], own, "only the field that was believed is extended");
        let mut headers = map(&[("forwarded", "for=10.0.0.1"), ("x_forwarded_for", "10.0.0.2")]);
        set_forwarded(&mut headers, &origin);
        assert_eq!(headers["forwarded"], format!("for=10.0.0.1, {own}"));
        assert!(!headers.contains_key("x_forwarded_for"), "no proxy writes this");
    }

    #[test]
    fn both_ways_write_the_same_fields_for_a_first_hop() {
        for peer in ["203.0.113.9", "::ffff:10.0.0.1", "255.255.255.255", "0.0.0.0", "2001:db8::1"]
        {
            for host in [None, Some("shop.example:80"), Some("[::1]"), Some("")] {
                let value = host.map(|host| HeaderValue::from_str(host).unwrap());
                let (ip, host) = (peer.parse().unwrap(), host.map(str::as_bytes));
                for peer in [Peer { ip, is_tls: false }, Peer { ip, is_tls: true }] {
                    let mut headers = map(&[("via", "1.1 maxine")]);
                    count_hop(&mut headers).unwrap();
                    set_forwarded(
                        &mut headers,
                        &Origin { peer, host: value.as_ref(), trusted: false },
                    );
                    let mut written = Vec::new();
                    push_first_hop(&mut written, peer, host);
                    let text = String::from_utf8(written).unwrap();
                    let lines = text.trim_end_matches("\r\n").split("\r\n");
                    let fields: Vec<_> = lines.map(|line| line.split_once(": ").unwrap()).collect();
                    assert_eq!(map(&fields), headers, "{text}");
                }
            }
        }
    }

    #[test]
    fn only_real_upgrades_are_taken() {
        let offer = |upgrade: &str| {
            offered_upgrade(&map(&[("connection", "Upgrade"), ("upgrade", upgrade)])).is_some()
        };
        assert!(offer("websocket"));
        assert!(!offer("h2c") && !offer("websocket, h2c") && !offer("HTTP/2.0") && !offer(""));
        assert!(offered_upgrade(&map(&[("upgrade", "websocket")])).is_none());
    }
}
