//! `maxine cluster digest`: checks whether every member has the same state.
//!
//! All members of the cluster are compared, whichever nodes the user named. The verdict names members that do
//! not answer or that cannot be asked. It is "equal" only if all members have answered at one index.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::cli::client::{ConnectArgs, Request, shapes};
use crate::cli::exit::CliError;
use crate::cli::output::{Output, human_ms};
use maxine_store::StoreKind;

/// Maximum number of times that the members are asked until all are at one index, because writes continue
/// meanwhile.
const ROUNDS_MAX: usize = 5;
/// Pause between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(300);

/// One node that must answer.
#[derive(Clone, Debug)]
struct Asked {
    name: String,
    /// The URL at which it is asked, or the reason that it is not asked.
    server: Result<String, String>,
}

/// A node's index and digest, or why it gave none.
type Answered = Result<(u64, String), String>;

/// The result of the comparison.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Equal(u64),
    Differ(u64),
    /// The nodes are at different indexes, so they cannot be compared yet. The names and indexes of the node that is
    /// furthest behind, and of the one that is furthest ahead.
    Apart {
        behind: (String, u64),
        ahead: (String, u64),
    },
    /// These gave no digest.
    Missing(Vec<String>),
}

impl Verdict {
    fn of(answers: &[(Asked, Answered)]) -> Self {
        let given = || answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
        for (index, digest) in given() {
            if given().any(|(at, other)| at == index && other != digest) {
                return Self::Differ(*index);
            }
        }
        let missing = answers.iter().filter(|(_, answer)| answer.is_err());
        let missing: Vec<String> = missing.map(|(asked, _)| asked.name.clone()).collect();
        let named = answers.iter().filter_map(|(asked, answer)| {
            let (index, _) = answer.as_ref().ok()?;
            Some((asked.name.clone(), *index))
        });
        let mut by_index: Vec<(String, u64)> = named.collect();
        by_index.sort_by_key(|(_, index)| *index);
        match (by_index.first(), by_index.last()) {
            (Some(behind), Some(ahead)) if missing.is_empty() => match behind.1 == ahead.1 {
                true => Self::Equal(behind.1),
                false => Self::Apart { behind: behind.clone(), ahead: ahead.clone() },
            },
            _ => Self::Missing(missing),
        }
    }

    /// Whether the nodes have the same state; `None` if that is unknown for one of them.
    fn equal(&self) -> Option<bool> {
        match self {
            Self::Equal(_) => Some(true),
            Self::Differ(_) => Some(false),
            Self::Apart { .. } | Self::Missing(_) => None,
        }
    }

    fn text(&self, asked: usize) -> String {
        match self {
            Self::Equal(index) if asked == 1 => format!("equal: the only node is at index {index}"),
            Self::Equal(index) => format!("equal: all {asked} nodes at index {index}"),
            Self::Differ(index) => format!("THE NODES DIFFER at index {index}"),
            Self::Apart { behind, ahead } => format!(
                "not compared: {} is at index {}, and {} at {}. If writes arrive now, ask again. Otherwise 'maxine cluster \
                 status' says why {} is behind",
                behind.0, behind.1, ahead.0, ahead.1, behind.0
            ),
            // A server that does not answer may be a node that is also listed by its name, so they are not counted.
            Self::Missing(names) => format!("NOT COMPARED: no digest from {}", names.join(", ")),
        }
    }
}

/// Asks every member, and compares.
pub(super) async fn compare(connect: &ConnectArgs, out: &mut Output) -> Result<(), CliError> {
    // All requests of the command end within its time limit.
    let began = connect.client()?;
    let asked = members(&connect.within(connect.timeout_ms / 2)).await?;
    let mut answers = Vec::new();
    let mut verdict = Verdict::Missing(Vec::new());
    for round in 0..ROUNDS_MAX {
        if round > 0 {
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        let left_ms = began.left_ms();
        if round > 0 && left_ms == 0 {
            break;
        }
        let rest = &connect.within(left_ms);
        let each = asked.iter().map(|one| async { (one.clone(), digest_of(one, rest).await) });
        answers = join_all(each).await;
        verdict = Verdict::of(&answers);
        if !matches!(verdict, Verdict::Apart { .. }) {
            break;
        }
    }
    let text = verdict.text(answers.len());
    show(&answers, &verdict, &text, out)?;
    match verdict {
        Verdict::Equal(_) => Ok(()),
        Verdict::Differ(_) => Err(CliError::Failed(text)),
        Verdict::Apart { .. } | Verdict::Missing(_) => Err(CliError::Incomplete(text)),
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
                json!({"name": asked.name, "server": asked.server.as_ref().ok(), "index": index, "digest": digest})
            }
            Err(error) => {
                json!({"name": asked.name, "server": asked.server.as_ref().ok(), "error": error})
            }
        };
        let nodes: Vec<Value> = answers.iter().map(node).collect();
        return out.json(&json!({"nodes": nodes, "equal": verdict.equal(), "verdict": text}));
    }
    let row = |(asked, answer): &(Asked, Answered)| {
        let server = asked.server.clone().unwrap_or_else(|_| "-".into());
        let (index, digest) = match answer {
            Ok((index, digest)) => (index.to_string(), digest.clone()),
            Err(error) => ("-".into(), error.clone()),
        };
        vec![asked.name.clone(), server, index, digest]
    };
    out.table(&["node", "server", "index", "digest"], answers.iter().map(row).collect())?;
    // Any other verdict is the error of the command.
    if matches!(verdict, Verdict::Equal(_)) { out.line(text) } else { Ok(()) }
}

