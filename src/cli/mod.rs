//! The command line: one file per command, and this one, which knows them all.
//!
//! Results go to standard output, everything else to standard error. `exit` has the exit codes.

pub mod alerts;
pub mod audit;
pub mod client;
pub mod cluster;
pub mod commands;
pub mod completions;
pub mod config;
pub mod confirm;
pub mod dev;
pub mod download;
pub mod exit;
mod heartbeat;
pub mod instances;
pub mod journal;
mod log;
pub mod login;
pub mod migrate;
pub mod output;
pub mod sample;
pub mod serve;
pub mod services;
pub mod settings;
pub mod watch;
pub mod why;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// A control plane for service-to-service traffic: registry, discovery, health checks and proxy.
#[derive(Debug, Parser)]
#[command(name = "maxine", version, about, propagate_version = true, max_term_width = 100)]
#[command(after_help = format!(
    "Start with 'maxine dev': three nodes and two sample services on this machine.\n\n{}", exit::HELP
))]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a whole cluster on this machine, with sample services, until Ctrl-C.
    Dev(dev::DevArgs),
    /// Runs one node.
    Serve(serve::ServeArgs),
    #[command(flatten)]
    Client(commands::ClientCommand),
    /// Shows and checks a node's settings, and changes a running cluster's.
    Config(config::ConfigArgs),
    /// Copies the state from one backend to another, or imports that of the Node.js Maxine.
    Migrate(migrate::MigrateArgs),
    /// Prints the script that teaches a shell the commands.
    Completions(completions::CompletionsArgs),
    /// Runs a sample service that registers itself.
    #[command(hide = true)]
    Sample(sample::SampleArgs),
}

/// Carries out what was asked for.
pub async fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Dev(args) => dev::run(args).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Client(command) => {
            Ok(ExitCode::from(Box::pin(command.run(&mut std::io::stderr())).await))
        }
        Command::Config(args) => config::run(args).await,
        Command::Migrate(args) => migrate::run(args).await,
        Command::Completions(args) => {
            let result = completions::run(&args, Cli::command(), &mut std::io::stdout());
            Ok(ExitCode::from(commands::finish(
                result,
                output::Format::Table,
                &mut std::io::stderr(),
            )))
        }
        Command::Sample(args) => sample::run(args).await,
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("maxine: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_fits_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_secret_is_taken_as_an_argument() {
        fn check(command: &clap::Command) {
            for name in command.get_arguments().filter_map(clap::Arg::get_long) {
                let secret = ["password", "token", "secret"].contains(&name);
                assert!(!secret, "{} --{name}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
