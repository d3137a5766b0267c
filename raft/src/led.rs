//! Remembers when this node led, so that a node that leads again knows for how long nobody could.

use std::time::{Duration, Instant};

/// When this node led.
#[derive(Debug, Default)]
pub(crate) struct Led {
    /// Since when it has led without interruption; `None` if it does not lead.
    since: Option<Instant>,
    /// When a quorum last confirmed it as leader.
    confirmed_at: Option<Instant>,
    /// The time from the last confirmation in its previous leadership to the start of the present one.
    gap: Option<Duration>,
}

impl Led {
    /// Records whether this node leads at `now`, and when a quorum confirmed that.
    pub(crate) fn note(&mut self, is_leader: bool, confirmed_at: Instant, now: Instant) {
        if !is_leader {
            self.since = None;
            return;
        }
        if self.since.is_none() {
            self.gap = self.confirmed_at.map(|before| now.saturating_duration_since(before));
            self.since = Some(now);
        }
        self.confirmed_at = self.confirmed_at.max(Some(confirmed_at));
    }

    /// Since when it has led without interruption; `None` if it does not lead.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// How long no quorum had confirmed this node when its newest leadership began; `None` if it had never led before.
    pub(crate) fn gap(&self) -> Option<Duration> {
        self.gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A leader that was paused together with the majority notices the loss only when it continues.
    #[test]
    fn a_leader_that_leads_again_counts_the_time_without_a_quorum_from_the_last_confirmation() {
        let start = crate::clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut led = Led::default();
        led.note(false, at(0), at(0));
        led.note(true, at(90), at(100));
        assert_eq!((led.since(), led.gap()), (Some(at(100)), None), "it never led before");
        led.note(true, at(1_000), at(1_020));
        // The process did not run for 18 seconds. The loss is noticed, and 30 ms later it leads again.
        led.note(false, at(19_000), at(19_000));
        assert_eq!(led.since(), None);
        led.note(true, at(19_025), at(19_030));
        let gap = Duration::from_millis(18_030);
        assert_eq!((led.since(), led.gap()), (Some(at(19_030)), Some(gap)));
        // A later confirmation in the same leadership does not change it.
        led.note(true, at(25_000), at(25_010));
        assert_eq!(led.gap(), Some(gap));
    }
}
