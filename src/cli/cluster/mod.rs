//! `maxine cluster`: shows the cluster and changes it.
//!
//! The commands here send requests to running nodes. `offline` works on the directories of stopped nodes.

mod digest;
mod membership;
mod offline;
mod snapshot;
mod status;

use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{ConnectArgs, Request};
use super::exit::CliError;
use super::output::{Format, Output, OutputArgs};

/// Arguments of `maxine cluster`.
#[derive(Debug, clap::Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the leader, the members and how far each has got
    Status(ConnectArgs),
    /// Ask every member for a digest of its state, and say whether all have the same at one index
    Digest(ConnectArgs),
    /// Add a node as a learner: it receives the log but has no vote
    Add(Online<membership::AddArgs>),
    /// Give a learner a vote, once it has been reached and has caught up
    Promote(Online<membership::PromoteArgs>),
    /// Remove a member, unless no majority would be reachable; its data directory must not be used again
    Remove(Online<membership::RemoveArgs>),
    /// Move leadership to another voter
    Transfer(Online<membership::TransferArgs>),
    /// Write a snapshot on the node that is asked, and remove old entries of its log
    ///
    /// The snapshot needs space for one copy of the state on the node's disk. Without that space it is refused, and
    /// nothing is changed. The newest entries stay in the log: up to 5,000, and older ones until they are 1,000. So with
    /// few entries in the log, the snapshot takes space and frees none.
    Snapshot(ConnectArgs),
    /// Forget a node of redis or shared-file mode that has been silent for 10 s, so that it holds no upgrade back
    Forget(Online<ForgetArgs>),
    /// Upgrades of the nodes, one after the other
    #[command(subcommand)]
    Upgrade(UpgradeAction),
    /// Download a backup of the state to a file
    Backup(Online<BackupArgs>),
    /// Offline: show what the data directory of a stopped node holds
    Inspect(Offline<offline::InspectArgs>),
    /// Offline: make the data directory of a new node from a backup
    ///
    /// Users, passwords and API tokens are those of the backup. One that was removed or revoked since is valid again:
    /// look through `maxine user list` and `maxine token list`, and end those with `maxine user remove NAME` and
    /// `maxine token revoke ID`. API tokens name their cluster: they are only valid if --cluster-id is the name of the
    /// cluster that was backed up.
    Restore(Offline<offline::RestoreArgs>),
    /// Offline: continue with one surviving node after a majority is lost for good
    Recover(Offline<offline::RecoverArgs>),
    /// Offline: make a certificate authority and certificates for the nodes
    InitTls(Offline<offline::InitTlsArgs>),
}

/// A command that asks running nodes.
#[derive(Debug, clap::Args)]
struct Online<T: clap::Args> {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    args: T,
}

/// A command that works only on files, so it has no connection options.
#[derive(Debug, clap::Args)]
struct Offline<T: clap::Args> {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    args: T,
}

#[derive(Debug, clap::Subcommand)]
enum UpgradeAction {
    /// Raise the version of the state, once every node runs the new version of Maxine; afterwards no node can go back
    Finish(ConnectArgs),
}

#[derive(Debug, clap::Args)]
struct ForgetArgs {
    /// The node's name
    node: String,
}

#[derive(Debug, clap::Args)]
struct BackupArgs {
    /// The file to write; it must not exist
    file: PathBuf,
}

impl ClusterArgs {
    /// How to write results.
    #[must_use]
    pub fn format(&self) -> Format {
        let output = match &self.action {
            Action::Status(connect) | Action::Digest(connect) | Action::Snapshot(connect) => {
                connect.output
            }
            Action::Add(online) => online.connect.output,
            Action::Promote(online) => online.connect.output,
            Action::Remove(online) => online.connect.output,
            Action::Transfer(online) => online.connect.output,
            Action::Backup(online) => online.connect.output,
            Action::Forget(online) => online.connect.output,
            Action::Upgrade(UpgradeAction::Finish(connect)) => connect.output,
            Action::Inspect(offline) => offline.output,
            Action::Restore(offline) => offline.output,
            Action::Recover(offline) => offline.output,
            Action::InitTls(offline) => offline.output,
        };
        output.format
    }
}

/// Runs `maxine cluster`.
///
/// # Errors
/// See [`CliError`].
pub async fn run(args: ClusterArgs, out: &mut Output) -> Result<(), CliError> {
    match args.action {
        Action::Status(connect) => status::show(&connect, out).await,
        Action::Digest(connect) => digest::compare(&connect, out).await,
        Action::Add(Online { connect, args }) => {
            membership::add(&connect.client()?, args, out).await
        }
        Action::Promote(Online { connect, args }) => {
            membership::promote(&connect.client()?, args, out).await.map_err(absent)
        }
        Action::Remove(Online { connect, args }) => {
            membership::remove(&connect.client()?, args, out).await.map_err(absent)
        }
        Action::Transfer(Online { connect, args }) => {
            membership::transfer(&connect.client()?, args, out).await.map_err(absent)
        }
        Action::Snapshot(connect) => snapshot::write(&connect.client()?, out).await,
        Action::Forget(Online { connect, args }) => {
            let request = Request::once(Method::DELETE, &["cluster", "nodes", &args.node]);
            connect.client()?.send(&request).await.map_err(absent)?;
            out.done(&json!({"forgotten": args.node}), format!("{} is forgotten", args.node))
        }
        Action::Upgrade(UpgradeAction::Finish(connect)) => finish_upgrade(&connect, out).await,
        Action::Backup(Online { connect, args }) => backup(&connect, &args.file, out).await,
        Action::Inspect(offline) => offline::inspect(&offline.args, out),
        Action::Restore(offline) => offline::restore(&offline.args, out),
        Action::Recover(offline) => offline::recover(&offline.args, out),
        Action::InitTls(offline) => offline::init_tls(&offline.args, out),
    }
}

/// Replaces the advice of a node that a member does not exist. That advice is about the URL, which the user
/// did not write.
fn absent(error: CliError) -> CliError {
    match error {
        CliError::Problem(mut problem) if problem.status == 404 => {
            problem.action = "'maxine cluster status' shows the nodes and their ids".into();
            CliError::Problem(problem)
        }
        other => other,
    }
}

async fn finish_upgrade(connect: &ConnectArgs, out: &mut Output) -> Result<(), CliError> {
    let request = Request::once(Method::POST, &["cluster", "upgrade", "finish"]);
    let answer = connect.client()?.send(&request).await?;
    let version = text_of(&answer.body["state_version"]);
    let text = match answer.body["raised"].as_bool() {
        Some(true) => format!("the state has version {version} now"),
        _ => format!("the state has version {version} already: there was nothing to finish"),
    };
    out.done(&answer.body, text)
}

async fn backup(
    connect: &ConnectArgs,
    file: &std::path::Path,
    out: &mut Output,
) -> Result<(), CliError> {
    super::download::check_target(file)?;
    let mut response = connect.client()?.stream(&Request::get(&["cluster", "backup"])).await?;
    let index: Option<u64> = response
        .headers()
        .get("x-maxine-backup-index")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    let len = super::download::to_file(&mut response, file).await?;
    let document = json!({"file": file.display().to_string(), "bytes": len, "index": index});
    let at = index.map_or_else(String::new, |index| format!(", the state at index {index}"));
    out.done(&document, format!("wrote {} ({len} bytes{at})", file.display()))
}

/// The text or number of a field, for a sentence.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
