//! Counts the requests of each service level objective in hours, and keeps the last 30 days in a file, so that the
//! error budget does not begin again with the process.
//!
//! Place in the flow: a task reads the counters of the metrics once a minute. Handlers read the sums, and the API adds
//! those of all nodes. Nothing here is on the path of a request.

mod expression;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::Registry;
use serde::{Deserialize, Serialize};

use super::stored_file;
use expression::Terms;
use maxine_clock::Clock;

/// The time that an objective is about, in milliseconds: 30 days.
pub const OBJECTIVE_WINDOW_MS: u64 = 30 * 24 * HOUR_MS;
/// Length of a step, in milliseconds.
const HOUR_MS: u64 = 3_600_000;
/// Maximum number of hours that are kept: 30 days, and the hour that is not over.
const HOURS_MAX: usize = 721;
/// Interval at which the counters are read.
const SAMPLE_EVERY: Duration = Duration::from_secs(60);
/// Number of samples after which the file is written. A process that is killed loses what it counted since then.
const SAMPLES_PER_WRITE: u32 = 5;
/// Maximum length of the file, in bytes. The maximum number of hours needs less.
const FILE_LEN_MAX: u64 = 4 * 1_024 * 1_024;

/// A service level objective, as it is declared for the recording rules too.
#[derive(Clone, Debug)]
pub struct Objective {
    /// Its name.
    pub name: String,
    /// Its title.
    pub title: String,
    /// What it counts.
    pub about: String,
    /// The share of requests that must not fail, over 30 days.
    pub objective: f64,
    /// The rate of failed requests, in Prometheus' language.
    pub failures: String,
    /// The rate of all requests, in Prometheus' language.
    pub total: String,
}

/// The requests of an objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectiveSum {
    /// All requests.
    pub requests: u64,
    /// Failed requests.
    pub failures: u64,
}

/// What a node has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountedObjectives {
    /// When the node counted for the first time in the window, in milliseconds since 1970.
    pub began_ms: u64,
    /// For how long it has counted since then, in milliseconds. It does not count while it is not running.
    pub counted_ms: u64,
    /// The requests by the name of the objective.
    pub sums: BTreeMap<String, ObjectiveSum>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Hour {
    at_ms: u64,
    counted_ms: u64,
    sums: BTreeMap<String, ObjectiveSum>,
}

/// The content of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    /// When the node counted for the first time, in milliseconds since 1970.
    began_ms: u64,
    /// Oldest first.
    hours: VecDeque<Hour>,
}

#[derive(Debug)]
struct Counting {
    stored: Stored,
    /// The counters at the last sample, in the order of [`Objectives::declared`].
    last: Vec<ObjectiveSum>,
    /// When the last sample was taken, in milliseconds on the monotonic clock.
    sampled_at_ms: u64,
}

#[derive(Debug)]
struct Declared {
    objective: Objective,
    failures: Terms,
    total: Terms,
}

/// The objectives of this process, and what this node has counted.
#[derive(Debug)]
pub struct Objectives {
    clock: Clock,
    registry: Registry,
    declared: Vec<Declared>,
    /// `None` if the counts are only kept in memory. Locked during a write.
    file: Mutex<Option<PathBuf>>,
    counting: Mutex<Counting>,
}

impl Objectives {
    /// Begins to count, after what `file` has from before the start. An objective whose expressions are not understood
    /// is left out and logged. Blocks for the file.
    pub(super) fn start(
        clock: Clock,
        registry: Registry,
        objectives: &[Objective],
        file: Option<PathBuf>,
    ) -> Self {
        let declared: Vec<Declared> = objectives
            .iter()
            .filter_map(|objective| {
                declare(objective)
                    .inspect_err(|error| {
                        tracing::error!(name = objective.name, %error, "an objective is left out");
                    })
                    .ok()
            })
            .collect();
        let stored = file.as_deref().map_or_else(|| Ok(None), read);
        let stored = stored.unwrap_or_else(|error| {
            tracing::error!(%error, "the counts of the objectives cannot be read: they begin again");
            None
        });
        let now_ms = clock.wall_ms();
        let stored = stored.unwrap_or_else(|| Stored { began_ms: now_ms, ..Stored::default() });
        let last = vec![ObjectiveSum::default(); declared.len()];
        let sampled_at_ms = clock.monotonic_ms();
        let counting = Mutex::new(Counting { stored, last, sampled_at_ms });
        Self { clock, registry, declared, file: Mutex::new(file), counting }
    }

    /// The objectives.
    pub fn declared(&self) -> impl Iterator<Item = &Objective> {
        self.declared.iter().map(|declared| &declared.objective)
    }

