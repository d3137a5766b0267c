//! The results of one node's probes of one instance: the newest results and, after enough of them in a row, a
//! settled status.

use std::collections::VecDeque;

use bincode::{Decode, Encode};

use super::probe_queue::{ProbeClass, SLOW_MS};
use maxine_state::ProbeSpec;

/// Maximum length of the text that is kept of a result, in bytes.
const DETAIL_LEN_MAX: usize = 256;
/// Number of results that are kept for the explanation of a verdict.
const RECORDS_MAX: usize = 8;
/// How much a slow probe adds to the slowness of an instance. A fast one subtracts 1.
const SLOW_PROBE_ADDS: u32 = 3;
/// Number of slow probes in a row after which an instance is slow; or the `fall` of its probe, if that is less.
const SLOW_PROBES_MAX: u32 = 3;

/// The status of an instance, as one node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ProbeStatus {
    /// Alive and ready.
    Good,
    /// Alive, but not ready for traffic.
    NotReady,
    /// Not alive.
    Dead,
}

/// The answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// The status that follows from it.
    pub status: ProbeStatus,
    /// Result, in one line.
    pub detail: String,
    /// How long the probe took, in microseconds.
    pub latency_us: u64,
}

/// The result of one probe, for display.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeRecord {
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// The status that followed from it.
    pub status: ProbeStatus,
    /// Result, in one line.
    pub detail: String,
    /// How long the probe took, in microseconds.
    pub latency_us: u64,
}

/// The results for one instance, for readers.
#[derive(Clone, Debug)]
pub struct TrackView {
    /// The address that was probed: the index of the registration that set it.
    pub address_index: u64,
    /// Number of failed probes in a row.
    pub failures: u32,
    /// The status after enough results in a row; `None` before that.
    pub settled: Option<ProbeStatus>,
    /// The newest results, newest first.
    pub records: Vec<ProbeRecord>,
}

/// An instance that this node probes.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    pub(crate) address_index: u64,
    pub(crate) spec: ProbeSpec,
    pub(crate) address: maxine_state::Address,
    /// Until this time failed probes do not count, in milliseconds on the monotonic clock.
    pub(crate) grace_until_ms: u64,
    pub(crate) due_ms: u64,
    pub(crate) in_flight: bool,
    /// The class of due probes among which the next probe waits; `None` if it is not due.
    pub(crate) ready: Option<ProbeClass>,
    /// Whether any probe was fast.
    was_quick: bool,
    /// Rises with each slow probe and falls with each fast one.
    slowness: u32,
    /// The status after enough results in a row; `None` before that.
    pub(crate) settled: Option<ProbeStatus>,
    candidate: Option<(ProbeStatus, u32)>,
    /// Number of failed probes in a row.
    pub(crate) failures: u32,
    pub(crate) records: VecDeque<ProbeRecord>,
}

impl Track {
    pub(crate) fn new(
        address_index: u64,
        spec: ProbeSpec,
        address: maxine_state::Address,
        grace_until_ms: u64,
        due_ms: u64,
    ) -> Self {
        Self {
            address_index,
            spec,
            address,
            grace_until_ms,
            due_ms,
            in_flight: false,
            ready: None,
            was_quick: false,
            slowness: 0,
            settled: None,
            candidate: None,
            failures: 0,
            records: VecDeque::new(),
        }
    }

    /// The class of the next probe, which depends on how long earlier probes took. An instance that stops
    /// answering keeps its class until its status is settled.
    pub(crate) fn class(&self) -> ProbeClass {
        if self.slowness >= self.slow_from() {
            return ProbeClass::Slow;
        }
        if self.was_quick { ProbeClass::Answering } else { ProbeClass::New }
    }

    /// The slowness from which on an instance is slow.
    fn slow_from(&self) -> u32 {
        self.spec.fall.min(SLOW_PROBES_MAX) * SLOW_PROBE_ADDS
    }

    /// Records that the instance gave no answer in the short time for new instances. It is slow until a probe is fast.
    pub(crate) fn set_slow(&mut self) {
        self.slowness = self.slow_from();
    }

