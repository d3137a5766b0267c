//! Traces the requests to nodes and the uses of instances.
//!
//! [`TracingTracer`] makes spans of the crate `tracing`, and passes the trace on by `traceparent` (W3C Trace Context).
//! For another library, implement [`Tracer`].

use std::fmt;
use std::str::FromStr;

use http::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};

tokio::task_local! {
    static PARENT: TraceParent;
}

const FIELD: &str = "traceparent";

/// What a span is about. All values are valid only during [`Tracer::start`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Traced<'a> {
    /// A request to a node, until its answer begins.
    #[non_exhaustive]
    Node {
        /// The URL of the node.
        node: &'a str,
        /// The method.
        method: &'a Method,
        /// The path, with the query.
        path: &'a str,
    },
    /// The use of an instance, from its choice to the end of the request.
    #[non_exhaustive]
    Instance {
        /// The namespace of the service.
        namespace: &'a str,
        /// The service.
        service: &'a str,
        /// The name of the instance in its service.
        instance: &'a str,
        /// The URL at which it is reached.
        address: &'a str,
    },
}

/// How a request to a node or the use of an instance has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome<'a> {
    /// The status of the answer, if there was one.
    pub status: Option<StatusCode>,
    /// Why there was no answer.
    pub error: Option<&'a str>,
    /// Whether the instance could not be reached. It is avoided for some seconds.
    pub failed: bool,
}

/// Begins spans. Its functions must return soon, and must not block.
pub trait Tracer: Send + Sync {
    /// Begins a span; `None` if nothing is recorded. It is called in the task that makes the request.
    fn start(&self, about: &Traced<'_>) -> Option<Box<dyn Span>>;
}

/// One span of a [`Tracer`]. It is dropped at its end. A request that was given up is dropped without [`Span::end`].
pub trait Span: Send + Sync {
    /// Sets the header fields that pass the trace on.
    fn inject(&self, headers: &mut HeaderMap);

    /// Records how it has ended.
    fn end(&self, outcome: &Outcome<'_>);
}

/// A position in a trace: the field `traceparent` of W3C Trace Context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

impl TraceParent {
    /// That of a request; `None` if the field is missing or not valid.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        headers.get(FIELD)?.to_str().ok()?.parse().ok()
    }

    /// The beginning of a new trace, which is sampled.
    fn root() -> Self {
        let random = || u128::from(fastrand::u64(1..));
        Self { trace_id: random() << 64 | random(), span_id: fastrand::u64(1..), sampled: true }
    }

    /// A new span of the same trace.
    fn child(self) -> Self {
        Self { span_id: fastrand::u64(1..), ..self }
    }
}

/// A text that is no valid `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent of W3C Trace Context")]
pub struct InvalidTraceParent;

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut parts = text.split('-');
        let mut number = |digits: usize| -> Result<u128, InvalidTraceParent> {
            let part = parts.next().ok_or(InvalidTraceParent)?;
            let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            if part.len() != digits || !part.bytes().all(is_hex) {
                return Err(InvalidTraceParent);
            }
            u128::from_str_radix(part, 16).map_err(|_| InvalidTraceParent)
        };
        let (version, trace_id) = (number(2)?, number(32)?);
        let (span_id, flags) = (number(16)?, number(2)?);
        let span_id = u64::try_from(span_id).map_err(|_| InvalidTraceParent)?;
        // Later versions may have more parts.
        let has_more = parts.next().is_some();
        if version == 0xff || trace_id == 0 || span_id == 0 || (version == 0 && has_more) {
            return Err(InvalidTraceParent);
        }
        Ok(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace_id, self.span_id)
    }
}

/// Runs `work` within a trace, for example that of a request that a server handles. What `work` sends continues the
/// trace, except in tasks that it spawns.
pub async fn within<F: Future>(parent: TraceParent, work: F) -> F::Output {
    PARENT.scope(parent, work).await
}

