use proptest::prelude::*;

use super::*;

/// Whether the URI type of an HTTP library accepts an address.
fn by_library(text: &str) -> bool {
    if check_text("address", text, 1, limits::ADDRESS_LEN_MAX).is_err() {
        return false;
    }
    let host_and_port = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host_and_port = host_and_port.split('/').next().unwrap_or_default();
    if host_and_port.matches(':').count() > 1 && !host_and_port.contains(['[', '@']) {
        return false;
    }
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    let Some(authority) = uri.authority() else { return false };
    let has_port = authority.as_str().len() > authority.host().len();
    let lower = uri.path().to_ascii_lowercase().replace("%2e", ".");
    matches!(uri.scheme_str(), Some("http" | "https"))
        && !authority.as_str().contains('@')
        && !authority.host().is_empty()
        && (!has_port || authority.port_u16().is_some_and(|port| port != 0))
        && uri.query().is_none()
        && !text.contains(['#', '?', '\\', ' ', '"', '<', '>'])
        && !lower.split('/').any(|segment| segment == ".." || segment == ".")
}

/// Whether the grammar refuses an address on purpose, although the library accepts it. The grammar accepts
/// nothing that the library refuses.
fn is_refused_on_purpose(text: &str) -> bool {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = authority.split_at(authority.rfind(':').unwrap_or(authority.len()));
    let host = if authority.ends_with(']') { authority } else { host };
    // A port with a sign: no client can connect to it, and browsers refuse the URL.
    let has_sign = port.starts_with(":+");
    // Only an IPv6 address may be in brackets. A zone (`fe80::1%25eth0`) has a meaning on one host only, so
    // nobody else can connect to it. The library accepts any text between brackets, anywhere.
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_ipv6 = inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    has_sign || host.contains(['[', ']']) && !is_ipv6
}

fn compare(text: &str) {
    let (library, grammar) = (by_library(text), Address::parse(text).is_ok());
    assert!(library || !grammar, "only the grammar takes {text:?}");
    assert_eq!(library && !grammar, library && is_refused_on_purpose(text), "{text:?}");
}

/// Usual and unusual addresses that must be accepted.
const ACCEPTED: &[&str] = &[
    "http://10.0.0.1:8080",
    "https://orders.example.com",
    "HTTP://h/",
    "hTTps://h:443/base/path",
    "http://localhost",
    "http://a_b.c:1",
    "http://h.:80",
    "http://h:00080",
    "http://1.2.3",
    "http://0x7f000001",
    "http://h/%7Euser/a:b@c",
    "http://h/ü/日本",
    "http://h//",
    "http://h/a//b",
    "http://h/...",
    "http://h/{id}|^",
    "http://[::1]:8080",
    "http://[::]",
    "https://[2001:db8::ff00:42:8329]/base",
    "http://[1:2:3:4:5:6:7:8]:1",
    "http://[1:2:3:4:5:6:7::]",
    "http://[::ffff:10.0.0.1]:65535",
    "http://h!$&'()*+,;=~",
];
/// Addresses that must be refused.
const REFUSED: &[&str] = &[
    "",
    "/",
    "h",
    "h:80",
    "//h",
    "http:/h",
    "http://",
    "http:///",
    "http://:80",
    "ftp://h",
    "http://u@h",
    "http://u:p@h:80",
    "http://@h",
    "http://h:",
    "http://h:0",
    "http://h:65536",
    "http://h:+80",
    "http://h:-1",
    "http://h:80:80",
    "http://h:8a",
    "http://h:99999999999999999999",
    "http://h?q",
    "http://h/?q",
    "http://h#f",
    "http://h/ b",
    "http://h/\"b",
    "http://h/<b>",
    "http://h/b`",
    "http://h/\\b",
    "http://h/../b",
    "http://h/b/.",
    "http://h/%2e%2E/b",
    "http://h%41",
    "http://ü",
    "http://h h",
    "http://h\t",
    "http://h\n",
    "http://[]",
    "http://[::1",
    "http://::1",
    "http://[::1]8",
    "http://[::1]:",
    "http://[1:2:3:4:5:6:7:8:9]",
    "http://[1:2:3:4:5:6:7::8]/[",
    "http://[1::2::3]",
    "http://[12345::]",
    "http://[::1.2.3.04]",
    "http://[::1.2.3]",
    "http://[1.2.3.4::]",
    "http://[fe80::1%25eth0]",
    "http://[v1.x]",
    "http://a[::1]",
    "http://[h]",
    "null",
    "http://h:null",
];

#[test]
fn known_shapes_are_accepted_or_refused_as_listed() {
    for text in ACCEPTED {
        assert!(Address::parse(text).is_ok(), "{text:?}: {:?}", Address::parse(text));
        compare(text);
    }
    for text in REFUSED {
        assert!(Address::parse(text).is_err(), "{text:?}");
        compare(text);
    }
}

