//! `maxine config`: lists and checks the settings of a node, and shows and changes the runtime configuration.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use comfy_table::Table;
use maxine_raft::pki::certificate_end_ms;

use super::serve::{Loaded, ServeArgs};
use super::{commands, output, runtime_config};
use crate::config::{example, keys::KEYS, reference};
use maxine_clock::Clock;

const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// A certificate that expires within this number of days causes a warning.
const WARN_DAYS: u64 = 30;

/// What a check of the settings leaves out.
pub(super) const DATA_UNCHECKED: &str = "the data of the node was not checked";

/// Arguments of `maxine config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// List every setting with unit, range, default and environment name
    Keys,
    /// Print the reference page of all settings, in Markdown
    Reference,
    /// Print a settings file in TOML with every setting at its default, commented out
    Example,
    /// Check file, environment and flags as for a start with 'maxine serve', and start nothing
    Check(ServeArgs),
    #[command(flatten)]
    Runtime(runtime_config::RuntimeCommand),
}

/// A note on a certificate that expires at `end_ms`, if it needs one; an error if a node cannot read it. A node starts
/// with an expired certificate, because it can still answer reads.
pub(super) fn certificate_verdict(
    end_ms: std::io::Result<u64>,
    now_ms: u64,
) -> Result<Option<String>, String> {
    let end_ms = end_ms.map_err(|error| error.to_string())?;
    let at = output::timestamp(end_ms);
    if end_ms <= now_ms {
        return Ok(Some(format!(
            "the certificate expired at {at}: a node starts with it, but connections that use it are refused"
        )));
    }
    let days = (end_ms - now_ms) / DAY_MS + 1;
    Ok((days <= WARN_DAYS).then(|| {
        let days = maxine_wording::count(days, "day");
        format!("the certificate expires in less than {days}, at {at}")
    }))
}

/// A note on a list of revoked certificates that is out of date; an error if it cannot be read. Blocks.
pub(super) fn revocation_verdict(path: &Path, now_ms: u64) -> Result<Option<String>, String> {
    let next_ms = maxine_revocation::next_update_ms(path)?.filter(|next_ms| *next_ms <= now_ms);
    Ok(next_ms.map(|next_ms| {
        let at = output::timestamp(next_ms);
        format!("the list of revoked certificates is out of date since {at}: get a newer one")
    }))
}

/// Runs `maxine config`.
pub async fn run(args: ConfigArgs) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    match args.command {
        ConfigCommand::Keys => {
            let mut table = Table::new();
            table.load_style(comfy_table::presets::NOTHING);
            table.set_header(["key", "environment", "unit", "range", "default"]);
            for key in KEYS {
                table.add_row([key.name, key.env, key.unit, key.range, key.default]);
            }
            writeln!(out, "{table}")?;
        }
        ConfigCommand::Reference => write!(out, "{}", reference::markdown())?,
        ConfigCommand::Example => write!(out, "{}", example::toml())?,
        ConfigCommand::Check(serve) => match serve.load() {
            Ok(Loaded { config, unknown }) => {
                let notes = [unknown, crate::app::unread_files(&config)].concat();
                notes.iter().for_each(|text| tell!("maxine: warning: {text}"));
                let (now_ms, mut bad, mut warnings) =
                    (Clock::system().wall_ms(), false, notes.len());
                for path in crate::app::certificates(&config) {
                    match certificate_verdict(certificate_end_ms(&path), now_ms) {
                        Ok(note) => {
                            if let Some(note) = note {
                                tell!("maxine: warning: {}: {note}", path.display());
                                warnings += 1;
                            }
                        }
                        Err(error) => {
                            tell!("maxine: {}: {error}", path.display());
                            bad = true;
                        }
                    }
                }
                for path in crate::app::revocation_lists(&config) {
                    // A list that cannot be read prevents the start, and was reported with the settings.
                    if let Ok(Some(note)) = revocation_verdict(&path, now_ms) {
                        tell!("maxine: warning: {}: {note}", path.display());
                        warnings += 1;
                    }
                }
                if bad {
                    return Ok(ExitCode::from(2));
                }
                let start_problems = crate::app::start_problems(&config);
                if !start_problems.is_empty() {
                    tell!("maxine: the settings are good, but a node cannot start with them now:");
                    start_problems.iter().for_each(|text| tell!("maxine: {text}"));
                    return Ok(ExitCode::FAILURE);
                }
                match warnings {
                    0 => writeln!(out, "the settings are good; {DATA_UNCHECKED}")?,
                    _ => {
                        let warnings = maxine_wording::count(warnings, "warning");
                        writeln!(out, "the settings are good, with {warnings}; {DATA_UNCHECKED}")?;
                    }
                }
            }
            Err(error) => {
                tell!("maxine: {error}");
                return Ok(ExitCode::from(2));
            }
        },
        ConfigCommand::Runtime(command) => {
            let format = command.connect().output.format;
            let mut out = output::Output::stdout(format);
            let result = runtime_config::runtime_config(command, &mut out).await;
            let code = commands::finish(result, format, &mut std::io::stderr());
            return Ok(ExitCode::from(code));
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_cannot_be_used_is_an_error_and_one_that_ends_soon_a_warning() {
        let now_ms = 1_795_440_992_705;
        let verdict = |days: u64| certificate_verdict(Ok(now_ms + days * DAY_MS), now_ms);
        assert_eq!(verdict(31), Ok(None));
        assert_eq!(verdict(30), Ok(None));
        assert!(verdict(29).unwrap().unwrap().contains("expires in less than 30 days"));
        let hours = certificate_verdict(Ok(now_ms + DAY_MS - 1), now_ms).unwrap().unwrap();
        assert!(hours.contains("expires in less than 1 day,"), "{hours}");
        assert!(verdict(0).unwrap().unwrap().contains("expired at"), "a node starts with it");
        let missing = Err(std::io::ErrorKind::NotFound.into());
        assert!(certificate_verdict(missing, now_ms).is_err());
    }
}
