//! A leader that nobody disturbs comes to hold the leader's duties, and keeps them.

use super::Invariant;
use crate::simulation::{Step, World};

/// A grant may be lost and asked for again a few times.
const PATIENCE_MS: u64 = 10_000;

#[derive(Debug, Default)]
pub(super) struct CalmLeaderHasDuties {
    without_since_ms: Option<(u64, u64)>,
}

impl Invariant for CalmLeaderHasDuties {
    fn name(&self) -> &'static str {
        "calm-leader-has-duties"
    }

    fn check(&mut self, world: &World, _: &Step) -> Result<(), String> {
        let now_ms = world.now_ms();
        let Some(leader) = world.leader.filter(|leader| world.nodes[*leader].runs(now_ms)) else {
            self.without_since_ms = None;
            return Ok(());
        };
        if world.nodes[leader].duties.is_some() {
            self.without_since_ms = None;
            return Ok(());
        }
        let (term, since_ms) = *self.without_since_ms.get_or_insert((world.term, now_ms));
        if term != world.term {
            self.without_since_ms = Some((world.term, now_ms));
        } else if now_ms > since_ms + PATIENCE_MS {
            return Err(format!(
                "node {leader} leads term {term} and has had no duties since {since_ms} ms"
            ));
        }
        Ok(())
    }
}
