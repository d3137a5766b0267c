//! The named scenarios: their faults, durations and backends.

use std::time::Duration;

use crate::cluster::Backend;
use crate::engine::Options;
use crate::nemesis::{ClusterProperties, Fault, fits};
use crate::network::NetworkKind;

/// A named scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// The possible backends; the first is the default.
    pub backends: &'static [Backend],
    faults: &'static [Fault],
    hold_ms: (u64, u64),
    leases: bool,
    term_must_stay: bool,
    needs_namespaces: bool,
    sentinels: bool,
    logs_on_disks: bool,
    nodes: u64,
}

const RAFT: &[Backend] = &[Backend::Raft];
const BOTH: &[Backend] = &[Backend::Raft, Backend::Redis];
const REDIS: &[Backend] = &[Backend::Redis];

const fn scenario(
    name: &'static str,
    about: &'static str,
    faults: &'static [Fault],
    hold_ms: (u64, u64),
) -> Scenario {
    Scenario {
        name,
        about,
        backends: RAFT,
        faults,
        hold_ms,
        leases: false,
        term_must_stay: false,
        needs_namespaces: false,
        sentinels: false,
        logs_on_disks: false,
        nodes: 3,
    }
}

/// Every fault. A run leaves out what is not possible.
const MIXED: &[Fault] = &[
    Fault::KillAny,
    Fault::KillLeader,
    Fault::KillAll,
    Fault::PauseLeader,
    Fault::PauseFollower,
    Fault::IsolateLeader,
    Fault::IsolateFollower,
    Fault::OneWayFromLeader,
    Fault::OneWayToLeader,
    Fault::Bridge,
    Fault::Halves,
    Fault::Ring,
    Fault::RollingRestart,
    Fault::Upgrade,
    Fault::ReplaceMember,
    Fault::Degrade,
    Fault::Delay,
    Fault::Loss,
    Fault::Rate,
    Fault::FullDisk,
    Fault::ReadOnlyDisk,
    Fault::HungDisk,
    Fault::SlowDisk,
    Fault::PowerLoss,
    Fault::CutLogTail,
    Fault::FlipLogTail,
    Fault::Rollback,
    Fault::ClockForward,
    Fault::ClockBack,
    Fault::KillRedis,
    Fault::PauseRedis,
    Fault::FlushRedis,
    Fault::DamageRedis,
    Fault::FailoverRedis,
];

