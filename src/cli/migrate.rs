//! `maxine migrate`: copies a whole state from one backend to another, or imports the state of the Node.js
//! Maxine.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::client::{ConnectArgs, Request};
use super::exit::CliError;
use super::output::Output;
use crate::config::has_password;
use maxine_store::redis::RedisConfig;
use maxine_store::transfer::{Place, Transfer, TransferError, transfer};

/// Arguments of `maxine migrate`.
///
/// A place is one of: 'redis://...' or 'rediss://...'; 'redis-file:PATH', a file that holds such a URL with its
/// password; 'file:PATH', the log of local or shared-file mode, or the '.json' file beside it; 'raft-backup:PATH', a
/// file of 'maxine cluster backup'. Only as FROM: 'nodejs:PATH', the state file of the Node.js Maxine, and
/// 'nodejs+redis://...', its snapshot in Redis. 'raft' as FROM takes a backup of the running cluster at --server;
/// 'raft' as TO means 'raft-backup:maxine-migration.backup'.
#[derive(Clone, Debug, clap::Args)]
pub struct MigrateArgs {
    /// The place to read the state from; it is not changed
    pub from: String,
    /// The place to write the state to
    pub to: String,
    /// Overwrite a different state that TO already holds
    #[arg(long)]
    pub replace: bool,
    /// Prefix of every key in a Redis that is read
    #[arg(long, default_value = "maxine:registry", value_name = "PREFIX")]
    pub from_prefix: String,
    /// Prefix of every key in a Redis that is written
    #[arg(long, default_value = "maxine:registry", value_name = "PREFIX")]
    pub to_prefix: String,
    /// PEM file with the certificate authorities of the Redis server
    #[arg(long, value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,
    /// The running cluster that `raft` reads
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Runs `maxine migrate`.
///
/// # Errors
/// See [`CliError`].
pub async fn run(args: MigrateArgs, out: &mut Output) -> Result<(), CliError> {
    for (name, place) in [("FROM", &args.from), ("TO", &args.to)] {
        if has_password(place) {
            return Err(CliError::Usage(format!(
                "{name} must not hold a password, because every user of this machine can read arguments: put \
                 the URL into a file and name it as redis-file:PATH"
            )));
        }
    }
    let redis = |prefix: &str| RedisConfig {
        key_prefix: prefix.into(),
        tls_ca_file: args.redis_ca.clone(),
        ..RedisConfig::default()
    };
    let to = match Named::parse(&args.to, &redis(&args.to_prefix))? {
        Named::Cluster => Place::RaftBackup(PathBuf::from("maxine-migration.backup")),
        Named::Place(place) => place,
    };
    // Its file is deleted when this variable is dropped.
    let backup;
    let from = match Named::parse(&args.from, &redis(&args.from_prefix))? {
        Named::Cluster => {
            backup = Backup::take(&args.connect, &to).await?;
            Place::RaftBackup(backup.0.clone())
        }
        Named::Place(place) => place,
    };
    let done = Box::pin(transfer(&from, &to, args.replace)).await?;
    show(&done, &to, out)
}

/// What FROM or TO names.
enum Named {
    /// A Raft cluster. It is copied through a backup.
    Cluster,
    Place(Place),
}

impl Named {
    fn parse(text: &str, redis: &RedisConfig) -> Result<Self, TransferError> {
        match text {
            "raft" => Ok(Self::Cluster),
            place => Place::parse(place, redis).map(Self::Place),
        }
    }
}

impl From<TransferError> for CliError {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Usage(text) => Self::Usage(text),
            TransferError::Absent(_) => Self::NotFound(error.to_string()),
            TransferError::Unavailable { .. } => Self::Incomplete(error.to_string()),
            TransferError::Occupied { .. } | TransferError::Held { .. } => {
                Self::Refused(error.to_string())
            }
            other => Self::Failed(other.to_string()),
        }
    }
}

/// The file of a backup of a running cluster. Dropping it deletes the file.
struct Backup(PathBuf);

impl Backup {
    async fn take(connect: &ConnectArgs, to: &Place) -> Result<Self, CliError> {
        // If the target is a file, the backup is in the same directory, which has room and the same access
        // rights.
        let dir = match to {
            Place::File(path) | Place::RaftBackup(path) => path.parent().unwrap_or(Path::new("")),
            _ => Path::new(""),
        };
        let backup = Self(dir.join(format!(".maxine-migration-{}.backup", std::process::id())));
        let ask = Request::get(&["cluster", "backup"]);
        let mut response = connect.client()?.stream(&ask).await?;
        super::download::to_file(&mut response, &backup.0).await?;
        Ok(backup)
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        // The file may not exist.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn show(done: &Transfer, to: &Place, out: &mut Output) -> Result<(), CliError> {
    let next = match to {
        Place::RaftBackup(path) => Some(format!(
            "next, once for each member: maxine cluster restore {} DATA_DIR --node-id N --members ...; \
             then start them all",
            path.display()
        )),
        _ => None,
    };
    if out.is_json() {
        return out.json(&json!({
            "unchanged": done.unchanged, "services": done.services, "instances": done.instances,
            "index": done.digest.index, "digest": done.digest.digest, "at": to.describe(),
            "skipped": done.skipped, "next": next,
        }));
    }
    for skipped in &done.skipped {
        out.line(format!("left out: {skipped}"))?;
    }
    let what = if done.unchanged { "was there already" } else { "copied and compared" };
    out.line(format!(
        "{what}: {}, {}, index {}\ndigest {}\nat {}",
        maxine_wording::count(done.services, "service"),
        maxine_wording::count(done.instances, "instance"),
        done.digest.index,
        done.digest.digest,
        to.describe()
    ))?;
    next.map_or(Ok(()), |next| out.line(next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit;

    #[test]
    fn each_end_of_a_copy_has_its_code() {
        let (place, reason) = (|| "file:a".to_owned(), || "why".to_owned());
        for (error, code) in [
            (TransferError::Usage("x".into()), exit::USAGE),
            (TransferError::Absent(place()), exit::NOT_FOUND),
            (TransferError::Occupied { place: place(), index: 7 }, exit::REFUSED),
            (TransferError::Held { place: place(), reason: reason() }, exit::REFUSED),
            (TransferError::Unavailable { place: place(), reason: reason() }, exit::UNAVAILABLE),
            (TransferError::Failed { place: place(), reason: reason() }, exit::FAILURE),
        ] {
            let error = CliError::from(error);
            assert_eq!(error.exit_code(), code, "{error}");
        }
    }
}
