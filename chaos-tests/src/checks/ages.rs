//! Check: a node's state is never older than the node reports. It contains every write that was acknowledged
//! longer ago.

use crate::journal::{Acknowledgement, AgeClaim};

/// Maximum staleness of a node that reports to be ready, in milliseconds.
const READY_STALENESS_MS_MAX: u64 = 2_000;

/// Compares the staleness that nodes reported with what was acknowledged by then.
pub fn check(acknowledged: &[Acknowledgement], claims: &[AgeClaim]) -> Vec<String> {
    let mut acknowledged: Vec<&Acknowledgement> = acknowledged.iter().collect();
    acknowledged.sort_by_key(|ack| ack.end_us);
    // For each acknowledgement, the highest index that was acknowledged up to it.
    let highest: Vec<u64> = acknowledged
        .iter()
        .scan(0, |highest, ack| {
            *highest = ack.index.max(*highest);
            Some(*highest)
        })
        .collect();
    let mut anomalies = Vec::new();
    for claim in claims {
        let Some(age_ms) = claim.staleness_ms else {
            if claim.ready {
                anomalies.push(format!(
                    "node {} reported ready without knowing its staleness",
                    claim.node
                ));
            }
            continue;
        };
        if claim.ready && age_ms > READY_STALENESS_MS_MAX {
            anomalies.push(format!(
                "node {} reported ready with a state that was {age_ms} ms old",
                claim.node
            ));
        }
        // The staleness is rounded down, and counts from a moment after the question was sent.
        let since_us = claim.start_us.saturating_sub((age_ms + 1) * 1_000);
        let before = acknowledged.partition_point(|ack| ack.end_us < since_us);
        let must_have = before.checked_sub(1).map_or(0, |last| highest[last]);
        if claim.index < must_have {
            anomalies.push(format!(
                "node {} said that its state at index {} is at most {age_ms} ms old, but index \
                 {must_have} had been acknowledged before",
                claim.node, claim.index
            ));
        }
    }
    anomalies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(staleness_ms: Option<u64>, index: u64, ready: bool) -> AgeClaim {
        AgeClaim { node: 2, start_us: 10_000_000, index, staleness_ms, ready }
    }

    #[test]
    fn a_state_that_is_older_than_it_says_is_found() {
        let acknowledged = [
            Acknowledgement { end_us: 9_900_000, index: 30 },
            Acknowledgement { end_us: 5_000_000, index: 20 },
        ];
        let fine = [
            claim(Some(50), 30, true),
            claim(Some(200), 20, true),
            claim(Some(6_000), 10, false),
            claim(None, 0, false),
        ];
        assert_eq!(check(&acknowledged, &fine), Vec::<String>::new());
        for wrong in [
            claim(Some(50), 29, true),
            claim(Some(4_000), 19, false),
            claim(Some(6_000), 10, true),
            claim(None, 30, true),
        ] {
            assert_eq!(check(&acknowledged, std::slice::from_ref(&wrong)).len(), 1, "{wrong:?}");
        }
    }
}
