//! Answers that no server should give, and requests that no client should send. In every case the client gets
//! one well-formed answer or a closed connection, and the next request is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use hyper::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;
use crate::streaming::until;

/// An instance that answers once with `first`, and correctly from then on. It closes the connection after
/// each answer.
async fn misbehaves_once(first: Vec<u8>) -> Upstream {
    let done = Arc::new(AtomicBool::new(false));
    Upstream::raw(move |mut stream| {
        let (first, done) = (first.clone(), Arc::clone(&done));
        async move {
            if read_head(&mut stream).await.is_none() {
                return;
            }
            let good = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood".to_vec();
            let answer = if done.swap(true, Ordering::SeqCst) { good } else { first };
            let _ = stream.write_all(&answer).await;
        }
    })
    .await
}

async fn answers_after(first: &[u8]) -> (String, String) {
    let rig = Rig::new().await;
    let upstream = misbehaves_once(first.to_vec()).await;
    rig.register("a", upstream.address).await;
    (rig.get("/one").await, rig.get("/two").await)
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_502_and_the_next_request_is_served() {
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let huge = format!("x-big: {}\r\n", "a".repeat(80 * 1024));
    let heads = [
        "HTTP/1.1 abc OK\r\n\r\n".to_owned(),
        "HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n".into(),
        "HTTP/3.7 200 OK\r\nContent-Length: 0\r\n\r\n".into(),
        // HTTP/0.9: a body without any head.
        "<html>an answer of 1991</html>\r\n".into(),
        // The first bytes of a TLS alert.
        "\u{15}\u{3}\u{1}\0\u{2}\u{2}F".into(),
        "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n".into(),
        format!("HTTP/1.1 200 OK\r\n{many}\r\n"),
        format!("HTTP/1.1 200 OK\r\n{huge}\r\n"),
        // Two lengths that differ, and invalid lengths.
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd".into(),
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n".into(),
    ];
    for head in heads {
        let (bad, good) = answers_after(head.as_bytes()).await;
        let shown: String = head.chars().take(60).collect();
        assert_eq!(status_of(&bad), 502, "{shown:?}: {bad}");
        assert!(bad.contains("x-maxine-error: "), "{shown:?}: {bad}");
        assert_eq!(body_of(&good), "good", "{shown:?}: {good}");
    }
}

#[tokio::test]
async fn a_body_with_broken_framing_is_cut_off_and_never_taken_for_whole() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for rest in [
        // Ends within a chunk, lacks the last chunk, has an invalid size, or has too many bytes.
        "8\r\nabc",
        "3\r\nabc\r\n",
        "zz\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nabc",
        "-3\r\nabc\r\n0\r\n\r\n",
    ] {
        let (bad, good) = answers_after(format!("{chunked}{rest}").as_bytes()).await;
        assert!(!bad.ends_with("0\r\n\r\n"), "{rest:?} was passed on as if it were whole: {bad}");
        assert_eq!(body_of(&good), "good", "{rest:?}: {good}");
    }
}

