//! Records finished requests: as recent traces, as recent log lines, and in log files.
//!
//! A request only puts a small record into a buffer. A separate thread takes the whole buffer several times a
//! second, or earlier if it has many records. It formats the lines and writes them. A reader takes the buffer
//! first, so no answered request is missing. If the buffer is full, records are dropped and counted.

mod files;
mod line;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::events::RecentEvent;
use super::otlp::Exporter;
use super::requests::{FinishedRequest, Trace};
use super::ring::Ring;
use super::service_series::ServiceSeries;
use super::traffic::Traffic;
use maxine_clock::Clock;
use maxine_view::View;

pub use files::{LogFile, LogFiles};

/// Name of the request log's files.
const REQUESTS: &str = "maxine-requests.log";
/// Maximum number of events between two rounds of the writer.
const EVENTS_MAX: usize = 4_096;
/// Maximum number of records between two rounds of the writer.
const BUFFERED_MAX: usize = 32_768;
/// Maximum pause of the writer after a round, in which records are collected.
const ROUND: Duration = Duration::from_millis(50);
/// Number of records that ends the pause. A longer round would occupy a core for long, and would push the
/// data of requests out of its cache.
const ROUND_LEN: usize = 512;
/// Number of log lines in memory.
const RECENT_LINES_MAX: usize = 100;

/// Settings of the request log.
#[derive(Clone, Debug)]
pub struct RequestLogSettings {
    /// The directory of the log files; `None` keeps lines in memory only.
    pub directory: Option<PathBuf>,
    /// Size at which a file is closed and a new one begun, in bytes.
    pub file_len_max: u64,
    /// Number of log files that are kept.
    pub files_max: usize,
    /// The file for recent events, one JSON object per line (`MAXINE_AUDIT_LOG_FILE`). It is rotated like the
    /// log's files.
    pub audit_file: Option<PathBuf>,
}

impl Default for RequestLogSettings {
    fn default() -> Self {
        Self { directory: None, file_len_max: 16 * 1_024 * 1_024, files_max: 8, audit_file: None }
    }
}

/// The data of the writer. Readers may use it between its rounds.
struct Sink {
    files: Option<LogFiles>,
    audit: Option<LogFiles>,
    spare: Vec<FinishedRequest>,
    format: line::LineFormat,
    /// The newest lines, oldest first.
    recent: VecDeque<Vec<u8>>,
}

/// The buffer for the records of requests.
#[derive(Default)]
struct Buffer {
    records: Vec<FinishedRequest>,
    /// Whether the writer waits for a first record.
    writer_is_idle: bool,
}

pub(super) struct RequestLog {
    clock: Clock,
    view: Arc<View>,
    buffer: Mutex<Buffer>,
    /// Always empty if no audit file is set.
    events: Mutex<Vec<RecentEvent>>,
    audited: bool,
    sink: Mutex<Sink>,
    traces: Ring<Trace>,
    traffic: Traffic,
    service_series: Arc<ServiceSeries>,
    exporter: Option<Arc<Exporter>>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    writer_thread: Mutex<Option<thread::Thread>>,
    stopping: AtomicBool,
}

