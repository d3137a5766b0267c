//! Maxine's own log. It is written to standard error, and to files if the settings name one. The settings filter it, and
//! `maxine log-level` changes the filter while the node runs.
//!
//! A separate thread writes the lines. Standard error may be a file on a full disk, or a pipe that nobody
//! reads. Then lines are dropped and counted, and nothing waits or fails because of them. Panics are written
//! to the log too, because the standard library's way to report them can block forever.
//!
//! **Invariant:** an event is one line. Texts of clients and of other services in it cannot begin another line, and
//! cannot control the terminal that shows it. What looks like a credential is hidden.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use super::log_format::{EventFormat, lost_line, without_priority};
use crate::config::{NodeConfig, OwnLogFormat};
use maxine_clock::Clock;
use maxine_telemetry::{LogFiles, LogLevels, LogOutbox, hide_credentials};

/// Maximum number of lines that wait to be written. Further lines are dropped.
const WAITING_MAX: usize = 4_096;
/// How long the end of the process waits for the lines that were logged before.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two attempts to find room in a full queue.
const FLUSH_RETRY: Duration = Duration::from_millis(10);
/// Maximum number of these attempts. Together they take as long as the limit.
const FLUSH_TRIES_MAX: u32 = 100;

enum Job {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The running log. Dropping it writes the waiting lines, and takes at most two seconds.
pub(super) struct Log(SyncSender<Job>);

impl Drop for Log {
    fn drop(&mut self) {
        let (done, written) = sync_channel(1);
        let mut flush = Job::Flush(done);
        for _ in 0..FLUSH_TRIES_MAX {
            match self.0.try_send(flush) {
                Ok(()) => {
                    let _ = written.recv_timeout(FLUSH_LIMIT);
                    return;
                }
                Err(TrySendError::Full(back)) => flush = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            std::thread::sleep(FLUSH_RETRY);
        }
    }
}

/// Passes lines to the thread. It never blocks and never fails.
#[derive(Clone)]
struct Lines {
    jobs: SyncSender<Job>,
    dropped: Arc<AtomicU64>,
    has_colours: bool,
}

/// An event as one line, without credentials, and with escapes for everything that could end the line or control a
/// terminal. Only colours stay.
fn one_line(event: &[u8], has_colours: bool) -> Vec<u8> {
    let text = String::from_utf8_lossy(event);
    let text = hide_credentials(text.strip_suffix('\n').unwrap_or(&text));
    let mut line = String::with_capacity(text.len() + 1);
    for (at, part) in text.split('\u{1b}').enumerate() {
        if at > 0 {
            line.push_str(if has_colours && is_colour(part) { "\u{1b}" } else { "\\u{1b}" });
        }
        line.push_str(&maxine_wording::escape_control(part));
    }
    line.push('\n');
    line.into_bytes()
}

/// Whether what follows an escape character sets a colour or a style: `[`, numbers and `m`.
fn is_colour(sequence: &str) -> bool {
    let numbers = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b';');
    let parts = sequence.strip_prefix('[').and_then(|rest| rest.split_once('m'));
    parts.is_some_and(|(codes, _)| numbers(codes))
}

impl Write for Lines {
    /// Each call has one event.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.jobs.try_send(Job::Line(one_line(line, self.has_colours))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the log. Must be called at most once in a process.
pub(super) fn start(config: &NodeConfig) -> anyhow::Result<Log> {
    let settings = &config.telemetry;
    let filter =
        EnvFilter::try_new(&settings.log_filter).context("telemetry.log_filter is not a filter")?;
    let files = match settings.log_file.as_os_str().is_empty() {
        true => None,
        false => {
            let path = config.data_dir.join(&settings.log_file);
            let files = LogFiles::open(&path, settings.log_file_len_max, settings.log_files_max);
            Some(files.with_context(|| format!("telemetry.log_file: {}", path.display()))?)
        }
    };
    let has_files = files.is_some();
    // A separate handle, without the lock that the standard library puts around the stream.
    let stream = io::stderr().as_fd().try_clone_to_owned().context("standard error")?;
    let (jobs, waiting) = sync_channel(WAITING_MAX);
    let format = settings.log_format;
    let is_exported = settings.otlp_logs && !settings.otlp.endpoint.is_empty();
    let outbox = is_exported.then(|| LogOutbox::new(Clock::system(), settings.otlp.queue_max));
    outbox.iter().cloned().for_each(LogOutbox::install);
    // Colours are for terminals, and a file has the same lines.
    let has_colours = format == OwnLogFormat::Text && !has_files && io::stderr().is_terminal();
    let lines = Lines { jobs: jobs.clone(), dropped: Arc::default(), has_colours };
    let dropped = Arc::clone(&lines.dropped);
    std::thread::Builder::new()
        .name("maxine-log".to_owned())
        .spawn(move || write_lines(&waiting, &dropped, File::from(stream), files, format))
        .context("the log's thread")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || lines.clone())
        // The subscriber would report its own errors on standard error, and panic if that cannot be written.
        .log_internal_errors(false)
        .with_ansi(has_colours)
        .event_format(EventFormat::new(format, has_files, outbox))
        .with_filter_reloading();
    let filter = log.reload_handle();
    log.try_init().map_err(|error| anyhow::anyhow!("the log cannot be started: {error}"))?;
    let apply = move |text: &str| {
        let changed = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
        filter.reload(changed).map_err(|error| error.to_string())
    };
    LogLevels::new(&settings.log_filter, apply).install();
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        tracing::error!(thread = name, "{panic}");
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            for frame in backtrace.to_string().lines() {
                tracing::error!(thread = name, "{frame}");
            }
        }
    }));
    Ok(Log(jobs))
}

