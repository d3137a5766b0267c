//! One instance as this node calls it: its connections, and the results of its requests.
//!
//! The request path only reads atomics and adds to them. `crate::tick`, which the proxy actor calls, turns the counts
//! into gates.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use hyper::http::uri::PathAndQuery;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::UpstreamStatus;
use super::breaker::{Breaker, Gate};
use super::counts::Counts;
use super::error::ProxyError;
use super::outlier::Ejection;
use super::pool::Pool;
use super::target::RequestTarget;
use maxine_state::Instance;
use maxine_view::Load;

/// Half-life of the latency estimate while there are no new answers, in milliseconds, so that an instance that was slow
/// once is tried again.
const LATENCY_HALF_LIFE_MS: u64 = 10_000;

/// Values of the gate. Any other value is the number of trial requests that are left.
const GATE_CLOSED_TO_ALL: i32 = -1;
const GATE_OPEN: i32 = i32::MAX;

/// The results of an instance's requests on this node.
#[derive(Debug)]
pub(crate) struct Signals {
    good: AtomicU64,
    bad: AtomicU64,
    bad_in_a_row: AtomicU32,
    latency_us_sum: AtomicU64,
    /// Upper half: the latency estimate, in microseconds. Lower half: when it was made, in milliseconds on the
    /// monotonic clock (it wraps).
    latency: AtomicU64,
    /// The gate of the breaker: closed, open, or the number of trial requests that are left.
    breaker_gate: AtomicI32,
    /// Not zero while the instance is ejected as an outlier.
    ejected: AtomicU32,
    decisions: Mutex<Decisions>,
}

/// The decisions of the last tick. They are not used on the request path.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    pub(crate) breaker: Breaker,
    pub(crate) ejection: Ejection,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            good: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            bad_in_a_row: AtomicU32::new(0),
            latency_us_sum: AtomicU64::new(0),
            latency: AtomicU64::new(0),
            breaker_gate: AtomicI32::new(GATE_OPEN),
            ejected: AtomicU32::new(0),
            decisions: Mutex::default(),
        }
    }
}

