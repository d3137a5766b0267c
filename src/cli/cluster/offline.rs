//! Tools for stopped nodes: they work on directories, not on a running cluster. Each reports what can be lost
//! and asks before it acts. A directory that a running node uses is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use maxine_raft::pki::{
    ClusterPki, NODE_DAYS, NodePki, Validity, certificate_end_ms, issue_cluster,
};
use maxine_raft::{EngineKind, Member, NodeId, StartError};
use serde_json::{Value, json};

use crate::cli::config::certificate_verdict;
use crate::cli::confirm::confirm;
use crate::cli::exit::CliError;
use crate::cli::output::{Output, or_dash};
use maxine_clock::Clock;
use maxine_store::transfer::COPIED_CLUSTER_ID;

/// The directory of a node's log, in its data directory.
const LOG_DIR: &str = "raft";

/// Arguments of `maxine cluster inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// The stopped node's data directory
    data_dir: PathBuf,
}

/// Arguments of `maxine cluster restore`.
#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// The file that `maxine cluster backup` wrote
    file: PathBuf,
    /// The new node's data directory; it must hold no log yet
    data_dir: PathBuf,
    /// The new cluster's name
    #[arg(long, default_value = "maxine")]
    cluster_id: String,
    /// This node's number among the members
    #[arg(long, value_name = "ID")]
    node_id: NodeId,
    /// All members of the new cluster; give the same list for each of them
    #[arg(long, required = true, value_delimiter = ',', value_name = "ID@PEER_HOST:PORT@HTTP_URL", value_parser = member)]
    members: Vec<(NodeId, Member)>,
    /// Storage engine of the log: wal, redb or sled
    #[arg(long, default_value = "wal", value_parser = engine)]
    engine: EngineKind,
    /// Do not ask for confirmation
    #[arg(long, short = 'y')]
    yes: bool,
}

/// Arguments of `maxine cluster recover`.
#[derive(Debug, clap::Args)]
pub(super) struct RecoverArgs {
    /// The data directory of the surviving node, which must be stopped. If several survived, take the one with the
    /// greatest last log entry, which 'maxine cluster inspect' shows
    data_dir: PathBuf,
    /// Do not ask for confirmation
    #[arg(long, short = 'y')]
    yes: bool,
}

/// Arguments of `maxine cluster init-tls`.
#[derive(Debug, clap::Args)]
pub(super) struct InitTlsArgs {
    /// Directory to write the files to. A pair of certificate and key that exists is kept, so that nodes can be added
    /// later; half of a pair is refused
    #[arg(default_value = "tls")]
    dir: PathBuf,
    /// The cluster's name, as in the nodes' settings
    #[arg(long, default_value = "maxine")]
    cluster_id: String,
    /// The nodes' numbers
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',', default_value = "1,2,3")]
    nodes: Vec<NodeId>,
    /// Number of days for which the nodes' certificates are valid (1 to 3650); a new authority is valid for 3650
    #[arg(long, value_name = "DAYS", default_value_t = NODE_DAYS, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    days: u32,
}

fn engine(text: &str) -> Result<EngineKind, String> {
    text.parse().map_err(|_| "expected wal, redb or sled".into())
}

fn member(text: &str) -> Result<(NodeId, Member), String> {
    let mut parts = text.splitn(3, '@');
    let (Some(id), Some(peer_addr), Some(http_addr)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err("expected ID@PEER_HOST:PORT@HTTP_URL".into());
    };
    let id: NodeId = id.parse().map_err(|_| "expected a number before the first @")?;
    if !peer_addr
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    {
        return Err("expected HOST:PORT between the two @".into());
    }
    Ok((
        id,
        Member {
            peer_addr: peer_addr.into(),
            http_addr: http_addr.into(),
            name: format!("node-{id}"),
        },
    ))
}

