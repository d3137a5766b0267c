//! Measures the time from a fault of the leader to the next acknowledged write through another node.
//!
//! The prober is the same for both systems. It starts a new write every few milliseconds, whether earlier ones
//! succeeded or not. So a system cannot hide its downtime by waiting or retrying.

use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::process::Server;
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
/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Fault {
    /// `kill -9`
    Kill,
    /// SIGSTOP: it stays silent, and its sockets stay open
    Pause,
    /// SIGTERM: it stops as in an upgrade
    Stop,
}

impl Fault {
    const ALL: [Self; 3] = [Self::Kill, Self::Pause, Self::Stop];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Pause => "paused",
            Self::Stop => "stopped",
        }
    }

    /// The aims for the median and for the longest trial, in milliseconds.
    fn aims_ms(self) -> (u64, u64) {
        match self {
            Self::Kill => (250, 500),
            Self::Pause => (1_000, 1_500),
            Self::Stop => (50, 50),
        }
    }

    fn begin(self, server: &mut Server) {
        match self {
            Self::Kill => server.kill_now(),
            Self::Pause => server.signal(Signal::SIGSTOP),
            Self::Stop => server.signal(Signal::SIGTERM),
        }
    }

    /// Ends the fault. Returns whether the server must be started again.
    fn end(self, server: &mut Server) -> bool {
        match self {
            Self::Pause => server.signal(Signal::SIGCONT),
            Self::Kill | Self::Stop => server.wait(),
        }
        self != Self::Pause
    }
}

pub(super) async fn measure(
    bench: &Bench,
    trials: u32,
    fault: Option<Fault>,
) -> Result<Section, CliError> {
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    let mut seconds = |what: String, seen_us: u64, aim_ms: u64| {
        let (aim, seen) = (Duration::from_millis(aim_ms), Duration::from_micros(seen_us));
        goals.push(Goal {
            text: what,
            aim: format!("at most {:.2} s", aim.as_secs_f64()),
            seen: format!("{:.3} s", seen.as_secs_f64()),
            met: seen <= aim,
        });
    };
    for fault in Fault::ALL.into_iter().filter(|one| fault.is_none_or(|only| only == *one)) {
        let ours = maxine(bench, trials, fault).await?;
        rows.push(row("maxine", fault, &ours));
        if bench.with_etcd {
            rows.push(row("etcd", fault, &etcd(bench, trials, fault).await?));
        }
        let (p50_aim_ms, max_aim_ms) = fault.aims_ms();
        seconds(format!("leader {}, p50", fault.name()), quantile(&ours, 0.5), p50_aim_ms);
        seconds(format!("leader {}, max", fault.name()), quantile(&ours, 1.0), max_aim_ms);
    }
    Ok(Section {
        name: "Fault of the leader to next acknowledged write",
        method: format!(
            "Three nodes each; {trials} times: the leader is killed (SIGKILL), paused (SIGSTOP) or stopped (SIGTERM), a fresh \
             write begins every {PROBE_EVERY_MS} ms through one of the others until one is acknowledged, then the node is \
             started or continued and {SETTLE_MS} ms pass. Default timeouts on both sides."
        ),
        columns: vec!["server", "leader", "trials", "p50 ms", "p90 ms", "max ms"],
        rows,
        goals,
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

fn row(name: &str, fault: Fault, sorted_us: &[u64]) -> Vec<Value> {
    let figures = [0.5, 0.9, 1.0].map(|q| ms(quantile(sorted_us, q)));
    let of = vec![json!(name), json!(fault.name()), json!(sorted_us.len())];
    [of, figures.to_vec()].concat()
}

async fn maxine(bench: &Bench, trials: u32, fault: Fault) -> Result<Vec<u64>, CliError> {
    let place = bench.place(&format!("failover-{}", fault.name()))?;
    let mut cluster = node::Cluster::three(bench, &place).await?;
    let mut taken_us = Vec::new();
    for trial in 0..trials {
        let leader = cluster.leader().await?;
        let addr = cluster.nodes[(leader + 1 + trial as usize % 2) % 3].addr();
        let since_us = bench.clock.monotonic_us();
        fault.begin(cluster.nodes[leader].running_mut()?);
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
        if fault.end(cluster.nodes[leader].running_mut()?) {
            cluster.nodes[leader].start()?;
        }
        cluster.wait_ready().await?;
        tokio::time::sleep(Duration::from_millis(SETTLE_MS)).await;
    }
    taken_us.sort_unstable();
    Ok(taken_us)
}

async fn etcd(bench: &Bench, trials: u32, fault: Fault) -> Result<Vec<u64>, CliError> {
    let place = bench.place(&format!("failover-etcd-{}", fault.name()))?;
    let mut cluster = etcd::Cluster::start(&place).await?;
    let mut taken_us = Vec::new();
    for trial in 0..trials {
        let leader = cluster
            .leader()
            .await
            .ok_or_else(|| CliError::Failed("no etcd member says that it leads".into()))?;
        let addr = cluster.addrs()[(leader + 1 + trial as usize % 2) % 3].clone();
        let channel = grpc::Channel::open(&addr).await.map_err(super::failed("etcd"))?;
        let since_us = bench.clock.monotonic_us();
        fault.begin(cluster.server(leader)?);
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
        if fault.end(cluster.server(leader)?) {
            cluster.start_member(leader)?;
        }
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
                "no write was acknowledged in {TRIAL_MS_MAX} ms after the fault"
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