    /// Records a result. Returns `true` if the settled status changed.
    pub(crate) fn take(&mut self, answer: &ProbeAnswer, now_ms: u64, wall_ms: u64) -> bool {
        if answer.latency_us >= SLOW_MS.min(self.spec.timeout_ms) * 1_000 {
            // The maximum lets an instance that answers fast again leave its class after a few probes.
            let slowness_max = self.slow_from() + SLOW_PROBE_ADDS;
            self.slowness = (self.slowness + SLOW_PROBE_ADDS).min(slowness_max);
        } else {
            self.slowness = self.slowness.saturating_sub(1);
            self.was_quick = true;
        }
        if self.records.len() == RECORDS_MAX {
            self.records.pop_back();
        }
        self.records.push_front(ProbeRecord {
            at_ms: wall_ms,
            status: answer.status,
            detail: shortened(&answer.detail),
            latency_us: answer.latency_us,
        });
        if answer.status == ProbeStatus::Good {
            self.failures = 0;
        } else if now_ms < self.grace_until_ms {
            return false;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        if self.settled == Some(answer.status) {
            self.candidate = None;
            return false;
        }
        let count = match self.candidate {
            Some((status, count)) if status == answer.status => count + 1,
            _ => 1,
        };
        self.candidate = Some((answer.status, count));
        let needed =
            if answer.status == ProbeStatus::Good { self.spec.rise } else { self.spec.fall };
        if count < needed {
            return false;
        }
        self.settled = Some(answer.status);
        self.candidate = None;
        true
    }

    /// A copy for readers.
    pub(crate) fn view(&self) -> TrackView {
        TrackView {
            address_index: self.address_index,
            failures: self.failures,
            settled: self.settled,
            records: self.records.iter().cloned().collect(),
        }
    }
}

/// Cuts the text of a result. The text is shown in answers and sent to the leader, so it must be short.
fn shortened(detail: &str) -> String {
    detail[..detail.floor_char_boundary(DETAIL_LEN_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_results_text_only_the_beginning_is_kept() {
        let mut track = track(1, 1, 0);
        let detail = "ü".repeat(100_000);
        track.take(&ProbeAnswer { detail, ..answer(ProbeStatus::Dead) }, 1, 1);
        assert_eq!(track.records[0].detail, "ü".repeat(128));
    }

    fn track(rise: u32, fall: u32, grace_until_ms: u64) -> Track {
        let spec = ProbeSpec { rise, fall, ..ProbeSpec::default() };
        let address = maxine_state::Address::parse("http://10.0.0.1").unwrap();
        Track::new(1, spec, address, grace_until_ms, 0)
    }

    fn answer(status: ProbeStatus) -> ProbeAnswer {
        ProbeAnswer { status, detail: "x".into(), latency_us: 1 }
    }

    #[test]
    fn a_quick_answer_now_and_then_does_not_make_a_slow_instance_quick() {
        let mut track = track(1, 3, 0);
        let slow = ProbeAnswer { latency_us: 60_000_000, ..answer(ProbeStatus::Dead) };
        track.take(&answer(ProbeStatus::Good), 1, 1);
        assert_eq!(track.class(), ProbeClass::Answering);
        for round in 0..10 {
            track.take(&slow, 1, 1);
            track.take(&slow, 1, 1);
            track.take(&answer(ProbeStatus::Good), 1, 1);
            let expected = if round == 0 { ProbeClass::Answering } else { ProbeClass::Slow };
            assert_eq!(track.class(), expected, "round {round}");
        }
        for _ in 0..3 {
            track.take(&answer(ProbeStatus::Good), 1, 1);
        }
        assert_eq!(track.class(), ProbeClass::Answering, "it answers fast again");
    }

    #[test]
    fn only_results_in_a_row_settle() {
        let mut track = track(2, 3, 0);
        for status in [
            ProbeStatus::Good,
            ProbeStatus::Dead,
            ProbeStatus::Dead,
            ProbeStatus::Good,
            ProbeStatus::Dead,
        ] {
            assert!(!track.take(&answer(status), 1, 1));
        }
        assert!(!track.take(&answer(ProbeStatus::Dead), 1, 1));
        assert!(track.take(&answer(ProbeStatus::Dead), 1, 1), "the third in a row");
        assert_eq!((track.settled, track.failures), (Some(ProbeStatus::Dead), 3));
        assert!(!track.take(&answer(ProbeStatus::Good), 1, 1));
        assert!(track.take(&answer(ProbeStatus::Good), 1, 1), "the second in a row");
        assert_eq!(track.records.len(), RECORDS_MAX);
    }

    #[test]
    fn bad_results_do_not_count_while_it_starts_up() {
        let mut track = track(1, 1, 100);
        assert!(!track.take(&answer(ProbeStatus::Dead), 99, 1));
        assert_eq!(track.failures, 0);
        assert!(track.take(&answer(ProbeStatus::Dead), 100, 1));
    }
}
