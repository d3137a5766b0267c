//! Measures the same load on every backend: discovery, registrations, propagation and failover, on real nodes
//! with default settings.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde_json::{Value, json};

use super::load::Outcome;
use super::node::{Backend, Cluster};
use super::report::{Goal, Section, ms};
use super::turns::{CONNECTIONS, Target, turn, turn_length};
use super::wire;
use super::{Bench, failover, node, propagation, redis, registrations};
use maxine::cli::exit::CliError;

/// Number of services for discovery, each with three instances.
const SERVICES: u64 = 1_000;
/// Numbers of clients that register.
const CLIENTS: [usize; 3] = [1, 64, 256];
/// The required discovery throughput of every backend, as a share of the fastest.
const DISCOVERY_SHARE_AIM: f64 = 0.8;
/// Maximum wait for a new leader, in milliseconds: the default lease, a poll, and a margin.
const LEADER_MS_MAX: u64 = 60_000;

/// The results of one backend.
struct Figures {
    name: &'static str,
    nodes: usize,
    discovery: Outcome,
    registrations: Vec<Outcome>,
    /// Time from the answer until each other node shows the change, in microseconds; `None` with one node.
    propagation: Option<hdrhistogram::Histogram<u64>>,
    /// Times from kill -9 of the leader until the next leader has its duties, in microseconds, sorted.
    failover_us: Vec<u64>,
}

pub(super) async fn measure(bench: &Bench, trials: u32) -> Result<Section, CliError> {
    let mut all = Vec::new();
    for backend in [Backend::Raft, Backend::Redis, Backend::SharedFile, Backend::Local] {
        if backend == Backend::Redis && !redis::is_installed() {
            return Err(CliError::Failed(
                "redis-server is not installed (Debian: apt-get install redis-server)".into(),
            ));
        }
        all.push(one(bench, backend, trials).await?);
    }
    Ok(section(bench, trials, &all))
}

async fn one(bench: &Bench, backend: Backend, trials: u32) -> Result<Figures, CliError> {
    let dir = bench.place(backend.name())?;
    let redis = match backend {
        Backend::Redis => Some(redis::Redis::start(&dir).await?),
        _ => None,
    };
    let url = redis.as_ref().map(redis::Redis::url);
    let nodes = if backend == Backend::Local { 1 } else { 3 };
    let mut cluster = Cluster::on(bench, &dir, backend, nodes, url).await?;
    node::fill(&cluster.addrs()[0], SERVICES * 3, 3).await?;
    let discovery = discovery_on(bench, &cluster).await?;
    // Numbers continue over all cases. So every registration is new or changes an instance, and goes through
    // the log.
    let numbers = Arc::new(AtomicU64::new(0));
    let mut registered = Vec::new();
    for clients in CLIENTS {
        registered.push(registrations::maxine(bench, &cluster, clients, 1, &numbers).await?);
    }
    let mut sights: Option<hdrhistogram::Histogram<u64>> = None;
    for watcher in 1..nodes {
        let (after_ack, _) = propagation::follow(bench, &cluster, 0, watcher).await?;
        match &mut sights {
            None => sights = Some(after_ack),
            Some(sights) => sights
                .add(&after_ack)
                .map_err(|error| CliError::Failed(format!("propagation: {error}")))?,
        }
    }
    let mut failover_us = Vec::new();
    for _ in 0..if nodes > 1 { trials } else { 0 } {
        failover_us.push(next_leader(bench, &mut cluster).await?);
    }
    failover_us.sort_unstable();
    let name = backend.name();
    Ok(Figures {
        name,
        nodes,
        discovery,
        registrations: registered,
        propagation: sights,
        failover_us,
    })
}

async fn discovery_on(bench: &Bench, cluster: &Cluster) -> Result<Outcome, CliError> {
    let path = "/api/maxine/serviceops/discover?serviceName=s";
    let request = |n: u64| wire::get(&format!("{path}{}", n * 7_919 % SERVICES));
    let requests = (0..SERVICES).map(request).collect();
    let node = &cluster.nodes[0];
    let side = Target {
        name: "look-ups",
        server: node.running()?,
        addr: node.addr(),
        requests: Arc::new(requests),
        status: 302,
    };
    Ok(turn(bench, &side).await?.outcome)
}

