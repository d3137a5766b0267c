//! Forwards the records of the audit log to sinks outside: a file, a syslog receiver and an HTTP endpoint.
//!
//! Place in the flow: each node follows its own published state, and sends each record to each of its sinks, in the order
//! of the log. How far a sink has got is stored after each delivery, and nothing more is delivered before that, so that a
//! restart repeats at most the last one.
//! Delivery is at least once, and by every node: a record that any node has applied is forwarded although the leader
//! was lost, and a receiver drops repeats by number and hash. Sinks do not wait for each other.
//!
//! Nothing here makes a request wait. What a failing sink means for changes is in [`AuditForward::refusal`], which the
//! registry asks before each of them.

mod batch;
mod position;
mod settings;
mod to_file;
mod to_http;
mod to_syslog;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alert_list::retry_pause_ms;
use crate::events::iso_8601;
use crate::{AlertKind, Notice, Severity, Telemetry};
use batch::{Anchor, Batch, NotTaken, Source, continues};
use maxine_clock::Clock;
use maxine_view::View;
use position::Position;
use to_file::FileSink;
use to_http::HttpSink;
use to_syslog::Syslog;

pub use settings::{AuditForwardSettings, AuditSinkMode, SyslogProtocol};

/// How long after a change further records are awaited, so that they are sent together.
const GATHER: Duration = Duration::from_millis(100);
/// How long a sink must fail before there is an alert, in milliseconds.
const ALERT_AFTER_MS: u64 = 5_000;
/// Interval at which the alert is brought up to date between two deliveries.
const TICK: Duration = Duration::from_secs(1);

/// What the forwarding needs.
pub struct AuditForwardParts {
    /// Metrics and alerts.
    pub telemetry: Telemetry,
    /// The state with the log.
    pub view: Arc<View>,
    /// The clock.
    pub clock: Clock,
    /// The name of the cluster.
    pub cluster: String,
    /// The name of this node.
    pub node: String,
    /// The settings.
    pub settings: AuditForwardSettings,
}

/// The forwarding of audit records. Clones are cheap.
#[derive(Clone)]
pub struct AuditForward(Arc<Shared>);

struct Shared {
    telemetry: Telemetry,
    view: Arc<View>,
    clock: Clock,
    source: Source,
    batch_max: usize,
    block_after_ms: u64,
    anchor_interval_ms: u64,
    sinks: Vec<Status>,
}

/// What is known of a sink.
struct Status {
    /// The name in settings, metrics and alerts.
    name: &'static str,
    mode: AuditSinkMode,
    failing: Mutex<Option<Failing>>,
}

/// A sink that does not take records.
#[derive(Clone, Debug)]
struct Failing {
    /// Since when, on the monotonic clock.
    since_ms: u64,
    /// The same as a time, in milliseconds since 1970.
    since_wall_ms: u64,
    /// Failed deliveries since then.
    failures: u32,
    /// Why the last one failed.
    why: String,
    /// When the next try begins, in milliseconds since 1970. In the past while that try is in progress.
    next_try_ms: u64,
}

impl Failing {
    /// For how long the sink has failed, in milliseconds.
    fn for_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.since_ms)
    }
}

enum Sink {
    File(FileSink),
    Syslog(Box<Syslog>),
    Http(HttpSink),
}

impl Sink {
    async fn deliver(&mut self, batch: &Batch, source: &Source) -> Result<(), NotTaken> {
        match self {
            Self::File(sink) => Ok(sink.deliver(batch, source).await?),
            Self::Syslog(sink) => Ok(sink.deliver(batch, source).await?),
            Self::Http(sink) => sink.deliver(batch, source).await,
        }
    }
}

impl AuditForward {
    /// Starts the forwarding to each sink that is set, until `stop`. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(parts: AuditForwardParts, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let AuditForwardParts { telemetry, view, clock, cluster, node, settings } = parts;
        let (statuses, sinks): (Vec<_>, Vec<_>) = sinks(&settings).into_iter().unzip();
        let shared = Arc::new(Shared {
            telemetry,
            view,
            clock,
            source: Source { cluster, node },
            batch_max: settings.batch_max.max(1),
            block_after_ms: settings.block_after_ms,
            anchor_interval_ms: settings.anchor_interval_ms,
            sinks: statuses,
        });
        for (at, sink) in sinks.into_iter().enumerate() {
            let path = settings.directory.join(shared.sinks[at].name);
            let worker = Worker {
                shared: Arc::clone(&shared),
                at,
                sink,
                path,
                position: None,
                is_stored: true,
                records_max: shared.batch_max,
                anchor_due_ms: 0,
            };
            tasks.spawn(stop.clone().run_until_cancelled_owned(worker.run()));
        }
        Self(shared)
    }

    /// Why this node must refuse changes by callers now, as text for them: a blocking sink has failed for too long. `None`
    /// if it need not.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let now_ms = self.0.clock.monotonic_ms();
        self.0.sinks.iter().find_map(|status| {
            let failing = status.failing.lock();
            let failing = failing.as_ref()?;
            let for_ms = failing.for_ms(now_ms);
            self.0.blocks(status, for_ms).then(|| {
                let (name, next_try) = (status.name, iso_8601(failing.next_try_ms));
                format!(
                    "this node could not forward audit records to its sink {name} for {} s, and audit.{name}_mode is \
                     blocking; the next try is at {next_try}",
                    for_ms / 1_000
                )
            })
        })
    }
}

