//! Invariant: a read, at a leader or strong, sees every write that was acknowledged, and everything that was read,
//! before it began.

use std::collections::BTreeMap;

use super::super::step::Step;
use super::Invariant;

#[derive(Default)]
pub(super) struct ReadsSeeAcknowledged {
    /// The newest index that was acknowledged or read.
    newest: u64,
    /// What each read that has begun must see.
    began: BTreeMap<u64, u64>,
}

impl Invariant for ReadsSeeAcknowledged {
    fn name(&self) -> &'static str {
        "reads-see-acknowledged"
    }

    fn check(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Acknowledged { id, .. } => self.newest = self.newest.max(id.index),
            Step::ReadBegan { read } => drop(self.began.insert(*read, self.newest)),
            Step::ReadEnded { read, node, index } => {
                let needed = self.began.remove(read).unwrap_or(0);
                self.newest = self.newest.max(*index);
                if *index < needed {
                    return Err(format!(
                        "a read at node {node} saw index {index}, after {needed} had been acknowledged or read"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::LogIdDto;

    #[test]
    fn a_read_that_misses_an_earlier_write_or_read_is_found() {
        let acknowledged = |index| Step::Acknowledged {
            id: LogIdDto { term: 2, node: 1, index },
            entry: 9,
            by: 2,
        };
        let ended = |read, index| Step::ReadEnded { read, node: 1, index };
        let mut invariant = ReadsSeeAcknowledged::default();
        invariant.check(&Step::ReadBegan { read: 1 }).unwrap();
        invariant.check(&acknowledged(7)).unwrap();
        invariant.check(&ended(1, 6)).unwrap();
        invariant.check(&Step::ReadBegan { read: 2 }).unwrap();
        invariant.check(&ended(2, 6)).unwrap_err();
        invariant.check(&Step::ReadBegan { read: 3 }).unwrap();
        invariant.check(&ended(3, 9)).unwrap();
        invariant.check(&Step::ReadBegan { read: 4 }).unwrap();
        invariant.check(&ended(4, 8)).unwrap_err();
    }
}
