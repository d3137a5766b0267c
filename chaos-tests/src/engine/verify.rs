//! The checks at the end of an episode, when the load has stopped and the cluster has recovered.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::{Active, FLEET_TTL_MS, Setting};
use crate::checks::acknowledged::Listed;
use crate::checks::digests::Digest;
use crate::checks::{
    acknowledged, ages, digests, leadership, leases, linearizable, proxied, strong_reads, truth,
    watches,
};
use crate::client::{Client, Outcome};
use crate::clock::{self, until};
use crate::cluster::Cluster;
use crate::journal::Journal;
use crate::nemesis::Fault;
use crate::workload::{
    FleetRecord, KeyState, Ledger, Load, NotForwarded, RegisterHistory, WatchLog,
};

/// The records of the workloads.
pub(super) struct Seen {
    pub(super) ledgers: Vec<Ledger>,
    pub(super) histories: Vec<RegisterHistory>,
    pub(super) fleet: Option<FleetRecord>,
    pub(super) not_forwarded: Vec<NotForwarded>,
    pub(super) cut: Option<strong_reads::CutOff>,
    pub(super) active: Active,
    pub(super) known: truth::Known,
    pub(super) healed_us: u64,
}

const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
const SEARCH_TIMEOUT: Duration = Duration::from_secs(20);
/// How much longer a silent instance may stay, in milliseconds, because each new leader gives its lease the
/// whole time again.
const SILENT_EXTRA_MS: u64 = 12_000;

pub(super) async fn verify(
    cluster: &Cluster,
    setting: &Setting,
    seen: Seen,
    watches: Load<WatchLog>,
    journal: &Journal,
) -> anyhow::Result<()> {
    let report = |check: &str, found: Vec<String>| {
        found.into_iter().for_each(|detail| journal.anomaly(check, detail));
    };
    let acknowledged_index =
        journal.records().figures.get("acknowledged_index").copied().unwrap_or(0);
    report("proxied", proxied::check(&seen.not_forwarded, down(&seen).as_ref()));
    let (acks, claims, statuses, digests_under_load) = {
        let mut records = journal.records();
        (
            std::mem::take(&mut records.acknowledged),
            std::mem::take(&mut records.ages),
            std::mem::take(&mut records.statuses),
            std::mem::take(&mut records.digests),
        )
    };
    let ledger: Ledger = seen.ledgers.into_iter().flatten().collect();
    if seen.active.fault.may_lose_redis_data() {
        return verify_what_redis_left(cluster, setting, &ledger, watches, journal).await;
    }
    // A node of the previous version may not keep the promises of this one.
    if seen.active.fault != Fault::Upgrade {
        journal.count("ages_checked", claims.len() as u64);
        report("ages", ages::check(&acks, &claims));
        journal.count("statuses_checked", statuses.len() as u64);
        report("truth", truth::check(&statuses, &seen.known, &cluster.ids()));
        journal.count("digests_under_load_compared", digests_under_load.len() as u64);
        report("digests", digests::check(&digests_under_load));
    }
    for id in cluster.ids() {
        let listed = list(cluster, id, &setting.namespace, acknowledged_index).await?;
        report("acknowledged", acknowledged::check(&ledger, id, &listed));
    }
    let kept = ledger.values().filter(|state| matches!(state, KeyState::Present { .. })).count();
    journal.count("acknowledged_registrations_checked", kept as u64);

    let equal = settle(cluster).await?;
    journal.count("digests_compared", equal.len() as u64);
    report("digests", digests::check(&equal));

    let logs = stop_watches(watches).await;
    report("watches", watches::check(&logs));
    let present = |(key, state): (&(String, String), &KeyState)| match state {
        KeyState::Present { lease_epoch } => Some((format!("{}/{}", key.0, key.1), *lease_epoch)),
        _ => None,
    };
    for log in &logs {
        report("watches", watches::check_reported(log, ledger.iter().filter_map(present)));
        journal.count("watch_changes_compared", log.changes.len() as u64);
        journal.count("watch_compactions", log.compacted);
    }

    check_leadership(&seen.active, seen.healed_us, journal);
    let cuts: Vec<_> = seen.cut.into_iter().collect();
    let found = strong_reads::check(&journal.records().operations, &cuts);
    report("strong-reads", found);
    let histories = seen.histories;
    let search = move || linearizable::check(&histories, SEARCH_TIMEOUT);
    let verdict = tokio::task::spawn_blocking(search).await.context("the search for an order")?;
    journal.count("register_calls_checked", verdict.calls);
    journal.count("registers_undecided", verdict.undecided);
    report("linearizable", verdict.anomalies);
    if let Some(fleet) = &seen.fleet {
        check_fleet(cluster, setting, fleet, journal).await;
    }
    Ok(())
}

