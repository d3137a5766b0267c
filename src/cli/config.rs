//! `maxine config`: what can be set, and whether what is set is right.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use comfy_table::Table;

use super::serve::ServeArgs;
use super::{commands, output, settings};
use crate::config::{keys::KEYS, reference};

/// Arguments of `maxine config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Lists every setting with unit, range, default and environment name.
    Keys,
    /// Prints the reference page in Markdown.
    Reference,
    /// Checks file, environment and flags as `maxine serve` would, and starts nothing.
    Check(ServeArgs),
    #[command(flatten)]
    Runtime(settings::RuntimeCommand),
}

/// Carries it out.
#[allow(clippy::print_stdout, reason = "the result goes to standard output")]
pub async fn run(args: ConfigArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ConfigCommand::Keys => {
            let mut table = Table::new();
            table.load_style(comfy_table::presets::NOTHING);
            table.set_header(["key", "environment", "unit", "range", "default"]);
            for key in KEYS {
                table.add_row([key.name, key.env, key.unit, key.range, key.default]);
            }
            println!("{table}");
        }
        ConfigCommand::Reference => print!("{}", reference::markdown()),
        ConfigCommand::Check(serve) => match serve.load() {
            Ok(_) => println!("the settings are good"),
            Err(error) => {
                eprintln!("maxine: {error}");
                return Ok(ExitCode::from(2));
            }
        },
        ConfigCommand::Runtime(command) => {
            let format = command.connect().output;
            let mut out = output::Output::stdout(format);
            let result = settings::runtime_config(command, &mut out).await;
            let code = commands::finish(result, format, &mut std::io::stderr());
            return Ok(ExitCode::from(code));
        }
    }
    Ok(ExitCode::SUCCESS)
}