/// Writes lines until every sender is gone. Each line is in the file before the next one is written.
fn write_lines(
    waiting: &Receiver<Job>,
    dropped: &AtomicU64,
    mut out: impl Write,
    mut files: Option<LogFiles>,
    format: OwnLogFormat,
) {
    for job in waiting {
        match job {
            Job::Flush(done) => {
                files.iter_mut().for_each(|files| files.flush(true));
                let _nobody_waits = done.send(());
            }
            Job::Line(line) => {
                if let Some(files) = &mut files {
                    let text = line.strip_suffix(b"\n").unwrap_or(&line);
                    let is_journald = format == OwnLogFormat::Journald;
                    files.write_line(if is_journald { without_priority(text) } else { text });
                    files.flush(false);
                }
                let lost = dropped.swap(0, Ordering::Relaxed);
                let written = match lost {
                    0 => out.write_all(&line),
                    lost => out
                        .write_all(lost_line(format, lost).as_bytes())
                        .and_then(|()| out.write_all(&line)),
                };
                if written.is_err() {
                    dropped.fetch_add(lost + 1, Ordering::Relaxed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A stream that accepts nothing until the test allows it.
    #[derive(Clone, Default)]
    struct Stubborn(Arc<Mutex<(bool, Vec<u8>)>>);

    impl Write for Stubborn {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut inner = self.0.lock().unwrap();
            if !inner.0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            inner.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// After a pause of the process, the core answers questions that nobody waits for any more. It says so as an error.
    #[test]
    fn the_default_filter_leaves_out_errors_of_openraft_that_its_caller_reports() {
        let none = std::collections::BTreeMap::new();
        let config = crate::config::NodeConfig::load(None, &none, &Default::default()).unwrap();
        let stream = Stubborn::default();
        stream.0.lock().unwrap().0 = true;
        let out = stream.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::try_new(config.telemetry.log_filter).unwrap())
            .with_writer(move || out.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "openraft::raft", "to-Raft tx send error");
            tracing::error!(target: "openraft::core::raft_core", "the core stops");
            tracing::info!(target: "maxine_raft", "a line of maxine");
        });
        let text = String::from_utf8(stream.0.lock().unwrap().1.clone()).unwrap();
        assert!(!text.contains("tx send error"), "{text}");
        assert!(text.contains("the core stops") && text.contains("a line of maxine"), "{text}");
    }

    #[test]
    fn a_text_of_another_service_begins_no_line_and_controls_no_terminal() {
        let hostile = "a\nERROR forged\r\u{1b}[2J\u{9b}1m\u{202e}b\u{2028}c\0";
        for has_colours in [false, true] {
            let (jobs, waiting) = sync_channel(4);
            let lines = Lines { jobs, dropped: Arc::default(), has_colours };
            let subscriber = tracing_subscriber::fmt()
                .with_ansi(has_colours)
                .with_writer(move || lines.clone())
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!(error = %hostile, text = hostile, "the service says: {hostile}");
            });
            let Job::Line(line) = waiting.recv().unwrap() else { panic!("no line") };
            let line = String::from_utf8(line).unwrap();
            let line = line.strip_suffix('\n').unwrap();
            assert!(
                has_colours == line.contains('\u{1b}') && !line.contains("\u{1b}[2J"),
                "{line:?}"
            );
            let line = line.replace('\u{1b}', "");
            assert_eq!(maxine_wording::escape_control(&line), line);
            assert!(line.contains("a\\nERROR forged\\r"), "{line}");
        }
    }

    /// The lines that two events make in a format.
    fn lines_of(format: OwnLogFormat, has_files: bool) -> Vec<String> {
        let (jobs, waiting) = sync_channel(4);
        let lines = Lines { jobs, dropped: Arc::default(), has_colours: false };
        let outbox = LogOutbox::new(Clock::system(), 8);
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || lines.clone())
            .event_format(EventFormat::new(format, has_files, Some(outbox)))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "maxine_raft", node = 2, error = %"a\nb", "it ends");
            tracing::debug!(target: "maxine_raft", "not written");
            let token = "mxt_maxine_0a1b_s3cret";
            tracing::error!(target: "maxine_api", url = "redis://me:hunter2@h", "token {token}");
        });
        let text = |job| match job {
            Job::Line(line) => String::from_utf8(line).unwrap(),
            Job::Flush(_) => panic!("nobody flushes"),
        };
        waiting.try_iter().map(text).collect()
    }

    #[test]
    fn in_every_format_an_event_is_a_line_without_credentials() {
        for (format, has_files) in [
            (OwnLogFormat::Text, false),
            (OwnLogFormat::Json, false),
            (OwnLogFormat::Journald, false),
            (OwnLogFormat::Journald, true),
        ] {
            let lines = lines_of(format, has_files);
            assert_eq!(lines.len(), 2, "{lines:?}");
            for line in &lines {
                assert_eq!(line.matches('\n').count(), 1, "{line:?}");
                assert!(!line.contains("s3cret") && !line.contains("hunter2"), "{line}");
            }
        }
    }

    #[test]
    fn a_line_in_json_has_the_level_the_target_the_message_and_the_fields() {
        let lines = lines_of(OwnLogFormat::Json, false);
        let value: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&value["level"], &value["target"]), (&"WARN".into(), &"maxine_raft".into()));
        assert_eq!(value["message"], "it ends");
        assert_eq!(value["fields"], serde_json::json!({"node": 2, "error": "a\nb"}));
        let lost = lost_line(OwnLogFormat::Json, 7);
        let value: serde_json::Value = serde_json::from_str(&lost).unwrap();
        assert_eq!(value["fields"]["dropped"], 7);
    }

    #[test]
    fn a_line_for_journald_begins_with_its_priority() {
        let lines = lines_of(OwnLogFormat::Journald, false);
        let (warning, error) = (&lines[0], &lines[1]);
        assert!(warning.starts_with("<4> WARN maxine_raft: it ends"), "{warning}");
        assert!(error.starts_with("<3>ERROR maxine_api: token "), "{error}");
        let lines = lines_of(OwnLogFormat::Journald, true);
        let warning = &lines[0];
        let year = warning.strip_prefix("<4>").unwrap().split('-').next().unwrap();
        assert!(
            year.len() == 4 && year.parse::<u32>().is_ok(),
            "the file needs the time: {warning}"
        );
        assert!(lost_line(OwnLogFormat::Journald, 7).starts_with("<4>(7 lines "));
    }

    #[test]
    fn lines_that_could_not_be_written_are_counted_and_told_later() {
        let stream = Stubborn::default();
        let (jobs, waiting) = sync_channel(4);
        let mut lines = Lines { jobs: jobs.clone(), dropped: Arc::default(), has_colours: false };
        // The thread does not run yet, so lines that do not fit are dropped, and nobody waits.
        for nth in 0..6 {
            lines.write_all(format!("{nth}\n").as_bytes()).unwrap();
        }
        assert_eq!(lines.dropped.load(Ordering::Relaxed), 2);
        let (dropped, out) = (Arc::clone(&lines.dropped), stream.clone());
        let thread = std::thread::spawn(move || {
            write_lines(&waiting, &dropped, out, None, OwnLogFormat::Text)
        });
        drop(Log(jobs.clone()));
        assert_eq!(lines.dropped.load(Ordering::Relaxed), 6);
        stream.0.lock().unwrap().0 = true;
        lines.write_all(b"again\n").unwrap();
        drop((lines, jobs));
        thread.join().unwrap();
        let text = String::from_utf8(stream.0.lock().unwrap().1.clone()).unwrap();
        assert_eq!(text, "(6 lines of the log were dropped: they could not be written)\nagain\n");
    }

    #[test]
    fn lines_go_to_files_too_which_have_a_limit_together() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs").join("node.log");
        let files = LogFiles::open(&path, 1_000, 3).unwrap();
        let stream = Stubborn::default();
        stream.0.lock().unwrap().0 = true;
        let (jobs, waiting) = sync_channel(WAITING_MAX);
        let (dropped, out) = (Arc::new(AtomicU64::new(0)), stream.clone());
        let mut lines =
            Lines { jobs: jobs.clone(), dropped: Arc::clone(&dropped), has_colours: false };
        let format = OwnLogFormat::Journald;
        let thread =
            std::thread::spawn(move || write_lines(&waiting, &dropped, out, Some(files), format));
        for nth in 0..200 {
            lines.write_all(format!("<6>line {nth:03} {}\n", "x".repeat(40)).as_bytes()).unwrap();
        }
        drop(Log(jobs));
        drop(lines);
        thread.join().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().last().unwrap().starts_with("line 199 "), "{text}");
        let len = |entry: std::fs::DirEntry| entry.metadata().unwrap().len();
        let found = std::fs::read_dir(path.parent().unwrap()).unwrap();
        let lens: Vec<u64> = found.map(|entry| len(entry.unwrap())).collect();
        assert_eq!(lens.len(), 3);
        assert!(lens.iter().all(|len| *len <= 1_000), "{lens:?}");
        let written = stream.0.lock().unwrap().1.clone();
        assert_eq!(written.split(|byte| *byte == b'\n').count(), 201);
        assert!(written.starts_with(b"<6>line 000 "), "only the file is without the priority");
    }
}
