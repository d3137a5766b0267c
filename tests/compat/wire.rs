//! Rules for every request: sections 1 and 10 (protocol) of the compatible API, and the limits.

use std::time::Duration;

use super::support::{Server, message, node};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HEALTH: &str = "/api/actuator/health";

#[tokio::test(flavor = "multi_thread")]
async fn trace_headers() {
    let server = Server::start().await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for path in [HEALTH, "/nowhere", "/api/actuator/audit"] {
        let own =
            server.get(path).header("x-trace-id", "my own").header("traceparent", traceparent);
        let own = own.send().await.unwrap();
        assert_eq!(own.headers()["x-trace-id"], "my own");
        assert_eq!(own.headers()["traceparent"], traceparent);
        let mut seen = Vec::new();
        for _ in 0..2 {
            let made = server.get(path).header("x-trace-id", "").header("traceparent", "any text");
            let made = made.send().await.unwrap();
            let id = made.headers()["x-trace-id"].to_str().unwrap().to_owned();
            assert!(id.len() == 32 && id.bytes().all(|b| b"0123456789abcdef".contains(&b)), "{id}");
            let parent = made.headers()["traceparent"].to_str().unwrap().to_owned();
            assert!(parent.len() == 55 && parent.starts_with("00-") && parent.ends_with("-01"));
            seen.extend([id, parent]);
        }
        assert!(seen[0] != seen[2] && seen[1] != seen[3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_trailing_slash_and_etag() {
    let server = Server::start().await;
    let answer = server.get("/api/actuator/health/").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json; charset=utf-8");
    let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
    assert!(tag.starts_with("W/\""));
    let again = server.get(HEALTH).header("if-none-match", &tag).send().await.unwrap();
    assert_eq!(again.status(), 304);
    assert_eq!(again.text().await.unwrap(), "");
    let other = server.get(HEALTH).header("if-none-match", "W/\"other\"").send().await.unwrap();
    assert_eq!(other.status(), 200);
    let head = server.http.head(server.url(HEALTH)).send().await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-length"], "15");
    assert_eq!(head.text().await.unwrap(), "");
    let two = server.get("/api/actuator/health//").send().await.unwrap();
    assert_eq!(message(two).await, (404, "Not found".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn cors_is_off_unless_set() {
    let off = Server::start().await;
    let options = off.http.request(reqwest::Method::OPTIONS, off.url("/anything"));
    let answer = options.header("origin", "https://a.example").send().await.unwrap();
    assert_eq!(answer.status(), 204);
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    let on = Server::start_with(|options| options.api.cors_allow_origin = Some("*".into())).await;
    let answer = on.get(HEALTH).send().await.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    let options = on.http.request(reqwest::Method::OPTIONS, on.url("/api/maxine/control/config"));
    let options = options.header("access-control-request-headers", "authorization,x-a");
    let answer = options.send().await.unwrap();
    assert_eq!(answer.status(), 204);
    let headers = answer.headers();
    assert_eq!(headers["access-control-allow-methods"], "GET,HEAD,PUT,PATCH,POST,DELETE");
    assert_eq!(headers["access-control-allow-headers"], "authorization,x-a");
    assert_eq!(headers["vary"], "Access-Control-Request-Headers");
    assert!(!headers.contains_key("x-trace-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offered_upgrade_is_ignored() {
    let server = Server::start().await;
    let request = b"GET /api/actuator/health HTTP/1.1\r\nhost: h\r\nconnection: Upgrade, HTTP2-Settings, close\r\n\
        upgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    let answer = server.raw(request).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with(r#"{"status":"UP"}"#), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_with_prior_knowledge_works() {
    let server = Server::start().await;
    let stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = axum::http::Request::get(server.url(HEALTH));
    let request = request.body(axum::body::Body::empty()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.version(), axum::http::Version::HTTP_2);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_heads_get_a_4xx_and_leave_nothing_behind() {
    let server = Server::start().await;
    let long = "x".repeat(80_000);
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    for (request, statuses) in [
        (format!("GET /{long} HTTP/1.1\r\nhost: h\r\n\r\n"), &["414", "431", "400"][..]),
        (format!("GET / HTTP/1.1\r\nhost: h\r\nx: {long}\r\n\r\n"), &["431", "400"]),
        (format!("GET / HTTP/1.1\r\nhost: h\r\n{many}\r\n"), &["431", "400"]),
        ("GET / HTTP/1.1\r\nhost: h\r\nx: a\0b\r\n\r\n".into(), &["400"]),
        ("GET /a b HTTP/1.1\r\nhost: h\r\n\r\n".into(), &["400"]),
        (
            "POST /api/maxine/signin HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}"
                .into(),
            &["400"],
        ),
        ("nonsense\r\n\r\n".into(), &["400"]),
        ("GET /api/actuator/health HTTP/1.1\r\nconnection: close\r\n\r\n".into(), &["400"]),
        (
            "GET /api/actuator/health HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n".into(),
            &["400"],
        ),
        ("GET /api/actuator/health HTTP/1.0\r\n\r\n".into(), &["200"]),
    ] {
        let answer = server.raw(request.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(statuses.contains(&status), "{status} for {:.60}", request);
    }
    assert_eq!(server.get(HEALTH).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_let_go() {
    let server = Server::start_with(|options| {
        options.limits.header_timeout_ms = 300;
        options.api.body_timeout_ms = 300;
    })
    .await;
    let silent = b"".as_slice();
    let one_byte = b"G".as_slice();
    let half_a_head = b"GET / HTTP/1.1\r\nhost: h\r\n".as_slice();
    for begun in [silent, one_byte, half_a_head] {
        let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut answer = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer));
        end.await.expect("the connection is held").unwrap();
    }
    let body = b"POST /api/maxine/signin HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n\
        content-length: 100\r\nconnection: close\r\n\r\n{";
    let answer = server.raw(body).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // The node keeps a connection open for a moment, so that its last answer arrives.
    for _ in 0..100 {
        if server.state.telemetry().metrics().connections.get() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("connections are held");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_are_told_so() {
    let server = Server::start_with(|options| options.limits.connections_max = 2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"GET /api/actuator/health HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        held.push(stream);
    }
    let refused = server.raw(b"").await;
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("Retry-After: 1"),
        "{refused}"
    );
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{refused}");
    // A client that sends its whole request before it reads is also answered, and its connection is not
    // reset.
    for turn in 0..50 {
        let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        let request = format!("POST / HTTP/1.1\r\nhost: h\r\n\r\n{}", "x".repeat(20_000));
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap_or_else(|error| panic!("{turn}: {error}"));
        assert!(answer.starts_with(b"HTTP/1.1 503 "), "{turn}: {answer:?}");
    }
    drop(held);
    for _ in 0..100 {
        if server.http.get(server.url(HEALTH)).send().await.is_ok_and(|a| a.status() == 200) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the limit does not let go");
}

/// Callers without a credential hold all connections that they may have. A caller with a credential still
/// gets one, however many others connect and send nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_connections_is_kept_for_callers_with_a_credential() {
    let server = Server::start_with(|options| {
        options.limits.connections_max = 100;
        // If trusted proxies are set, a loopback client is not treated as an operator.
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        options.limits.trusted_proxies = maxine_gateway::TrustedProxies::new(proxies);
    })
    .await;
    let token = server.admin().await;
    let mut held = Vec::new();
    let refused = loop {
        let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"GET /api/actuator/health HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        if &head == b"HTTP/1.1 503" {
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.unwrap();
            break rest;
        }
        held.push(stream);
        assert!(held.len() < 99, "strangers got all");
    };
    assert!(refused.contains("requests with a credential are still taken"), "{refused}");
    let ask = |credential: &str| {
        format!("GET /api/v1/me HTTP/1.1\r\nhost: h\r\n{credential}connection: close\r\n\r\n")
    };
    let known = ask(&format!("authorization: Bearer {token}\r\n"));
    // A connection without a request loses its place.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(tokio::net::TcpStream::connect(server.addr).await.unwrap());
        let answer = server.raw(known.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    // A connection counts as one with a credential only while its requests have the credential.
    let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let kept = known.replace("connection: close", "connection: keep-alive");
    stream.write_all(format!("{kept}{}", ask("")).as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert!(answers.starts_with("HTTP/1.1 200 ") && answers.contains("HTTP/1.1 503 "), "{answers}");
}

/// Callers without a credential hold all connections to instances that they may have. A caller with a
/// credential still gets one.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_connections_to_instances_is_kept_for_callers_with_a_credential() {
    let server = Server::start_with(|options| {
        options.upstreams_max = 8;
        let proxies = vec!["127.0.0.1/32".parse().unwrap()];
        options.api.trusted_proxies = maxine_gateway::TrustedProxies::new(proxies);
    })
    .await;
    let token = server.admin().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    server.register(super::support::node("tarpit", "a", port)).await;
    let ask = |client: u8, field: &str| {
        format!(
            "GET /api/maxine/serviceops/proxy/tarpit/x HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 203.0.113.{client}\r\n\
             {field}connection: close\r\n\r\n"
        )
    };
    let mut held = Vec::new();
    for client in 1..=7 {
        let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(ask(client, "").as_bytes()).await.unwrap();
        held.push((stream, listener.accept().await.unwrap()));
    }
    let refused = server.raw(ask(8, "").as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("x-maxine-error: connections_busy"), "{refused}");
    let wrong = server.raw(ask(8, "authorization: Bearer x\r\n").as_bytes()).await;
    assert!(wrong.starts_with("HTTP/1.1 503 "), "not every token counts: {wrong}");
    let known = ask(8, &format!("authorization: Bearer {token}\r\n"));
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let len = stream.read(&mut [0; 4_096]).await.unwrap();
        assert!(len > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    };
    let (answered, ()) = futures::join!(server.raw(known.as_bytes()), answer);
    assert!(answered.starts_with("HTTP/1.1 200 ") && answered.ends_with("ok"), "{answered}");
}

/// The number of instances that one address may register without a credential is limited.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_one_address_registers_without_a_credential_are_bounded() {
    let server = Server::start_with(|options| {
        options.api.open_instances_per_address_max = 2;
        let proxies = vec!["127.0.0.1/32".parse().unwrap()];
        options.api.trusted_proxies = maxine_gateway::TrustedProxies::new(proxies);
    })
    .await;
    let token = server.admin().await;
    let register = async |client: &str, name: &str, token: &str| {
        let path = "/api/maxine/serviceops/register";
        let request = server.post(path, &super::support::node("orders", name, 80));
        let request = request.header("x-forwarded-for", client);
        let request = if token.is_empty() { request } else { request.bearer_auth(token) };
        request.send().await.unwrap()
    };
    let (one, other) = ("203.0.113.1", "203.0.113.2");
    assert_eq!(register(one, "a", "").await.status(), 200);
    assert_eq!(register(one, "b", "").await.status(), 200);
    let refused = register(one, "c", "").await;
    assert_eq!(refused.headers()["retry-after"], "60");
    let (status, text) = super::support::message(refused).await;
    assert_eq!(status, 429);
    assert!(text.contains("has registered 2 instances without a credential"), "{text}");
    assert_eq!(register(one, "a", "").await.status(), 200, "a heartbeat of its own instance");
    assert_eq!(register(other, "a", "").await.status(), 200, "an instance that exists");
    assert_eq!(register(other, "d", "").await.status(), 200, "another address");
    assert_eq!(register(one, "c", &token).await.status(), 200, "with a credential");
    let instance = |name: &str| format!("/api/v1/services/default/orders/instances/{name}");
    let body = serde_json::json!({"address": "http://127.0.0.1:80", "ttl_ms": 60_000});
    let native = server.put(&instance("e"), &body).header("x-forwarded-for", one);
    let problem: serde_json::Value = native.send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&problem["status"], &problem["type"]),
        (&429.into(), &"/problems/too-many-requests".into())
    );
    let items = serde_json::json!({"items": [
        {"service": "orders", "id": "a", "address": "http://127.0.0.1:80", "ttl_ms": 60_000},
        {"service": "orders", "id": "f", "address": "http://127.0.0.1:80", "ttl_ms": 60_000},
    ]});
    let batch = server.post("/api/v1/registrations", &items).header("x-forwarded-for", one);
    let results: serde_json::Value = batch.send().await.unwrap().json().await.unwrap();
    assert!(results["results"][0]["problem"].is_null(), "{results}");
    assert_eq!(results["results"][1]["problem"]["status"], 429, "{results}");
    // There is room again once an instance was deregistered.
    let left = server.http.delete(server.url(&instance("b"))).send().await.unwrap();
    assert_eq!(left.status(), 200);
    let mut status = 429;
    for _ in 0..100 {
        status = register(one, "c2", "").await.status().as_u16();
        if status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status, 200);
}

/// Heads of requests over HTTP/2 count against the same limit as arriving bodies, because one connection may
/// begin hundreds of requests.
#[tokio::test(flavor = "multi_thread")]
async fn heads_over_http2_count_while_their_requests_are_answered() {
    let server = Server::start_with(|options| {
        // Each request counts 8 KiB, and 8 KiB more as long as its body has not ended.
        options.api.bodies.per_address_max = 160_000;
        options.api.body_timeout_ms = 3_000;
    })
    .await;
    let stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let begin = |len: usize| {
        let uri = format!("http://{}/api/maxine/signin", server.addr);
        let request = axum::http::Request::post(uri)
            .header("content-type", "application/json")
            .header("x-long", "x".repeat(len));
        // A body that never arrives.
        let body = axum::body::Body::from_stream(futures::stream::pending::<
            Result<axum::body::Bytes, std::io::Error>,
        >());
        let request = request.body(body).unwrap();
        let mut sender = sender.clone();
        async move { sender.send_request(request).await.map(|answer| answer.status().as_u16()) }
    };
    let mut begun: Vec<_> = (0..5).map(|_| tokio::spawn(begin(30_000))).collect();
    // There is room for three. The others are refused at once.
    let mut refused = 0;
    while refused < 2 {
        let (status, _, rest) = futures::future::select_all(begun).await;
        assert_eq!(status.unwrap().unwrap(), 503);
        (refused, begun) = (refused + 1, rest);
    }
    assert_eq!(begin(100).await.unwrap(), 408, "a short one fits, and waits for its body in vain");
}

/// Long heads that do not end count against the same limit as arriving bodies, over HTTP/1.1 too.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_heads_over_http1_are_bounded_for_each_address() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let server = Server::start_with(|options| options.api.bodies.per_address_max = 60_000).await;
    let begin = async |len: usize| {
        let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        let head =
            format!("GET /api/actuator/health HTTP/1.1\r\nHost: h\r\nX-Long: {}", "x".repeat(len));
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let mut begun = Vec::new();
    for _ in 0..12 {
        begun.push(begin(20_000).await);
    }
    // There is room for five. The others are refused.
    let mut refused = 0;
    let mut waiting = Vec::new();
    for mut stream in begun {
        let mut text = vec![0; 12];
        let read = stream.read_exact(&mut text);
        match tokio::time::timeout(Duration::from_millis(500), read).await {
            Ok(read) => {
                read.unwrap();
                assert_eq!(text, b"HTTP/1.1 503");
                refused += 1;
            }
            Err(_) => waiting.push(stream),
        }
    }
    assert_eq!((refused, waiting.len()), (7, 5));
    let mut finished = waiting.pop().unwrap();
    finished.write_all(b"\r\n\r\n").await.unwrap();
    let mut text = vec![0; 12];
    finished.read_exact(&mut text).await.unwrap();
    assert_eq!(text, b"HTTP/1.1 200", "one that fits is answered once it ends");
    let mut short = begin(10).await;
    short.write_all(b"\r\n\r\n").await.unwrap();
    short.read_exact(&mut text).await.unwrap();
    assert_eq!(text, b"HTTP/1.1 200", "a short head needs no room");
}

/// A read that waits for an index keeps a task, however short its head is.
#[tokio::test(flavor = "multi_thread")]
async fn requests_over_http2_that_wait_are_bounded_for_each_address() {
    let server = Server::start_with(|options| {
        options.api.bodies.per_address_max = 10 * 9_000;
        let proxies = vec!["127.0.0.1/32".parse().unwrap()];
        options.api.trusted_proxies = maxine_gateway::TrustedProxies::new(proxies);
        options.limits.trusted_proxies = options.api.trusted_proxies.clone();
    })
    .await;
    server.register(super::support::node("s", "a", 80)).await;
    let stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let get = |path: &str, client: &str| {
        let request = axum::http::Request::get(format!("http://{}{path}", server.addr))
            .header("x-forwarded-for", client)
            .body(axum::body::Body::empty());
        sender.clone().send_request(request.unwrap())
    };
    let (one, other) = ("203.0.113.1", "203.0.113.2");
    let (reads, waits) =
        ("/api/v1/resolve/default/s", "/api/v1/resolve/default/s?min_index=999999");
    let mut waiting: Vec<_> = (0..16).map(|_| tokio::spawn(get(waits, one))).collect();
    for _ in 0..6 {
        let (refused, _, rest) = futures::future::select_all(waiting).await;
        let refused = refused.unwrap().unwrap();
        assert_eq!(refused.status(), 503, "ten fit");
        let text = http_body_util::BodyExt::collect(refused).await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains("too many requests are being answered"), "{text}");
        waiting = rest;
    }
    // Ten still wait, each for three seconds.
    assert_eq!(get(reads, one).await.unwrap().status(), 503);
    assert_eq!(get(reads, other).await.unwrap().status(), 200, "another client");
    for waited in futures::future::join_all(waiting).await {
        assert_eq!(waited.unwrap().unwrap().status(), 503, "this index is not reached");
    }
    assert_eq!(get(reads, one).await.unwrap().status(), 200);
}

/// However many addresses fill the memory for requests over HTTP/2 with reads that wait, another client is answered.
#[tokio::test(flavor = "multi_thread")]
async fn long_polls_of_many_addresses_do_not_keep_out_another_client() {
    let server = Server::start_with(|options| {
        let len_max = 400 * 9_000;
        options.api.bodies = maxine_admission::PlaceLimits {
            max: len_max,
            per_address_max: len_max / 2,
            reserved: len_max / 4,
        };
        let proxies = vec!["127.0.0.1/32".parse().unwrap()];
        options.api.trusted_proxies = maxine_gateway::TrustedProxies::new(proxies);
        options.limits.trusted_proxies = options.api.trusted_proxies.clone();
        options.limits.streams_max = 1_000;
    })
    .await;
    server.register(super::support::node("s", "a", 80)).await;
    for attackers in [24_u8, 200] {
        let stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        let connection = tokio::spawn(connection);
        let get = |path: &str, client: String| {
            let request = axum::http::Request::get(format!("http://{}{path}", server.addr))
                .header("x-forwarded-for", client)
                .body(axum::body::Body::empty());
            sender.clone().send_request(request.unwrap())
        };
        let poll = "/api/v1/changes?service=s&wait_ms=20000";
        let attack = |n: u8| tokio::spawn(get(poll, format!("203.0.113.{n}")));
        let mut attack: Vec<_> = (0..attackers).cycle().take(500).map(attack).collect();
        // Those that find no room are answered first: then the others hold all of it.
        let mut refused = 0;
        while refused < 100 {
            let (answer, _, rest) = futures::future::select_all(attack).await;
            assert_eq!(answer.unwrap().unwrap().status(), 503);
            (refused, attack) = (refused + 1, rest);
        }
        for n in 1..=5 {
            let discover = "/api/v1/resolve/default/s";
            let answer = get(discover, format!("198.51.100.{n}")).await.unwrap();
            assert_eq!(answer.status(), 200, "{attackers} attackers");
        }
        drop(attack);
        connection.abort();
    }
}

/// One address cannot take all connections.
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_are_bounded() {
    let server = Server::start_with(|options| {
        options.limits.connections_max = 8;
        options.limits.connections_per_address_max = 2;
    })
    .await;
    let from = async |address: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(server.addr).await.unwrap();
        stream.write_all(b"GET /api/actuator/health HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        (stream, String::from_utf8(head.to_vec()).unwrap())
    };
    let one = [from("127.0.0.2").await, from("127.0.0.2").await];
    assert!(one.iter().all(|(_, head)| head == "HTTP/1.1 200"), "{one:?}");
    let (mut over, head) = from("127.0.0.2").await;
    assert_eq!(head, "HTTP/1.1 503");
    let mut rest = String::new();
    over.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("too many connections are open from your address"), "{rest}");
    assert_eq!(from("127.0.0.3").await.1, "HTTP/1.1 200", "another address has its own");
}

/// Many addresses hold all connections that callers without a credential may have. Another one gets a connection: the
/// oldest one of an address with the most is closed.
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_many_addresses_do_not_keep_out_another_one() {
    let server = Server::start_with(|options| {
        options.limits.connections_max = 32;
        // If trusted proxies are set, a loopback client is not treated as an operator.
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        options.limits.trusted_proxies = maxine_gateway::TrustedProxies::new(proxies);
    })
    .await;
    let from = async |address: String| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(server.addr).await.unwrap();
        stream.write_all(b"GET /api/actuator/health HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        (stream, String::from_utf8(head.to_vec()).unwrap())
    };
    let mut held = Vec::new();
    for n in 0..28 {
        let (stream, head) = from(format!("127.0.1.{}", 1 + n / 2)).await;
        assert_eq!(head, "HTTP/1.1 200");
        held.push(stream);
    }
    let (_other, head) = from("127.0.2.1".into()).await;
    assert_eq!(head, "HTTP/1.1 200", "an address that had no connection");
    let mut closed = 0;
    for stream in &mut held {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        closed += usize::from(tokio::time::timeout(Duration::from_millis(50), ended).await.is_ok());
    }
    assert_eq!(closed, 1, "one connection made room");
}

/// Connections that were accepted without a credential give way to other addresses. One that has shown a credential
/// since does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_shown_a_credential_does_not_give_way_to_strangers() {
    let server = Server::start_with(|options| {
        options.limits.connections_max = 32;
        // If trusted proxies are set, a loopback client is not treated as an operator.
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        options.limits.trusted_proxies = maxine_gateway::TrustedProxies::new(proxies);
    })
    .await;
    let token = server.admin().await;
    let ask = async |stream: &mut tokio::net::TcpStream, credential: &str| {
        let request = format!("GET /api/v1/me HTTP/1.1\r\nhost: h\r\n{credential}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4_096];
        let len = stream.read(&mut answer).await.unwrap_or(0);
        answer.truncate(len);
        String::from_utf8(answer).unwrap()
    };
    let from = async |last: u8| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 1, last], 0).into()).unwrap();
        socket.connect(server.addr).await.unwrap()
    };
    let known = format!("authorization: Bearer {token}\r\n");
    let mut shown = [from(1).await, from(1).await];
    for stream in &mut shown {
        assert!(ask(stream, "").await.starts_with("HTTP/1.1 "), "without a credential");
        assert!(ask(stream, &known).await.starts_with("HTTP/1.1 200 "));
    }
    let mut strangers = Vec::new();
    for n in 0..80 {
        let mut stream = from(2 + n % 40).await;
        let answer = ask(&mut stream, "").await;
        strangers.push((stream, answer));
    }
    let refused = strangers.iter().filter(|(_, answer)| !answer.starts_with("HTTP/1.1 401 "));
    assert!(refused.count() > 40, "strangers have no more than their part");
    for stream in &mut shown {
        let answer = ask(stream, &known).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    }
}

/// Many addresses hold all connections that callers without a credential may have, with tunnels. Other addresses get a
/// connection: the oldest tunnels of the addresses with the most are closed.
#[tokio::test(flavor = "multi_thread")]
async fn tunnels_of_many_addresses_do_not_keep_out_another_one() {
    let server = Server::start_with(|options| {
        options.limits.connections_max = 32;
        // If trusted proxies are set, a loopback client is not treated as an operator.
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        options.limits.trusted_proxies = maxine_gateway::TrustedProxies::new(proxies);
    })
    .await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let instance = tokio::spawn(async move {
        let mut tunnels = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: b\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            tunnels.push(stream);
        }
    });
    server.register(node("s", "n", port)).await;
    let from = async |address: String, request: &'static [u8]| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(server.addr).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        (stream, String::from_utf8(head.to_vec()).unwrap())
    };
    let mut held = Vec::new();
    // The registration may still have a connection.
    for n in 0..27 {
        let upgrade: &[u8] =
            b"GET /api/maxine/serviceops/proxy/s/x HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\n\
                        upgrade: b\r\n\r\n";
        let (stream, head) = from(format!("127.0.1.{}", 1 + n / 2), upgrade).await;
        assert_eq!(head, "HTTP/1.1 101");
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let mut others = Vec::new();
    for n in 1..=2 {
        let get: &[u8] = b"GET /api/actuator/health HTTP/1.1\r\nhost: h\r\n\r\n";
        let (stream, head) = from(format!("127.0.2.{n}"), get).await;
        assert_eq!(head, "HTTP/1.1 200", "an address that had no connection");
        others.push(stream);
    }
    let mut closed = 0;
    for stream in &mut held {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        closed += usize::from(tokio::time::timeout(Duration::from_millis(50), ended).await.is_ok());
    }
    assert!((1..=2).contains(&closed), "{closed} tunnels made room");
    instance.abort();
}

/// Bodies that do not end use no more memory of a node than its limits allow.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_unfinished_bodies_are_bounded_for_each_address() {
    let server = Server::start_with(|options| {
        options.api.bodies =
            maxine_admission::PlaceLimits { max: 1_000_000, per_address_max: 100_000, reserved: 0 };
    })
    .await;
    let begin = async || {
        let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        let head = "POST /api/maxine/serviceops/register HTTP/1.1\r\nhost: h\r\n\
                    content-type: application/json\r\ncontent-length: 90000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[b' '; 80_000]).await.unwrap();
        stream
    };
    let mut one = begin().await;
    let mut other = begin().await;
    let (mut of_one, mut of_other) = ([0; 12], [0; 12]);
    // There is room for one of the two, which waits for its end. The other is answered at once.
    let status = tokio::select! {
        read = one.read_exact(&mut of_one) => { read.unwrap(); of_one }
        read = other.read_exact(&mut of_other) => { read.unwrap(); of_other }
    };
    assert_eq!(&status, b"HTTP/1.1 503");
}

/// A client that does not read its answers over HTTP/2 is disconnected, and uses little memory until then.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_an_http2_client_never_takes_are_given_up() {
    let server = Server::start_with(|options| options.limits.send_timeout_ms = 400).await;
    let stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let mut builder =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    let io = hyper_util::rt::TokioIo::new(stream);
    let (sender, connection) =
        builder.initial_stream_window_size(0).handshake::<_, axum::body::Body>(io).await.unwrap();
    let ended = tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..64 {
        let url = server.url("/api/v1/openapi.json");
        let request = hyper::Request::get(url).body(axum::body::Body::empty()).unwrap();
        answers.push(sender.clone().send_request(request).await.unwrap());
    }
    assert!(answers.iter().all(|answer| answer.status() == 200));
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
    let _how = ended.expect("the connection is closed from the other side").unwrap();
    assert_eq!(server.state.telemetry().metrics().connections_stalled.get(), 1);
}

