//! Fuzz targets: every path stays below the instance's base path, no field of the connection is forwarded, and an
//! instance's answer means the same to this node and to the HTTP library.

use maxine_fuzzing::Target;
use std::net::{IpAddr, Ipv4Addr};

use http::header;

use super::headers::{
    Origin, accepts_trailers, cookie, offered_upgrade, set_forwarded, strip_hop_by_hop,
};
use super::http1;
use super::target::UpstreamAddress;
use super::{Peer, RequestTarget, TrustedProxies};
use maxine_fuzzing::first_line;
use maxine_state::Address;

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "proxy_target", run: target, seeds: target_seeds },
    Target { name: "instance_answer", run: http1::fuzz::answer, seeds: http1::fuzz::seeds },
    Target { name: "proxy_headers", run: headers, seeds: header_seeds },
];

const BASES: [(&str, &str); 2] = [("http://h:81/base", "/base"), ("https://[::1]", "")];

/// The first line of the input is the path, and the rest is the query.
fn target(bytes: &[u8]) {
    let (path, query) = first_line(bytes);
    let (path, query) = (String::from_utf8_lossy(path), String::from_utf8_lossy(query));
    let query = (!query.is_empty()).then_some(&*query);
    let Ok(target) = RequestTarget::new(&path, query) else { return };
    assert!(target.path().is_empty() || target.path().starts_with('/'));
    let decoded = target.path().to_ascii_lowercase().replace("%2e", ".");
    let decoded = decoded.replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
    let mut depth = 0_i32;
    for segment in decoded.split('/').skip(1) {
        depth += if segment.split(';').next() == Some("..") { -1 } else { 1 };
        assert!(depth >= 0, "{path:?} climbs out as {:?}", target.path());
    }
    for (address, base) in BASES {
        let address = Address::parse(address).expect("an address");
        let upstream = UpstreamAddress::parse(&address).expect("an address");
        let Ok(sent) = upstream.path_and_query(&target) else { continue };
        assert!(sent.path().starts_with(base), "{sent} leaves {base}");
        assert_eq!(sent.query(), target.query().filter(|query| !query.is_empty()).or(sent.query()));
        let absolute = upstream.absolute(sent).expect("an authority and a path are a URL");
        assert_eq!(absolute.authority(), Some(&upstream.authority));
    }
}

fn target_seeds() -> Vec<Vec<u8>> {
    maxine_fuzzing::texts(&[
        "/a/b%2Fc\nx=1&x=2",
        "/../%2e%2e/..%2fx;a=b/..;/.\n",
        "/a/./b//c/..\\x%5c..%00",
        "",
        "/%zz\n#",
    ])
}

/// Header fields, one per line.
fn headers(bytes: &[u8]) {
    let mut headers = maxine_fuzzing::headers(bytes);
    let _ = (accepts_trailers(&headers), offered_upgrade(&headers), cookie(&headers, "maxine"));
    let peer = IpAddr::from([10, 0, 0, 1]);
    let trusted = TrustedProxies::new(vec!["10.0.0.0/8".parse().expect("a network")]);
    assert!(trusted.resolve(Peer::plain(peer), &headers).is_peer_trusted);
    let stranger = TrustedProxies::default().resolve(Peer::plain(peer), &headers);
    assert_eq!(stranger.ip, peer, "a stranger is believed");
    let host = headers.get(header::HOST).cloned();
    let kept = headers.get_all(header::CONTENT_LENGTH).iter().count();
    strip_hop_by_hop(&mut headers, false);
    assert_eq!(headers.get_all(header::CONTENT_LENGTH).iter().count(), kept);
    for name in ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"] {
        assert!(!headers.contains_key(name), "{name} goes on");
    }
    for is_trusted in [true, false] {
        let mut headers = headers.clone();
        let peer = Peer::plain(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));
        let origin = Origin { peer, host: host.as_ref(), trusted: is_trusted };
        set_forwarded(&mut headers, &origin);
        let sent = headers.get("x-forwarded-for").expect("the field is set");
        let sent = sent.to_str().expect("addresses are ASCII");
        assert!(sent.ends_with("192.0.2.7"), "{sent}");
        if !is_trusted {
            assert_eq!(sent, "192.0.2.7", "the claim of an untrusted client is forwarded");
            assert_eq!(headers.get_all("forwarded").iter().count(), 1);
        }
    }
}

fn header_seeds() -> Vec<Vec<u8>> {
    maxine_fuzzing::texts(&[
        "host: h\nconnection: x-own, upgrade, host\nupgrade: websocket\nx-own: 1\nte: trailers",
        "host: \"h\\\nx-forwarded-for: 192.0.2.1, 10.0.0.9, [::1]\nx-forwarded-proto: https\nx-real-ip: 1",
        "forwarded: for=\"[2001:db8::1]\";proto=http\nforwarded: for=_x\ncookie: a=b; maxine=c",
        "forwarded: for=\"10.0.0.2:80\", for=10.0.0.3;host=\"a,\\\"b\";by=_c, for=192.0.2.1",
        "x-forwarded-for: 192.0.2.1:80, [2001:db8::1]:443, 10.0.0.2\nx-original-url: /a",
        "upgrade: h2c\nconnection: Upgrade, HTTP2-Settings\nhttp2-settings: AAMAAABk\ncontent-length: 1",
    ])
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 3_000);
    }
}
