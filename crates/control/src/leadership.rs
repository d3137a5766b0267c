//! Decides when this node has the duties of the leader, and under which fence.
//!
//! When the store reports that this node leads, the engine asks for a grant in the log. The index of the
//! grant is the fencing token for everything that the leader does, and apply refuses commands with an older
//! one. So a leader that was paused has no effect, even before it notices that it was replaced.

use crate::faults::{self, Fault};
use maxine_state::{Fence, Leadership, Name, Reply};

/// Pause before the next attempt if a grant was not committed, in milliseconds.
const GRANT_PAUSE_MS: u64 = 50;

/// An event that concerns leadership.
#[derive(Debug)]
pub enum LeadershipEvent {
    /// The leader has changed, or the node has just started.
    Changed(Leadership),
    /// The end of [`LeadershipEffect::AskForGrant`].
    Answered {
        /// The term for which the grant was requested.
        term: u64,
        /// The reply to the grant; `None` if there was none in time.
        reply: Option<Reply>,
        /// The fence of the newest grant in this node's published state.
        latest: Option<Fence>,
    },
    /// The end of [`LeadershipEffect::PauseBeforeGrant`].
    Paused {
        /// The term for which the grant is requested.
        term: u64,
        /// The present leadership.
        now: Leadership,
    },
    /// A grant was applied, or the whole state was replaced.
    GrantsChanged {
        /// The fence of the newest grant in this node's published state.
        latest: Option<Fence>,
        /// The present leadership.
        now: Leadership,
    },
}

/// The previous leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerLeader {
    /// Its name.
    pub name: String,
    /// How long ago this node noticed that the previous leader no longer leads, in milliseconds; `None` if it has not
    /// noticed.
    pub lost_for_ms: Option<u64>,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeadershipEffect {
    /// Propose a grant of the leader's duties to this node.
    AskForGrant {
        /// The term to return in [`LeadershipEvent::Answered`].
        term: u64,
        /// The previous leader, for the audit log.
        former: Option<FormerLeader>,
    },
    /// Wait, then return [`LeadershipEvent::Paused`].
    PauseBeforeGrant {
        /// The term for which the grant is requested.
        term: u64,
        /// The duration, in milliseconds.
        ms: u64,
    },
    /// This node has the leader's duties from now on.
    TakeUp {
        /// The term.
        term: u64,
        /// The fencing token for everything that it does as leader.
        fence: Fence,
    },
    /// This node no longer has the leader's duties.
    StandDown,
}

#[derive(Debug)]
struct PreviousLeader {
    name: String,
    /// When this node noticed that the previous leader no longer leads, in milliseconds; `None` if it has not noticed.
    lost_at_ms: Option<u64>,
}

/// Decides when this node has the leader's duties.
#[derive(Debug)]
pub struct LeadershipEngine {
    node: Name,
    /// The term for which a grant was requested or is held.
    term: Option<u64>,
    held: Option<Fence>,
    /// The previous leader, as far as this node knows.
    former: Option<PreviousLeader>,
}

impl LeadershipEngine {
    /// The engine of the node `node`, which does not lead yet.
    #[must_use]
    pub fn new(node: Name) -> Self {
        Self { node, term: None, held: None, former: None }
    }

    /// Handles an event and returns what the driver has to do, in this order.
    #[must_use]
    pub fn step(&mut self, event: LeadershipEvent, now_ms: u64) -> Vec<LeadershipEffect> {
        let mut effects = Vec::new();
        match event {
            LeadershipEvent::Changed(now) => {
                self.note_former(&now, now_ms);
                if !now.is_leader {
                    self.stand_down(&mut effects);
                } else if self.term != Some(now.term) {
                    self.stand_down(&mut effects);
                    self.ask(now.term, now_ms, &mut effects);
                }
            }
            LeadershipEvent::Answered { term, reply, latest } if self.term == Some(term) => {
                self.answered(term, reply, latest, &mut effects);
            }
            LeadershipEvent::Paused { term, now } if self.term == Some(term) => {
                if now.is_leader && now.term == term {
                    self.ask(term, now_ms, &mut effects);
                }
            }
            LeadershipEvent::Answered { .. } | LeadershipEvent::Paused { .. } => {}
            LeadershipEvent::GrantsChanged { latest, now } => {
                if self.held.is_none() || self.held == latest {
                    return effects;
                }
                self.stand_down(&mut effects);
                // An old leader's grant can arrive late, and a store that lost writes can have lost the
                // grant. So the present leader asks again. Otherwise no node would have the duties until the
                // next election.
                if now.is_leader && !faults::is_on(Fault::SupersededForGood) {
                    self.ask(now.term, now_ms, &mut effects);
                }
            }
        }
        effects
    }

