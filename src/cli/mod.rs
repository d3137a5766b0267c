//! The command line. Each command has its own file, and this file lists them all.
//!
//! Results go to standard output, everything else to standard error. `exit` has the exit codes.

/// Like `eprintln!`, but drops a message that cannot be written, where `eprintln!` panics.
macro_rules! tell {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}

pub mod alerts;
pub mod audit;
pub mod checks;
pub mod client;
pub mod cluster;
pub mod commands;
pub mod completions;
pub mod config;
pub mod confirm;
pub mod dev;
pub mod diagnose;
pub mod doctor;
mod document;
pub mod download;
mod each_node;
pub mod exit;
pub mod explain;
mod finding;
pub mod health;
mod heartbeat;
pub mod init;
pub mod instances;
pub mod journal;
pub mod kv;
pub mod lock;
mod locked_command;
mod log;
mod log_format;
pub mod log_level;
pub mod login;
pub mod man;
pub mod migrate;
pub mod output;
pub mod policy;
mod provider_login;
mod runbook;
pub mod runtime_config;
pub mod sample;
mod security;
pub mod serve;
mod service_manager;
pub mod services;
pub mod tls;
pub mod tokens;
pub mod users;
pub mod watch;
pub mod why;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

/// The permissions that new files lacked before the program made its own files private. A command that it runs for the
/// user starts with them.
pub static UMASK_BEFORE: OnceLock<nix::sys::stat::Mode> = OnceLock::new();

/// The version of the program, and the newest version of the state that it understands.
fn long_version() -> String {
    format!("{}\nstate version {}", env!("CARGO_PKG_VERSION"), maxine_state::STATE_VERSION)
}

/// A control plane for service-to-service traffic: registry, discovery, health checks and proxy.
#[derive(Debug, Parser)]
#[command(name = "maxine", version, long_version = long_version(), about, propagate_version = true, max_term_width = 100)]
#[command(after_help = format!(
    "Start with 'maxine dev': it runs three nodes and two sample services on this machine.\n\n{}", exit::help()
))]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cluster on this machine, with sample services, until Ctrl-C
    Dev(dev::DevArgs),
    /// Run one node
    Serve(serve::ServeArgs),
    #[command(flatten)]
    Client(commands::ClientCommand),
    /// List and check the settings of a node; show and change those of a running cluster
    Config(config::ConfigArgs),
    /// Offline: write the settings and certificates of a new cluster, a folder for each node, and print how to start it
    Init(init::InitArgs),
    /// Write the settings and the certificate of a further node for a running cluster, and print how to start and add it
    Join(init::join::JoinArgs),
    /// Copy the state from one backend to another, or import the state of the Node.js Maxine
    Migrate(migrate::MigrateArgs),
    /// Replace the certificates between nodes, and their authority
    Tls(tls::TlsArgs),
    /// Print the completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual pages of all commands to a directory
    #[command(hide = true)]
    Man(man::ManArgs),
    /// Run a sample service that registers itself
    #[command(hide = true)]
    Sample(sample::SampleArgs),
}

/// Parses the command line. Wrong arguments are reported like every other error: as one line of JSON, if JSON
/// is requested.
///
/// # Errors
///
/// The exit code, if the arguments are wrong, or if help or the version was requested and has been written.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let args: Vec<OsString> = args.into_iter().collect();
    Cli::try_parse_from(&args).map_err(|error| {
        let error = as_without_environment(error, &args);
        let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
        if !error.use_stderr() || !output::wants_json(&args) {
            let code = u8::try_from(error.exit_code()).unwrap_or(exit::USAGE);
            // If the stream is closed, nobody reads it.
            let _ = error.print();
            return ExitCode::from(code);
        }
        let text = error.to_string();
        let text = match is_help {
            // Here the error's text is the whole help.
            true => {
                let usage = text.lines().find(|line| line.starts_with("Usage: "));
                format!("a subcommand is missing; {}", usage.unwrap_or("see --help"))
            }
            false => text.trim().trim_start_matches("error: ").to_owned(),
        };
        let error = exit::CliError::Usage(text);
        ExitCode::from(error.report(output::Format::Json, &mut std::io::stderr()))
    })
}

