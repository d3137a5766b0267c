//! The table of the throughput of all proxies.

use serde_json::json;

use super::traffic::BODY_LEN;
use super::{CONNECTIONS, Side, TURNS};
use crate::Bench;
use crate::load::Outcome;
use crate::report::{Goal, Section, ms};
use maxine::cli::exit::CliError;

/// The table of requests per second, with the ratio of Maxine to the others.
pub(super) fn throughput(
    bench: &Bench,
    sides: &[Side],
    runs: &[(Outcome, f64)],
) -> Result<Section, CliError> {
    let per_second = |wanted: &str| {
        let found = sides.iter().zip(runs).find(|(side, _)| side.name.starts_with(wanted));
        found.map(|(_, (outcome, _))| outcome.per_second())
    };
    let own =
        per_second("Maxine").ok_or_else(|| CliError::Failed("no figure for Maxine".into()))?;
    let mut goals = Vec::new();
    for rival in ["nginx", "HAProxy"] {
        let Some(other) = per_second(rival) else { continue };
        goals.push(Goal {
            text: format!("requests per second beside {rival}"),
            aim: "ahead of it".into(),
            seen: format!("{:.2} times as many", own / other),
            met: own > other,
        });
    }
    if let Some(full) = per_second("Maxine, every policy") {
        goals.push(Goal {
            text: "every policy set but mirror".into(),
            aim: "at least 85 % of what is forwarded with none".into(),
            seen: format!("{:.0} %", full / own * 100.0),
            met: full >= 0.85 * own,
        });
    }
    let row = |(side, (run, busy)): (&Side, &(Outcome, f64))| {
        vec![
            json!(side.name),
            json!(run.per_second().round()),
            json!((run.per_second() / own * 100.0).round()),
            ms(run.quantile_us(0.5)),
            ms(run.quantile_us(0.99)),
            ms(run.quantile_us(0.999)),
            json!((busy * 100.0).round()),
            json!(busy * 1_000_000.0 / run.per_second().max(1.0)),
        ]
    };
    Ok(Section {
        name: "Reverse proxy: throughput",
        method: format!(
            "Every proxy on the same one core with one thread for requests, load and instance together on the other core, which never sleeps, so that no proxy pays for waking it; \
             {CONNECTIONS} keep-alive connections with one request under way on each, an answer of {} bytes, kept \
             connections to the instance, no access log at HAProxy and nginx; {TURNS} turns of {} s each, median. \"Busy\" \
             is the proxy's share of its core. The bare proxy is the same HTTP library with nothing around it.",
            BODY_LEN, bench.seconds
        ),
        columns: vec![
            "proxy",
            "per second",
            "% of Maxine",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "busy %",
            "cpu us each",
        ],
        rows: sides.iter().zip(runs).map(row).collect(),
        goals,
    })
}
