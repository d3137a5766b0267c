//! Instances behind TLS: trusted if their certificate is valid, or if the policy does not check it.

use std::sync::Arc;

use axum::body::Body;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use maxine_gateway::TlsRoots;
use tokio_rustls::TlsAcceptor;

use crate::harness::*;

/// An HTTPS server for `127.0.0.1` that answers with the HTTP version of the request, and the roots of its
/// certificate.
async fn secured() -> (Upstream, TlsRoots) {
    serving(crate::authority::server_for_loopback()).await
}

async fn serving((mut config, pem): (rustls::ServerConfig, String)) -> (Upstream, TlsRoots) {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let upstream = Upstream::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                let version = format!("{:?}", request.version());
                Ok::<_, std::convert::Infallible>(Response::new(Body::from(version)))
            });
            let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await;
    (upstream, TlsRoots::Pem(pem.into_bytes()))
}

#[tokio::test]
async fn a_certificate_of_a_trusted_root_is_believed_and_http2_is_agreed_on() {
    let (upstream, roots) = secured().await;
    let rig = Rig::with(RigOptions { roots, ..RigOptions::default() }).await;
    rig.register_with("a", &format!("https://{}", upstream.address), |_| {}).await;
    assert_eq!(body_of(&rig.get("/").await), "HTTP/1.1");
    rig.policy(r#"{"traffic":{"protocol":"http2"}}"#).await;
    assert_eq!(body_of(&rig.get("/").await), "HTTP/2.0");
}

#[tokio::test]
async fn a_stranger_is_believed_only_where_the_policy_asks_for_no_proof() {
    let (upstream, _) = secured().await;
    let rig = Rig::new().await;
    rig.register_with("a", &format!("https://{}", upstream.address), |_| {}).await;
    let answer = rig.get("/").await;
    assert_eq!(status_of(&answer), 502, "{answer}");
    assert!(answer.contains("x-maxine-error: tls_failed"), "{answer}");
    rig.policy(r#"{"traffic":{"insecure_tls":true}}"#).await;
    assert_eq!(body_of(&rig.get("/").await), "HTTP/1.1");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let (upstream, roots) = secured().await;
    let rig = Rig::with(RigOptions { roots, ..RigOptions::default() }).await;
    let url = format!("https://localhost:{}", upstream.address.port());
    rig.register_with("a", &url, |_| {}).await;
    let answer = rig.get("/").await;
    assert!(answer.contains("x-maxine-error: tls_failed"), "{answer}");
    assert!(answer.contains("its certificate is for another name"), "{answer}");
}

#[tokio::test]
async fn a_handshake_that_fails_says_why() {
    let expired = crate::authority::server_with(|leaf| {
        leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2020, 2, 1);
    });
    let early = crate::authority::server_with(|leaf| {
        leaf.not_before = rcgen::date_time_ymd(4000, 1, 1);
    });
    for (server, why) in
        [(expired, "its certificate has expired"), (early, "its certificate is not valid yet")]
    {
        let (upstream, roots) = serving(server).await;
        let rig = Rig::with(RigOptions { roots, ..RigOptions::default() }).await;
        rig.register_with("a", &format!("https://{}", upstream.address), |_| {}).await;
        let answer = rig.get("/").await;
        assert!(answer.contains(why), "{answer}");
    }
    let (stranger, _) = secured().await;
    let rig = Rig::new().await;
    rig.register_with("a", &format!("https://{}", stranger.address), |_| {}).await;
    let answer = rig.get("/").await;
    assert!(answer.contains("its certificate is signed by an unknown authority"), "{answer}");
    let plain = Upstream::named("plain").await;
    rig.register_with("a", &format!("https://{}", plain.address), |_| {}).await;
    let answer = rig.get("/").await;
    assert!(answer.contains("it does not speak TLS"), "{answer}");
}

/// Content that ends with its connection is complete only if TLS confirms the end of the connection.
#[tokio::test]
async fn an_end_without_the_alert_of_tls_is_no_end_of_the_content() {
    let (config, pem) = crate::authority::server_for_loopback();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let upstream = Upstream::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\ncontent").await;
            let _ = stream.flush().await;
            if head.starts_with(b"GET /confirmed") {
                let _ = stream.shutdown().await;
            }
        }
    })
    .await;
    let rig =
        Rig::with(RigOptions { roots: TlsRoots::Pem(pem.into_bytes()), ..RigOptions::default() })
            .await;
    rig.register_with("a", &format!("https://{}", upstream.address), |_| {}).await;
    let confirmed = rig.get("/confirmed").await;
    assert!(confirmed.ends_with("content\r\n0\r\n\r\n"), "{confirmed}");
    let cut = rig.get("/cut").await;
    assert!(cut.contains("content") && !cut.ends_with("0\r\n\r\n"), "{cut}");
}
