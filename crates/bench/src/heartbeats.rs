//! Measures heartbeats through the batch endpoint of three nodes.

use std::time::Duration;

use serde_json::json;

use super::load::Run;
use super::report::{Goal, Section, ms};
use super::wire::{self, Connection};
use super::{Bench, node};
use maxine::cli::exit::CliError;

/// Number of registered instances.
const INSTANCES: u64 = 10_000;
/// Number of instances of each service.
const PER_SERVICE: u64 = 100;
/// Number of connections of the load.
const CONNECTIONS: u64 = 12;
/// Number of heartbeats in one request.
const BATCHES: [u64; 3] = [1, 100, 1_000];
/// The aim, in heartbeats per second.
const AIM: f64 = 100_000.0;

pub(super) async fn measure(bench: &Bench) -> Result<Section, CliError> {
    let cluster = node::Cluster::three(bench, &bench.place("heartbeats")?).await?;
    let leader = cluster.leader().await?;
    let addrs = cluster.addrs();
    node::fill(&addrs[leader], INSTANCES, PER_SERVICE).await?;
    let mut rows = Vec::new();
    let mut best: f64 = 0.0;
    for (name, to) in [("all three", addrs.clone()), ("the leader", vec![addrs[leader].clone()])] {
        for batch in BATCHES {
            let run = Run::new(&bench.clock);
            let clients = (0..CONNECTIONS)
                .map(|client| {
                    let addr = to[usize::try_from(client).unwrap_or(0) % to.len()].clone();
                    beat(run.clone(), addr, requests(client, batch), batch)
                })
                .collect();
            let outcome = run
                .drive(clients, Duration::from_secs(bench.seconds))
                .await
                .map_err(super::failed("heartbeats"))?;
            best = best.max(outcome.per_second());
            rows.push(vec![
                json!(name),
                json!(batch),
                json!(outcome.per_second().round()),
                ms(outcome.quantile_us(0.5)),
                ms(outcome.quantile_us(0.99)),
                json!(outcome.failed),
            ]);
            if let Some(why) = outcome.first_failure {
                return Err(CliError::Failed(format!(
                    "heartbeats: {} failed: {why}",
                    outcome.failed
                )));
            }
        }
    }
    Ok(Section {
        name: "Heartbeats",
        method: format!(
            "POST /heartbeats on three nodes with {INSTANCES} instances registered, {CONNECTIONS} connections, {} s a case; \
             load and nodes share all cores. Answers that name an unknown instance count as failed.",
            bench.seconds
        ),
        columns: vec!["sent to", "batch", "per second", "p50 ms", "p99 ms", "failed"],
        rows,
        goals: vec![Goal {
            text: "heartbeats a second through the batch endpoint".into(),
            aim: format!("{AIM:.0}"),
            seen: format!("{best:.0}"),
            met: best >= AIM,
        }],
    })
}

/// Requests that together renew a share of the instances. They are prepared in advance.
fn requests(client: u64, batch: u64) -> Vec<Vec<u8>> {
    let share = INSTANCES / CONNECTIONS;
    let first = client * share;
    (0..(share / batch).max(1))
        .map(|request| {
            let items: Vec<String> = (0..batch)
                .map(|item| {
                    let n = (first + request * batch + item) % INSTANCES;
                    format!(
                        "{{\"service\":\"s{}\",\"id\":\"i{}\"}}",
                        n / PER_SERVICE,
                        n % PER_SERVICE
                    )
                })
                .collect();
            wire::with_json(
                "POST",
                "/api/v1/heartbeats",
                &format!("{{\"items\":[{}]}}", items.join(",")),
            )
        })
        .collect()
}

async fn beat(run: Run, addr: String, requests: Vec<Vec<u8>>, batch: u64) -> std::io::Result<()> {
    let mut connection = Connection::open(&addr).await?;
    let mut next = 0;
    while run.goes_on() {
        let since_us = run.now_us();
        let (status, body) = connection.call(&requests[next % requests.len()]).await?;
        next += 1;
        if status == 200 && body.windows(2).any(|window| window == b"[]") {
            run.acknowledged(since_us, batch);
        } else {
            run.failed(|| {
                format!("HTTP {status}: {}", String::from_utf8_lossy(&body[..body.len().min(300)]))
            });
        }
    }
    Ok(())
}
