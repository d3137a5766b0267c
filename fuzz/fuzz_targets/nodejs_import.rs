#![no_main]

use maxine_store::fuzz::TARGETS;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| maxine_fuzzing::run(TARGETS, "nodejs_import", bytes));
