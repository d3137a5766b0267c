//! Does one fault at a time to a cluster, and takes it back.
//!
//! Which nodes it hits follows from the seed and from who leads at that moment. It never looks at
//! what clients see.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::checks::strong_reads::CutOff;
use crate::clock;
use crate::cluster::Cluster;
use crate::journal::FaultRecord;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9 of a random node, and a start some time later.
    KillAny,
    /// kill -9 of the leader, and a start some time later.
    KillLeader,
    /// kill -9 of all nodes at once, and a start of all.
    KillAll,
    /// SIGSTOP of the leader, SIGCONT some time later.
    PauseLeader,
    /// SIGSTOP of a node that does not lead.
    PauseFollower,
    /// The leader cut off from all others.
    IsolateLeader,
    /// A node that does not lead, cut off from all others.
    IsolateFollower,
    /// What the leader sends to one other node is lost; the way back works.
    OneWayFromLeader,
    /// What one other node sends to the leader is lost; the way there works.
    OneWayToLeader,
    /// The two nodes that do not lead cannot reach each other: the leader is the bridge.
    Bridge,
    /// Every node is restarted the graceful way, one after the other.
    RollingRestart,
    /// Everything a node sends is late and some of it is lost (network namespaces only).
    Degrade,
    /// kill -9 of Redis, and a start some time later.
    KillRedis,
    /// SIGSTOP of Redis.
    PauseRedis,
}

/// Every kind with its name.
pub const FAULTS: &[(Fault, &str)] = &[
    (Fault::KillAny, "kill-any"),
    (Fault::KillLeader, "kill-leader"),
    (Fault::KillAll, "kill-all"),
    (Fault::PauseLeader, "pause-leader"),
    (Fault::PauseFollower, "pause-follower"),
    (Fault::IsolateLeader, "isolate-leader"),
    (Fault::IsolateFollower, "isolate-follower"),
    (Fault::OneWayFromLeader, "one-way-from-leader"),
    (Fault::OneWayToLeader, "one-way-to-leader"),
    (Fault::Bridge, "bridge"),
    (Fault::RollingRestart, "rolling-restart"),
    (Fault::Degrade, "degrade"),
    (Fault::KillRedis, "kill-redis"),
    (Fault::PauseRedis, "pause-redis"),
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FAULTS.iter().find(|(fault, _)| fault == self).map_or("", |(_, name)| name);
        f.pad(name)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = FAULTS.iter().find(|(_, name)| *name == text);
        found.map(|(fault, _)| *fault).ok_or_else(|| format!("unknown fault {text:?}"))
    }
}

/// A fault that has begun.
#[derive(Debug)]
pub struct Active {
    /// What it is.
    pub fault: Fault,
    /// The nodes that it was done to.
    pub nodes: Vec<u64>,
    /// Who led before it.
    pub leader: u64,
    /// In which term, where there are terms.
    pub term: u64,
    /// When it began.
    pub start_us: u64,
    /// Since when the isolated node surely is.
    cut_us: Option<u64>,
}

/// What is left of a fault that was taken back.
#[derive(Debug)]
pub struct Over {
    /// For the journal; what depends on the recovery is still 0.
    pub record: FaultRecord,
    /// The node that was cut off, and when it surely was.
    pub cut: Option<CutOff>,
}

