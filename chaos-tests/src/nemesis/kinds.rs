//! The kinds of faults and their names.

use std::fmt;
use std::str::FromStr;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9 of a random node, and a start some time later.
    KillAny,
    /// kill -9 of the leader, and a start some time later.
    KillLeader,
    /// kill -9 of all nodes at the same time, and a start of all.
    KillAll,
    /// SIGSTOP of the leader, SIGCONT some time later.
    PauseLeader,
    /// SIGSTOP of a node that is not the leader.
    PauseFollower,
    /// The leader is cut off from all others.
    IsolateLeader,
    /// A node that is not the leader is cut off from all others.
    IsolateFollower,
    /// What the leader sends to one other node is lost. The other direction works.
    OneWayFromLeader,
    /// What one other node sends to the leader is lost. The other direction works.
    OneWayToLeader,
    /// The followers cannot reach each other, but each reaches the leader.
    Bridge,
    /// A random minority is cut off from the others.
    Halves,
    /// Each node hears only its neighbours. With three nodes, each hears only the one before it.
    Ring,
    /// Every node is restarted gracefully, one after another.
    RollingRestart,
    /// All nodes run the previous program and are upgraded to the present one, one after another.
    Upgrade,
    /// A new member is added, and an old one removed.
    ReplaceMember,
    /// Everything that the leader sends is delayed, and some of it is lost (netem).
    Degrade,
    /// Everything from and to the leader is delayed (proxies).
    Delay,
    /// Some of the packets to the leader are dropped (nftables).
    Loss,
    /// Packets to the leader above a rate are dropped (nftables).
    Rate,
    /// The disk has no free block.
    FullDisk,
    /// The disk becomes read-only.
    ReadOnlyDisk,
    /// Every write and sync of the disk hangs.
    HungDisk,
    /// Every sync of the disk is slow.
    SlowDisk,
    /// All nodes lose power at the same time. What was not synced is lost.
    PowerLoss,
    /// The end of a node's log is cut off while the node is stopped.
    CutLogTail,
    /// Bits at the end of a node's log are flipped while the node is stopped.
    FlipLogTail,
    /// A node gets an older copy of its own data directory, a few times.
    Rollback,
    /// A node's wall clock jumps forward.
    ClockForward,
    /// A node's wall clock jumps back.
    ClockBack,
    /// kill -9 of Redis, and a start some time later.
    KillRedis,
    /// SIGSTOP of Redis.
    PauseRedis,
    /// Redis loses all data.
    FlushRedis,
    /// Keys of Redis are deleted, trimmed, emptied and evicted, repeatedly.
    DamageRedis,
    /// kill -9 of the master, and the Sentinels promote a replica.
    FailoverRedis,
}

/// All kinds, with their names.
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
    (Fault::Halves, "halves"),
    (Fault::Ring, "ring"),
    (Fault::RollingRestart, "rolling-restart"),
    (Fault::Upgrade, "upgrade"),
    (Fault::ReplaceMember, "replace-member"),
    (Fault::Degrade, "degrade"),
    (Fault::Delay, "delay"),
    (Fault::Loss, "loss"),
    (Fault::Rate, "rate"),
    (Fault::FullDisk, "full-disk"),
    (Fault::ReadOnlyDisk, "read-only-disk"),
    (Fault::HungDisk, "hung-disk"),
    (Fault::SlowDisk, "slow-disk"),
    (Fault::PowerLoss, "power-loss"),
    (Fault::CutLogTail, "cut-log-tail"),
    (Fault::FlipLogTail, "flip-log-tail"),
    (Fault::Rollback, "rollback"),
    (Fault::ClockForward, "clock-forward"),
    (Fault::ClockBack, "clock-back"),
    (Fault::KillRedis, "kill-redis"),
    (Fault::PauseRedis, "pause-redis"),
    (Fault::FlushRedis, "flush-redis"),
    (Fault::DamageRedis, "damage-redis"),
    (Fault::FailoverRedis, "failover-redis"),
];

impl Fault {
    /// Whether the log must be on a separate disk.
    pub fn needs_disk(self) -> bool {
        matches!(
            self,
            Self::FullDisk | Self::ReadOnlyDisk | Self::HungDisk | Self::SlowDisk | Self::PowerLoss
        )
    }

    /// Whether the affected nodes may not run during the fault.
    pub fn stops_nodes(self) -> bool {
        matches!(
            self,
            Self::KillAny
                | Self::KillLeader
                | Self::KillAll
                | Self::PauseLeader
                | Self::PauseFollower
                | Self::RollingRestart
                | Self::Upgrade
                | Self::ReplaceMember
                | Self::CutLogTail
                | Self::FlipLogTail
                | Self::Rollback
        ) || self.needs_disk()
    }

    /// Whether the others can certainly not reach the affected nodes, from the beginning of the fault until
    /// its end.
    pub fn cuts_off(self) -> bool {
        matches!(
            self,
            Self::KillAny
                | Self::KillLeader
                | Self::KillAll
                | Self::PauseLeader
                | Self::PauseFollower
                | Self::IsolateLeader
                | Self::IsolateFollower
        )
    }

    /// Whether the nodes need separate wall clocks.
    pub fn needs_wall_clock(self) -> bool {
        matches!(self, Self::ClockForward | Self::ClockBack)
    }

    /// Whether Redis itself may lose what it acknowledged. The nodes must report it, and agree.
    pub fn may_lose_redis_data(self) -> bool {
        matches!(self, Self::FlushRedis | Self::DamageRedis | Self::FailoverRedis)
    }
}

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