/// Every scenario.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        backends: BOTH,
        ..scenario(
            "rounds",
            "register under load, kill -9 a random node at a random moment, restart: nothing acknowledged is lost",
            &[Fault::KillAny],
            (50, 1_500),
        )
    },
    Scenario {
        term_must_stay: true,
        ..scenario(
            "rejoin",
            "a node is cut off and returns: it does not raise the term, and answers no strong read while it is cut off",
            &[Fault::IsolateFollower],
            (4_000, 8_000),
        )
    },
    Scenario {
        backends: BOTH,
        leases: true,
        ..scenario(
            "paused-leader",
            "the leader is paused for longer than an election and resumed: it never reports that it leads",
            &[Fault::PauseLeader],
            (3_500, 6_000),
        )
    },
    scenario(
        "leader-isolation",
        "the leader is cut off: the others elect one, it answers no strong read, and it returns as a follower",
        &[Fault::IsolateLeader],
        (3_000, 6_000),
    ),
    scenario(
        "partitions",
        "halves, an isolated leader or follower, one direction of a pair, a leader that is the only bridge",
        &[
            Fault::IsolateLeader,
            Fault::IsolateFollower,
            Fault::OneWayFromLeader,
            Fault::OneWayToLeader,
            Fault::Bridge,
            Fault::Halves,
            Fault::Ring,
        ],
        (1_000, 6_000),
    ),
    Scenario {
        nodes: 5,
        ..scenario(
            "five-nodes",
            "five nodes: halves, a ring in which each node hears only its neighbours, bridges, kills",
            &[Fault::Halves, Fault::Ring, Fault::Bridge, Fault::KillAny, Fault::KillLeader],
            (1_000, 6_000),
        )
    },
    Scenario {
        backends: BOTH,
        ..scenario(
            "disks",
            "a disk of a node (of Redis in Redis mode) that is full, read-only, hanging or slow",
            &[Fault::FullDisk, Fault::ReadOnlyDisk, Fault::HungDisk, Fault::SlowDisk],
            (2_000, 8_000),
        )
    },
    Scenario {
        backends: BOTH,
        ..scenario(
            "power-loss",
            "all disks lose power at the same time: everything that was acknowledged was synced",
            &[Fault::PowerLoss],
            (100, 800),
        )
    },
    Scenario {
        logs_on_disks: true,
        ..scenario(
            "disk-full-logs",
            "the disk of a node and of its own output is full: the node stops, or has everything that the others have",
            &[Fault::FullDisk],
            (2_000, 8_000),
        )
    },
    scenario(
        "rollback",
        "a node gets an older copy of its own directory, repeatedly under load: nothing is lost, and it is ready \
         only when it has again what it had",
        &[Fault::Rollback],
        (100, 800),
    ),
    scenario(
        "damaged-log",
        "the end of a node's log is cut off, or bits in it are flipped: the node refuses to start, or has everything",
        &[Fault::CutLogTail, Fault::FlipLogTail],
        (100, 800),
    ),
    Scenario {
        backends: BOTH,
        leases: true,
        ..scenario(
            "clock-jumps",
            "a node's wall clock jumps forward and back by up to two hours: no lease depends on it",
            &[Fault::ClockForward, Fault::ClockBack],
            (2_000, 6_000),
        )
    },
    scenario(
        "members",
        "members are replaced by new ones under load, some while they lead",
        &[Fault::ReplaceMember],
        (100, 300),
    ),
    Scenario {
        backends: BOTH,
        leases: true,
        ..scenario(
            "upgrade",
            "a cluster of the previous version is upgraded node by node under load (--previous PROGRAM)",
            &[Fault::Upgrade],
            (100, 300),
        )
    },
    Scenario {
        backends: BOTH,
        ..scenario(
            "blackout",
            "kill -9 of all nodes at the same time: everything that was acknowledged is on the disks",
            &[Fault::KillAll],
            (100, 800),
        )
    },
    scenario(
        "rolling-restart",
        "every node is restarted gracefully, one after another, under load",
        &[Fault::RollingRestart],
        (100, 300),
    ),
    Scenario {
        needs_namespaces: true,
        ..scenario(
            "degraded-network",
            "packets of the leader are late or lost, or are dropped above a rate",
            &[Fault::Degrade, Fault::Loss, Fault::Rate, Fault::IsolateLeader],
            (2_000, 6_000),
        )
    },
    scenario(
        "late-network",
        "everything from and to the leader is delayed",
        &[Fault::Delay],
        (2_000, 6_000),
    ),
    Scenario {
        backends: REDIS,
        leases: true,
        ..scenario(
            "redis-faults",
            "Redis is killed, paused and flushed",
            &[Fault::KillRedis, Fault::PauseRedis, Fault::FlushRedis],
            (500, 5_000),
        )
    },
    Scenario {
        backends: REDIS,
        ..scenario(
            "redis-damage",
            "keys of Redis are deleted, trimmed, emptied and evicted again and again under load: the nodes go on",
            &[Fault::DamageRedis],
            (100, 800),
        )
    },
    Scenario {
        backends: REDIS,
        leases: true,
        sentinels: true,
        ..scenario(
            "redis-failover",
            "the Redis master is killed and Sentinels promote its replica",
            &[Fault::FailoverRedis],
            (500, 5_000),
        )
    },
    Scenario {
        backends: REDIS,
        leases: true,
        sentinels: true,
        ..scenario(
            "redis-failover-mixed",
            "Redis behind Sentinels: failovers, and every fault of the nodes, in random order",
            MIXED,
            (200, 5_000),
        )
    },
    Scenario {
        backends: BOTH,
        leases: true,
        ..scenario(
            "mixed",
            "every fault that fits the backend and the network, in random order",
            MIXED,
            (200, 5_000),
        )
    },
];

impl Scenario {
    /// The scenario of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }

    /// Its options for this backend and this seed.
    pub fn options(
        &self,
        backend: Backend,
        network: Option<NetworkKind>,
        seed: u64,
        rounds: u64,
    ) -> Options {
        let preferred =
            if self.needs_namespaces { NetworkKind::Namespaces } else { NetworkKind::Proxied };
        let network = network.unwrap_or(preferred);
        let ground = ClusterProperties { backend, network, sentinels: self.sentinels };
        let faults: Vec<Fault> =
            self.faults.iter().copied().filter(|fault| fits(*fault, ground)).collect();
        let mut options = Options::new(backend, network, seed, rounds, &faults);
        options.nodes = self.nodes;
        options.sentinels = self.sentinels;
        options.logs_on_disks = self.logs_on_disks;
        options.hold_ms = self.hold_ms;
        options.leases = self.leases;
        options.term_must_stay = self.term_must_stay;
        if self.term_must_stay {
            // On a busy machine, an election for another reason must not be attributed to the returning node.
            options.flags = [
                "--raft-heartbeat-interval-ms=300",
                "--raft-election-timeout-min-ms=2000",
                "--raft-election-timeout-max-ms=4000",
            ]
            .map(str::to_owned)
            .to_vec();
        }
        options
    }

    /// Default duration of a run.
    pub const DEFAULT_TIME: Duration = Duration::from_secs(60);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_faults_on_each_of_its_backends() {
        for scenario in SCENARIOS {
            assert!(Scenario::find(scenario.name).is_some());
            for backend in scenario.backends {
                assert!(
                    !scenario.options(*backend, None, 1, 1).faults.is_empty(),
                    "{}",
                    scenario.name
                );
            }
        }
    }
}