/// The sinks that are set.
fn sinks(settings: &AuditForwardSettings) -> Vec<(Status, Sink)> {
    let timeout = Duration::from_millis(settings.timeout_ms);
    let status = |name, mode| Status { name, mode, failing: Mutex::default() };
    let mut sinks = Vec::new();
    if let Some(path) = settings.file.clone() {
        let sink = FileSink::new(path, settings.file_len_max, settings.files_max, timeout);
        sinks.push((status("file", settings.file_mode), Sink::File(sink)));
    }
    if !settings.syslog_address.is_empty() {
        let (address, ca) = (settings.syslog_address.clone(), settings.syslog_ca.clone());
        let sink = Syslog::new(address, settings.syslog_protocol, ca, timeout);
        sinks.push((status("syslog", settings.syslog_mode), Sink::Syslog(Box::new(sink))));
    }
    if !settings.http_url.is_empty() {
        let (key_file, ca) = (settings.http_key_file.clone(), settings.http_ca.clone());
        let sink = HttpSink::new(settings.http_url.clone(), key_file, ca, timeout);
        sinks.push((status("http", settings.http_mode), Sink::Http(sink)));
    }
    sinks
}

impl Shared {
    fn blocks(&self, status: &Status, failing_for_ms: u64) -> bool {
        status.mode == AuditSinkMode::Blocking && failing_for_ms >= self.block_after_ms
    }
}

/// Why a batch of at most one record was not taken, as text for people.
fn too_large(batch: &Batch, len: usize) -> String {
    let what = match batch.records.first() {
        Some(record) => format!("record {} alone", record.seq),
        None => "a batch without records".to_owned(),
    };
    format!(
        "the receiver answered with status 413 to {what}, in a body of {len} bytes; nothing is left out, so it must take \
         larger bodies"
    )
}

/// Forwards records to one sink.
struct Worker {
    shared: Arc<Shared>,
    /// The position of its status.
    at: usize,
    sink: Sink,
    /// The file with its position in the log.
    path: PathBuf,
    /// `None` until it was read.
    position: Option<Position>,
    /// Whether that file has this position. If not, it is stored before the next delivery.
    is_stored: bool,
    /// Maximum number of records in the next batch. Less than the setting after the receiver refused a batch as too large.
    records_max: usize,
    /// When the next anchor is due, on the monotonic clock.
    anchor_due_ms: u64,
}

impl Worker {
    async fn run(mut self) {
        self.shared.view.has_state().await;
        let mut changes = self.shared.view.index_changes();
        loop {
            changes.mark_unchanged();
            match self.step().await {
                Ok(true) => self.succeeded(),
                Ok(false) => {
                    self.succeeded();
                    tokio::select! {
                        changed = changes.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep(self.until_anchor()) => {}
                    }
                    tokio::time::sleep(GATHER).await;
                }
                Err(why) => {
                    let pause_ms = self.failed(why);
                    self.pause(pause_ms).await;
                }
            }
        }
    }

    /// Delivers one batch, and stores how far the sink has got. Returns false if there was nothing to deliver.
    async fn step(&mut self) -> Result<bool, String> {
        self.store_position().await?;
        let Some(batch) = self.deliver().await? else {
            // The receiver may take more the next time.
            self.records_max = self.shared.batch_max;
            return Ok(false);
        };
        if batch.anchor.is_some() {
            let now_ms = self.shared.clock.monotonic_ms();
            self.anchor_due_ms = now_ms.saturating_add(self.shared.anchor_interval_ms);
        }
        self.count(&batch);
        // What was delivered is not delivered again, also if this fails.
        self.is_stored = self.position.as_ref() == Some(&batch.after);
        self.position = Some(batch.after);
        self.store_position().await?;
        Ok(true)
    }

