//! `maxine migrate`: copies a whole state from one backend to another, or imports that of the
//! Node.js Maxine.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::backend::redis::RedisConfig;
use crate::backend::transfer::{Place, Transfer, transfer};

/// Arguments of `maxine migrate`.
///
/// Places: `redis://…` or `rediss://…`; `file:PATH`, the log of local or shared-file mode;
/// `raft-backup:PATH`, a file of `maxine cluster backup`; to read only, `nodejs:PATH`, the state
/// file of the Node.js Maxine, and `nodejs+redis://…`, its snapshot in Redis. As a target, `raft`
/// is short for `raft-backup:maxine-migration.backup`.
#[derive(Clone, Debug, clap::Args)]
pub struct MigrateArgs {
    /// Where the state is now
    #[arg(long, value_name = "PLACE")]
    pub from: String,
    /// Where it shall be
    #[arg(long, value_name = "PLACE")]
    pub to: String,
    /// Overwrite another state at the target
    #[arg(long)]
    pub replace: bool,
    /// Before every key, in a Redis that is read
    #[arg(long, default_value = "maxine:registry", value_name = "PREFIX")]
    pub from_prefix: String,
    /// Before every key, in a Redis that is written
    #[arg(long, default_value = "maxine:registry", value_name = "PREFIX")]
    pub to_prefix: String,
    /// The certificates that sign the Redis server's, in PEM
    #[arg(long, value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,
}

/// Carries it out and tells what it came to.
pub async fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    let redis = |prefix: &str| RedisConfig {
        key_prefix: prefix.into(),
        tls_ca_file: args.redis_ca.clone(),
        ..RedisConfig::default()
    };
    let from = Place::parse(&args.from, &redis(&args.from_prefix))?;
    let to = match args.to.as_str() {
        "raft" => "raft-backup:maxine-migration.backup",
        other => other,
    };
    let to = Place::parse(to, &redis(&args.to_prefix))?;
    let done = Box::pin(transfer(&from, &to, args.replace)).await?;
    tell(&done, &to, &mut std::io::stdout(), &mut std::io::stderr())?;
    Ok(ExitCode::SUCCESS)
}

fn tell(
    done: &Transfer,
    to: &Place,
    out: &mut dyn std::io::Write,
    notes: &mut dyn std::io::Write,
) -> std::io::Result<()> {
    for skipped in &done.skipped {
        writeln!(notes, "maxine: left out: {skipped}")?;
    }
    let what = if done.unchanged { "was there already" } else { "copied and compared" };
    writeln!(
        out,
        "{what}: {} services, {} instances, index {}\ndigest {}\nat {}",
        done.services,
        done.instances,
        done.digest.index,
        done.digest.digest,
        to.describe()
    )?;
    if let Place::RaftBackup(path) = to {
        writeln!(
            out,
            "next, once for each member: maxine cluster restore {} --data-dir DIR --node-id N \
             --members …; then start them",
            path.display()
        )?;
    }
    Ok(())
}
