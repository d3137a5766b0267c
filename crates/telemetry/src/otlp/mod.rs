//! Exports the spans of finished requests, and of other work of this node, over OTLP.
//!
//! Place in the flow: the writer of the request log passes each finished request to [`Exporter::offer`], away from the
//! path of requests. A request whose trace is sampled, that failed, or that was slow is put into a bounded queue. A task
//! makes spans of the waiting requests and sends them. While the receiver does not answer, the oldest of them make room
//! and are counted. Nothing here makes a request wait.
//!
//! Elections, snapshots, expiry, verdicts on health, and backups wait in the same queue. The view passes them to
//! [`Exporter::offer_work`]. Each is a trace of its own, with a link to the trace that explains it.
//!
//! A request is judged when it has ended, so no decision at its start can miss a failure. The spans of other
//! services in such a trace exist only if those services export them.

mod client;
mod delivery;
mod logs;
mod settings;
mod spans;
mod work;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::declare::signed;
use crate::span_name::read;
use crate::{FinishedRequest, Metrics, Sampler, SpanName, Subject};
use client::{Client, Message};
use delivery::Delivery;
use maxine_clock::Clock;
use maxine_view::{Work, WorkKind};
use spans::Node;
use work::{Link, TracedWork};

pub(super) use logs::LogExporter;
pub use logs::{LogLine, LogOutbox, in_span};
pub(crate) use settings::read_authorities;
pub use settings::{OtlpProtocol, OtlpSettings};

/// Maximum number of requests and of other work that is sent together.
const BATCH_MAX: usize = 256;
/// Maximum time that a request waits for others to be sent with.
const ROUND: Duration = Duration::from_secs(1);

/// Why a request or other work is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The client or the sampler decided it at the start.
    Sampled,
    /// It was answered with a status of 500 or more.
    Error,
    /// It took long, and did not wait for a change.
    Slow,
    /// It is work that happens so rarely that each time is worth knowing.
    Rare,
}

impl Why {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sampled => "sampled",
            Self::Error => "error",
            Self::Slow => "slow",
            Self::Rare => "rare",
        }
    }
}

/// What is exported.
#[derive(Debug)]
enum What {
    Request(FinishedRequest),
    Work(TracedWork),
}

/// A request or other work that waits for its export.
#[derive(Debug)]
struct Waiting {
    what: What,
    /// What is added to a time on the monotonic clock, in microseconds, for the time since 1970.
    wall_offset_us: i64,
    why: Why,
}

struct Shared {
    clock: Clock,
    metrics: Metrics,
    sampler: Sampler,
    slow_us: u64,
    queue_max: usize,
    queue: Mutex<VecDeque<Waiting>>,
    /// The span of the last election that gave this node the lead.
    election: Mutex<Option<SpanName>>,
    /// Wakes the sender when [`Shared::wake_len`] requests wait.
    filled: Notify,
}

/// Exports traces, until it is stopped.
pub(super) struct Exporter {
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
    timeout: Duration,
}

impl Exporter {
    /// Starts the sender. Must be called inside a tokio runtime.
    pub(super) fn start(
        settings: &OtlpSettings,
        (node, cluster): (&str, &str),
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Arc<Self>, String> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
        let client = Client::new(settings)?;
        let shared = Arc::new(Shared {
            clock,
            metrics,
            sampler: Sampler::new(settings.sample_ratio),
            slow_us: settings.slow_us,
            queue_max: settings.queue_max.max(1),
            queue: Mutex::default(),
            election: Mutex::default(),
            filled: Notify::new(),
        });
        let stop = CancellationToken::new();
        let counters = shared.metrics.otlp_counters();
        let clock = shared.clock.clone();
        let sender = Sender {
            shared: Arc::clone(&shared),
            node: Node::new(node, cluster, &settings.attributes),
            stop: stop.clone(),
            delivery: Delivery::new(client, clock, stop.clone(), counters, "traces"),
        };
        let task = Mutex::new(Some(runtime.spawn(sender.run())));
        let timeout = Duration::from_millis(settings.timeout_ms);
        Ok(Arc::new(Self { shared, stop, task, timeout }))
    }

    /// Decides which new traces are exported.
    pub(super) fn sampler(&self) -> Sampler {
        self.shared.sampler
    }

    /// Takes a finished request if it is to be exported. `wall_offset_us` is what is added to a time on the monotonic
    /// clock for the time since 1970.
    pub(super) fn offer(&self, request: &FinishedRequest, wall_offset_us: i64) {
        let shared = &self.shared;
        let Some(why) = shared.why(request) else { return };
        if let Some(span) = request.traceparent.span() {
            let ended_us = request.started_us + request.duration_us;
            let at_ms = ended_us.saturating_add_signed(wall_offset_us) / 1_000;
            // The conversion is exact far beyond the duration of any request.
            shared.metrics.exemplars.note(span.trace, request.duration_us as f64 / 1e6, at_ms);
        }
        shared.push(Waiting { what: What::Request(request.clone()), wall_offset_us, why });
    }

