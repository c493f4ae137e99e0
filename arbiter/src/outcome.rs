//! How a server ended.

use std::fmt;
use std::io;

use remuda_core::shutdown::Reason;

use crate::listener::BindError;
use crate::pidfile::PidfileError;
use crate::sys::ThreadsError;

/// How a server ended. `Display` is the sentence for operators.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Stopped as requested.
    #[non_exhaustive]
    Stopped {
        /// [`Reason::Stop`] after TERM, [`Reason::QuickStop`] after INT or QUIT.
        reason: Reason,
        /// Whether the deadline cut off work, or a worker was killed.
        cut: bool,
    },
    /// A worker failed to boot before the server was ever ready.
    #[non_exhaustive]
    BootFailed {
        /// 3: the worker; 4: the application.
        status: u8,
        /// The reason that the worker reported.
        message: String,
    },
    /// An address could not be bound; nothing was started.
    BindFailed(BindError),
    /// The pidfile could not be written, for example because another server holds it; nothing was
    /// started.
    PidfileFailed(PidfileError),
    /// The process has more than one thread; nothing was started.
    Threads(ThreadsError),
    /// A system call failed that the arbiter cannot do without.
    #[non_exhaustive]
    Internal {
        /// The call and its error.
        message: String,
    },
}

impl Outcome {
    /// The exit status: 0 after a stop as requested, 6 if a stop by TERM cut off work, 3 or 4 if
    /// the first boot failed, 5 if an address could not be bound, 1 otherwise.
    pub fn status(&self) -> u8 {
        match self {
            Self::Stopped { reason: Reason::Stop, cut: true } => 6,
            Self::Stopped { .. } => 0,
            Self::BootFailed { status, .. } => *status,
            Self::BindFailed(_) => 5,
            Self::PidfileFailed(_) | Self::Threads(_) | Self::Internal { .. } => 1,
        }
    }

    /// Whether a stop cut off work. After INT and QUIT the status is 0 even then.
    pub(crate) fn was_cut(&self) -> bool {
        matches!(self, Self::Stopped { cut: true, .. })
    }

    pub(crate) fn internal(what: &str, error: &io::Error) -> Self {
        Self::Internal { message: format!("cannot {what}: {error}") }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped { cut: false, .. } => f.write_str("stopped"),
            Self::Stopped { cut: true, .. } => f.write_str("stopped; not all work was finished"),
            Self::BootFailed { status: 4, message } => write!(f, "the application failed to load: {message}"),
            Self::BootFailed { message, .. } => write!(f, "a worker failed to boot: {message}"),
            Self::BindFailed(error) => error.fmt(f),
            Self::PidfileFailed(error) => error.fmt(f),
            Self::Threads(error) => error.fmt(f),
            Self::Internal { message } => f.write_str(message),
        }
    }
}

impl From<BindError> for Outcome {
    fn from(error: BindError) -> Self {
        Self::BindFailed(error)
    }
}

impl From<PidfileError> for Outcome {
    fn from(error: PidfileError) -> Self {
        Self::PidfileFailed(error)
    }
}

impl From<ThreadsError> for Outcome {
    fn from(error: ThreadsError) -> Self {
        Self::Threads(error)
    }
}

#[cfg(test)]
mod tests;