    /// Stores how far the sink has got, unless the file has it.
    async fn store_position(&mut self) -> Result<(), String> {
        if let (false, Some(position)) = (self.is_stored, &self.position) {
            self.store(position.clone()).await?;
            self.is_stored = true;
        }
        Ok(())
    }

    /// Delivers one batch. A batch that is too large for the receiver is divided until it is taken, or has one record.
    async fn deliver(&mut self) -> Result<Option<Batch>, String> {
        loop {
            let position = match self.position.take() {
                Some(position) => position,
                None => self.load().await?,
            };
            let found = self.next_batch(&position);
            self.position = Some(position);
            let Some(batch) = found? else { return Ok(None) };
            match self.sink.deliver(&batch, &self.shared.source).await {
                Ok(()) => return Ok(Some(batch)),
                Err(NotTaken::TooLarge(len)) if batch.records.len() > 1 => {
                    self.records_max = batch.records.len() / 2;
                    let (sink, records_max) = (self.name(), self.records_max);
                    tracing::info!(
                        sink,
                        len,
                        records_max,
                        "the receiver refused a batch as too large; smaller ones are sent"
                    );
                }
                Err(NotTaken::TooLarge(len)) => return Err(too_large(&batch, len)),
                Err(NotTaken::Failed(why)) => return Err(why),
            }
        }
    }

