//! Measures discovery with thousands of watchers: the same load without watchers, with idle watchers, and
//! with watchers that receive changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::discovery::{SERVER_CORE, TURNS, turn, turn_length};
use super::load::{Outcome, median};
use super::process::{Server, wait_until};
use super::report::{Goal, Section, ms};
use super::wire::{self, Connection};
use super::{Bench, node};
use maxine::cli::exit::CliError;

/// Number of services, each with three instances.
const SERVICES: u64 = 1_000;
/// Number of connections that are opened concurrently.
const OPENING_MAX: usize = 256;
/// The required throughput of discovery with idle watchers, as a share of that without watchers.
const SHARE_AIM: f64 = 0.9;
/// Maximum time until all watchers are open.
const TIME_TO_OPEN: Duration = Duration::from_secs(120);

/// Clients of `GET /watch`, spread over the services, that read all events.
struct Watchers {
    opened: Arc<AtomicU64>,
    events: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Watchers {
    async fn open(addr: &str, count: u64) -> Result<Self, CliError> {
        let (opened, events) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let watchers = Self { opened, events, stop: CancellationToken::new() };
        let opening = Arc::new(Semaphore::new(OPENING_MAX));
        for n in 0..count {
            let request = wire::get(&format!("/api/v1/watch?service=s{}", n % SERVICES));
            let (opened, events) = (Arc::clone(&watchers.opened), Arc::clone(&watchers.events));
            let watching = watch(addr.to_owned(), request, Arc::clone(&opening), opened, events);
            tokio::spawn(watchers.stop.clone().run_until_cancelled_owned(watching));
        }
        let all = || async { watchers.opened.load(Ordering::Relaxed) == count };
        wait_until(
            "not all watchers have received the confirmation of their watch",
            TIME_TO_OPEN,
            all,
        )
        .await?;
        Ok(watchers)
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Runs one watcher. It counts itself in `opened` when its watch is active, and its changes in `events`.
async fn watch(
    addr: String,
    request: Vec<u8>,
    opening: Arc<Semaphore>,
    opened: Arc<AtomicU64>,
    events: Arc<AtomicU64>,
) -> std::io::Result<()> {
    let mut permit = opening.acquire_owned().await.ok();
    let mut stream = TcpStream::connect(&addr).await?;
    stream.write_all(&request).await?;
    let mut buffer = [0; 1_024];
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&buffer[..len]);
        if permit.is_some() && text.contains("event: ready") {
            opened.fetch_add(1, Ordering::Relaxed);
            permit = None;
        }
        let changes = text.matches("event: instance_registered").count();
        events.fetch_add(changes as u64, Ordering::Relaxed);
    }
}

/// Changes `per_second` instances a second, one after the other, until it is stopped.
async fn change(addr: String, per_second: u32, stop: CancellationToken) -> std::io::Result<()> {
    let mut connection = Connection::open(&addr).await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    for n in 0.. {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let path = format!("/api/v1/services/default/s{}/instances/i0", n % SERVICES);
        let (status, _) =
            connection.call(&wire::with_json("PUT", &path, &node::registration(n + 1))).await?;
        if status != 200 {
            return Err(std::io::Error::other(format!("HTTP {status}")));
        }
    }
    Ok(())
}

pub(super) async fn measure(bench: &Bench, count: u64) -> Result<Section, CliError> {
    let dir = bench.place("watchers")?;
    let cluster = node::Cluster::single(bench, &dir, SERVER_CORE).await?;
    let addr = cluster.addrs().swap_remove(0);
    node::fill(&addr, SERVICES * 3, 3).await?;
    let server = cluster.nodes[0]
        .server
        .as_ref()
        .ok_or_else(|| CliError::Failed("the node is not running".into()))?;
    let (mut rows, mut goals, mut alone) = (Vec::new(), Vec::new(), 0.0);
    for (watching, per_second) in [(0, 0), (count, 0), (count, 50)] {
        let watchers = Watchers::open(&addr, watching).await?;
        let stop = CancellationToken::new();
        let changing =
            (per_second > 0).then(|| tokio::spawn(change(addr.clone(), per_second, stop.clone())));
        let outcome = turns(bench, server, &addr).await?;
        stop.cancel();
        if let Some(changing) = changing {
            changing
                .await
                .map_err(|error| CliError::Failed(error.to_string()))?
                .map_err(super::failed("changing instances"))?;
        }
        if alone == 0.0 {
            alone = outcome.per_second();
        }
        let share = outcome.per_second() / alone;
        rows.push(vec![
            json!(watching),
            json!(per_second),
            json!(watchers.events.load(Ordering::Relaxed)),
            json!(outcome.per_second().round()),
            json!((share * 100.0).round()),
            ms(outcome.quantile_us(0.5)),
            ms(outcome.quantile_us(0.99)),
            json!(server.resident_bytes() / 1_048_576),
        ]);
        if watching > 0 && per_second == 0 {
            goals.push(Goal {
                text: format!("discovery with {watching} watchers"),
                aim: format!("at least {:.0} % of discovery without", SHARE_AIM * 100.0),
                seen: format!("{:.0} %", share * 100.0),
                met: share >= SHARE_AIM,
            });
        }
    }
    Ok(Section {
        name: "Discovery with watchers",
        method: format!(
            "One node (a Raft cluster of one) on one core with {SERVICES} services of three instances; redirects over 64 keep-alive \
             connections from the other core, {TURNS} turns of {:.1} s each, median. The watchers are connections of GET /watch, \
             spread over the services; with changes, each of them is sent to the watchers of its service.",
            turn_length(bench).as_secs_f64()
        ),
        columns: vec![
            "watchers",
            "changes per second",
            "events sent",
            "redirects per second",
            "% of none",
            "p50 ms",
            "p99 ms",
            "resident MiB",
        ],
        rows,
        goals,
    })
}

/// The median of several turns of redirects over all services.
async fn turns(bench: &Bench, server: &Server, addr: &str) -> Result<Outcome, CliError> {
    let requests: Vec<Vec<u8>> = (0..SERVICES)
        .map(|n| wire::get(&format!("/api/maxine/serviceops/discover?serviceName=s{n}")))
        .collect();
    let mut outcomes = Vec::new();
    for _ in 0..TURNS {
        let (outcome, _) = turn(bench, server, addr, requests.clone()).await?;
        if outcome.failed > 0 {
            let why = outcome.first_failure.unwrap_or_default();
            return Err(CliError::Failed(format!("{} redirects failed: {why}", outcome.failed)));
        }
        outcomes.push(outcome);
    }
    median(outcomes).ok_or_else(|| CliError::Failed("nothing was measured".into()))
}
