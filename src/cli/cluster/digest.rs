//! `maxine cluster digest`: whether every member holds the same state.
//!
//! The members are those of the cluster, whoever was named: one that is silent, or that can't be asked, is named in the
//! verdict, which is "equal" only when all have answered at one index.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::cli::client::{ConnectArgs, Request, shapes};
use crate::cli::exit::CliError;
use crate::cli::output::Output;

/// How often the members are asked until all are at one index: writes go on meanwhile.
const ROUNDS_MAX: usize = 5;
/// Pause between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(300);

/// One node that must answer.
#[derive(Clone, Debug)]
struct Asked {
    name: String,
    /// Where it is asked; nothing where no address is known.
    server: Option<String>,
}

/// A node's index and digest, or why it gave none.
type Answered = Result<(u64, String), String>;

/// What the answers mean.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Equal(u64),
    Differ(u64),
    /// Only one node was named, and the backend keeps no list of the others.
    Alone,
    /// They can't be compared yet: the nodes are at different indexes.
    Apart,
    /// These gave no digest.
    Missing(Vec<String>),
}

impl Verdict {
    /// `whole`: whether all members of the cluster were asked, not only those that were named.
    fn of(answers: &[(Asked, Answered)], whole: bool) -> Self {
        let given = || answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
        for (index, digest) in given() {
            if given().any(|(at, other)| at == index && other != digest) {
                return Self::Differ(*index);
            }
        }
        let missing = answers.iter().filter(|(_, answer)| answer.is_err());
        let missing: Vec<String> = missing.map(|(asked, _)| asked.name.clone()).collect();
        let mut indexes = given().map(|(index, _)| *index);
        match indexes.next() {
            Some(_) if answers.len() == 1 && !whole => Self::Alone,
            Some(first) if missing.is_empty() => {
                if indexes.all(|index| index == first) {
                    Self::Equal(first)
                } else {
                    Self::Apart
                }
            }
            _ => Self::Missing(missing),
        }
    }

    /// Whether the nodes have the same state; nothing while that is not known of one of them.
    fn equal(&self) -> Option<bool> {
        match self {
            Self::Equal(_) => Some(true),
            Self::Differ(_) => Some(false),
            Self::Alone | Self::Apart | Self::Missing(_) => None,
        }
    }

    fn text(&self, asked: usize) -> String {
        match self {
            Self::Equal(index) if asked == 1 => format!("equal: the only node is at index {index}"),
            Self::Equal(index) => format!("equal: all {asked} nodes at index {index}"),
            Self::Differ(index) => format!("THE NODES DIFFER at index {index}"),
            Self::Alone => {
                "NOT COMPARED: only one node is named, and this backend keeps no list of members; name all nodes with --server".into()
            }
            Self::Apart => {
                "not compared: the nodes are at different indexes; ask again when fewer writes arrive".into()
            }
            Self::Missing(names) => format!(
                "NOT COMPARED: {} of {} gave no digest: {}",
                names.len(),
                maxine_wording::count(asked, "node"),
                names.join(", ")
            ),
        }
    }
}

