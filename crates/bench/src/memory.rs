//! Measures the memory per registered instance, and the time until a node has all instances again after a
//! restart.

use std::time::Duration;

use serde_json::json;

use super::process::wait_until;
use super::report::{Goal, Section};
use super::{Bench, node};
use maxine::cli::client::Request;
use maxine::cli::exit::CliError;

/// Number of instances of each service.
const PER_SERVICE: u64 = 100;
/// Time for the allocator to return memory of the load before the measurement, in milliseconds.
const SETTLE_MS: u64 = 3_000;
/// The aim, in bytes per instance.
const AIM_BYTES: u64 = 1_024;

pub(super) async fn measure(bench: &Bench, instances: u64) -> Result<Section, CliError> {
    let mut cluster = node::Cluster::three(bench, &bench.place("memory")?).await?;
    let leader = cluster.leader().await?;
    let empty = resident(&cluster);
    let fill_us = bench.clock.monotonic_us();
    node::fill(&cluster.nodes[leader].addr(), instances, PER_SERVICE).await?;
    let fill_ms = (bench.clock.monotonic_us() - fill_us) / 1_000;
    for n in 0..3 {
        wait_for_instances(&cluster, n, instances).await?;
    }
    tokio::time::sleep(Duration::from_millis(SETTLE_MS)).await;
    let full = resident(&cluster);
    let mut rows = Vec::new();
    for n in 0..3 {
        let role = if n == leader { "leader" } else { "follower" };
        rows.push(vec![
            json!(format!("{role}, after registering")),
            json!(empty[n] / 1_048_576),
            json!(full[n] / 1_048_576),
            json!(full[n].saturating_sub(empty[n]) / instances),
            json!(null),
        ]);
    }
    let follower = (leader + 1) % 3;
    cluster.nodes[follower].kill_and_wait();
    let since_us = bench.clock.monotonic_us();
    cluster.nodes[follower].start()?;
    let node = &cluster.nodes[follower];
    wait_until("the node does not come back", Duration::from_secs(120), || node.is_ready()).await?;
    wait_for_instances(&cluster, follower, instances).await?;
    let restart_ms = (bench.clock.monotonic_us() - since_us) / 1_000;
    tokio::time::sleep(Duration::from_millis(SETTLE_MS)).await;
    let after = resident(&cluster)[follower];
    let bytes = after.saturating_sub(empty[follower]) / instances;
    // A node that was just started may use less than when it was empty, so this figure alone proves nothing.
    let grown = (0..3).map(|n| full[n].saturating_sub(empty[n]) / instances);
    let worst = grown.max().unwrap_or(0).max(bytes);
    rows.push(vec![
        json!("follower, killed and restarted"),
        json!(empty[follower] / 1_048_576),
        json!(after / 1_048_576),
        json!(bytes),
        json!(restart_ms),
    ]);
    Ok(Section {
        name: "Memory and restart",
        method: format!(
            "Three nodes; {instances} instances in services of {PER_SERVICE}, registered in batches in {fill_ms} ms. Memory is \
             VmRSS less that of the node while it was empty; it includes the log's caches. Restart is from kill -9 and start \
             to ready with every instance."
        ),
        columns: vec!["node", "empty MiB", "full MiB", "bytes an instance", "restart ms"],
        rows,
        goals: vec![Goal {
            text: format!("memory an instance at {instances}"),
            aim: format!("{AIM_BYTES} bytes"),
            seen: format!("{worst} bytes on the node that needs most"),
            met: worst <= AIM_BYTES,
        }],
    })
}

fn resident(cluster: &node::Cluster) -> Vec<u64> {
    cluster
        .nodes
        .iter()
        .map(|node| node.server.as_ref().map_or(0, super::process::Server::resident_bytes))
        .collect()
}

async fn wait_for_instances(
    cluster: &node::Cluster,
    n: usize,
    instances: u64,
) -> Result<(), CliError> {
    wait_until("a node does not show every instance", Duration::from_secs(120), || async move {
        let Ok(client) = cluster.client(&[n]).await else { return false };
        let Ok(answer) = client.send(&Request::get(&["cluster", "status"])).await else {
            return false;
        };
        answer.body["totals"]["instances"].as_u64() == Some(instances)
    })
    .await
}
