#![no_main]

use maxine_api::fuzz::TARGETS;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| maxine_fuzzing::run(TARGETS, "request_head", bytes));
