#![no_main]

use maxine_raft::fuzz::TARGETS;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| maxine_fuzzing::run(TARGETS, "raft_log_mark", bytes));
