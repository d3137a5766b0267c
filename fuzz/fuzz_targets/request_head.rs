#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| maxine::fuzz::run("request_head", bytes));
