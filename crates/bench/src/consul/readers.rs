//! Blocked readers of Consul's API beside watchers of the native API, all of one service: their memory, the work for
//! changes of other services, and the time until all are answered.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::ON_HTTP;
use crate::node::{self, Cluster};
use crate::process::{self, Server, wait_until};
use crate::report::{Goal, Section, ms};
use crate::turns::{LOAD_CORE, SERVER_CORE};
use crate::watchers::{Changes, SERVICES, Shared, TIME_TO_OPEN, Watchers, change, change_request};
use crate::wire::{self, Connection};
use crate::{Bench, failed};
use maxine::cli::client::{Client, Request};
use maxine::cli::exit::CliError;
use maxine_clock::Clock;

/// Number of turns of each API, each on a new node; the median of each figure counts.
const TURNS: usize = 3;
/// Number of changes of other services in a second.
const CHANGES_PER_SECOND: u32 = 100;
/// How long the processor time is measured. Every 10 s each watcher gets a comment, and each blocked reader is checked,
/// so this is a whole number of such periods.
const OBSERVED: Duration = Duration::from_secs(10);
/// Time for the allocator to return memory before the measurement.
const SETTLE: Duration = Duration::from_secs(3);
/// Maximum time until all are answered.
const TIME_TO_ANSWER: Duration = Duration::from_secs(60);
/// Number of files that a process has open besides the connections of the readers.
const OTHER_FILES: u64 = 200;
/// The path of the service that is read.
const PATH: &str = "/v1/health/service/s0";

#[derive(Clone, Copy)]
enum Api {
    Native,
    Consul,
}

/// The figures of a turn.
struct ReaderFigures {
    before_bytes: u64,
    with_bytes: u64,
    /// Memory of one reader.
    each_bytes: u64,
    /// Processor time in [`OBSERVED`] without readers, in microseconds.
    alone_us: u64,
    /// The same with readers.
    with_us: u64,
    /// Number of changes in that time.
    changes: u64,
    answered_us: u64,
}

impl ReaderFigures {
    /// The median of each figure.
    fn median(turns: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> u64| {
            let mut figures: Vec<u64> = turns.iter().map(figure).collect();
            figures.sort_unstable();
            figures.get(figures.len() / 2).copied().unwrap_or(0)
        };
        Self {
            before_bytes: of(|turn| turn.before_bytes),
            with_bytes: of(|turn| turn.with_bytes),
            each_bytes: of(|turn| turn.each_bytes),
            alone_us: of(|turn| turn.alone_us),
            with_us: of(|turn| turn.with_us),
            changes: of(|turn| turn.changes),
            answered_us: of(|turn| turn.answered_us),
        }
    }

    fn row(&self, name: &str) -> Vec<Value> {
        vec![
            json!(name),
            json!(self.before_bytes / 1_048_576),
            json!(self.with_bytes / 1_048_576),
            json!(self.each_bytes),
            ms(self.alone_us / OBSERVED.as_secs()),
            ms(self.with_us / OBSERVED.as_secs()),
            json!(self.changes / OBSERVED.as_secs()),
            ms(self.answered_us),
        ]
    }
}

/// Raises the limit of open files. Fails if it is still too low for `count` readers.
pub(super) fn check_file_limit(count: u64) -> Result<(), CliError> {
    let limit = process::raise_file_limit();
    // A node uses at most three quarters of its limit for connections.
    if limit / 4 * 3 >= count + OTHER_FILES {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "--readers {count}: a process may open only {limit} files here (ulimit -n), of which a node uses three quarters \
         for connections"
    )))
}

pub(super) async fn measure(bench: &Bench, count: u64) -> Result<Section, CliError> {
    let (mut native, mut consul) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        native.push(turn(bench, Api::Native, count).await?);
        consul.push(turn(bench, Api::Consul, count).await?);
    }
    Ok(section(count, &ReaderFigures::median(&native), &ReaderFigures::median(&consul)))
}

fn section(count: u64, native: &ReaderFigures, consul: &ReaderFigures) -> Section {
    let goal = |text: &str, seen: u64, aim: u64, unit: &str| Goal {
        text: format!("{count} blocked readers: {text}"),
        aim: format!("at most that of native watchers, {aim} {unit}"),
        seen: format!("{seen} {unit}"),
        met: seen <= aim,
    };
    let ms_a_second = |figures: &ReaderFigures| figures.with_us / 1_000 / OBSERVED.as_secs();
    Section {
        name: "Consul's API: blocked readers",
        method: format!(
            "A new node (a Raft cluster of one) on one core for each turn, with {SERVICES} services of three instances, and {count} \
             readers of one of them from the other core: GET {PATH}?index=N&wait=5m beside GET /api/v1/watch?service=s0. \
             Memory is VmRSS. Processor time is measured for {} s while instances of the other services are changed one after \
             the other, {CHANGES_PER_SECOND} times a second, first without readers. Then an instance of the service is changed: \
             the time is from sending this change until the last reader has its answer, with all instances of the service, or \
             its event, with the changed one. {TURNS} turns, the median of each figure.",
            OBSERVED.as_secs()
        ),
        columns: vec![
            "readers",
            "before MiB",
            "with MiB",
            "bytes each",
            "cpu ms/s without",
            "cpu ms/s with",
            "changes per second",
            "all answered ms",
        ],
        rows: vec![native.row("native watchers"), consul.row("Consul blocking queries")],
        goals: vec![
            goal("memory of one", consul.each_bytes, native.each_bytes, "bytes"),
            goal(
                "processor time while other services change",
                ms_a_second(consul),
                ms_a_second(native),
                "ms a second",
            ),
        ],
    }
}

