//! Measures discovery with thousands of watchers: the same load without watchers, with idle watchers, and
//! with watchers that receive changes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::load::Outcome;
use super::process::{Server, wait_until};
use super::report::{Goal, Section, ms};
use super::turns::{CONNECTIONS, SERVER_CORE, TURNS, Target, take_turns, turn_length};
use super::wire::{self, Connection};
use super::{Bench, node};
use maxine::cli::exit::CliError;

/// Number of services, each with three instances.
pub(super) const SERVICES: u64 = 1_000;
/// Number of connections that are opened concurrently.
const OPENING_MAX: usize = 256;
/// The required throughput of discovery with idle watchers, as a share of that without watchers.
const SHARE_AIM: f64 = 0.9;
/// Maximum time until all watchers are open.
pub(super) const TIME_TO_OPEN: Duration = Duration::from_secs(120);

/// Clients that wait for changes. They end when this is dropped.
pub(super) struct Watchers {
    shared: Shared,
    stop: CancellationToken,
}

/// What the clients have in common.
#[derive(Clone)]
pub(super) struct Shared {
    /// A permit for each connection that is being opened.
    pub opening: Arc<Semaphore>,
    opened: Arc<AtomicU64>,
    /// Number of changes that the clients received.
    pub events: Arc<AtomicU64>,
}

impl Watchers {
    /// Opens `count` clients of `GET /watch`, spread over the first `services` services, that read all events.
    pub(super) async fn open(addr: &str, count: u64, services: u64) -> Result<Self, CliError> {
        let watchers = Self::start(count, |n, shared| {
            let request = wire::get(&format!("/api/v1/watch?service=s{}", n % services));
            watch(addr.to_owned(), request, shared)
        });
        let all = || async { watchers.shared.opened.load(Ordering::Relaxed) == count };
        wait_until(
            "not all watchers have received the confirmation of their watch",
            TIME_TO_OPEN,
            all,
        )
        .await?;
        Ok(watchers)
    }

    /// Starts `count` clients, which `client` makes.
    pub(super) fn start<F>(count: u64, client: impl Fn(u64, Shared) -> F) -> Self
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let opening = Arc::new(Semaphore::new(OPENING_MAX));
        let shared = Shared { opening, opened: Arc::default(), events: Arc::default() };
        let watchers = Self { shared, stop: CancellationToken::new() };
        for n in 0..count {
            let watching = client(n, watchers.shared.clone());
            tokio::spawn(watchers.stop.clone().run_until_cancelled_owned(watching));
        }
        watchers
    }

    /// Number of changes that the clients have received together.
    pub(super) fn events(&self) -> u64 {
        self.shared.events.load(Ordering::Relaxed)
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Runs one watcher. It counts itself in `opened` when its watch is active, and its changes in `events`.
async fn watch(addr: String, request: Vec<u8>, shared: Shared) -> std::io::Result<()> {
    let mut permit = shared.opening.acquire_owned().await.ok();
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
            shared.opened.fetch_add(1, Ordering::Relaxed);
            permit = None;
        }
        let changes = text.matches("event: instance_registered").count();
        shared.events.fetch_add(changes as u64, Ordering::Relaxed);
    }
}

/// Changes of an instance of each service in turn.
pub(super) struct Changes {
    /// The numbers of the services.
    pub services: Range<u64>,
    /// Number of changes a second, of all services together.
    pub per_second: u32,
    /// The number of the first address. An instance that has the new address already does not change.
    pub first: u64,
}

/// Changes instances, one after the other, until it is stopped. Returns the number of changes.
pub(super) async fn change(
    addr: String,
    changes: Changes,
    stop: CancellationToken,
) -> std::io::Result<u64> {
    let Changes { services, per_second, first } = changes;
    let mut connection = Connection::open(&addr).await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    let mut done = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(done),
            _ = ticks.tick() => {}
        }
        let service = services.start + done % (services.end - services.start);
        let request = change_request(service, "i0", first + done);
        let (status, _) = connection.call(&request).await?;
        if status != 200 {
            return Err(std::io::Error::other(format!("HTTP {status}")));
        }
        done += 1;
    }
}

/// A request that gives an instance the `n`-th address.
pub(super) fn change_request(service: u64, id: &str, n: u64) -> Vec<u8> {
    let path = format!("/api/v1/services/default/s{service}/instances/{id}");
    wire::with_json("PUT", &path, &node::registration(n))
}

pub(super) async fn measure(bench: &Bench, count: u64) -> Result<Section, CliError> {
    let dir = bench.place("watchers")?;
    let cluster = node::Cluster::single(bench, &dir, SERVER_CORE).await?;
    let addr = cluster.addrs().swap_remove(0);
    node::fill(&addr, SERVICES * 3, 3).await?;
    let server = cluster.nodes[0].running()?;
    let (mut rows, mut goals, mut alone) = (Vec::new(), Vec::new(), 0.0);
    for (watching, per_second) in [(0, 0), (count, 0), (count, 50)] {
        let watchers = Watchers::open(&addr, watching, SERVICES).await?;
        let stop = CancellationToken::new();
        let changes = Changes { services: 0..SERVICES, per_second, first: 1 };
        let changing =
            (per_second > 0).then(|| tokio::spawn(change(addr.clone(), changes, stop.clone())));
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
            json!(watchers.events()),
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
            "One node (a Raft cluster of one) on one core with {SERVICES} services of three instances; redirects over {CONNECTIONS} keep-alive \
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
    let request = |n: u64| wire::get(&format!("/api/maxine/serviceops/discover?serviceName=s{n}"));
    let side = Target {
        name: "redirects",
        server,
        addr: addr.to_owned(),
        requests: Arc::new((0..SERVICES).map(request).collect()),
        status: 302,
    };
    Ok(take_turns(bench, &[side]).await?.swap_remove(0).outcome)
}
