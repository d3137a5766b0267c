//! Which faults make sense on which ground, and what they need of the machine.

use std::path::Path;

use super::Fault;
use crate::cluster::{Backend, Disk, WallClock};
use crate::network::{Namespaces, NetworkKind};

/// What a cluster stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ground {
    /// What orders the commands.
    pub backend: Backend,
    /// What connects the nodes.
    pub network: NetworkKind,
    /// Whether Sentinels watch over Redis.
    pub sentinels: bool,
}

/// Whether a fault can be done to a cluster on this ground at all.
pub fn fits(fault: Fault, ground: Ground) -> bool {
    let raft = ground.backend == Backend::Raft;
    match fault {
        // Sentinels would answer each of these with a failover.
        Fault::KillRedis | Fault::PauseRedis | Fault::FlushRedis | Fault::DamageRedis => {
            !raft && !ground.sentinels
        }
        Fault::FailoverRedis => !raft && ground.sentinels,
        // Between the nodes goes only what they tell each other beside Redis.
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
        // Nodes of Redis mode keep nothing on their disks; Redis does.
        Fault::ReadOnlyDisk | Fault::CutLogTail | Fault::FlipLogTail | Fault::Rollback => raft,
        Fault::FullDisk | Fault::HungDisk | Fault::SlowDisk | Fault::PowerLoss => {
            raft || !ground.sentinels
        }
        _ => true,
    }
}

/// What this machine lacks for a fault, if anything.
pub fn missing(fault: Fault, previous: Option<&Path>) -> Option<String> {
    match fault {
        fault if fault.needs_disk() => Disk::missing(),
        fault if fault.needs_wall_clock() => WallClock::missing(),
        Fault::Loss | Fault::Rate if !Namespaces::are_possible() => {
            Some("network namespaces (root, 'ip' and 'nft')".into())
        }
        Fault::Degrade => Namespaces::netem_missing(),
        Fault::Upgrade if previous.is_none() => {
            Some("the previous version's program (--previous)".into())
        }
        _ => None,
    }
}
