//! connection
/// x
pub fn check(_: &[u8]) {}
