//! Measures the time from an acknowledged write on one node until a watcher on another node receives the
//! change.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::load::histogram;
use super::report::{Goal, Section, ms};
use super::wire::{self, Connection};
use super::{Bench, node};
use maxine::cli::client::{Client, EventParser, Request};
use maxine::cli::exit::CliError;
use maxine_clock::Clock;

/// Pause between two writes, in milliseconds.
const PAUSE_MS: u64 = 2;
/// Maximum wait for one change, in milliseconds.
const SIGHT_MS_MAX: u64 = 5_000;
/// Maximum number of received changes that wait for processing.
const SIGHTS_MAX: usize = 1_024;

pub(super) async fn measure(bench: &Bench) -> Result<Section, CliError> {
    let cluster = node::Cluster::three(bench, &bench.place("propagation")?).await?;
    let leader = cluster.leader().await?;
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut rows = Vec::new();
    let mut worst = 0;
    let cases = [
        ("leader", "follower", leader, follower),
        ("follower", "leader", follower, leader),
        ("follower", "other follower", follower, other),
    ];
    for (from, to, writer, watcher) in cases {
        let (after_ack, after_start) = follow(bench, &cluster, writer, watcher).await?;
        worst = worst.max(after_ack.value_at_quantile(0.99));
        rows.push(vec![
            json!(from),
            json!(to),
            json!(after_ack.len()),
            ms(after_ack.value_at_quantile(0.5)),
            ms(after_ack.value_at_quantile(0.99)),
            ms(after_ack.max()),
            ms(after_start.value_at_quantile(0.5)),
            ms(after_start.value_at_quantile(0.99)),
        ]);
    }
    Ok(Section {
        name: "Acknowledged write to sight on another node",
        method: format!(
            "Three nodes; one write after the other for {} s a case, watched through GET /watch on another node. \"After the \
             answer\" is 0.00 where the watcher saw the change before the writer had its answer.",
            bench.seconds
        ),
        columns: vec![
            "written on",
            "watched on",
            "writes",
            "p50 ms after the answer",
            "p99 ms after the answer",
            "max ms after the answer",
            "p50 ms after the start",
            "p99 ms after the start",
        ],
        rows,
        goals: vec![Goal {
            text: "p99 from the answer to the sight".into(),
            aim: "below 100 ms".into(),
            seen: format!("{} ms", worst / 1_000),
            met: worst < 100_000,
        }],
    })
}

pub(super) type Latencies = hdrhistogram::Histogram<u64>;

pub(super) async fn follow(
    bench: &Bench,
    cluster: &node::Cluster,
    writer: usize,
    watcher: usize,
) -> Result<(Latencies, Latencies), CliError> {
    let (sender, mut sights) = mpsc::channel(SIGHTS_MAX);
    let client = cluster.client(&[watcher]).await?;
    let service = format!("watched-{writer}-{watcher}");
    let watch = tokio::spawn(watch(client, service.clone(), bench.clock.clone(), sender));
    let failure = |error: io::Error| CliError::Failed(format!("propagation: {error}"));
    // The first event of the stream shows that the watch is active.
    next_sight(&mut sights).await.map_err(failure)?;
    let mut connection = Connection::open(&cluster.nodes[writer].addr()).await.map_err(failure)?;
    let (mut after_ack, mut after_start) = (histogram(), histogram());
    let end_ms = bench.clock.monotonic_ms() + bench.seconds * 1_000;
    let mut n = 0;
    while bench.clock.monotonic_ms() < end_ms {
        let path = format!("/api/v1/services/default/{service}/instances/i{n}");
        let request = wire::with_json("PUT", &path, &node::registration(n));
        let start_us = bench.clock.monotonic_us();
        let (status, body) = connection.call(&request).await.map_err(failure)?;
        let ack_us = bench.clock.monotonic_us();
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let Some(index) = answer["index"].as_u64().filter(|_| status == 200) else {
            return Err(CliError::Failed(format!(
                "propagation: a write was answered with HTTP {status}: {answer}"
            )));
        };
        let seen_us = loop {
            let (seen, at_us) = next_sight(&mut sights).await.map_err(failure)?;
            if seen >= index {
                break at_us;
            }
        };
        after_ack.saturating_record(seen_us.saturating_sub(ack_us));
        after_start.saturating_record(seen_us.saturating_sub(start_us));
        n += 1;
        tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
    }
    watch.abort();
    Ok((after_ack, after_start))
}

async fn next_sight(sights: &mut mpsc::Receiver<(u64, u64)>) -> io::Result<(u64, u64)> {
    match tokio::time::timeout(Duration::from_millis(SIGHT_MS_MAX), sights.recv()).await {
        Ok(Some(sight)) => Ok(sight),
        Ok(None) => Err(io::Error::other("the watch ended")),
        Err(_) => Err(io::Error::other(format!("a change was not seen in {SIGHT_MS_MAX} ms"))),
    }
}

/// Sends the index and time of each received change.
async fn watch(
    client: Client,
    service: String,
    clock: Clock,
    sights: mpsc::Sender<(u64, u64)>,
) -> Option<()> {
    let request = Request::get(&["watch"])
        .query("namespace", Some("default"))
        .query("service", Some(&service));
    let mut response = client.stream(&request).await.ok()?;
    let mut parser = EventParser::default();
    while let Some(bytes) = response.chunk().await.ok()? {
        let at_us = clock.monotonic_us();
        parser.push(&bytes).ok()?;
        while let Some(event) = parser.next_event() {
            let from_data = || serde_json::from_str::<Value>(&event.data).ok()?["index"].as_u64();
            let index = event.id.as_ref().and_then(|id| id.parse().ok()).or_else(from_data)?;
            sights.send((index, at_us)).await.ok()?;
        }
    }
    None
}
