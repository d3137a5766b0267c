//! The command that a failing seed prints must show the same failure again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use maxine_chaos::simulation::{self, Fault};
use maxine_control::faults;

/// Runs the printed command, with the program of this build instead of `cargo run`.
fn replay(command: &str) -> String {
    let words = command.strip_prefix("cargo run -p maxine-chaos -- ").unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_maxine-chaos")).args(words.split(' ')).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_failing_seed_of_the_cores_is_shown_again() {
    let fault = Some(Fault::Engine(faults::Fault::NoTakeoverGrace));
    let plans = (1..=300).map(|seed| simulation::Plan {
        fault,
        slow_proposals: true,
        ..simulation::Plan::new(seed)
    });
    let mut broken = plans.filter_map(|plan| Some((plan, simulation::run(plan).violation?)));
    let (plan, violation) = broken.next().unwrap();
    let command = simulation::replay_command(&plan);
    let shown = replay(&command);
    assert!(shown.contains(&violation.detail) && shown.contains(&command), "{shown}");
}
