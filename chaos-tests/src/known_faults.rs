//! The deliberate faults of a build with the feature `faults`, and the check that must detect each. They test
//! the harness.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// A fault in real processes, and the check that must detect it.
#[derive(Clone, Copy, Debug)]
pub struct OnProcesses {
    /// Its name in `MAXINE_FAULT`.
    pub fault: &'static str,
    /// The scenario that shows it.
    pub scenario: &'static str,
    /// A sufficient number of episodes.
    pub rounds: u64,
    /// The check that detects it.
    pub check: &'static str,
}

/// All faults in real processes. An early acknowledgement is detected when all nodes are killed: what is
/// still in the memory of the processes is then lost.
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

/// A fault in the simulation, and the seed that detects it.
#[derive(Clone, Copy, Debug)]
pub struct InSimulation {
    /// Its name, for `maxine-chaos simulate --fault`.
    pub fault: &'static str,
    /// The seed. Without the fault it violates no invariant.
    pub seed: u64,
    /// The invariant that it violates.
    pub invariant: &'static str,
}

/// All faults in the simulation. They run with `--slow-proposals`.
pub const IN_SIMULATION: &[InSimulation] = &[
    InSimulation { fault: "skip-fencing", seed: 16, invariant: "renewed-leases-hold" },
    InSimulation { fault: "skip-entry", seed: 82, invariant: "digests-agree" },
    InSimulation { fault: "forget-request-id", seed: 1, invariant: "requests-take-effect-once" },
    InSimulation { fault: "expire-renewed", seed: 3, invariant: "renewed-leases-hold" },
    InSimulation { fault: "serve-spent-grant", seed: 127, invariant: "renewed-leases-hold" },
    InSimulation { fault: "no-takeover-grace", seed: 1, invariant: "renewed-leases-hold" },
    InSimulation { fault: "hand-over-short", seed: 2, invariant: "renewed-leases-hold" },
    InSimulation {
        fault: "forget-uncertainty",
        seed: 1,
        invariant: "refused-writes-are-not-written",
    },
    InSimulation { fault: "one-observer-decides", seed: 1, invariant: "healthy-instances-stay" },
    InSimulation { fault: "superseded-for-good", seed: 23, invariant: "calm-leader-has-duties" },
];

/// A fault that another defence hides in real processes, and the test that must fail.
#[derive(Clone, Copy, Debug)]
pub struct InTest {
    /// Its name in `MAXINE_FAULT`.
    pub fault: &'static str,
    /// The package of the test.
    pub package: &'static str,
    /// The test's path.
    pub test: &'static str,
}

/// All such faults.
pub const IN_TESTS: &[InTest] = &[
    InTest {
        fault: "skip-fencing",
        package: "maxine-state",
        test: "apply::tests::a_command_of_an_old_leadership_is_refused",
    },
    InTest {
        fault: "expire-unconfirmed",
        package: "maxine-control",
        test: "leases::expiry::tests::nothing_is_expired_unless_leadership_is_confirmed",
    },
];

impl InTest {
    /// Whether the test passes without the fault and fails with it. Needs cargo, and builds into `target`.
    pub fn is_caught(&self, target: &Path) -> anyhow::Result<bool> {
        Ok(self.passes(target, "")? && !self.passes(target, self.fault)?)
    }

    fn passes(&self, target: &Path, fault: &str) -> anyhow::Result<bool> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            // Both packages together, so that they are built with the same features as in the workspace.
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
