//! Measures durable registrations on three nodes and etcd's puts on three members, with the same numbers of
//! clients.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::load::{Outcome, Run};
use super::report::{Goal, Section, ms};
use super::wire::{self, Connection};
use super::{Bench, etcd, grpc, node, one_write};
use maxine::cli::exit::CliError;

/// Number of clients, instances per request, and the aim in registrations per second.
const CASES: [(usize, u64, f64); 4] =
    [(1, 1, 1_500.0), (64, 1, 15_000.0), (256, 1, 25_000.0), (16, 100, 30_000.0)];
/// Maximum number of gRPC connections to etcd. Clients share them, as etcd's own client library does.
const ETCD_CHANNELS_MAX: usize = 12;

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Section>, CliError> {
    let mut ours = Vec::new();
    let one_write = {
        let dir = bench.place("registrations")?;
        let cluster = node::Cluster::three(bench, &dir).await?;
        // Numbers continue over all cases, so that every registration is new and goes through the log.
        let numbers = Arc::new(AtomicU64::new(0));
        for (clients, batch, _) in CASES {
            ours.push(maxine(bench, &cluster, clients, batch, &numbers).await?);
        }
        one_write::measure(bench, &cluster, &dir, registration_request, &numbers).await?
    };
    let mut theirs = Vec::new();
    if bench.with_etcd {
        let cluster = etcd::Cluster::start(&bench.place("registrations-etcd")?).await?;
        let numbers = Arc::new(AtomicU64::new(0));
        for (clients, batch, _) in CASES {
            theirs.push(etcd(bench, &cluster, clients, batch, &numbers).await?);
        }
    }
    Ok(vec![section(bench, &ours, &theirs), one_write])
}

fn section(bench: &Bench, ours: &[Outcome], theirs: &[Outcome]) -> Section {
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    for (n, (clients, batch, aim)) in CASES.into_iter().enumerate() {
        let (our, their) = (&ours[n], theirs.get(n));
        let mut row = vec![json!(clients), json!(batch)];
        row.extend(figures(Some(our)));
        row.extend(figures(their));
        row.push(
            their
                .map_or(Value::Null, |their| json!(our.per_second() / their.per_second().max(1.0))),
        );
        rows.push(row);
        let what = if batch == 1 {
            format!("{clients} clients")
        } else {
            format!("{clients} clients, batches of {batch}")
        };
        goals.push(Goal {
            text: format!("registrations a second, {what}"),
            aim: format!("{aim:.0}"),
            seen: format!("{:.0}", our.per_second()),
            met: our.per_second() >= aim,
        });
        if let Some(their) = their {
            goals.push(Goal {
                text: format!("ahead of etcd, {what}"),
                aim: format!("{:.0}", their.per_second()),
                seen: format!("{:.0}", our.per_second()),
                met: our.per_second() > their.per_second(),
            });
        }
    }
    Section {
        name: "Durable registrations",
        method: format!(
            "Three nodes each, on this machine's one disk; {} s a case; clients are spread evenly over the three nodes, so \
             most writes are forwarded to the leader, in both. Maxine: PUT of a new instance over HTTP/1.1 keep-alive, one \
             connection a client, batches through POST /registrations. etcd: Put of the same JSON under a new key over gRPC, \
             clients share up to {ETCD_CHANNELS_MAX} connections, batches as one transaction.",
            bench.seconds
        ),
        columns: vec![
            "clients",
            "batch",
            "maxine/s",
            "p50 ms",
            "p99 ms",
            "failed",
            "etcd/s",
            "etcd p50 ms",
            "etcd p99 ms",
            "etcd failed",
            "times etcd",
        ],
        rows,
        goals,
    }
}

fn figures(outcome: Option<&Outcome>) -> [Value; 4] {
    outcome.map_or([Value::Null, Value::Null, Value::Null, Value::Null], |outcome| {
        let quantile = |q| ms(outcome.quantile_us(q));
        [json!(outcome.per_second().round()), quantile(0.5), quantile(0.99), json!(outcome.failed)]
    })
}

/// Maximum number of instances per service, so that no service is larger than usual.
pub(super) const PER_SERVICE: u64 = 100;

/// A load of registrations.
pub(super) struct Load {
    /// Number of clients, which are spread evenly over the nodes.
    pub clients: usize,
    /// Number of instances in one request.
    pub batch: u64,
    /// How long it lasts.
    pub duration: Duration,
    /// Makes the request that registers `batch` instances, from number `first` on.
    pub request: fn(first: u64, batch: u64) -> Vec<u8>,
}

