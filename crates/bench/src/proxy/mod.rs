//! Measures the reverse proxy, HAProxy and nginx. Each runs on the same core, and the load and the instance on
//! another, in turns.

mod bare;
mod rivals;
mod table;
mod traffic;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};

use super::load::Outcome;
use super::process::{self, Server};
use super::report::Section;
use super::{Bench, failed, node, wire};
use maxine::cli::client::Request;
use maxine::cli::exit::CliError;
use rivals::Rival;
use traffic::{Plan, Traffic};

pub(super) use bare::serve as serve_bare;

/// Number of keep-alive connections of the load.
const CONNECTIONS: usize = 64;
/// Number of turns of each side; the median counts.
const TURNS: usize = 3;
/// The core of the proxies.
const SERVER_CORE: usize = 0;
/// The core of the load and the instance.
const LOAD_CORE: usize = 1;
/// The rate at which added latency is measured, in requests per second.
const PACED_PER_SECOND: u64 = 1_000;
/// Number of idle connections whose memory is measured.
const IDLE: usize = 10_000;
/// Time at the beginning of each turn in which answers are not counted.
const WARMUP: Duration = Duration::from_millis(300);
/// Number of further services that are registered for the row with many services.
const MANY_SERVICES: u64 = 10_000;

/// The zone of the node and of the instance.
const ZONE: &str = "here";

/// A policy with every part that costs work for a request, but neither refuses nor delays one. Hedging sends no second
/// request, because the instance answers much sooner. A mirror is left out: it would send every request twice.
const FULL_POLICY: &str = r#"{"selection":{"strategy":"least_request"},"traffic":{
    "timeouts":{"total_ms":60000},
    "retries":{"statuses":[503]},
    "hedging":{"after_ms":60000},
    "circuit_breaker":{},
    "outlier_ejection":{},
    "rate_limit":{"requests_per_s":1000000,"burst":1000000},
    "request_headers":{"remove":["x-one"],"set":[["x-two","2"]],"add":[["x-three","3"]]},
    "response_headers":{"remove":["server"],"set":[["x-four","4"]]},
    "rewrite":{"strip_prefix":"/a","add_prefix":"/b"},
    "prefix":{},
    "split":[{"version":"1","weight":1}],
    "sticky":{"header":{"name":"x-user"}},
    "zone":{},
    "latency_aware":true}}"#;

/// One side of the comparison: a proxy, or the instance without a proxy.
struct Side {
    name: String,
    server: Option<Arc<Server>>,
    target: SocketAddr,
    requests: Vec<Vec<u8>>,
}

/// The load generator. Each turn runs it on a thread that is bound to its core.
#[derive(Clone)]
struct Loader {
    traffic: Arc<Mutex<Traffic>>,
    seconds: u64,
}