    fn answered(
        &mut self,
        term: u64,
        reply: Option<Reply>,
        latest: Option<Fence>,
        effects: &mut Vec<LeadershipEffect>,
    ) {
        match reply {
            // A grant that an old leader requested may have arrived right after this one.
            Some(Reply::Granted(fence)) if latest == Some(fence) => {
                self.held = Some(fence);
                self.former =
                    Some(PreviousLeader { name: self.node.to_string(), lost_at_ms: None });
                effects.push(LeadershipEffect::TakeUp { term, fence });
            }
            _ => effects.push(LeadershipEffect::PauseBeforeGrant { term, ms: GRANT_PAUSE_MS }),
        }
    }

    fn note_former(&mut self, now: &Leadership, now_ms: u64) {
        match (&now.leader, &mut self.former) {
            (None, Some(former)) if former.lost_at_ms.is_none() => {
                former.lost_at_ms = Some(now_ms);
            }
            // While this node leads, the previous leader is remembered until the grant is committed.
            (Some(leader), _) if !now.is_leader => {
                self.former = Some(PreviousLeader { name: leader.clone(), lost_at_ms: None });
            }
            _ => {}
        }
    }

    fn ask(&mut self, term: u64, now_ms: u64, effects: &mut Vec<LeadershipEffect>) {
        self.term = Some(term);
        let former = self.former.as_ref().map(|former| FormerLeader {
            name: former.name.clone(),
            lost_for_ms: former.lost_at_ms.map(|at_ms| now_ms.saturating_sub(at_ms)),
        });
        effects.push(LeadershipEffect::AskForGrant { term, former });
    }

    fn stand_down(&mut self, effects: &mut Vec<LeadershipEffect>) {
        self.term = None;
        if self.held.take().is_some() {
            effects.push(LeadershipEffect::StandDown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads(term: u64) -> Leadership {
        Leadership { is_leader: true, term, leader: Some("n".into()) }
    }

    fn follows(leader: Option<&str>, term: u64) -> Leadership {
        Leadership { is_leader: false, term, leader: leader.map(Into::into) }
    }

    fn answered(term: u64, fence: u64, latest: u64) -> LeadershipEvent {
        let reply = Some(Reply::Granted(Fence(fence)));
        LeadershipEvent::Answered { term, reply, latest: Some(Fence(latest)) }
    }

    fn engine() -> LeadershipEngine {
        LeadershipEngine::new(Name::trusted("n"))
    }

    #[test]
    fn a_node_has_the_duties_from_the_grant_until_it_leads_no_more() {
        let mut engine = engine();
        let ask = LeadershipEffect::AskForGrant { term: 3, former: None };
        assert_eq!(engine.step(LeadershipEvent::Changed(leads(3)), 0), [ask]);
        let take_up = LeadershipEffect::TakeUp { term: 3, fence: Fence(9) };
        assert_eq!(engine.step(answered(3, 9, 9), 1), [take_up]);
        assert_eq!(engine.step(LeadershipEvent::Changed(leads(3)), 2), []);
        let lost = engine.step(LeadershipEvent::Changed(follows(None, 4)), 3);
        assert_eq!(lost, [LeadershipEffect::StandDown]);
        assert_eq!(engine.step(answered(3, 9, 9), 4), [], "a late answer gives it nothing");
    }

    #[test]
    fn a_grant_behind_which_another_came_in_is_asked_for_again() {
        let mut engine = engine();
        let _ask = engine.step(LeadershipEvent::Changed(leads(3)), 0);
        let pause = LeadershipEffect::PauseBeforeGrant { term: 3, ms: GRANT_PAUSE_MS };
        assert_eq!(engine.step(answered(3, 9, 10), 1), [pause]);
        let paused = LeadershipEvent::Paused { term: 3, now: leads(3) };
        let ask = LeadershipEffect::AskForGrant { term: 3, former: None };
        assert_eq!(engine.step(paused, 51), [ask]);
    }

    #[test]
    fn a_leader_that_a_late_grant_superseded_stands_down_and_asks_again() {
        let mut engine = engine();
        let _ask = engine.step(LeadershipEvent::Changed(leads(3)), 0);
        let _duties = engine.step(answered(3, 9, 9), 1);
        let changed =
            |latest| LeadershipEvent::GrantsChanged { latest: Some(Fence(latest)), now: leads(3) };
        assert_eq!(engine.step(changed(9), 2), []);
        let former = Some(FormerLeader { name: "n".into(), lost_for_ms: None });
        let again =
            [LeadershipEffect::StandDown, LeadershipEffect::AskForGrant { term: 3, former }];
        assert_eq!(engine.step(changed(12), 3), again);
    }

    #[test]
    fn the_leader_before_is_named_with_how_long_it_has_been_lost() {
        let mut engine = engine();
        let _ = engine.step(LeadershipEvent::Changed(follows(Some("m"), 2)), 100);
        let _ = engine.step(LeadershipEvent::Changed(follows(None, 2)), 200);
        let former = Some(FormerLeader { name: "m".into(), lost_for_ms: Some(800) });
        let ask = LeadershipEffect::AskForGrant { term: 3, former };
        assert_eq!(engine.step(LeadershipEvent::Changed(leads(3)), 1_000), [ask]);
    }
}
