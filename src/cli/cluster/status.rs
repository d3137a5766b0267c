//! `maxine cluster status` and `maxine cluster digest`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::client::{Client, ConnectArgs, Request, shapes};
use crate::cli::exit::CliError;
use crate::cli::output::{Output, human_ms, or_dash};

pub(super) async fn show(client: &Client, out: &mut Output) -> Result<(), CliError> {
    let answer = client.send(&Request::get(&["cluster", "status"])).await?;
    if out.is_json() {
        return out.json(&answer.body);
    }
    let cluster: shapes::Cluster = answer.read()?;
    let leader = match (&cluster.leadership.leader, cluster.leadership.is_leader) {
        (Some(leader), true) => format!("{leader} (this node)"),
        (Some(leader), false) => leader.clone(),
        (None, _) => "none known".into(),
    };
    let mut rows = vec![
        vec![
            "node".to_owned(),
            format!("{} ({}, up {})", cluster.node, cluster.version, human_ms(cluster.uptime_ms)),
        ],
        vec!["backend".into(), cluster.backend.clone()],
        vec!["leader".into(), format!("{leader}, term {}", cluster.leadership.term)],
        vec![
            "index".into(),
            match cluster.staleness_ms {
                Some(age_ms) => format!("{}, at most {} old", cluster.index, human_ms(age_ms)),
                None => format!("{}, of unknown age", cluster.index),
            },
        ],
    ];
    let totals: Vec<String> =
        ["namespaces", "services", "instances", "routable", "unhealthy", "draining"]
            .iter()
            .filter_map(|name| cluster.totals.get(*name).map(|count| format!("{count} {name}")))
            .collect();
    rows.push(vec!["registry".into(), totals.join(", ")]);
    if let Some(raft) = &cluster.raft {
        let tolerated = match raft.failures_tolerated {
            0 => "can lose no node".to_owned(),
            1 => "can lose 1 node".into(),
            n => format!("can lose {n} nodes"),
        };
        rows.push(vec![
            "log".into(),
            format!(
                "committed {}, applied {}, snapshot {}, {} KiB on disk{}",
                or_dash(raft.committed_index),
                or_dash(raft.applied_index),
                or_dash(raft.snapshot_index),
                raft.log_disk_bytes / 1_024,
                if raft.disk_stalled { ", DISK STALLED" } else { "" },
            ),
        ]);
        rows.push(vec!["cluster".into(), format!("{}, {tolerated}", raft.cluster_id)]);
    }
    out.table(&["", ""], rows)?;
    if let Some(raft) = cluster.raft {
        out.line("")?;
        let rows = raft.members.into_iter().map(member_row).collect();
        out.table(
            &["id", "name", "role", "reachable", "has up to", "last heard", "peers", "http"],
            rows,
        )?;
    }
    cluster.warnings.iter().try_for_each(|warning| out.line(format!("warning: {warning}")))
}

fn member_row(member: shapes::Member) -> Vec<String> {
    let role = match (member.leader, member.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    };
    vec![
        member.id.to_string(),
        member.name,
        role.into(),
        or_dash(member.reachable.map(|yes| if yes { "yes" } else { "NO" })),
        or_dash(member.matched_index),
        or_dash(member.last_contact_ms.map(human_ms)),
        member.peer_addr,
        member.http_addr,
    ]
}

/// A node's index and digest, or why it gave none.
type Answered = Result<(u64, String), CliError>;

/// Asks every node that was named, or every member that one of them knows, and compares.
pub(super) async fn digest(connect: &ConnectArgs, out: &mut Output) -> Result<(), CliError> {
    let mut rows: Vec<(String, Answered)> = Vec::new();
    for server in servers(connect).await? {
        let one = ConnectArgs { server: vec![server.clone()], ..connect.clone() };
        rows.push((server, digest_of(&one, connect).await));
    }
    let mut by_index: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for (index, digest) in rows.iter().filter_map(|(_, result)| result.as_ref().ok()) {
        by_index.entry(*index).or_default().push(digest);
    }
    let differ =
        by_index.iter().find(|(_, digests)| digests.windows(2).any(|pair| pair[0] != pair[1]));
    let verdict = match differ {
        Some((index, _)) => format!("THE NODES DIFFER at index {index}"),
        None if rows.iter().all(|(_, result)| result.is_err()) => "no node answered".into(),
        None if by_index.len() > 1 => {
            "the nodes are at different indexes: ask again for a comparison".into()
        }
        None => "equal".into(),
    };
    if out.is_json() {
        let nodes: Vec<Value> = rows
            .iter()
            .map(|(server, result)| match result {
                Ok((index, digest)) => json!({"server": server, "index": index, "digest": digest}),
                Err(error) => json!({"server": server, "error": error.to_string()}),
            })
            .collect();
        out.json(&json!({"nodes": nodes, "equal": differ.is_none(), "verdict": verdict}))?;
    } else {
        let table = rows
            .iter()
            .map(|(server, result)| match result {
                Ok((index, digest)) => vec![server.clone(), index.to_string(), digest.clone()],
                Err(error) => {
                    vec![server.clone(), "-".into(), error.to_string().replace('\n', " ")]
                }
            })
            .collect();
        out.table(&["node", "index", "digest"], table)?;
        out.line(&verdict)?;
    }
    if differ.is_some() {
        return Err(CliError::Failed(verdict));
    }
    // One silent node of several is shown; when all are silent, the first reason is the answer.
    if rows.iter().all(|(_, result)| result.is_err())
        && let Some((_, Err(error))) = rows.into_iter().next()
    {
        return Err(error);
    }
    Ok(())
}

async fn digest_of(one: &ConnectArgs, all: &ConnectArgs) -> Result<(u64, String), CliError> {
    // The session was made with the nodes that the user named; a member that was found through one of them is asked
    // with the token only if it is one of those.
    let client = match one.client() {
        Ok(client) => client,
        Err(_) => all.anonymous_client()?,
    };
    let answer = client.send(&Request::get(&["cluster", "digest"])).await?;
    let index = answer.body["index"].as_u64().unwrap_or_default();
    Ok((index, super::text_of(&answer.body["digest"])))
}

async fn servers(connect: &ConnectArgs) -> Result<Vec<String>, CliError> {
    let named: Vec<String> = connect
        .servers()?
        .iter()
        .map(|url| url.as_str().trim_end_matches('/').to_owned())
        .collect();
    if named.len() > 1 {
        return Ok(named);
    }
    let answer = connect.client()?.send(&Request::get(&["cluster", "status"])).await?;
    let cluster: shapes::Cluster = answer.read()?;
    let members: Vec<String> = cluster
        .raft
        .map(|raft| raft.members.into_iter().map(|member| member.http_addr).collect())
        .unwrap_or_default();
    Ok(if members.iter().all(|url| url.starts_with("http")) && !members.is_empty() {
        members
    } else {
        named
    })
}