/// Kills the leader. Returns how long it takes until another node has the leader's duties, in microseconds.
async fn next_leader(bench: &Bench, cluster: &mut Cluster) -> Result<u64, CliError> {
    let leader = cluster.leader().await?;
    let others: Vec<usize> = (0..cluster.nodes.len()).filter(|n| *n != leader).collect();
    let mut clients = Vec::new();
    for other in &others {
        clients.push(cluster.client(&[*other]).await?);
    }
    let since_us = bench.clock.monotonic_us();
    cluster.nodes[leader].kill_and_wait();
    let found = async {
        loop {
            for client in &clients {
                if node::has_duties(client).await {
                    return bench.clock.monotonic_us();
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let at_us = tokio::time::timeout(Duration::from_millis(LEADER_MS_MAX), found).await;
    let at_us = at_us.map_err(|_| {
        CliError::Failed(format!("no node leads {LEADER_MS_MAX} ms after the leader was killed"))
    })?;
    cluster.nodes[leader].start()?;
    cluster.wait_ready().await?;
    Ok(at_us.saturating_sub(since_us))
}

fn section(bench: &Bench, trials: u32, all: &[Figures]) -> Section {
    let fastest = all.iter().map(|one| one.discovery.per_second()).fold(1.0, f64::max);
    let slowest = all.iter().map(|one| one.discovery.per_second()).fold(f64::MAX, f64::min);
    let share = slowest / fastest;
    Section {
        name: "Backends",
        method: format!(
            "Default settings. Discovery: {SERVICES} services of three instances, one node asked by {} connections, the others \
             idle, {:.1} s. Registrations: PUT of a new instance, clients spread evenly over the nodes, {} s a case. Propagation: \
             one write after the other through the first node, watched on each of the others, {} s each; 0.00 where it was seen \
             before the writer had its answer. Failover: {trials} times kill -9 of the leader, until another node has the leader's \
             duties; meanwhile reads go on everywhere, and so do writes in redis and shared-file mode. Redis syncs every write \
             (appendfsync always). All on this machine and its one disk.",
            CONNECTIONS,
            turn_length(bench).as_secs_f64(),
            bench.seconds,
            bench.seconds
        ),
        columns: vec![
            "backend",
            "nodes",
            "discoveries/s",
            "p99 ms",
            "registrations/s, 1 client",
            "64 clients",
            "256 clients",
            "p99 ms, 64 clients",
            "failed",
            "propagation p50 ms",
            "propagation p99 ms",
            "failover p50 s",
            "failover max s",
        ],
        rows: all.iter().map(row).collect(),
        goals: vec![Goal {
            text: "discovery on the slowest backend compared to the fastest".into(),
            aim: format!("{:.0} %", DISCOVERY_SHARE_AIM * 100.0),
            seen: format!("{:.0} %", share * 100.0),
            met: share >= DISCOVERY_SHARE_AIM,
        }],
    }
}

fn row(one: &Figures) -> Vec<Value> {
    let failed: u64 = one.registrations.iter().map(|outcome| outcome.failed).sum();
    let sight =
        |q| one.propagation.as_ref().map_or(Value::Null, |sights| ms(sights.value_at_quantile(q)));
    let seconds = |q| match one.failover_us.as_slice() {
        [] => Value::Null,
        sorted => json!(Duration::from_micros(failover::quantile(sorted, q)).as_secs_f64()),
    };
    let mut row = vec![
        json!(one.name),
        json!(one.nodes),
        json!(one.discovery.per_second().round()),
        ms(one.discovery.quantile_us(0.99)),
    ];
    row.extend(one.registrations.iter().map(|outcome| json!(outcome.per_second().round())));
    row.extend([
        ms(one.registrations[1].quantile_us(0.99)),
        json!(failed),
        sight(0.5),
        sight(0.99),
        seconds(0.5),
        seconds(1.0),
    ]);
    row
}
