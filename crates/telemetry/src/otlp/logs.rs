//! Exports the lines of Maxine's own log over OTLP.
//!
//! Place in the flow: the log offers each line to the [`LogOutbox`], which holds a limited number of them. A task sends
//! them. While the receiver does not answer, the oldest of them make room and are counted. Nothing that logs waits.
//!
//! The log belongs to the process and not to a node, so there is one outbox for the process. The program installs it
//! with the log.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::{Client, Message};
use super::delivery::Delivery;
use super::settings::OtlpSettings;
use super::spans::{Node, bare_text, boolean, double, signed_number, text};
use crate::metrics::DeliveryCounters;
use crate::secrets::hide_credentials;
use crate::span_name::SpanName;
use maxine_clock::Clock;

/// Maximum number of lines that are sent together.
const BATCH_MAX: usize = 512;
/// Maximum time that a line waits for others to be sent with.
const ROUND: Duration = Duration::from_secs(1);
/// The libraries that send the lines. Their own lines are not exported, because each delivery would make further ones.
const SENDERS: [&str; 6] = ["h2", "hyper", "reqwest", "rustls", "tonic", "tower"];

tokio::task_local! {
    static CURRENT: SpanName;
}

/// Runs the future of a request. Lines that it logs itself, and not through other tasks, belong to this span.
pub async fn in_span<F: Future>(span: SpanName, future: F) -> F::Output {
    CURRENT.scope(span, future).await
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// The level.
    pub level: tracing::Level,
    /// The module.
    pub target: String,
    /// The message.
    pub message: String,
    /// The fields.
    pub fields: Map<String, Value>,
}

#[derive(Debug)]
struct Waiting {
    line: LogLine,
    /// When it was logged, in milliseconds since 1970.
    at_ms: u64,
    span: Option<SpanName>,
}

#[derive(Debug)]
struct Inner {
    clock: Clock,
    len_max: usize,
    queue: Mutex<VecDeque<Waiting>>,
    /// Lines that made room and are not counted yet.
    lost: AtomicU64,
    /// Wakes the sender when half of the lines or a batch wait.
    filled: Notify,
}

/// The lines of the log that wait for their export. Clones are cheap.
#[derive(Clone, Debug)]
pub struct LogOutbox(Arc<Inner>);

static INSTALLED: OnceLock<LogOutbox> = OnceLock::new();

impl LogOutbox {
    /// An outbox for at most `len_max` lines.
    #[must_use]
    pub fn new(clock: Clock, len_max: usize) -> Self {
        Self(Arc::new(Inner {
            clock,
            len_max: len_max.max(1),
            queue: Mutex::default(),
            lost: AtomicU64::new(0),
            filled: Notify::new(),
        }))
    }

    /// Makes this the outbox of the process. Only the first call has an effect.
    pub fn install(self) {
        let _already_installed = INSTALLED.set(self);
    }

    /// The outbox of the process. `None` if the log is not exported.
    #[must_use]
    pub fn of_process() -> Option<Self> {
        INSTALLED.get().cloned()
    }

    /// Takes a line. It never waits.
    pub fn offer(&self, line: LogLine) {
        let first = line.target.split("::").next().unwrap_or_default();
        if SENDERS.iter().any(|sender| first == *sender || first == format!("{sender}_util")) {
            return;
        }
        let span = CURRENT.try_with(|span| *span).ok();
        let inner = &*self.0;
        let waiting = Waiting { line, at_ms: inner.clock.wall_ms(), span };
        let mut queue = inner.queue.lock();
        if queue.len() >= inner.len_max {
            queue.pop_front();
            inner.lost.fetch_add(1, Ordering::Relaxed);
        }
        queue.push_back(waiting);
        let len = queue.len();
        drop(queue);
        if len == BATCH_MAX.min(inner.len_max.div_ceil(2)) {
            inner.filled.notify_one();
        }
    }

    fn take(&self) -> Vec<Waiting> {
        let mut queue = self.0.queue.lock();
        let len = queue.len().min(BATCH_MAX);
        queue.drain(..len).collect()
    }
}

/// Exports the log, until it is stopped.
pub(crate) struct LogExporter {
    outbox: LogOutbox,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
    timeout: Duration,
    lost: prometheus::IntCounter,
}

impl LogExporter {
    /// Starts the sender. Must be called inside a tokio runtime.
    pub(crate) fn start(
        settings: &OtlpSettings,
        (node, cluster): (&str, &str),
        clock: Clock,
        counters: DeliveryCounters,
        outbox: LogOutbox,
    ) -> Result<Self, String> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
        let stop = CancellationToken::new();
        let lost = counters.lost.clone();
        let client = Client::new(settings)?;
        let sender = Sender {
            outbox: outbox.clone(),
            node: Node::new(node, cluster, &settings.attributes),
            lost: lost.clone(),
            stop: stop.clone(),
            delivery: Delivery::new(client, clock, stop.clone(), counters, "lines of the log"),
        };
        let task = Mutex::new(Some(runtime.spawn(sender.run())));
        let timeout = Duration::from_millis(settings.timeout_ms);
        Ok(Self { outbox, stop, task, timeout, lost })
    }

    /// Sends what waits, within the time limit of one delivery, and ends the sender. It may be called more than once.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        let Some(mut task) = self.task.lock().take() else { return };
        if tokio::time::timeout(self.timeout, &mut task).await.is_err() {
            task.abort();
        }
        let left = std::mem::take(&mut *self.outbox.0.queue.lock()).len();
        self.lost.inc_by(left as u64 + self.outbox.0.lost.swap(0, Ordering::Relaxed));
    }
}

