//! The check of each fuzz target as a function of its input, which panics if a property does not
//! hold.
//!
//! `CONTRIBUTING.md` says how to run a target, and what to do with a finding.

pub mod chunked;
pub mod connection;
pub mod head;
pub mod proxy;
