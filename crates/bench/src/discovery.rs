//! Measures the redirects of discovery and of a bare server. Both run on the same core, and the load on another,
//! in turns.

use std::sync::Arc;

use serde_json::json;

use super::report::{Goal, Section, ms};
use super::turns::{CONNECTIONS, SERVER_CORE, TURNS, Target, take_turns, turn_length};
use super::{Bench, bare, node, wire};
use maxine::cli::exit::CliError;

/// The aim, as a share of the bare server's throughput.
const SHARE_AIM: f64 = 0.8;

pub(super) async fn measure(bench: &Bench) -> Result<Section, CliError> {
    let mut rows = Vec::new();
    let mut goals = Vec::new();
    for services in [1_u64, 10_000] {
        let dir = bench.place("discovery")?;
        let cluster = node::Cluster::single(bench, &dir, SERVER_CORE).await?;
        let addr = cluster.addrs().swap_remove(0);
        node::fill(&addr, services * 3, 3).await?;
        let bare_dir = bench.place("bare")?;
        let (bare, bare_addr) = bare::start(&bare_dir, SERVER_CORE).await?;
        let names = services.min(10_000);
        let requests = |prefix: &str, suffix: &str| -> Arc<Vec<Vec<u8>>> {
            let path = |n: u64| format!("{prefix}s{}{suffix}", n * 7_919 % services);
            Arc::new((0..names).map(|n| wire::get(&path(n))).collect())
        };
        let discover = requests("/api/maxine/serviceops/discover?serviceName=", "");
        let native = requests("/api/v1/resolve/default/", "?redirect=1");
        let server = cluster.nodes[0].running()?;
        let side =
            |name, server, addr, requests| Target { name, server, addr, requests, status: 302 };
        let sides = [
            side("bare axum handler", &bare, bare_addr, Arc::clone(&discover)),
            side("discover", server, addr.clone(), discover),
            side("resolve?redirect=1", server, addr, native),
        ];
        let turns = take_turns(bench, &sides).await?;
        let bare_per_second = turns[0].outcome.per_second();
        for (side, turn) in sides.iter().zip(&turns) {
            let (name, run) = (side.name, &turn.outcome);
            let per_second = run.per_second();
            let share = per_second / bare_per_second;
            rows.push(vec![
                json!(services),
                json!(name),
                json!(per_second.round()),
                json!((share * 100.0).round()),
                ms(run.quantile_us(0.5)),
                ms(run.quantile_us(0.99)),
                json!((turn.busy * 100.0).round()),
            ]);
            if name == "discover" {
                goals.push(Goal {
                    text: format!("discovery with {services} services"),
                    aim: format!("at least {:.0} % of the bare handler", SHARE_AIM * 100.0),
                    seen: format!("{:.0} %", share * 100.0),
                    met: share >= SHARE_AIM,
                });
            }
        }
    }
    Ok(Section {
        name: "Discovery redirects",
        method: format!(
            "One node (a Raft cluster of one) with three instances a service, and a bare axum handler with a fixed 302; both on one \
             core, {CONNECTIONS} keep-alive connections from the other core, {TURNS} turns of {:.1} s each, median. The load \
             goes over all services and never sleeps, so that no server pays for waking it. \"Busy\" is the server's share of its core: below 95 the load was the limit.",
            turn_length(bench).as_secs_f64()
        ),
        columns: vec![
            "services",
            "server",
            "per second",
            "% of bare",
            "p50 ms",
            "p99 ms",
            "busy %",
        ],
        rows,
        goals,
    })
}
