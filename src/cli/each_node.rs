//! Commands that ask every node of the cluster, because each node has something of its own.

use futures::future::join_all;
use reqwest::Url;
use serde_json::{Value, json};

use super::client::{Answer, Client, ConnectArgs, Request, shapes};
use super::exit::{CliError, REFUSED, list as list_of};
use super::output::Output;

/// A node, with a client that asks only this node.
pub(super) struct Node {
    /// Its URL.
    pub(super) url: String,
    /// The client.
    pub(super) client: Client,
}

/// A node that did not carry out the request.
pub(super) struct Silent {
    /// Its URL.
    pub(super) url: String,
    /// Why.
    pub(super) error: CliError,
}

/// The named nodes, and the members that one of them knows. `steps` is the number of requests that the command sends to
/// each of them one after the other. Together with the one that finds the members, they end within the time limit.
pub(super) async fn nodes(connect: &ConnectArgs, steps: u64) -> Result<Vec<Node>, CliError> {
    let mut urls: Vec<Url> = connect.servers()?;
    let client = connect.client()?;
    let request = Request::get(&["cluster", "status"]).within(connect.timeout_ms / (steps + 1));
    // If no node reports the status of the cluster, only the named nodes are asked.
    if let Ok(answer) = client.send(&request).await {
        let cluster: shapes::Cluster = answer.read()?;
        for member in cluster.raft.map(|raft| raft.members).unwrap_or_default() {
            let url = member.http_addr.parse::<Url>().ok().filter(Url::has_host);
            urls.extend(url.filter(|url| !urls.contains(url)));
        }
    }
    each(&connect.within(client.left_ms() / steps.max(1)), urls)
}

/// The named nodes.
pub(super) fn named(connect: &ConnectArgs) -> Result<Vec<Node>, CliError> {
    each(connect, connect.servers()?)
}

fn each(connect: &ConnectArgs, urls: Vec<Url>) -> Result<Vec<Node>, CliError> {
    let each = urls.into_iter().map(|url| {
        let client = connect.client_of_node(url.clone())?.without_notes();
        Ok(Node { client, url: url.as_str().trim_end_matches('/').to_owned() })
    });
    each.collect()
}

/// Sends a request to every node at once. Returns the first answer and the nodes that gave none; an error if
/// no node answered.
pub(super) async fn on_each(
    nodes: &[Node],
    request: &Request,
) -> Result<(Value, Vec<Silent>), CliError> {
    let (mut first, mut silent) = (None, Vec::new());
    for (node, answer) in ask_all(nodes, request).await {
        match answer {
            Ok(answer) => drop(first.get_or_insert(answer.body)),
            Err(error) => silent.push(Silent { url: node.url.clone(), error }),
        }
    }
    answered(first, silent)
}

pub(super) async fn ask_all<'a>(
    nodes: &'a [Node],
    request: &Request,
) -> Vec<(&'a Node, Result<Answer, CliError>)> {
    let ask = |node: &'a Node| async move { (node, node.client.send(request).await) };
    join_all(nodes.iter().map(ask)).await
}

pub(super) fn answered<T>(
    first: Option<T>,
    mut silent: Vec<Silent>,
) -> Result<(T, Vec<Silent>), CliError> {
    match first {
        Some(first) => Ok((first, silent)),
        None => {
            // A refusal says more than the silence of another node.
            let refuses = |one: &Silent| one.error.exit_code() == REFUSED;
            let refusing = silent.iter().position(refuses).unwrap_or(0);
            Err(silent.remove(refusing).error)
        }
    }
}

/// Ends a command that some nodes did not answer. Returns an error that names them; for scripts it also
/// writes one line for each of them.
fn end_without(
    silent: &[Silent],
    out: &mut Output,
    error: impl FnOnce(String) -> CliError,
) -> Result<(), CliError> {
    if silent.is_empty() {
        return Ok(());
    }
    let of_one = |one: &Silent| (one.url.clone(), one.error.of_one_node());
    let errors: Vec<(String, String)> = silent.iter().map(of_one).collect();
    if out.is_json() {
        let mut lines = errors.iter();
        lines.try_for_each(|(url, why)| out.json(&json!({"server": url, "error": why})))?;
    }
    Err(error(list_of(&errors)))
}

/// Reports the nodes on which a change may be missing. On the others it was made.
pub(super) fn show_unchanged(
    asked: usize,
    silent: &[Silent],
    out: &mut Output,
) -> Result<(), CliError> {
    end_without(silent, out, |nodes| {
        CliError::Partial(format!(
            "the change was made on {} of {asked} nodes; on the others it may be missing: repeat it when they answer{nodes}",
            asked - silent.len()
        ))
    })
}

/// Reports the nodes whose answer is missing.
pub(super) fn show_silent(silent: &[Silent], out: &mut Output) -> Result<(), CliError> {
    end_without(silent, out, |nodes| {
        let what = match silent.len() {
            1 => "the list is not complete: 1 node gave none".to_owned(),
            n => format!("the list is not complete: {n} nodes gave none"),
        };
        CliError::Incomplete(what + &nodes)
    })
}

#[cfg(test)]
mod tests {
    use super::super::client::Problem;
    use super::super::exit::UNAVAILABLE;
    use super::*;

    /// Regression: without a valid token the error was that of a node that hangs, while others answered 401.
    #[test]
    fn a_refused_token_is_reported_although_another_node_hangs() {
        let hung = || Silent {
            url: "http://a".into(),
            error: CliError::Unavailable {
                answered: false,
                tried: vec![("http://a".into(), "no answer in time".into())],
            },
        };
        let refused = Problem::read(401, json!({"type": "/problems/unauthorized"}), None);
        let refusing =
            Silent { url: "http://b".into(), error: CliError::Problem(Box::new(refused)) };
        let code = |silent| answered(None::<()>, silent).err().map(|error| error.exit_code());
        assert_eq!(code(vec![hung(), refusing]), Some(REFUSED));
        assert_eq!(code(vec![hung(), hung()]), Some(UNAVAILABLE));
    }
}
