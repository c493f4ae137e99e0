//! Numbers that look random, made of numbers that do not: to spread connections and workers, and to keep no secret.

/// A number that changes in about half of its bits with any bit of `seed`: the finalizer of SplitMix64, of which the upper
/// half is taken.
pub(crate) fn scatter(seed: u64) -> u32 {
    let z = seed.wrapping_add(STEP);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}

/// How far one seed is from the next in a sequence of them.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
