//! Measures the time from kill -9 of the leader to the next acknowledged write through another node.
//!
//! The prober is the same for both systems. It starts a new write every few milliseconds, whether earlier ones
//! succeeded or not. So a system cannot hide its downtime by waiting or retrying.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::report::{Goal, Section, ms};
use super::wire::{self, Connection};
use super::{Bench, etcd, grpc, node};
use maxine::cli::exit::CliError;

/// Interval between two probes, in milliseconds.
const PROBE_EVERY_MS: u64 = 10;
/// Maximum number of probes in flight.
const PROBES_MAX: usize = 512;
/// Maximum wait for the next acknowledged write, in milliseconds.
const TRIAL_MS_MAX: u64 = 30_000;
/// Pause between the recovery of the cluster and the next kill, in milliseconds.
const SETTLE_MS: u64 = 1_500;
/// The aim for the median, in microseconds.
const P50_AIM_US: u64 = 1_200_000;
/// The aim for the longest trial, in microseconds.
const MAX_AIM_US: u64 = 2_000_000;

pub(super) async fn measure(bench: &Bench, trials: u32) -> Result<Section, CliError> {
    let ours = maxine(bench, trials).await?;
    let theirs = if bench.with_etcd { Some(etcd(bench, trials).await?) } else { None };
    let (our_p50, our_max) = (quantile(&ours, 0.5), quantile(&ours, 1.0));
    let mut rows = vec![row("maxine", &ours)];
    rows.extend(theirs.as_ref().map(|theirs| row("etcd", theirs)));
    let seconds = |us: u64| format!("{:.2} s", Duration::from_micros(us).as_secs_f64());
    let goal = |text: &str, seen: u64, aim: u64| Goal {
        text: text.into(),
        aim: format!("below {}", seconds(aim)),
        seen: seconds(seen),
        met: seen < aim,
    };
    Ok(Section {
        name: "Leader killed to next acknowledged write",
        method: format!(
            "Three nodes each; {trials} times: kill -9 of the leader, a fresh write every {PROBE_EVERY_MS} ms through one of \
             the others until one is acknowledged, then the killed node is started again and {SETTLE_MS} ms pass. Default \
             timeouts on both sides."
        ),
        columns: vec!["server", "trials", "p50 ms", "p90 ms", "max ms"],
        rows,
        goals: vec![
            goal("failover p50", our_p50, P50_AIM_US),
            goal("failover max", our_max, MAX_AIM_US),
        ],
    })
}

pub(super) fn quantile(sorted_us: &[u64], quantile: f64) -> u64 {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 200 trials"
    )]
    let rank = (sorted_us.len() as f64 * quantile).ceil() as usize;
    sorted_us.get(rank.clamp(1, sorted_us.len().max(1)) - 1).copied().unwrap_or(0)
}

fn row(name: &str, sorted_us: &[u64]) -> Vec<Value> {
    let figures = [0.5, 0.9, 1.0].map(|q| ms(quantile(sorted_us, q)));
    [vec![json!(name), json!(sorted_us.len())], figures.to_vec()].concat()
}

async fn maxine(bench: &Bench, trials: u32) -> Result<Vec<u64>, CliError> {
    let mut cluster = node::Cluster::three(bench, &bench.place("failover")?).await?;
    let mut taken_us = Vec::new();
    for trial in 0..trials {
        let leader = cluster.leader().await?;
        let addr = cluster.nodes[(leader + 1 + trial as usize % 2) % 3].addr();
        let since_us = bench.clock.monotonic_us();
        cluster.nodes[leader].kill();
        let write = move |n: u64| {
            let addr = addr.clone();
            async move {
                let path = format!("/api/v1/services/default/failover/instances/t{trial}-{n}");
                let mut connection = Connection::open(&addr).await?;
                match connection
                    .call(&wire::with_json("PUT", &path, &node::registration(n)))
                    .await?
                {
                    (200, _) => Ok(()),
                    (status, _) => Err(io::Error::other(format!("HTTP {status}"))),
                }
            }
        };
        taken_us.push(first_success(bench, since_us, write).await?);
        cluster.nodes[leader].start()?;
        cluster.wait_ready().await?;
        tokio::time::sleep(Duration::from_millis(SETTLE_MS)).await;
    }
    taken_us.sort_unstable();
    Ok(taken_us)
}

async fn etcd(bench: &Bench, trials: u32) -> Result<Vec<u64>, CliError> {
    let mut cluster = etcd::Cluster::start(&bench.place("failover-etcd")?).await?;
    let mut taken_us = Vec::new();
    for trial in 0..trials {
        let leader = cluster
            .leader()
            .await
            .ok_or_else(|| CliError::Failed("no etcd member says that it leads".into()))?;
        let addr = cluster.addrs()[(leader + 1 + trial as usize % 2) % 3].clone();
        let channel = grpc::Channel::open(&addr).await.map_err(super::failed("etcd"))?;
        let since_us = bench.clock.monotonic_us();
        cluster.kill(leader);
        let write = move |n: u64| {
            let mut channel = channel.clone();
            async move {
                channel
                    .put(
                        format!("/failover/t{trial}-{n}").as_bytes(),
                        node::registration(n).as_bytes(),
                    )
                    .await
            }
        };
        taken_us.push(first_success(bench, since_us, write).await?);
        cluster.start_member(leader)?;
        cluster.wait_ready().await?;
        tokio::time::sleep(Duration::from_millis(SETTLE_MS)).await;
    }
    taken_us.sort_unstable();
    Ok(taken_us)
}

/// Starts a write every few milliseconds. Returns the time from `since_us` to the first acknowledged one.
async fn first_success<F, W>(bench: &Bench, since_us: u64, write: W) -> Result<u64, CliError>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
    W: Fn(u64) -> F,
{
    let (sender, mut done) = mpsc::channel::<u64>(1);
    let mut probes = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(PROBE_EVERY_MS));
    let mut n = 0;
    let search = async {
        loop {
            tokio::select! {
                Some(at_us) = done.recv() => return at_us,
                Some(_) = probes.join_next(), if !probes.is_empty() => {}
                _ = ticks.tick(), if probes.len() < PROBES_MAX => {
                    let (write, sender, clock) = (write(n), sender.clone(), bench.clock.clone());
                    n += 1;
                    probes.spawn(async move {
                        if write.await.is_ok() {
                            // If the channel is full, an earlier write has succeeded.
                            let _ = sender.try_send(clock.monotonic_us());
                        }
                    });
                }
            }
        }
    };
    let at_us =
        tokio::time::timeout(Duration::from_millis(TRIAL_MS_MAX), search).await.map_err(|_| {
            CliError::Failed(format!(
                "no write was acknowledged in {TRIAL_MS_MAX} ms after the kill"
            ))
        })?;
    probes.abort_all();
    Ok(at_us.saturating_sub(since_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_trials_themselves() {
        let sorted = [1, 2, 3, 4];
        assert_eq!(quantile(&sorted, 0.5), 2);
        assert_eq!(quantile(&sorted, 1.0), 4);
        assert_eq!(quantile(&[], 0.5), 0);
    }
}
