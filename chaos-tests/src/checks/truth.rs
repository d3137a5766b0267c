//! Check: what a node reports about the cluster agrees with the faults that the harness caused. This concerns
//! the leader, the number of nodes that may still fail, and the index.

use std::collections::BTreeMap;

use crate::journal::StatusClaim;

/// What the harness knows about the fault of an episode.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The nodes that the others could certainly not reach, because they were killed, paused or cut off.
    pub out_of_reach: Vec<u64>,
    /// The beginning.
    pub from_us: u64,
    /// The end.
    pub until_us: u64,
    /// How long a node may still count a node as reachable that is not.
    pub grace_us: u64,
    /// The nodes whose process may have been restarted.
    pub restarted: Vec<u64>,
}

impl Known {
    /// Whether the others had been unreachable for so long, from the question until its answer, that the
    /// answering node must have noticed.
    fn holds_during(&self, claim: &StatusClaim) -> bool {
        !self.out_of_reach.is_empty()
            && claim.start_us > self.from_us + self.grace_us
            && claim.end_us < self.until_us
    }

    /// The nodes of `all` that the answering node could not reach.
    fn unreachable_from<'a>(&'a self, node: u64, all: &'a [u64]) -> impl Iterator<Item = u64> + 'a {
        let is_out = self.out_of_reach.contains(&node);
        let others = all.iter().copied().filter(move |other| *other != node);
        others.filter(move |other| is_out || self.out_of_reach.contains(other))
    }
}

/// Compares the reports of nodes with what is known about the cluster. `all` are the nodes.
pub fn check(claims: &[StatusClaim], known: &Known, all: &[u64]) -> Vec<String> {
    let mut anomalies = Vec::new();
    let names: BTreeMap<&str, u64> =
        claims.iter().map(|claim| (claim.name.as_str(), claim.node)).collect();
    for claim in claims {
        let StatusClaim { node, index, header_index, .. } = claim;
        if index != header_index {
            anomalies.push(format!(
                "node {node} answered with the state at index {index}, and its header said {header_index}"
            ));
        }
        if !known.holds_during(claim) {
            continue;
        }
        let named = claim.leader.as_deref().and_then(|leader| names.get(leader));
        if let Some(leader) = named
            && known.unreachable_from(*node, all).any(|other| other == *leader)
        {
            anomalies.push(format!(
                "node {node} named node {leader} as the leader, {} ms after it could no longer reach it",
                (claim.start_us - known.from_us) / 1_000
            ));
        }
        if let Some((voters, tolerated)) = claim.tolerance {
            let reachable =
                voters.saturating_sub(known.unreachable_from(*node, all).count() as u64);
            let most = reachable.saturating_sub(voters / 2 + 1);
            if tolerated > most {
                anomalies.push(format!(
                    "node {node} reported that {tolerated} of {voters} voters may fail, but it could reach only \
                     {reachable}"
                ));
            }
        }
    }
    anomalies.extend(leaders_of_terms(claims));
    anomalies.extend(indexes_that_went_back(claims, known));
    anomalies
}

/// Only the named leader of a term may report that it leads in that term.
fn leaders_of_terms(claims: &[StatusClaim]) -> Vec<String> {
    // Term 0 means that the backend has no terms.
    let own = claims.iter().filter(|claim| claim.is_leader && claim.term > 0);
    let leaders: BTreeMap<u64, &str> = own.map(|claim| (claim.term, claim.name.as_str())).collect();
    let wrong = claims.iter().filter_map(|claim| {
        let (named, leads) = (claim.leader.as_deref()?, leaders.get(&claim.term)?);
        (named != *leads).then(|| {
            let (node, term) = (claim.node, claim.term);
            format!("node {node} named {named} as the leader of term {term}, which {leads} led")
        })
    });
    wrong.collect()
}

