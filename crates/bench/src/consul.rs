//! Measures Consul's API beside the native API: the same work on the same nodes, in turns.

mod readers;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde_json::{Value, json};

use super::node::{self, Cluster};
use super::process::Server;
use super::registrations::{self, Load};
use super::report::{Goal, Section, ms};
use super::turns::{
    CONNECTIONS, SERVER_CORE, TURNS, Target, Turn, median, take_turns, turn_length,
};
use super::wire::{self, Connection};
use super::{Bench, failed};
use maxine::cli::exit::CliError;

/// The option of a node with which both APIs share a port, and so its limits.
const ON_HTTP: &str = "--consul-on-http=true";
/// Number of services whose instances are read, and whose checks are reported.
const SERVICES: u64 = 1_000;
/// Number of instances of each of them.
const PER_SERVICE: u64 = 10;
/// Number of turns of registrations of each API. There are fewer than of reads, because each adds thousands of
/// instances to the nodes.
const REGISTRATION_TURNS: usize = 3;
/// The aim for the throughput of reads and registrations, as a share of the native API's.
const SHARE_AIM: f64 = 0.9;
/// The aim for the processor time of a pass, as a multiple of that of a native heartbeat.
const PASS_COST_AIM: f64 = 1.0;
/// The columns of [`figures`].
const FIGURES: [&str; 7] =
    ["per second", "% of native", "p50 ms", "p99 ms", "cpu us each", "% of native cpu", "busy %"];

pub(super) async fn measure(bench: &Bench, readers: u64) -> Result<Vec<Section>, CliError> {
    // The nodes inherit the limit, so this comes first.
    readers::check_file_limit(readers)?;
    let [reads, passes] = on_one_node(bench).await?;
    let registrations = registrations(bench).await?;
    Ok(vec![reads, passes, registrations, readers::measure(bench, readers).await?])
}

/// Measures reads and passes. The instances of Consul's clients are in services `c0`, `c1` and so on, and as many of
/// the native API in `s0`, `s1` and so on.
async fn on_one_node(bench: &Bench) -> Result<[Section; 2], CliError> {
    let cluster =
        Cluster::single_with(bench, &bench.place("consul")?, SERVER_CORE, &[ON_HTTP]).await?;
    let (server, addr) = (cluster.nodes[0].running()?, cluster.nodes[0].addr());
    let count = SERVICES * PER_SERVICE;
    node::fill(&addr, count, PER_SERVICE).await?;
    node::send_all(&addr, count, |n| registration(n, PER_SERVICE)).await?;
    // The first report of a check may be written to the log. Later ones only move its deadline.
    node::send_all(&addr, count, pass).await?;
    check_reads(&addr).await?;
    Ok([reads(bench, server, &addr).await?, passes(bench, server, &addr).await?])
}

async fn reads(bench: &Bench, server: &Server, addr: &str) -> Result<Section, CliError> {
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    for services in [1, SERVICES] {
        let side = |name, path: fn(u64) -> String| Target {
            name,
            server,
            addr: addr.to_owned(),
            requests: Arc::new((0..services).map(|n| wire::get(&path(n))).collect()),
            status: 200,
        };
        let sides = [side("native list", native_read), side("Consul health", consul_read)];
        let turns = take_turns(bench, &sides).await?;
        for (side, turn) in sides.iter().zip(&turns) {
            let mut row = vec![json!(services), json!(side.name)];
            row.extend(figures(turn, &turns[0]));
            rows.push(row);
        }
        let what = format!("Consul reads, services: {services}");
        goals.push(share_goal(&what, &turns[1], &turns[0]));
        goals.push(cost_goal(&what, &turns[1], &turns[0], 1.0 / SHARE_AIM));
    }
    Ok(Section {
        name: "Consul's API: reads",
        method: format!(
            "One node (a Raft cluster of one) on one core with {SERVICES} services of {PER_SERVICE} instances with a passing TTL \
             check. GET /v1/health/service/NAME?passing beside GET /api/v1/services/default/NAME/instances?health=routable, \
             of one service or of all in turn, with the default consistency of each and without a token; {CONNECTIONS} \
             keep-alive connections from the other core, {TURNS} turns of {:.1} s each, median.",
            turn_length(bench).as_secs_f64()
        ),
        columns: columns(&["services", "read"]),
        rows,
        goals,
    })
}

