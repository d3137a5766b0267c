//! The named runs: which faults, for how long, on what.

use std::time::Duration;

use crate::cluster::Backend;
use crate::engine::Options;
use crate::nemesis::Fault;
use crate::network::NetworkKind;

/// A named run.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// The backends that it makes sense on; the first is the default.
    pub backends: &'static [Backend],
    faults: &'static [Fault],
    hold_ms: (u64, u64),
    leases: bool,
    term_must_stay: bool,
    needs_namespaces: bool,
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
    }
}

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
            "a node cut off and rejoined neither raises the term nor answers a strong read meanwhile",
            &[Fault::IsolateFollower],
            (4_000, 8_000),
        )
    },
    Scenario {
        backends: BOTH,
        leases: true,
        ..scenario(
            "paused-leader",
            "the leader is stopped for longer than an election and goes on: it never says that it leads",
            &[Fault::PauseLeader],
            (3_500, 6_000),
        )
    },
    scenario(
        "leader-isolation",
        "the leader is cut off: the others elect, it serves no strong read, and it comes back as a follower",
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
        ],
        (1_000, 6_000),
    ),
    Scenario {
        backends: BOTH,
        ..scenario(
            "blackout",
            "kill -9 of all nodes at once: what was acknowledged is on the disks",
            &[Fault::KillAll],
            (100, 800),
        )
    },
    scenario(
        "rolling-restart",
        "every node is restarted the graceful way, one after the other, under load",
        &[Fault::RollingRestart],
        (100, 300),
    ),
    Scenario {
        needs_namespaces: true,
        ..scenario(
            "degraded-network",
            "what the leader sends is late and some of it lost",
            &[Fault::Degrade, Fault::IsolateLeader],
            (2_000, 6_000),
        )
    },
    Scenario {
        backends: REDIS,
        leases: true,
        ..scenario(
            "redis-faults",
            "Redis is killed and paused",
            &[Fault::KillRedis, Fault::PauseRedis],
            (500, 5_000),
        )
    },
    Scenario {
        backends: BOTH,
        leases: true,
        ..scenario(
            "mixed",
            "every fault that fits the backend, in random order",
            &[
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
                Fault::RollingRestart,
                Fault::KillRedis,
                Fault::PauseRedis,
            ],
            (200, 5_000),
        )
    },
];

/// A fault that a build with the feature `faults` has, and the check that must find it.
#[derive(Clone, Copy, Debug)]
pub struct KnownFault {
    /// Its word in `MAXINE_FAULT`.
    pub fault: &'static str,
    /// The scenario in which it shows.
    pub scenario: &'static str,
    /// Episodes that are enough.
    pub rounds: u64,
    /// The check that finds it.
    pub check: &'static str,
}

/// Every one that shows on processes. One that only a power cut shows is caught in `raft/tests/sync_order.rs`.
pub const KNOWN_FAULTS: &[KnownFault] = &[
    KnownFault {
        fault: "strong-read-without-barrier",
        scenario: "rejoin",
        rounds: 2,
        check: "strong-reads",
    },
    KnownFault {
        fault: "strong-read-without-barrier",
        scenario: "leader-isolation",
        rounds: 3,
        check: "linearizable",
    },
];

impl Scenario {
    /// The scenario of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }

    /// Its options on this backend, with this seed.
    pub fn options(
        &self,
        backend: Backend,
        network: Option<NetworkKind>,
        seed: u64,
        rounds: u64,
    ) -> Options {
        let preferred =
            if self.needs_namespaces { NetworkKind::Namespaces } else { NetworkKind::Proxied };
        let faults: Vec<Fault> =
            self.faults.iter().copied().filter(|fault| fits(*fault, backend)).collect();
        let mut options =
            Options::new(backend, network.unwrap_or(preferred), seed, rounds, &faults);
        options.hold_ms = self.hold_ms;
        options.leases = self.leases;
        options.term_must_stay = self.term_must_stay;
        if self.term_must_stay {
            // A busy machine must not be taken for a disturbance by the node that came back.
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

    /// How long a run takes when nothing else is said.
    pub const DEFAULT_TIME: Duration = Duration::from_secs(60);
}

/// Whether a fault can be done to a cluster of this backend.
fn fits(fault: Fault, backend: Backend) -> bool {
    match (fault, backend) {
        (Fault::KillRedis | Fault::PauseRedis, backend) => backend == Backend::Redis,
        // Between the nodes goes only what they tell each other beside Redis.
        (
            Fault::IsolateLeader
            | Fault::IsolateFollower
            | Fault::OneWayFromLeader
            | Fault::OneWayToLeader
            | Fault::Bridge
            | Fault::Degrade,
            backend,
        ) => backend == Backend::Raft,
        _ => true,
    }
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