    /// What this node has counted since `since_ms`, rounded down to a whole hour, up to now.
    #[must_use]
    pub fn counted(&self, since_ms: u64) -> CountedObjectives {
        self.sample();
        let now_ms = self.clock.wall_ms();
        let since_ms = since_ms / HOUR_MS * HOUR_MS;
        let counting = self.counting.lock();
        let stored = &counting.stored;
        let began_ms = stored.began_ms.max(since_ms);
        // A wall clock that was wrong for a time may have left hours of the future.
        let within = |hour: &&Hour| (since_ms..=now_ms).contains(&hour.at_ms);
        let mut sums = BTreeMap::<String, ObjectiveSum>::new();
        let mut counted_ms = 0;
        for hour in stored.hours.iter().filter(within) {
            counted_ms += hour.counted_ms;
            for (name, more) in &hour.sums {
                add(sums.entry(name.clone()).or_default(), *more);
            }
        }
        let counted_ms = counted_ms.min(now_ms.saturating_sub(began_ms));
        CountedObjectives { began_ms, counted_ms, sums }
    }

    /// Reads the counters, and adds what is new to the present hour.
    fn sample(&self) {
        if self.declared.is_empty() {
            return;
        }
        let families = self.registry.gather();
        let (now_ms, monotonic_ms) = (self.clock.wall_ms(), self.clock.monotonic_ms());
        let mut counting = self.counting.lock();
        let Counting { stored, last, sampled_at_ms } = &mut *counting;
        let hour = stored.hour(now_ms / HOUR_MS * HOUR_MS);
        hour.counted_ms += monotonic_ms.saturating_sub(*sampled_at_ms);
        *sampled_at_ms = monotonic_ms.max(*sampled_at_ms);
        for (declared, last) in self.declared.iter().zip(last) {
            let Declared { objective, failures, total } = declared;
            let now =
                ObjectiveSum { requests: total.sum(&families), failures: failures.sum(&families) };
            // A difference of two counters can shrink for a moment, because they are not read at the same time.
            let new = ObjectiveSum {
                requests: now.requests.saturating_sub(last.requests),
                failures: now.failures.saturating_sub(last.failures),
            };
            add(last, new);
            if new != ObjectiveSum::default() {
                add(hour.sums.entry(objective.name.clone()).or_default(), new);
            }
        }
    }

    /// Reads the counters and writes the file. Blocks.
    pub(super) fn write(&self) {
        self.sample();
        let file = self.file.lock();
        let Some(file) = file.as_deref().filter(|_| !self.declared.is_empty()) else { return };
        let bytes = serde_json::to_vec(&self.counting.lock().stored).map_err(io::Error::from);
        if let Err(error) = bytes.and_then(|bytes| stored_file::replace(file, &bytes)) {
            let path = file.display();
            tracing::warn!(%path, %error, "the counts of the objectives cannot be written; it is tried again");
        }
    }

    /// Counts until it is dropped.
    pub async fn keep(self: Arc<Self>) {
        if self.declared.is_empty() {
            return;
        }
        loop {
            for _ in 0..SAMPLES_PER_WRITE {
                tokio::time::sleep(SAMPLE_EVERY).await;
                self.sample();
            }
            let own = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || own.write()).await.is_err() {
                tracing::error!("the counts of the objectives could not be written");
            }
        }
    }
}

impl Stored {
    /// The hour that began then. It is added if it is missing, and the oldest ones make room.
    fn hour(&mut self, at_ms: u64) -> &mut Hour {
        let before = self.hours.iter().rposition(|hour| hour.at_ms <= at_ms);
        let found = before.filter(|position| self.hours[*position].at_ms == at_ms);
        let mut position = found.unwrap_or_else(|| {
            let position = before.map_or(0, |position| position + 1);
            self.hours.insert(position, Hour { at_ms, ..Hour::default() });
            position
        });
        while self.hours.len() > HOURS_MAX && position > 0 {
            self.hours.pop_front();
            position -= 1;
        }
        &mut self.hours[position]
    }
}

/// The counts from before the start; `None` if there are none. Blocks.
fn read(file: &Path) -> io::Result<Option<Stored>> {
    let Some(bytes) = stored_file::read(file, FILE_LEN_MAX)? else { return Ok(None) };
    Ok(Some(serde_json::from_slice(&bytes)?))
}

fn declare(objective: &Objective) -> Result<Declared, String> {
    let (failures, total) = (Terms::read(&objective.failures)?, Terms::read(&objective.total)?);
    Ok(Declared { objective: objective.clone(), failures, total })
}

fn add(sum: &mut ObjectiveSum, more: ObjectiveSum) {
    sum.requests += more.requests;
    sum.failures += more.failures;
}

