//! `maxine cluster`: looking at the cluster and changing it.
//!
//! The commands here speak to running nodes; `offline` works on the directories of stopped ones.

mod membership;
mod offline;
mod status;

use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{ConnectArgs, Request};
use super::exit::CliError;
use super::output::Output;

/// Arguments of `maxine cluster`.
#[derive(Debug, clap::Args)]
pub struct ClusterArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show who leads, the members and how far each is
    Status,
    /// Show every node's digest of its state at its index, and whether equal indexes have equal digests
    Digest,
    /// Add a node as a learner, which gets the log but has no vote
    Add(membership::AddArgs),
    /// Give a learner a vote, once it has caught up
    Promote(membership::MemberArg),
    /// Remove a member; its data directory must not be used again
    Remove(membership::RemoveArgs),
    /// Hand leadership to another voter
    Transfer(membership::TransferArgs),
    /// Write a snapshot on the node that is asked, and compact its log
    Snapshot,
    /// Download a backup of the state to a file
    Backup {
        /// Where to; must not exist
        file: PathBuf,
    },
    /// Offline: look into the data directory of a stopped node
    Inspect(offline::InspectArgs),
    /// Offline: make a new node's data directory from a backup
    Restore(offline::RestoreArgs),
    /// Offline: go on with one survivor after a majority is lost for good
    Recover(offline::RecoverArgs),
    /// Offline: make a certificate authority and certificates for the nodes
    InitTls(offline::InitTlsArgs),
}

impl ClusterArgs {
    /// Whom to talk to.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// Runs `maxine cluster`.
///
/// # Errors
/// See [`CliError`].
pub async fn run(args: ClusterArgs, out: &mut Output) -> Result<(), CliError> {
    let connect = &args.connect;
    match args.action {
        Action::Status => status::show(&connect.client()?, out).await,
        Action::Digest => status::digest(connect, out).await,
        Action::Add(action) => membership::add(&connect.client()?, action, out).await,
        Action::Promote(action) => membership::promote(&connect.client()?, action, out).await,
        Action::Remove(action) => membership::remove(&connect.client()?, action, out).await,
        Action::Transfer(action) => membership::transfer(&connect.client()?, action, out).await,
        Action::Snapshot => {
            connect.client()?.send(&Request::once(Method::POST, &["cluster", "snapshot"])).await?;
            out.done(&json!({"snapshot": true}), "a snapshot is written")
        }
        Action::Backup { file } => backup(connect, &file, out).await,
        Action::Inspect(action) => offline::inspect(&action, out),
        Action::Restore(action) => offline::restore(&action, out),
        Action::Recover(action) => offline::recover(&action, out),
        Action::InitTls(action) => offline::init_tls(&action, out),
    }
}

async fn backup(
    connect: &ConnectArgs,
    file: &std::path::Path,
    out: &mut Output,
) -> Result<(), CliError> {
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
