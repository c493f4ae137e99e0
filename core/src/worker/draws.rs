//! The random number that each connection carries.

/// Draws numbers from a sequence that is seeded when it is made: after the fork, or siblings would draw the same.
#[derive(Clone, Debug)]
pub struct Draws(u64);

impl Draws {
    /// A sequence seeded by the kernel (getrandom(2)).
    pub fn new() -> Self {
        let mut seed = [0; 8];
        // Without randomness the process id still tells siblings apart.
        if rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()) != Ok(seed.len()) {
            seed[..4].copy_from_slice(&std::process::id().to_ne_bytes());
        }
        Self(u64::from_ne_bytes(seed))
    }

    /// The next number (SplitMix64; spreads connections, keeps no secret).
    pub fn draw(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }
}

impl Default for Draws {
    fn default() -> Self {
        Self::new()
    }
}