/// The nodes that may not have run, and when. A fault of the network or of a clock stops no node.
fn down(seen: &Seen) -> Option<proxied::Down> {
    seen.active.fault.stops_nodes().then(|| proxied::Down {
        nodes: seen.active.nodes.clone(),
        from_us: seen.active.start_us,
        until_us: clock::now_us(),
    })
}

/// Checks an episode in which Redis may have lost what it had acknowledged. The nodes write it back if they
/// can, and report it if they cannot. In both cases they must agree, and lose nothing silently.
async fn verify_what_redis_left(
    cluster: &Cluster,
    setting: &Setting,
    ledger: &Ledger,
    watches: Load<WatchLog>,
    journal: &Journal,
) -> anyhow::Result<()> {
    let equal = settle(cluster).await?;
    journal.count("digests_compared", equal.len() as u64);
    for detail in digests::check(&equal) {
        journal.anomaly("digests", detail);
    }
    drop(watches.stop().await);
    let mut lost = 0;
    for id in cluster.ids() {
        let listed = list(cluster, id, &setting.namespace, 0).await?;
        let gone = acknowledged::check(ledger, id, &listed);
        lost += gone.len() as u64;
        if !gone.is_empty() && !cluster.reported_lost_writes() {
            let detail = format!(
                "no node reported that writes were lost: {} of them, {}",
                gone.len(),
                gone[0]
            );
            journal.anomaly("acknowledged", detail);
        }
    }
    let kept = ledger.values().filter(|state| matches!(state, KeyState::Present { .. })).count();
    journal.count("acknowledged_while_redis_forgot", kept as u64);
    journal.count("told_lost_by_redis", lost);
    let mut records = journal.records();
    let claims = std::mem::take(&mut records.claims);
    records.leaders.extend(crate::journal::merge_claims(&claims));
    Ok(())
}

/// Checks the claims of the episode. Then keeps only those that the picture of the report needs.
fn check_leadership(active: &Active, healed_us: u64, journal: &Journal) {
    let mut records = journal.records();
    let mut found = leadership::check(&records.claims);
    if active.fault == Fault::PauseLeader {
        let (leader, term) = (active.leader, active.term);
        // Only a node that was paused long enough to lose its leadership must not claim it, because another
        // node led before it was resumed. A node that was resumed within its lease may continue to lead, and
        // be replaced later.
        let mut newer = records.claims.iter().filter(|claim| claim.term > term);
        let replaced = newer.any(|claim| claim.end_us < healed_us);
        if replaced {
            let paused_us = active.start_us;
            let paused =
                leadership::Paused { node: leader, term, paused_us, resumed_us: healed_us };
            found.extend(leadership::check_resumed(&records.claims, paused));
            *records.figures.entry("paused_leaders_replaced".into()).or_default() += 1;
        }
    }
    let claims = std::mem::take(&mut records.claims);
    records.leaders.extend(crate::journal::merge_claims(&claims));
    drop(records);
    found.into_iter().for_each(|detail| journal.anomaly("leadership", detail));
}

