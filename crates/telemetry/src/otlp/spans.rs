//! Makes the spans of a finished request.
//!
//! The names of attributes are those of OpenTelemetry's semantic conventions for HTTP. What these do not name begins
//! with `maxine.`.

use std::net::IpAddr;

use http::{Method, Version};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use super::Why;
use crate::span_name::SpanName;
use crate::{AttemptOutcome, AttemptRecord, FinishedRequest, Subject};
use maxine_view::WriteRecord;

/// The convention that the names of attributes follow.
const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.37.0";
/// Numbers of the spans below that of the request. The numbers before these are those of attempts.
const CHOICES_FROM: u64 = 1_025;
/// See [`CHOICES_FROM`].
const WRITES_FROM: u64 = 2_049;
/// Number of spans that a write may have.
const SPANS_OF_WRITE: u64 = 8;
/// Maximum number of writes of one request that get spans.
const WRITES_MAX: usize = 64;

/// The attributes of this node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    resource: Resource,
}

impl Node {
    pub(super) fn new(node: &str, cluster: &str, others: &[(String, String)]) -> Self {
        let own = [
            text("service.name", "maxine"),
            text("service.namespace", cluster),
            text("service.instance.id", node),
            text("service.version", env!("CARGO_PKG_VERSION")),
            number("process.pid", u64::from(std::process::id())),
        ];
        let is_own = |name: &str| own.iter().any(|attribute| attribute.key == name);
        let others = others.iter().filter(|(name, _)| !is_own(name));
        let others: Vec<KeyValue> = others.map(|(name, value)| text(name, value)).collect();
        let attributes = own.iter().cloned().chain(others).collect();
        Self { resource: Resource { attributes, ..Resource::default() } }
    }

    /// The lines of the log for a receiver.
    pub(super) fn logs(&self, log_records: Vec<LogRecord>) -> ResourceLogs {
        let schema_url = SCHEMA_URL.to_owned();
        let records =
            ScopeLogs { scope: Some(scope()), log_records, schema_url: schema_url.clone() };
        let resource = Some(self.resource.clone());
        ResourceLogs { resource, scope_logs: vec![records], schema_url }
    }

    /// The message for a receiver.
    pub(super) fn message(&self, spans: Vec<Span>) -> ExportTraceServiceRequest {
        let spans = ScopeSpans { scope: Some(scope()), spans, schema_url: SCHEMA_URL.into() };
        let spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![spans],
            schema_url: SCHEMA_URL.into(),
        };
        ExportTraceServiceRequest { resource_spans: vec![spans] }
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "maxine".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

/// Appends the spans of a request. There are none if the request has no span of this node.
pub(super) fn push_spans(
    out: &mut Vec<Span>,
    request: &FinishedRequest,
    wall_offset_us: i64,
    why: Why,
) {
    let Some(own) = request.traceparent.span() else { return };
    let times = Times { own, wall_offset_us };
    let end_us = request.started_us + request.duration_us;
    let mut span = times.span(own.id, 0, (request.started_us, end_us));
    span.parent_span_id =
        request.parent_span.map(|id| id.get().to_be_bytes().to_vec()).unwrap_or_default();
    span.kind = SpanKind::Server.into();
    (span.name, span.attributes) = describe(request);
    span.attributes.push(text("maxine.exported_because", why.as_str()));
    let status = request.status.as_u16();
    if status >= 500 {
        let attempts = request.attempts.as_slice();
        let failure = attempts.last().and_then(|attempt| match attempt.outcome {
            AttemptOutcome::Failed(code) => Some(code.to_owned()),
            AttemptOutcome::Answered(_) | AttemptOutcome::LostHedge => None,
        });
        fail(&mut span, &failure.unwrap_or_else(|| status.to_string()));
    }
    out.push(span);
    for attempt in request.attempts.as_slice() {
        out.push(choice(&times, attempt));
        out.push(attempt_span(&times, &request.method, attempt));
    }
    for (at, write) in (0..).zip(request.writes.iter().take(WRITES_MAX)) {
        push_write(out, &times, WRITES_FROM + at * SPANS_OF_WRITE, write);
    }
}

/// Makes the spans of one request or of other work.
pub(super) struct Times {
    pub(super) own: SpanName,
    /// What is added to a time on the monotonic clock, in microseconds, for the time since 1970.
    pub(super) wall_offset_us: i64,
}

impl Times {
    fn nanos(&self, monotonic_us: u64) -> u64 {
        monotonic_us.saturating_add_signed(self.wall_offset_us).saturating_mul(1_000)
    }

