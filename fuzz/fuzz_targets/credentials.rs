#![no_main]

use maxine_identity::fuzz::TARGETS;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| maxine_fuzzing::run(TARGETS, "credentials", bytes));
