//! Faults that a build with the feature `faults` has, and what must find each: the harness is tested.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// A fault that shows on processes, and the check that must find it.
#[derive(Clone, Copy, Debug)]
pub struct OnProcesses {
    /// Its words in `MAXINE_FAULT`.
    pub fault: &'static str,
    /// The scenario in which it shows.
    pub scenario: &'static str,
    /// Episodes that are enough.
    pub rounds: u64,
    /// The check that finds it.
    pub check: &'static str,
}

/// Every one that shows on processes. To be acknowledged too early shows when all nodes lose power: what
/// the log's transaction holds in memory is as lost then as what the kernel holds.
pub const ON_PROCESSES: &[OnProcesses] = &[
    OnProcesses {
        fault: "ack-before-fsync,slow-fsync=60",
        scenario: "blackout",
        rounds: 3,
        check: "acknowledged",
    },
    OnProcesses {
        fault: "strong-read-without-barrier",
        scenario: "rejoin",
        rounds: 2,
        check: "strong-reads",
    },
    OnProcesses {
        fault: "strong-read-without-barrier",
        scenario: "leader-isolation",
        rounds: 3,
        check: "linearizable",
    },
    OnProcesses { fault: "drop-watch-event", scenario: "rounds", rounds: 1, check: "watches" },
];

/// A fault that the simulation has, and the seed that catches it.
#[derive(Clone, Copy, Debug)]
pub struct InSimulation {
    /// Its name, for `maxine-chaos simulate --fault`.
    pub fault: &'static str,
    /// The seed, which is clean without the fault.
    pub seed: u64,
    /// The invariant that is broken.
    pub invariant: &'static str,
}

/// Every one of these, run with `--slow-proposals`.
pub const IN_SIMULATION: &[InSimulation] = &[
    InSimulation { fault: "skip-fencing", seed: 30, invariant: "renewed-leases-hold" },
    InSimulation { fault: "skip-entry", seed: 3, invariant: "digests-agree" },
    InSimulation { fault: "forget-request-id", seed: 1, invariant: "requests-take-effect-once" },
    InSimulation { fault: "expire-renewed", seed: 3, invariant: "renewed-leases-hold" },
    InSimulation { fault: "serve-spent-grant", seed: 87, invariant: "renewed-leases-hold" },
    InSimulation { fault: "no-takeover-grace", seed: 1, invariant: "renewed-leases-hold" },
    InSimulation { fault: "hand-over-short", seed: 1, invariant: "renewed-leases-hold" },
    InSimulation {
        fault: "forget-uncertainty",
        seed: 5,
        invariant: "refused-writes-are-not-written",
    },
    InSimulation { fault: "one-observer-decides", seed: 1, invariant: "healthy-instances-stay" },
    InSimulation { fault: "superseded-for-good", seed: 3, invariant: "calm-leader-has-duties" },
];

/// A fault behind which another defence stands on processes, and the test that must fail.
#[derive(Clone, Copy, Debug)]
pub struct InTest {
    /// Its word in `MAXINE_FAULT`.
    pub fault: &'static str,
    /// The package that has the test.
    pub package: &'static str,
    /// The test's path.
    pub test: &'static str,
}

/// Every one of these.
pub const IN_TESTS: &[InTest] = &[
    InTest {
        fault: "skip-fencing",
        package: "maxine-state",
        test: "apply::tests::a_command_of_an_old_leadership_is_refused",
    },
    InTest {
        fault: "expire-unconfirmed",
        package: "maxine-control",
        test: "leases::engine::tests::nothing_is_expired_unless_leadership_is_confirmed",
    },
];

impl InTest {
    /// Whether its test passes without the fault and fails with it. Needs cargo, and builds into `target`.
    pub fn is_caught(&self, target: &Path) -> anyhow::Result<bool> {
        Ok(self.passes(target, "")? && !self.passes(target, self.fault)?)
    }

    fn passes(&self, target: &Path, fault: &str) -> anyhow::Result<bool> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            // Together, so that both are built with the features that they have in the workspace.
            .args(["test", "--package", "maxine", "--package", "maxine-chaos"])
            .args(["--package", self.package, "--features", "maxine/faults", "--lib"])
            .arg("--target-dir")
            .arg(target)
            .args(["--", "--exact", self.test])
            .env("MAXINE_FAULT", fault)
            .output()
            .context("cargo cannot be run")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let ran = said.contains("1 passed") || said.contains("1 failed");
        anyhow::ensure!(
            ran,
            "{} did not run:\n{said}\n{}",
            self.test,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output.status.success())
    }
}
