//! Fuzz targets for data on a disk that other programs may have written: log files, and snapshots to import.

use super::file_log::fuzz as file_log;
use super::import::read_nodejs;
use maxine_fuzzing::Target;
use maxine_state::Command;

use file_log::{frame, seeds as frame_seeds};

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "nodejs_import", run: import, seeds: import_seeds },
    Target { name: "log_file", run: frame, seeds: frame_seeds },
];

/// Any text is either a snapshot of the Node.js Maxine or refused. Every registration in a snapshot is within
/// the limits.
fn import(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(import) = read_nodejs(&text) else { return };
    let mut instances = 0;
    for command in &import.commands {
        let Command::Register { items } = command else {
            panic!("only registrations: {command:?}")
        };
        for (_, registration) in items {
            assert_eq!(registration.check(), Ok(()));
        }
        instances += items.len();
    }
    assert_eq!(instances, import.instances);
}

fn import_seeds() -> Vec<Vec<u8>> {
    maxine_fuzzing::texts(&[
        r#"{"savedAt":1795440992705,"registry":{"orders":{"offset":3,"nodes":{"a-0":{"nodeName":"a-0","parentNode":"a","address":"http://10.0.0.1:8080","timeOut":5,"registeredAt":1,"healthCheckPath":"/health"}}}}}"#,
        r#"{"registry":{"s":{"nodes":{"x":{"parentNode":"x","address":"ftp://h","timeOut":-1e300}}},"e":{}}}"#,
        r#"{"registry":{"":{"nodes":{"":{"parentNode":"","address":"","timeOut":null}}}}}"#,
    ])
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 3_000);
    }
}
