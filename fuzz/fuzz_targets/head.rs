//! See `remuda_fuzz::head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| remuda_fuzz::head::check(input));
