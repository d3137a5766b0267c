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
    /// The nodes that do not lead cannot reach each other: the leader is the bridge.
    Bridge,
    /// A random minority is cut off from the others.
    Halves,
    /// Each node hears of its neighbours only; of three nodes, of the one before it only.
    Ring,
    /// Every node is restarted the graceful way, one after the other.
    RollingRestart,
    /// All nodes run the previous program and are brought to the present one, one after the other.
    Upgrade,
    /// A new member is added, and an old one removed.
    ReplaceMember,
    /// Everything the leader sends is late and some of it is lost (netem).
    Degrade,
    /// Everything from and to the leader is late (proxies).
    Delay,
    /// Some of the packets to the leader are dropped (nftables).
    Loss,
    /// Packets to the leader over a rate are dropped (nftables).
    Rate,
    /// No block of the disk is free.
    FullDisk,
    /// The disk turns read-only.
    ReadOnlyDisk,
    /// Every write and sync of the disk hangs.
    HungDisk,
    /// Every sync of the disk is slow.
    SlowDisk,
    /// All lose power at once; what was not synced is gone.
    PowerLoss,
    /// The end of a node's log is cut off while it is down.
    CutLogTail,
    /// Bits at the end of a node's log are turned while it is down.
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
    /// Redis forgets everything.
    FlushRedis,
    /// Redis' keys are deleted, trimmed, emptied and evicted, again and again.
    DamageRedis,
    /// kill -9 of the master, and a replica is promoted by the Sentinels.
    FailoverRedis,
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
    /// Whether what keeps the log needs a disk of its own.
    pub fn needs_disk(self) -> bool {
        matches!(
            self,
            Self::FullDisk | Self::ReadOnlyDisk | Self::HungDisk | Self::SlowDisk | Self::PowerLoss
        )
    }

    /// Whether the nodes that it hits may not run meanwhile.
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

    /// Whether the nodes that it hits can surely not be reached by the others, from when it has begun until it is
    /// taken back.
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

    /// Whether the nodes need wall clocks of their own.
    pub fn needs_wall_clock(self) -> bool {
        matches!(self, Self::ClockForward | Self::ClockBack)
    }

    /// Whether Redis itself may lose what it acknowledged: it is told, and the nodes must agree.
    pub fn redis_forgets(self) -> bool {
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
