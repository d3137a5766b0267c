//! The export of traces, to a real receiver of OTLP over gRPC and over HTTP.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Response, StatusCode};
use maxine_clock::Clock;
use maxine_telemetry::{LogLine, LogOutbox, OtlpProtocol, OtlpSettings};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;

use super::support::{Server, node};

const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What a receiver has taken.
#[derive(Clone, Default)]
struct Taken {
    messages: Arc<Mutex<Vec<(HeaderMap, ExportTraceServiceRequest)>>>,
    /// Whether the receiver answers that it is not available.
    is_away: Arc<AtomicBool>,
}

impl Taken {
    fn spans(&self) -> Vec<Span> {
        let messages = self.messages.lock();
        let resources = messages.iter().flat_map(|(_, message)| &message.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// The first span with this name, once there is one.
    async fn work(&self, name: &str) -> Span {
        for _ in 0..4_000 {
            if let Some(span) = self.spans().into_iter().find(|span| span.name == name) {
                return span;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let names: Vec<String> = self.spans().into_iter().map(|span| span.name).collect();
        panic!("no {name} among {names:?}");
    }

    /// The spans of a trace, once there is one with this name.
    async fn trace(&self, trace: &str, name: &str) -> HashMap<String, Span> {
        for _ in 0..2_000 {
            let spans = self.spans().into_iter().filter(|span| hex(&span.trace_id) == trace);
            let spans: HashMap<String, Span> =
                spans.map(|span| (span.name.clone(), span)).collect();
            if spans.contains_key(name) {
                return spans;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let names: Vec<String> = self.spans().into_iter().map(|span| span.name).collect();
        panic!("no {name} of {trace} among {names:?}");
    }
}

#[tonic::async_trait]
impl TraceService for Taken {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(tonic::Status::unavailable("not now"));
        }
        let headers = request.metadata().clone().into_headers();
        self.messages.lock().push((headers, request.into_inner()));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn grpc_receiver() -> (Taken, OtlpSettings) {
    let (taken, listener) = (Taken::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = TraceServiceServer::new(taken.clone());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let serve = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(async move { serve.serve_with_incoming(incoming).await.unwrap() });
    (taken, settings(endpoint, OtlpProtocol::Grpc))
}

async fn http_receiver() -> (Taken, OtlpSettings) {
    let (taken, listener) = (Taken::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let endpoint = format!("http://{}/", listener.local_addr().unwrap());
    let sink = taken.clone();
    let receive = async move |request: Request| {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        assert_eq!((parts.method.as_str(), parts.uri.path()), ("POST", "/v1/traces"));
        assert_eq!(parts.headers["content-type"], "application/x-protobuf");
        let message = ExportTraceServiceRequest::decode(body).unwrap();
        sink.messages.lock().push((parts.headers, message));
        Body::from(ExportTraceServiceResponse::default().encode_to_vec())
    };
    let app = Router::new().fallback(receive);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (taken, settings(endpoint, OtlpProtocol::Http))
}

/// The lines of the log that a receiver has taken.
#[derive(Clone, Default)]
struct TakenLines(Arc<Mutex<Vec<LogRecord>>>);

impl TakenLines {
    fn take(&self, message: ExportLogsServiceRequest) {
        let scopes = message.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
        self.0.lock().extend(scopes.flat_map(|scope| scope.log_records));
    }

    /// The first line, once there is one.
    async fn first(&self) -> LogRecord {
        for _ in 0..2_000 {
            if let Some(record) = self.0.lock().first() {
                return record.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no line of the log");
    }
}

#[tonic::async_trait]
impl LogsService for TakenLines {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        self.take(request.into_inner());
        Ok(tonic::Response::new(ExportLogsServiceResponse::default()))
    }
}

/// A receiver of lines of the log, by each protocol.
async fn receiver_of_lines(protocol: OtlpProtocol) -> (TakenLines, OtlpSettings) {
    let (taken, listener) =
        (TakenLines::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let sink = taken.clone();
    match protocol {
        OtlpProtocol::Grpc => {
            let serve =
                tonic::transport::Server::builder().add_service(LogsServiceServer::new(sink));
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            tokio::spawn(async move { serve.serve_with_incoming(incoming).await.unwrap() });
        }
        OtlpProtocol::Http => {
            let app = Router::new().fallback(async move |request: Request| {
                let is_of_lines = request.uri().path() == "/v1/logs";
                let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
                if is_of_lines {
                    sink.take(ExportLogsServiceRequest::decode(body).unwrap());
                }
                Body::from(ExportLogsServiceResponse::default().encode_to_vec())
            });
            tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        }
    }
    // Traces go there too, such as that of the first election.
    (taken, OtlpSettings { sample_ratio: 0.0, ..settings(endpoint, protocol) })
}

fn settings(endpoint: String, protocol: OtlpProtocol) -> OtlpSettings {
    OtlpSettings {
        endpoint,
        protocol,
        sample_ratio: 1.0,
        timeout_ms: 5_000,
        queue_max: 4_096,
        ..OtlpSettings::default()
    }
}

async fn server(otlp: OtlpSettings) -> Server {
    Server::start_with(|options| options.telemetry.otlp = Some(otlp)).await
}

/// An instance that answers with the fields that it received.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let app = Router::new().fallback(async |request: Request| {
        let shown =
            |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let seen = json!({
            "traceparent": shown("traceparent"),
            "tracestate": shown("tracestate"),
            "baggage": shown("baggage"),
        });
        Response::new(Body::from(seen.to_string()))
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    addr
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Any::StringValue(text) => Some(text.clone()),
        Any::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The trace and the span in a `traceparent`.
fn ids(traceparent: &str) -> (&str, &str) {
    (&traceparent[3..35], &traceparent[36..52])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_request_is_one_trace_from_the_client_to_the_instance() {
    let dir = tempfile::tempdir().unwrap();
    let headers_file = dir.path().join("headers");
    std::fs::write(&headers_file, "x-token: first\n").unwrap();
    let (taken, otlp) = grpc_receiver().await;
    let attributes = vec![("deployment.environment.name".to_owned(), "test".to_owned())];
    let headers = Some(headers_file.clone());
    let server = server(OtlpSettings { headers_file: headers, attributes, ..otlp }).await;
    server.register(node("orders", "a", upstream().await.port())).await;
    let path = server.url("/api/maxine/serviceops/proxy/orders/x?secret=1");
    // The plain `GET` takes the fast path, and the other request the slow one.
    for (number, request) in [(1, server.http.get(&path)), (2, server.http.post(&path).body("x"))] {
        let given = format!("00-{number:032x}-00f067aa0ba902b7-01");
        let request = request.header("traceparent", &given).header("tracestate", "a=b");
        let answer = request.header("baggage", "user=7").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let answered = answer.headers()["traceparent"].to_str().unwrap().to_owned();
        let seen: serde_json::Value = answer.json().await.unwrap();
        assert_eq!((&seen["baggage"], &seen["tracestate"]), (&json!("user=7"), &json!("a=b")));
        let seen = seen["traceparent"].as_str().unwrap();
        let trace = ids(&given).0;
        assert_eq!((ids(seen).0, ids(&answered).0), (trace, trace));

        let method = if number == 1 { "GET" } else { "POST" };
        let spans = taken.trace(trace, &format!("{method} proxied orders")).await;
        let (whole, attempt) = (&spans[&format!("{method} proxied orders")], &spans[method]);
        assert_eq!(hex(&whole.parent_span_id), ids(&given).1);
        assert_eq!(hex(&whole.span_id), ids(&answered).1);
        assert_eq!(attempt.parent_span_id, whole.span_id);
        assert_eq!(hex(&attempt.span_id), ids(seen).1, "the instance is below the attempt");
        assert_eq!(spans["choose instance"].parent_span_id, whole.span_id);
        assert_eq!(attribute(whole, "http.response.status_code").as_deref(), Some("200"));
        assert_eq!(attribute(whole, "url.query"), None, "queries are not kept");
        assert_eq!(attribute(attempt, "server.address").as_deref(), Some("127.0.0.1"));
        assert!(whole.start_time_unix_nano <= attempt.start_time_unix_nano);
        assert!(attempt.end_time_unix_nano <= whole.end_time_unix_nano);
    }
    let (first, message) = taken.messages.lock()[0].clone();
    assert_eq!(first["x-token"], "first");
    let resource = message.resource_spans[0].resource.clone().unwrap();
    let named: Vec<String> = resource.attributes.into_iter().map(|each| each.key).collect();
    for name in ["service.name", "service.instance.id", "deployment.environment.name"] {
        assert!(named.iter().any(|named| named == name), "{name} in {named:?}");
    }
    // A token is replaced without a restart.
    std::fs::write(&headers_file, "x-token: second\n").unwrap();
    server.get("/api/actuator/health").header("traceparent", GIVEN).send().await.unwrap();
    taken.trace(ids(GIVEN).0, "GET").await;
    assert_eq!(taken.messages.lock().last().unwrap().0["x-token"], "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_at_a_request_is_a_span_and_the_parent_of_what_its_instance_does() {
    let (taken, otlp) = grpc_receiver().await;
    let server = server(otlp).await;
    server.register(node("orders", "a", upstream().await.port())).await;
    // Nobody listens there any more.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    server.register(node("orders", "b", nobody.port())).await;
    let policy = json!({"traffic": {"retries": {"attempts": 2, "budget_percent": 100}}});
    let put = server.put("/api/v1/services/default/orders/policy", &policy);
    let put = put.bearer_auth(server.admin().await).send().await.unwrap();
    assert!(put.status().is_success(), "{}", put.text().await.unwrap());
    let mut retried = None;
    // Round robin begins with one or the other.
    for _ in 0..2 {
        let answer = server.get("/api/maxine/serviceops/proxy/orders/").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let own = answer.headers()["traceparent"].to_str().unwrap().to_owned();
        let seen: serde_json::Value = answer.json().await.unwrap();
        let seen = seen["traceparent"].as_str().unwrap().to_owned();
        let (trace, own) = ids(&own);
        taken.trace(trace, "GET proxied orders").await;
        let spans = taken.spans();
        let attempts: Vec<&Span> = spans
            .iter()
            .filter(|span| hex(&span.trace_id) == trace && span.name == "GET")
            .collect();
        assert!(attempts.iter().all(|attempt| hex(&attempt.parent_span_id) == own));
        let last = attempts.last().unwrap();
        assert_eq!(hex(&last.span_id), ids(&seen).1);
        if let [failed, last] = &attempts[..] {
            assert_eq!(attribute(failed, "error.type").as_deref(), Some("connect_failed"));
            assert_eq!(attribute(last, "http.request.resend_count").as_deref(), Some("1"));
            retried = Some(());
        }
    }
    assert!(retried.is_some(), "one of them met the instance that is away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_traced_until_it_is_applied() {
    let (taken, otlp) = grpc_receiver().await;
    let server = server(otlp).await;
    let body = node("orders", "a", 9);
    let register = server.post("/api/maxine/serviceops/register", &body);
    let answer = register.header("traceparent", GIVEN).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let spans = taken.trace(ids(GIVEN).0, "write").await;
    for (name, parent) in [
        ("write", "POST registration"),
        ("actor mailbox", "write"),
        ("wait for batch", "write"),
        ("proposal", "write"),
        ("commit", "proposal"),
        ("apply", "proposal"),
    ] {
        let span = spans.get(name).unwrap_or_else(|| panic!("{name} in {:?}", spans.keys()));
        assert_eq!(span.parent_span_id, spans[parent].span_id, "{name}");
        assert!(span.start_time_unix_nano >= spans[parent].start_time_unix_nano, "{name}");
        assert!(span.end_time_unix_nano <= spans[parent].end_time_unix_nano, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_and_an_expiry_are_traces_of_their_own() {
    let (taken, otlp) = grpc_receiver().await;
    let server = server(otlp).await;
    let mut short = node("orders", "a", 9);
    short["timeOut"] = json!(1);
    server.register(short).await;
    let expiry = taken.work("expire leases").await;
    let election = taken.work("election").await;
    assert_eq!(attribute(&election, "maxine.term").as_deref(), Some("1"));
    assert_eq!(attribute(&expiry, "maxine.expired").as_deref(), Some("1"));
    let instances = attribute(&expiry, "maxine.instances").unwrap();
    assert!(instances.contains("orders"), "{instances}");
    for span in [&election, &expiry] {
        assert!(span.parent_span_id.is_empty() && span.status.is_none(), "{span:?}");
    }
    assert_ne!(election.trace_id, expiry.trace_id);
    let links: Vec<_> = expiry.links.iter().map(|link| &link.span_id).collect();
    assert_eq!(links, [&election.span_id]);
    let spans = taken.spans();
    let apply = spans.iter().find(|span| span.parent_span_id == expiry.span_id);
    assert!(apply.is_some(), "the expiry was applied on this node");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sampling_only_failures_are_exported_over_http() {
    let (taken, otlp) = http_receiver().await;
    let server = server(OtlpSettings { sample_ratio: 0.0, ..otlp }).await;
    let good = server.get("/api/actuator/health").send().await.unwrap();
    let unsampled = good.headers()["traceparent"].to_str().unwrap().to_owned();
    assert!(unsampled.ends_with("-00"), "{unsampled}");
    let failed = server.get("/api/maxine/serviceops/proxy/nobody/x").send().await.unwrap();
    assert_eq!(failed.status(), StatusCode::SERVICE_UNAVAILABLE);
    let failed = failed.headers()["traceparent"].to_str().unwrap().to_owned();
    let spans = taken.trace(ids(&failed).0, "GET proxied").await;
    let span = &spans["GET proxied"];
    assert_eq!(attribute(span, "maxine.exported_because").as_deref(), Some("error"));
    assert!(span.parent_span_id.is_empty());
    let all = taken.spans();
    assert!(all.iter().all(|span| hex(&span.trace_id) != ids(&unsampled).0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_histogram_of_durations_names_exported_traces_in_open_metrics_only() {
    let (taken, otlp) = grpc_receiver().await;
    let server = server(OtlpSettings { sample_ratio: 0.0, ..otlp }).await;
    server.get("/api/actuator/health").header("traceparent", GIVEN).send().await.unwrap();
    taken.trace(ids(GIVEN).0, "GET").await;
    let token = server.admin().await;
    let scrape = async |accept: &str| {
        let request = server.get("/api/actuator/prometheus").bearer_auth(&token);
        let answer = request.header("accept", accept).send().await.unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        (kind, answer.text().await.unwrap())
    };
    let exemplar = format!("# {{trace_id=\"{}\"}} ", ids(GIVEN).0);
    let (kind, text) = scrape("application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(text.contains(&exemplar) && text.ends_with("# EOF\n"), "{text}");
    assert!(text.contains("# TYPE maxine_requests counter\n"), "{text}");
    let counters =
        text.lines().filter(|line| line.starts_with("# TYPE") && line.ends_with("unknown"));
    assert_eq!(counters.count(), 0, "each counter ends with _total: {text}");
    let (kind, text) = scrape("*/*").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(!text.contains("trace_id") && text.contains("# TYPE maxine_requests_total counter\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_a_change_is_not_exported_as_a_slow_one() {
    let (taken, otlp) = grpc_receiver().await;
    let server = server(OtlpSettings { sample_ratio: 0.0, slow_us: 200_000, ..otlp }).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    server.register(node("orders", "a", listener.local_addr().unwrap().port())).await;
    let late = Router::new().fallback(async || {
        tokio::time::sleep(Duration::from_millis(400)).await;
        "late"
    });
    tokio::spawn(async move { axum::serve(listener, late).await.unwrap() });
    let poll = server.get("/api/v1/changes?wait_ms=400").bearer_auth(server.admin().await);
    let waited = poll.send().await.unwrap();
    assert_eq!(waited.status(), 200);
    let waited = waited.headers()["traceparent"].to_str().unwrap().to_owned();
    // Here the query is for the instance.
    let slow = server.get("/api/maxine/serviceops/proxy/orders/x?index=1").send().await.unwrap();
    assert_eq!(slow.status(), 200);
    let slow = slow.headers()["traceparent"].to_str().unwrap().to_owned();
    let spans = taken.trace(ids(&slow).0, "GET proxied orders").await;
    let span = &spans["GET proxied orders"];
    assert_eq!(attribute(span, "maxine.exported_because").as_deref(), Some("slow"));
    let all = taken.spans();
    assert!(all.iter().all(|span| hex(&span.trace_id) != ids(&waited).0));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_the_log_are_exported_without_credentials() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        let (taken, otlp) = receiver_of_lines(protocol).await;
        let outbox = LogOutbox::new(Clock::system(), 64);
        let line = LogLine {
            level: tracing::Level::ERROR,
            target: "maxine_store::redis".into(),
            message: "no connection to redis://me:hunter2@h".into(),
            fields: serde_json::Map::from_iter([("tries".to_owned(), json!(3))]),
        };
        outbox.offer(line);
        let _server = Server::start_with(|options| {
            options.telemetry.otlp = Some(otlp);
            options.telemetry.log_outbox = Some(outbox);
        })
        .await;
        let record = taken.first().await;
        let body = record.body.and_then(|body| body.value);
        let shown = "no connection to redis://me:(hidden)@h";
        assert_eq!(body, Some(Any::StringValue(shown.into())), "{protocol:?}");
        assert_eq!(record.severity_text, "ERROR");
        assert!(record.attributes.iter().any(|attribute| attribute.key == "tries"));
        assert!(record.time_unix_nano > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_receiver_is_away_requests_are_answered_and_the_loss_is_counted() {
    let (taken, otlp) = grpc_receiver().await;
    taken.is_away.store(true, Ordering::SeqCst);
    let server = server(OtlpSettings { queue_max: 16, ..otlp }).await;
    let metrics = server.state.telemetry().metrics().clone();
    while metrics.otlp_lost.get() == 0 || metrics.otlp_failures.get() == 0 {
        let answer = server.get("/api/actuator/health").send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let answer = server.get("/api/actuator/health").header("traceparent", GIVEN).send().await;
    assert_eq!(answer.unwrap().status(), 200);
    assert!(taken.spans().is_empty());
    taken.is_away.store(false, Ordering::SeqCst);
    // The newest are kept.
    taken.trace(ids(GIVEN).0, "GET").await;
    assert!(metrics.otlp_exported.get() >= 1);
}
