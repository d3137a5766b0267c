//! Check: a running node forwards requests to healthy instances, whatever happens to other nodes.

use crate::workload::NotForwarded;

/// The time in which a fault may have prevented these nodes from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// The nodes.
    pub nodes: Vec<u64>,
    /// The beginning.
    pub from_us: u64,
    /// The end.
    pub until_us: u64,
}

/// Finds requests that a running node answered itself.
pub fn check(wrong: &[NotForwarded], down: Option<&Down>) -> Vec<String> {
    let excused = |one: &NotForwarded| {
        down.is_some_and(|down| {
            down.nodes.contains(&one.node)
                && one.end_us >= down.from_us
                && one.start_us <= down.until_us
        })
    };
    let wrong = wrong.iter().filter(|one| !excused(one));
    wrong
        .map(|one| format!("node {} did not forward a request: {}", one.node, one.answer))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_was_down_is_excused() {
        let wrong = [NotForwarded {
            node: 2,
            start_us: 150,
            end_us: 160,
            answer: "503 unavailable".into(),
        }];
        let down = |nodes: &[u64]| Down { nodes: nodes.to_vec(), from_us: 100, until_us: 200 };
        assert_eq!(check(&wrong, None).len(), 1);
        assert_eq!(check(&wrong, Some(&down(&[1]))).len(), 1);
        assert!(check(&wrong, Some(&down(&[2]))).is_empty());
        let before = Down { until_us: 140, ..down(&[2]) };
        assert_eq!(check(&wrong, Some(&before)).len(), 1);
    }
}
