//! Runs episodes: load, one fault, its end, recovery, and then every check of the records.
//!
//! Each episode uses its own namespace, so that its check is complete and its cost does not grow with the
//! run. The seed decides which faults happen, when, and on which nodes. The timing of the machine still
//! varies, so a run repeats a schedule and not a trace.

mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use crate::checks::truth::Known;
use crate::clock::{self, until};
use crate::cluster::{Backend, Cluster, ClusterPlan, READY_TIMEOUT};
use crate::journal::{Ended, FaultRecord, Journal, OpKind, Operation};
use crate::nemesis::{self, Active, Fault};
use crate::network::NetworkKind;
use crate::workload::{self, Setting};

/// The options of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The backend that orders the commands.
    pub backend: Backend,
    /// The kind of network between the nodes.
    pub network: NetworkKind,
    /// The seed of all random choices.
    pub seed: u64,
    /// Number of episodes. The run ends at this number or after `time`, whichever is first.
    pub rounds: u64,
    /// No episode begins after this time.
    pub time: Duration,
    /// The faults to choose from.
    pub faults: Vec<Fault>,
    /// How long a fault lasts, minimum and maximum.
    pub hold_ms: (u64, u64),
    /// Whether a fleet with short leases runs too.
    pub leases: bool,
    /// The program; `None` for the one next to this program.
    pub program: Option<PathBuf>,
    /// The previous version's program, from which nodes are upgraded.
    pub previous: Option<PathBuf>,
    /// Number of nodes.
    pub nodes: u64,
    /// Whether Sentinels monitor Redis.
    pub sentinels: bool,
    /// Whether the output of each node goes to the disk of its data.
    pub logs_on_disks: bool,
    /// Additional flags of the nodes.
    pub flags: Vec<String>,
    /// Additional environment variables of the nodes.
    pub env: Vec<(String, String)>,
    /// Whether a returning node must not raise the term. It is set only where nothing else can raise the
    /// term.
    pub term_must_stay: bool,
    /// Time limit for every node to accept writes after the end of a fault.
    pub recovery_max: Duration,
    /// Writes a line of progress to standard error after each episode.
    pub progress: bool,
}

/// Time limit for a request of the load. It is longer than any election and shorter than a fault.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for questions about leadership. It is longer than any pause, so that they are answered at its
/// end.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(20);
/// The same limit as `recovery_max`, on a machine without other load.
pub const RECOVERY_MAX: Duration = Duration::from_secs(15);
/// How long a node may still report an unreachable node as reachable, or a lost leader as the leader. Silence is
/// noticed after two seconds; a leader counts as known for one second after it was last confirmed.
const GRACE: Duration = Duration::from_secs(4);
/// The same for election timeouts of up to four seconds.
const LONG_GRACE: Duration = Duration::from_secs(10);
const REGISTERING_CLIENTS: u64 = 6;
const COMPARING_CLIENTS: u32 = 4;
const REGISTERS: u64 = 2;
const FLEET_LEN: usize = 8;
const SILENT_LEN: usize = 4;
const FLEET_TTL_MS: u64 = 4_000;

impl Options {
    /// A run of this many episodes with these faults.
    pub fn new(
        backend: Backend,
        network: NetworkKind,
        seed: u64,
        rounds: u64,
        faults: &[Fault],
    ) -> Self {
        Self {
            backend,
            network,
            seed,
            rounds,
            time: Duration::from_secs(24 * 3_600),
            faults: faults.to_vec(),
            hold_ms: (100, 1_500),
            leases: false,
            program: None,
            previous: None,
            nodes: 3,
            sentinels: false,
            logs_on_disks: false,
            flags: Vec::new(),
            env: Vec::new(),
            term_must_stay: false,
            recovery_max: RECOVERY_MAX,
            progress: false,
        }
    }
}

/// Runs in `dir`. An error means that the harness could not continue. Broken promises are in the journal.
pub async fn run(options: &Options, dir: &Path, journal: &Arc<Journal>) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(plan(options), dir).await?;
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let deadline = clock::now() + options.time;
    let mut bag = Vec::new();
    for round in 1..=options.rounds {
        if clock::now() >= deadline {
            break;
        }
        // Each kind occurs once, in random order, before any is repeated.
        if bag.is_empty() {
            bag.clone_from(&options.faults);
            rng.shuffle(&mut bag);
        }
        let fault = bag.pop().context("no fault to choose from")?;
        let seed = rng.u64(..);
        if fault == Fault::Upgrade {
            cluster = begin_with_previous(cluster, options, round, dir, journal).await?;
        }
        episode(&mut cluster, options, round, fault, seed, journal).await?;
        if options.progress {
            progress(options, round, fault, journal);
        }
    }
    cluster.stop().await
}

