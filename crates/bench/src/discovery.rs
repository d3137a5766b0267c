//! Measures the redirects of discovery and of a bare server. Both run on the same core, and the load on another,
//! in turns.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::load::{Outcome, Run, median};
use super::process::{self, Server, wait_until};
use super::report::{Goal, Section, ms};
use super::wire::{self, Connection};
use super::{Bench, node, own_program};
use maxine::cli::exit::CliError;

/// Number of keep-alive connections of the load.
pub(super) const CONNECTIONS: usize = 64;
/// Number of turns of each server; the median counts. There are many short turns, because the speed of a
/// shared machine varies.
pub(super) const TURNS: usize = 9;
/// The core of the servers.
pub(super) const SERVER_CORE: usize = 0;
/// The core of the load.
const LOAD_CORE: usize = 1;
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
        let (bare, bare_addr) = start_bare(&bare_dir).await?;
        let names = services.min(10_000);
        let paths = |prefix: &str, suffix: &str| -> Vec<Vec<u8>> {
            (0..names)
                .map(|n| wire::get(&format!("{prefix}s{}{suffix}", n * 7_919 % services)))
                .collect()
        };
        let discover = paths("/api/maxine/serviceops/discover?serviceName=", "");
        let native = paths("/api/v1/resolve/default/", "?redirect=1");
        let server = cluster.nodes[0]
            .server
            .as_ref()
            .ok_or_else(|| CliError::Failed("the node is not running".into()))?;
        let mut sides = [
            ("bare axum handler", &bare, bare_addr, discover.clone(), Vec::new()),
            ("discover", server, addr.clone(), discover, Vec::new()),
            ("resolve?redirect=1", server, addr, native, Vec::new()),
        ];
        for _ in 0..TURNS {
            for (_, server, addr, requests, turns) in &mut sides {
                turns.push(turn(bench, server, addr, requests.clone()).await?);
            }
        }
        let mut bare_per_second = 0.0;
        for (name, _, _, _, turns) in sides {
            let busy = turns.iter().map(|(_, busy)| *busy).fold(0.0, f64::max);
            let failed: u64 = turns.iter().map(|(outcome, _)| outcome.failed).sum();
            let runs: Vec<Outcome> = turns.into_iter().map(|(outcome, _)| outcome).collect();
            let why = runs.iter().find_map(|run| run.first_failure.clone());
            let Some(run) = median(runs) else { continue };
            if failed > 0 {
                return Err(CliError::Failed(format!(
                    "{name}: {failed} requests failed: {}",
                    why.unwrap_or_default()
                )));
            }
            let per_second = run.per_second();
            if bare_per_second == 0.0 {
                bare_per_second = per_second;
            }
            let share = per_second / bare_per_second;
            rows.push(vec![
                json!(services),
                json!(name),
                json!(per_second.round()),
                json!((share * 100.0).round()),
                ms(run.quantile_us(0.5)),
                ms(run.quantile_us(0.99)),
                json!((busy * 100.0).round()),
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

async fn start_bare(dir: &std::path::Path) -> Result<(Server, String), CliError> {
    let port = super::free_port()?;
    let mut command = Command::new(own_program()?);
    command.args(["bare", "--port", &port.to_string()]);
    let server = Server::start(command, dir, Some(SERVER_CORE))?;
    let addr = format!("127.0.0.1:{port}");
    wait_until("the bare server does not start", Duration::from_secs(10), || async {
        Connection::open(&addr).await.is_ok()
    })
    .await?;
    Ok((server, addr))
}

/// The length of a turn: a third of `--seconds`.
pub(super) fn turn_length(bench: &Bench) -> Duration {
    Duration::from_millis(bench.seconds * 1_000 / 3)
}

/// One turn of redirects from the other core. Returns the outcome, and the server's share of its
/// core, from 0 to 1.
pub(super) async fn turn(
    bench: &Bench,
    server: &Server,
    addr: &str,
    requests: Vec<Vec<u8>>,
) -> Result<(Outcome, f64), CliError> {
    let (run, duration) = (Run::new(&bench.clock), turn_length(bench));
    let addr = addr.to_owned();
    let (cpu_before, time_before) = (server.cpu_us(), bench.clock.monotonic_us());
    let outcome = process::on_own_thread(LOAD_CORE, move || async move {
        let requests = std::sync::Arc::new(requests);
        // If the load slept, the server would have to wake it for every answer, and a slower server more
        // often. So this load never sleeps.
        let awake = tokio::spawn({
            let run = run.clone();
            async move {
                while run.goes_on() {
                    tokio::task::yield_now().await;
                }
            }
        });
        let clients = (0..CONNECTIONS)
            .map(|client| {
                let (run, requests, addr) = (run.clone(), requests.clone(), addr.clone());
                async move {
                    let mut connection = Connection::open(&addr).await?;
                    let mut next = client * requests.len() / CONNECTIONS;
                    while run.goes_on() {
                        let since_us = run.now_us();
                        let (status, _) = connection.call(&requests[next % requests.len()]).await?;
                        next += 1;
                        if status == 302 {
                            run.acknowledged(since_us, 1);
                        } else {
                            run.failed(|| format!("HTTP {status}"));
                        }
                    }
                    Ok(())
                }
            })
            .collect();
        let outcome = run.drive(clients, duration).await;
        awake.abort();
        outcome
    })
    .await?
    .map_err(super::failed("the load on discovery"))?;
    let (cpu_us, time_us) =
        (server.cpu_us() - cpu_before, bench.clock.monotonic_us() - time_before);
    #[allow(clippy::cast_precision_loss, reason = "microseconds of a run are far below 2^52")]
    let busy = cpu_us as f64 / time_us.max(1) as f64;
    Ok((outcome, busy))
}
