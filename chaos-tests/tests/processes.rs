//! Checks the promises of a cluster with real processes, in a few rounds. `maxine-chaos run` does many.
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
use maxine_chaos::engine::{self, Options};
use maxine_chaos::journal::{Journal, Records};
use maxine_chaos::nemesis::{self, Fault};
use maxine_chaos::scenario::Scenario;

/// One cluster of three processes at a time, because two would share this machine's cores with the load.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn run(scenario: &str, backend: Backend, seed: u64, rounds: u64) -> Arc<Journal> {
    let scenario = Scenario::find(scenario).unwrap();
    run_with(scenario.options(backend, None, seed, rounds)).await
}

/// Runs a scenario with these faults; `None`, with a message, if this machine lacks something for one of
/// them.
async fn run_if_possible(
    scenario: &str,
    backend: Backend,
    faults: &[Fault],
    rounds: u64,
) -> Option<Arc<Journal>> {
    let mut options = Scenario::find(scenario).unwrap().options(backend, None, 1, rounds);
    options.faults.retain(|fault| faults.contains(fault));
    assert!(!options.faults.is_empty(), "{scenario} has none of {faults:?}");
    for fault in faults {
        if let Some(missing) = nemesis::missing(*fault, None) {
            eprintln!("SKIPPED: {fault} needs {missing}");
            return None;
        }
    }
    Some(run_with(options).await)
}

async fn run_with(mut options: Options) -> Arc<Journal> {
    let _alone = ONE_AT_A_TIME.lock().await;
    options.progress = true;
    // Other tests use some of the cores. The long runs have all of them.
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
    // Without questions during the cut, the check would prove nothing.
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

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_loss_of_power() {
    let ran = run_if_possible("power-loss", Backend::Raft, &[Fault::PowerLoss], 3).await;
    let Some(journal) = ran else { return };
    assert!(figure(&journal.records(), "acknowledged_registrations_checked") > 50);
}

/// Regression: a write through a node whose disk failed was answered as refused, and took effect because the
/// others had it.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_failed_disk_stops_its_node_and_no_outcome_is_reported_wrongly() {
    let faults = [Fault::FullDisk, Fault::ReadOnlyDisk];
    let ran = run_if_possible("disks", Backend::Raft, &faults, 3).await;
    let Some(journal) = ran else { return };
    let records = journal.records();
    let stopped = figure(&records, "full-disk_stopped_by_itself")
        + figure(&records, "read-only-disk_stopped_by_itself");
    assert!(stopped > 0, "{:?}", records.figures);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_when_its_disk_is_full_and_its_output_goes_there() {
    let ran = run_if_possible("disk-full-logs", Backend::Raft, &[Fault::FullDisk], 1).await;
    let Some(journal) = ran else { return };
    let records = journal.records();
    assert_eq!(figure(&records, "full-disk_stopped_by_itself"), 1, "{:?}", records.figures);
    assert!(figure(&records, "statuses_checked") > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_gets_an_older_copy_of_its_directory_loses_nothing() {
    let journal = run("rollback", Backend::Raft, 1, 1).await;
    let records = journal.records();
    assert!(figure(&records, "rollbacks") > 0);
    assert!(figure(&records, "acknowledged_registrations_checked") > 20);
    assert!(figure(&records, "digests_under_load_compared") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_was_cut_refuses_to_start_and_says_what_to_do() {
    let faults = [Fault::CutLogTail];
    let journal = run_if_possible("damaged-log", Backend::Raft, &faults, 2).await.unwrap();
    assert_eq!(figure(&journal.records(), "cut-log-tail_refused"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_replaced_under_load_and_founders_start_again() {
    let mut options = Scenario::find("mixed").unwrap().options(Backend::Raft, None, 4, 4);
    options.faults = vec![Fault::ReplaceMember, Fault::KillAll];
    let journal = run_with(options).await;
    let records = journal.records();
    let kinds: Vec<&str> = records.faults.iter().map(|fault| fault.kind.as_str()).collect();
    assert!(kinds.contains(&"replace-member") && kinds.contains(&"kill-all"), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_jumps_expires_nothing() {
    let faults = [Fault::ClockForward, Fault::ClockBack];
    let ran = run_if_possible("clock-jumps", Backend::Raft, &faults, 2).await;
    let Some(journal) = ran else { return };
    assert!(figure(&journal.records(), "leases_renewed") > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_fail_over_and_nothing_is_lost_silently() {
    let faults = [Fault::FailoverRedis];
    let journal = run_if_possible("redis-failover", Backend::Redis, &faults, 1).await.unwrap();
    assert!(figure(&journal.records(), "acknowledged_while_redis_forgot") > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_flushed_is_put_back() {
    let faults = [Fault::FlushRedis];
    let journal = run_if_possible("redis-faults", Backend::Redis, &faults, 1).await.unwrap();
    assert!(figure(&journal.records(), "acknowledged_while_redis_forgot") > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_damaged_again_and_again_locks_nobody_up() {
    let faults = [Fault::DamageRedis];
    let journal = run_if_possible("redis-damage", Backend::Redis, &faults, 2).await.unwrap();
    assert!(figure(&journal.records(), "damages_to_redis") > 0);
    assert!(figure(&journal.records(), "acknowledged_while_redis_forgot") > 20);
}