impl Signals {
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            good: self.good.load(Ordering::Relaxed),
            bad: self.bad.load(Ordering::Relaxed),
            bad_in_a_row: self.bad_in_a_row.load(Ordering::Relaxed),
            latency_us_sum: self.latency_us_sum.load(Ordering::Relaxed),
        }
    }

    /// Counts a result. `latency_us` is `None` if the answer broke off after its head. Returns the number of failures
    /// in a row.
    pub(crate) fn record(&self, ok: bool, latency_us: Option<u64>, now_ms: u64) -> u32 {
        if let Some(latency_us) = latency_us {
            self.latency_us_sum.fetch_add(latency_us, Ordering::Relaxed);
            self.note_latency(latency_us, now_ms);
        }
        if ok {
            self.good.fetch_add(1, Ordering::Relaxed);
            if self.bad_in_a_row.load(Ordering::Relaxed) != 0 {
                self.bad_in_a_row.store(0, Ordering::Relaxed);
            }
            return 0;
        }
        self.bad.fetch_add(1, Ordering::Relaxed);
        self.bad_in_a_row.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn note_latency(&self, latency_us: u64, now_ms: u64) {
        let present = self.latency_us(now_ms);
        // A higher latency counts fully at once, and a lower one by an eighth (Finagle's peak EWMA).
        let next =
            if latency_us > present { latency_us } else { present - (present - latency_us) / 8 };
        let packed = (next.min(u64::from(u32::MAX)) << 32) | (now_ms & 0xffff_ffff);
        self.latency.store(packed, Ordering::Relaxed);
    }

    /// The latency estimate in microseconds, decayed since the last answer. It is 0 if nothing is known.
    pub(crate) fn latency_us(&self, now_ms: u64) -> u64 {
        let packed = self.latency.load(Ordering::Relaxed);
        let age_ms = (now_ms & 0xffff_ffff).wrapping_sub(packed & 0xffff_ffff) & 0xffff_ffff;
        let halvings = (age_ms / LATENCY_HALF_LIFE_MS).min(63);
        (packed >> 32) >> halvings
    }

    /// Whether a request may be sent now. This takes no trial.
    pub(crate) fn may_pass(&self) -> bool {
        self.ejected.load(Ordering::Relaxed) == 0 && self.breaker_gate.load(Ordering::Relaxed) > 0
    }

    /// Whether a request is let through: always if the gate is open, and by taking a trial if it is half-open.
    pub(crate) fn pass(&self) -> bool {
        if self.ejected.load(Ordering::Relaxed) != 0 {
            return false;
        }
        if self.breaker_gate.load(Ordering::Relaxed) == GATE_OPEN {
            return true;
        }
        let taken =
            self.breaker_gate.fetch_update(
                Ordering::Relaxed,
                Ordering::Relaxed,
                |left| match left {
                    GATE_OPEN => Some(GATE_OPEN),
                    left if left > 0 => Some(left - 1),
                    _ => None,
                },
            );
        taken.is_ok()
    }

    pub(crate) fn set_gate(&self, gate: Gate) {
        let value = match gate {
            Gate::Open => GATE_OPEN,
            Gate::Closed => GATE_CLOSED_TO_ALL,
            Gate::Trials(count) => i32::try_from(count).unwrap_or(GATE_OPEN - 1),
        };
        self.breaker_gate.store(value, Ordering::Relaxed);
    }

    pub(crate) fn gate(&self) -> Gate {
        match self.breaker_gate.load(Ordering::Relaxed) {
            GATE_OPEN => Gate::Open,
            // All trials may be in flight.
            left if left >= 0 => Gate::Trials(left.unsigned_abs()),
            _ => Gate::Closed,
        }
    }

    pub(crate) fn set_ejected(&self, ejected: bool) {
        self.ejected.store(u32::from(ejected), Ordering::Relaxed);
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn decisions(&self) -> &Mutex<Decisions> {
        &self.decisions
    }
}

/// An instance as this node calls it.
pub(crate) struct Upstream {
    pub(crate) instance: Arc<Instance>,
    /// Hash of the instance's name. Sticky cookies contain it.
    pub(crate) name_hash: u64,
    pub(crate) load: Arc<Load>,
    /// `None` if the address cannot be parsed. Registration refuses such an address.
    pub(crate) pool: Option<Arc<Pool>>,
    pub(crate) signals: Arc<Signals>,
    /// When the slow start of a recovered instance ends, on the monotonic clock, and how long it takes in total. Both
    /// in milliseconds; 0 if the instance gets its full share.
    pub(crate) ramp: (u64, u64),
}

impl Upstream {
    pub(crate) fn new(
        instance: Arc<Instance>,
        load: Arc<Load>,
        pool: Option<Arc<Pool>>,
        signals: Arc<Signals>,
        ramp: (u64, u64),
    ) -> Self {
        let name_hash = xxh3_64(instance.registration.id.as_str().as_bytes());
        Self { instance, name_hash, load, pool, signals, ramp }
    }

    /// The path and query of a request to this instance.
    pub(crate) fn path_and_query(
        &self,
        target: &RequestTarget,
    ) -> Result<PathAndQuery, ProxyError> {
        let pool = self.pool.as_ref().ok_or(ProxyError::Resolve)?;
        Ok(pool.address().path_and_query(target)?)
    }

    /// The status of the instance at this proxy. `leaving` is whether it gets no new requests.
    pub(crate) fn status(&self, leaving: bool, now_ms: u64) -> UpstreamStatus {
        let counts = self.signals.counts();
        UpstreamStatus {
            instance: self.instance.registration.id.to_string(),
            in_flight: self.load.in_flight.load(Ordering::Relaxed),
            leaving,
            idle_connections: self.pool.as_ref().map_or(0, |pool| pool.idle_len()),
            breaker: match self.signals.gate() {
                Gate::Open => "closed",
                Gate::Trials(_) => "half_open",
                Gate::Closed => "open",
            },
            ejected: self.signals.is_ejected(),
            latency_us: self.signals.latency_us(now_ms),
            good_total: counts.good,
            bad_total: counts.bad,
        }
    }

    /// Why this node sends the instance no requests, or only trial requests. `None` if it sends requests.
    pub(crate) fn blocked_reason(&self) -> Option<&'static str> {
        if self.signals.is_ejected() {
            return Some("ejected as an outlier");
        }
        match self.signals.gate() {
            Gate::Open => None,
            Gate::Trials(_) => Some("its circuit breaker lets only trial requests through"),
            Gate::Closed => Some("its circuit breaker is open"),
        }
    }

    /// The instance's share of its weight, in thousandths. It is less than 1,000 during slow start, and at least 50.
    pub(crate) fn ramp_permille(&self, now_ms: u64) -> u64 {
        let (until_ms, length_ms) = self.ramp;
        if now_ms >= until_ms || length_ms == 0 {
            return 1_000;
        }
        let done_ms = length_ms.saturating_sub(until_ms - now_ms);
        (done_ms * 1_000 / length_ms).max(50)
    }
}

/// One request in flight to an instance, from the beginning of its sending to the last byte of its response.
pub(crate) struct InFlight {
    upstream: Arc<Upstream>,
    started_us: u64,
    now_ms: u64,
}

impl InFlight {
    pub(crate) fn start(upstream: Arc<Upstream>, now_us: u64) -> Self {
        upstream.load.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { upstream, started_us: now_us, now_ms: now_us / 1_000 }
    }

    /// The head of the response has arrived, or the attempt failed. Returns the number of failures in a row.
    pub(crate) fn head(&mut self, ok: bool, now_us: u64) -> u32 {
        self.now_ms = now_us / 1_000;
        let latency_us = now_us.saturating_sub(self.started_us);
        self.upstream.signals.record(ok, Some(latency_us), self.now_ms)
    }

    /// The response broke off after its head.
    pub(crate) fn response_failed(self, error: &ProxyError) {
        if error.blames_instance() {
            self.upstream.signals.record(false, None, self.now_ms);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.upstream.load.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_was_slow_once_is_tried_again() {
        let signals = Signals::default();
        signals.record(true, Some(1_000_000), 0);
        assert_eq!(signals.latency_us(0), 1_000_000);
        assert!(signals.latency_us(100_000) < 2_000, "silence decays the estimate");
        for at in 1..100 {
            signals.record(true, Some(1_000), at);
        }
        assert!(signals.latency_us(100) < 2_000, "good answers bring it down");
    }

    #[test]
    fn a_half_open_gate_lets_exactly_its_trials_through() {
        let signals = Signals::default();
        signals.set_gate(Gate::Trials(2));
        assert!(signals.pass() && signals.pass() && !signals.pass());
        assert_eq!(signals.gate(), Gate::Trials(0), "it is still half-open");
        signals.set_gate(Gate::Open);
        assert!(signals.pass());
        signals.set_ejected(true);
        assert!(!signals.pass() && !signals.may_pass());
    }
}
