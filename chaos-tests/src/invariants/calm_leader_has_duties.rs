//! Invariant: a leader that is not disturbed gets the leader's duties, and keeps them.

use super::Invariant;
use crate::facts::{Facts, Step};

/// How long a leader may be without its duties, in milliseconds. A grant may be lost and requested again a
/// few times.
const PATIENCE_MS: u64 = 10_000;

#[derive(Debug, Default)]
pub(super) struct CalmLeaderHasDuties {
    without_since_ms: Option<(u64, u64)>,
}

impl Invariant for CalmLeaderHasDuties {
    fn name(&self) -> &'static str {
        "calm-leader-has-duties"
    }

    fn check(&mut self, facts: &Facts, _: &Step) -> Result<(), String> {
        let now_ms = facts.now_ms;
        let Some(leader) = facts.leader.filter(|leader| facts.nodes[*leader].runs(now_ms)) else {
            self.without_since_ms = None;
            return Ok(());
        };
        if facts.nodes[leader].duties.is_some() {
            self.without_since_ms = None;
            return Ok(());
        }
        let (term, since_ms) = *self.without_since_ms.get_or_insert((facts.term, now_ms));
        if term != facts.term {
            self.without_since_ms = Some((facts.term, now_ms));
        } else if now_ms > since_ms + PATIENCE_MS {
            return Err(format!(
                "node {leader} leads term {term} and has had no duties since {since_ms} ms"
            ));
        }
        Ok(())
    }
}