fn describe(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

/// What a stopped node's directory refuses. Nothing is damaged if the user named another directory, node or cluster.
fn of_directory(error: StartError) -> CliError {
    match error {
        StartError::Identity(why) => CliError::Usage(why),
        other => describe(other),
    }
}

/// The directory of the log. `data_dir` may be the node's data directory or the log's own directory.
fn log_dir(data_dir: &Path) -> PathBuf {
    let inner = data_dir.join(LOG_DIR);
    if inner.is_dir() { inner } else { data_dir.to_owned() }
}

fn look(data_dir: &Path) -> Result<(PathBuf, maxine_raft::offline::Inspection), CliError> {
    if !data_dir.is_dir() {
        return Err(CliError::Usage(format!("{} is not a directory", data_dir.display())));
    }
    let dir = log_dir(data_dir);
    let inspection = maxine_raft::offline::inspect(&dir).map_err(of_directory)?;
    Ok((dir, inspection))
}

pub(super) fn inspect(args: &InspectArgs, out: &mut Output) -> Result<(), CliError> {
    let (_, found) = look(&args.data_dir)?;
    let members: Vec<Value> = found
        .members
        .iter()
        .map(|(id, member, voter)| json!({"id": id, "name": member.name, "peer_addr": member.peer_addr, "http_addr": member.http_addr, "voter": voter}))
        .collect();
    if out.is_json() {
        return out.json(&json!({
            "cluster_id": found.cluster_id, "node_id": found.node_id, "lineage": format!("{:016x}", found.lineage), "engine": found.engine.to_string(),
            "term": found.term, "voted_for": found.voted_for, "last_log_entry": found.last_index, "committed_log_entry": found.committed_index,
            "purged_log_entry": found.purged_index, "snapshot_log_entry": found.snapshot_index, "snapshots": found.snapshots, "damaged_snapshots": found.damaged_snapshots,
            "members": members, "removed": found.removed,
        }))
        .and_then(|()| snapshots_are_whole(&found.damaged_snapshots));
    }
    let mut rows = vec![
        vec![
            "node".to_owned(),
            format!(
                "{} of cluster {}, lineage {:016x}",
                found.node_id, found.cluster_id, found.lineage
            ),
        ],
        vec!["engine".into(), found.engine.to_string()],
        vec!["term".into(), format!("{}, voted for {}", found.term, or_dash(found.voted_for))],
        vec!["last log entry".into(), or_dash(found.last_index)],
        vec!["committed at least up to entry".into(), or_dash(found.committed_index)],
        vec!["compacted up to entry".into(), or_dash(found.purged_index)],
        vec!["snapshot at entry".into(), or_dash(found.snapshot_index)],
    ];
    rows.extend(found.removed.map(|why| vec!["REMOVED".to_owned(), why]));
    out.table(&["", ""], rows)?;
    let rows = found
        .members
        .into_iter()
        .map(|(id, member, voter)| {
            vec![
                id.to_string(),
                member.name,
                if voter { "voter" } else { "learner" }.into(),
                member.peer_addr,
                member.http_addr,
            ]
        })
        .collect();
    out.line("")?;
    out.table(&["id", "name", "role", "peers", "http"], rows)?;
    snapshots_are_whole(&found.damaged_snapshots)?;
    let snapshots = maxine_wording::count(found.snapshots, "snapshot");
    out.line(format!("the checksums are correct: the log, {snapshots}"))
}

fn snapshots_are_whole(damaged: &[String]) -> Result<(), CliError> {
    if damaged.is_empty() {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "{}\nThe log and the newest snapshot are correct: a start needs nothing else",
        damaged.join("\n")
    )))
}

pub(super) fn restore(args: &RestoreArgs, out: &mut Output) -> Result<(), CliError> {
    let members: BTreeMap<NodeId, Member> = args.members.iter().cloned().collect();
    if members.len() != args.members.len() {
        return Err(CliError::Usage("--members: two members have the same id".into()));
    }
    if !members.contains_key(&args.node_id) {
        return Err(CliError::Usage(format!(
            "--node-id {} is not among the members",
            args.node_id
        )));
    }
    let index = backup_index(&args.file)?;
    let what = format!(
        "make {} the data directory of node {} in a new cluster of {}, from {}.\n\
         Every write that was acknowledged after the backup was taken is lost.\n\
         Users and API tokens that were removed since are valid again until you remove them again \
         (`maxine user remove`, `maxine token revoke`).\n\
         The new cluster refuses nodes of the old one. Run this once for each member, with the same file and members",
        args.data_dir.display(),
        args.node_id,
        members.len(),
        args.file.display()
    );
    let before = maxine_raft::offline::backup_cluster(&args.file).map_err(describe)?;
    if let Some(warning) = tokens_warning(&before, &args.cluster_id) {
        tell!("warning: {warning}");
    }
    confirm(&what, args.yes)?;
    let report = maxine_raft::offline::restore(
        &args.file,
        &args.data_dir.join(LOG_DIR),
        args.engine,
        &args.cluster_id,
        args.node_id,
        &members,
    )
    .map_err(of_directory)?;
    let next = match members.len() {
        1 => "Start it",
        _ => "Do the same for each other member, then start them all",
    };
    out.done(
        &json!({"index": index, "lineage": report.lineage, "data_dir": args.data_dir.display().to_string()}),
        format!("{} holds the state at index {index}. {next}", args.data_dir.display()),
    )
}