impl RequestLog {
    /// Starts the writer. If log files cannot be opened, that is reported once, and lines are kept in memory
    /// only.
    pub(super) fn start(
        view: Arc<View>,
        clock: Clock,
        traces_max: usize,
        settings: &RequestLogSettings,
        exporter: Option<Arc<Exporter>>,
        service_series: Arc<ServiceSeries>,
    ) -> Arc<Self> {
        let files = settings.directory.as_ref();
        let files = files.and_then(|directory| open_files(&directory.join(REQUESTS), settings));
        let audit = settings.audit_file.as_ref().and_then(|path| open_files(path, settings));
        let log = Arc::new(Self {
            clock,
            view,
            buffer: Mutex::default(),
            events: Mutex::default(),
            audited: audit.is_some(),
            sink: Mutex::new(Sink {
                files,
                audit,
                spare: Vec::new(),
                format: line::LineFormat::default(),
                recent: VecDeque::with_capacity(RECENT_LINES_MAX),
            }),
            traces: Ring::new(traces_max),
            traffic: Traffic::default(),
            service_series,
            exporter,
            writer: Mutex::default(),
            writer_thread: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        // A weak reference, so that the writer also ends when the log is dropped.
        let weak = Arc::downgrade(&log);
        let spawned = thread::Builder::new().name("request-log".into()).spawn(move || {
            loop {
                let Some(log) = weak.upgrade() else { return };
                log.write_out();
                if log.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let rests = log.rests();
                drop(log);
                if rests {
                    thread::park_timeout(Duration::from_secs(1));
                }
                // A full round wakes this thread, and so does the stop. A round that became full before the pause
                // began wakes nobody, so it is checked here.
                if weak.upgrade().is_some_and(|log| log.gathers()) {
                    thread::park_timeout(ROUND);
                }
            }
        });
        match spawned {
            Ok(handle) => {
                *log.writer_thread.lock() = Some(handle.thread().clone());
                *log.writer.lock() = Some(handle);
            }
            Err(error) => tracing::error!(%error, "the request log's writer could not be started"),
        }
        log
    }

    /// Adds a record; `false` if the buffer is full.
    pub(super) fn push(&self, request: FinishedRequest) -> bool {
        let mut buffer = self.buffer.lock();
        if buffer.records.len() >= BUFFERED_MAX {
            return false;
        }
        buffer.records.push(request);
        let wakes = std::mem::take(&mut buffer.writer_is_idle) || buffer.records.len() == ROUND_LEN;
        drop(buffer);
        if wakes && let Some(writer) = &*self.writer_thread.lock() {
            writer.unpark();
        }
        true
    }

    /// Whether the writer has nothing to do. The next record then wakes it.
    fn rests(&self) -> bool {
        let mut buffer = self.buffer.lock();
        buffer.writer_is_idle = buffer.records.is_empty() && self.events.lock().is_empty();
        buffer.writer_is_idle
    }

    /// Whether there are fewer records than a whole round.
    fn gathers(&self) -> bool {
        self.buffer.lock().records.len() < ROUND_LEN
    }

    /// Adds an event for the audit file; `false` if too many wait.
    pub(super) fn push_event(&self, event: &RecentEvent) -> bool {
        if !self.audited {
            return true;
        }
        let mut events = self.events.lock();
        let fits = events.len() < EVENTS_MAX;
        if fits {
            events.push(event.clone());
        }
        fits
    }

    fn write_events(&self, sink: &mut Sink) {
        let Some(audit) = &mut sink.audit else { return };
        let events = std::mem::take(&mut *self.events.lock());
        if events.is_empty() {
            return;
        }
        for event in &events {
            audit.write_line(event.to_json().to_string().as_bytes());
        }
        audit.flush(true);
    }

    /// Formats and writes the records in the buffer. Blocks for the disk.
    fn write_out(&self) {
        let mut sink = self.sink.lock();
        let sink = &mut *sink;
        let mut taken = std::mem::take(&mut sink.spare);
        std::mem::swap(&mut taken, &mut self.buffer.lock().records);
        self.write_events(sink);
        if taken.is_empty() {
            sink.spare = taken;
            return;
        }
        let (wall_ms, monotonic_us) = (self.clock.wall_ms(), self.clock.monotonic_us());
        let snapshot = self.view.snapshot();
        let config = &snapshot.state.config().config;
        // Only the end of a large batch is kept in memory; the rest would be pushed out immediately.
        let logged = taken.iter().enumerate().rev().filter(|(_, r)| line::is_logged(r));
        let recent_from = logged.take(RECENT_LINES_MAX).last().map_or(0, |(at, _)| at);
        let traces_from = taken.len().saturating_sub(self.traces.len_max());
        for (at, request) in taken.drain(..).enumerate() {
            let age_ms = monotonic_us.saturating_sub(request.started_us) / 1_000;
            let time_ms = wall_ms.saturating_sub(age_ms);
            let is_recent = at >= recent_from;
            if line::is_logged(&request) && (is_recent || sink.files.is_some()) {
                let text = sink.format.line(&request, time_ms, config);
                if let Some(files) = &mut sink.files {
                    files.write_line(text);
                }
                if is_recent {
                    // The new line reuses the memory of the removed line.
                    let full = sink.recent.len() == RECENT_LINES_MAX;
                    let left = if full { sink.recent.pop_front() } else { None };
                    let mut line = left.unwrap_or_default();
                    line.clear();
                    line.extend_from_slice(text);
                    sink.recent.push_back(line);
                }
            }
            if let Some(exporter) = &self.exporter {
                exporter.offer(&request, signed(wall_ms * 1_000) - signed(monotonic_us));
            }
            let ended_ms = time_ms + request.duration_us / 1_000;
            self.traffic.note(&request, ended_ms, &snapshot.state);
            self.service_series.note(&request);
            if at >= traces_from {
                self.traces.push(Trace { time_ms, request });
            }
        }
        // With `log_async` off, a line is written to disk before the next round.
        if let Some(files) = &mut sink.files {
            files.flush(!config.log_async);
        }
        sink.spare = taken;
    }

    /// The latest requests, newest first.
    pub(super) fn traces(&self) -> Vec<Trace> {
        self.write_out();
        self.traces.newest_first()
    }

    /// The traffic up to now.
    pub(super) fn traffic(&self) -> &Traffic {
        self.write_out();
        &self.traffic
    }

    /// The newest lines, oldest first.
    pub(super) fn recent_lines(&self) -> Vec<String> {
        self.write_out();
        let sink = self.sink.lock();
        sink.recent.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    /// Removes the lines from memory. Files are kept.
    pub(super) fn clear_recent(&self) {
        self.write_out();
        self.sink.lock().recent.clear();
    }

    /// The log files, by name.
    pub(super) fn files(&self) -> Vec<LogFile> {
        self.write_out();
        self.sink.lock().files.as_mut().map(LogFiles::list).unwrap_or_default()
    }

    /// Writes the rest and ends the writer. It may be called more than once.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(writer) = self.writer_thread.lock().take() {
            writer.unpark();
        }
        if let Some(handle) = self.writer.lock().take()
            && handle.join().is_err()
        {
            tracing::error!("the request log's writer panicked");
        }
        self.write_out();
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn open_files(path: &Path, settings: &RequestLogSettings) -> Option<LogFiles> {
    LogFiles::open(path, settings.file_len_max, settings.files_max)
        .inspect_err(|error| {
            let path = path.display();
            tracing::error!(%path, %error, "the log file cannot be written");
        })
        .ok()
}
