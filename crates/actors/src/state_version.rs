//! Determines which state version every voter understands, which is the highest version that the state may
//! have.
//!
//! Place in the flow: an operator finishes an upgrade through the API. The API asks this module for the
//! voters and their versions, and then proposes [`maxine_state::Command::RaiseStateVersion`].
//!
//! The state of a new cluster begins at version 1, as every state does. The leader that founds the cluster raises it
//! by itself ([`begin_at_newest`]). No other state is ever raised without an operator.
//!
//! In raft mode, the voters are the members with a vote. In local mode, the voter is this node. In redis and
//! shared-file mode, the voters are all nodes with an entry in the store.

use std::time::Duration;

use maxine_state::{Actor as Who, Command, ControlState, Fence, STATE_VERSION};
use maxine_store::{ControlStore, StoreNode};
use maxine_view::View;

use super::members;
use super::registry::{Registry, WriteError, WriteRequest};

/// Time limit for the store to list its nodes.
const STORE_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Pause before the leader of a new cluster looks at the voters again.
const NEW_CLUSTER_PAUSE: Duration = Duration::from_millis(200);

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

/// Whether the leader with this grant founds the cluster: its view has its own grant, so it has everything before it,
/// and nobody has given the cluster an identity or an account yet.
fn is_founded_by(state: &ControlState, fence: Fence) -> bool {
    let identities = state.identities();
    state.grant().is_some_and(|grant| grant.fence == fence)
        && identities.cluster.is_empty()
        && identities.users.is_empty()
        && identities.tokens.is_empty()
}

/// Whether the leader with this grant founds the cluster. Waits until the view has the grant.
pub async fn founds_cluster(view: &View, fence: Fence) -> bool {
    let mut index = view.index_changes();
    // It fails only when the view is dropped, and then there is nothing to found.
    let _ = index.wait_for(|index| *index >= fence.0).await;
    is_founded_by(&view.snapshot().state, fence)
}

/// Raises the state of a new cluster to the newest version that every voter understands, as soon as that of every voter
/// is known. Only the leader that founds the cluster calls this ([`founds_cluster`]). Its fence makes the log refuse the
/// change after another node has taken over.
pub async fn begin_at_newest(
    store: &dyn ControlStore,
    registry: &Registry,
    own_name: &str,
    fence: Fence,
) {
    loop {
        if let Some(to) = voters(store, own_name).await.common() {
            let request = WriteRequest {
                actor: Who::system("upgrade"),
                request_id: None,
                fence: Some(fence),
                answer_by_ms: None,
                command: Command::RaiseStateVersion { to },
            };
            match registry.propose(request).await {
                Ok(_) | Err(WriteError::Rejected { .. }) => return,
                Err(error) => {
                    tracing::debug!(%error, "the state version was not raised yet, trying again");
                }
            }
        }
        tokio::time::sleep(NEW_CLUSTER_PAUSE).await;
    }
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
            lacking.push("the list of nodes cannot be read from the store now".into());
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
        assert!(of(&[Some(2)], true).voters_without(2).contains("cannot be read from the store"));
    }

    #[test]
    fn only_the_first_leader_of_a_state_without_identities_founds_the_cluster() {
        let mut state = ControlState::default();
        let mut requests = 0;
        let mut propose = |state: &mut ControlState, command| {
            requests += 1;
            let proposal = maxine_state::Proposal {
                request_id: maxine_state::RequestId(requests),
                proposed_at_ms: 1,
                fence: None,
                actor: Who::system("test"),
                command,
            };
            state.apply(&proposal, &mut Vec::new()).index
        };
        let name = maxine_state::Name::trusted;
        assert!(!is_founded_by(&state, Fence(1)), "it has no grant");
        let grant = || Command::GrantLeadership { holder: name("node-1") };
        let fence = Fence(propose(&mut state, grant()));
        assert!(is_founded_by(&state, fence));
        let later = Fence(propose(&mut state, grant()));
        assert!(is_founded_by(&state, later) && !is_founded_by(&state, fence));
        propose(&mut state, Command::IdentifyCluster { id: name("c") });
        assert!(!is_founded_by(&state, later), "the cluster exists");
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
