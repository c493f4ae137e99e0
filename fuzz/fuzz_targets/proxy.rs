//! See `remuda_fuzz::proxy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| remuda_fuzz::proxy::check(input));
