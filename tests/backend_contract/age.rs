//! Compares the staleness that a node reports with the writes that other nodes acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use maxine_clock::Clock;
use parking_lot::Mutex;

use crate::contract::agree;
use crate::node::{Node, eventually, leader, register};
use crate::raft::Layout;
use crate::redis_server::{RedisServer, open, quick};
use crate::split_brain::Partition;

/// Pause between two writes, so that a run does not fill the state.
const WRITE_PAUSE: Duration = Duration::from_millis(3);
const SAMPLE_PAUSE: Duration = Duration::from_millis(1);

/// What a reader reported while it was watched.
#[derive(Default)]
struct Said {
    /// Samples in which it lacked a write that was acknowledged already.
    behind: u64,
    oldest_ms: u64,
}

/// Writes through one node while `trouble` affects another. Checks all the time that the other is never
/// staler than it reports: every write that was acknowledged longer ago is in its state.
async fn watched(writer: &Node, reader: &Node, trouble: impl Future<Output = ()>) -> Said {
    let clock = Clock::system();
    let stop = Arc::new(AtomicBool::new(false));
    // When each write was acknowledged, in microseconds. Each write registers another instance.
    let acknowledged: Arc<Mutex<Vec<u64>>> = Arc::default();
    let writing = {
        let (writer, stop, clock) = (writer.clone(), Arc::clone(&stop), clock.clone());
        let acknowledged = Arc::clone(&acknowledged);
        tokio::spawn(async move {
            for nth in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if writer.try_propose(register("orders", &nth.to_string(), 80)).await.is_err() {
                    // The test must know exactly which writes were acknowledged.
                    panic!("a write was not acknowledged while the writer had no trouble");
                }
                acknowledged.lock().push(clock.monotonic_us());
                tokio::time::sleep(WRITE_PAUSE).await;
            }
        })
    };
    let sampling = {
        let (reader, stop, clock) = (reader.clone(), Arc::clone(&stop), clock.clone());
        let acknowledged = Arc::clone(&acknowledged);
        tokio::spawn(async move {
            let mut said = Said::default();
            while !stop.load(Ordering::Relaxed) {
                let now_us = clock.monotonic_us();
                let age_ms = reader.store.staleness_ms();
                let total = reader.view.with_snapshot(|snapshot| snapshot.state.instances_len());
                let due = acknowledged.lock().clone();
                if let Some(age_ms) = age_ms {
                    // The staleness is rounded down, by up to a millisecond.
                    let since_us = now_us.saturating_sub((age_ms + 1) * 1_000);
                    let must_have = due.partition_point(|at_us| *at_us < since_us);
                    assert!(
                        total >= must_have,
                        "it says {age_ms} ms, but lacks a write that was acknowledged {} ms before",
                        (now_us - due[total]) / 1_000,
                    );
                    said.oldest_ms = said.oldest_ms.max(age_ms);
                }
                said.behind += u64::from(total < due.len());
                tokio::time::sleep(SAMPLE_PAUSE).await;
            }
            said
        })
    };
    trouble.await;
    eventually("the state is fresh again", async || {
        reader.store.staleness_ms().is_some_and(|age_ms| age_ms < 1_000).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    writing.await.expect("the writer had no trouble");
    sampling.await.expect("the age is true")
}

/// Messages are held and delivered late, and the link is cut. A follower that was away knows its staleness,
/// even while it catches up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raft_node_that_was_away_is_not_older_than_it_says() {
    const AWAY: Duration = Duration::from_millis(1_800);
    let dir = tempfile::tempdir().expect("a directory");
    let (layout, links) = Layout::with_links(dir.path()).await;
    let nodes = layout.three().await;
    let writer = leader(&nodes).await;
    let at = nodes.iter().position(|node| node.name != writer.name).expect("a follower");
    let led = nodes.iter().position(|node| node.name == writer.name).expect("the leader");
    let reader = &nodes[at];
    let (to_reader, to_leader) = (&links[at], &links[led]);
    let said = watched(&writer, reader, async {
        // Only messages to the follower are held. It can still ask how far the log is committed.
        to_reader.hold();
        tokio::time::sleep(AWAY).await;
        to_reader.heal();
        tokio::time::sleep(AWAY / 4).await;
        // Now its questions are held, too.
        to_leader.hold();
        to_reader.hold();
        tokio::time::sleep(AWAY).await;
        to_leader.heal();
        to_reader.heal();
        tokio::time::sleep(AWAY / 4).await;
        to_reader.cut();
        tokio::time::sleep(AWAY).await;
        to_reader.heal();
    })
    .await;
    assert!(said.behind > 0, "it was never behind: nothing was checked");
    assert!(said.oldest_ms > 1_500, "it never said that it was old: {} ms", said.oldest_ms);
    agree(&nodes).await;
    for node in &nodes {
        node.store.shutdown().await;
    }
}

/// The same if the answers of Redis arrive late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_node_that_was_away_is_not_older_than_it_says() {
    let server = RedisServer::start().await;
    let link = Partition::before(&server).await;
    let writer = open(quick(server.url(), "a")).await;
    writer.leads().await;
    let reader = open(quick(link.url(), "b")).await;
    let said = watched(&writer, &reader, async {
        for away_ms in [300, 700, 2_500] {
            link.hold();
            tokio::time::sleep(Duration::from_millis(away_ms)).await;
            link.heal();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
    .await;
    assert!(said.behind > 0, "it was never behind: nothing was checked");
    assert!(said.oldest_ms > 1_500, "it never said that it was old: {} ms", said.oldest_ms);
    writer.store.shutdown().await;
    reader.store.shutdown().await;
}
