//! Requests to instances, by [`Client::send`] and by the layer of `tower`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use maxine_client::trace::{TraceParent, Tracer, TracingTracer, within};
use maxine_client::{Client, Error, Options};
use serde_json::json;
use support::{Server, closed_port, node_with, reply};
use tower::{BoxError, Layer, Service, ServiceExt};

/// The requests that an inner service has got.
type Sent = Arc<Mutex<Vec<Request<Full<Bytes>>>>>;

/// What each use of an instance has reported: the instance, and whether it has failed.
type Calls = Arc<Mutex<Vec<(String, bool)>>>;

fn reporting(calls: &Calls) -> Options {
    let calls = Arc::clone(calls);
    Options {
        on_call: Some(Arc::new(move |call: &maxine_client::Call| {
            assert_eq!(call.service, "orders");
            calls.lock().unwrap().push((call.instance.clone(), call.failed));
        })),
        ..Options::default()
    }
}

fn http_client() -> reqwest::Client {
    reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap()
}

/// A service that remembers the requests, and answers with what `answer` returns for the number of the request, from 1.
fn inner(
    sent: Sent,
    answer: impl Fn(usize) -> Result<u16, std::io::Error> + Clone + Send + 'static,
) -> impl Service<Request<Full<Bytes>>, Response = Response<()>, Error = std::io::Error, Future: Send>
+ Clone
+ Send
+ 'static {
    tower::service_fn(move |request: Request<Full<Bytes>>| {
        let mut all = sent.lock().unwrap();
        all.push(request);
        let status = answer(all.len());
        std::future::ready(
            status.map(|status| Response::builder().status(status).body(()).unwrap()),
        )
    })
}

fn request(method: Method, url: &str, body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(url).header("host", "orders");
    request.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()
}

#[tokio::test]
async fn an_instance_that_refuses_connections_does_not_fail_a_request() {
    let upstream = Server::start(|_, _| reply(200, &json!({}))).await;
    let closed = closed_port().await;
    let base = format!("{}/base/", upstream.url);
    let node = node_with(&[("a", closed.as_str()), ("b", base.as_str())]).await;
    let calls = Calls::default();
    let client = Client::new([&node.url], reporting(&calls)).unwrap();
    for _ in 0..8 {
        let request = http_client().post("http://orders/x?y=1").body("body");
        assert_eq!(client.send(request).await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(upstream.lines(), ["POST /base/x?y=1"; 8]);
    assert!(upstream.seen().iter().all(|one| one.body == "body"));
    // It is tried once, then avoided.
    let calls = calls.lock().unwrap().clone();
    let failed = calls.iter().filter(|(instance, failed)| instance == "a" && *failed).count();
    let good = calls.iter().filter(|(instance, failed)| instance == "b" && !failed).count();
    assert!(failed == 1 && good == 8 && calls.len() == 9, "{calls:?}");
}

#[tokio::test]
async fn a_request_to_a_service_without_instances_is_not_sent() {
    let node = node_with(&[]).await;
    let client = Client::new([&node.url], Options::default()).unwrap();
    let error = client.send(http_client().get("http://orders/")).await.unwrap_err();
    assert!(matches!(&error, Error::NoInstance(service) if service == "orders"), "{error}");
}

#[tokio::test]
async fn a_request_that_runs_out_of_its_own_time_does_not_make_the_instance_avoided() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let node = node_with(&[("a", url.as_str())]).await;
    let calls = Calls::default();
    let client = Client::new([&node.url], reporting(&calls)).unwrap();
    let request = http_client().get("http://orders/").timeout(Duration::from_millis(100));
    assert!(
        matches!(client.send(request).await, Err(Error::Transport(error)) if error.is_timeout())
    );
    assert_eq!(*calls.lock().unwrap(), [("a".to_owned(), false)]);
}

#[tokio::test]
async fn the_layer_sends_a_request_to_an_instance_below_its_path() {
    let node = node_with(&[("a", "https://10.0.0.1:3000/base/")]).await;
    let client = Client::new([&node.url], Options::default()).unwrap();
    let seen = Sent::default();
    let service = client.layer().layer(inner(Arc::clone(&seen), |_| Ok(204)));
    let sent = request(Method::POST, "http://orders/../a%2Fb?y=1", "body");
    let answer = service.oneshot(sent).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].uri(), "https://10.0.0.1:3000/base/a%2Fb?y=1");
    // The client of the inner service sets that of the instance.
    assert!(!seen[0].headers().contains_key("host"));
}

