#![no_main]

use maxine_http1::fuzz::TARGETS;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| maxine_fuzzing::run(TARGETS, "plain_answer", bytes));