async fn passes(bench: &Bench, server: &Server, addr: &str) -> Result<Section, CliError> {
    let count = SERVICES * PER_SERVICE;
    let side = |name, request: fn(u64) -> Vec<u8>, status| Target {
        name,
        server,
        addr: addr.to_owned(),
        requests: Arc::new((0..count).map(|n| request(n * 7_919 % count)).collect()),
        status,
    };
    let sides = [side("native heartbeat", heartbeat, 204), side("Consul TTL pass", pass, 200)];
    let turns = take_turns(bench, &sides).await?;
    let rows = sides.iter().zip(&turns).map(|(side, turn)| {
        let mut row = vec![json!(side.name)];
        row.extend(figures(turn, &turns[0]));
        row
    });
    Ok(Section {
        name: "Consul's API: TTL passes",
        method: format!(
            "The same node and connections; {count} instances with a TTL check of Consul, and {count} with a lease of the native \
             API. PUT /v1/agent/check/pass/service:ID beside POST /api/v1/services/default/NAME/instances/ID/heartbeat, one in \
             a request, of all instances in turn; {TURNS} turns of {:.1} s each, median.",
            turn_length(bench).as_secs_f64()
        ),
        columns: columns(&["request"]),
        rows: rows.collect(),
        goals: vec![cost_goal("TTL passes", &turns[1], &turns[0], PASS_COST_AIM)],
    })
}

async fn registrations(bench: &Bench) -> Result<Section, CliError> {
    let place = bench.place("consul-registrations")?;
    let cluster = Cluster::three_with(bench, &place, &[ON_HTTP]).await?;
    let (mut native, mut consul) = (Vec::new(), Vec::new());
    // Numbers continue over all turns, so that every registration is new and goes through the log.
    let (native_numbers, consul_numbers) = (Arc::new(AtomicU64::new(0)), Arc::default());
    let load = |request: fn(u64, u64) -> Vec<u8>| Load {
        clients: CONNECTIONS,
        batch: 1,
        duration: turn_length(bench),
        request,
    };
    let native_load = load(registrations::registration_request);
    let consul_load = load(|n, _| registration(n, registrations::PER_SERVICE));
    for _ in 0..REGISTRATION_TURNS {
        native.push(registration_turn(bench, &cluster, &native_load, &native_numbers).await?);
        consul.push(registration_turn(bench, &cluster, &consul_load, &consul_numbers).await?);
    }
    let (native, consul) = (median(native), median(consul));
    let rows = [("native", &native), ("Consul", &consul)].map(|(name, turn)| {
        let mut row = vec![json!(name)];
        row.extend(figures(turn, &native));
        row
    });
    Ok(Section {
        name: "Consul's API: durable registrations",
        method: format!(
            "Three nodes on this machine's one disk, {CONNECTIONS} clients spread evenly over them. PUT \
             /v1/agent/service/register with a TTL check beside PUT of an instance in the native API, each of a new instance; \
             {REGISTRATION_TURNS} turns of {:.1} s each on the same nodes, median. Load and nodes share all cores; the \
             processor time is that of the three nodes.",
            turn_length(bench).as_secs_f64()
        ),
        columns: columns(&["API"]),
        rows: rows.into(),
        goals: vec![
            share_goal("Consul registrations", &consul, &native),
            cost_goal("Consul registrations", &consul, &native, 1.0 / SHARE_AIM),
        ],
    })
}

/// One turn of registrations. Fails if one of them fails.
async fn registration_turn(
    bench: &Bench,
    cluster: &Cluster,
    load: &Load,
    numbers: &Arc<AtomicU64>,
) -> Result<Turn, CliError> {
    let cpu_us = || -> u64 {
        cluster.nodes.iter().map(|node| node.server.as_ref().map_or(0, Server::cpu_us)).sum()
    };
    let (cpu_before, time_before) = (cpu_us(), bench.clock.monotonic_us());
    let outcome = registrations::register(bench, cluster, load, numbers).await?;
    let (cpu_us, time_us) = (cpu_us() - cpu_before, bench.clock.monotonic_us() - time_before);
    Ok(Turn::new(outcome.complete("registrations")?, cpu_us, time_us))
}

