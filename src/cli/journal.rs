//! `maxine audit`: shows, exports and checks the audit log.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{ConnectArgs, Request, is_without_leader};
use super::exit::CliError;
use super::output::{Output, timestamp};

/// Arguments of `maxine audit`.
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    action: Option<AuditAction>,
}

#[derive(Debug, clap::Subcommand)]
enum AuditAction {
    /// List records, newest first (the default)
    List(AuditListArgs),
    /// Write the whole log to a file, oldest record first, one JSON document per line
    Export {
        /// The file to write; it must not exist (- for standard output)
        file: PathBuf,
    },
    /// Confirm that the leader's clock is right after it jumped, so that old records are removed again
    ConfirmClock,
    /// Check that no record was changed or removed, in the cluster's log or in exported files
    Verify(super::audit::VerifyArgs),
}

#[derive(Debug, Default, clap::Args)]
struct AuditListArgs {
    /// Only records of this user
    #[arg(long)]
    user: Option<String>,
    /// Only actions that begin with this text
    #[arg(long)]
    action: Option<String>,
    /// Only objects that begin with this text
    #[arg(long)]
    object: Option<String>,
    /// Only records with this outcome
    #[arg(long, value_parser = ["success", "refused", "unknown"])]
    outcome: Option<String>,
    /// Maximum number of records to show (1 to 100000)
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

impl AuditArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// Runs `maxine audit`.
///
/// # Errors
/// See [`CliError`]; a log that does not verify is a failure.
pub async fn audit(args: AuditArgs, out: &mut Output) -> Result<(), CliError> {
    let connect = &args.connect;
    match args.action {
        None => list(connect, &AuditListArgs { limit: 100, ..AuditListArgs::default() }, out).await,
        Some(AuditAction::List(filter)) => list(connect, &filter, out).await,
        Some(AuditAction::ConfirmClock) => {
            let request = Request::keyed(Method::POST, &["audit", "clock", "confirm"]);
            let answer = connect.client()?.send(&request).await?;
            out.done(
                &answer.body,
                "the clock is confirmed: from now on old records are removed when they are due",
            )
        }
        Some(AuditAction::Export { file }) => export(connect, &file, out).await,
        Some(AuditAction::Verify(args)) if args.checks_files() => {
            super::audit::verify_files(connect, &args, out).await
        }
        Some(AuditAction::Verify(_)) => verify(connect, out).await,
    }
}

async fn list(
    connect: &ConnectArgs,
    filter: &AuditListArgs,
    out: &mut Output,
) -> Result<(), CliError> {
    let request = Request::get(&["audit"])
        .query("user", filter.user.as_ref())
        .query("action", filter.action.as_ref())
        .query("object", filter.object.as_ref())
        .query("outcome", filter.outcome.as_ref());
    let list = connect.client()?.list(&request, filter.limit as usize).await?;
    if out.is_json() {
        return list.items.iter().try_for_each(|item| out.json(item));
    }
    let rows = list.items.iter().map(|item| {
        let when = item["time_ms"].as_u64().map_or_else(String::new, timestamp);
        let rest = ["user", "address", "via_node", "action", "object", "outcome", "detail"]
            .map(|field| cell(&item[field]));
        [vec![item["seq"].to_string(), when], rest.to_vec()].concat()
    });
    out.table(
        &["seq", "when", "user", "from", "via node", "action", "object", "outcome", "detail"],
        rows.collect(),
    )
}

async fn verify(connect: &ConnectArgs, out: &mut Output) -> Result<(), CliError> {
    let answer = connect.client()?.send(&Request::get(&["audit", "verify"])).await?;
    if answer.body["ok"] != Value::Bool(true) {
        let seq = &answer.body["first_bad_seq"];
        return Err(CliError::Failed(format!(
            "the audit log is damaged: record {seq} was changed or removed"
        )));
    }
    let classes = answer.body["classes"].as_array().cloned().unwrap_or_default();
    let left = classes.iter().filter(|class| class["dropped"] != 0);
    let left: Vec<String> =
        left.map(|class| format!("{} {}", class["dropped"], cell(&class["class"]))).collect();
    let left = if left.is_empty() { "none".into() } else { left.join(", ") };
    let text = format!(
        "{} of {} checked and correct; removed for room or age: {left}",
        maxine_wording::count(&answer.body["records"], "record"),
        answer.body["next_seq"]
    );
    out.done(&answer.body, text)
}

async fn export(connect: &ConnectArgs, file: &Path, out: &mut Output) -> Result<(), CliError> {
    if file != Path::new("-") {
        super::download::check_target(file)?;
    }
    let client = connect.client()?;
    let mut response = client.stream(&Request::get(&["audit", "export"])).await?;
    if is_without_leader(response.headers()) {
        tell!(
            "note: the audit log has no record of this export yet, because there is no leader; the node writes it when \
             the cluster accepts changes again"
        );
    }
    if file.as_os_str() == "-" {
        let mut text = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| CliError::Failed(error.to_string()))?
        {
            text.extend_from_slice(&chunk);
            // Complete lines are written at once. The rest waits for the end of its line.
            if let Some(end) = text.iter().rposition(|byte| *byte == b'\n') {
                let rest = text.split_off(end + 1);
                for line in BufReader::new(&text[..]).lines() {
                    out.line(line?)?;
                }
                text = rest;
            }
        }
        return if text.is_empty() { Ok(()) } else { out.line(String::from_utf8_lossy(&text)) };
    }
    let len = super::download::to_file(&mut response, file).await?;
    out.done(
        &json!({"file": file.display().to_string(), "bytes": len}),
        format!("wrote {len} bytes to {}", file.display()),
    )?;
    Ok(std::io::stdout().flush()?)
}
