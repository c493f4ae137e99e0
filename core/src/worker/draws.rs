//! The random number that each connection carries.

use crate::draw::{STEP, scatter};

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
