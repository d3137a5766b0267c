//! Check: the watches of all nodes report the same changes, without a gap, in the order of their indexes.

use std::collections::BTreeSet;

use crate::workload::WatchLog;

/// Compares the reported changes of all nodes, where their ranges overlap.
pub fn check(logs: &[WatchLog]) -> Vec<String> {
    let mut anomalies = Vec::new();
    for log in logs {
        anomalies.extend(log.disorders.iter().map(|text| format!("node {}: {text}", log.node)));
    }
    for (position, one) in logs.iter().enumerate() {
        for other in &logs[position + 1..] {
            let (from, until) = (one.from.max(other.from), one.until.min(other.until));
            if from >= until {
                continue;
            }
            let (mine, theirs) =
                (one.changes.range(from + 1..=until), other.changes.range(from + 1..=until));
            let indexes: BTreeSet<&u64> =
                mine.map(|(index, _)| index).chain(theirs.map(|(index, _)| index)).collect();
            for index in indexes {
                let (mine, theirs) = (one.changes.get(index), other.changes.get(index));
                if mine != theirs {
                    anomalies.push(format!(
                        "at index {index} node {} reported {mine:?} and node {} reported {theirs:?}",
                        one.node, other.node
                    ));
                }
            }
        }
    }
    anomalies
}

/// Finds acknowledged leases that a watch did not report.
pub fn check_reported(
    log: &WatchLog,
    acknowledged: impl Iterator<Item = (String, u64)>,
) -> Vec<String> {
    let mut anomalies = Vec::new();
    for (name, lease_epoch) in acknowledged {
        if lease_epoch <= log.from || lease_epoch > log.until {
            continue;
        }
        let is_reported = log.changes.get(&lease_epoch).is_some_and(|changes| {
            changes.iter().any(|change| change.starts_with("instance_registered"))
        });
        if !is_reported {
            anomalies.push(format!("node {} never reported {name}, lease {lease_epoch}", log.node));
        }
    }
    anomalies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(node: u64, changes: &[u64]) -> WatchLog {
        let changes = changes.iter().map(|index| (*index, vec!["instance_registered x".into()]));
        WatchLog { node, from: 10, until: 20, changes: changes.collect(), ..WatchLog::default() }
    }

    #[test]
    fn a_change_that_one_node_leaves_out_is_found() {
        assert!(check(&[log(1, &[11, 15]), log(2, &[11, 15])]).is_empty());
        assert_eq!(check(&[log(1, &[11, 15]), log(2, &[11])]).len(), 1);
        let mut short = log(2, &[11]);
        short.until = 14;
        assert!(check(&[log(1, &[11, 15]), short]).is_empty(), "it has not come to 15 yet");
    }

    #[test]
    fn a_change_that_every_node_leaves_out_is_found() {
        let acknowledged = || [("a".to_owned(), 11), ("b".to_owned(), 15)].into_iter();
        assert!(check_reported(&log(1, &[11, 15]), acknowledged()).is_empty());
        assert_eq!(check_reported(&log(1, &[11]), acknowledged()).len(), 1);
    }
}
