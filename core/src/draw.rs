//! Pseudo-random numbers derived from seeds, which spread connections and workers. They are not
//! secret.

/// A hash of `seed` in which each bit of the seed changes about half of the bits: the upper half of
/// the finalizer of SplitMix64.
pub(crate) fn scatter(seed: u64) -> u32 {
    let z = seed.wrapping_add(STEP);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}

/// The distance between successive seeds of a sequence.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