/// The same error with a usage that does not show what is set in the environment. Otherwise, if `MAXINE_SERVER` is set,
/// the usage shows `--server <URL>` as if it were required.
fn as_without_environment(error: clap::Error, args: &[OsString]) -> clap::Error {
    if error.kind() != ErrorKind::MissingRequiredArgument {
        return error;
    }
    match without_environment(Cli::command()).try_get_matches_from(args) {
        Err(other) if other.kind() == error.kind() => other,
        _ => error,
    }
}

fn without_environment(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.env(None::<&'static str>)).mut_subcommands(without_environment)
}

/// Runs the command.
pub async fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Dev(args) => dev::run(args).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Client(command) => {
            Ok(ExitCode::from(Box::pin(command.run(&mut std::io::stderr())).await))
        }
        Command::Config(args) => config::run(args).await,
        Command::Migrate(args) => {
            let format = args.connect.output.format;
            let result = migrate::run(args, &mut output::Output::stdout(format)).await;
            Ok(ExitCode::from(commands::finish(result, format, &mut std::io::stderr())))
        }
        Command::Init(args) => Ok(ExitCode::from(init::run(args, &mut std::io::stderr()))),
        Command::Join(args) => {
            let format = args.connect.output.format;
            let result = init::join::run(&args, &mut output::Output::stdout(format)).await;
            Ok(ExitCode::from(commands::finish(result, format, &mut std::io::stderr())))
        }
        Command::Tls(args) => Ok(ExitCode::from(tls::run(&args, &mut std::io::stderr()))),
        Command::Completions(args) => {
            let result = completions::run(&args, Cli::command(), &mut std::io::stdout());
            Ok(ExitCode::from(commands::finish(
                result,
                output::Format::Table,
                &mut std::io::stderr(),
            )))
        }
        Command::Man(args) => {
            let result = man::run(&args, Cli::command());
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
            tell!("maxine: {error:#}");
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

    /// Calls `check` with every command and its path, such as `maxine cluster add`.
    fn each_command(
        command: &clap::Command,
        path: &str,
        check: &mut dyn FnMut(&str, &clap::Command),
    ) {
        let path = format!("{path} {}", command.get_name());
        check(path.trim(), command);
        command
            .get_subcommands()
            .filter(|inner| inner.get_name() != "help" && !inner.is_hide_set())
            .for_each(|inner| each_command(inner, &path, check));
    }

    fn built() -> clap::Command {
        let mut command = Cli::command();
        command.build();
        command
    }

    #[test]
    fn what_a_command_acts_on_is_positional() {
        let nouns =
            ["service", "instance", "id", "member", "file", "from", "to", "alert", "index-file"];
        each_command(&built(), "", &mut |path, command| {
            for name in command.get_arguments().filter_map(clap::Arg::get_long) {
                // The caller of a look-up is an option: the service is what the command acts on.
                let is_caller = path == "maxine explain resolve" && name == "from";
                assert!(is_caller || !nouns.contains(&name), "{path} --{name}");
            }
        });
    }

    #[test]
    fn offline_commands_have_no_connection_options() {
        let mut offline = Vec::new();
        each_command(&built(), "", &mut |path, command| {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let on_files = about.starts_with("Offline:")
                || ["maxine serve", "maxine dev", "maxine completions", "maxine config keys"]
                    .contains(&path);
            if on_files {
                offline.push(path.to_owned());
                for name in ["server", "token-file", "ca-file", "timeout-ms"] {
                    let found = command.get_arguments().any(|arg| arg.get_long() == Some(name));
                    assert!(!found, "{path} --{name}");
                }
            }
        });
        assert!(offline.contains(&"maxine cluster restore".to_owned()), "{offline:?}");
        assert_eq!(offline.len(), 12, "{offline:?}");
    }
}
