//! Check: a term has one leader, and no node reports that it leads after a newer leader was seen.

use std::collections::BTreeMap;

use crate::journal::Claim;

/// Checks the reports of nodes, in whatever order they were recorded.
pub fn check(claims: &[Claim]) -> Vec<String> {
    let mut anomalies = Vec::new();
    let mut with_term: Vec<&Claim> = claims.iter().filter(|claim| claim.term > 0).collect();
    let mut leader_of: BTreeMap<u64, u64> = BTreeMap::new();
    for claim in &with_term {
        let known = *leader_of.entry(claim.term).or_insert(claim.node);
        if known != claim.node {
            let text = format!("nodes {known} and {} both led in term {}", claim.node, claim.term);
            anomalies.push(text);
        }
    }
    // A question whose answer arrived before another question was sent comes first.
    with_term.sort_by_key(|claim| claim.start_us);
    let mut by_end: Vec<&Claim> = with_term.clone();
    by_end.sort_by_key(|claim| claim.end_us);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<&Claim> = None;
    for claim in with_term {
        while let Some(before) = ended.next_if(|before| before.end_us < claim.start_us) {
            if newest.is_none_or(|newest| before.term > newest.term) {
                newest = Some(before);
            }
        }
        if let Some(newest) = newest
            && newest.term > claim.term
        {
            anomalies.push(format!(
                "node {} reported that it leads term {} at {} us, after node {} had led term {}",
                claim.node, claim.term, claim.end_us, newest.node, newest.term
            ));
        }
    }
    anomalies
}

/// A leader that was paused while another node took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paused {
    /// The node.
    pub node: u64,
    /// The term in which it led.
    pub term: u64,
    /// When it was paused.
    pub paused_us: u64,
    /// When it was resumed.
    pub resumed_us: u64,
}

/// Tolerance for the time of the pause, in microseconds. A question that was sent at most this long after
/// `paused_us` may have been processed before the process stopped. Its answer was true at that time.
const THOUGHT_US: u64 = 50_000;

/// After the pause, the node must not report that it leads in answer to a question that was sent during the
/// pause or later, unless a later term made it leader again.
pub fn check_resumed(claims: &[Claim], paused: Paused) -> Vec<String> {
    let Paused { node, term: term_before, paused_us, resumed_us } = paused;
    let again = claims
        .iter()
        .filter(|claim| claim.node == node && claim.term > term_before)
        .map(|claim| claim.start_us)
        .min()
        .unwrap_or(u64::MAX);
    // An answer without a term may arrive shortly before the answer with the new term.
    let grace_us = 2_000_000;
    let wrong = claims.iter().filter(|claim| {
        let after = claim.node == node
            && claim.end_us > resumed_us
            && claim.start_us > paused_us + THOUGHT_US;
        after && (claim.term == term_before || (claim.term == 0 && claim.end_us + grace_us < again))
    });
    wrong
        .map(|claim| {
            let late_us = claim.end_us - resumed_us;
            let asked_ms = (claim.start_us - paused_us) / 1_000;
            let what = if claim.term == 0 { "without a term".into() } else { format!("in term {}", claim.term) };
            format!(
                "node {node} reported that it leads ({what}) {late_us} us after it was resumed; the question was \
                 sent {asked_ms} ms after the pause began"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(node: u64, term: u64, start_us: u64) -> Claim {
        Claim { node, term, start_us, end_us: start_us + 10 }
    }

    #[test]
    fn two_leaders_of_a_term_are_found() {
        assert!(check(&[claim(1, 1, 0), claim(2, 2, 100), claim(2, 2, 5)]).is_empty());
        assert_eq!(check(&[claim(1, 1, 0), claim(2, 1, 100)]).len(), 1);
    }

    #[test]
    fn a_leader_that_has_not_noticed_is_found() {
        let stale = [claim(1, 1, 0), claim(2, 2, 100), claim(1, 1, 200)];
        assert_eq!(check(&stale).len(), 1);
        let overlapping = [claim(1, 1, 0), claim(2, 2, 100), claim(1, 1, 105)];
        assert!(check(&overlapping).is_empty(), "their order is not known");
    }

    #[test]
    fn a_resumed_leader_must_be_silent() {
        let paused = Paused { node: 1, term: 3, paused_us: 0, resumed_us: 500_000 };
        let resumed = |claims: &[Claim]| check_resumed(claims, paused).len();
        assert_eq!(resumed(&[claim(1, 0, 1_000_000)]), 1);
        assert_eq!(resumed(&[claim(1, 3, 1_000_000)]), 1);
        let queued = Claim { start_us: 300_000, ..claim(1, 0, 500_001) };
        assert_eq!(resumed(std::slice::from_ref(&queued)), 1);
        assert_eq!(
            resumed(&[Claim { start_us: 1, ..queued }]),
            0,
            "it was processed before the pause"
        );
        assert_eq!(resumed(&[claim(1, 3, 100_000), claim(2, 4, 900_000)]), 0);
        assert_eq!(resumed(&[claim(1, 0, 900_000), claim(1, 5, 1_000_000)]), 0);
    }
}
