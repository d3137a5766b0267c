//! `maxine completions`: the completion script for a shell.

use std::io::Write;

use super::exit::CliError;

/// Arguments of `maxine completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell that the script is for
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Writes the script for `command` to `sink`.
///
/// # Errors
/// [`CliError::OutputClosed`] when the reader went away.
pub fn run(
    args: &CompletionsArgs,
    mut command: clap::Command,
    sink: &mut dyn Write,
) -> Result<(), CliError> {
    // The generator panics when a write fails, so it writes to a buffer, which cannot fail.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "maxine", &mut script);
    sink.write_all(&script)?;
    Ok(sink.flush()?)
}