/// Makes spans of the crate `tracing`, at the level `INFO`, with the target `maxine_client`.
///
/// The fields have the names of OpenTelemetry. A request to a node has a span only within another one: work in the
/// background has none. The trace continues that of [`within`]; the use of an instance also continues the `traceparent`
/// that the request has already, or begins a new trace.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingTracer;

impl Tracer for TracingTracer {
    fn start(&self, about: &Traced<'_>) -> Option<Box<dyn Span>> {
        let (span, is_root) = match about {
            Traced::Node { node, method, path } => {
                if tracing::Span::current().is_none() {
                    return None;
                }
                let span = tracing::info_span!(
                    target: "maxine_client",
                    "request to a node",
                    otel.kind = "client",
                    otel.name = method.as_str(),
                    http.request.method = method.as_str(),
                    url.full = format!("{node}{path}"),
                    http.response.status_code = tracing::field::Empty,
                    "error.type" = tracing::field::Empty,
                    "error.message" = tracing::field::Empty,
                    trace_id = tracing::field::Empty,
                    span_id = tracing::field::Empty,
                );
                (span, false)
            }
            Traced::Instance { namespace, service, instance, address } => {
                let span = tracing::info_span!(
                    target: "maxine_client",
                    "use of an instance",
                    otel.kind = "client",
                    otel.name = *service,
                    service.peer.name = *service,
                    service.peer.namespace = *namespace,
                    maxine.instance = *instance,
                    maxine.address = *address,
                    http.response.status_code = tracing::field::Empty,
                    "error.type" = tracing::field::Empty,
                    "error.message" = tracing::field::Empty,
                    trace_id = tracing::field::Empty,
                    span_id = tracing::field::Empty,
                );
                (span, true)
            }
        };
        if span.is_disabled() {
            return None;
        }
        Some(Box::new(TracingSpan { span, may_begin: is_root }))
    }
}

struct TracingSpan {
    span: tracing::Span,
    /// Whether a new trace begins if there is none to continue.
    may_begin: bool,
}

impl Span for TracingSpan {
    fn inject(&self, headers: &mut HeaderMap) {
        let parent = TraceParent::of(headers).or_else(|| PARENT.try_with(|parent| *parent).ok());
        let own = match parent {
            Some(parent) => parent.child(),
            None if self.may_begin => TraceParent::root(),
            None => return,
        };
        let Ok(value) = HeaderValue::from_str(&own.to_string()) else { return };
        headers.insert(FIELD, value);
        self.span.record("trace_id", format!("{:032x}", own.trace_id));
        self.span.record("span_id", format!("{:016x}", own.span_id));
    }

    fn end(&self, outcome: &Outcome<'_>) {
        if let Some(status) = outcome.status {
            self.span.record("http.response.status_code", status.as_u16());
            if status.as_u16() >= 400 {
                self.span.record("error.type", status.as_str());
            }
        }
        if let Some(error) = outcome.error {
            self.span.record("error.type", "no_answer");
            self.span.record("error.message", error);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_that_is_not_valid_is_not_continued() {
        let parsed: TraceParent = VALID.parse().unwrap();
        assert_eq!(parsed.to_string(), VALID);
        let child = parsed.child();
        assert!(child.trace_id == parsed.trace_id && child.span_id != parsed.span_id);
        assert!(format!("cc{}-more", &VALID[2..]).parse::<TraceParent>().is_ok());
        for wrong in [
            String::new(),
            VALID.to_uppercase(),
            format!("ff{}", &VALID[2..]),
            format!("{VALID}-more"),
            VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            VALID.replace("00f067aa0ba902b7", &"0".repeat(16)),
            VALID.replace("00f067", "+0f067"),
            VALID[..53].to_owned(),
        ] {
            assert_eq!(wrong.parse::<TraceParent>(), Err(InvalidTraceParent), "{wrong}");
        }
    }

    #[test]
    fn a_new_trace_has_ids_that_are_valid() {
        for _ in 0..100 {
            let root = TraceParent::root();
            assert_eq!(root.to_string().parse::<TraceParent>(), Ok(root));
        }
    }
}