    /// The batch that follows a position. `None` if there is nothing to deliver.
    fn next_batch(&self, position: &Position) -> Result<Option<Batch>, String> {
        let snapshot = self.shared.view.snapshot();
        let (state, audit) = (&snapshot.state, snapshot.state.audit());
        let history = state.history().ok_or("this node has no state")?;
        let mut batch = if continues(position, audit, history) {
            let position = Position { history, ..position.clone() };
            Batch::from(&position, audit, self.records_max)
        } else {
            let sink = self.name();
            tracing::warn!(sink, "the audit log was replaced: all kept records are forwarded");
            let beginning = Position::beginning(history, audit.next_seq());
            Batch::from(&beginning, audit, self.records_max)
        };
        let waiting = audit.next_seq().saturating_sub(position.next_seq.min(batch.after.next_seq));
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        let metrics = self.shared.telemetry.metrics();
        metrics.audit_forward_waiting.with_label_values(&[self.name()]).set(waiting);
        if self.until_anchor().is_zero() {
            batch.anchor = Some(Anchor::of(state, self.shared.clock.wall_ms()));
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// How long it is until the next anchor is due.
    fn until_anchor(&self) -> Duration {
        match self.shared.anchor_interval_ms {
            0 => Duration::MAX,
            _ => {
                let now_ms = self.shared.clock.monotonic_ms();
                Duration::from_millis(self.anchor_due_ms.saturating_sub(now_ms))
            }
        }
    }

    /// The stored position. Without one, the beginning, which is stored at once: records that leave the log from now on
    /// are missing.
    async fn load(&self) -> Result<Position, String> {
        let path = self.path.clone();
        let stored = tokio::task::spawn_blocking(move || position::load(&path)).await;
        let stored = stored.map_err(|error| error.to_string())?;
        let stored = stored.map_err(|error| self.no_position(&error))?;
        if let Some(position) = stored {
            return Ok(position);
        }
        let begin = self.shared.view.with_snapshot(|snapshot| {
            let state = &snapshot.state;
            Some(Position::beginning(state.history()?, state.audit().next_seq()))
        });
        let begin = begin.ok_or("this node has no state")?;
        self.store(begin.clone()).await?;
        Ok(begin)
    }

    async fn store(&self, position: Position) -> Result<(), String> {
        let path = self.path.clone();
        let stored = tokio::task::spawn_blocking(move || position::store(&path, &position)).await;
        let stored = stored.map_err(|error| error.to_string())?;
        stored.map_err(|error| self.no_position(&error))
    }

    fn no_position(&self, error: &std::io::Error) -> String {
        let (file, why) = (self.path.display(), maxine_wording::io(error));
        format!("the file with the position cannot be used: {file}: {why}")
    }

    /// Counts a batch that was delivered, and reports what is missing in it.
    fn count(&self, batch: &Batch) {
        let (name, telemetry) = (self.name(), &self.shared.telemetry);
        let metrics = telemetry.metrics();
        metrics.audit_forwarded.with_label_values(&[name]).inc_by(batch.records.len() as u64);
        let next_seq = self.shared.view.with_snapshot(|s| s.state.audit().next_seq());
        let waiting = next_seq.saturating_sub(batch.after.next_seq);
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        metrics.audit_forward_waiting.with_label_values(&[name]).set(waiting);
        let Some(missing) = &batch.missing else { return };
        metrics.audit_forward_missing.with_label_values(&[name]).inc_by(missing.records);
        let message = format!(
            "{} left the audit log before this node could forward them to its sink {name}; their numbers are from {} \
             to {}",
            maxine_wording::count(missing.records, "record"),
            missing.first_seq,
            missing.last_seq
        );
        let details = json!({"sink": name, "missing": missing});
        let notice = Notice::new(AlertKind::AuditForwardGap, self.object(), message);
        telemetry.alert(notice.details(details));
    }

    fn status(&self) -> &Status {
        &self.shared.sinks[self.at]
    }

    fn name(&self) -> &'static str {
        self.status().name
    }

    /// The object of its alerts.
    fn object(&self) -> String {
        format!("{} {}", self.shared.source.node, self.name())
    }

    fn succeeded(&self) {
        if self.status().failing.lock().take().is_some() {
            tracing::info!(sink = self.name(), "audit records are forwarded again");
            self.shared.telemetry.clear(AlertKind::AuditForwardFailing, &self.object());
        }
    }

    /// Notes a failed delivery. Returns the time until the next one, in milliseconds.
    fn failed(&self, why: String) -> u64 {
        let (name, clock) = (self.name(), &self.shared.clock);
        let failures = &self.shared.telemetry.metrics().audit_forward_failures;
        failures.with_label_values(&[name]).inc();
        let (now_ms, wall_ms) = (clock.monotonic_ms(), clock.wall_ms());
        let mut failing = self.status().failing.lock();
        if failing.is_none() {
            tracing::warn!(sink = name, error = %why, "audit records could not be forwarded; it is tried again");
        }
        let before = failing.take();
        let (since_ms, since_wall_ms, failures) =
            before.map_or((now_ms, wall_ms, 0), |it| (it.since_ms, it.since_wall_ms, it.failures));
        let pause_ms = retry_pause_ms(failures);
        *failing = Some(Failing {
            since_ms,
            since_wall_ms,
            failures: failures + 1,
            why,
            next_try_ms: wall_ms + pause_ms,
        });
        pause_ms
    }

    /// Waits before the next delivery, and keeps the alert up to date meanwhile.
    async fn pause(&self, pause_ms: u64) {
        let clock = &self.shared.clock;
        let until_ms = clock.monotonic_ms() + pause_ms;
        loop {
            self.report();
            let left_ms = until_ms.saturating_sub(clock.monotonic_ms());
            if left_ms == 0 {
                return;
            }
            tokio::time::sleep(TICK.min(Duration::from_millis(left_ms))).await;
        }
    }

    /// Raises the alert if the sink has failed for long enough.
    fn report(&self) {
        let (status, shared) = (self.status(), &self.shared);
        let Some(failing) = status.failing.lock().clone() else { return };
        let for_ms = shared.clock.monotonic_ms().saturating_sub(failing.since_ms);
        let blocks = shared.blocks(status, for_ms);
        if for_ms < ALERT_AFTER_MS && !blocks {
            return;
        }
        let next_seq = shared.view.with_snapshot(|snapshot| snapshot.state.audit().next_seq());
        let done = self.position.as_ref().map_or(0, |position| position.next_seq);
        let (name, waiting) = (status.name, next_seq.saturating_sub(done));
        let gauge = &shared.telemetry.metrics().audit_forward_waiting;
        gauge.with_label_values(&[name]).set(i64::try_from(waiting).unwrap_or(i64::MAX));
        let since = iso_8601(failing.since_wall_ms);
        let refuses = if blocks { "; this node refuses changes until it works again" } else { "" };
        let next_try = iso_8601(failing.next_try_ms);
        let what = match waiting {
            _ if !self.is_stored => format!(
                "the sink {name} took audit records, but how far it has got cannot be stored since {since}: the next \
                 records are not sent before that, and {waiting} wait"
            ),
            0 => format!(
                "an anchor could not be delivered to the sink {name} since {since}; no record waits"
            ),
            _ => format!(
                "audit records have not been forwarded to the sink {name} since {since}, and {waiting} wait"
            ),
        };
        let message = format!("{what}: {}; the next try is at {next_try}{refuses}", failing.why);
        let details = json!({
            "sink": name, "since": since, "waiting": waiting, "refuses_changes": blocks,
        });
        let notice = Notice::new(AlertKind::AuditForwardFailing, self.object(), message);
        let (severity, stage) = match blocks {
            true => (Severity::Critical, 1),
            false => (Severity::Warning, 0),
        };
        shared.telemetry.raise(notice.severity(severity).stage(stage).details(details));
    }
}
