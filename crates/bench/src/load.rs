//! Closed-loop load: a number of clients, each with one request in flight, for a duration.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use maxine::cli::exit::CliError;
use maxine_clock::Clock;

/// Maximum latency that is recorded, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;

/// The result of a load run.
#[derive(Clone)]
pub(super) struct Outcome {
    /// Number of acknowledged units of work. A request may have several.
    pub units: u64,
    /// Number of requests that were not acknowledged.
    pub failed: u64,
    /// Duration of the run, in microseconds.
    pub elapsed_us: u64,
    /// Latencies of acknowledged requests, in microseconds.
    pub latencies_us: Histogram<u64>,
    /// Why the first failed request failed.
    pub first_failure: Option<String>,
}

impl Outcome {
    /// Number of acknowledged units per second.
    #[allow(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    pub(super) fn per_second(&self) -> f64 {
        self.units as f64 * 1_000_000.0 / self.elapsed_us.max(1) as f64
    }

    /// The same outcome. Fails if a request failed.
    pub(super) fn complete(self, what: &str) -> Result<Self, CliError> {
        if self.failed == 0 {
            return Ok(self);
        }
        let why = self.first_failure.unwrap_or_default();
        Err(CliError::Failed(format!("{what}: {} requests failed: {why}", self.failed)))
    }

    /// The latency quantile of the requests, in microseconds.
    pub(super) fn quantile_us(&self, quantile: f64) -> u64 {
        self.latencies_us.value_at_quantile(quantile)
    }
}

/// A histogram for latencies in microseconds.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constant and valid")
}

/// Counters shared by the clients of one run.
#[derive(Clone)]
pub(super) struct Run {
    clock: Clock,
    stop: Arc<AtomicBool>,
    units: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    first_failure: Arc<Mutex<Option<String>>>,
    latencies_us: Arc<Mutex<Histogram<u64>>>,
}

impl Run {
    /// A run that has not started.
    pub(super) fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            stop: Arc::default(),
            units: Arc::default(),
            failed: Arc::default(),
            first_failure: Arc::default(),
            latencies_us: Arc::new(Mutex::new(histogram())),
        }
    }

    /// Whether clients should continue.
    pub(super) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// The present time, for [`Run::acknowledged`].
    pub(super) fn now_us(&self) -> u64 {
        self.clock.monotonic_us()
    }

    /// Counts a request that was acknowledged.
    pub(super) fn acknowledged(&self, since_us: u64, units: u64) {
        let latency_us =
            self.clock.monotonic_us().saturating_sub(since_us).clamp(1, LATENCY_US_MAX);
        self.units.fetch_add(units, Ordering::Relaxed);
        self.latencies_us.lock().saturating_record(latency_us);
    }

    /// Counts a request that was not acknowledged.
    pub(super) fn failed(&self, why: impl FnOnce() -> String) {
        if self.failed.fetch_add(1, Ordering::Relaxed) == 0 {
            *self.first_failure.lock() = Some(why());
        }
    }

    /// Runs the clients for `duration`, then waits at most 15 s for the last answer of each.
    pub(super) async fn drive<F>(self, clients: Vec<F>, duration: Duration) -> io::Result<Outcome>
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let started_us = self.clock.monotonic_us();
        let tasks: Vec<_> = clients.into_iter().map(tokio::spawn).collect();
        tokio::time::sleep(duration).await;
        self.stop.store(true, Ordering::Relaxed);
        let mut errors = Vec::new();
        for mut task in tasks {
            match tokio::time::timeout(Duration::from_secs(15), &mut task).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(why))) => errors.push(why),
                Ok(Err(ended)) => errors.push(io::Error::other(ended)),
                Err(_) => {
                    task.abort();
                    errors.push(io::Error::other("a request was not answered in 15 s"));
                }
            }
        }
        let elapsed_us = self.clock.monotonic_us() - started_us;
        let units = self.units.load(Ordering::Relaxed);
        if units == 0 && !errors.is_empty() {
            return Err(errors.swap_remove(0));
        }
        for error in errors {
            self.failed(|| error.to_string());
        }
        Ok(Outcome {
            units,
            failed: self.failed.load(Ordering::Relaxed),
            elapsed_us,
            latencies_us: self.latencies_us.lock().clone(),
            first_failure: self.first_failure.lock().clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_client_that_ends_with_an_error_counts_as_failed() {
        let run = Run::new(&Clock::system());
        let client = |n: u32| {
            let run = run.clone();
            async move {
                run.acknowledged(run.now_us(), 1);
                if n == 0 { Ok(()) } else { Err(io::Error::other(format!("client {n}"))) }
            }
        };
        let clients: Vec<_> = (0..4).map(client).collect();
        let outcome = run.clone().drive(clients, Duration::ZERO).await.unwrap();
        assert_eq!((outcome.units, outcome.failed), (4, 3));
        assert_eq!(outcome.first_failure.as_deref(), Some("client 1"));
    }
}