/// Asks every member, and compares.
pub(super) async fn compare(connect: &ConnectArgs, out: &mut Output) -> Result<(), CliError> {
    let (asked, whole) = members(connect).await?;
    let mut answers = Vec::new();
    let mut verdict = Verdict::Apart;
    for round in 0..ROUNDS_MAX {
        if round > 0 {
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        let each = asked.iter().map(|one| async { (one.clone(), digest_of(one, connect).await) });
        answers = join_all(each).await;
        verdict = Verdict::of(&answers, whole);
        if verdict != Verdict::Apart {
            break;
        }
    }
    let text = verdict.text(answers.len());
    show(&answers, &verdict, &text, out)?;
    match verdict {
        Verdict::Equal(_) => Ok(()),
        Verdict::Differ(_) => Err(CliError::Failed(text)),
        Verdict::Alone | Verdict::Apart | Verdict::Missing(_) => Err(CliError::Incomplete(text)),
    }
}

fn show(
    answers: &[(Asked, Answered)],
    verdict: &Verdict,
    text: &str,
    out: &mut Output,
) -> Result<(), CliError> {
    if out.is_json() {
        let node = |(asked, answer): &(Asked, Answered)| match answer {
            Ok((index, digest)) => {
                json!({"name": asked.name, "server": asked.server, "index": index, "digest": digest})
            }
            Err(error) => json!({"name": asked.name, "server": asked.server, "error": error}),
        };
        let nodes: Vec<Value> = answers.iter().map(node).collect();
        return out.json(&json!({"nodes": nodes, "equal": verdict.equal(), "verdict": text}));
    }
    let row = |(asked, answer): &(Asked, Answered)| {
        let server = asked.server.clone().unwrap_or_else(|| "-".into());
        let (index, digest) = match answer {
            Ok((index, digest)) => (index.to_string(), digest.clone()),
            Err(error) => ("-".into(), error.replace('\n', " ")),
        };
        vec![asked.name.clone(), server, index, digest]
    };
    out.table(&["node", "server", "index", "digest"], answers.iter().map(row).collect())?;
    out.line(text)
}

/// One server alone, with the token where it may have it.
fn only(server: &str, connect: &ConnectArgs) -> ConnectArgs {
    ConnectArgs { server: vec![server.to_owned()], ..connect.clone() }
}

async fn digest_of(asked: &Asked, connect: &ConnectArgs) -> Answered {
    let Some(server) = &asked.server else {
        return Err("not asked: its address is not known here; name it with --server".into());
    };
    let one = only(server, connect);
    // The session was made with the nodes that the user named; a member that was found through one of them is asked
    // with the token only if it is one of those.
    let client = one.client().or_else(|_| one.anonymous_client()).map_err(|e| e.to_string())?;
    let answer = client.send(&Request::get(&["cluster", "digest"])).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let index = answer.body["index"].as_u64().ok_or("it gave no index")?;
    Ok((index, super::text_of(&answer.body["digest"])))
}

/// Every member of the cluster, and true. Where the backend keeps no list of members, the nodes that were named, each once, and
/// whether they are all: a node in local mode is alone.
async fn members(connect: &ConnectArgs) -> Result<(Vec<Asked>, bool), CliError> {
    let named: Vec<String> = connect
        .servers()?
        .iter()
        .map(|url| url.as_str().trim_end_matches('/').to_owned())
        .collect();
    let statuses = named.iter().map(|server| async move {
        let answer =
            only(server, connect).client()?.send(&Request::get(&["cluster", "status"])).await?;
        answer.read::<shapes::Cluster>()
    });
    let statuses: Vec<Result<shapes::Cluster, CliError>> = join_all(statuses).await;
    let known: Vec<(&String, &shapes::Cluster)> = named
        .iter()
        .zip(&statuses)
        .filter_map(|(server, status)| Some((server, status.as_ref().ok()?)))
        .collect();
    // A node without a state does not know the members; another one may.
    let knows_members = |cluster: &shapes::Cluster| {
        cluster.raft.as_ref().is_none_or(|raft| !raft.members.is_empty())
    };
    let informed = known.iter().find(|(_, cluster)| knows_members(cluster));
    let Some((_, first)) = informed.or(known.first()) else {
        let first = statuses.into_iter().find_map(Result::err);
        return Err(first.unwrap_or_else(|| CliError::Usage("--server names no node".into())));
    };
    let Some(raft) = &first.raft else {
        let mut seen = std::collections::BTreeSet::new();
        let answers = named.iter().zip(&statuses);
        // One node may be named by two addresses.
        let each = answers.filter(|(_, status)| {
            status.as_ref().map_or(true, |cluster| seen.insert(cluster.node.clone()))
        });
        let asked = |server: &String| Asked { name: server.clone(), server: Some(server.clone()) };
        let alone = first.backend == "local";
        return Ok((each.map(|(server, _)| asked(server)).collect(), alone));
    };
    if raft.members.is_empty() {
        return Err(CliError::Incomplete(format!(
            "NOT COMPARED: {} does not know the members of the cluster: it has no state yet",
            first.node
        )));
    }
    let asked = raft.members.iter().map(|member| {
        let is_it = |cluster: &shapes::Cluster| {
            cluster.raft.as_ref().is_some_and(|raft| raft.node_id == member.id)
        };
        let named = known.iter().find(|(_, cluster)| is_it(cluster));
        let advertised = Some(&member.http_addr).filter(|addr| addr.starts_with("http"));
        let server = named.map(|(server, _)| *server).or(advertised).cloned();
        Asked { name: format!("{} (id {})", member.name, member.id), server }
    });
    Ok((asked.collect(), true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(of: &[Result<(u64, &str), &str>]) -> Vec<(Asked, Answered)> {
        let each = of.iter().enumerate().map(|(at, answer)| {
            let asked = Asked { name: format!("node-{}", at + 1), server: None };
            let answer = (*answer).map(|(index, digest)| (index, digest.to_owned()));
            (asked, answer.map_err(str::to_owned))
        });
        each.collect()
    }

    #[test]
    fn equal_means_that_all_answered_at_one_index() {
        let verdict = |of: &[Result<(u64, &str), &str>]| Verdict::of(&answers(of), true);
        assert_eq!(verdict(&[Ok((7, "a")), Ok((7, "a")), Ok((7, "a"))]), Verdict::Equal(7));
        let one_of_five = [Ok((7, "a")), Err("x"), Err("x"), Err("x"), Err("x")];
        let Verdict::Missing(names) = verdict(&one_of_five) else { panic!("called equal") };
        assert_eq!(names, ["node-2", "node-3", "node-4", "node-5"]);
        assert_eq!(verdict(&[Ok((7, "a")), Ok((8, "b"))]), Verdict::Apart);
        // Who differs differs, whoever is silent.
        assert_eq!(verdict(&[Ok((7, "a")), Err("x"), Ok((7, "b"))]), Verdict::Differ(7));
        assert_eq!(Verdict::of(&answers(&[Ok((7, "a"))]), false), Verdict::Alone);
        let missing = verdict(&[Err("x")]);
        assert_eq!(missing, Verdict::Missing(vec!["node-1".to_owned()]));
        assert_eq!(missing.text(1), "NOT COMPARED: 1 of 1 node gave no digest: node-1");
    }

    /// A script must not take a member that is silent for one that has another state.
    #[test]
    fn whether_the_nodes_are_equal_is_unknown_while_one_gave_no_digest() {
        let equal = |of: &[Result<(u64, &str), &str>]| Verdict::of(&answers(of), true).equal();
        assert_eq!(equal(&[Ok((7, "a")), Ok((7, "a"))]), Some(true));
        assert_eq!(equal(&[Ok((7, "a")), Ok((7, "b"))]), Some(false));
        assert_eq!(equal(&[Ok((7, "a")), Err("x")]), None);
        assert_eq!(equal(&[Ok((7, "a")), Ok((8, "b"))]), None);
        assert_eq!(Verdict::of(&answers(&[Ok((7, "a"))]), false).equal(), None);
    }
}
