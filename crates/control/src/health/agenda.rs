//! Assigns instances to the nodes that probe them: those with the highest rendezvous scores among the live
//! nodes (Thaler and Ravishankar 1998). When a node dies, only its own instances move to others.

use maxine_balance::CallerHash;
use xxhash_rust::xxh3::xxh3_64;

use maxine_state::InstanceKey;

/// The number of nodes that must probe an instance so that `agreeing` of them can agree on either verdict.
fn observers_wanted(agreeing: usize) -> usize {
    2 * agreeing.max(1) - 1
}

/// Whether `node` is one of the `live` nodes that probe the instance.
#[must_use]
pub(super) fn assigned(key: &InstanceKey, node: &str, live: &[String], agreeing: usize) -> bool {
    let wanted = observers_wanted(agreeing);
    if live.len() <= wanted {
        return true;
    }
    let hash = CallerHash::of_value(key.to_string().as_bytes());
    let score = |name: &str| (hash.with_seed(xxh3_64(name.as_bytes())), name.to_owned());
    let own = score(node);
    live.iter().filter(|other| *other != node && score(other) > own).count() < wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{Name, ServiceKey};

    fn key(n: usize) -> InstanceKey {
        ServiceKey::new(Name::trusted("default"), Name::trusted("orders"))
            .instance(Name::trusted(&format!("i-{n}")))
    }

    #[test]
    fn each_instance_has_its_observers_and_a_death_moves_only_the_dead_ones() {
        let all: Vec<String> = ["a", "b", "c", "d", "e"].map(String::from).into();
        let left: Vec<String> = all[1..].to_vec();
        let mut of_a = 0;
        for n in 0..1_000 {
            let before: Vec<&String> =
                all.iter().filter(|node| assigned(&key(n), node, &all, 2)).collect();
            assert_eq!(before.len(), 3);
            let after: Vec<&String> =
                left.iter().filter(|node| assigned(&key(n), node, &left, 2)).collect();
            assert_eq!(after.len(), 3);
            let had_a = before.iter().any(|node| *node == "a");
            of_a += usize::from(had_a);
            let kept = before.iter().filter(|node| after.contains(node)).count();
            assert_eq!(kept, if had_a { 2 } else { 3 });
        }
        assert!((500..700).contains(&of_a), "three of five: {of_a}");
    }

    #[test]
    fn few_nodes_all_probe() {
        let live = vec!["a".to_owned(), "b".to_owned()];
        assert!((0..50).all(|n| assigned(&key(n), "a", &live, 2)));
    }
}