/// A connection whose client leaves no room for one change in a watch is closed. A quiet stream is not
/// closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_takes_no_change_over_http2_is_given_up() {
    let server = Server::start_with(|options| options.limits.send_timeout_ms = 400).await;
    let stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let mut builder =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        builder.initial_stream_window_size(200).handshake::<_, axum::body::Body>(io).await.unwrap();
    let mut ended = tokio::spawn(connection);
    let url = server.url("/api/v1/watch?service=orders");
    let request = hyper::Request::get(url).body(axum::body::Body::empty()).unwrap();
    let watch = sender.send_request(request).await.unwrap();
    assert_eq!(watch.status(), 200);
    let early = tokio::time::timeout(Duration::from_millis(1_200), &mut ended).await;
    early.expect_err("nothing was left to take");
    let url = server.url("/api/v1/services/default/orders/instances/a");
    let metadata = json!({"long": "x".repeat(900)});
    let instance = json!({"address": "http://10.0.0.1", "ttl_ms": 60_000, "metadata": metadata});
    let written = reqwest::Client::new().put(url).json(&instance).send().await.unwrap();
    assert!(written.status().is_success(), "{written:?}");
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
    let _how = ended.expect("the connection is closed from the other side").unwrap();
    assert_eq!(server.state.telemetry().metrics().connections_stalled.get(), 1);
}