/// One turn on a new node, with the load on its own core.
async fn turn(bench: &Bench, api: Api, count: u64) -> Result<ReaderFigures, CliError> {
    let dir = bench.place("consul-readers")?;
    let cluster = Cluster::single_with(bench, &dir, SERVER_CORE, &[ON_HTTP]).await?;
    node::fill(&cluster.nodes[0].addr(), SERVICES * 3, 3).await?;
    let clock = bench.clock.clone();
    process::on_own_thread(
        LOAD_CORE,
        move || async move { on_node(&clock, &cluster, api, count).await },
    )
    .await?
}

async fn on_node(
    clock: &Clock,
    cluster: &Cluster,
    api: Api,
    count: u64,
) -> Result<ReaderFigures, CliError> {
    let (server, addr) = (cluster.nodes[0].running()?, cluster.nodes[0].addr());
    // A sign-in needs memory on the node, so it comes before the measurement.
    let client = cluster.client(&[0]).await?;
    let (alone_us, _) = observe(server, &addr, 1_000_000).await?;
    tokio::time::sleep(SETTLE).await;
    let before_bytes = server.resident_bytes();
    let waiting = match api {
        Api::Native => Watchers::open(&addr, count, 1).await?,
        Api::Consul => block(&addr, count, &client).await?,
    };
    tokio::time::sleep(SETTLE).await;
    let with_bytes = server.resident_bytes();
    let (with_us, changes) = observe(server, &addr, 2_000_000).await?;
    if waiting.events() > 0 {
        return Err(CliError::Failed(format!(
            "{} answers to readers, although their service had not changed",
            waiting.events()
        )));
    }
    let answered_us = answer_all(clock, &addr, &waiting, count).await?;
    let each_bytes = with_bytes.saturating_sub(before_bytes) / count;
    Ok(ReaderFigures {
        before_bytes,
        with_bytes,
        each_bytes,
        alone_us,
        with_us,
        changes,
        answered_us,
    })
}

/// Changes other services for a while, to addresses from number `first` on. Returns the processor time of the node in
/// microseconds, and the number of changes.
async fn observe(server: &Server, addr: &str, first: u64) -> Result<(u64, u64), CliError> {
    let stop = CancellationToken::new();
    let changes = Changes { services: 1..SERVICES, per_second: CHANGES_PER_SECOND, first };
    let changing = tokio::spawn(change(addr.to_owned(), changes, stop.clone()));
    let before_us = server.cpu_us();
    tokio::time::sleep(OBSERVED).await;
    let cpu_us = server.cpu_us() - before_us;
    stop.cancel();
    let changes = changing
        .await
        .map_err(|error| CliError::Failed(error.to_string()))?
        .map_err(failed("changing instances"))?;
    Ok((cpu_us, changes))
}

/// Opens blocking queries of the service, and waits until the node says that all of them wait.
async fn block(addr: &str, count: u64, client: &Client) -> Result<Watchers, CliError> {
    let index = index(addr).await.map_err(failed("the index of the service"))?;
    let request = wire::get(&format!("{PATH}?index={index}&wait=5m"));
    let readers =
        Watchers::start(count, |_, shared| read(addr.to_owned(), request.clone(), shared));
    let all = || async { blocked(client).await == Some(count) };
    wait_until("not all blocking queries wait", TIME_TO_OPEN, all).await?;
    Ok(readers)
}

/// The index of the service for a blocking query.
async fn index(addr: &str) -> io::Result<u64> {
    let mut connection = Connection::open(addr).await?;
    let (status, _) = connection.call(&wire::get(PATH)).await?;
    let index: Option<u64> = connection.header("x-consul-index").and_then(|text| text.parse().ok());
    index
        .filter(|_| status == 200)
        .ok_or_else(|| io::Error::other(format!("HTTP {status}, or no index")))
}

/// Number of blocking queries that wait on the node; `None` if it does not say.
async fn blocked(client: &Client) -> Option<u64> {
    const NAME: &str = "maxine_consul_blocking_queries ";
    let metrics = client.stream(&Request::metrics()).await.ok()?.text().await.ok()?;
    metrics.lines().find_map(|line| line.strip_prefix(NAME)?.trim().parse().ok())
}

/// Sends one blocking query, and counts its answer.
async fn read(addr: String, request: Vec<u8>, shared: Shared) -> io::Result<()> {
    let permit = shared.opening.acquire_owned().await.ok();
    let mut connection = Connection::open(&addr).await?;
    drop(permit);
    let (status, _) = connection.call(&request).await?;
    if status == 200 {
        shared.events.fetch_add(1, Ordering::Relaxed);
    }
    // The connection stays open until all readers are answered, because closing it is work for the node too.
    std::future::pending().await
}

/// Changes the service. Returns the time until all who wait have received it, in microseconds.
async fn answer_all(
    clock: &Clock,
    addr: &str,
    waiting: &Watchers,
    count: u64,
) -> Result<u64, CliError> {
    let doing = "changing the service";
    let mut connection = Connection::open(addr).await.map_err(failed(doing))?;
    let request = change_request(0, "i0", 9_999_999);
    let since_us = clock.monotonic_us();
    let (status, _) = connection.call(&request).await.map_err(failed(doing))?;
    if status != 200 {
        return Err(CliError::Failed(format!("{doing}: HTTP {status}")));
    }
    let all = async {
        // It never sleeps, so that the time is exact.
        while waiting.events() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIME_TO_ANSWER, all).await.map_err(|_| {
        let (answered, time_s) = (waiting.events(), TIME_TO_ANSWER.as_secs());
        CliError::Failed(format!("{answered} of {count} readers were answered in {time_s} s"))
    })?;
    Ok(clock.monotonic_us() - since_us)
}
