//! Where the time of one client's write goes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::load::{self, Outcome, Run};
use super::report::{Goal, Section, ms};
use super::wire::{self, Connection};
use super::{Bench, node};
use maxine::cli::exit::CliError;
use maxine_clock::Clock;

/// How many syncs are measured.
const SYNCS: u64 = 1_000;
/// Bytes written before each sync: about as many as the log gets for a registration.
const SYNC_LEN: usize = 512;
/// The median write may take this many times as long as the median sync.
const SYNCS_PER_WRITE: f64 = 2.2;

/// Measures the parts of a registration on a cluster. `registration` makes the request that registers some instances,
/// from a number on. `numbers` gives each registration another number.
pub(super) async fn measure(
    bench: &Bench,
    cluster: &node::Cluster,
    dir: &Path,
    registration: fn(first: u64, count: u64) -> Vec<u8>,
    numbers: &Arc<AtomicU64>,
) -> Result<Section, CliError> {
    let leader = cluster.leader().await?;
    let follower = (leader + 1) % cluster.nodes.len();
    let addrs = cluster.addrs();
    let sync = syncs(bench, dir, 1).await?;
    let three = syncs(bench, dir, 3).await?;
    let write = |_: u64| registration(numbers.fetch_add(1, Ordering::Relaxed), 1);
    let of_leader = ask(bench, &addrs[leader], write).await?;
    let of_follower = ask(bench, &addrs[follower], write).await?;
    let read = |_: u64| wire::get("/api/v1/services/default/s0/instances/i0");
    let without_log = ask(bench, &addrs[leader], read).await?;
    let parts = [
        ("a read of one instance from the leader: everything but the log", &without_log),
        ("one sync (fdatasync) of 512 bytes, nothing else on the disk", &sync),
        ("the same, with two more at the same time: the disk of three nodes", &three),
        ("a registration at the leader", &of_leader),
        ("a registration at a follower", &of_follower),
    ];
    let rows = parts.iter().map(|(what, outcome)| {
        vec![json!(what), ms(outcome.quantile_us(0.5)), ms(outcome.quantile_us(0.99))]
    });
    let times = |outcome: &Outcome, base: &Outcome| {
        #[allow(clippy::cast_precision_loss, reason = "latencies are far below 2^52")]
        let times = outcome.quantile_us(0.5) as f64 / base.quantile_us(0.5).max(1) as f64;
        times
    };
    let seen = times(&of_leader, &sync);
    Ok(Section {
        name: "One client's write",
        method: format!(
            "The same cluster, one client, {} s each; {SYNCS} syncs. The three nodes share the disk: each entry is \
             synced three times, and acknowledged after two of the syncs.",
            bench.seconds
        ),
        columns: vec!["part", "p50 ms", "p99 ms"],
        rows: rows.collect::<Vec<Vec<Value>>>(),
        goals: vec![Goal {
            text: "a registration at the leader, in medians of one sync".into(),
            aim: format!("{SYNCS_PER_WRITE}"),
            seen: format!("{seen:.2} ({:.2} of one sync among three)", times(&of_leader, &three)),
            met: seen <= SYNCS_PER_WRITE,
        }],
    })
}

/// One client that sends requests to a node.
async fn ask(
    bench: &Bench,
    addr: &str,
    request: impl Fn(u64) -> Vec<u8> + Send,
) -> Result<Outcome, CliError> {
    let run = Run::new(&bench.clock);
    let asking = async {
        let mut connection = Connection::open(addr).await?;
        let mut latencies_us = load::histogram();
        let (begun_us, duration_us) = (run.now_us(), bench.seconds * 1_000_000);
        let mut units = 0;
        loop {
            let since_us = run.now_us();
            if since_us - begun_us >= duration_us {
                let elapsed_us = since_us - begun_us;
                let (failed, first_failure) = (0, None);
                return Ok(Outcome { units, failed, elapsed_us, latencies_us, first_failure });
            }
            let (status, _) = connection.call(&request(units)).await?;
            if status != 200 {
                return Err(io::Error::other(format!("HTTP {status}")));
            }
            units += 1;
            latencies_us.saturating_record((run.now_us() - since_us).max(1));
        }
    };
    asking.await.map_err(super::failed("one client"))
}

/// Syncs of as many files at the same time, each by a thread of its own.
async fn syncs(bench: &Bench, dir: &Path, files: u64) -> Result<Outcome, CliError> {
    let begun_us = bench.clock.monotonic_us();
    let tasks: Vec<_> = (0..files)
        .map(|n| {
            let (path, clock) = (dir.join(format!("sync-{n}")), bench.clock.clone());
            tokio::task::spawn_blocking(move || sync_file(&path, &clock))
        })
        .collect();
    let mut latencies_us = load::histogram();
    for task in tasks {
        let synced = task.await.map_err(io::Error::other).and_then(|synced| synced);
        latencies_us += synced.map_err(super::failed("a sync"))?;
    }
    let elapsed_us = bench.clock.monotonic_us() - begun_us;
    Ok(Outcome { units: files * SYNCS, failed: 0, elapsed_us, latencies_us, first_failure: None })
}

fn sync_file(path: &Path, clock: &Clock) -> io::Result<hdrhistogram::Histogram<u64>> {
    let file = File::options().create(true).truncate(true).write(true).open(path)?;
    let len = SYNCS * SYNC_LEN as u64;
    // As the log does: the blocks exist before they are written, so a sync writes no metadata.
    file.write_all_at(&vec![0; SYNCS as usize * SYNC_LEN], 0)?;
    file.sync_all()?;
    let mut latencies_us = load::histogram();
    for at in (0..len).step_by(SYNC_LEN) {
        let since_us = clock.monotonic_us();
        file.write_all_at(&[1; SYNC_LEN], at)?;
        file.sync_data()?;
        latencies_us.saturating_record((clock.monotonic_us() - since_us).max(1));
    }
    std::fs::remove_file(path)?;
    Ok(latencies_us)
}