#[test]
fn an_ipv6_address_without_brackets_is_told_of_them() {
    for text in ["::1:8080", "fe80::1", "http://::1:8080", "http://fe80::1/base"] {
        let error = Address::parse(text).unwrap_err().to_string();
        assert!(error.contains("in brackets"), "{text}: {error}");
    }
    for text in ["http://[::1]:8080", "https://[fe80::1]", "http://10.0.0.1:80/a:b:c"] {
        assert!(Address::parse(text).is_ok(), "{text}");
    }
}

/// Parts for random addresses, valid and invalid.
fn parts(of: &'static [&'static str], others: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(of).prop_map(str::to_owned),
        1 => others.prop_map(|text| text),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_grammar_takes_what_the_library_took_but_for_what_is_listed(
        scheme in parts(&["http://", "https://", "HTTP://", "ftp://", "", "http:"], "[a-z:/]{0,8}"),
        host in parts(
            &["h", "10.0.0.1", "a-b.example.com", "[::1]", "[fe80::1%25eth0]", "[1:2:3:4:5:6:7:8]", "u@h", "", "[h]"],
            "[ -~]{0,6}",
        ),
        port in parts(&["", ":", ":80", ":0", ":65535", ":65536", ":080", ":+1"], "[:0-9a]{0,7}"),
        path in parts(&["", "/", "/a", "/a/", "/../a", "/%2e", "/?q", "/#f", "/ü"], "[ -~]{0,6}"),
    ) {
        compare(&format!("{scheme}{host}{port}{path}"));
    }

    #[test]
    fn any_text_is_taken_or_refused_alike(text in "(http://)?[a-z0-9:/.@%\\[\\]?#+ü\" -]{0,16}") {
        compare(&text);
    }

    #[test]
    fn brackets_hold_the_ipv6_addresses_of_the_standard_library(text in "[0-9a-f:.]{0,20}|([0-9a-f]{0,4}:){1,8}[0-9a-f]{0,4}") {
        assert_eq!(is_ipv6(&text), text.parse::<std::net::Ipv6Addr>().is_ok(), "{text}");
    }

    #[test]
    fn every_ipv6_address_is_one(bits in any::<u128>(), mask in any::<u128>()) {
        for bits in [bits, bits & mask, bits & mask & (mask << 17)] {
            assert!(is_ipv6(&std::net::Ipv6Addr::from_bits(bits).to_string()), "{bits:x}");
        }
    }
}

#[test]
fn an_address_gives_its_parts_and_is_made_of_them() {
    for (text, scheme, host, port, base_path) in [
        ("http://10.0.0.1:8080", Scheme::Http, "10.0.0.1", Some(8_080), ""),
        ("HTTPS://orders.example.com", Scheme::Https, "orders.example.com", None, ""),
        ("http://[2001:db8::1]:443/a/b/", Scheme::Http, "2001:db8::1", Some(443), "/a/b"),
        ("https://[::1]", Scheme::Https, "::1", None, ""),
        ("http://h:00080/", Scheme::Http, "h", Some(80), ""),
        ("http://h/:x", Scheme::Http, "h", None, "/:x"),
    ] {
        let address = Address::parse(text).unwrap();
        let parts = AddressParts { scheme, host, port, base_path };
        assert_eq!(address.parts(), parts, "{text}");
        assert_eq!(Address::from_parts(&parts).unwrap().parts(), parts, "{text}");
    }
    let address = Address::parse("https://h").unwrap();
    assert_eq!(address.parts().http_port(), 443);
}

#[test]
fn a_part_that_is_not_allowed_is_named() {
    let parts = AddressParts { scheme: Scheme::Http, host: "h", port: Some(1), base_path: "/a" };
    for (parts, field) in [
        (AddressParts { host: "", ..parts }, "host"),
        (AddressParts { host: "h:1", ..parts }, "host"),
        (AddressParts { host: "u@h", ..parts }, "host"),
        (AddressParts { host: "h/a", ..parts }, "host"),
        (AddressParts { host: "[h]", ..parts }, "host"),
        (AddressParts { port: Some(0), ..parts }, "port"),
        (AddressParts { base_path: "a", ..parts }, "base_path"),
        (AddressParts { base_path: "/a?b", ..parts }, "base_path"),
        (AddressParts { base_path: "/../b", ..parts }, "base_path"),
    ] {
        let refused = Address::from_parts(&parts).unwrap_err();
        assert_eq!(refused.field.to_string(), field, "{parts:?}");
    }
    let bracketed = AddressParts { host: "[::1]", ..parts };
    assert_eq!(Address::from_parts(&bracketed).unwrap().as_str(), "http://[::1]:1/a");
}

proptest! {
    #[test]
    fn parts_of_any_address_make_an_address_with_the_same_parts(
        text in "[hH]ttps?://([a-z0-9._~-]{1,8}|\\[[0-9a-f:]{2,12}\\])(:[0-9]{1,5})?(/[a-z.%2e]{0,6}){0,3}",
    ) {
        if let Ok(address) = Address::parse(&text) {
            // A slash at the end is ignored, both in a URL and in a base path.
            prop_assume!(!address.as_str().ends_with('/'));
            let again = Address::from_parts(&address.parts()).unwrap();
            prop_assert_eq!(again.parts(), address.parts());
        }
    }
}
