//! `maxine config get` and `maxine config set`: the runtime configuration of a cluster.

use reqwest::Method;
use serde_json::Value;

use super::client::{ConnectArgs, FreshArgs, Request};
use super::document::{assignment, change, show};
use super::exit::CliError;
use super::output::Output;

/// The cluster's runtime configuration, as commands under `maxine config`.
#[derive(Debug, clap::Subcommand)]
pub enum RuntimeCommand {
    /// Show the runtime configuration of a running cluster
    Get(ConfigGetArgs),
    /// Change fields of the runtime configuration of a running cluster
    Set(ConfigSetArgs),
}

/// Arguments of `maxine config get`.
#[derive(Debug, clap::Args)]
pub struct ConfigGetArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    fresh: FreshArgs,
}

/// Arguments of `maxine config set`.
#[derive(Debug, clap::Args)]
pub struct ConfigSetArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Fields to change, such as heartbeat_timeout_s=10
    #[arg(value_name = "PATH=VALUE", value_parser = assignment, required = true)]
    assignments: Vec<(String, Value)>,
}

impl RuntimeCommand {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        match self {
            Self::Get(args) => &args.connect,
            Self::Set(args) => &args.connect,
        }
    }
}

/// Runs `maxine config get` and `maxine config set`.
///
/// # Errors
/// See [`CliError`].
pub async fn runtime_config(command: RuntimeCommand, out: &mut Output) -> Result<(), CliError> {
    let client = command.connect().client()?;
    match command {
        RuntimeCommand::Get(get) => {
            show(&client, get.fresh.of(Request::get(&["config"])), "config", out).await
        }
        RuntimeCommand::Set(set) => {
            let request = Request::keyed(Method::PATCH, &["config"]);
            change(&client, request, "config", &set.assignments, out).await
        }
    }
}
