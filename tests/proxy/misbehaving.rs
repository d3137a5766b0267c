//! What the client sees of upstreams that refuse, reset, hang, send false lengths, are slow, or answer early
//! or never.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use hyper::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;
use crate::streaming::until;

fn assert_error(answer: &str, status: u16, code: &str) {
    assert_eq!(status_of(answer), status, "{answer}");
    assert!(answer.contains(&format!("x-maxine-error: {code}\r\n")), "{answer}");
    assert!(answer.contains("x-maxine-attempts: "), "{answer}");
    assert!(body_of(answer).starts_with("{\"message\":\""), "{answer}");
}

/// Closes with a reset instead of an end.
fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

#[tokio::test]
async fn no_instance_is_503() {
    let rig = Rig::new().await;
    assert_error(&rig.get("/").await, 503, "no_instance");
}

#[tokio::test]
async fn one_that_refuses_is_502() {
    let rig = Rig::new().await;
    let dead = Upstream::named("x").await.kill().await;
    rig.register("a", dead).await;
    assert_error(&rig.get("/").await, 502, "connect_failed");
    rig.register_with("a", "http://no-such-host.invalid:80", |_| {}).await;
    assert_error(&rig.get("/").await, 502, "resolve_failed");
}

#[tokio::test]
async fn one_that_resets_before_or_instead_of_an_answer_is_502() {
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        if head.contains("/half") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le").await.unwrap();
        }
        if head.contains("/garbage") {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await.unwrap();
            return;
        }
        reset(stream);
    })
    .await;
    rig.register("a", upstream.address).await;
    assert_error(&rig.get("/").await, 502, "upstream_reset");
    assert_error(&rig.get("/half").await, 502, "upstream_reset");
    assert_error(&rig.get("/garbage").await, 502, "bad_response");
}

#[tokio::test]
async fn one_that_never_answers_is_504_after_the_time_set() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"timeouts":{"response_ms":200}}}"#).await;
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    rig.register("a", upstream.address).await;
    let started = Instant::now();
    assert_error(&rig.get("/").await, 504, "response_timeout");
    let took = started.elapsed();
    assert!((200..1_500).contains(&took.as_millis()), "{took:?}");
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 0).await;
}

#[tokio::test]
async fn one_that_stalls_within_its_body_is_cut_off_and_freed() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"timeouts":{"idle_ms":200}}}"#).await;
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    rig.register("a", upstream.address).await;
    let started = Instant::now();
    let answer = rig.get("/").await;
    assert!(answer.ends_with("half"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(2), "the connection is closed, not left open");
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 0).await;
}

#[tokio::test]
async fn one_that_lies_about_its_length_spoils_no_other_answer() {
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            let answer = if head.contains("/short") {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort").await.unwrap();
                return;
            } else if head.contains("/long") {
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
            } else if head.contains("/both") {
                "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
            };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    let short = rig.get("/short").await;
    assert!(short.contains("content-length: 10") && short.ends_with("short"), "{short}");
    let long = rig.get("/long").await;
    assert_eq!(body_of(&long), "ok");
    for _ in 0..3 {
        assert_eq!(body_of(&rig.get("/next").await), "right", "nothing is left over");
    }
    let both = rig.get("/both").await;
    assert!(!both.contains("content-length"), "{both}");
    assert!(body_of(&both).contains("ok"), "{both}");
}

#[tokio::test]
async fn one_that_answers_slowly_in_pieces_is_waited_for() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"timeouts":{"idle_ms":2000,"response_ms":5000}}}"#).await;
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow" {
            stream.write_all(&[*byte]).await.unwrap();
            stream.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(8)).await;
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    assert_eq!(body_of(&rig.get("/").await), "slow");
    rig.policy(r#"{"traffic":{"timeouts":{"total_ms":100}}}"#).await;
    assert_error(&rig.get("/").await, 504, "total_timeout");
}

#[tokio::test]
async fn one_that_answers_before_the_body_is_through_is_heard() {
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let answer =
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut sink = [0; 4096];
        while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    rig.register("a", upstream.address).await;
    let mut client = TcpStream::connect(rig.front).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&[b'a'; 1000]).await.unwrap();
    let answer = read_quiet(&mut client, Duration::from_secs(2)).await;
    assert_eq!(status_of(&answer), 401, "{answer}");
    assert_eq!(body_of(&answer), "no");
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 0).await;
}