    /// A span with an id below another one, and its times on the monotonic clock.
    pub(super) fn span(&self, id: u64, parent: u64, (start_us, end_us): (u64, u64)) -> Span {
        let parent = if parent == 0 { Vec::new() } else { parent.to_be_bytes().to_vec() };
        Span {
            trace_id: self.own.trace.to_vec(),
            span_id: id.to_be_bytes().to_vec(),
            parent_span_id: parent,
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: self.nanos(start_us),
            end_time_unix_nano: self.nanos(end_us.max(start_us)),
            flags: u32::from(self.own.is_sampled),
            ..Span::default()
        }
    }
}

/// The name and the attributes of the span of a request.
fn describe(request: &FinishedRequest) -> (String, Vec<KeyValue>) {
    let (method, mut attributes) = method_of(&request.method);
    let (kind, service) = match &request.subject {
        Subject::Lookup(service) => ("lookup", service.as_ref()),
        Subject::Proxied(service) => ("proxied", service.as_ref()),
        Subject::Registration => ("registration", None),
        Subject::Other => ("other", None),
    };
    attributes.extend([
        number("http.response.status_code", u64::from(request.status.as_u16())),
        text("url.scheme", if request.is_https { "https" } else { "http" }),
        text("url.path", request.path()),
        text("client.address", &shown(request.client)),
        text("network.protocol.version", protocol(request.version)),
        text("maxine.kind", kind),
        text("maxine.trace_id", &request.trace_id.text()),
    ]);
    if let Some((_, query)) = request.target.split_once('?') {
        attributes.push(text("url.query", query));
    }
    let Some(service) = service else {
        let name = if kind == "other" { method.to_owned() } else { format!("{method} {kind}") };
        return (name, attributes);
    };
    let key = &service.key;
    attributes.push(text("maxine.namespace", key.namespace.as_str()));
    attributes.push(text("maxine.service", key.service.as_str()));
    // Only services that are registered have a counter, so clients cannot make any number of names.
    (format!("{method} {kind} {}", key.service), attributes)
}

fn choice(times: &Times, attempt: &AttemptRecord) -> Span {
    let id = times.own.below(CHOICES_FROM + u64::from(attempt.number)).id;
    let mut span = times.span(id, times.own.id, (attempt.choosing_us, attempt.started_us));
    span.name = "choose instance".into();
    span.attributes = vec![text("maxine.instance", attempt.instance.registration.id.as_str())];
    span
}

fn attempt_span(times: &Times, method: &Method, attempt: &AttemptRecord) -> Span {
    let AttemptRecord { instance, number: nth, started_us, duration_us, outcome, .. } = attempt;
    let id = times.own.of_attempt(*nth).id;
    let mut span = times.span(id, times.own.id, (*started_us, started_us + duration_us));
    let (name, attributes) = method_of(method);
    span.kind = SpanKind::Client.into();
    span.name = name.into();
    span.attributes = attributes;
    let address = &instance.registration.address;
    let parts = address.parts();
    span.attributes.extend([
        text("server.address", parts.host),
        number("server.port", u64::from(parts.http_port())),
        text("maxine.address", address.as_str()),
        text("maxine.instance", instance.registration.id.as_str()),
    ]);
    if *nth > 1 {
        span.attributes.push(number("http.request.resend_count", u64::from(nth - 1)));
    }
    match outcome {
        AttemptOutcome::Answered(status) => {
            let status = status.as_u16();
            span.attributes.push(number("http.response.status_code", u64::from(status)));
            if status >= 400 {
                fail(&mut span, &status.to_string());
            }
        }
        AttemptOutcome::Failed(code) => fail(&mut span, code),
        AttemptOutcome::LostHedge => {
            span.attributes.push(text("maxine.attempt.outcome", "lost_hedge"));
        }
    }
    span
}

fn push_write(out: &mut Vec<Span>, times: &Times, from: u64, write: &WriteRecord) {
    let id = |number: u64| times.own.below(from + number).id;
    let mut whole = times.span(id(0), times.own.id, (write.submitted_us, write.answered_us));
    whole.name = "write".into();
    if let Some(error) = &write.error {
        fail(&mut whole, "write_failed");
        whole.status = Some(Status { message: error.clone(), code: StatusCode::Error.into() });
    }
    let Some(stages) = &write.stages else { return out.push(whole) };
    whole.attributes.push(number("maxine.index", stages.index));
    whole.attributes.push(number("maxine.batch.size", stages.batch_len as u64));
    out.push(whole);
    let mut part = |number: u64, parent: u64, name: &str, start_us: u64, end_us: u64| {
        let mut span = times.span(id(number), id(parent), (start_us, end_us));
        span.name = name.into();
        out.push(span);
    };
    part(1, 0, "actor mailbox", write.submitted_us, stages.received_us);
    part(2, 0, "wait for batch", stages.received_us, stages.proposed_us);
    part(3, 0, "proposal", stages.proposed_us, stages.decided_us);
    if let Some((began_us, ended_us)) = stages.applied_us {
        part(4, 3, "commit", stages.proposed_us, began_us);
        part(5, 3, "apply", began_us, ended_us);
    }
}

fn fail(span: &mut Span, kind: &str) {
    span.attributes.push(text("error.type", kind));
    span.status = Some(Status { message: String::new(), code: StatusCode::Error.into() });
}

/// The method in the names of spans, and its attributes. A client can send any method. One that the conventions do not
/// know is `HTTP` in names and `_OTHER` as the method.
fn method_of(method: &Method) -> (&'static str, Vec<KeyValue>) {
    const KNOWN: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let Some(known) = KNOWN.into_iter().find(|known| *known == method.as_str()) else {
        let original = text("http.request.method_original", method.as_str());
        return ("HTTP", vec![text("http.request.method", "_OTHER"), original]);
    };
    (known, vec![text("http.request.method", known)])
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn shown(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub(super) fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

pub(super) fn signed_number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

pub(super) fn double(key: &str, value: f64) -> KeyValue {
    attribute(key, Value::DoubleValue(value))
}

pub(super) fn boolean(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}

/// A text that is not an attribute.
pub(super) fn bare_text(value: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(value.into())) }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}
