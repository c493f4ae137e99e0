//! What the arbiter tells people about its workers, as data until it is logged.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal as Number;
use remuda_core::shutdown::Reason;
use rustix::process::Pid;
use tracing::{debug, error, info, warn};

use crate::plan::{Death, Signal};

/// Something worth a line in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    /// A worker was forked.
    Started { slot: u16, pid: Pid },
    /// A worker could not be forked; none: the server stops and nothing is tried again.
    NotStarted { slot: u16, error: String, again_in: Option<Duration> },
    /// A worker is ready.
    Ready { slot: u16, pid: Pid, took: Duration },
    /// A worker could not start and said why.
    BootFailed { slot: u16, pid: Pid, message: String },
    /// A worker is gone. With `again_in` it is replaced after that time, without the server stops.
    Died { slot: u16, pid: Pid, death: Death, lived: Duration, again_in: Option<Duration> },
    /// A child that is no worker has ended.
    Stranger { pid: Pid, death: Death },
    /// The server stops.
    Stopping { reason: Reason, left: Duration },
    /// The stop under way was hurried.
    Hurried { left: Duration },
    /// Connections that had not been accepted when the server stopped were not served.
    BacklogLost { lost: usize },
    /// A worker has outlived its deadline.
    Killing { pid: Pid },
    /// A signal whose feature is not built.
    Unsupported { signal: Signal },
}

impl Notice {
    /// Writes it to the log, at the level it deserves.
    pub(crate) fn log(&self) {
        match self {
            Self::Started { slot, pid } => debug!(slot, %pid, "worker started"),
            Self::NotStarted { slot, error, again_in: Some(delay) } => {
                error!(slot, error, "worker not started, next try in {delay:?}");
            }
            Self::NotStarted { slot, error, again_in: None } => warn!(slot, error, "worker not started"),
            Self::Ready { slot, pid, took } => debug!(slot, %pid, ?took, "worker ready"),
            Self::BootFailed { slot, pid, message } => {
                error!(slot, %pid, "worker could not start: {message}");
            }
            Self::Died { slot, pid, death, lived, again_in: Some(Duration::ZERO) } => {
                warn!(slot, %pid, ?lived, "worker ended with {death}, replaced at once");
            }
            Self::Died { slot, pid, death, lived, again_in: Some(delay) } => {
                error!(slot, %pid, ?lived, "worker ended with {death}, replaced in {delay:?}");
            }
            Self::Died { slot, pid, death: death @ Death::Status(0), lived, again_in: None } => {
                debug!(slot, %pid, ?lived, "worker ended with {death}");
            }
            Self::Died { slot, pid, death, lived, again_in: None } => {
                warn!(slot, %pid, ?lived, "worker ended with {death}");
            }
            Self::Stranger { pid, death } => debug!(%pid, "reaped a child that is no worker: {death}"),
            Self::Stopping { reason, left: Duration::ZERO } => info!(%reason, "stopping at once"),
            Self::Stopping { reason, left } => info!(%reason, "stopping, at most {left:?}"),
            Self::Hurried { left } => info!("stopping faster, at most {left:?}"),
            Self::BacklogLost { lost } => {
                warn!(backlog_lost = lost, "{lost} connections of the backlog are lost");
            }
            Self::Killing { pid } => warn!(%pid, "worker is still there, killing it"),
            // With a controlling terminal every resize sends it.
            Self::Unsupported { signal: signal @ Signal::Winch } => {
                debug!("signal {signal} is not supported yet, ignored");
            }
            Self::Unsupported { signal } => warn!("signal {signal} is not supported yet, ignored"),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Signal(number) => match Number::try_from(*number) {
                Ok(signal) => write!(f, "signal {number} ({signal})"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}