#[tokio::test]
async fn the_layer_repeats_only_requests_that_are_safe_or_were_not_sent() {
    let node = node_with(&[("a", "http://10.0.0.1"), ("b", "http://10.0.0.2")]).await;
    let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let reset = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    for (method, body, is_refused, tries) in [
        (Method::GET, "", true, 3),
        (Method::GET, "", false, 3),
        (Method::POST, "", true, 3),
        (Method::POST, "", false, 1),
        (Method::POST, "body", true, 1),
        (Method::GET, "body", false, 1),
    ] {
        let client = Client::new([&node.url], Options::default()).unwrap();
        let seen = Sent::default();
        let fail = move |_: usize| Err(if is_refused { refused() } else { reset() });
        let service = client.layer().layer(inner(Arc::clone(&seen), fail));
        let sent = request(method.clone(), "http://orders/", body);
        let error: BoxError = service.oneshot(sent).await.unwrap_err();
        assert!(error.is::<std::io::Error>(), "{error}");
        assert_eq!(seen.lock().unwrap().len(), tries, "{method} {body:?} {is_refused}");
    }
}

#[tokio::test]
async fn the_layer_avoids_an_instance_that_has_failed() {
    let node = node_with(&[("a", "http://10.0.0.1"), ("b", "http://10.0.0.2")]).await;
    let client = Client::new([&node.url], Options::default()).unwrap();
    let seen = Sent::default();
    let reset = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let first_fails = move |number: usize| if number == 1 { Err(reset()) } else { Ok(200) };
    let service = client.layer().layer(inner(Arc::clone(&seen), first_fails));
    for _ in 0..8 {
        let sent = request(Method::GET, "http://orders/", "");
        service.clone().oneshot(sent).await.unwrap();
    }
    let seen = seen.lock().unwrap();
    let hosts: Vec<_> = seen.iter().map(|one| one.uri().host().unwrap()).collect();
    assert!(hosts.len() == 9 && hosts[1..].iter().all(|host| *host != hosts[0]), "{hosts:?}");
}

#[tokio::test]
async fn with_a_suffix_other_hosts_are_no_services() {
    let node = node_with(&[("a", "http://10.0.0.1")]).await;
    let client = Client::new([&node.url], Options::default()).unwrap();
    let seen = Sent::default();
    let layer = client.layer().suffix(".maxine").zone("eu-1a");
    let service = layer.layer(inner(Arc::clone(&seen), |_| Ok(200)));
    for url in ["http://orders.maxine/x", "http://example.org/x"] {
        let sent = request(Method::GET, url, "");
        service.clone().oneshot(sent).await.unwrap();
    }
    let seen = seen.lock().unwrap();
    let urls: Vec<_> = seen.iter().map(|one| one.uri().to_string()).collect();
    assert_eq!(urls, ["http://10.0.0.1/x", "http://example.org/x"]);
}

#[tokio::test]
async fn the_trace_is_passed_on_to_instances_and_to_nodes() {
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let upstream = Server::start(|_, _| reply(200, &json!({}))).await;
    let node = node_with(&[("a", upstream.url.as_str())]).await;
    let tracer: Arc<dyn Tracer> = Arc::new(TracingTracer);
    let options = Options { tracer: Some(tracer), ..Options::default() };
    let client = Client::new([&node.url], options).unwrap();
    let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let parent: TraceParent = text.parse().unwrap();
    let trace_of = |value: &str| value.get(..36).map(str::to_owned);

    // A new trace begins at the use of an instance. No span surrounds the requests to the node.
    client.send(http_client().get("http://orders/")).await.unwrap();
    let begun = TraceParent::of(&upstream.seen()[0].headers).unwrap();
    assert_ne!(trace_of(&begun.to_string()), trace_of(text));
    assert!(node.seen().iter().all(|one| one.header("traceparent").is_empty()));

    // That of the request, and that of the surrounding work, are continued.
    client.send(http_client().get("http://orders/").header("traceparent", text)).await.unwrap();
    within(parent, client.send(http_client().get("http://orders/"))).await.unwrap();
    for one in &upstream.seen()[1..] {
        let continued = one.header("traceparent");
        assert!(trace_of(continued) == trace_of(text) && continued != text, "{continued}");
    }
    let asked = node.seen().len();
    let span = tracing::info_span!("work");
    let work = async { client.resolver("orders", None).await.unwrap() };
    within(parent, tracing::Instrument::instrument(work, span)).await;
    let asked: Vec<_> = node.seen().into_iter().skip(asked).collect();
    let lists = asked.iter().filter(|one| one.target.contains("/instances?"));
    let traces: Vec<_> = lists.map(|one| trace_of(one.header("traceparent"))).collect();
    assert_eq!(traces, [trace_of(text)]);
}
