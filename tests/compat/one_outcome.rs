//! One outcome: a request gets the same answer, and is counted and logged in the same way, on the fast path,
//! through the HTTP library, over HTTP/2, and with a slash at its end. `resolve` has the same outcome.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, Response};
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Server, node};

const DISCOVER: &str = "/api/maxine/serviceops/discover";
const PROXY: &str = "/api/maxine/serviceops/proxy";

/// How the node reads a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The fast path, if the request is simple enough.
    Bytes,
    /// Over HTTP/1.1, and never the fast path.
    Parsed,
    Http2,
}

const WAYS: [Way; 3] = [Way::Bytes, Way::Parsed, Way::Http2];

/// An answer, without the fields that differ from one to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    fields: BTreeMap<String, Vec<String>>,
    body: String,
}

impl Answer {
    async fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &parts.headers {
            // HTTP/2 has its own framing.
            if !["date", "x-trace-id", "traceparent", "transfer-encoding"].contains(&name.as_str())
            {
                let value = value.to_str().unwrap().to_owned();
                fields.entry(name.as_str().to_owned()).or_default().push(value);
            }
        }
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Self { status: parts.status.as_u16(), fields, body }
    }

    fn location(&self) -> Option<&str> {
        self.fields.get("location").map(|values| values[0].as_str())
    }

    /// The same answer to `HEAD`.
    fn without_body(&self) -> Self {
        Self { body: String::new(), ..self.clone() }
    }
}

async fn ask(server: &Server, way: Way, method: &Method, path: &str, trace_id: &str) -> Answer {
    let stream = TokioIo::new(TcpStream::connect(server.addr).await.unwrap());
    let request = |method: &Method, uri: String, trace_id: &str| {
        let request = hyper::Request::builder().method(method).uri(uri);
        request.header("x-trace-id", trace_id)
    };
    let empty = Empty::<Bytes>::new;
    if way == Way::Http2 {
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = request(method, format!("http://{}{path}", server.addr), trace_id);
        let response = sender.send_request(request.body(empty()).unwrap()).await.unwrap();
        let answer = Answer::of(response).await;
        connection.abort();
        return answer;
    }
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    // This field keeps a request off the fast path.
    let connection_field = if way == Way::Parsed { "keep-alive, other" } else { "keep-alive" };
    let request = request(method, path.into(), trace_id).header("host", "h");
    let request = request.header("connection", connection_field);
    let answer = sender.send_request(request.body(empty()).unwrap()).await.unwrap();
    let answer = Answer::of(answer).await;
    connection.abort();
    answer
}

/// The events that the node has logged for one trace id, without the time and the method.
async fn noted(server: &Server, token: &str, trace_id: &str) -> Vec<Value> {
    let events = server.get("/api/actuator/audit").bearer_auth(token).send().await.unwrap();
    let mut events: Value = events.json().await.unwrap();
    let events = events["events"].as_array_mut().unwrap();
    let of_the_request = events.iter_mut().filter(|event| event["traceId"] == trace_id);
    let levelled = of_the_request.map(|event| {
        let event = event.as_object_mut().unwrap();
        event.remove("timestamp");
        event.remove("traceId");
        event.remove("method");
        Value::Object(event.clone())
    });
    levelled.collect()
}

/// Number of look-ups and of forwarded requests so far, as the traffic page counts them.
async fn counted(server: &Server, token: &str) -> [u64; 2] {
    let traffic = server.get("/api/v1/traffic").bearer_auth(token).send().await.unwrap();
    let total = traffic.json::<Value>().await.unwrap()["total"].take();
    ["lookups", "proxied"].map(|name| total[name].as_u64().unwrap_or_else(|| panic!("{total}")))
}

