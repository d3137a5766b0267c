//! Measures the servers of a comparison one after the other, several times. The server runs on one core, and the load on
//! another.

use std::sync::Arc;
use std::time::Duration;

use super::Bench;
use super::load::{Outcome, Run};
use super::process::{self, Server};
use super::wire::Connection;
use maxine::cli::exit::CliError;

/// Number of keep-alive connections of the load.
pub(super) const CONNECTIONS: usize = 64;
/// Number of turns of each side; the median counts. There are many short turns, because the speed of a
/// shared machine varies.
pub(super) const TURNS: usize = 9;
/// The core of the servers.
pub(super) const SERVER_CORE: usize = 0;
/// The core of the load.
pub(super) const LOAD_CORE: usize = 1;

/// A server that takes turns with others, and the requests to it.
pub(super) struct Target<'a> {
    /// Its name in the table.
    pub name: &'static str,
    pub server: &'a Server,
    /// The address of the server, as `HOST:PORT`.
    pub addr: String,
    /// The requests, which each connection sends one after the other, from a different one on.
    pub requests: Arc<Vec<Vec<u8>>>,
    /// The status of a good answer.
    pub status: u16,
}

/// The result of a turn.
pub(super) struct Turn {
    pub outcome: Outcome,
    /// The server's share of its core, from 0 to 1. Of several servers: the cores that they used.
    pub busy: f64,
    /// Processor time of the server for each request, in microseconds.
    pub cpu_us_each: f64,
}

impl Turn {
    /// The result of a turn that took `time_us` microseconds. The servers used `cpu_us` microseconds of processor time.
    #[allow(
        clippy::cast_precision_loss,
        reason = "microseconds and counts of a run are far below 2^52"
    )]
    pub(super) fn new(outcome: Outcome, cpu_us: u64, time_us: u64) -> Self {
        let busy = cpu_us as f64 / time_us.max(1) as f64;
        let cpu_us_each = cpu_us as f64 / outcome.units.max(1) as f64;
        Self { outcome, busy, cpu_us_each }
    }
}

/// Measures all sides one after the other, several times. Returns the median turn of each side.
pub(super) async fn take_turns(bench: &Bench, sides: &[Target<'_>]) -> Result<Vec<Turn>, CliError> {
    let mut turns: Vec<Vec<Turn>> = sides.iter().map(|_| Vec::new()).collect();
    for _ in 0..TURNS {
        for (side, turns) in sides.iter().zip(&mut turns) {
            turns.push(turn(bench, side).await?);
        }
    }
    Ok(turns.into_iter().map(median).collect())
}

/// The turn whose throughput is the median, with the median of the processor times and the largest share of the core.
/// There must be at least one.
pub(super) fn median(mut turns: Vec<Turn>) -> Turn {
    let busy = turns.iter().map(|turn| turn.busy).fold(0.0, f64::max);
    let cpu_us_each = median_of(turns.iter().map(|turn| turn.cpu_us_each));
    turns.sort_by(|a, b| a.outcome.per_second().total_cmp(&b.outcome.per_second()));
    let middle = turns.len() / 2;
    Turn { busy, cpu_us_each, ..turns.swap_remove(middle) }
}

/// The median of some figures; 0 if there are none.
pub(super) fn median_of(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

/// The length of a turn: a third of `--seconds`.
pub(super) fn turn_length(bench: &Bench) -> Duration {
    Duration::from_millis(bench.seconds * 1_000 / 3)
}

/// One turn of requests from the other core. Fails if a request is not answered with the status of a good answer.
pub(super) async fn turn(bench: &Bench, side: &Target<'_>) -> Result<Turn, CliError> {
    let (run, duration) = (Run::new(&bench.clock), turn_length(bench));
    let (addr, requests, wanted) = (side.addr.clone(), Arc::clone(&side.requests), side.status);
    let (cpu_before, time_before) = (side.server.cpu_us(), bench.clock.monotonic_us());
    let outcome = process::on_own_thread(LOAD_CORE, move || async move {
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
                let (run, requests, addr) = (run.clone(), Arc::clone(&requests), addr.clone());
                async move {
                    let mut connection = Connection::open(&addr).await?;
                    let mut next = client * requests.len() / CONNECTIONS;
                    while run.goes_on() {
                        let since_us = run.now_us();
                        let (status, body) =
                            connection.call(&requests[next % requests.len()]).await?;
                        next += 1;
                        if status == wanted {
                            run.acknowledged(since_us, 1);
                        } else {
                            run.failed(|| {
                                let body = &body[..body.len().min(300)];
                                format!("HTTP {status}: {}", String::from_utf8_lossy(body))
                            });
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
    .map_err(super::failed(format!("the load of {}", side.name)))?;
    let (cpu_us, time_us) =
        (side.server.cpu_us() - cpu_before, bench.clock.monotonic_us() - time_before);
    Ok(Turn::new(outcome.complete(side.name)?, cpu_us, time_us))
}