fn plan(options: &Options) -> ClusterPlan {
    let mut plan = ClusterPlan::new(options.backend, options.network);
    plan.nodes = options.nodes;
    plan.flags.clone_from(&options.flags);
    plan.env.clone_from(&options.env);
    plan.program.clone_from(&options.program);
    plan.sentinels = options.sentinels;
    plan.logs_on_disks = options.logs_on_disks;
    plan.disks = options.faults.iter().any(|fault| fault.needs_disk());
    plan.wall_clocks = options.faults.iter().any(|fault| fault.needs_wall_clock());
    plan
}

/// Replaces the present cluster by a new one with the previous version's program.
async fn begin_with_previous(
    mut cluster: Cluster,
    options: &Options,
    round: u64,
    dir: &Path,
    journal: &Journal,
) -> anyhow::Result<Cluster> {
    cluster.stop().await?;
    drop(cluster);
    let mut plan = plan(options);
    plan.program.clone_from(&options.previous);
    // The indexes of the new cluster start from the beginning.
    journal.records().figures.insert("acknowledged_index".into(), 0);
    Cluster::start(plan, &dir.join(format!("upgrade-{round}"))).await
}

async fn episode(
    cluster: &mut Cluster,
    options: &Options,
    round: u64,
    fault: Fault,
    seed: u64,
    journal: &Arc<Journal>,
) -> anyhow::Result<()> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let setting = |timeout| {
        let clients = cluster.clients(timeout)?;
        let namespace = format!("episode-{round}");
        anyhow::Ok(Setting { clients, journal: Arc::clone(journal), namespace, seed })
    };
    let usual = setting(CLIENT_TIMEOUT)?;
    let patient = setting(QUESTION_TIMEOUT)?;
    let from = cluster.ready(1).await.map_or(0, |ready| ready.index);
    let watches = workload::watches(&usual, from);
    let leadership = workload::leadership(&patient);
    let registrations = workload::registrations(&usual, REGISTERING_CLIENTS);
    let comparing = workload::compare_and_set(&usual, COMPARING_CLIENTS, REGISTERS);
    let fleet =
        options.leases.then(|| workload::leases(&usual, FLEET_LEN, SILENT_LEN, FLEET_TTL_MS));

    let proxied = workload::proxied(&usual, cluster.network().host()).await?;

    tokio::time::sleep(Duration::from_millis(rng.u64(200..1_200))).await;
    let mut active = nemesis::begin(cluster, fault, &mut rng, journal).await?;
    let mut known = known(options, &active);
    let (shortest, longest) = options.hold_ms;
    tokio::time::sleep(Duration::from_millis(rng.u64(shortest..=longest))).await;
    known.until_us = clock::now_us();
    let over = nemesis::end(cluster, &mut active, journal).await?;
    let healed_us = clock::now_us();
    let mut record = over.record;
    // A replacement node has another address.
    let usual = Setting { clients: cluster.clients(CLIENT_TIMEOUT)?, ..usual };
    recover(cluster, options, &usual, &active, journal).await?;
    record.recovery_us = clock::now_us() - healed_us;
    if options.term_must_stay {
        term_stays(cluster, &active, journal).await?;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;

    let ledgers = registrations.stop().await;
    let histories = comparing.stop().await.concat();
    let fleet = match fleet {
        Some(fleet) => fleet.stop().await.pop(),
        None => None,
    };
    leadership.stop().await;
    let not_forwarded = proxied.stop().await;
    let cut = over.cut;
    let seen =
        verify::Seen { ledgers, histories, fleet, not_forwarded, cut, active, known, healed_us };
    verify::verify(cluster, &usual, seen, watches, journal).await?;
    tidy(&usual).await?;
    cluster.check_alive()?;
    let mut records = journal.records();
    record.unavailable_us = longest_silence(&records.operations, &record);
    records.faults.push(record);
    records.episodes += 1;
    Ok(())
}

/// What is known about a fault that has just begun.
fn known(options: &Options, active: &Active) -> Known {
    let (fault, nodes) = (active.fault, &active.nodes);
    // With the long election timeouts of such a run, a lost leader may be reported for longer.
    let grace = if options.term_must_stay { LONG_GRACE } else { GRACE };
    Known {
        out_of_reach: if fault.cuts_off() { nodes.clone() } else { Vec::new() },
        from_us: clock::now_us(),
        until_us: u64::MAX,
        grace_us: u64::try_from(grace.as_micros()).unwrap_or(u64::MAX),
        restarted: if fault.stops_nodes() { nodes.clone() } else { Vec::new() },
    }
}

