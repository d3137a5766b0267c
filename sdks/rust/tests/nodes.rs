//! Requests to nodes that fail in a chosen way.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use maxine_client::{Client, Error, NewInstance, Options};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use support::{Server, closed_port, reply, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn get(client: &Client) -> Result<Value, Error> {
    client.request(Method::GET, "/x", None).await
}

fn client<'a>(nodes: impl IntoIterator<Item = &'a str>, options: Options) -> Client {
    Client::new(nodes, options).unwrap()
}

#[tokio::test]
async fn nodes_that_fail_are_passed_over() {
    let good = Server::start(|_, _| reply(200, &json!({}))).await;
    let bad = Server::start(|_, _| reply(503, &json!({})).header("retry-after", "30")).await;
    let garbled = Server::start(|_, _| reply(200, &json!({})).text("<html>")).await;
    let closed = closed_port().await;
    let nodes = [closed.as_str(), &bad.url, &garbled.url, &good.url];
    let client = client(nodes, Options::default());
    for _ in 0..10 {
        get(&client).await.unwrap();
    }
    // After its first answer the node is left alone for as long as it has asked.
    assert!(bad.seen().len() <= 1, "{:?}", bad.lines());
    assert!(good.seen().len() == 10, "{:?}", good.lines());
}

#[tokio::test]
async fn the_time_limit_ends_the_attempts_with_the_last_error() {
    // The node asks for more time than there is.
    let problem = json!({"detail": "no leader"});
    let bad = Server::start(move |_, _| reply(503, &problem).header("retry-after", "30")).await;
    let error = get(&client([bad.url.as_str()], Options::default())).await.unwrap_err();
    assert_eq!(error.to_string(), "503 Service Unavailable: no leader");
    let options = Options { timeout: Duration::from_millis(300), ..Options::default() };
    let closed = closed_port().await;
    let error = get(&client([closed.as_str()], options)).await.unwrap_err();
    assert!(matches!(error, Error::Transport(_)), "{error:?}");
}

#[tokio::test]
async fn a_node_that_does_not_answer_does_not_use_up_the_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = (format!("http://{}", silent.local_addr().unwrap()), silent);
    let good = Server::start(|_, _| reply(200, &json!({}))).await;
    let attempts = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..20 {
        let seen = Arc::clone(&attempts);
        let options = Options {
            attempt_timeout: Duration::from_millis(100),
            on_attempt: Some(Arc::new(move |one: &maxine_client::Attempt| {
                seen.lock().unwrap().push((one.status, one.error.clone()));
            })),
            ..Options::default()
        };
        get(&client([silent.0.as_str(), &good.url], options)).await.unwrap();
    }
    let attempts = attempts.lock().unwrap().clone();
    assert!(attempts.contains(&(Some(StatusCode::OK), None)), "{attempts:?}");
    let given_up = (None, Some("given up before an answer".to_owned()));
    assert!(attempts.contains(&given_up), "{attempts:?}");
}

#[tokio::test]
async fn a_refusal_is_not_repeated() {
    let node = Server::start(|_, _| reply(422, &json!({"detail": "weight"}))).await;
    let error = get(&client([node.url.as_str(); 2], Options::default())).await.unwrap_err();
    assert!(
        matches!(&error, Error::Refused { problem, .. } if problem["detail"] == "weight"),
        "{error:?}"
    );
    assert_eq!(node.lines(), ["GET /x"]);
}

#[tokio::test]
async fn a_replaced_token_file_is_used_at_once() {
    let node = Server::start(|_, _| reply(200, &json!({}))).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let options = Options { token_file: Some(file.clone()), ..Options::default() };
    let client = client([node.url.as_str()], options);
    for token in ["one", "two"] {
        std::fs::write(&file, format!("{token}\n")).unwrap();
        get(&client).await.unwrap();
    }
    assert_eq!(node.lines(), ["GET /x Bearer one", "GET /x Bearer two"]);
    std::fs::remove_file(&file).unwrap();
    let error = get(&client).await.unwrap_err();
    assert!(error.to_string().starts_with("no token: "), "{error}");
    assert_eq!(node.seen().len(), 2);
}

#[tokio::test]
async fn the_certificate_of_a_node_is_checked() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let node = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read(&mut [0; 4096]).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, made.cert.pem()).unwrap();
    let trusting = Options { ca_file: Some(file.clone()), ..Options::default() };
    get(&client([url.as_str()], trusting)).await.unwrap();
    let short = Options { timeout: Duration::from_millis(500), ..Options::default() };
    assert!(matches!(get(&client([url.as_str()], short)).await, Err(Error::Transport(_))));
    node.abort();
    std::fs::write(&file, "not PEM").unwrap();
    let wrong = Options { ca_file: Some(file), ..Options::default() };
    assert!(matches!(Client::new([url], wrong), Err(Error::Settings(_))));
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused() {
    assert!(Client::new([""; 0], Options::default()).is_err());
    let both =
        Options { token: Some("t".into()), token_file: Some("file".into()), ..Options::default() };
    assert!(matches!(Client::new(["http://h"], both), Err(Error::Settings(_))));
}

#[tokio::test]
async fn what_the_cluster_has_lost_is_registered_again() {
    let beats = Mutex::new(vec![json!([]), json!([0]), json!("wrong"), json!([])]);
    let node = Server::start(move |_, request| {
        if request.method != "POST" {
            return reply(200, &json!({"lease_epoch": 7}));
        }
        let unknown = beats.lock().unwrap().pop().unwrap_or(json!([]));
        reply(200, &json!({"unknown": unknown}))
    })
    .await;
    let errors = Arc::new(Mutex::new(Vec::new()));
    let reported = Arc::clone(&errors);
    let options = Options {
        on_error: Some(Arc::new(move |error: &Error| {
            reported.lock().unwrap().push(error.to_string());
        })),
        ..Options::default()
    };
    let client = client([node.url.as_str()], options);
    let address = "http://10.0.0.9:3000".to_owned();
    let instance = NewInstance { address, ttl_ms: 90, ..NewInstance::default() };
    let kept = client.register("orders", "a b/c", instance).await.unwrap();
    until("the renewal", || kept.renewals() == 1 && kept.beats() >= 3).await;
    assert_eq!(errors.lock().unwrap().len(), 1, "{errors:?}");
    client.stop(Duration::ZERO).await.unwrap();
    kept.stop(Duration::ZERO).await.unwrap();
    let path = "/api/v1/services/default/orders/instances/a%20b%2Fc";
    let lines = node.lines();
    let others: Vec<_> = lines.iter().filter(|line| !line.starts_with("POST")).collect();
    let put = format!("PUT {path}");
    assert_eq!(others, [&put, &put, &format!("DELETE {path}?lease_epoch=7")]);
    assert!(matches!(
        client.register("..", "a", NewInstance::default()).await,
        Err(Error::Name(_))
    ));
}