/// A client that continues to send reads an answer that comes before the end of its request.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_arrives_though_the_client_still_sends() {
    let server = Server::start().await;
    let reset = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    server.register(super::support::node("resets", "a", reset.local_addr().unwrap().port())).await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = reset.accept().await {
            stream.set_zero_linger().unwrap();
        }
    });
    for turn in 0..100 {
        let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        let len = 400_000;
        let head = format!(
            "POST /api/maxine/serviceops/proxy/resets/x HTTP/1.1\r\nhost: h\r\ncontent-length: {len}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let sending = async {
            let _ = write.write_all(&vec![b'x'; len]).await;
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        let reading = async {
            let mut buffer = [0; 4_096];
            while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
                let len = read.read(&mut buffer).await.unwrap_or_else(|e| panic!("{turn}: {e}"));
                assert!(len > 0, "{turn}: the connection ended without an answer");
                answer.extend_from_slice(&buffer[..len]);
            }
        };
        tokio::select! {
            () = sending => {}
            () = reading => {}
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 502 "),
            "{turn}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_or_a_page_in_its_place_has_security_headers() {
    let server = Server::start().await;
    let answer = server.get("/").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let headers = answer.headers();
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.ends_with("connect-src 'self'"));
    assert!(!policy.contains("unsafe") && !policy.contains("data:"), "{policy}");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers["x-frame-options"], "DENY");
    let docs = server.get("/api/docs/").send().await.unwrap();
    assert_eq!(docs.status(), 200);
    assert!(docs.headers().contains_key("content-security-policy"));
    assert_eq!(docs.headers()["x-frame-options"], "DENY");
    for outside in ["/assets/..%2f..%2fCargo.toml", "/..%2fCargo.toml", "/assets/none.js"] {
        assert_eq!(server.get(outside).send().await.unwrap().status(), 404, "{outside}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_of_another_type_counts_as_empty_and_unknown_fields_are_ignored() {
    let server = Server::start().await;
    let token = server.admin().await;
    let config = "/api/maxine/control/config";
    let form = server.http.put(server.url(config)).bearer_auth(&token).body("logAsync=1");
    let form =
        form.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
    assert_eq!(form.text().await.unwrap(), "{}");
    let unknown = server.put(config, &json!({"unknown": 1})).bearer_auth(&token).send().await;
    assert_eq!(unknown.unwrap().text().await.unwrap(), "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_keeps_to_the_limit_of_header_fields_too() {
    let server = Server::start_with(|options| options.limits.header_fields_max = 20).await;
    let stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    for (fields, expected) in [(20, 200), (21, 431), (20, 200)] {
        let uri = format!("http://{}/api/actuator/health", server.addr);
        let mut request = axum::http::Request::get(uri);
        for n in 0..fields {
            request = request.header(format!("x-{n}"), "1");
        }
        let request = request.body(axum::body::Body::empty()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), expected, "{fields} fields");
    }
    // The refusal of a `HEAD` has no body. A client whose window is empty could never read a body to its end.
    let uri = format!("http://{}/api/actuator/health", server.addr);
    let request = (0..21)
        .fold(axum::http::Request::head(uri), |request, n| request.header(format!("x-{n}"), "1"));
    let request = request.body(axum::body::Body::empty()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 431);
    assert!(hyper::body::Body::is_end_stream(answer.body()));
}

/// Every kind of answer that Maxine makes itself, at each place that makes one: a client must not treat a body
/// as another type than its `Content-Type`.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_that_maxine_makes_is_to_be_sniffed() {
    let server = Server::start_with(|options| options.api.body_timeout_ms = 300).await;
    let answers = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = answers.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = answers.accept().await {
            let mut request = [0; 1_024];
            let _ = stream.read(&mut request).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            let _ = stream.write_all(answer).await;
        }
    });
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_port = dead.local_addr().unwrap().port();
    drop(dead);
    for (service, port) in [("answers", port), ("dead", dead_port)] {
        server.register(super::support::node(service, "a", port)).await;
    }
    let ask = async |method: &str, target: &str, fields: &str| {
        let request = format!("{method} {target} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
        server.raw(request.as_bytes()).await
    };
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let (own, many) = ("Host: localhost\r\n", format!("Host: localhost\r\n{many}"));
    let html = "Host: localhost\r\nAccept: text/html\r\n";
    let proxy = "/api/maxine/serviceops/proxy";
    let discover = "/api/maxine/serviceops/discover";
    for (status, method, target, fields) in [
        (200, "GET", "/", own),
        (200, "GET", "/api/actuator/health", own),
        (200, "GET", "/api/actuator/health", html),
        (200, "GET", "/api/actuator/status", html),
        (200, "GET", "/api/v1/ready", own),
        (200, "GET", "/api/v1/openapi.json", own),
        (200, "GET", "/api/docs/", own),
        (303, "GET", "/api/docs", own),
        (200, "GET", "/problems/not-found", own),
        (204, "OPTIONS", "/api/v1/services", own),
        (302, "GET", &format!("{discover}?serviceName=answers"), own),
        (302, "GET", &format!("{discover}?serviceName=answers"), html),
        (503, "GET", &format!("{discover}?serviceName=none"), own),
        (400, "GET", discover, own),
        (400, "GET", "/api/v1/ready", ""),
        (400, "GET", "/api/v1/ready", "Host: a\r\nHost: b\r\n"),
        (
            408,
            "POST",
            "/api/maxine/signin",
            "Host: h\r\nContent-Type: application/json\r\nContent-Length: 1\r\n",
        ),
        (401, "GET", "/api/v1/services", own),
        (401, "GET", "/api/maxine/control/config", own),
        (404, "GET", "/none", own),
        (404, "GET", "/api/v1/none", own),
        (405, "DELETE", "/api/v1/ready", own),
        (421, "GET", "/", "Host: evil.example\r\n"),
        (431, "GET", "/", &many),
        (503, "GET", &format!("{proxy}/none/x"), own),
        (400, "GET", &format!("{proxy}/answers/%zz"), own),
        // The same after an attempt to reach an instance.
        (502, "GET", &format!("{proxy}/dead/x"), own),
    ] {
        let answer = ask(method, target, fields).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {target}: {answer}");
        let head = head.to_ascii_lowercase();
        // A refusal by the HTTP library itself has neither a body nor a type.
        let is_bare = body.is_empty() && !head.contains("content-type");
        let is_told = head.contains("x-content-type-options: nosniff");
        assert!(is_told || (is_bare && status == 431), "{method} {target}: {answer}");
        assert!((status == 502) == head.contains("x-maxine-attempts: 1"), "{answer}");
    }
    let of_instance = ask("GET", &format!("{proxy}/answers/x"), own).await;
    assert!(of_instance.ends_with("ok") && !of_instance.contains("nosniff"), "{of_instance}");
    let full = Server::start_with(|options| options.limits.connections_max = 0).await;
    let refused = full.raw(b"").await.to_ascii_lowercase();
    assert!(refused.starts_with("http/1.1 503 "), "{refused}");
    assert!(refused.contains("x-content-type-options: nosniff"), "{refused}");
}