#[tokio::test]
async fn a_client_that_stops_sending_is_told_408_and_the_instance_is_not_blamed() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"timeouts":{"idle_ms":200,"response_ms":100}}}"#).await;
    let upstream = Upstream::http(|request: hyper::Request<hyper::body::Incoming>| async move {
        let _ = http_body_util::BodyExt::collect(request.into_body()).await;
        Response::new(Body::from("ok"))
    })
    .await;
    rig.register("a", upstream.address).await;
    let answer = rig.raw("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").await;
    assert_error(&answer, 408, "client_timeout");
    let status = rig.forwarder.upstreams(service().as_ref()).remove(0);
    assert_eq!((status.bad_total, status.in_flight), (0, 0));
}

#[tokio::test]
async fn a_client_that_goes_away_frees_everything() {
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    rig.register("a", upstream.address).await;
    let mut client = TcpStream::connect(rig.front).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 1).await;
    drop(client);
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 0).await;
}

#[tokio::test]
async fn a_pooled_connection_that_was_closed_meanwhile_costs_no_request() {
    let rig = Rig::new().await;
    // The upstream answers one request per connection, and closes it without announcing that.
    let upstream = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer.as_bytes()).await.unwrap();
        // The proxy sends its next request on this connection before it notices the end.
        read_head(&mut stream).await;
        reset(stream);
    })
    .await;
    rig.register("a", upstream.address).await;
    for _ in 0..20 {
        assert_eq!(status_of(&rig.get("/").await), 200);
    }
}

#[tokio::test]
async fn paths_never_leave_the_base_and_broken_ones_are_400() {
    let rig = Rig::new().await;
    let upstream = Upstream::http(|request: hyper::Request<hyper::body::Incoming>| async move {
        Response::new(Body::from(request.uri().path().to_owned()))
    })
    .await;
    rig.register_with("a", &format!("http://{}/base", upstream.address), |_| {}).await;
    for path in ["/../../x", "/%2e%2e/x", "/a/../../x"] {
        assert_eq!(body_of(&rig.get(path).await), "/base/x", "{path}");
    }
    for path in ["/..%2fx", "/..%5cx", "/%zz", "/..;/x"] {
        assert_error(&rig.get(path).await, 400, "bad_path");
    }
}

#[tokio::test]
async fn smuggling_shapes_are_refused_or_made_harmless() {
    let rig = Rig::new().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let upstream = Upstream::http(move |request: hyper::Request<hyper::body::Incoming>| {
        let counted = Arc::clone(&counted);
        async move {
            assert_ne!(request.uri().path(), "/smuggled");
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = http_body_util::BodyExt::collect(request.into_body()).await;
            Response::new(Body::from("ok"))
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    let inner = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let refused = [
        // Two lengths.
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"
            .to_owned(),
        // An invalid length.
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nabcde".into(),
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5x\r\n\r\nabcde".into(),
        // Chunked is not last.
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}"
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}"
        ),
        // HTTP/1.0 has no chunks.
        format!("POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        // A space before the colon, a folded line, a bare CR, a NUL.
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}"
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nX: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
        ),
        "GET / HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n".into(),
        // Both framings.
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
            inner.len() + 5
        ),
        // A chunk size that overflows.
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1ffffffffffffffff0\r\n{inner}"
        ),
    ];
    for request in &refused {
        let answer = rig.raw(request).await;
        let status = status_of(&answer);
        assert!(answer.is_empty() || (400..600).contains(&status), "{request:?}: {answer}");
        assert!(!answer.contains("HTTP/1.1 200"), "{request:?}: {answer}");
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0, "nothing of these reached the instance whole");
}

#[tokio::test]
async fn what_the_egress_policy_denies_is_not_connected_to() {
    let rig = Rig::new().await;
    rig.register_with("a", "http://169.254.169.254", |_| {}).await;
    assert_error(&rig.get("/latest/meta-data").await, 502, "egress_denied");
}