/// The same connection settings for one server only. The stored session is sent to the server only if it was
/// created with it.
fn only(server: &str, connect: &ConnectArgs) -> ConnectArgs {
    ConnectArgs { server: vec![server.to_owned()], ..connect.clone() }
}

async fn digest_of(asked: &Asked, connect: &ConnectArgs) -> Answered {
    let one = only(asked.server.as_ref()?, connect);
    let client = one.client().map_err(|e| e.to_string())?;
    let answer = client.send(&Request::get(&["cluster", "digest"])).await;
    let answer = answer.map_err(|error| error.of_one_node())?;
    let index = answer.body["index"].as_u64().ok_or("it gave no index")?;
    Ok((index, super::text_of(&answer.body["digest"])))
}

/// Every node of the cluster: its members, or the nodes that share the store. A node in local mode is alone.
async fn members(connect: &ConnectArgs) -> Result<Vec<Asked>, CliError> {
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
    let is_silent = |server: &&String| !known.iter().any(|(answered, _)| answered == server);
    let silent: Vec<&String> = named.iter().filter(is_silent).collect();
    let Some(raft) = &first.raft else {
        return sharers(&known, &silent);
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
        let server = server.ok_or_else(|| String::from(NO_ADDRESS));
        Asked { name: format!("{} (id {})", member.name, member.id), server }
    });
    Ok(with_silent(asked.collect(), &silent))
}

/// Adds the named servers that did not answer, and so are not known to be one of `asked`.
fn with_silent(mut asked: Vec<Asked>, silent: &[&String]) -> Vec<Asked> {
    for server in silent {
        if !asked.iter().any(|one| one.server.as_ref() == Ok(*server)) {
            asked.push(Asked { name: (*server).clone(), server: Ok((*server).clone()) });
        }
    }
    asked
}

/// Why a node is not asked.
const NO_ADDRESS: &str = "not asked: its address is not known here; name it with --server";