#[tokio::test]
async fn what_follows_an_answer_is_never_taken_for_the_next_one() {
    let rig = Rig::new().await;
    // One answer is directly followed by a second one, on a connection that stays open.
    let upstream = Upstream::raw(|mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            let glued = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrueHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfalse";
            let plain = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue";
            let answer = if head.contains("/glued") { glued } else { plain };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    for _ in 0..20 {
        for path in ["/glued", "/plain"] {
            let answer = rig.get(path).await;
            assert!(status_of(&answer) == 502 || body_of(&answer) == "true", "{path}: {answer}");
            assert!(!answer.contains("false"), "{path}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_field_cannot_split_the_answer() {
    // A folded line and a bare CR in a value: refused, or passed on as one field.
    for value in ["a\r\n Set-Cookie: evil=1", "a\rSet-Cookie: evil=1"] {
        let head = format!("HTTP/1.1 200 OK\r\nx-value: {value}\r\nContent-Length: 2\r\n\r\nok");
        let (answer, _) = answers_after(head.as_bytes()).await;
        let injected =
            answer.lines().any(|line| line.to_ascii_lowercase().starts_with("set-cookie"));
        assert!(!injected, "{value:?}: {answer}");
    }
}

#[tokio::test]
async fn an_instance_that_resets_within_its_body_is_cut_off() {
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        if read_head(&mut stream).await.is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
            stream.set_zero_linger().unwrap();
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    let answer = rig.get("/").await;
    assert!(status_of(&answer) == 502 || body_of(&answer).len() < 9, "{answer}");
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 0).await;
}

#[tokio::test]
async fn one_that_speaks_tls_where_plain_http_is_asked_is_502() {
    let rig = Rig::new().await;
    // A TLS server answers a plain request with an alert and closes.
    let upstream = Upstream::raw(|mut stream| async move {
        let mut buffer = [0; 1024];
        let _ = stream.read(&mut buffer).await;
        let _ = stream.write_all(&[0x15, 3, 3, 0, 2, 2, 70]).await;
    })
    .await;
    rig.register("a", upstream.address).await;
    let answer = rig.get("/").await;
    assert_eq!(status_of(&answer), 502, "{answer}");
}

#[tokio::test]
async fn a_head_that_dribbles_in_is_bounded_by_the_response_time() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"timeouts":{"response_ms":300}}}"#).await;
    let upstream = Upstream::raw(|mut stream| async move {
        if read_head(&mut stream).await.is_none() {
            return;
        }
        for byte in b"HTTP/1.1 200 OK\r\nx-slow: ".iter().chain(std::iter::repeat(&b'a')) {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    let answer = rig.get("/").await;
    assert_eq!(status_of(&answer), 504, "{answer}");
    assert!(answer.contains("x-maxine-error: response_timeout"), "{answer}");
}

#[tokio::test]
async fn hostile_requests_get_one_answer_and_nothing_of_theirs_is_smuggled() {
    let rig = Rig::new().await;
    let smuggled = Arc::new(AtomicUsize::new(0));
    let upstream = {
        let smuggled = Arc::clone(&smuggled);
        Upstream::http(move |request: hyper::Request<hyper::body::Incoming>| {
            let smuggled = Arc::clone(&smuggled);
            async move {
                if request.uri().path() == "/smuggled" {
                    smuggled.fetch_add(1, Ordering::SeqCst);
                }
                let secret = request.headers().contains_key("x-secret");
                let _ = http_body_util::BodyExt::collect(request.into_body()).await;
                Response::new(Body::from(if secret { "secret" } else { "ok" }))
            }
        })
        .await
    };
    rig.register("a", upstream.address).await;
    let inner = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let uri = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70_000));
    let shapes: Vec<String> = vec![
        // Framings that one parser may see and another not.
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{inner}"
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{inner}"
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n{inner}"
        ),
        format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\n{inner}"),
        format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n{inner}"),
        // No host, two hosts that differ, no version.
        "GET /\r\n\r\n".into(),
        uri,
        // Methods that are invalid, or not forwarded.
        "GE T / HTTP/1.1\r\nHost: x\r\n\r\n".into(),
        "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n".into(),
        "TRACE / HTTP/1.1\r\nHost: x\r\n\r\n".into(),
    ];
    for shape in &shapes {
        let answer = rig.raw(shape).await;
        let shown: String = shape.chars().take(70).collect();
        assert!(!answer.contains("HTTP/1.1 200"), "{shown:?}: {answer}");
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{shown:?}: {answer}");
    }
    assert_eq!(smuggled.load(Ordering::SeqCst), 0);
    // A field that the client names in `Connection` is not forwarded.
    let named = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close, x-secret\r\nX-Secret: 1\r\n\r\n";
    assert_eq!(body_of(&rig.raw(named).await), "ok");
    // Only the path of an absolute target is used. Its host is ignored.
    let absolute =
        "GET http://elsewhere.invalid/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(body_of(&rig.raw(absolute).await), "ok");
}

#[tokio::test]
async fn a_request_that_comes_round_to_maxine_again_is_508() {
    let rig = Rig::new().await;
    // The instance has the proxy's own address, so every hop is another request to the proxy.
    rig.register("a", rig.front).await;
    let answer = rig.get("/").await;
    assert_eq!(status_of(&answer), 508, "{answer}");
    // The last hop made the answer. For the first hop it is the answer of an instance, which must not set
    // Maxine's fields.
    assert!(!answer.contains("x-maxine-error"), "{answer}");
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 0).await;
}

#[tokio::test]
async fn an_early_answer_ends_the_upload_and_frees_the_connection() {
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        if read_head(&mut stream).await.is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            // The upstream reads nothing of the body and closes the connection.
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    let mut client = TcpStream::connect(rig.front).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&[b'a'; 1000]).await.unwrap();
    let answer = read_quiet(&mut client, Duration::from_secs(2)).await;
    let status = status_of(&answer);
    assert!(status == 200 || status == 502, "{answer}");
    drop(client);
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 0).await;
}

#[tokio::test]
async fn an_instance_that_sends_interim_answers_without_end_is_502() {
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        if read_head(&mut stream).await.is_some() {
            let many = "HTTP/1.1 102 Processing\r\n\r\n".repeat(1_000);
            while stream.write_all(many.as_bytes()).await.is_ok() {}
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    let answer = rig.get("/").await;
    assert!(answer.contains("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("x-maxine-error: bad_response"), "{answer}");
}