    /// Takes a record of other work if it is to be exported.
    pub(super) fn offer_work(&self, work: Work) {
        let shared = &self.shared;
        let asked_by = work.asked_by.as_deref().and_then(|parent| read(parent.as_bytes()));
        let (mut span, _) = shared.sampler.span_of(None);
        if let Some((.., is_sampled)) = asked_by {
            span.is_sampled = is_sampled;
        }
        let link = match asked_by {
            Some((trace, id, is_sampled)) => {
                Some(Link { to: SpanName { trace, id: id.get(), is_sampled }, because: "request" })
            }
            None => shared.link_to_election(&work, span),
        };
        let Some(why) = shared.why_work(&work, span) else { return };
        let clock = &shared.clock;
        let wall_offset_us = signed(clock.wall_ms() * 1_000) - signed(clock.monotonic_us());
        let what = What::Work(TracedWork { work, span, link });
        shared.push(Waiting { what, wall_offset_us, why });
    }

    /// Sends what waits, within the time limit of one delivery, and ends the sender. It may be called more than once.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        let Some(mut task) = self.task.lock().take() else { return };
        if tokio::time::timeout(self.timeout, &mut task).await.is_err() {
            task.abort();
        }
        let left = std::mem::take(&mut *self.shared.queue.lock()).len();
        self.shared.metrics.otlp_lost.inc_by(left as u64);
        self.shared.metrics.otlp_queued(0);
    }
}

impl Shared {
    fn push(&self, waiting: Waiting) {
        let mut queue = self.queue.lock();
        // The newest are kept: they are what somebody looks for once the receiver is back.
        let lost = if queue.len() >= self.queue_max { queue.pop_front() } else { None };
        queue.push_back(waiting);
        let len = queue.len();
        drop(queue);
        self.metrics.otlp_queued(len);
        if lost.is_some() {
            self.metrics.otlp_lost.inc();
        }
        if len == self.wake_len() {
            self.filled.notify_one();
        }
    }

    /// The election to which work is linked: for an election the one before it on this node, and for what only the
    /// leader does the one that gave this node the lead.
    fn link_to_election(&self, work: &Work, span: SpanName) -> Option<Link> {
        let because = match work.kind {
            WorkKind::Election => "previous_election",
            // A backup for which no request asked is a scheduled one.
            WorkKind::Expiry | WorkKind::Verdicts | WorkKind::Backup => "leader_since",
            WorkKind::SnapshotWritten | WorkKind::SnapshotInstalled => return None,
        };
        let mut election = self.election.lock();
        let link = election.map(|to| Link { to, because });
        if work.kind == WorkKind::Election && work.outcome.error.is_none() {
            *election = Some(span);
        }
        link
    }

    fn why_work(&self, work: &Work, span: SpanName) -> Option<Why> {
        let took_us = work.ended_us.saturating_sub(work.began_us);
        if span.is_sampled {
            return Some(Why::Sampled);
        }
        if work.outcome.error.is_some() {
            return Some(Why::Error);
        }
        match work.kind {
            WorkKind::Election | WorkKind::SnapshotInstalled | WorkKind::Backup => Some(Why::Rare),
            WorkKind::SnapshotWritten | WorkKind::Expiry | WorkKind::Verdicts => {
                (self.slow_us > 0 && took_us >= self.slow_us).then_some(Why::Slow)
            }
        }
    }

    fn why(&self, request: &FinishedRequest) -> Option<Why> {
        let span = request.traceparent.span()?;
        if span.is_sampled {
            Some(Why::Sampled)
        } else if request.status.is_server_error() {
            Some(Why::Error)
        } else if self.is_slow(request) {
            Some(Why::Slow)
        } else {
            None
        }
    }

    fn is_slow(&self, request: &FinishedRequest) -> bool {
        let waited = request.is_long_poll && !matches!(request.subject, Subject::Proxied(_));
        self.slow_us > 0 && request.duration_us >= self.slow_us && !waited
    }

    /// Number of waiting records that wakes the sender: a batch, or half of a queue that is smaller than two batches.
    /// Such a queue could become full before the next round, although the receiver answers.
    fn wake_len(&self) -> usize {
        BATCH_MAX.min(self.queue_max.div_ceil(2))
    }

    fn take(&self) -> Vec<Waiting> {
        let mut queue = self.queue.lock();
        let len = queue.len().min(BATCH_MAX);
        let taken = queue.drain(..len).collect();
        self.metrics.otlp_queued(queue.len());
        taken
    }
}

struct Sender {
    shared: Arc<Shared>,
    node: Node,
    stop: CancellationToken,
    delivery: Delivery,
}

impl Sender {
    async fn run(mut self) {
        let stop = self.stop.clone();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.shared.filled.notified() => {}
                () = tokio::time::sleep(ROUND) => {}
            }
            loop {
                let batch = self.shared.take();
                if batch.is_empty() {
                    break;
                }
                let mut spans = Vec::new();
                for Waiting { what, wall_offset_us, why } in &batch {
                    match what {
                        What::Request(request) => {
                            spans::push_spans(&mut spans, request, *wall_offset_us, *why);
                        }
                        What::Work(work) => {
                            work::push_spans(&mut spans, work, *wall_offset_us, *why);
                        }
                    }
                }
                // A receiver counts spans, and Maxine counts requests and other work.
                let (records, items) = (batch.len() as u64, spans.len() as u64);
                drop(batch);
                let message = Message::Traces(self.node.message(spans));
                self.delivery.deliver(message, records, items).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
