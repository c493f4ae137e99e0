//! The random number of each connection.

use crate::draw::{STEP, scatter};

/// A sequence of random numbers. Made after the fork, so that siblings draw different numbers.
#[derive(Clone, Debug)]
pub struct Draws(u64);

impl Draws {
    /// A sequence seeded by the kernel (getrandom(2)).
    pub fn new() -> Self {
        let mut seed = [0; 8];
        // Without randomness, the process id still gives siblings different seeds.
        if rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()) != Ok(seed.len()) {
            seed[..4].copy_from_slice(&std::process::id().to_ne_bytes());
        }
        Self(u64::from_ne_bytes(seed))
    }

    /// The next number (SplitMix64: spreads connections, not for secrets).
    pub fn draw(&mut self) -> u32 {
        let number = scatter(self.0);
        self.0 = self.0.wrapping_add(STEP);
        number
    }
}

impl Default for Draws {
    fn default() -> Self {
        Self::new()
    }
}
