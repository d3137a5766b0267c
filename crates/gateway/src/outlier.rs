//! Outlier ejection: a pure function of the counts of a service's instances since the last evaluation.
//!
//! It never ejects more than the policy's share at once, and never the last instance.

use super::counts::Counts;
use maxine_state::OutlierPolicy;

/// The ejection status of one instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ejection {
    /// The counts at the last evaluation.
    from: Counts,
    /// When the ejection ends, in milliseconds on the monotonic clock; 0 if the instance is not ejected.
    until_ms: u64,
    /// Number of ejections in a row. It decreases with each good evaluation, and each one makes the next ejection
    /// longer.
    times: u32,
}

/// The result for one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing changes.
    Stay,
    /// The instance is ejected, for this reason.
    Eject(String),
}

impl Ejection {
    /// Whether the instance is ejected.
    pub(crate) fn is_out(&self) -> bool {
        self.until_ms != 0
    }

    /// How much longer the instance is ejected, in milliseconds.
    pub(crate) fn left_ms(&self, now_ms: u64) -> u64 {
        self.until_ms.saturating_sub(now_ms)
    }

    /// Ends the ejection when its time is over, and returns whether it did. It is called more often than [`evaluate`].
    pub(crate) fn expire(&mut self, counts: Counts, now_ms: u64) -> bool {
        if self.until_ms == 0 || now_ms < self.until_ms {
            return false;
        }
        self.until_ms = 0;
        self.from = counts;
        true
    }
}

/// Evaluates all instances of a service. Returns one verdict for each instance, in the same order.
pub(crate) fn evaluate(
    members: &mut [(Counts, Ejection)],
    now_ms: u64,
    policy: &OutlierPolicy,
) -> Vec<Verdict> {
    let out = members.iter().filter(|(_, e)| e.is_out()).count();
    let share = members.len() * policy.ejected_percent_max as usize / 100;
    let mut room = share.min(members.len().saturating_sub(1)).saturating_sub(out);
    let latencies: Vec<Option<u64>> = members
        .iter()
        .map(|(counts, e)| mean_latency_us(*counts, e.from, policy.requests_min))
        .collect();
    let median_us = median(latencies.iter().copied().flatten().collect());
    let mut verdicts = Vec::with_capacity(members.len());
    for ((counts, ejection), latency_us) in members.iter_mut().zip(latencies) {
        let verdict = if ejection.is_out() {
            Verdict::Stay
        } else {
            judge(*counts, ejection.from, latency_us, median_us, policy)
        };
        let verdict = match verdict {
            Verdict::Eject(reason) if room > 0 => {
                room -= 1;
                ejection.times = (ejection.times + 1).min(1_000);
                let length_ms = policy.ejection_ms.saturating_mul(ejection.times.into());
                ejection.until_ms = now_ms + length_ms.min(policy.ejection_max_ms).max(1);
                Verdict::Eject(reason)
            }
            Verdict::Eject(_) => Verdict::Stay,
            other => {
                if !ejection.is_out() {
                    ejection.times = ejection.times.saturating_sub(1);
                }
                other
            }
        };
        ejection.from = *counts;
        verdicts.push(verdict);
    }
    verdicts
}

fn judge(
    counts: Counts,
    from: Counts,
    latency_us: Option<u64>,
    median_us: Option<u64>,
    policy: &OutlierPolicy,
) -> Verdict {
    let (good, bad) = (counts.good - from.good, counts.bad - from.bad);
    let total = good + bad;
    if total < policy.requests_min {
        return Verdict::Stay;
    }
    if bad * 100 >= total * u64::from(policy.failure_percent) {
        return Verdict::Eject(format!("{bad} of {total} requests failed"));
    }
    if policy.latency_percent != 0
        && let (Some(mean_us), Some(median_us)) = (latency_us, median_us)
        && mean_us * 100 > median_us * u64::from(policy.latency_percent)
    {
        return Verdict::Eject(format!(
            "answers in {mean_us} µs on average, the median instance in {median_us} µs"
        ));
    }
    Verdict::Stay
}

fn mean_latency_us(counts: Counts, from: Counts, requests_min: u64) -> Option<u64> {
    let answered = counts.good + counts.bad - from.good - from.bad;
    let sum_us = counts.latency_us_sum - from.latency_us_sum;
    (answered >= requests_min).then(|| sum_us / answered.max(1))
}

/// The median of at least three values. With two values, it is unknown which one is the outlier.
fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    (values.len() >= 3).then(|| values[values.len() / 2])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(good: u64, bad: u64, latency_us: u64) -> (Counts, Ejection) {
        let latency_us_sum = (good + bad) * latency_us;
        (Counts { good, bad, bad_in_a_row: 0, latency_us_sum }, Ejection::default())
    }

    #[test]
    fn each_ejection_of_a_failing_instance_takes_longer() {
        let policy = OutlierPolicy { ejection_ms: 1_000, ..Default::default() };
        let mut members = [member(100, 0, 1), member(40, 60, 1), member(100, 0, 1)];
        let verdicts = evaluate(&mut members, 10, &policy);
        assert_eq!(verdicts[1], Verdict::Eject("60 of 100 requests failed".into()));
        assert!(!members[1].1.expire(members[1].0, 1_009));
        assert!(members[1].1.expire(members[1].0, 1_010));
        members[1].0.bad += 50;
        evaluate(&mut members, 2_000, &policy);
        assert!(!members[1].1.expire(members[1].0, 3_999), "twice as long the second time");
        assert!(members[1].1.expire(members[1].0, 4_000));
    }

    #[test]
    fn a_slow_instance_is_ejected_if_latency_counts() {
        let policy = OutlierPolicy { latency_percent: 300, ..Default::default() };
        let mut members = [member(50, 0, 1_000), member(50, 0, 9_000), member(50, 0, 1_100)];
        let verdicts = evaluate(&mut members, 0, &policy);
        assert!(matches!(&verdicts[1], Verdict::Eject(_)), "{verdicts:?}");
        assert_eq!(verdicts[0], Verdict::Stay);
    }

    proptest! {
        #[test]
        fn no_more_than_the_share_and_never_all_are_ejected(
            bad in prop::collection::vec(0_u64..100, 1..30), percent in 0_u32..=90
        ) {
            let policy = OutlierPolicy { ejected_percent_max: percent, ..Default::default() };
            let mut members: Vec<_> = bad.iter().map(|bad| member(100 - bad, *bad, 1)).collect();
            for round in 0..3 {
                evaluate(&mut members, round, &policy);
                for (counts, _) in &mut members {
                    counts.bad += 100;
                }
            }
            let out = members.iter().filter(|(_, e)| e.is_out()).count();
            prop_assert!(out < members.len());
            prop_assert!(out * 100 <= members.len() * percent as usize);
        }
    }
}