/// An instance that answers any method with the requested URL. Below `/stream` the answer has no length.
async fn instance() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = Router::new().fallback(async |request: Request| {
        let text = request.uri().to_string();
        let body = match request.uri().path() {
            "/stream" => Body::from_stream(stream::iter([Ok::<_, Infallible>(text)])),
            _ => Body::from(text),
        };
        Response::builder().header("x-own", "1").body(body).unwrap()
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    port
}

/// A node with a service that has an instance, one whose instance is drained, and one whose instance refuses
/// connections.
async fn start() -> (Server, String, u16) {
    let server = Server::start().await;
    let (token, port) = (server.admin().await, instance().await);
    server.register(node("orders", "a", port)).await;
    server.register(node("drained", "a", port)).await;
    let refusing = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    server.register(node("refusing", "a", refusing)).await;
    let drain = "/api/v1/services/default/drained/instances/a/drain";
    let drain = server.put(drain, &json!({})).bearer_auth(&token).send().await.unwrap();
    assert!(drain.status().is_success(), "{}", drain.text().await.unwrap());
    (server, token, port)
}

/// A request, its status, and the kind and the outcome that are logged for it.
struct Case {
    path: String,
    status: u16,
    noted: Option<(&'static str, &'static str)>,
}

fn cases() -> Vec<Case> {
    let (hit, miss) = (("discovery.lookup", "HIT"), ("discovery.lookup", "MISS"));
    let discover = [
        ("serviceName=orders", 302, Some(hit)),
        ("serviceName=orders&endPoint=/x%20y%3Fa=1&mode=other", 302, Some(hit)),
        ("serviceName=drained", 503, Some(miss)),
        ("serviceName=none", 503, Some(miss)),
        ("serviceName=&mode=proxy", 400, None),
        ("x", 400, None),
        ("serviceName=orders&mode=proxy&endPoint=/x%3Fa=1", 200, Some(hit)),
        ("serviceName=orders&mode=proxy&endPoint=stream", 200, Some(hit)),
        ("serviceName=refusing&mode=Proxy", 502, Some(hit)),
        ("serviceName=drained&mode=proxy", 503, Some(miss)),
        ("serviceName=none&mode=proxy", 503, Some(miss)),
    ];
    let proxy = [
        ("orders/x%2Fy?a=1", 200, Some(("proxy.request", "PROXIED"))),
        ("orders/stream", 200, Some(("proxy.request", "PROXIED"))),
        ("refusing", 502, Some(("proxy.request", "PROXIED"))),
        ("drained/x", 503, Some(("proxy.request", "MISS"))),
        ("none/", 503, Some(("proxy.request", "MISS"))),
        ("orders/%zz", 400, None),
    ];
    let case = |prefix: &str, (rest, status, noted): (&str, u16, _)| Case {
        path: format!("{prefix}{rest}"),
        status,
        noted,
    };
    let discover = discover.into_iter().map(|row| case(&format!("{DISCOVER}?"), row));
    discover.chain(proxy.into_iter().map(|row| case(&format!("{PROXY}/"), row))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_a_request_has_the_same_outcome() {
    let (server, token, _) = start().await;
    let fast = || server.state.telemetry().metrics().fast_path.get();
    for Case { path, status, noted: expected } in cases() {
        let spellings = match path.starts_with(DISCOVER) {
            true => vec![path.clone(), path.replace("discover?", "discover/?")],
            false => vec![path.clone()],
        };
        let (mut first, mut asked) = (None::<(Answer, Vec<Value>)>, 0);
        let before = counted(&server, &token).await;
        for spelling in &spellings {
            for (way, method) in
                WAYS.iter().flat_map(|way| [(*way, Method::GET), (*way, Method::HEAD)])
            {
                let at = format!("{way:?} {method} {spelling}");
                let (fast_before, trace_id) = (fast(), format!("request-{asked}-of-{path}"));
                let answer = ask(&server, way, &method, spelling, &trace_id).await;
                asked += 1;
                let is_fast = way == Way::Bytes && method == Method::GET && status == 302;
                assert_eq!(fast() - fast_before, u64::from(is_fast), "{at}");
                assert_eq!(answer.status, status, "{at}: {answer:?}");
                let noted = noted(&server, &token, &trace_id).await;
                let kinds: Vec<_> = noted
                    .iter()
                    .map(|event| {
                        (event["type"].as_str().unwrap(), event["outcome"].as_str().unwrap())
                    })
                    .collect();
                assert_eq!(kinds, Vec::from_iter(expected), "{at}");
                let (like, noted_like) = first.get_or_insert((answer.clone(), noted.clone()));
                // An instance sees the method, so its answer to `HEAD` may differ.
                let like = if method == Method::HEAD { like.without_body() } else { like.clone() };
                assert_eq!(answer, like, "{at}");
                assert_eq!(&noted, noted_like, "{at}");
            }
        }
        let after = counted(&server, &token).await;
        let is_forwarded = path.starts_with(PROXY)
            || path.contains("mode=proxy") && status != 400
            || path.contains("mode=Proxy");
        let counts = if is_forwarded { [0, asked] } else { [asked, 0] };
        assert_eq!([after[0] - before[0], after[1] - before[1]], counts, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resolve_has_the_outcome_of_discovery() {
    let (server, token, port) = start().await;
    let discoveries = || server.state.telemetry().metrics().discoveries.get();
    for (service, end_point, discovered, resolved, outcome) in [
        ("orders", "", 302, 302, "HIT"),
        ("orders", "%2Fx%7Cy%3Fa=%5Bb%5D", 302, 302, "HIT"),
        ("drained", "", 503, 503, "MISS"),
        ("none", "", 503, 404, "MISS"),
    ] {
        let ask = async |way, path: String, status| {
            let (before, trace_id) = (discoveries(), format!("{way:?} {path}"));
            let answer = ask(&server, way, &Method::GET, &path, &trace_id).await;
            assert_eq!(answer.status, status, "{trace_id}");
            assert_eq!(discoveries() - before, u64::from(outcome == "HIT"), "{trace_id}");
            let mut noted = noted(&server, &token, &trace_id).await;
            assert_eq!(noted.len(), 1, "{trace_id}: {noted:?}");
            let mode = noted[0].as_object_mut().unwrap().remove("mode");
            (answer.location().map(ToOwned::to_owned), answer.body, noted, mode)
        };
        let discover = format!("{DISCOVER}?serviceName={service}&endPoint={end_point}");
        let (location, _, noted, mode) = ask(Way::Bytes, discover, discovered).await;
        assert_eq!(noted[0]["outcome"], outcome);
        assert_eq!(mode, (outcome == "HIT").then(|| json!("redirect")));
        let resolve = format!("/api/v1/resolve/default/{service}?path={end_point}");
        for way in [Way::Parsed, Way::Http2] {
            let (to, _, noted_too, mode) =
                ask(way, format!("{resolve}&redirect=1"), resolved).await;
            assert_eq!((&to, &noted_too), (&location, &noted), "{resolve}");
            assert_eq!(mode, (outcome == "HIT").then(|| json!("resolve")));
            let status = if resolved == 302 { 200 } else { resolved };
            let (_, body, noted_too, _) = ask(way, resolve.clone(), status).await;
            assert_eq!(noted_too, noted, "{resolve}");
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body.get("url").and_then(Value::as_str), location.as_deref(), "{resolve}");
        }
        let base = format!("http://127.0.0.1:{port}");
        assert!(location.is_none_or(|location| location.starts_with(&base)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mode_of_the_configuration_decides_for_every_way() {
    let (server, token, _) = start().await;
    let set = async |mode: &str| {
        let put = server.put("/api/maxine/control/config", &json!({"discoveryMode": mode}));
        assert_eq!(put.bearer_auth(&token).send().await.unwrap().status(), 200);
    };
    let path = format!("{DISCOVER}?serviceName=orders&endPoint=/x");
    for (mode, status) in [("PROXY", 200), ("REDIRECT", 302)] {
        set(mode).await;
        for (number, way) in WAYS.into_iter().enumerate() {
            let trace_id = format!("{mode} {number}");
            assert_eq!(ask(&server, way, &Method::GET, &path, &trace_id).await.status, status);
            let noted = noted(&server, &token, &trace_id).await;
            assert_eq!(noted[0]["mode"], mode.to_lowercase(), "{noted:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_has_no_method_but_get_and_head() {
    let (server, ..) = start().await;
    for path in [DISCOVER, &format!("{DISCOVER}/")] {
        let path = format!("{path}?serviceName=orders");
        for way in WAYS {
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                let answer = ask(&server, way, &method, &path, "").await;
                assert_eq!((answer.status, &*answer.body), (404, r#"{"message":"Not found"}"#));
                assert_eq!(answer.fields["allow"], ["GET,HEAD"], "{way:?} {method} {path}");
            }
            let answer = ask(&server, way, &Method::OPTIONS, &path, "").await;
            assert_eq!((answer.status, &*answer.body), (204, ""));
        }
    }
}
