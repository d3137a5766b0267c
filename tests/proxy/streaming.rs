//! Bodies, framings and upgrades that the proxy forwards unchanged.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::HeaderMap;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

const MIB: u64 = 1024 * 1024;
/// Number of bytes in each direction. It is much more than all buffers in between.
const BIG_LEN: u64 = 1_024 * MIB;
/// Maximum growth of the process in that time, in bytes. The process includes both ends.
const GROWTH_MAX: u64 = 48 * MIB;

fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn zeros(len: u64) -> Body {
    let chunk = Bytes::from(vec![7_u8; 64 * 1024]);
    let chunks = len / chunk.len() as u64;
    let frames =
        futures::stream::iter((0..chunks).map(move |_| Ok::<_, Infallible>(chunk.clone())));
    Body::from_stream(frames)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_each_way_passes_in_bounded_memory() {
    let rig = Rig::new().await;
    let upstream = Upstream::http(|request: Request<hyper::body::Incoming>| async move {
        let mut received = 0_u64;
        let mut body = request.into_body().into_data_stream();
        while let Some(chunk) = body.next().await {
            received += chunk.unwrap().len() as u64;
        }
        assert_eq!(received, BIG_LEN);
        Response::new(zeros(BIG_LEN))
    })
    .await;
    rig.register("a", upstream.address).await;
    let stream = TcpStream::connect(rig.front).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let _driver = Abort(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let before = rss();
    let request = Request::post("/up").header("host", "front").body(zeros(BIG_LEN)).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let (mut received, mut peak) = (0_u64, rss());
    let mut body = response.into_body().into_data_stream();
    let mut chunks = 0_u32;
    while let Some(chunk) = body.next().await {
        received += chunk.unwrap().len() as u64;
        chunks += 1;
        if chunks.is_multiple_of(512) {
            peak = peak.max(rss());
        }
    }
    assert_eq!(received, BIG_LEN);
    assert!(peak.saturating_sub(before) < GROWTH_MAX, "grew by {} MiB", (peak - before) / MIB);
}

#[tokio::test]
async fn a_slow_reader_holds_the_upstream_back() {
    let rig = Rig::new().await;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&sent);
    let upstream = Upstream::raw(move |mut stream| {
        let counted = std::sync::Arc::clone(&counted);
        async move {
            read_head(&mut stream).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG_LEN}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let chunk = vec![1_u8; 64 * 1024];
            while stream.write_all(&chunk).await.is_ok() {
                counted.fetch_add(chunk.len() as u64, std::sync::atomic::Ordering::SeqCst);
            }
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    let mut client = TcpStream::connect(rig.front).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_head(&mut client).await.unwrap();
    // Wait until the upstream makes no more progress.
    let mut last = u64::MAX;
    while last != sent.load(std::sync::atomic::Ordering::SeqCst) {
        last = sent.load(std::sync::atomic::Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(last < 32 * MIB, "{} MiB left the upstream though nobody read", last / MIB);
}

#[tokio::test]
async fn head_204_and_304_keep_their_headers_and_have_no_body() {
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            let answer = if head.starts_with("HEAD") {
                "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nContent-Encoding: gzip\r\n\r\n"
            } else if head.contains("/204") {
                "HTTP/1.1 204 No Content\r\nX-Kept: 1\r\n\r\n"
            } else {
                "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    let answer = rig.raw("HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("content-length: 1234"), "{answer}");
    assert!(answer.contains("content-encoding: gzip"), "{answer}");
    assert_eq!(body_of(&answer), "");
    let answer = rig.get("/204").await;
    assert!(answer.starts_with("HTTP/1.1 204") && answer.contains("x-kept: 1"), "{answer}");
    let answer = rig.get("/304").await;
    assert!(answer.starts_with("HTTP/1.1 304") && answer.contains("etag: \"a\""), "{answer}");
    assert_eq!(upstream.connections(), 1, "one connection served all three");
}

#[tokio::test]
async fn chunked_and_length_framings_and_close_delimited_bodies_pass() {
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        let answer = if head.contains("/chunked") {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        } else if head.contains("/length") {
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"
        } else {
            "HTTP/1.0 200 OK\r\n\r\nabcde"
        };
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    rig.register("a", upstream.address).await;
    let answer = rig.get("/chunked").await;
    assert!(answer.contains("transfer-encoding: chunked"), "{answer}");
    assert!(body_of(&answer).contains("abc"), "{answer}");
    let answer = rig.get("/length").await;
    assert!(answer.contains("content-length: 5") && body_of(&answer) == "abcde", "{answer}");
    assert!(rig.get("/close").await.contains("abcde"));
}

#[tokio::test]
async fn trailers_pass_both_ways_where_the_client_takes_them() {
    let rig = Rig::new().await;
    let upstream = Upstream::http(|request: Request<hyper::body::Incoming>| async move {
        let collected = request.into_body().collect().await.unwrap();
        let sum = collected.trailers().and_then(|t| t.get("x-sum")).cloned();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-echo", sum.unwrap_or_else(|| "none".parse().unwrap()));
        let frames = vec![
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"data"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = Body::new(StreamBody::new(futures::stream::iter(frames)));
        Response::builder().header("trailer", "x-echo").body(body).unwrap()
    })
    .await;
    rig.register("a", upstream.address).await;
    let answer = rig
        .raw(
            "POST / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: te, close\r\n\
             Trailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 42\r\n\r\n",
        )
        .await;
    assert!(answer.contains("x-echo: 42"), "{answer}");
}

#[tokio::test]
async fn grpc_with_trailers_passes_over_http2() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"protocol":"http2"}}"#).await;
    let upstream = Upstream::http(|request: Request<hyper::body::Incoming>| async move {
        assert_eq!(request.version(), hyper::Version::HTTP_2);
        assert_eq!(request.headers()["te"], "trailers");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = vec![Ok::<_, Infallible>(Frame::data(body)), Ok(Frame::trailers(trailers))];
        let body = Body::new(StreamBody::new(futures::stream::iter(frames)));
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    })
    .await;
    rig.register("a", upstream.address).await;
    let stream = TcpStream::connect(rig.front).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let _driver = Abort(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let calls = (0..20).map(|n| {
        let mut sender = sender.clone();
        async move {
            let body = Body::from(format!("message-{n}"));
            let request = Request::post("http://front/pkg.Svc/Call")
                .header("te", "trailers")
                .header("content-type", "application/grpc")
                .body(body)
                .unwrap();
            let collected = sender.send_request(request).await.unwrap().collect().await.unwrap();
            assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(collected.to_bytes(), format!("message-{n}"));
        }
    });
    futures::future::join_all(calls).await;
    assert_eq!(upstream.connections(), 1, "one http/2 connection carries all calls");
}

#[tokio::test]
async fn a_websocket_upgrade_becomes_a_tunnel_and_counts_as_in_flight() {
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap().to_ascii_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"));
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                      Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut buffer = [0; 64];
        while let Ok(n) = stream.read(&mut buffer).await {
            if n == 0 || stream.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    let mut client = TcpStream::connect(rig.front).await.unwrap();
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut client).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("sec-websocket-accept: x") && head.contains("upgrade: websocket"));
    for message in ["one", "two"] {
        client.write_all(message.as_bytes()).await.unwrap();
        let mut echoed = [0; 3];
        client.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, message.as_bytes());
    }
    assert_eq!(rig.forwarder.in_flight(&rig.key("a")), 1);
    drop(client);
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 0).await;
}

#[tokio::test]
async fn an_offer_of_h2c_is_left_unanswered() {
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap().to_ascii_lowercase();
        assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    rig.register("a", upstream.address).await;
    let answer = rig
        .raw(
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
}

#[tokio::test]
async fn expect_continue_waits_for_the_upstreams_word() {
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap().to_ascii_lowercase();
        assert!(head.contains("expect: 100-continue"), "{head}");
        if head.contains("/refuse") {
            let answer = "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\
                          Connection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            return;
        }
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 4];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"body");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    rig.register("a", upstream.address).await;
    let head = |path: &str| {
        format!(
            "PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let mut client = TcpStream::connect(rig.front).await.unwrap();
    client.write_all(head("/take").as_bytes()).await.unwrap();
    let interim = read_head(&mut client).await.unwrap();
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    client.write_all(b"body").await.unwrap();
    assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 200"));
    let refused = rig.raw(head("/refuse")).await;
    assert!(refused.starts_with("HTTP/1.1 417"), "no 100 before a refusal: {refused}");
}

#[tokio::test]
async fn interim_responses_are_passed_on_and_not_taken_for_the_answer() {
    let rig = Rig::new().await;
    let go_on = std::sync::Arc::new(tokio::sync::Notify::new());
    let upstream = {
        let go_on = std::sync::Arc::clone(&go_on);
        Upstream::raw(move |mut stream| {
            let go_on = std::sync::Arc::clone(&go_on);
            async move {
                while read_head(&mut stream).await.is_some() {
                    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-own\r\nX-Own: 1\r\n\r\n";
                    stream.write_all(hint.as_bytes()).await.unwrap();
                    // The answer comes only when the client has seen the hint.
                    go_on.notified().await;
                    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        })
        .await
    };
    rig.register("a", upstream.address).await;
    let mut client = TcpStream::connect(rig.front).await.unwrap();
    for _ in 0..3 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let hint = read_head(&mut client).await.unwrap();
        assert_eq!(hint, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        go_on.notify_one();
        let head = read_head(&mut client).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let mut body = [0; 2];
        client.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"ok");
    }
    // HTTP/1.0 has no interim answers.
    go_on.notify_one();
    let answer = rig.raw("GET / HTTP/1.0\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn headers_query_cookies_and_encoded_bodies_stay_as_they_are() {
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        let first = head.lines().next().unwrap();
        assert_eq!(first, "GET /base/a%2Fb//c?x=1&x=2&y HTTP/1.1");
        let lower = head.to_ascii_lowercase();
        assert!(lower.contains("x-trace-id: trace-1"), "{head}");
        assert!(!lower.contains("x-secret"), "named by connection: {head}");
        assert!(lower.contains("x-forwarded-for: 127.0.0.1"), "{head}");
        assert!(!lower.contains("\r\nhost: front"), "{head}");
        let answer = "HTTP/1.1 301 Moved\r\nLocation: /there\r\nSet-Cookie: a=1\r\n\
                      Set-Cookie: b=2\r\nKeep-Alive: timeout=9\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    rig.register_with("a", &format!("http://{}/base", upstream.address), |_| {}).await;
    let headers = "X-Trace-Id: mine\r\nX-Secret: 1\r\nConnection: x-secret\r\n\
                   X-Forwarded-For: 6.6.6.6\r\n";
    let answer = rig.get_with("/a%2Fb//c?x=1&x=2&y", headers).await;
    assert!(answer.starts_with("HTTP/1.1 301") && answer.contains("location: /there"), "{answer}");
    assert!(answer.contains("set-cookie: a=1") && answer.contains("set-cookie: b=2"), "{answer}");
    assert!(!answer.contains("keep-alive"), "{answer}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_with_either_framing() {
    let rig = Rig::with(RigOptions { body_len_max: Some(1_000), ..Default::default() }).await;
    let upstream = Upstream::http(|request: Request<hyper::body::Incoming>| async move {
        let _ = request.into_body().collect().await;
        Response::new(Body::from("ok"))
    })
    .await;
    rig.register("a", upstream.address).await;
    let answer = rig.raw("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("x-maxine-error: body_too_large"), "{answer}");
    let chunk = "a".repeat(0x258);
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n258\r\n{chunk}\r\n258\r\n{chunk}\r\n0\r\n\r\n"
    );
    let answer = rig.raw(chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let exact =
        format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{}", "b".repeat(1_000));
    assert!(rig.raw(exact).await.starts_with("HTTP/1.1 200"));
}

/// Waits for a condition, at most five seconds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the condition did not come about in 5 s");
}

/// Writes `len` bytes in small parts.
async fn write_many(stream: &mut (impl AsyncWriteExt + Unpin), len: usize) {
    let part = vec![b'a'; 64 * 1024];
    for _ in 0..len / part.len() {
        stream.write_all(&part).await.unwrap();
    }
}

/// Reads up to `len` bytes and drops them. Returns how many it read.
async fn read_many(stream: &mut (impl AsyncReadExt + Unpin), len: usize) -> usize {
    let mut part = vec![0; 64 * 1024];
    let mut read = 0;
    while read < len {
        match stream.read(&mut part).await.unwrap() {
            0 => break,
            more => read += more,
        }
    }
    read
}

/// An instance that answers while the request arrives, to a client that reads nothing until it has sent everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_answers_early_gets_the_whole_request_though_the_client_reads_later() {
    const LEN: usize = 8 * 1024 * 1024;
    let rig = Rig::new().await;
    let upstream = Upstream::raw(|mut stream| async move {
        if read_head(&mut stream).await.is_none() {
            return;
        }
        let (mut read, mut write) = stream.into_split();
        let answering = tokio::spawn(async move {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n");
            write.write_all(head.as_bytes()).await.unwrap();
            write_many(&mut write, LEN).await;
            write
        });
        assert_eq!(read_many(&mut read, LEN).await, LEN);
        drop(answering.await);
    })
    .await;
    rig.register("a", upstream.address).await;
    let mut client = TcpStream::connect(rig.front).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {LEN}\r\n\r\n");
    let within = Duration::from_secs(20);
    let sent = tokio::time::timeout(within, async {
        client.write_all(head.as_bytes()).await.unwrap();
        write_many(&mut client, LEN).await;
    });
    sent.await.expect("the request does not wait for the answer to be read");
    let head = tokio::time::timeout(within, read_head(&mut client)).await.unwrap().unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let read = tokio::time::timeout(within, read_many(&mut client, LEN)).await;
    assert_eq!(read, Ok(LEN), "the answer is read to its end");
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 0).await;
}
