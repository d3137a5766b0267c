//! `maxine checks`: lists the checks of an instance, and reports those that its owner makes.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::client::{ConnectArgs, FreshArgs, Request};
use super::exit::CliError;
use super::instances::InstanceArg;
use super::output::{Output, or_dash, timestamp};
use maxine_api::native::CheckKindView;
use maxine_state::CheckStatus;

/// Arguments of `maxine checks`.
#[derive(Debug, clap::Args)]
pub struct ChecksArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the checks of an instance. Until there is a verdict on its probe, nodes may give different answers: each
    /// shows the latest probe that it knows of
    List(ListArgs),
    /// Report a check of an instance. Repeat it within the check's time to live
    Report(ReportArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    instance: InstanceArg,
    #[command(flatten)]
    fresh: FreshArgs,
}

#[derive(Debug, clap::Args)]
struct ReportArgs {
    #[command(flatten)]
    instance: InstanceArg,
    /// Id of the check
    check: String,
    /// The status. With critical the instance gets no traffic; the others change nothing
    #[arg(value_parser = status_parser())]
    status: CheckStatus,
    /// What was found, up to 4096 bytes
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
}

fn status_parser() -> impl TypedValueParser<Value = CheckStatus> {
    let names = CheckStatus::ALL.map(CheckStatus::as_str);
    PossibleValuesParser::new(names).try_map(|name| {
        let named = CheckStatus::ALL.into_iter().find(|status| status.as_str() == name);
        named.ok_or("no such status")
    })
}

impl ChecksArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// A check as the API shows it.
#[derive(Debug, Deserialize)]
pub(super) struct Check {
    id: String,
    kind: CheckKindView,
    ttl_ms: Option<u64>,
    status: CheckStatus,
    output: String,
    since_ms: Option<u64>,
}

/// Prints checks as a table.
pub(super) fn table(checks: Vec<Check>, out: &mut Output) -> Result<(), CliError> {
    let row = |check: Check| {
        vec![
            check.id,
            check.kind.as_str().to_owned(),
            check.status.as_str().to_owned(),
            or_dash(check.since_ms.map(timestamp)),
            or_dash(check.ttl_ms.map(|ttl_ms| ttl_ms.to_string())),
            check.output,
        ]
    };
    let rows: Vec<Vec<String>> = checks.into_iter().map(row).collect();
    out.table(&["check", "kind", "status", "since", "ttl_ms", "output"], rows)
}

/// Runs `maxine checks`.
///
/// # Errors
/// See [`CliError`].
pub async fn run(args: ChecksArgs, out: &mut Output) -> Result<(), CliError> {
    match args.action {
        Action::List(action) => list(&args.connect, &action, out).await,
        Action::Report(action) => report(&args.connect, &action, out).await,
    }
}

async fn list(connect: &ConnectArgs, args: &ListArgs, out: &mut Output) -> Result<(), CliError> {
    #[derive(Deserialize)]
    struct Instance {
        checks: Vec<Check>,
    }
    let request = args.fresh.of(Request::get(&args.instance.path()));
    let answer = connect.client()?.send(&request).await?;
    if out.is_json() {
        return out.json(&answer.body["checks"]);
    }
    let instance: Instance = answer.read()?;
    if instance.checks.is_empty() {
        return out.line(
            "it has no checks: neither the instance nor the policy of its service defines any",
        );
    }
    table(instance.checks, out)
}

async fn report(
    connect: &ConnectArgs,
    args: &ReportArgs,
    out: &mut Output,
) -> Result<(), CliError> {
    let path = [&args.instance.path()[..], &["checks", &args.check]].concat();
    let body = json!({"status": args.status, "output": args.note});
    // A repeated report changes nothing, so it needs no key.
    let answer = connect.client()?.send(&Request::once(Method::PUT, &path).json(body)).await?;
    out.done(&answer.body, format!("check {} is {}", args.check, args.status.as_str()))
}