async fn check_fleet(cluster: &Cluster, setting: &Setting, fleet: &FleetRecord, journal: &Journal) {
    journal.count("leases_renewed", fleet.renewed);
    journal.count("leases_lost_late", fleet.lost_late);
    let allowed = Duration::from_millis(FLEET_TTL_MS + SILENT_EXTRA_MS);
    let path = format!("/api/v1/services/{}/fleet/instances", setting.namespace);
    let client = cluster.client(1);
    let silent = async || {
        let listed = client.list(&path).await.unwrap_or_default();
        let ids = listed.iter().filter_map(|item| item["id"].as_str().map(str::to_owned));
        ids.filter(|id| fleet.silent.contains_key(id)).collect::<Vec<_>>()
    };
    let gone = async || silent().await.is_empty().then_some(());
    until(allowed, Duration::from_millis(250), gone).await;
    let still_there = silent().await;
    let allowed_us = u64::try_from(allowed.as_micros()).unwrap_or(u64::MAX);
    let found = leases::check(fleet, &still_there, clock::now_us(), allowed_us);
    journal.count("silent_leases_checked", fleet.silent.len() as u64);
    found.into_iter().for_each(|detail| journal.anomaly("leases", detail));
}

async fn list(
    cluster: &Cluster,
    id: u64,
    namespace: &str,
    min_index: u64,
) -> anyhow::Result<Listed> {
    let client = cluster.client(id);
    let services = format!("/api/v1/services?namespace={namespace}&min_index={min_index}");
    let refused = |outcome| anyhow::anyhow!("node {id} does not list {namespace}: {outcome:?}");
    let mut listed = Listed::new();
    for service in listed_by(&client, &services).await.map_err(refused)? {
        let name = service["name"].as_str().unwrap_or_default();
        if !name.starts_with("service-") {
            continue;
        }
        let path = format!("/api/v1/services/{namespace}/{name}/instances?min_index={min_index}");
        for instance in listed_by(&client, &path).await.map_err(refused)? {
            let instance_id = instance["id"].as_str().unwrap_or_default().to_owned();
            let lease_epoch = instance["lease_epoch"].as_u64().unwrap_or(0);
            listed.insert((name.to_owned(), instance_id), lease_epoch);
        }
    }
    Ok(listed)
}

/// Reads a list, and reads it again if there is no answer. A slow answer of a busy machine is not a broken
/// promise.
async fn listed_by(client: &Client, path: &str) -> Result<Vec<Value>, Outcome> {
    let mut last = Outcome::Unknown("it was never asked for".into());
    let ask = async || match client.list(path).await {
        Ok(items) => Some(items),
        Err(outcome) => {
            last = outcome;
            None
        }
    };
    until(SETTLE_TIMEOUT, Duration::from_millis(200), ask).await.ok_or(last)
}

/// Waits until all nodes have the same index. Every digest on the way is checked.
async fn settle(cluster: &Cluster) -> anyhow::Result<Vec<Digest>> {
    let mut taken = Vec::new();
    let look = async || {
        let mut round = Vec::new();
        for id in cluster.ids() {
            let answer = cluster.client(id).get("/api/v1/cluster/digest").await;
            let body = answer.body()?;
            let (index, digest) = (body["index"].as_u64()?, body["digest"].as_str()?);
            round.push(Digest { node: id, index, digest: digest.into() });
        }
        let same = round.iter().all(|digest| digest.index == round[0].index);
        taken.extend(round);
        same.then_some(())
    };
    until(SETTLE_TIMEOUT, Duration::from_millis(50), look)
        .await
        .context("the nodes never stood at one index")?;
    Ok(taken)
}

async fn stop_watches(watches: Load<WatchLog>) -> Vec<WatchLog> {
    // In this time each watch asks once more, which completes its log.
    tokio::time::sleep(Duration::from_millis(300)).await;
    watches.stop().await
}
