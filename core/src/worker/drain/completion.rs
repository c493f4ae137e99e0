//! When a worker that drains may end: what [`Watch`](super::Watch) answers, from arguments alone.

use std::time::Duration;

use super::Exit;
use super::sys::EXIT_MARGIN;
use crate::shutdown::Drain;
use crate::time::Time;

/// What a worker knows of the connections that a stop passes on (D4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "there is nothing else to know")]
pub enum Backlog {
    /// No order of the arbiter's has spoken of a stop.
    Unknown,
    /// It has, so connections may come.
    Coming,
    /// The last one is in the inbox, or nobody is left to put one there.
    Ended,
    /// And the inbox was seen empty since; or there is no inbox.
    Empty,
}

/// How long a worker that was told to stop by a signal waits for the arbiter's word on it, if it has nothing else to do.
/// A signal to the whole group, or to each process in turn, is a stop of the server, whose order comes in this time and
/// may bring connections; one to this worker alone is not, and the arbiter does not know of it.
pub const ORDER_PATIENCE: Duration = Duration::from_millis(500);

/// What a worker in `drain` exits with, once it may: nothing of its `open` connections is left (D9) and none can come
/// (D4), or the deadline has left it only what handlers do not give back (D10). It has `cut` so many requests.
pub fn exit(drain: &Drain, backlog: Backlog, open: usize, cut: u64, now: Time) -> Option<Exit> {
    let may_come = !drain.is_over(now) && backlog.is_awaited(drain, now);
    match (open, cut) {
        (0, _) if may_come => None,
        (0, 0) => Some(Exit::Clean),
        (0, _) => Some(Exit::CutOff),
        _ => (now >= drain.deadline + EXIT_MARGIN).then_some(Exit::CutOff),
    }
}

/// When [`exit`] should be asked again if nothing happens before.
pub fn ask_again(drain: &Drain, backlog: Backlog, now: Time) -> Time {
    let patience = drain.since + ORDER_PATIENCE;
    match backlog {
        Backlog::Unknown if drain.reason.is_stop() && now < patience => patience.min(drain.deadline),
        _ if now < drain.deadline => drain.deadline,
        _ => drain.deadline + EXIT_MARGIN,
    }
}

impl Backlog {
    fn is_awaited(self, drain: &Drain, now: Time) -> bool {
        match self {
            // Whatever comes is for others.
            _ if drain.receiver => false,
            Self::Unknown => drain.reason.is_stop() && now < drain.since + ORDER_PATIENCE,
            Self::Coming | Self::Ended => true,
            Self::Empty => false,
        }
    }
}
