//! The exit status of a worker process, and its end by a panic.

use std::thread;

use super::sys;

/// How a worker ends, and the exit status of its process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "the table of exit statuses is complete")]
pub enum Exit {
    /// Drained, and no request was cut off.
    Clean = 0,
    /// The worker could not start; the reason was reported to the arbiter.
    BootFailed = 3,
    /// The application could not be built; the reason was reported to the arbiter.
    AppFailed = 4,
    /// The drain's deadline cut off requests in flight, or the application's own end.
    CutOff = 6,
}

impl Exit {
    /// The process's exit status.
    pub fn status(self) -> u8 {
        self as u8
    }
}

/// Ends the process when a panic passes the scope of this value, before the panic reaches what it
/// would drop: connections that are closed in silence are lost, and those of a process that has
/// ended are not (D20). Panics of handlers are caught further inside.
#[derive(Debug)]
pub(super) struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("worker panicked; this is a bug");
            sys::leave(Exit::BootFailed.status());
        }
    }
}
