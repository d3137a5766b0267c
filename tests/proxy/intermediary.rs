//! Requirements of the RFCs for intermediaries, checked with an instance that records what it receives.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use axum::body::Body;
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use maxine_gateway::ForwardContext;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

/// Answers each request on a connection with the unchanged bytes of its head and its body.
async fn recording() -> Upstream {
    Upstream::raw(|mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            let lower = head.to_ascii_lowercase();
            let mut body = Vec::new();
            if lower.contains("transfer-encoding: chunked") {
                while !body.ends_with(b"0\r\n\r\n") {
                    body.push(stream.read_u8().await.unwrap());
                }
            } else if let Some((_, rest)) = lower.split_once("content-length: ") {
                let len: usize = rest.split("\r\n").next().unwrap().parse().unwrap();
                body.resize(len, 0);
                stream.read_exact(&mut body).await.unwrap();
            }
            let seen = head.into_bytes().into_iter().chain(body).collect::<Vec<u8>>();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", seen.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.write_all(&seen).await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn a_body_reaches_the_instance_whatever_the_method() {
    let rig = Rig::new().await;
    let upstream = recording().await;
    rig.register("a", upstream.address).await;
    for method in ["GET", "DELETE", "OPTIONS", "POST"] {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        let seen = rig.raw(&request).await;
        assert!(body_of(&seen).contains("transfer-encoding: chunked\r\n"), "{seen}");
        assert!(seen.contains("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "{method}: {seen}");
        let request = format!("{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
        let seen = rig.raw(&request).await;
        assert!(body_of(&seen).contains("content-length: 5\r\n"), "{method}: {seen}");
        assert!(seen.ends_with("\r\n\r\nhello"), "{method}: {seen}");
    }
    // A policy that keeps bodies does not change the framing of a body that is too long to keep.
    rig.policy(r#"{"traffic":{"retries":{"methods":["PUT"],"body_len_max":4}}}"#).await;
    let long = "x".repeat(20_000);
    let put = format!("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{long}", long.len());
    assert!(rig.raw(&put).await.contains("content-length: 20000\r\n"));
}

#[tokio::test]
async fn an_empty_body_is_announced_where_the_client_does_or_the_method_expects_one() {
    let rig = Rig::new().await;
    let upstream = recording().await;
    rig.register("a", upstream.address).await;
    let sent = async |method: &str, field: &str| {
        let answer = rig.raw(format!("{method} / HTTP/1.1\r\nHost: x\r\n{field}\r\n")).await;
        body_of(&answer).to_owned()
    };
    assert!(sent("POST", "Content-Length: 0\r\n").await.contains("content-length: 0\r\n"));
    assert!(sent("POST", "").await.contains("content-length: 0\r\n"));
    assert!(sent("DELETE", "Content-Length: 0\r\n").await.contains("content-length: 0\r\n"));
    assert!(!sent("GET", "").await.contains("content-length"));
}

#[tokio::test]
async fn a_request_says_that_it_came_through_a_gateway() {
    let rig = Rig::new().await;
    let upstream = recording().await;
    rig.register("a", upstream.address).await;
    assert!(rig.get("/").await.contains("\r\nvia: 1.1 maxine\r\n"));
    let chained = rig.get_with("/", "Via: 1.0 front.example\r\n").await;
    let both = "\r\nvia: 1.0 front.example\r\nvia: 1.1 maxine\r\n";
    assert!(chained.contains(both), "{chained}");
}

#[tokio::test]
async fn cookie_fields_of_http2_clients_are_joined() {
    let rig = Rig::new().await;
    let upstream = recording().await;
    rig.register("a", upstream.address).await;
    let stream = TcpStream::connect(rig.front).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let _driver = Abort(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let request = Request::get(format!("http://{}/", rig.front))
        .header("cookie", "a=1")
        .header("cookie", "b=2; c=3")
        .header("cookie", "d=4")
        .body(Body::empty())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let seen = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("\r\ncookie: a=1; b=2; c=3; d=4\r\n"), "{seen}");
    assert_eq!(seen.matches("cookie:").count(), 1, "{seen}");
}

fn context() -> ForwardContext {
    ForwardContext {
        service: service(),
        raw_path: "/".into(),
        raw_query: None,
        prefix: None,
        client: maxine_gateway::ClientAddr::direct(maxine_gateway::Peer::plain(
            [127, 0, 0, 1].into(),
        )),
        caller_class: maxine_admission::CallerClass::Stranger,
        body_len_max: None,
        trace: Vec::new(),
        span: None,
        keep_trailer: false,
        interim: None,
    }
}

/// An instance that leaves each connection here once it has answered one request on it.
async fn leaving_connections() -> (Upstream, Arc<Mutex<Vec<TcpStream>>>) {
    let left = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&left);
    let upstream = Upstream::raw(move |mut stream| {
        let kept = Arc::clone(&kept);
        async move {
            let head = read_head(&mut stream).await.unwrap();
            if head.starts_with("POST") {
                let mut body = [0; 5];
                stream.read_exact(&mut body).await.unwrap();
                assert_eq!(&body, b"order");
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
            kept.lock().unwrap().push(stream);
        }
    })
    .await;
    (upstream, left)
}

/// The instance closes the pooled connection at the moment at which the next request arrives. Nothing of the
/// request was sent, so it is sent on a new connection, even if it is a `POST`.
#[tokio::test]
async fn a_request_that_crosses_the_closing_of_its_connection_goes_out_on_a_new_one() {
    let rig = Rig::new().await;
    let (upstream, left) = leaving_connections().await;
    rig.register("a", upstream.address).await;
    for turn in 0..20 {
        // All tasks share one thread, so the proxy notices the end only after it has begun to send the
        // request.
        left.lock().unwrap().clear();
        let request = Request::post("/").body(Body::from("order")).unwrap();
        let answer = rig.forwarder.forward(context(), request).await;
        assert_eq!(answer.response.status(), 200, "turn {turn}: {:?}", answer.error);
        assert_eq!(answer.attempts, 1);
        let body = axum::body::to_bytes(answer.response.into_body(), 100).await.unwrap();
        assert_eq!(&body[..], b"ok");
        // The connection is back in the pool once its own task has seen the answer's end.
        let settled = || rig.forwarder.upstreams(service().as_ref())[0].idle_connections == 1;
        crate::streaming::until(settled).await;
    }
    assert_eq!(upstream.connections(), 20, "each closed one costs a new one and no request");
}

/// An instance that accepts a request and closes the connection without an answer may have processed it. So a
/// `POST` is not sent twice.
#[tokio::test]
async fn a_post_that_went_out_is_not_sent_again() {
    let rig = Rig::new().await;
    let seen = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let upstream = Upstream::raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            read_head(&mut stream).await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
            if read_head(&mut stream).await.is_some() {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    assert_eq!(status_of(&rig.get("/").await), 200);
    let answer = rig.raw("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(status_of(&answer), 502, "{answer}");
    assert_eq!((seen.load(std::sync::atomic::Ordering::SeqCst), upstream.connections()), (1, 1));
}

#[tokio::test]
async fn a_connection_that_is_too_old_or_about_to_be_closed_is_not_used_again() {
    let rig = Rig::new().await;
    let upstream = Upstream::http(|_| async { hyper::Response::new(Body::from("ok")) }).await;
    rig.register("a", upstream.address).await;
    let ask = async |turns: usize| {
        for _ in 0..turns {
            assert_eq!(status_of(&rig.get("/").await), 200);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    ask(5).await;
    assert_eq!(upstream.connections(), 1);
    rig.policy(r#"{"traffic":{"connections":{"age_max_ms":1}}}"#).await;
    ask(5).await;
    assert_eq!(upstream.connections(), 6);
    // A connection that its instance announces to close immediately.
    let leaving = Upstream::http(|_| async {
        let answer = hyper::Response::builder().header("keep-alive", "timeout=0");
        answer.body(Body::from("ok")).unwrap()
    })
    .await;
    rig.policy("{}").await;
    rig.register("a", leaving.address).await;
    ask(5).await;
    assert_eq!(leaving.connections(), 5);
}