/// Fails unless both reads answer with all instances, because an answer with fewer takes less time.
async fn check_reads(addr: &str) -> Result<(), CliError> {
    for (path, list) in [(native_read(0), "/items"), (consul_read(0), "")] {
        let answer = read(addr, &path).await.map_err(failed("reading a service"))?;
        let found = answer.pointer(list).and_then(Value::as_array).map_or(0, Vec::len);
        if found as u64 != PER_SERVICE {
            let why = format!("GET {path}: {found} instances, not {PER_SERVICE}: {answer}");
            return Err(CliError::Failed(why));
        }
    }
    Ok(())
}

async fn read(addr: &str, path: &str) -> io::Result<Value> {
    let mut connection = Connection::open(addr).await?;
    let (_, body) = connection.call(&wire::get(path)).await?;
    Ok(serde_json::from_slice(body)?)
}

/// The native read that is nearest to Consul's: the instances of a service that may get traffic, with their checks.
fn native_read(service: u64) -> String {
    format!("/api/v1/services/default/c{service}/instances?health=routable")
}

fn consul_read(service: u64) -> String {
    format!("/v1/health/service/c{service}?passing")
}

/// The heartbeat of the `n`-th instance of the native API.
fn heartbeat(n: u64) -> Vec<u8> {
    let (service, id) = (n / PER_SERVICE, n % PER_SERVICE);
    let path = format!("/api/v1/services/default/s{service}/instances/i{id}/heartbeat");
    wire::without_body("POST", &path)
}

/// The pass of the `n`-th instance of Consul's clients.
fn pass(n: u64) -> Vec<u8> {
    let path = format!("/v1/agent/check/pass/service:{}", consul_id(n, PER_SERVICE));
    wire::without_body("PUT", &path)
}

/// The registration of the `n`-th instance through Consul's API, with about the content of [`node::registration`].
fn registration(n: u64, per_service: u64) -> Vec<u8> {
    let body = json!({
        "ID": consul_id(n, per_service),
        "Name": format!("c{}", n / per_service),
        "Address": format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255),
        "Port": 8080,
        "Tags": ["blue"],
        "Meta": {"zone": "eu-1a", "version": "1.4.0"},
        "Check": {"TTL": "1h", "Status": "passing"},
    });
    wire::with_json("PUT", "/v1/agent/service/register", &body.to_string())
}

/// An id. Consul's are unique among all services.
fn consul_id(n: u64, per_service: u64) -> String {
    format!("c{}-{}", n / per_service, n % per_service)
}

fn columns(first: &[&'static str]) -> Vec<&'static str> {
    [first, &FIGURES].concat()
}

/// The figures of a turn, beside those of the native API.
fn figures(turn: &Turn, native: &Turn) -> Vec<Value> {
    let percent = |share: f64| json!((share * 100.0).round());
    vec![
        json!(turn.outcome.per_second().round()),
        percent(share(turn, native)),
        ms(turn.outcome.quantile_us(0.5)),
        ms(turn.outcome.quantile_us(0.99)),
        json!(turn.cpu_us_each),
        percent(cost(turn, native)),
        percent(turn.busy),
    ]
}

/// The throughput as a share of that of the native API.
fn share(turn: &Turn, native: &Turn) -> f64 {
    turn.outcome.per_second() / native.outcome.per_second().max(1.0)
}

/// The processor time of a request as a multiple of that of the native API.
fn cost(turn: &Turn, native: &Turn) -> f64 {
    turn.cpu_us_each / native.cpu_us_each.max(0.001)
}

fn share_goal(what: &str, turn: &Turn, native: &Turn) -> Goal {
    let share = share(turn, native);
    Goal {
        text: format!("{what}: per second"),
        aim: format!("at least {:.0} % of the native API", SHARE_AIM * 100.0),
        seen: format!("{:.0} %", share * 100.0),
        met: share >= SHARE_AIM,
    }
}

fn cost_goal(what: &str, turn: &Turn, native: &Turn, aim: f64) -> Goal {
    let cost = cost(turn, native);
    Goal {
        text: format!("{what}: processor time of a request"),
        aim: format!("at most {:.0} % of the native API", aim * 100.0),
        seen: format!("{:.1} us, {:.0} %", turn.cpu_us_each, cost * 100.0),
        met: cost <= aim,
    }
}