/// An instance whose answers announce `len` bytes and contain `sent`.
async fn announcing(server: &Server, service: &str, len: usize, sent: usize) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    server
        .register(super::support::node(service, "a", listener.local_addr().unwrap().port()))
        .await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4_096];
                let _len = stream.read(&mut request).await.unwrap();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                let part = vec![b'x'; 64 * 1_024];
                let mut left = sent;
                while left > 0 {
                    let part = &part[..left.min(part.len())];
                    stream.write_all(part).await.unwrap();
                    left -= part.len();
                }
                // It stays open until the node closes it.
                let _end = stream.read(&mut request).await;
            });
        }
    });
}

/// A length that an instance announces does not count against the limits of the node.
#[tokio::test(flavor = "multi_thread")]
async fn an_instances_answer_of_any_length_passes_and_announced_lengths_refuse_nobody() {
    let server = Server::start().await;
    let len = 65 * 1_024 * 1_024;
    announcing(&server, "long", len, len).await;
    announcing(&server, "tarpit", 67_000_000, 1).await;
    announcing(&server, "other", 100_000, 100_000).await;
    let proxied = |service: &str| server.get(&format!("/api/maxine/serviceops/proxy/{service}/x"));
    let mut silent = Vec::new();
    for _ in 0..8 {
        let answer = proxied("tarpit").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        silent.push(answer);
    }
    let other = proxied("other").send().await.unwrap();
    assert_eq!(other.status(), 200);
    assert_eq!(other.bytes().await.unwrap().len(), 100_000);
    let mut long = proxied("long").send().await.unwrap();
    assert_eq!(long.status(), 200);
    let mut taken = 0;
    while let Some(part) = long.chunk().await.unwrap() {
        taken += part.len();
    }
    assert_eq!(taken, len);
}

/// Interim answers of an instance may set as little for the node's origin as its final answers.
#[tokio::test(flavor = "multi_thread")]
async fn an_instances_interim_answers_set_no_session_and_speak_for_no_origin() {
    let server = Server::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    server
        .register(super::support::node("hints", "a", listener.local_addr().unwrap().port()))
        .await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _len = stream.read(&mut [0; 4_096]).await.unwrap();
        let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nset-cookie: maxine_session=x; Path=/api\r\n\
                    set-cookie: own=1\r\nclear-site-data: \"*\"\r\ncontent-length: 100\r\nx-maxine-index: 5\r\n\r\n";
        stream.write_all(hint.as_bytes()).await.unwrap();
        // The answer comes only once the hint has arrived.
        let _end = stream.read(&mut [0; 1]).await;
    });
    let mut client = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let request = "GET /api/maxine/serviceops/proxy/hints/x HTTP/1.1\r\nhost: h\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(client.read_u8().await.unwrap());
    }
    let seen = String::from_utf8(seen).unwrap();
    assert_eq!(seen, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
}