/// A warning about the API tokens in a backup, if the new cluster will not accept them or may not. A token
/// names the cluster that created it, by a hash of the cluster's name and of an identity in the state.
fn tokens_warning(backed_up: &str, restored: &str) -> Option<String> {
    if backed_up == COPIED_CLUSTER_ID {
        return Some(format!(
            "'maxine migrate' wrote the backup, which does not say how the cluster that it copied was named. If that name was \
             {restored} too, the new cluster accepts the API tokens in the backup; otherwise it does not. The name is the \
             setting raft.cluster_id of the old nodes, in every mode (by default maxine), and here --cluster-id"
        ));
    }
    (backed_up != restored).then(|| {
        format!(
            "the backup is of cluster {backed_up}, and the new cluster is {restored}: it does not accept the API tokens in the \
             backup. To keep them valid, use --cluster-id {backed_up}, and set the same name in the nodes' settings"
        )
    })
}

/// The index of the state in a backup. The whole state is read, because a node that cannot read it does not
/// start. A file that is not a complete backup is a wrong argument, and nothing is written.
fn backup_index(file: &Path) -> Result<u64, CliError> {
    let usage_error = |why: String| CliError::Usage(format!("{}: {why}", file.display()));
    let opened = std::fs::File::open(file).and_then(|opened| opened.metadata());
    if opened.map_err(|error| usage_error(maxine_wording::io(&error)))?.is_dir() {
        return Err(usage_error("it is a folder, not a file".into()));
    }
    let state = maxine_store::backup_state(file).map_err(|why| {
        usage_error(format!("no node can start from it, use another backup: {why}"))
    })?;
    Ok(state.index())
}

pub(super) fn recover(args: &RecoverArgs, out: &mut Output) -> Result<(), CliError> {
    let (dir, found) = look(&args.data_dir)?;
    if let Some(why) = found.removed {
        return Err(CliError::Refused(format!("{}\n  {why}", maxine_raft::offline::REMOVED)));
    }
    let others: Vec<String> = found
        .members
        .iter()
        .filter(|(id, ..)| *id != found.node_id)
        .map(|(id, member, _)| format!("{} ({id})", member.name))
        .collect();
    let what = format!(
        "make node {} the only member of cluster {}. It keeps its log up to entry {}.\n\
         Writes that other nodes acknowledged after that entry are lost. Its entries after entry {} may never \
         have been acknowledged; they become valid now.\n\
         Removed for good, never start them on their old data: {}.\n\
         If a majority of the nodes can be started again, do that instead",
        found.node_id,
        found.cluster_id,
        or_dash(found.last_index),
        or_dash(found.committed_index),
        if others.is_empty() { "none".into() } else { others.join(", ") },
    );
    confirm(&what, args.yes)?;
    let report =
        maxine_raft::offline::recover_lost_quorum(&dir, found.node_id).map_err(describe)?;
    out.done(
        &json!({"node_id": report.node_id, "kept_upto": report.kept_upto, "committed_upto": report.committed_upto,
            "unconfirmed_entries": report.unconfirmed_entries, "dropped_members": report.dropped_members, "lineage": report.lineage}),
        format!(
            "node {} is now the only member. It keeps its log up to entry {} ({} not known to be committed).\n\
             Start it, then add nodes with new numbers: maxine cluster add ID --promote ...",
            report.node_id, report.kept_upto, maxine_wording::count(report.unconfirmed_entries, "entry")
        ),
    )
}

