//! Check: every node lists the acknowledged registrations, and none that was acknowledged as removed.

use std::collections::BTreeMap;

use crate::workload::{KeyState, Ledger};

/// What one node lists: the lease of each (service, id).
pub type Listed = BTreeMap<(String, String), u64>;

/// Compares the acknowledgements that clients received with what node `node` lists.
pub fn check(ledger: &Ledger, node: u64, listed: &Listed) -> Vec<String> {
    let mut anomalies = Vec::new();
    for (key, state) in ledger {
        let found = listed.get(key);
        let problem = match (state, found) {
            (KeyState::Present { .. }, None) => "was acknowledged, and is not listed".to_owned(),
            (KeyState::Present { lease_epoch }, Some(found)) if found != lease_epoch => {
                format!("was acknowledged with lease {lease_epoch} and has lease {found}")
            }
            (KeyState::Absent, Some(_)) => "was refused or removed, and is listed".to_owned(),
            (KeyState::Missed, _) => {
                "was acknowledged, and did not exist when it was removed".to_owned()
            }
            _ => continue,
        };
        anomalies.push(format!("node {node}: {}/{} {problem}", key.0, key.1));
    }
    for key in listed.keys().filter(|key| !ledger.contains_key(*key)) {
        anomalies
            .push(format!("node {node}: {}/{} is listed, but nobody registered it", key.0, key.1));
    }
    anomalies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> (String, String) {
        ("s".into(), id.into())
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let mut ledger = Ledger::new();
        ledger.insert(key("there"), KeyState::Present { lease_epoch: 5 });
        ledger.insert(key("unknown"), KeyState::Either);
        ledger.insert(key("gone"), KeyState::Absent);
        let mut listed = Listed::from([(key("there"), 5), (key("unknown"), 6)]);
        assert!(check(&ledger, 1, &listed).is_empty());
        listed.remove(&key("unknown"));
        assert!(check(&ledger, 1, &listed).is_empty(), "an unknown outcome may be either");
        listed.insert(key("gone"), 7);
        assert!(check(&ledger, 1, &listed)[0].contains("refused or removed"));
        listed.remove(&key("gone"));
        listed.insert(key("there"), 8);
        assert!(check(&ledger, 1, &listed)[0].contains("lease"));
        listed.remove(&key("there"));
        assert!(check(&ledger, 1, &listed)[0].contains("not listed"));
        listed.insert(key("there"), 5);
        ledger.insert(key("missed"), KeyState::Missed);
        assert!(check(&ledger, 1, &listed)[0].contains("did not exist when it was removed"));
        ledger.remove(&key("missed"));
        listed.insert(key("stray"), 9);
        assert!(check(&ledger, 1, &listed)[0].contains("nobody registered"));
    }
}
