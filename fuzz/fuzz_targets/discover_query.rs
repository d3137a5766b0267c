#![no_main]

use maxine_discovery::fuzz::TARGETS;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| maxine_fuzzing::run(TARGETS, "discover_query", bytes));