struct Sender {
    outbox: LogOutbox,
    node: Node,
    lost: prometheus::IntCounter,
    stop: CancellationToken,
    delivery: Delivery,
}

impl Sender {
    async fn run(mut self) {
        let stop = self.stop.clone();
        let outbox = self.outbox.clone();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = outbox.0.filled.notified() => {}
                () = tokio::time::sleep(ROUND) => {}
            }
            loop {
                self.lost.inc_by(outbox.0.lost.swap(0, Ordering::Relaxed));
                let batch = outbox.take();
                if batch.is_empty() {
                    break;
                }
                let number = batch.len() as u64;
                let records = batch.iter().map(record_of).collect();
                let message = Message::Logs(message(&self.node, records));
                self.delivery.deliver(message, number, number).await;
            }
        }
    }
}

fn message(node: &Node, records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    ExportLogsServiceRequest { resource_logs: vec![node.logs(records)] }
}

/// A line as OTLP has it, without credentials.
fn record_of(waiting: &Waiting) -> LogRecord {
    let Waiting { line, at_ms, span } = waiting;
    let at_ns = at_ms.saturating_mul(1_000_000);
    let mut attributes = vec![text("maxine.module", &line.target)];
    attributes.extend(line.fields.iter().map(|(name, value)| match value {
        Value::Bool(value) => boolean(name, *value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => signed_number(name, number),
            (None, Some(number)) => double(name, number),
            (None, None) => text(name, &number.to_string()),
        },
        Value::String(value) => text(name, &hide_credentials(value)),
        other => text(name, &hide_credentials(&other.to_string())),
    }));
    // The numbers of OpenTelemetry: 1 TRACE, 5 DEBUG, 9 INFO, 13 WARN, 17 ERROR.
    let severity_number = match line.level {
        tracing::Level::ERROR => 17,
        tracing::Level::WARN => 13,
        tracing::Level::INFO => 9,
        tracing::Level::DEBUG => 5,
        _ => 1,
    };
    LogRecord {
        time_unix_nano: at_ns,
        observed_time_unix_nano: at_ns,
        severity_number,
        severity_text: line.level.as_str().into(),
        body: Some(bare_text(&hide_credentials(&line.message))),
        attributes,
        trace_id: span.map(|span| span.trace.to_vec()).unwrap_or_default(),
        span_id: span.map(|span| span.id.to_be_bytes().to_vec()).unwrap_or_default(),
        flags: span.map_or(0, |span| u32::from(span.is_sampled)),
        ..LogRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    use serde_json::json;

    use super::*;

    fn line(message: &str) -> LogLine {
        LogLine {
            level: tracing::Level::WARN,
            target: "maxine_raft::node".into(),
            message: message.into(),
            fields: Map::new(),
        }
    }

    #[test]
    fn of_too_many_waiting_lines_the_oldest_are_lost_and_counted() {
        let outbox = LogOutbox::new(Clock::manual(), 3);
        (0..5).for_each(|number| outbox.offer(line(&number.to_string())));
        let kept: Vec<String> = outbox.take().into_iter().map(|w| w.line.message).collect();
        assert_eq!(kept, ["2", "3", "4"]);
        assert_eq!(outbox.0.lost.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_libraries_that_send_lines_make_no_further_ones() {
        let outbox = LogOutbox::new(Clock::manual(), 8);
        for target in ["h2::client", "hyper_util::client", "tonic", "tower::buffer"] {
            outbox.offer(LogLine { target: target.into(), ..line("sent") });
        }
        outbox.offer(LogLine { target: "maxine_telemetry::otlp".into(), ..line("kept") });
        assert_eq!(outbox.take().len(), 1);
    }

    #[tokio::test]
    async fn a_line_has_its_level_its_fields_its_span_and_no_credential() {
        let outbox = LogOutbox::new(Clock::manual(), 8);
        let span = SpanName { trace: [7; 16], id: 9, is_sampled: true };
        let fields = json!({"url": "redis://me:hunter2@h", "node": 2, "share": 0.5, "ok": true});
        let fields = fields.as_object().unwrap().clone();
        let logged = LogLine { fields, ..line("the token mxt_maxine_0a1b_s3cret is refused") };
        in_span(span, async { outbox.offer(logged) }).await;
        outbox.offer(line("outside of a request"));
        let waiting = outbox.take();
        let [inside, outside] = &waiting[..] else { panic!("two lines") };
        let record = record_of(inside);
        assert_eq!((record.severity_number, &*record.severity_text), (13, "WARN"));
        assert_eq!((record.trace_id.as_slice(), record.flags), (&[7; 16][..], 1));
        assert_eq!(record.span_id, 9_u64.to_be_bytes());
        let value = |name: &str| {
            let found = record.attributes.iter().find(|each| each.key == name);
            found.and_then(|each| each.value.clone()).and_then(|value| value.value)
        };
        assert_eq!(value("maxine.module"), Some(Any::StringValue("maxine_raft::node".into())));
        assert_eq!(value("url"), Some(Any::StringValue("redis://me:(hidden)@h".into())));
        assert_eq!(value("node"), Some(Any::IntValue(2)));
        assert_eq!(value("share"), Some(Any::DoubleValue(0.5)));
        assert_eq!(value("ok"), Some(Any::BoolValue(true)));
        let body = record.body.and_then(|body| body.value);
        assert_eq!(body, Some(Any::StringValue("the token mxt_(hidden) is refused".into())));
        assert!(record_of(outside).trace_id.is_empty());
    }
}
