//! What each fuzz target checks, as functions of its input: they return, or panic with what does not hold.
//!
//! `CONTRIBUTING.md` says how to run one, and what to do with a finding.

pub mod chunked;
pub mod connection;
pub mod head;
pub mod proxy;
