//! The gate of a listener that ends (D4): for a moment the listener drops new connects, while
//! handshakes under way complete.
//!
//! The gate is shut by raising the minimum hop limit of incoming segments to 255 (ip(7),
//! `IP_MINTTL`; RFC 5082), which needs no privilege: only segments from senders that start with 255
//! hops pass. Handshakes under way are already in the kernel's queue, and complete. A connection
//! that results from one inherits the limit and receives nothing until the accepting process resets
//! it. That process may be a worker which has not read its order to drain yet. The mark that a gate
//! was shut is therefore in memory that all processes share, and is set before the gate is shut:
//! every socket that has inherited the limit is accepted after the mark was set. While no mark is
//! set, which is nearly always, the check costs one load for each connection.
//!
//! A mark is never cleared: a worker may have been suspended between its accept and its look at the
//! mark. A later listener with the same index costs one or two calls more for each connection.

use std::fmt;
use std::io;

use crate::worker::sys::shared_memory::{self, GateMark};

/// The marks of all listeners that a server may have, by index. Shared with all processes forked
/// from now on.
#[derive(Clone, Copy)]
pub struct Gates(&'static [GateMark]);

impl Gates {
    /// Maps the marks, all unset.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn map() -> io::Result<Self> {
        Ok(Self(shared_memory::map(usize::from(u16::MAX) + 1)?))
    }

    /// The mark of the listener with `index`.
    pub(super) fn mark(self, index: u16) -> &'static GateMark {
        &self.0[usize::from(index)]
    }
}

impl fmt::Debug for Gates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gates").finish_non_exhaustive()
    }
}