/// Registrations through the native API.
pub(super) async fn maxine(
    bench: &Bench,
    cluster: &node::Cluster,
    clients: usize,
    batch: u64,
    numbers: &Arc<AtomicU64>,
) -> Result<Outcome, CliError> {
    let duration = Duration::from_secs(bench.seconds);
    let load = Load { clients, batch, duration, request: registration_request };
    register(bench, cluster, &load, numbers).await
}

/// Registers instances, with numbers that no other request has.
pub(super) async fn register(
    bench: &Bench,
    cluster: &node::Cluster,
    load: &Load,
    numbers: &Arc<AtomicU64>,
) -> Result<Outcome, CliError> {
    let run = Run::new(&bench.clock);
    let addrs = cluster.addrs();
    let Load { clients, batch, duration, request } = *load;
    let tasks = (0..clients)
        .map(|client| {
            let (run, addr, numbers) =
                (run.clone(), addrs[client % addrs.len()].clone(), numbers.clone());
            async move {
                let mut connection = Connection::open(&addr).await?;
                while run.goes_on() {
                    let first = numbers.fetch_add(batch, Ordering::Relaxed);
                    let bytes = request(first, batch);
                    let since_us = run.now_us();
                    let (status, body) = connection.call(&bytes).await?;
                    if status == 200 && !node::has_problem(body) {
                        run.acknowledged(since_us, batch);
                    } else {
                        run.failed(|| {
                            format!(
                                "HTTP {status}: {}",
                                String::from_utf8_lossy(&body[..body.len().min(300)])
                            )
                        });
                    }
                }
                Ok(())
            }
        })
        .collect();
    finish(run.drive(tasks, duration).await, "registrations")
}

/// The request of the native API that registers `batch` instances, from number `first` on.
pub(super) fn registration_request(first: u64, batch: u64) -> Vec<u8> {
    let service = |n: u64| format!("s{}", n / PER_SERVICE);
    let id = |n: u64| format!("i{}", n % PER_SERVICE);
    if batch == 1 {
        let path = format!("/api/v1/services/default/{}/instances/{}", service(first), id(first));
        return wire::with_json("PUT", &path, &node::registration(first));
    }
    let items: Vec<String> =
        (first..first + batch).map(|n| node::batch_item(&service(n), &id(n), n)).collect();
    wire::with_json(
        "POST",
        "/api/v1/registrations",
        &format!("{{\"items\":[{}]}}", items.join(",")),
    )
}

async fn etcd(
    bench: &Bench,
    cluster: &etcd::Cluster,
    clients: usize,
    batch: u64,
    numbers: &Arc<AtomicU64>,
) -> Result<Outcome, CliError> {
    let addrs = cluster.addrs();
    let mut channels = Vec::new();
    for n in 0..clients.min(ETCD_CHANNELS_MAX) {
        channels.push(
            grpc::Channel::open(&addrs[n % addrs.len()]).await.map_err(super::failed("etcd"))?,
        );
    }
    let run = Run::new(&bench.clock);
    let tasks = (0..clients)
        .map(|client| {
            let (run, numbers) = (run.clone(), numbers.clone());
            let mut channel = channels[client % channels.len()].clone();
            async move {
                while run.goes_on() {
                    let first = numbers.fetch_add(batch, Ordering::Relaxed);
                    let pairs: Vec<(Vec<u8>, Vec<u8>)> = (first..first + batch)
                        .map(|n| {
                            let key = format!(
                                "/maxine/default/s{}/i{}",
                                n / PER_SERVICE,
                                n % PER_SERVICE
                            );
                            (key.into_bytes(), node::registration(n).into_bytes())
                        })
                        .collect();
                    let since_us = run.now_us();
                    let written = match &pairs[..] {
                        [(key, value)] => channel.put(key, value).await,
                        pairs => channel.put_all(pairs).await,
                    };
                    match written {
                        Ok(()) => run.acknowledged(since_us, batch),
                        Err(error) => run.failed(|| error.to_string()),
                    }
                }
                Ok(())
            }
        })
        .collect();
    finish(run.drive(tasks, Duration::from_secs(bench.seconds)).await, "etcd's puts")
}

fn finish(result: io::Result<Outcome>, what: &str) -> Result<Outcome, CliError> {
    let outcome = result.map_err(super::failed(what))?;
    match &outcome.first_failure {
        Some(why) if outcome.units == 0 => {
            Err(CliError::Failed(format!("{what}: none was acknowledged: {why}")))
        }
        _ => Ok(outcome),
    }
}