pub(super) fn init_tls(args: &InitTlsArgs, out: &mut Output) -> Result<(), CliError> {
    let validity = Validity { now_ms: Clock::system().wall_ms(), node_days: args.days };
    let pki = issue_cluster(&args.dir, &args.cluster_id, &args.nodes, validity);
    let pki = pki.map_err(CliError::of_authority)?;
    let shown = |path: &Path| path.display().to_string();
    if out.is_json() {
        let node = |node: &NodePki| {
            let note = note_on_kept(node, validity.now_ms);
            json!({"id": node.node_id, "cert": shown(&node.cert_pem), "key": shown(&node.key_pem), "kept": node.kept, "note": note})
        };
        let nodes: Vec<Value> = pki.nodes.iter().map(node).collect();
        return out.json(&json!({
            "ca": shown(&pki.ca_pem), "ca_key": shown(&pki.ca_key_pem), "ca_kept": pki.ca_kept, "nodes": nodes,
        }));
    }
    let row = |node: &NodePki| {
        let made = if node.kept { "kept as it was" } else { "new" };
        vec![node.node_id.to_string(), shown(&node.cert_pem), shown(&node.key_pem), made.into()]
    };
    out.table(&["node", "certificate", "key", ""], pki.nodes.iter().map(row).collect())?;
    out.line(format!("\n{}", what_was_made(&pki, args.days)))?;
    renewal(&pki, args, validity.now_ms).map_or(Ok(()), |text| out.line(text))
}

/// What is wrong with a node's certificate that was kept: it has expired, ends soon, or cannot be read.
fn note_on_kept(node: &NodePki, now_ms: u64) -> Option<String> {
    if !node.kept {
        return None;
    }
    match certificate_verdict(certificate_end_ms(&node.cert_pem), now_ms) {
        Ok(note) => note.map(|note| format!("{}: {note}", node.cert_pem.display())),
        // This error names the file already.
        Err(why) => Some(why),
    }
}

/// The certificates that were kept and need to be replaced, and the command that does so. `None` if there are none.
fn renewal(pki: &ClusterPki, args: &InitTlsArgs, now_ms: u64) -> Option<String> {
    let noted = pki.nodes.iter().filter_map(|node| Some((node, note_on_kept(node, now_ms)?)));
    let (ids, notes): (Vec<String>, Vec<String>) =
        noted.map(|(node, note)| (node.node_id.to_string(), format!("warning: {note}\n"))).unzip();
    (!ids.is_empty()).then(|| {
        format!(
            "{}To replace it, run 'maxine tls renew {} --cluster-id {} --nodes {}'",
            notes.concat(),
            args.dir.display(),
            args.cluster_id,
            ids.join(",")
        )
    })
}