/// How long who leads may be unclear before a fault.
const LEADER_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Does a fault.
pub async fn begin(
    cluster: &mut Cluster,
    fault: Fault,
    rng: &mut fastrand::Rng,
) -> anyhow::Result<Active> {
    let leader = cluster.wait_leader(LEADER_TIMEOUT).await?;
    let term = cluster.term(leader).await.unwrap_or(0);
    let all = cluster.ids();
    let follower = {
        let followers: Vec<u64> = all.iter().copied().filter(|id| *id != leader).collect();
        *followers.get(rng.usize(..followers.len().max(1))).context("one node has no follower")?
    };
    let start_us = clock::now_us();
    let mut cut_us = None;
    let nodes = match fault {
        Fault::KillAny => vec![all[rng.usize(..all.len())]],
        Fault::KillLeader | Fault::PauseLeader | Fault::IsolateLeader | Fault::Degrade => {
            vec![leader]
        }
        Fault::PauseFollower | Fault::IsolateFollower => vec![follower],
        Fault::OneWayFromLeader | Fault::OneWayToLeader => vec![leader, follower],
        Fault::Bridge => all.iter().copied().filter(|id| *id != leader).collect(),
        Fault::KillAll | Fault::RollingRestart => all.clone(),
        Fault::KillRedis | Fault::PauseRedis => Vec::new(),
    };
    match fault {
        Fault::KillAny | Fault::KillLeader | Fault::KillAll => {
            for id in &nodes {
                cluster.node_mut(*id).kill().await?;
            }
        }
        Fault::PauseLeader | Fault::PauseFollower => cluster.node_mut(nodes[0]).pause()?,
        Fault::IsolateLeader | Fault::IsolateFollower => {
            cluster.network().isolate(nodes[0], &all)?;
            cut_us = Some(clock::now_us());
        }
        Fault::OneWayFromLeader => cluster.network().block(leader, follower)?,
        Fault::OneWayToLeader => cluster.network().block(follower, leader)?,
        Fault::Bridge => {
            for (position, one) in nodes.iter().enumerate() {
                for other in &nodes[position + 1..] {
                    cluster.network().block(*one, *other)?;
                    cluster.network().block(*other, *one)?;
                }
            }
        }
        Fault::RollingRestart => {
            for id in &nodes {
                if !cluster.node_mut(*id).stop(STOP_TIMEOUT).await? {
                    bail!("node {id} did not stop within {STOP_TIMEOUT:?}");
                }
                cluster.start_node(*id)?;
                cluster.wait_node_ready(*id, crate::cluster::READY_TIMEOUT).await?;
            }
        }
        Fault::Degrade => match cluster.network() {
            crate::network::Network::Namespaces(network) => {
                network.degrade(leader, 40 + rng.u32(..80), 20, 5)?;
            }
            _ => bail!("packets can be delayed in network namespaces only"),
        },
        Fault::KillRedis => {
            cluster.redis_mut().context("this cluster has no Redis")?.kill().await?
        }
        Fault::PauseRedis => {
            cluster.redis_mut().context("this cluster has no Redis")?.pause(true)?
        }
    }
    Ok(Active { fault, nodes, leader, term, start_us, cut_us })
}

/// Takes a fault back.
pub async fn end(cluster: &mut Cluster, active: &Active) -> anyhow::Result<Over> {
    let until_us = clock::now_us();
    match active.fault {
        Fault::KillAny | Fault::KillLeader | Fault::KillAll => {
            for id in &active.nodes {
                cluster.start_node(*id)?;
            }
        }
        Fault::PauseLeader | Fault::PauseFollower => cluster.node_mut(active.nodes[0]).resume()?,
        Fault::KillRedis => {
            cluster.redis_mut().context("this cluster has no Redis")?.start_again().await?;
        }
        Fault::PauseRedis => {
            cluster.redis_mut().context("this cluster has no Redis")?.pause(false)?
        }
        _ => cluster.network().heal()?,
    }
    let record = FaultRecord {
        kind: active.fault.to_string(),
        nodes: active.nodes.clone(),
        hit_leader: active.nodes.contains(&active.leader),
        start_us: active.start_us,
        end_us: until_us,
        unavailable_us: 0,
        recovery_us: 0,
    };
    let cut = active.cut_us.map(|from_us| CutOff { node: active.nodes[0], from_us, until_us });
    Ok(Over { record, cut })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_name_of_its_own() {
        for (fault, name) in FAULTS {
            assert_eq!(fault.to_string(), *name);
            assert_eq!(name.parse::<Fault>().unwrap(), *fault);
        }
        assert!("no-such".parse::<Fault>().is_err());
    }
}
