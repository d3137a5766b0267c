#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| maxine_raft::fuzz::run("raft_snapshot_file", bytes));
