//! The service level objectives. They are declared in one file, from which the rules and dashboards for Prometheus are
//! generated too.

use serde::Deserialize;

use maxine_telemetry::Objective;

const DECLARED: &str = include_str!("../../deploy/prometheus/slo.toml");

/// The part of the file that a node uses.
#[derive(Deserialize)]
struct Declared {
    slo: Vec<Slo>,
}

#[derive(Deserialize)]
struct Slo {
    name: String,
    title: String,
    about: String,
    objective: f64,
    failures: String,
    total: String,
}

/// The objectives of this version of Maxine.
#[must_use]
pub fn objectives() -> Vec<Objective> {
    let declared: Declared =
        toml::from_str(DECLARED).expect("the file is part of the program, and a test reads it");
    let objective = |slo: Slo| {
        let Slo { name, title, about, objective, failures, total } = slo;
        Objective { name, title, about, objective, failures, total }
    };
    declared.slo.into_iter().map(objective).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declared_objectives_can_be_read() {
        let objectives = objectives();
        let names: Vec<&str> = objectives.iter().map(|objective| &*objective.name).collect();
        assert_eq!(names, ["discovery-availability", "write-availability", "proxy-success"]);
        assert!(objectives.iter().all(|each| each.objective > 0.9 && each.objective < 1.0));
    }
}
