//! See `remuda_fuzz::chunked`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| remuda_fuzz::chunked::check(input));