#[cfg(test)]
mod tests {
    use prometheus::IntCounter;

    use super::*;

    const HOUR: Duration = Duration::from_millis(HOUR_MS);

    struct Bench {
        clock: Clock,
        registry: Registry,
        all: IntCounter,
        failed: IntCounter,
    }

    impl Bench {
        /// A new process: its counters begin at 0.
        fn new(clock: &Clock) -> Self {
            let counter = |name| IntCounter::new(name, "a counter").unwrap();
            let (all, failed) = (counter("all_total"), counter("failed_total"));
            let registry = Registry::new();
            registry.register(Box::new(all.clone())).unwrap();
            registry.register(Box::new(failed.clone())).unwrap();
            Self { clock: clock.clone(), registry, all, failed }
        }

        fn start(&self, file: &Path) -> Objectives {
            let objective = |name: &str, failures: &str| Objective {
                name: name.into(),
                title: String::new(),
                about: String::new(),
                objective: 0.99,
                failures: failures.into(),
                total: "rate(all_total[WINDOW])".into(),
            };
            let objectives = [
                objective("calls", "rate(failed_total[WINDOW])"),
                objective("unreadable", "failed_total"),
            ];
            let registry = self.registry.clone();
            Objectives::start(self.clock.clone(), registry, &objectives, Some(file.to_owned()))
        }

        fn count(&self, all: u64, failed: u64) {
            self.all.inc_by(all);
            self.failed.inc_by(failed);
        }
    }

    fn calls(objectives: &Objectives, since_ms: u64) -> (u64, u64) {
        let counted = objectives.counted(since_ms);
        let sum = counted.sums.get("calls").copied().unwrap_or_default();
        (sum.requests, sum.failures)
    }

    #[test]
    fn the_counts_outlive_the_process_and_the_time_without_it_is_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("objectives");
        let clock = Clock::manual();
        clock.advance(HOUR * 1_000);
        let bench = Bench::new(&clock);
        let first = bench.start(&file);
        assert_eq!(first.declared().count(), 1, "one cannot be read");
        let began_ms = clock.wall_ms();
        bench.count(100, 3);
        clock.advance(HOUR / 2);
        first.write();
        drop(first);
        clock.advance(HOUR);
        let bench = Bench::new(&clock);
        let second = bench.start(&file);
        assert_eq!(calls(&second, 0), (100, 3));
        bench.count(10, 0);
        clock.advance(HOUR / 2);
        assert_eq!(calls(&second, 0), (110, 3));
        let counted = second.counted(0);
        assert_eq!((counted.began_ms, counted.counted_ms), (began_ms, HOUR_MS));
        assert_eq!(calls(&second, began_ms + HOUR_MS), (10, 0));
    }

    #[test]
    fn hours_before_the_window_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual();
        clock.advance(HOUR * 1_000);
        let bench = Bench::new(&clock);
        let objectives = bench.start(&dir.path().join("objectives"));
        for _ in 0..HOURS_MAX + 5 {
            bench.count(1, 0);
            objectives.sample();
            clock.advance(HOUR);
        }
        objectives.sample();
        assert_eq!(objectives.counting.lock().stored.hours.len(), HOURS_MAX);
        assert_eq!(calls(&objectives, clock.wall_ms() - OBJECTIVE_WINDOW_MS).0, 720);
        assert_eq!(calls(&objectives, clock.wall_ms() - 2 * HOUR_MS).0, 2);
    }

    #[test]
    fn a_damaged_file_and_a_shrinking_difference_are_survived() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("objectives");
        std::fs::write(&file, "{\"began_ms\": 5, \"hours\": 7}").unwrap();
        let clock = Clock::manual();
        clock.advance(HOUR);
        let bench = Bench::new(&clock);
        let objective = Objective {
            name: "calls".into(),
            title: String::new(),
            about: String::new(),
            objective: 0.99,
            failures: "rate(all_total[WINDOW]) - rate(failed_total[WINDOW])".into(),
            total: "rate(all_total[WINDOW])".into(),
        };
        let registry = bench.registry.clone();
        let objectives =
            Objectives::start(clock.clone(), registry, &[objective], Some(file.clone()));
        assert_eq!(objectives.counted(0).began_ms, clock.wall_ms());
        bench.count(10, 2);
        assert_eq!(calls(&objectives, 0), (10, 8));
        bench.count(0, 3);
        assert_eq!(calls(&objectives, 0), (10, 8), "what was counted stays");
        bench.count(4, 0);
        assert_eq!(calls(&objectives, 0), (14, 9));
        objectives.write();
        let stored: Stored = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(stored.hours.len(), 1);
    }
}