pub(super) async fn measure(bench: &mut Bench) -> Result<Vec<Section>, CliError> {
    process::raise_file_limit();
    let traffic = Traffic::new(bench.clock.clone()).map_err(failed("the instance"))?;
    let upstream = traffic.addr().map_err(failed("the instance"))?;
    let loader = Loader { traffic: Arc::new(Mutex::new(traffic)), seconds: bench.seconds };

    let mut sides = vec![Side::direct(upstream)];
    for rival in [Rival::Nginx, Rival::Haproxy, Rival::Bare] {
        let Some(version) = rival.version() else {
            bench.notes.push(format!("{} is not installed, so its rows are missing", rival.name()));
            continue;
        };
        let dir = bench.place(&format!("proxy-{rival:?}"))?;
        let (server, target) = rival.start(&dir, upstream).await?;
        let name = match rival {
            Rival::Bare => rival.name().to_owned(),
            _ => format!("{} {version}", rival.name()),
        };
        let requests = vec![wire::get("/")];
        sides.push(Side { name, server: Some(Arc::new(server)), target, requests });
    }
    let dir = bench.place("proxy-maxine")?;
    let mut cluster =
        node::Cluster::single_with(bench, &dir, SERVER_CORE, &[&format!("--zone={ZONE}")]).await?;
    let addr = cluster.addrs().swap_remove(0);
    prepare_services(&cluster, upstream).await?;
    let server = cluster.nodes[0].server.take();
    let server =
        Arc::new(server.ok_or_else(|| CliError::Failed("the node is not running".into()))?);
    let target: SocketAddr =
        addr.parse().map_err(|_| CliError::Failed("the node's address".into()))?;
    let maxine = |name: &str, services: &[String]| Side {
        name: name.to_owned(),
        server: Some(Arc::clone(&server)),
        target,
        requests: services.iter().map(|service| wire::get(&path_of(service))).collect(),
    };
    sides.push(maxine("Maxine", &["plain".to_owned()]));
    sides.push(maxine("Maxine, every policy set but mirror", &["full".to_owned()]));

    let mut runs = loader.turns(&sides).await?;
    let latency = added_latency(&loader, &sides[..sides.len() - 1]).await?;
    let memory = idle_memory(&loader, &sides[1..sides.len() - 1]).await?;

    node::fill(&addr, MANY_SERVICES, 1).await?;
    let many = [maxine("Maxine, 10,000 services", &["plain".to_owned()])];
    runs.extend(loader.turns(&many).await?);
    sides.extend(many);
    Ok(vec![table::throughput(bench, &sides, &runs)?, latency, memory])
}

fn path_of(service: &str) -> String {
    format!("/api/maxine/serviceops/proxy/{service}/")
}

/// Registers the one instance under two services, and gives one of them a policy.
async fn prepare_services(cluster: &node::Cluster, upstream: SocketAddr) -> Result<(), CliError> {
    let client = cluster.client(&[0]).await?;
    let policy: Value = serde_json::from_str(FULL_POLICY)
        .map_err(|error| CliError::Failed(format!("the policy: {error}")))?;
    for service in ["plain", "full"] {
        let address = format!("http://{upstream}");
        let body = json!({"address": address, "ttl_ms": 3_600_000, "version": "1", "zone": ZONE});
        let path = ["services", "default", service, "instances", "one"];
        client.send(&Request::keyed(Method::PUT, &path).json(body)).await?;
    }
    // Without `create`, a policy can be set only for a registered service, so this comes last.
    client
        .send(&Request::keyed(Method::PUT, &["services", "default", "full", "policy"]).json(policy))
        .await?;
    Ok(())
}

impl Side {
    fn direct(upstream: SocketAddr) -> Self {
        let requests = vec![wire::get("/")];
        Self { name: "direct, no proxy".into(), server: None, target: upstream, requests }
    }

    fn plan(&self, seconds: u64, per_second: Option<u64>) -> Plan {
        Plan {
            target: self.target,
            requests: self.requests.clone(),
            connections: CONNECTIONS,
            per_second,
            warmup_us: u64::try_from(WARMUP.as_micros()).unwrap_or(0),
            measured_us: seconds * 1_000_000,
        }
    }
}

