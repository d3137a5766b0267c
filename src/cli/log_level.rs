//! `maxine log-level`: the levels of the nodes' own logs, while they run.
//!
//! Each node has its own log, so all nodes are asked.

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::client::{ConnectArgs, Request};
use super::each_node::{Node, Silent};
use super::each_node::{answered, ask_all, nodes, on_each, show_silent, show_unchanged};
use super::exit::CliError;
use super::output::{Output, timestamp};
use maxine_telemetry::{LOG_LEVEL_MS_MAX, LogLevel};

/// Arguments of `maxine log-level`.
#[derive(Debug, clap::Args)]
pub struct LogLevelArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    action: Option<LogLevelAction>,
}

#[derive(Debug, clap::Subcommand)]
enum LogLevelAction {
    /// List the filter of each node and the levels that are set (the default)
    List,
    /// Set the level of a module on every node, for a time
    Set {
        /// Module, such as maxine_raft or maxine_gateway::pool; what is below it has the same level
        module: String,
        /// Level: off, error, warn, info, debug or trace
        #[arg(value_parser = level)]
        level: LogLevel,
        /// Time after which the settings apply again: a number with s, m or h, at most 24h
        #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = duration_ms)]
        duration_ms: u64,
    },
    /// Let the settings of a module apply again
    Reset {
        /// Module
        module: String,
    },
}

impl LogLevelArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

fn level(text: &str) -> Result<LogLevel, String> {
    let names = || LogLevel::ALL.map(LogLevel::as_str).join(", ");
    LogLevel::named(text).ok_or_else(|| format!("must be one of {}", names()))
}

fn duration_ms(text: &str) -> Result<u64, String> {
    let parsed = text.char_indices().next_back().and_then(|(at, unit)| {
        let unit_ms = match unit {
            's' => 1_000,
            'm' => 60_000,
            'h' => 3_600_000,
            _ => return None,
        };
        text[..at].parse::<u64>().ok()?.checked_mul(unit_ms)
    });
    parsed
        .filter(|ms| (1..=LOG_LEVEL_MS_MAX).contains(ms))
        .ok_or_else(|| "must be a number with s, m or h, such as 10m, at most 24h".to_owned())
}

/// The levels of one node.
#[derive(Debug, Deserialize)]
struct Levels {
    filter: String,
    items: Vec<Item>,
}

#[derive(Debug, Deserialize)]
struct Item {
    module: String,
    level: LogLevel,
    until_ms: u64,
    by: String,
}

/// Runs `maxine log-level`.
///
/// # Errors
/// See [`CliError`].
pub async fn run(args: LogLevelArgs, out: &mut Output) -> Result<(), CliError> {
    let nodes = nodes(&args.connect, 1).await?;
    match args.action.unwrap_or(LogLevelAction::List) {
        LogLevelAction::List => list(&nodes, out).await,
        LogLevelAction::Set { module, level, duration_ms } => {
            let body = json!({"level": level, "duration_ms": duration_ms});
            let request = Request::keyed(Method::PUT, &["log-levels", &module]).json(body);
            let (answer, silent) = on_each(&nodes, &request).await?;
            let end = answer["until_ms"].as_u64().map(timestamp);
            let end = end.map_or_else(|| "the end is not known".into(), |at| format!("until {at}"));
            out.done(&answer, format!("{module} logs at level {} ({end})", level.as_str()))?;
            show_unchanged(nodes.len(), &silent, out)
        }
        LogLevelAction::Reset { module } => {
            let request = Request::keyed(Method::DELETE, &["log-levels", &module]);
            let (_, silent) = on_each(&nodes, &request).await?;
            out.done(
                &json!({"module": module}),
                format!("{module} logs at the level in the settings of each node again"),
            )?;
            show_unchanged(nodes.len(), &silent, out)
        }
    }
}

async fn list(nodes: &[Node], out: &mut Output) -> Result<(), CliError> {
    let mut gathered: Option<Vec<(&Node, Levels)>> = None;
    let mut silent = Vec::new();
    for (node, answer) in ask_all(nodes, &Request::get(&["log-levels"])).await {
        match answer {
            Ok(answer) => {
                if out.is_json() {
                    out.json(&json!({"server": node.url, "levels": answer.body}))?;
                }
                gathered.get_or_insert_default().push((node, answer.read()?));
            }
            Err(error) => silent.push(Silent { url: node.url.clone(), error }),
        }
    }
    let (gathered, silent) = answered(gathered, silent)?;
    if !out.is_json() {
        let mut rows = Vec::new();
        for (node, Levels { filter, items }) in gathered {
            let settings = "(settings)".to_owned();
            rows.push(vec![node.url.clone(), settings, filter, "-".into(), "-".into()]);
            rows.extend(items.into_iter().map(|item| {
                let level = item.level.as_str().to_owned();
                vec![node.url.clone(), item.module, level, timestamp(item.until_ms), item.by]
            }));
        }
        out.table(&["node", "module", "level", "until", "by"], rows)?;
    }
    show_silent(&silent, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_a_limit() {
        assert_eq!(duration_ms("90s"), Ok(90_000));
        assert_eq!(duration_ms("10m"), Ok(600_000));
        assert_eq!(duration_ms("24h"), Ok(LOG_LEVEL_MS_MAX));
        for bad in ["", "m", "10", "0m", "25h", "1d", "-1m", "99999999999999999999h", "1 m", "1é"]
        {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
    }
}
