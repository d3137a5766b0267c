//! `maxine health`: whether a node answers, for health checks of containers and for scripts. Needs no token.

use serde::Deserialize;

use super::client::{ConnectArgs, Request};
use super::exit::CliError;
use super::output::Output;

/// Arguments of `maxine health`.
#[derive(Debug, clap::Args)]
pub struct HealthArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Also ask that the node has a current copy and knows a leader that takes writes
    #[arg(long)]
    ready: bool,
}

impl HealthArgs {
    /// The connection: the nodes and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

#[derive(Deserialize)]
struct Ready {
    instance: String,
}

/// Runs `maxine health`. A node that refuses the request answers too. A connection that is only accepted is no answer,
/// and neither is the answer of another web server, or of a proxy in front of a node.
///
/// # Errors
/// [`CliError::Unavailable`] if no Maxine node answers; with `--ready`, also if no node is ready.
pub async fn run(args: HealthArgs, out: &mut Output) -> Result<(), CliError> {
    let client = args.connect.anonymous_client()?;
    match client.send(&Request::get(&["ready"])).await {
        Ok(answer) => {
            let node: Ready = answer.read()?;
            out.done(&answer.body, format!("{} is ready", node.instance))
        }
        Err(CliError::Problem(problem)) if !problem.is_of_maxine() => {
            let server = client.servers().first().map(ToString::to_string).unwrap_or_default();
            let why = format!("the answer is not that of a Maxine node: {problem}");
            Err(CliError::Unavailable { answered: false, tried: vec![(server, why)] })
        }
        Err(CliError::Problem(problem)) if !args.ready => not_ready(&problem.to_string(), out),
        Err(CliError::Unavailable { answered: true, tried }) if !args.ready => {
            let why: Vec<String> = tried
                .iter()
                .map(|(url, why)| format!("{}: {why}", url.trim_end_matches('/')))
                .collect();
            not_ready(&why.join("; "), out)
        }
        Err(error) => Err(error),
    }
}

fn not_ready(why: &str, out: &mut Output) -> Result<(), CliError> {
    out.done(
        &serde_json::json!({"ready": false, "reason": why}),
        format!("a node answers, but no node is ready: {why}"),
    )
}
