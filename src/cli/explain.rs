//! `maxine explain`: explains a decision.

use serde::Deserialize;

use super::client::{ConnectArgs, FreshArgs, Request};
use super::exit::CliError;
use super::instances::ServiceArg;
use super::output::Output;

/// Arguments of `maxine explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    decision: Decision,
}

#[derive(Debug, clap::Subcommand)]
enum Decision {
    /// Explain which instance of a service a caller gets, and why not the others
    Resolve(ResolveArgs),
}

#[derive(Debug, clap::Args)]
struct ResolveArgs {
    #[command(flatten)]
    service: ServiceArg,
    /// Address of the caller [default: the address that this request comes from]
    #[arg(long, value_name = "IP")]
    from: Option<std::net::IpAddr>,
    /// Header field of the caller's request; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Hash key, for strategies that hash
    #[arg(long)]
    key: Option<String>,
    /// Path, and query, of the caller's request; percent-encoded
    #[arg(long)]
    path: Option<String>,
    /// Explain what the proxy of the node that answers would do, with its circuit breakers and ejected instances
    #[arg(long)]
    proxy: bool,
    #[command(flatten)]
    fresh: FreshArgs,
}

impl ExplainArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, value)| {
        !name.is_empty() && !name.contains(':') && !text.contains(['\r', '\n']) && value.is_ascii()
    });
    let (name, value) = pair.ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The answer.
#[derive(Debug, Deserialize)]
struct Explanation {
    from: String,
    rules: Vec<String>,
    chosen: Option<String>,
    instances: usize,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Deserialize)]
struct Candidate {
    id: String,
    address: String,
    zone: Option<String>,
    version: Option<String>,
    weight: u16,
    outcome: String,
    why: String,
}

/// Runs `maxine explain`.
///
/// # Errors
/// See [`CliError`].
pub async fn run(args: ExplainArgs, out: &mut Output) -> Result<(), CliError> {
    let ExplainArgs { connect, decision: Decision::Resolve(asked) } = args;
    let lines = asked.header.iter().map(|(name, value)| format!("{name}: {value}"));
    let lines = lines.collect::<Vec<_>>().join("\n");
    let path = ["resolve", &asked.service.namespace, &asked.service.service, "explain"];
    let request = Request::get(&path)
        .query("from", asked.from)
        .query("headers", Some(lines).filter(|lines| !lines.is_empty()))
        .query("key", asked.key.as_ref())
        .query("path", asked.path.as_ref())
        .query("by", asked.proxy.then_some("proxy"));
    let answer = connect.client()?.send(&asked.fresh.of(request)).await?;
    if out.is_json() {
        return out.json(&answer.body);
    }
    let Explanation { from, rules, chosen, instances, candidates } = answer.read()?;
    match chosen {
        Some(chosen) => out.line(format!("a caller at {from} gets {chosen}"))?,
        None => out.line(format!("a caller at {from} gets no instance"))?,
    }
    for rule in rules {
        out.line(format!("  {rule}"))?;
    }
    let left = instances - candidates.len().min(instances);
    let rows = candidates.into_iter().map(|candidate| {
        let Candidate { id, address, zone, version, weight, outcome, why } = candidate;
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let outcome = outcome.replace('_', " ");
        vec![id, address, or_none(zone), or_none(version), weight.to_string(), outcome, why]
    });
    let rows = rows.collect();
    out.table(&["instance", "address", "zone", "version", "weight", "outcome", "why"], rows)?;
    if left > 0 {
        out.line(format!("(not shown: {})", maxine_wording::count(left, "more instance")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_name_and_a_value() {
        assert_eq!(header("x-user=a=b"), Ok(("x-user".into(), "a=b".into())));
        assert_eq!(header("x="), Ok(("x".into(), String::new())));
        for bad in ["x", "=y", "x:y=z", "x=a\nb: c"] {
            assert!(header(bad).is_err(), "{bad}");
        }
    }
}