/// The nodes that share the store, according to the nodes that answered, and the named servers that were
/// `silent`. The nodes do not report each other's addresses, so a node is asked only if the user named it.
fn sharers(
    known: &[(&String, &shapes::Cluster)],
    silent: &[&String],
) -> Result<Vec<Asked>, CliError> {
    let is_local = known.iter().all(|(_, cluster)| cluster.backend == StoreKind::Local);
    if !is_local && !known.iter().any(|(_, cluster)| cluster.nodes.is_some()) {
        let text = "NOT COMPARED: the list of nodes cannot be read from the store now";
        return Err(CliError::Incomplete(text.into()));
    }
    let unasked = match silent {
        [] => NO_ADDRESS,
        _ => "not asked: it is not one of the nodes at --server that answered",
    };
    // One node may be named by two addresses.
    let mut asked = BTreeMap::new();
    for node in known.iter().flat_map(|(_, cluster)| cluster.nodes.iter().flatten()) {
        let gone = format!(
            "{unasked}; it last reported {} ago: if it is gone for good, run maxine cluster forget {}",
            human_ms(node.last_seen_ms),
            node.name
        );
        let is_silent = node.last_seen_ms > maxine_store::StoreNode::SILENT_MS;
        let why = if is_silent { gone } else { unasked.to_owned() };
        asked.insert(node.name.clone(), Err(why));
    }
    for (server, cluster) in known {
        asked.insert(cluster.node.clone(), Ok((*server).clone()));
    }
    let asked = asked.into_iter().map(|(name, server)| Asked { name, server }).collect();
    Ok(with_silent(asked, silent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(of: &[Result<(u64, &str), &str>]) -> Vec<(Asked, Answered)> {
        let each = of.iter().enumerate().map(|(at, answer)| {
            let server = Err(String::from(NO_ADDRESS));
            let asked = Asked { name: format!("node-{}", at + 1), server };
            let answer = (*answer).map(|(index, digest)| (index, digest.to_owned()));
            (asked, answer.map_err(str::to_owned))
        });
        each.collect()
    }

    #[test]
    fn equal_means_that_all_answered_at_one_index() {
        let verdict = |of: &[Result<(u64, &str), &str>]| Verdict::of(&answers(of));
        assert_eq!(verdict(&[Ok((7, "a")), Ok((7, "a")), Ok((7, "a"))]), Verdict::Equal(7));
        let one_of_five = [Ok((7, "a")), Err("x"), Err("x"), Err("x"), Err("x")];
        let Verdict::Missing(names) = verdict(&one_of_five) else { panic!("called equal") };
        assert_eq!(names, ["node-2", "node-3", "node-4", "node-5"]);
        let apart = verdict(&[Ok((8, "b")), Ok((7, "a"))]);
        assert_eq!(apart.equal(), None);
        assert_eq!(
            apart.text(2),
            "not compared: node-2 is at index 7, and node-1 at 8. If writes arrive now, ask again. Otherwise 'maxine \
             cluster status' says why node-2 is behind"
        );
        // Two nodes that differ are reported even if another one is silent.
        assert_eq!(verdict(&[Ok((7, "a")), Err("x"), Ok((7, "b"))]), Verdict::Differ(7));
        let missing = verdict(&[Err("x")]);
        assert_eq!(missing, Verdict::Missing(vec!["node-1".to_owned()]));
        assert_eq!(missing.text(1), "NOT COMPARED: no digest from node-1");
    }

    /// A script must be able to distinguish a silent member from a member with a different state.
    #[test]
    fn whether_the_nodes_are_equal_is_unknown_while_one_gave_no_digest() {
        let equal = |of: &[Result<(u64, &str), &str>]| Verdict::of(&answers(of)).equal();
        assert_eq!(equal(&[Ok((7, "a")), Ok((7, "a"))]), Some(true));
        assert_eq!(equal(&[Ok((7, "a")), Ok((7, "b"))]), Some(false));
        assert_eq!(equal(&[Ok((7, "a")), Err("x")]), None);
        assert_eq!(equal(&[Ok((7, "a")), Ok((8, "b"))]), None);
    }

    /// Regression: with two of three nodes named, the verdict spoke of "all 2 nodes".
    #[test]
    fn a_node_that_shares_the_store_and_was_not_named_is_missing() {
        let cluster = |node: &str, nodes: &[(&str, u64)]| {
            let nodes: Vec<Value> = nodes
                .iter()
                .map(|(name, ms)| json!({"name": name, "last_seen_ms": ms, "state_version": 1}))
                .collect();
            let body = json!({"node": node, "backend": "redis", "nodes": nodes});
            serde_json::from_value::<shapes::Cluster>(body).unwrap()
        };
        let servers = ["http://one".to_owned(), "http://two".to_owned()];
        let listed = [("a", 100), ("b", 100), ("c", 900), ("d", 60_000)];
        let (a, b) = (cluster("a", &listed), cluster("b", &listed));
        let asked = sharers(&[(&servers[0], &a), (&servers[1], &b)], &[]).unwrap();
        let names: Vec<&str> = asked.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert_eq!(asked[1].server.as_deref(), Ok("http://two"));
        assert_eq!(asked[2].server.as_deref(), Err(&NO_ADDRESS.to_owned()));
        assert!(asked[3].server.as_ref().unwrap_err().ends_with("maxine cluster forget d"));
        // Another name of the same node is no second node.
        assert_eq!(sharers(&[(&servers[0], &a), (&servers[1], &a)], &[]).unwrap().len(), 4);
        let untold = shapes::Cluster { nodes: None, ..a };
        let refused = sharers(&[(&servers[0], &untold)], &[]).unwrap_err().to_string();
        assert!(refused.contains("list of nodes cannot be read"), "{refused}");
    }

    /// A node that was stopped in an orderly way is no longer listed. It was named, so it is missing.
    #[test]
    fn a_named_server_that_does_not_answer_is_missing() {
        let body = json!({"node": "a", "backend": "redis", "nodes": [
            {"name": "a", "last_seen_ms": 100, "state_version": 1},
        ]});
        let a: shapes::Cluster = serde_json::from_value(body).unwrap();
        let (one, gone) = ("http://one".to_owned(), "http://gone".to_owned());
        let asked = sharers(&[(&one, &a)], &[&gone]).unwrap();
        let answered = |asked: Asked| {
            let answer = match &asked.server {
                Ok(server) if *server == one => Ok((7, "a".to_owned())),
                _ => Err("connection refused".to_owned()),
            };
            (asked, answer)
        };
        let verdict = Verdict::of(&asked.into_iter().map(answered).collect::<Vec<_>>());
        assert_eq!(verdict, Verdict::Missing(vec![gone.clone()]));
        assert_eq!(verdict.text(2), "NOT COMPARED: no digest from http://gone");
        // In raft mode the server may be a member that is asked at this URL already.
        let member = Asked { name: "node-2 (id 2)".into(), server: Ok(gone.clone()) };
        assert_eq!(with_silent(vec![member], &[&gone]).len(), 1);
    }
}
