//! Determines which state version every voter understands, which is the highest version that the state may
//! have.
//!
//! Place in the flow: an operator finishes an upgrade through the API. The API asks this module for the
//! voters and their versions, and then proposes [`maxine_state::Command::RaiseStateVersion`].
//!
//! In raft mode, the voters are the members with a vote. In local mode, the voter is this node. In redis and
//! shared-file mode, the voters are all nodes with an entry in the store.

use std::time::Duration;

use maxine_state::STATE_VERSION;
use maxine_store::{ControlStore, StoreNode};

use super::members;

/// Time limit for the store to list its nodes.
const STORE_TIMEOUT: Duration = Duration::from_millis(1_000);

/// A node that must understand everything in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Its name.
    pub name: String,
    /// The newest state version that it understands; `None` if it is unknown.
    pub understands: Option<u32>,
    /// How long it has been silent, in milliseconds, if that is too long.
    pub silent_ms: Option<u64>,
}

/// The nodes that must understand everything in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voters {
    /// The known voters.
    pub known: Vec<Voter>,
    /// Whether there may be others, because the store did not answer.
    pub may_be_others: bool,
}

/// The nodes that share the store without connections to each other. Fails if the store did not answer in
/// time.
pub async fn store_nodes(store: &dyn ControlStore) -> Result<Option<Vec<StoreNode>>, ()> {
    let asked = tokio::time::timeout(STORE_TIMEOUT, store.nodes()).await;
    asked.map_err(drop)?.map_err(drop)
}

/// The voters, as far as the node `own_name` knows them.
pub async fn voters(store: &dyn ControlStore, own_name: &str) -> Voters {
    if let Some(status) = members::status(store).await {
        let voters = status.members.into_iter().filter(|member| member.voter);
        let voter = |m: maxine_store::MemberView| Voter {
            name: m.name,
            understands: m.state_version,
            silent_ms: None,
        };
        return Voters { known: voters.map(voter).collect(), may_be_others: false };
    }
    let own =
        Voter { name: own_name.to_owned(), understands: Some(STATE_VERSION), silent_ms: None };
    let (others, may_be_others) = match store_nodes(store).await {
        Ok(nodes) => (nodes.unwrap_or_default(), false),
        Err(()) => (Vec::new(), true),
    };
    let others = others.into_iter().filter(|node| node.name != own_name).map(|node| Voter {
        understands: Some(node.state_version),
        silent_ms: node.is_silent().then_some(node.last_seen_ms),
        name: node.name,
    });
    Voters { known: std::iter::once(own).chain(others).collect(), may_be_others }
}

impl Voters {
    /// The newest version that all voters understand; `None` if it is unknown for one of them.
    #[must_use]
    pub fn common(&self) -> Option<u32> {
        let versions: Option<Vec<u32>> = self.known.iter().map(|voter| voter.understands).collect();
        versions.filter(|_| !self.may_be_others)?.into_iter().min()
    }

    /// The voters that do not understand a version, as text.
    #[must_use]
    pub fn voters_without(&self, version: u32) -> String {
        let lacking = self.known.iter().filter_map(|voter| match voter.understands {
            Some(understood) if understood >= version => None,
            Some(understood) => {
                let silent = voter.silent_ms.map(|ms| {
                    let (name, seconds) = (&voter.name, ms / 1_000);
                    format!(
                        " and has been silent for {seconds} s (if it does not come back: maxine cluster forget {name})"
                    )
                });
                let silent = silent.unwrap_or_default();
                Some(format!("{} understands only version {understood}{silent}", voter.name))
            }
            None => Some(format!("it is not known which version {} understands", voter.name)),
        });
        let mut lacking: Vec<String> = lacking.collect();
        if self.may_be_others {
            lacking.push("the store did not say which nodes there are".into());
        }
        if lacking.is_empty() {
            return "every voter understands it, but the upgrade is not finished".into();
        }
        lacking.join(", ")
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
            silent_ms: None,
        };
        Voters { known: each.map(voter).collect(), may_be_others }
    }

    #[test]
    fn the_version_is_that_of_the_oldest_voter_and_unknown_while_one_was_not_met() {
        assert_eq!(of(&[Some(3), Some(2), Some(3)], false).common(), Some(2));
        assert_eq!(of(&[Some(3), None], false).common(), None);
        assert_eq!(of(&[Some(3)], true).common(), None, "the store did not say who else there is");
    }

    #[test]
    fn who_holds_a_version_back_is_named() {
        let mixed = of(&[Some(2), Some(1), None], false).voters_without(2);
        let expected =
            "node-2 understands only version 1, it is not known which version node-3 understands";
        assert_eq!(mixed, expected);
        assert!(of(&[Some(2)], false).voters_without(2).contains("the upgrade is not finished"));
        assert!(of(&[Some(2)], true).voters_without(2).contains("the store did not say"));
    }

    #[test]
    fn a_silent_node_counts_with_the_version_that_it_had() {
        let mut voters = of(&[Some(2), Some(1)], false);
        voters.known[1].silent_ms = Some(90_000);
        assert_eq!(voters.common(), Some(1));
        let lacks = voters.voters_without(2);
        assert!(
            lacks.contains(
                "silent for 90 s (if it does not come back: maxine cluster forget node-2)"
            ),
            "{lacks}"
        );
        voters.known[1].understands = Some(2);
        assert_eq!(
            voters.common(),
            Some(2),
            "a silent node that understands it holds nothing back"
        );
    }
}
