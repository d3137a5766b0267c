//! Maxine's own log: to standard error, filtered as the settings say.

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// Starts it; once in a process.
pub(super) fn start(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).context("telemetry.log_filter is not a filter")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init()
        .map_err(|error| anyhow::anyhow!("the log cannot be started: {error}"))
}
