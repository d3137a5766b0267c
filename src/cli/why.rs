//! `maxine why`: explains why an instance gets traffic or does not.

use serde::Deserialize;

use super::checks::{self, Check};
use super::client::{ConnectArgs, FreshArgs, Request};
use super::exit::CliError;
use super::instances::InstanceArg;
use super::output::{Output, timestamp};

/// Arguments of `maxine why`.
#[derive(Debug, clap::Args)]
pub struct WhyArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    instance: InstanceArg,
    #[command(flatten)]
    fresh: FreshArgs,
}

impl WhyArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// The part of the answer that is shown to people. JSON output has all of it.
#[derive(Debug, Deserialize)]
struct Health {
    id: String,
    routable: bool,
    why: String,
    verdict: Verdict,
    #[serde(default)]
    checks: Vec<Check>,
    probe_from: Option<String>,
    proxy: Option<ProxyStatus>,
    observations: Vec<Observation>,
    /// `None` if the leader did not answer.
    reports: Option<Vec<Observation>>,
}

#[derive(Debug, Deserialize)]
struct Verdict {
    since_ms: Option<u64>,
    flap_score: u32,
}

#[derive(Debug, Deserialize)]
struct ProxyStatus {
    node: String,
    in_flight: u64,
    breaker: String,
    ejected: bool,
}

#[derive(Debug, Deserialize)]
struct Observation {
    node: String,
    at_ms: u64,
    ok: bool,
    detail: String,
    latency_ms: Option<f64>,
}

/// Runs `maxine why`.
///
/// # Errors
/// See [`CliError`].
pub async fn run(args: WhyArgs, out: &mut Output) -> Result<(), CliError> {
    let path = [&args.instance.path()[..], &["health"]].concat();
    let answer = args.connect.client()?.send(&args.fresh.of(Request::get(&path))).await?;
    if out.is_json() {
        return out.json(&answer.body);
    }
    let health: Health = answer.read()?;
    let state = if health.routable { "gets traffic" } else { "gets no traffic" };
    out.line(format!("{} {state}: {}", health.id, health.why))?;
    if let Some(since_ms) = health.verdict.since_ms {
        let (since, score) = (timestamp(since_ms), health.verdict.flap_score);
        out.line(format!("its health has not changed since {since}; flap score now {score}"))?;
    } else if health.observations.is_empty() && health.reports.as_ref().is_none_or(Vec::is_empty) {
        out.line("no result of a health check is known, and no change of its health is stored")?;
    } else {
        out.line("no change of its health is stored since it was registered")?;
    }
    if let Some(proxy) = &health.proxy {
        out.line(format!(
            "the proxy of {}: {} in flight, circuit breaker {}, {}ejected",
            proxy.node,
            maxine_wording::count(proxy.in_flight, "request"),
            proxy.breaker.replace('_', "-"),
            if proxy.ejected { "" } else { "not " },
        ))?;
    }
    if !health.checks.is_empty() {
        checks::table(health.checks, out)?;
    }
    if health.reports.is_none() {
        out.line(
            "there is no leader, or it did not answer: what other nodes observed is not known",
        )?;
    }
    let seen = health.observations.into_iter().chain(health.reports.unwrap_or_default());
    let rows = seen.map(|seen| {
        vec![
            timestamp(seen.at_ms),
            seen.node,
            if seen.ok { "passed" } else { "failed" }.into(),
            seen.latency_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1}")),
            seen.detail,
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return out.line(match health.probe_from {
            Some(_) => "this node has no probe result for it",
            None => "no node probes it",
        });
    }
    out.table(&["when", "node", "result", "ms", "detail"], rows)
}
