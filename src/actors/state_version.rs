//! Which state version every voter understands, so to which the state may be raised.
//!
//! Place in the flow: an operator finishes an upgrade through the API, which asks here who the voters are and what they
//! understand, and then proposes [`maxine_state::Command::RaiseStateVersion`].
//!
//! Voters are, in raft mode, the members with a vote; in local mode, this node. In redis and shared-file mode every node
//! follows the log by itself and no node knows how many there are: there only an operator can say that all understand it.

use maxine_state::STATE_VERSION;

use super::members;
use maxine_store::ControlStore;

/// A node that must understand whatever is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Its name.
    pub name: String,
    /// The newest state version that it understands; `None` while nobody has met it.
    pub understands: Option<u32>,
}

/// Those who must understand whatever is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voters {
    /// Those that are known.
    pub known: Vec<Voter>,
    /// Whether there may be others.
    pub may_be_others: bool,
}

/// The voters, as far as the node called `own_name` can know them.
pub async fn voters(store: &dyn ControlStore, own_name: &str) -> Voters {
    let Some(status) = members::status(store).await else {
        let own = Voter { name: own_name.to_owned(), understands: Some(STATE_VERSION) };
        let may_be_others = matches!(store.kind(), "redis" | "shared-file");
        return Voters { known: vec![own], may_be_others };
    };
    let voters = status.members.into_iter().filter(|member| member.voter);
    let known = voters.map(|m| Voter { name: m.name, understands: m.state_version });
    Voters { known: known.collect(), may_be_others: false }
}

impl Voters {
    /// The newest version that all of them understand; `None` while that is not known of one.
    #[must_use]
    pub fn common(&self) -> Option<u32> {
        let versions: Option<Vec<u32>> = self.known.iter().map(|voter| voter.understands).collect();
        versions?.into_iter().min()
    }

    /// Who does not understand a version, in words.
    #[must_use]
    pub fn who_lacks(&self, version: u32) -> String {
        let lacking = self.known.iter().filter_map(|voter| match voter.understands {
            Some(understood) if understood >= version => None,
            Some(understood) => {
                Some(format!("{} understands only version {understood}", voter.name))
            }
            None => Some(format!("it is not known which version {} understands", voter.name)),
        });
        let lacking: Vec<String> = lacking.collect();
        match (lacking.is_empty(), self.may_be_others) {
            (false, _) => lacking.join(", "),
            (true, false) => "every voter understands it, but the upgrade is not finished".into(),
            (true, true) => {
                "this node understands it; the others are not known to it, and the upgrade is not finished".into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(versions: &[Option<u32>], may_be_others: bool) -> Voters {
        let each = versions.iter().enumerate();
        let voter = |(at, understands): (usize, &Option<u32>)| Voter {
            name: format!("node-{}", at + 1),
            understands: *understands,
        };
        Voters { known: each.map(voter).collect(), may_be_others }
    }

    #[test]
    fn the_version_is_that_of_the_oldest_voter_and_unknown_while_one_was_not_met() {
        assert_eq!(of(&[Some(3), Some(2), Some(3)], false).common(), Some(2));
        assert_eq!(of(&[Some(3), None], false).common(), None);
    }

    #[test]
    fn who_holds_a_version_back_is_named() {
        let mixed = of(&[Some(2), Some(1), None], false).who_lacks(2);
        let expected =
            "node-2 understands only version 1, it is not known which version node-3 understands";
        assert_eq!(mixed, expected);
        assert!(of(&[Some(2)], false).who_lacks(2).contains("the upgrade is not finished"));
        assert!(of(&[Some(2)], true).who_lacks(2).contains("the others are not known"));
    }
}