/// A process never reports an older state than it has reported before.
fn indexes_that_went_back(claims: &[StatusClaim], known: &Known) -> Vec<String> {
    let mut by_node: BTreeMap<u64, Vec<&StatusClaim>> = BTreeMap::new();
    for claim in claims.iter().filter(|claim| !known.restarted.contains(&claim.node)) {
        by_node.entry(claim.node).or_default().push(claim);
    }
    let mut anomalies = Vec::new();
    for (node, mut claims) in by_node {
        claims.sort_by_key(|claim| claim.start_us);
        let mut by_end = claims.clone();
        by_end.sort_by_key(|claim| claim.end_us);
        let mut ended = by_end.into_iter().peekable();
        let mut highest = 0;
        for claim in claims {
            while let Some(before) = ended.next_if(|before| before.end_us < claim.start_us) {
                highest = highest.max(before.index);
            }
            if claim.index < highest {
                let index = claim.index;
                anomalies.push(format!("node {node} went back from index {highest} to {index}"));
            }
        }
    }
    anomalies
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[u64] = &[1, 2, 3];

    fn claim(node: u64, at_s: u64) -> StatusClaim {
        StatusClaim {
            node,
            name: format!("node-{node}"),
            start_us: at_s * 1_000_000,
            end_us: at_s * 1_000_000 + 10,
            index: 5,
            header_index: 5,
            leader: None,
            is_leader: false,
            term: 2,
            tolerance: None,
        }
    }

    fn led_by(leader: u64, claim: StatusClaim) -> StatusClaim {
        let leader = format!("node-{leader}");
        StatusClaim { is_leader: leader == claim.name, leader: Some(leader), ..claim }
    }

    fn tolerates(tolerated: u64, claim: StatusClaim) -> StatusClaim {
        StatusClaim { tolerance: Some((3, tolerated)), ..claim }
    }

    /// Node 3 is unreachable from second 10 to second 20.
    fn known() -> Known {
        Known {
            out_of_reach: vec![3],
            from_us: 10_000_000,
            until_us: 20_000_000,
            grace_us: 4_000_000,
            restarted: vec![3],
        }
    }

    /// The number of anomalies in the last of these answers.
    fn found(last: StatusClaim) -> usize {
        let claims = [claim(1, 0), claim(2, 0), claim(3, 0), last];
        check(&claims, &known(), ALL).len()
    }

    #[test]
    fn a_leader_that_cannot_be_reached_is_found() {
        assert_eq!(found(led_by(3, claim(1, 16))), 1);
        assert_eq!(found(led_by(3, claim(1, 12))), 0, "it may not know yet");
        assert_eq!(found(led_by(3, claim(1, 21))), 0, "it is back");
        assert_eq!(found(led_by(2, claim(1, 16))), 0);
        assert_eq!(found(led_by(2, claim(3, 16))), 1, "a node that is cut off reaches nobody");
    }

    #[test]
    fn a_node_to_spare_that_is_not_there_is_found() {
        assert_eq!(found(tolerates(1, claim(1, 16))), 1);
        assert_eq!(found(tolerates(0, claim(1, 16))), 0);
        assert_eq!(found(tolerates(1, claim(1, 12))), 0);
        assert_eq!(found(tolerates(0, claim(3, 16))), 0);
    }

    #[test]
    fn another_leader_of_a_term_is_found() {
        let own = led_by(1, claim(1, 1));
        let wrong = [own.clone(), led_by(2, claim(3, 2))];
        assert_eq!(check(&wrong, &Known::default(), ALL).len(), 1);
        let later = StatusClaim { term: 3, ..led_by(2, claim(3, 2)) };
        assert!(check(&[own, later], &Known::default(), ALL).is_empty());
        let without = |claim| StatusClaim { term: 0, ..claim };
        let without_terms = [without(led_by(1, claim(1, 1))), without(led_by(2, claim(2, 2)))];
        assert!(check(&without_terms, &Known::default(), ALL).is_empty());
    }

    #[test]
    fn an_index_that_lies_or_goes_back_is_found() {
        assert_eq!(found(StatusClaim { header_index: 6, ..claim(1, 1) }), 1);
        let older = StatusClaim { index: 4, header_index: 4, ..claim(1, 1) };
        assert_eq!(found(older.clone()), 1);
        assert_eq!(found(StatusClaim { start_us: 5, ..older }), 0, "their order is not known");
        let restarted = StatusClaim { index: 4, header_index: 4, ..claim(3, 1) };
        assert_eq!(found(restarted), 0);
    }
}
