//! Requirements of RFC 9110 for a gateway. `docs/reference/proxy-conformance.md` names these tests.

use axum::body::Body;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::peers::*;

/// Whether a message has this field unchanged.
fn has(message: &str, field: &str) -> bool {
    message.contains(&format!("\r\n{field}\r\n"))
}

/// Sends a request over HTTP/2. Returns the answer and its body.
async fn over_http2(
    rig: &Rig,
    request: hyper::http::request::Builder,
    body: Body,
) -> (hyper::Response<()>, String) {
    let stream = TcpStream::connect(rig.server.addr).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request.body(body).unwrap()).await.unwrap();
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (hyper::Response::from_parts(parts, ()), String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_missing_doubled_or_malformed_is_400() {
    let rig = Rig::http1(|_| ok()).await;
    let paths = [PROXIED, "/api/maxine/serviceops/discover?serviceName=s"];
    for hosts in [
        "",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: u@h\r\n",
        "Host: a?b\r\n",
        "Host: a#b\r\n",
        "Host: a\\b\r\n",
        "Host: \"a\"\r\n",
        "Host: h:80x\r\n",
        "Host: h:1:2\r\n",
        "Host: [::1\r\n",
        "Host: a%zz\r\n",
        "Host: \u{e9}\r\n",
    ] {
        for path in paths {
            let request = format!("GET {path} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
            let answer = rig.raw(&request).await;
            assert_eq!(status_of(&answer), 400, "{request:?}: {answer}");
        }
    }
    let two = format!("GET {PROXIED} HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(status_of(&rig.raw(&two).await), 400);
    assert!(rig.seen().is_empty());
    for host in [
        "Host:",
        "Host: h",
        "Host: h:",
        "Host: h:8080",
        "Host: [::1]:80",
        "Host: 10.0.0.1",
        "Host: a%41",
    ] {
        let request = format!("GET {PROXIED} HTTP/1.1\r\n{host}\r\nConnection: close\r\n\r\n");
        assert_eq!(status_of(&rig.raw(&request).await), 200, "{host}");
    }
    let none = format!("GET {PROXIED} HTTP/1.0\r\n\r\n");
    assert_eq!(status_of(&rig.raw(&none).await), 200);
}

/// An absolute target or `:authority` names the requested host. Instances get their own host.
#[tokio::test(flavor = "multi_thread")]
async fn the_target_decides_which_host_was_asked_for() {
    let rig = Rig::http1(|_| ok()).await;
    rig.ask(&format!("GET http://real.example{PROXIED}/x HTTP/1.1"), "").await;
    let seen = rig.seen().remove(0);
    assert!(seen.starts_with("GET /x HTTP/1.1\r\n"), "{seen}");
    assert_eq!(values(&seen, "x-forwarded-host"), ["real.example"], "{seen}");
    let host = values(&seen, "host");
    assert!(host.len() == 1 && host[0].starts_with("127.0.0.1:"), "{seen}");
    let request = hyper::Request::get(format!("http://two.example{PROXIED}/x"));
    assert_eq!(over_http2(&rig, request, Body::empty()).await.0.status(), 200);
    assert_eq!(values(&rig.seen().remove(0), "x-forwarded-host"), ["two.example"]);
    // Userinfo is an error.
    let answer = rig.ask(&format!("GET http://u:p@real.example{PROXIED}/x HTTP/1.1"), "").await;
    assert_eq!(status_of(&answer), 400, "{answer}");
    assert!(rig.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_pass_as_they_are_but_connect_and_trace_do_not() {
    let rig = Rig::http1(|head| {
        if head.starts_with("HEAD") {
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n".into()
        } else {
            ok()
        }
    })
    .await;
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "get", "X-OWN"] {
        let answer = rig.ask(&format!("{method} {PROXIED}/x HTTP/1.1"), "").await;
        assert_eq!(status_of(&answer), 200, "{method}: {answer}");
        assert!(rig.seen().remove(0).starts_with(&format!("{method} /x HTTP/1.1\r\n")));
    }
    for line in [
        format!("TRACE {PROXIED}/x HTTP/1.1"),
        format!("CONNECT {PROXIED}/x HTTP/1.1"),
        format!("TRACE http://h{PROXIED}/x HTTP/1.1"),
    ] {
        let answer = rig.ask(&line, "").await;
        assert!([400, 501].contains(&status_of(&answer)), "{line}: {answer}");
    }
    assert_eq!(status_of(&rig.ask(&format!("TRACE {PROXIED}/x HTTP/1.1"), "").await), 501);
    let tunnel = rig.ask("CONNECT h:80 HTTP/1.1", "").await;
    assert!((400..=599).contains(&status_of(&tunnel)), "{tunnel}");
    assert!(rig.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn max_forwards_is_counted_down_for_options_alone() {
    let rig = Rig::http1(|_| ok()).await;
    rig.policy(&json!({"traffic": {"options": "forward"}})).await;
    let options = format!("OPTIONS {PROXIED}/x HTTP/1.1");
    let answer = rig.ask(&options, "Max-Forwards: 0\r\n").await;
    assert_eq!(status_of(&answer), 204, "Maxine is the last recipient: {answer}");
    assert!(rig.seen().is_empty());
    for (sent, passed) in [("7", "6"), ("1", "0"), ("99999999999999999999999", "4294967295")] {
        rig.ask(&options, &format!("Max-Forwards: {sent}\r\n")).await;
        assert_eq!(values(&rig.seen().remove(0), "max-forwards"), [passed]);
    }
    rig.ask(&options, "").await;
    assert!(values(&rig.seen().remove(0), "max-forwards").is_empty());
    rig.get("/x", "Max-Forwards: 0\r\n").await;
    assert_eq!(values(&rig.seen().remove(0), "max-forwards"), ["0"]);
}

/// In Maxine's own answers, a method that a resource does not have is answered with the methods that it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_not_allowed_is_told_which_ones_are() {
    let rig = Rig::http1(|_| ok()).await;
    let got = rig.ask("DELETE /api/v1/openapi.json HTTP/1.1", "").await;
    assert_eq!(
        (status_of(&got), values(&got, "allow")),
        (405, vec!["GET, HEAD, OPTIONS"]),
        "{got}"
    );
}

/// Fields for the other end are forwarded, even those that Maxine uses itself in requests to its own API.
#[tokio::test(flavor = "multi_thread")]
async fn fields_for_the_other_end_pass_both_ways_unchanged_and_in_order() {
    const SENT: [&str; 22] = [
        "accept: */*;q=0.1",
        "accept-encoding: gzip, br;q=0.5, *;q=0",
        "accept-language: de",
        "accept-charset: utf-8",
        "authorization: Basic YTpi",
        "cache-control: no-transform, max-age=0",
        "content-language: de",
        "expect: something-else",
        "from: a@example.org",
        "if-match: \"a\"",
        "if-modified-since: Sat, 29 Oct 1994 19:43:31 GMT",
        "if-none-match: W/\"b\"",
        "if-range: \"a\"",
        "if-unmodified-since: Sat, 29 Oct 1994 19:43:31 GMT",
        "pragma: no-cache",
        "range: bytes=0-1, 5-",
        "referer: http://h/a?b",
        "user-agent: a/1 (b)",
        "x-empty: ",
        "x-list: 1",
        "x-list: 2, 3",
        "x-list: 1",
    ];
    const ANSWERED: [&str; 24] = [
        "accept-ranges: bytes",
        "age: 7",
        "allow: GET, X-OWN",
        "authentication-info: nextnonce=\"1\"",
        "cache-control: no-transform, private",
        "content-encoding: gzip, br",
        "content-language: de",
        "content-location: /other",
        "content-range: bytes 0-1/9",
        "content-type: multipart/byteranges; boundary=x",
        "date: Sat, 29 Oct 1994 19:43:31 GMT",
        "etag: W/\"a\"",
        "expires: 0",
        "last-modified: Sat, 29 Oct 1994 19:43:31 GMT",
        "location: ../a?b#c",
        "retry-after: 120",
        "server: theirs/1",
        "vary: Accept, X-Own",
        "warning: 214 - \"changed\"",
        "www-authenticate: Basic realm=\"a\"",
        "www-authenticate: Bearer",
        "x-list: 1",
        "x-list: 2, 3",
        "x-list: 1",
    ];
    let fields: String = ANSWERED.iter().flat_map(|field| [*field, "\r\n"]).collect();
    let bytes = answer("206 Partial Content", &fields, "\u{1f}\u{8b}");
    let rig = Rig::http1(move |_| bytes.clone()).await;
    let fields: String = SENT.iter().flat_map(|field| [*field, "\r\n"]).collect();
    let line = format!("PUT {PROXIED}/a%2fb//c?x=1&x=2+%20 HTTP/1.1");
    let got = rig
        .ask(&line, &format!("{fields}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxy"))
        .await;
    let seen = rig.seen().remove(0);
    assert!(seen.starts_with("PUT /a%2fb//c?x=1&x=2+%20 HTTP/1.1\r\n"), "{seen}");
    for field in SENT {
        assert!(has(&seen, field), "{field:?} is missing: {seen}");
    }
    assert!(has(&seen, "content-encoding: gzip") && body_of(&seen) == "xy", "{seen}");
    assert_eq!(values(&seen, "x-list"), ["1", "2, 3", "1"], "{seen}");
    for field in ANSWERED {
        assert!(has(&got, field), "{field:?} is missing: {got}");
    }
    assert_eq!(values(&got, "x-list"), ["1", "2, 3", "1"], "{got}");
    for once in ["date", "server", "content-length", "content-type"] {
        assert_eq!(values(&got, once).len(), 1, "{once}: {got}");
    }
    assert_eq!(body_of(&got), "\u{1f}\u{8b}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_one_connection_stay_on_it_both_ways() {
    let fields = "Connection: keep-alive, X-Own, close\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\n\
                  Proxy-Connection: keep-alive\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nTE: gzip\r\n\
                  Trailer: X-Sum\r\nX-Kept: 1\r\n";
    let rig = Rig::http1(move |_| [answer("200 OK", fields, "ok"), CLOSE.to_vec()].concat()).await;
    let sent = "Connection: X-Own, Host, Content-Length\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\n\
                Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic YTpi\r\nUpgrade: h2c\r\n\
                HTTP2-Settings: AAMAAABkAAQ\r\nTE: gzip;q=1\r\nX-Kept: 1\r\n";
    let got = rig.get("/x", sent).await;
    let seen = rig.seen().remove(0);
    for name in [
        "connection",
        "x-own",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "proxy-authenticate",
        "upgrade",
        "http2-settings",
        "te",
        "trailer",
    ] {
        assert!(values(&seen, name).is_empty(), "{name} reached the instance: {seen}");
        if name != "connection" {
            assert!(values(&got, name).is_empty(), "{name} reached the client: {got}");
        }
    }
    assert_eq!(values(&got, "connection"), ["close"], "the client's own connection: {got}");
    assert!(has(&seen, "x-kept: 1") && has(&got, "x-kept: 1"), "{seen}{got}");
    assert!(!values(&seen, "host").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_passes_whatever_it_is_and_an_answer_without_a_date_gets_one() {
    let rig = Rig::http1(|head| {
        let status = head.split(['/', ' ']).nth(2).unwrap().to_owned();
        match &status[..] {
            "204" | "304" => format!("HTTP/1.1 {status} x\r\n\r\n").into_bytes(),
            _ => answer(&format!("{status} Reason of its own"), "", "ok"),
        }
    })
    .await;
    for status in [
        200, 201, 202, 203, 204, 205, 206, 226, 299, 300, 301, 302, 303, 304, 307, 308, 399, 400,
        401, 404, 405, 407, 409, 412, 416, 417, 418, 421, 422, 425, 428, 429, 431, 451, 499, 500,
        501, 502, 503, 504, 505, 511, 599, 999,
    ] {
        let got = rig.get(&format!("/{status}"), "").await;
        assert_eq!(status_of(&got), status, "{got}");
        assert_eq!(values(&got, "date").len(), 1, "{got}");
        assert!(values(&got, "x-maxine-error").is_empty(), "{got}");
    }
}

/// 1xx answers and `Expect` exist only in HTTP/1.1. `Expect` without content is ignored.
#[tokio::test(flavor = "multi_thread")]
async fn an_expectation_is_for_http11_requests_with_content() {
    let rig = Rig::http1(|head| {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_owned();
        let go_on = if head.to_ascii_lowercase().contains("expect: 100-continue") {
            "HTTP/1.1 100 Continue\r\n\r\n"
        } else {
            ""
        };
        [interim.as_bytes(), go_on.as_bytes(), &ok()].concat()
    })
    .await;
    let post = |version: &str, len: usize| {
        format!(
            "POST {PROXIED}/x HTTP/{version}\r\nHost: h\r\nConnection: close\r\nExpect: 100-continue\r\n\
             Content-Length: {len}\r\n\r\n{}",
            "x".repeat(len)
        )
    };
    let got = rig.raw(post("1.0", 2)).await;
    let seen = rig.seen().remove(0);
    assert!(status_of(&got) == 200 && !got.contains(" 100 ") && !got.contains(" 103 "), "{got}");
    assert!(values(&seen, "expect").is_empty() && body_of(&seen) == "xx", "{seen}");
    rig.raw(post("1.1", 0)).await;
    assert!(values(&rig.seen().remove(0), "expect").is_empty());
    let got = rig.raw(post("1.1", 2)).await;
    assert_eq!(values(&rig.seen().remove(0), "expect"), ["100-continue"]);
    assert!(got.contains("HTTP/1.1 200 OK\r\n"), "{got}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_protocol_needs_an_offer_of_http11_and_the_offered_protocol() {
    let rig = Rig::http1(|head| {
        let own = head.split(['/', ' ']).nth(2).unwrap().to_owned();
        match &own[..] {
            "426" => answer(
                "426 Upgrade Required",
                "Upgrade: websocket\r\nConnection: upgrade\r\n",
                "no",
            ),
            "bare" => b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n".to_vec(),
            _ => format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {own}\r\n\r\n"
            )
            .into_bytes(),
        }
    })
    .await;
    let offer = |path: &str, version: &str| {
        format!(
            "GET {PROXIED}{path} HTTP/{version}\r\nHost: h\r\nConnection: upgrade, close\r\nUpgrade: a/1, b\r\n\r\n"
        )
    };
    for path in ["/c", "/a", "/bare"] {
        let got = rig.raw(offer(path, "1.1")).await;
        assert_eq!(status_of(&got), 502, "{path}: {got}");
    }
    // No upgrade is offered by HTTP/1.0, without `Connection`, or without `Upgrade`.
    assert_eq!(status_of(&rig.raw(offer("/b", "1.0")).await), 502);
    assert_eq!(status_of(&rig.get("/b", "Upgrade: b\r\n").await), 502);
    assert_eq!(status_of(&rig.get("/b", "").await), 502);
    for seen in rig.seen().split_off(3) {
        assert!(values(&seen, "upgrade").is_empty(), "{seen}");
    }
    let mut client = TcpStream::connect(rig.server.addr).await.unwrap();
    client.write_all(offer("/B", "1.1").as_bytes()).await.unwrap();
    let mut head = [0; 32];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101 Switching Protocols");
    let got = rig.get("/426", "").await;
    assert_eq!((status_of(&got), values(&got, "upgrade")), (426, vec!["websocket"]), "{got}");
    assert!(got.to_ascii_lowercase().contains("connection: upgrade"), "{got}");
}

/// Otherwise a client could open any number of tunnels, until the node has no files left.
#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_keeps_its_place_among_the_connections() {
    const TUNNELS: usize = 8;
    const SWITCH: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: b\r\n\r\n";
    let rig = Rig::http1(|_| SWITCH.to_vec()).await;
    let connections = || rig.server.state.telemetry().metrics().connections.get();
    let request =
        format!("GET {PROXIED}/b HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: b\r\n\r\n");
    let mut tunnels = Vec::new();
    for _ in 0..TUNNELS {
        let mut client = TcpStream::connect(rig.server.addr).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(client.read_u8().await.unwrap());
        }
        // The instance answers whatever it gets, so what comes back came through the tunnel.
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut seen = [0; SWITCH.len()];
        client.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, SWITCH);
        tunnels.push(client);
    }
    assert!(connections() >= TUNNELS as i64, "{} connections", connections());
    drop(tunnels);
    let given_back = async {
        while connections() >= TUNNELS as i64 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, given_back).await.expect("places are given back");
}

/// An instance sends content where none is allowed: it is never treated as part of an answer.
#[tokio::test(flavor = "multi_thread")]
async fn answers_without_content_have_none_whatever_the_instance_sends() {
    let rig = Rig::http1(|head| {
        let fields = "Content-Length: 47\r\nETag: \"a\"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfalse";
        match head.split(['/', ' ']).nth(2).unwrap() {
            "head" => format!("HTTP/1.1 200 OK\r\n{fields}"),
            "204" => format!("HTTP/1.1 204 No Content\r\n{fields}"),
            "204-chunked" => "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfalse\r\n0\r\n\r\n".into(),
            "304" => format!("HTTP/1.1 304 Not Modified\r\n{fields}"),
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue".into(),
        }
        .into_bytes()
    })
    .await;
    for (line, status, len) in [
        ("HEAD /head", 200, Some("47")),
        ("GET /204", 204, None),
        ("GET /204-chunked", 204, None),
        ("GET /304", 304, Some("47")),
    ] {
        let line = line.replace(" /", &format!(" {PROXIED}/"));
        for _ in 0..5 {
            let got = rig.ask(&format!("{line} HTTP/1.1"), "").await;
            assert_eq!((status_of(&got), body_of(&got)), (status, ""), "{line}: {got}");
            let lens = values(&got, "content-length");
            // A 304 may have the length of the content that it stands for. A 204 must not have a length.
            assert!(lens.iter().all(|value| Some(*value) == len), "{line}: {got}");
            assert!(values(&got, "transfer-encoding").is_empty(), "{line}: {got}");
            let next = rig.get("/true", "").await;
            assert!(!next.contains("false") && body_of(&next) == "true", "{line}: {next}");
        }
        let (method, path) = line.split_once(' ').unwrap();
        let request = hyper::Request::builder().method(method).uri(format!("http://h{path}"));
        let (got, body) = over_http2(&rig, request, Body::empty()).await;
        assert_eq!((got.status().as_u16(), &body[..]), (status, ""));
        assert!(got.status() != 204 || !got.headers().contains_key("content-length"), "{got:?}");
    }
}

/// Trailers are separate from the header section, and must not have fields that only a header section may
/// have.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_carry_nothing_that_belongs_before_the_body() {
    const TRAILERS: &str = "x-sum: 1\r\nhost: evil\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\
                            authorization: Basic eA==\r\nset-cookie: a=b\r\ncontent-type: text/evil\r\n\
                            cache-control: no-store\r\nmax-forwards: 1\r\nconnection: close\r\ncookie: a=b\r\n";
    let rig = Rig::http1(|_| {
        let names = "x-sum, host, content-length, transfer-encoding, authorization, set-cookie, connection";
        format!(
            "HTTP/1.1 200 OK\r\nTrailer: {names}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{TRAILERS}\r\n"
        )
        .into_bytes()
    })
    .await;
    let names = "x-sum, host, content-length, transfer-encoding, authorization, cookie, connection";
    let request = format!(
        "TE: trailers\r\nConnection: te\r\nTrailer: {names}\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nhi\r\n0\r\n{TRAILERS}"
    );
    let got = rig.ask(&format!("POST {PROXIED}/x HTTP/1.1"), &request).await;
    let seen = rig.seen().remove(0);
    for (message, content) in [(&seen, "hi"), (&got, "ok")] {
        let trailers = message.split("0\r\n").last().unwrap();
        assert_eq!(trailers, "x-sum: 1\r\n\r\n", "{message}");
        assert!(message.contains(content) && values(message, "x-sum").is_empty(), "{message}");
    }
    // A client that takes no trailers over HTTP/1 gets none.
    let plain = rig.get("/x", "").await;
    assert!(plain.ends_with("\r\n0\r\n\r\n"), "{plain}");
    // Over HTTP/2 they need no announcement.
    let request = hyper::Request::get(format!("http://h{PROXIED}/x"));
    let stream = TcpStream::connect(rig.server.addr).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request.body(Body::empty()).unwrap()).await.unwrap();
    let collected = answer.into_body().collect().await.unwrap();
    let trailers = collected.trailers().unwrap();
    assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &"1".parse().unwrap()), "{trailers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_names_itself_with_the_version_it_was_asked_in() {
    let rig = Rig::http1(|_| ok()).await;
    let line = |version: &str| format!("GET {PROXIED}/x HTTP/{version}");
    rig.ask(&line("1.1"), "Via: 1.0 a, 1.1 b (c)\r\nVia: 2 d\r\n").await;
    assert_eq!(values(&rig.seen().remove(0), "via"), ["1.0 a, 1.1 b (c)", "2 d", "1.1 maxine"]);
    rig.ask(&line("1.0"), "").await;
    let seen = rig.seen().remove(0);
    assert_eq!(values(&seen, "via"), ["1.0 maxine"]);
    assert!(seen.starts_with("GET /x HTTP/1.1\r\n"), "its own version: {seen}");
    let request = hyper::Request::get(format!("http://h{PROXIED}/x"));
    over_http2(&rig, request, Body::empty()).await;
    assert_eq!(values(&rig.seen().remove(0), "via"), ["2.0 maxine"]);
}
