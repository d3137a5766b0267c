//! `maxine man`: the manual pages, made from the commands as the program has them. Packages contain them.

use std::path::PathBuf;

use super::exit::CliError;

/// Arguments of `maxine man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Directory to write the pages to, one for each command
    dir: PathBuf,
}

/// Writes one page for `command` and one for each of its commands.
///
/// # Errors
/// [`CliError::Failed`] when a page cannot be written.
pub fn run(args: &ManArgs, command: clap::Command) -> Result<(), CliError> {
    let describe = |error: std::io::Error| {
        CliError::Failed(format!("{}: {}", args.dir.display(), maxine_wording::io(&error)))
    };
    std::fs::create_dir_all(&args.dir).map_err(describe)?;
    clap_mangen::generate_to(command, &args.dir).map_err(describe)
}
