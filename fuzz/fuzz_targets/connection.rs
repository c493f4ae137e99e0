//! See `remuda_fuzz::connection`.
#![no_main]

use remuda_fuzz::connection::{Script, check};

libfuzzer_sys::fuzz_target!(|script: Script| check(script));
