#![no_main]

use maxine_gateway::fuzz::TARGETS;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| maxine_fuzzing::run(TARGETS, "instance_answer", bytes));
