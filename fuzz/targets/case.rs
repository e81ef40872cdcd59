#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wq_run::fuzz::case(bytes));
