//! Decides which faults are possible for a cluster, and what they need from the machine.

use std::path::Path;

use super::Fault;
use crate::cluster::{Backend, Disk, WallClock};
use crate::network::{Namespaces, NetworkKind};

/// The properties of a cluster that faults depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterProperties {
    /// The backend.
    pub backend: Backend,
    /// The kind of network.
    pub network: NetworkKind,
    /// Whether Sentinels monitor Redis.
    pub sentinels: bool,
}

/// Whether a fault is possible in such a cluster.
pub fn fits(fault: Fault, ground: ClusterProperties) -> bool {
    let raft = ground.backend == Backend::Raft;
    match fault {
        // Sentinels would react to each of these faults with a failover.
        Fault::KillRedis | Fault::PauseRedis | Fault::FlushRedis | Fault::DamageRedis => {
            !raft && !ground.sentinels
        }
        Fault::FailoverRedis => !raft && ground.sentinels,
        // Redis orders the commands, so a cut between the nodes stops only the messages that do not use
        // Redis.
        Fault::IsolateLeader
        | Fault::IsolateFollower
        | Fault::OneWayFromLeader
        | Fault::OneWayToLeader
        | Fault::Bridge
        | Fault::Halves
        | Fault::Ring
        | Fault::ReplaceMember => raft,
        Fault::Delay => raft && ground.network == NetworkKind::Proxied,
        Fault::Degrade | Fault::Loss | Fault::Rate => {
            raft && ground.network == NetworkKind::Namespaces
        }
        // In Redis mode, only Redis stores data on a disk.
        Fault::ReadOnlyDisk | Fault::CutLogTail | Fault::FlipLogTail | Fault::Rollback => raft,
        Fault::FullDisk | Fault::HungDisk | Fault::SlowDisk | Fault::PowerLoss => {
            raft || !ground.sentinels
        }
        _ => true,
    }
}

/// What this machine lacks for a fault; `None` if nothing.
pub fn missing(fault: Fault, previous: Option<&Path>) -> Option<String> {
    match fault {
        fault if fault.needs_disk() => Disk::missing(),
        fault if fault.needs_wall_clock() => WallClock::missing(),
        Fault::Loss | Fault::Rate if !Namespaces::are_available() => {
            Some("network namespaces (root, 'ip' and 'nft')".into())
        }
        Fault::Degrade => Namespaces::netem_missing(),
        Fault::Upgrade if previous.is_none() => {
            Some("the previous version's program (--previous)".into())
        }
        _ => None,
    }
}