impl Loader {
    /// Runs `work` with the generator on the core of the load.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Traffic) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, CliError> {
        let traffic = Arc::clone(&self.traffic);
        let worker = tokio::task::spawn_blocking(move || {
            process::on_core(Some(LOAD_CORE), || work(&mut traffic.lock()))
        });
        worker
            .await
            .map_err(|error| CliError::Failed(format!("the load generator ended: {error}")))??
            .map_err(failed("the load on a proxy"))
    }

    /// Runs one turn. Returns the outcome, and the server's share of its core, from 0 to 1.
    async fn turn(&self, side: &Side, pace: Option<u64>) -> Result<(Outcome, f64), CliError> {
        let plan = side.plan(self.seconds, pace);
        let wall_us = plan.measured_us + plan.warmup_us;
        let cpu_us = || side.server.as_ref().map_or(0, |server| server.cpu_us());
        let before_us = cpu_us();
        let outcome = self.with(move |traffic| traffic.run(&plan)).await?;
        if outcome.failed > 0 {
            let why = outcome.first_failure.unwrap_or_default();
            return Err(CliError::Failed(format!(
                "{}: {} requests failed: {why}",
                side.name, outcome.failed
            )));
        }
        #[allow(clippy::cast_precision_loss, reason = "microseconds of a run are far below 2^52")]
        let busy = (cpu_us() - before_us) as f64 / wall_us as f64;
        Ok((outcome, busy))
    }

    /// Runs all sides one after the other, several times. Returns the median turn of each side.
    async fn turns(&self, sides: &[Side]) -> Result<Vec<(Outcome, f64)>, CliError> {
        let mut turns: Vec<Vec<(Outcome, f64)>> = sides.iter().map(|_| Vec::new()).collect();
        for _ in 0..TURNS {
            for (side, turns) in sides.iter().zip(&mut turns) {
                turns.push(self.turn(side, None).await?);
            }
        }
        let median = |mut turns: Vec<(Outcome, f64)>| {
            turns.sort_by(|a, b| a.0.per_second().total_cmp(&b.0.per_second()));
            turns.swap_remove(turns.len() / 2)
        };
        Ok(turns.into_iter().map(median).collect())
    }
}

/// Measures how much latency each proxy adds under a light load.
async fn added_latency(loader: &Loader, sides: &[Side]) -> Result<Section, CliError> {
    let mut rows = Vec::new();
    let mut direct = (0, 0);
    for side in sides {
        let (outcome, _) = loader.turn(side, Some(PACED_PER_SECOND)).await?;
        let quantiles = (outcome.quantile_us(0.5), outcome.quantile_us(0.99));
        if side.server.is_none() {
            direct = quantiles;
        }
        rows.push(vec![
            json!(side.name),
            json!(quantiles.0),
            json!(quantiles.1),
            json!(outcome.quantile_us(0.999)),
            json!(quantiles.0.saturating_sub(direct.0)),
            json!(quantiles.1.saturating_sub(direct.1)),
        ]);
    }
    Ok(Section {
        name: "Reverse proxy: added latency",
        method: format!(
            "{PACED_PER_SECOND} requests per second at even intervals over {CONNECTIONS} connections, counted from when \
             each was due; {} s each, same cores.",
            loader.seconds
        ),
        columns: vec!["proxy", "p50 us", "p99 us", "p99.9 us", "added p50 us", "added p99 us"],
        rows,
        goals: Vec::new(),
    })
}

/// Measures the memory that open, idle connections need.
async fn idle_memory(loader: &Loader, sides: &[Side]) -> Result<Section, CliError> {
    let mut rows = Vec::new();
    for side in sides {
        let Some(server) = &side.server else { continue };
        let before = server.resident_bytes();
        let (target, request) = (side.target, side.requests[0].clone());
        let open = loader.with(move |traffic| traffic.idle(target, &request, IDLE)).await?;
        let after = server.resident_bytes();
        drop(open);
        #[allow(clippy::cast_precision_loss, reason = "bytes of a process are far below 2^52")]
        let each_kib = after.saturating_sub(before) as f64 / IDLE as f64 / 1_024.0;
        let mib = |bytes: u64| json!(bytes / (1 << 20));
        rows.push(vec![json!(side.name), mib(before), mib(after), json!(each_kib)]);
    }
    Ok(Section {
        name: "Reverse proxy: idle connections",
        method: format!(
            "Resident memory before and with {IDLE} open connections, each of which had one request answered. The memory \
             before is what the throughput runs left."
        ),
        columns: vec!["proxy", "before MiB", "with MiB", "KiB each"],
        rows,
        goals: Vec::new(),
    })
}
