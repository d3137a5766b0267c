//! The promises that a cluster makes, on real processes, in a few rounds; `maxine-chaos run` does many.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::field_reassign_with_default,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, reads the real clock, and has no users"
)]

use std::sync::Arc;
use std::time::Duration;

use maxine_chaos::cluster::Backend;
use maxine_chaos::engine;
use maxine_chaos::journal::{Journal, Records};
use maxine_chaos::scenario::Scenario;

/// Clusters of three processes each: one at a time, for two share this machine's cores with the load.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn run(scenario: &str, backend: Backend, seed: u64, rounds: u64) -> Arc<Journal> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let scenario = Scenario::find(scenario).unwrap();
    let mut options = scenario.options(backend, None, seed, rounds);
    options.progress = true;
    // Other tests take their share of the cores; the long runs have them alone.
    options.recovery_max = Duration::from_secs(45);
    let dir = tempfile::tempdir().unwrap();
    let journal = Arc::new(Journal::default());
    if let Err(error) = engine::run(&options, dir.path(), &journal).await {
        let kept = dir.keep();
        panic!("{error:#}\nthe nodes' data and logs are kept in {}", kept.display());
    }
    let anomalies = journal.records().anomalies.clone();
    if !anomalies.is_empty() {
        let kept = dir.keep();
        panic!("{anomalies:#?}\nthe nodes' data and logs are kept in {}", kept.display());
    }
    journal
}

fn figure(records: &Records, name: &str) -> u64 {
    records.figures.get(name).copied().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9_of_any_node() {
    let journal = run("rounds", Backend::Raft, 5, 5).await;
    let records = journal.records();
    assert_eq!(records.episodes, 5);
    assert!(figure(&records, "acknowledged_registrations_checked") > 100);
    assert!(figure(&records, "digests_compared") >= 15);
    assert!(figure(&records, "register_calls_checked") > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_rejoins_disturbs_nobody_and_answered_no_strong_read() {
    let journal = run("rejoin", Backend::Raft, 3, 2).await;
    let records = journal.records();
    assert_eq!(records.faults.len(), 2);
    // Questions were put to it while it was cut off, or the check means nothing.
    let asked = records.faults.iter().all(|fault| {
        records.operations.iter().any(|operation| {
            fault.nodes == [u64::from(operation.node)]
                && operation.kind == maxine_chaos::journal::OpKind::StrongRead
                && operation.start_us > fault.start_us
                && operation.start_us < fault.end_us
        })
    });
    assert!(asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_never_says_that_it_leads() {
    let journal = run("paused-leader", Backend::Raft, 2, 2).await;
    let records = journal.records();
    assert_eq!(figure(&records, "paused_leaders_replaced"), 2);
    assert!(figure(&records, "leases_renewed") > 20);
}
