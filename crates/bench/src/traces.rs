//! Measures what the export of traces costs: the same requests to a node that exports nothing, one that exports 1 % of
//! them, and one that exports all. The nodes take turns on one core. The load, the receiver and the instance run on
//! another.

use std::sync::Arc;

use reqwest::Method;
use serde_json::json;

use super::report::{Goal, Section, ms};
use super::turns::{CONNECTIONS, LOAD_CORE, SERVER_CORE, TURNS, Target, take_turns, turn_length};
use super::{Bench, bare, node, wire};
use maxine::cli::client::Request;
use maxine::cli::exit::CliError;

/// The aim: the throughput with 1 %, as a share of that without export.
const SHARE_AIM: f64 = 0.98;
/// The share of requests whose traces are exported, in the order of the nodes: its name, and the setting.
const SHARES: [(&str, Option<&str>); 3] =
    [("off", None), ("1 %", Some("0.01")), ("all", Some("1"))];
/// The service of the forwarded requests.
const FORWARDED: &str = "forwarded";

pub(super) async fn measure(bench: &Bench) -> Result<Section, CliError> {
    let place = bench.place("traces-receiver")?;
    // It is the receiver of the traces, and the instance of the forwarded requests.
    let (_other, other_addr) = bare::start(&place, LOAD_CORE).await?;
    let mut clusters = Vec::new();
    for (at, (_, share)) in SHARES.into_iter().enumerate() {
        let options = match share {
            None => Vec::new(),
            Some(share) => vec![
                format!("--otlp-endpoint=http://{other_addr}"),
                "--otlp-protocol=http".to_owned(),
                format!("--otlp-sample-ratio={share}"),
            ],
        };
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let dir = bench.place(&format!("traces-{at}"))?;
        let cluster = node::Cluster::single_with(bench, &dir, SERVER_CORE, &options).await?;
        node::fill(&cluster.addrs()[0], 3, 3).await?;
        let path = ["services", "default", FORWARDED, "instances", "one"];
        let body = json!({"address": format!("http://{other_addr}"), "ttl_ms": 3_600_000});
        let client = cluster.client(&[0]).await?;
        client.send(&Request::keyed(Method::PUT, &path).json(body)).await?;
        clusters.push(cluster);
    }
    let discover = "/api/maxine/serviceops/discover";
    let mut rows = Vec::new();
    let mut goals = Vec::new();
    for (kind, path) in [
        ("look-ups", format!("{discover}?serviceName=s0")),
        ("forwarded", format!("/api/maxine/serviceops/proxy/{FORWARDED}{discover}")),
    ] {
        let requests = Arc::new(vec![wire::get(&path)]);
        let mut sides = Vec::new();
        for ((name, _), cluster) in SHARES.into_iter().zip(&clusters) {
            let (server, addr) = (cluster.nodes[0].running()?, cluster.addrs().swap_remove(0));
            let requests = Arc::clone(&requests);
            sides.push(Target { name, server, addr, requests, status: 302 });
        }
        let turns = take_turns(bench, &sides).await?;
        let off_per_second = turns[0].outcome.per_second();
        for (side, turn) in sides.iter().zip(&turns) {
            let per_second = turn.outcome.per_second();
            let share = per_second / off_per_second;
            rows.push(vec![
                json!(kind),
                json!(side.name),
                json!(per_second.round()),
                json!((share * 1_000.0).round() / 10.0),
                json!((turn.cpu_us_each * 100.0).round() / 100.0),
                ms(turn.outcome.quantile_us(0.5)),
                ms(turn.outcome.quantile_us(0.99)),
                json!((turn.busy * 100.0).round()),
            ]);
            if side.name == SHARES[1].0 {
                goals.push(Goal {
                    text: format!("{kind} with 1 % of the traces"),
                    aim: format!("at least {:.0} % of those without export", SHARE_AIM * 100.0),
                    seen: format!("{:.1} %", share * 100.0),
                    met: share >= SHARE_AIM,
                });
            }
        }
    }
    Ok(Section {
        name: "Export of traces",
        method: format!(
            "Three nodes (each a Raft cluster of one) on one core: without export, with 1 % of the traces, and with all of them, over \
             HTTP. {CONNECTIONS} keep-alive connections from the other core, where the receiver and the instance of the forwarded \
             requests run too; {TURNS} turns of {:.1} s each, median. A node that is asked for more traces than the receiver takes \
             loses the oldest, and counts them.",
            turn_length(bench).as_secs_f64()
        ),
        columns: vec![
            "requests",
            "exported",
            "per second",
            "% of off",
            "CPU µs each",
            "p50 ms",
            "p99 ms",
            "busy %",
        ],
        rows,
        goals,
    })
}