/// Tells the user which files are new, and what to do with them.
fn what_was_made(pki: &ClusterPki, days: u32) -> String {
    let (ca, ca_key) = (pki.ca_pem.display(), pki.ca_key_pem.display());
    let new = pki.nodes.iter().filter(|node| !node.kept).count();
    if new == 0 && pki.ca_kept {
        return "All of these files existed, and were kept as they were: nothing was written. 'maxine tls renew' makes new \
                certificates"
            .to_owned();
    }
    let authority = if pki.ca_kept { "existed and signed them" } else { "is new" };
    let days = maxine_wording::count(days, "day");
    format!(
        "{} made, valid for {days}; the authority {ca} {authority}. Alerts are raised 30, 7 and 1 days before a certificate \
         ends.\nGive each node its two files and {ca}. Do not keep {ca_key} on the nodes: with it anyone can join the cluster",
        maxine_wording::count(new, "certificate")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restore_says_which_api_tokens_the_new_cluster_accepts() {
        assert_eq!(tokens_warning("shop", "shop"), None);
        let other = tokens_warning("shop", "maxine").unwrap();
        assert!(other.contains("use --cluster-id shop"), "{other}");
        for restored in ["maxine", COPIED_CLUSTER_ID] {
            let copied = tokens_warning(COPIED_CLUSTER_ID, restored).unwrap();
            assert!(
                copied.contains(&format!("was {restored} too, the new cluster accepts")),
                "{copied}"
            );
            assert!(!copied.contains("use --cluster-id"), "{copied}");
        }
    }

    #[test]
    fn init_tls_says_which_files_it_made() {
        let dir = tempfile::tempdir().unwrap();
        let validity = Validity { now_ms: 1_795_440_992_705, node_days: 365 };
        let summary = |nodes: &[NodeId]| {
            let pki = issue_cluster(dir.path(), "shop", nodes, validity).unwrap();
            (pki.nodes.iter().map(|node| node.kept).collect::<Vec<_>>(), what_was_made(&pki, 365))
        };
        let (kept, text) = summary(&[1, 2]);
        assert_eq!(kept, [false, false]);
        assert!(
            text.starts_with("2 certificates made, valid for 365 days; the authority "),
            "{text}"
        );
        let (kept, text) = summary(&[1, 2]);
        assert_eq!(kept, [true, true]);
        assert!(text.contains("nothing was written") && !text.contains("365"), "{text}");
        let (kept, text) = summary(&[2, 3]);
        assert_eq!(kept, [true, false]);
        assert!(
            text.starts_with("1 certificate made") && text.contains("existed and signed"),
            "{text}"
        );
    }

    /// Regression: pairs that had expired were kept without a word.
    #[test]
    fn init_tls_names_kept_certificates_that_have_expired_and_the_command_that_renews_them() {
        let dir = tempfile::tempdir().unwrap();
        let day_ms = 24 * 3_600 * 1_000;
        let made = Validity { now_ms: 1_795_440_992_705, node_days: 100 };
        let nodes = |nodes: &[NodeId]| InitTlsArgs {
            dir: dir.path().to_owned(),
            cluster_id: "shop".into(),
            nodes: nodes.to_vec(),
            days: 100,
        };
        let text_at = |args: &InitTlsArgs, days: u64| {
            let validity = Validity { now_ms: made.now_ms + days * day_ms, ..made };
            let pki = issue_cluster(&args.dir, &args.cluster_id, &args.nodes, validity).unwrap();
            renewal(&pki, args, validity.now_ms)
        };
        assert_eq!(text_at(&nodes(&[1, 2]), 0), None, "they are new");
        assert_eq!(text_at(&nodes(&[1, 2]), 1), None, "they are valid for long");
        // The pair of node 3 is new then.
        let text = text_at(&nodes(&[1, 2, 3]), 100).unwrap();
        assert_eq!(text.matches("the certificate expired at ").count(), 2, "{text}");
        let command = format!(
            "run 'maxine tls renew {} --cluster-id shop --nodes 1,2'",
            dir.path().display()
        );
        assert!(text.contains("node-1.pem: ") && text.ends_with(&command), "{text}");
        let text = text_at(&nodes(&[3]), 180).unwrap();
        assert!(text.contains("expires in less than ") && text.ends_with("--nodes 3'"), "{text}");
    }

    /// Both are found before the user is asked and before anything is written.
    #[test]
    fn a_backup_that_is_missing_or_is_none_is_a_wrong_argument() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.backup");
        let is_refused_with = |why: &str| {
            let error = backup_index(&file).unwrap_err();
            assert_eq!(error.exit_code(), crate::cli::exit::USAGE, "{error}");
            assert!(error.to_string().contains(why), "{error}");
        };
        is_refused_with("there is no such file");
        std::fs::write(&file, "somebody's notes, which are no backup at all").unwrap();
        is_refused_with("no node can start from it, use another backup: ");
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        is_refused_with("it is a folder, not a file");
    }

    /// Regression: these ended with 1, although the user named the wrong directory or cluster.
    #[test]
    fn what_a_directory_refuses_is_a_wrong_argument_and_damage_is_a_failure() {
        let refused = of_directory(StartError::Identity("data is not empty".into()));
        assert_eq!(refused.exit_code(), crate::cli::exit::USAGE, "{refused}");
        let damaged = of_directory(StartError::Storage("a checksum is wrong".into()));
        assert_eq!(damaged.exit_code(), crate::cli::exit::FAILURE, "{damaged}");
        let dir = tempfile::tempdir().unwrap();
        let made = |cluster: &str| {
            let validity = Validity { now_ms: Clock::system().wall_ms(), node_days: 30 };
            issue_cluster(dir.path(), cluster, &[1], validity).map_err(CliError::of_authority)
        };
        assert!(made("demo").is_ok());
        let other = made("another").err().map(|error| error.exit_code());
        assert_eq!(other, Some(crate::cli::exit::USAGE));
    }

    /// The directory of a node in local mode has no Raft log.
    #[test]
    fn a_directory_without_a_raft_log_is_a_wrong_argument() {
        let dir = tempfile::tempdir().unwrap();
        let error = look(dir.path()).unwrap_err();
        assert_eq!(error.exit_code(), crate::cli::exit::USAGE, "{error}");
        assert!(error.to_string().ends_with("is not the directory of a Raft node"), "{error}");
    }

    #[test]
    fn members_are_read_as_in_the_settings() {
        let (id, read) = member("2@127.0.0.1:7702@http://127.0.0.1:8082").unwrap();
        assert_eq!(
            (id, read.peer_addr.as_str(), read.http_addr.as_str()),
            (2, "127.0.0.1:7702", "http://127.0.0.1:8082")
        );
        for bad in ["", "2", "2@host@x", "x@a:1@y", "2@:1@y"] {
            assert!(member(bad).is_err(), "{bad}");
        }
    }
}