/// Deletes the registrations of the episode, so that the next one finds a cluster of the same size.
async fn tidy(setting: &Setting) -> anyhow::Result<()> {
    let client = &setting.clients[0];
    let services = format!("/api/v1/services?namespace={}", setting.namespace);
    let gone = async || {
        let left = client.list(&services).await.ok()?;
        for service in &left {
            let name = service["name"].as_str().unwrap_or_default();
            client.delete(&format!("/api/v1/services/{}/{name}", setting.namespace)).await;
        }
        left.is_empty().then_some(())
    };
    until(READY_TIMEOUT, Duration::from_millis(50), gone)
        .await
        .with_context(|| format!("{} cannot be deleted", setting.namespace))
}

/// Waits until every node accepts a write. If that takes too long, it is an anomaly.
async fn recover(
    cluster: &mut Cluster,
    options: &Options,
    setting: &Setting,
    active: &Active,
    journal: &Journal,
) -> anyhow::Result<()> {
    let start = clock::now();
    cluster.wait_ready(READY_TIMEOUT).await?;
    let path = format!("/api/v1/services/{}/probe/instances/probe", setting.namespace);
    let body = json!({"address": "http://10.20.30.42:80", "ttl_ms": 86_400_000});
    for (position, client) in setting.clients.iter().enumerate() {
        let look = async || {
            let start_us = clock::now_us();
            let outcome = client.put(&path, &body, &[]).await;
            let node = position as u64 + 1;
            journal.operation(OpKind::Register, node, start_us, Ended::from(&outcome));
            outcome.is_ok().then_some(())
        };
        if until(READY_TIMEOUT, Duration::from_millis(50), look).await.is_none() {
            anyhow::bail!("node {} takes no writes after {}", position + 1, active.fault);
        }
    }
    let took = clock::now().saturating_duration_since(start);
    if took > options.recovery_max {
        let text = format!("after {} every node took writes only after {took:?}", active.fault);
        journal.anomaly("liveness", text);
    }
    Ok(())
}

/// A node that was cut off and returned must not have raised the term.
async fn term_stays(cluster: &Cluster, active: &Active, journal: &Journal) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    for id in cluster.ids() {
        let term = cluster.term(id).await?;
        if term != active.term {
            let text = format!(
                "the term was {} before {}, node {id} is at {term} after it",
                active.term, active.fault
            );
            journal.anomaly("term-stays", text);
        }
    }
    Ok(())
}

/// The longest time without an acknowledged write, from the beginning of a fault until recovery.
fn longest_silence(operations: &[Operation], fault: &FaultRecord) -> u64 {
    let until_us = fault.end_us + fault.recovery_us;
    let is_write =
        |kind| !matches!(kind, OpKind::StrongRead | OpKind::Heartbeats | OpKind::Proxied);
    let mut ends: Vec<u64> = operations
        .iter()
        .rev()
        .take_while(|operation| operation.end_us + 60_000_000 > fault.start_us)
        .filter(|operation| operation.ended == Ended::Ok && is_write(operation.kind))
        .map(|operation| operation.end_us)
        .filter(|end_us| (fault.start_us..=until_us).contains(end_us))
        .collect();
    ends.push(until_us);
    ends.sort_unstable();
    let mut before = fault.start_us;
    let mut longest = 0;
    for end_us in ends {
        longest = longest.max(end_us - before);
        before = end_us;
    }
    longest
}

fn progress(options: &Options, round: u64, fault: Fault, journal: &Journal) {
    let records = journal.records();
    let last = records.faults.last();
    let (silent, recovery) = last.map_or((0, 0), |fault| (fault.unavailable_us, fault.recovery_us));
    let of =
        if options.rounds == u64::MAX { String::new() } else { format!("/{}", options.rounds) };
    eprintln!(
        "{round:>5}{of} {fault:<20} no write for {:>6} ms, recovered in {:>6} ms; {} operations, {} anomalies",
        silent / 1_000,
        recovery / 1_000,
        records.operations.len(),
        records.anomalies.len(),
    );
    for anomaly in records
        .anomalies
        .iter()
        .filter(|anomaly| last.is_some_and(|fault| anomaly.at_us > fault.start_us))
    {
        eprintln!("      {}: {}", anomaly.check, anomaly.detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_without_a_write_is_found() {
        let write = |end_us| Operation {
            start_us: end_us - 1,
            end_us,
            node: 1,
            kind: OpKind::Register,
            ended: Ended::Ok,
        };
        let fault = FaultRecord {
            kind: "x".into(),
            nodes: vec![1],
            hit_leader: true,
            start_us: 100,
            end_us: 200,
            unavailable_us: 0,
            recovery_us: 100,
        };
        assert_eq!(longest_silence(&[write(90), write(110), write(250), write(290)], &fault), 140);
        assert_eq!(longest_silence(&[], &fault), 200);
    }
}
