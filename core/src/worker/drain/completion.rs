//! When a draining worker may exit. Pure functions of their arguments, which
//! [`Watch`](crate::worker::Watch) and the simulation call.

use std::time::Duration;

use crate::shutdown::{Drain, Reason};
use crate::time::Time;
use crate::worker::exit::Exit;
use crate::worker::sys::EXIT_MARGIN;

/// What a worker knows about the connections that a stop of the server passes on (D4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "there is nothing else to know")]
pub enum BacklogState {
    /// No order to stop has arrived.
    Unknown,
    /// An order to stop has arrived: connections may come.
    Coming,
    /// The last connection is in the inbox, or no process is left that could send one.
    Ended,
    /// The inbox has been found empty since then, or there is no inbox.
    Empty,
}

/// How long a worker that was stopped by a signal waits for an order of the arbiter, if it has
/// nothing else to do. A signal to the whole process group, or to each process in turn, stops the
/// server: the order arrives within this time and may bring connections. A signal to this worker
/// alone does not, and the arbiter is not aware of it.
pub const ORDER_PATIENCE: Duration = Duration::from_millis(500);

/// The exit of a worker in `drain`, once it may exit: none of its `open` connections is left (D9)
/// and none can come (D4), or the deadline has passed and only handlers that do not return still
/// hold connections (D10). `cut`: how many requests were cut off.
pub fn exit(drain: &Drain, backlog: BacklogState, open: usize, cut: u64, now: Time) -> Option<Exit> {
    let may_come = !drain.is_over(now) && backlog.is_awaited(drain, now);
    match (open, cut) {
        (0, _) if may_come => None,
        (0, 0) => Some(Exit::Clean),
        (0, _) => Some(Exit::CutOff),
        _ => (now >= drain.deadline + EXIT_MARGIN).then_some(Exit::CutOff),
    }
}

/// When to call [`exit`] again if nothing happens before.
pub fn ask_again(drain: &Drain, backlog: BacklogState, now: Time) -> Time {
    let patience = drain.since + ORDER_PATIENCE;
    match backlog {
        BacklogState::Unknown if drain.reason.is_stop() && now < patience => patience.min(drain.deadline),
        _ if now < drain.deadline => drain.deadline,
        _ => drain.deadline + EXIT_MARGIN,
    }
}

/// The least time that the application's own end has (D14), even if requests have used up all of
/// the drain's time.
pub const END_LEAST: Duration = Duration::from_millis(300);

/// The deadline in `drain` of the application's own end, if that `began` at this time.
pub fn end_until(drain: &Drain, began: Time) -> Time {
    drain.deadline.max(began.min(drain.deadline) + END_LEAST)
}

/// Whether the application's own end runs in `drain`: not if the drain ends everything at once, as
/// QUIT does (D11).
pub fn has_end(drain: &Drain) -> bool {
    drain.reason != Reason::QuickStop || drain.deadline > drain.since
}

impl BacklogState {
    fn is_awaited(self, drain: &Drain, now: Time) -> bool {
        match self {
            // Other workers take the connections that come.
            _ if drain.receiver => false,
            Self::Unknown => drain.reason.is_stop() && now < drain.since + ORDER_PATIENCE,
            Self::Coming | Self::Ended => true,
            Self::Empty => false,
        }
    }
}
