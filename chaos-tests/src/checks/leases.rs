//! Check: a lease that was renewed in time is kept, and one that was not runs out.

use crate::workload::FleetRecord;

/// Checks a fleet. `still_there` are the silent instances that are listed at `now_us`. They may stay for
/// `allowed_us` longer, because a new leader gives every lease its whole time again.
pub fn check(
    fleet: &FleetRecord,
    still_there: &[String],
    now_us: u64,
    allowed_us: u64,
) -> Vec<String> {
    let mut anomalies: Vec<String> = fleet
        .lost_early
        .iter()
        .map(|lost| format!("a heartbeat was refused although the lease was valid: {lost}"))
        .collect();
    for id in still_there {
        if let Some(due_us) = fleet.silent.get(id)
            && now_us > due_us + allowed_us
        {
            let late_ms = (now_us - due_us) / 1_000;
            anomalies.push(format!(
                "{id} never sent a heartbeat and is there {late_ms} ms after its time"
            ));
        }
    }
    anomalies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_wrong_are_found() {
        let mut fleet = FleetRecord::default();
        fleet.silent.insert("silent-0".into(), 1_000);
        assert!(check(&fleet, &[], 9_000, 100).is_empty());
        assert!(check(&fleet, &["silent-0".into()], 1_050, 100).is_empty());
        assert_eq!(check(&fleet, &["silent-0".into()], 1_150, 100).len(), 1);
        fleet.lost_early.push("alive-0".into());
        assert_eq!(check(&fleet, &[], 1_000, 100).len(), 1);
    }
}
