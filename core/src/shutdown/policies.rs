//! The policies that come with the crate, as pure functions of what they are asked.
//!
//! | policy | idle connection | next request on it |
//! |---|---|---|
//! | [`Finish`] | kept until its client speaks, its keep-alive runs out, or the deadline | served, close announced |
//! | [`CloseIdle`] | closed at once | lost, if it was on its way |
//! | [`Grace`] | closed once idle for so long since its last response | served, close announced |
//! | [`Spread`] | closed at its own moment of a window | served, close announced more and more often |
//! | [`Handoff`] | moved to another worker | served there, nothing announced |

use std::sync::Arc;
use std::time::Duration;

use super::{Announce, ConnView, Drain, Idle, ShutdownPolicy};
use crate::draw::scatter;
use crate::time::Time;

/// The default policy: an idle connection is kept until its client speaks, its keep-alive time runs out or
/// the deadline comes; the next response on it announces close.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for two functions")]
pub struct Finish;

impl ShutdownPolicy for Finish {
    fn idle(&self, _: &Drain, _: &ConnView, _: Time) -> Idle {
        Idle::Keep { until: Time::MAX }
    }

    fn announce(&self, _: &Drain, _: &ConnView, _: Time) -> Announce {
        Announce::Close
    }
}

/// Closes idle connections at once; what is in flight is finished and announces close. A request that crosses the close
/// on its way is lost, so it is for clients that try again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for two functions")]
pub struct CloseIdle;

impl ShutdownPolicy for CloseIdle {
    fn idle(&self, _: &Drain, _: &ConnView, _: Time) -> Idle {
        Idle::Close
    }

    fn announce(&self, _: &Drain, _: &ConnView, _: Time) -> Announce {
        Announce::Close
    }
}

/// Keeps a connection until it has been idle for this long since its last response (D8), however much of that was before
/// the drain; the next response on it announces close. Zero is [`CloseIdle`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a time and nothing else")]
pub struct Grace(pub Duration);

impl ShutdownPolicy for Grace {
    fn idle(&self, _: &Drain, connection: &ConnView, now: Time) -> Idle {
        close_from(connection.idle_since + self.0, now)
    }

    fn announce(&self, _: &Drain, _: &ConnView, _: Time) -> Announce {
        Announce::Close
    }
}

/// Closes connections one after the other over a window of this length from the drain's beginning, so that clients do not
/// all come back at once.
///
/// Each has a moment of its own in the window, by its `draw`, at which it is closed if it is idle. A response announces
/// close with a probability that rises from 0 to 1 over the window, decided anew for each; and always once the moment has
/// come, because the connection would be closed right behind it. A window of zero is [`CloseIdle`]. What of it lies beyond
/// the drain's deadline is cut off by that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a time and nothing else")]
pub struct Spread(pub Duration);

impl Spread {
    /// The moment of the window that lies at `share` of it, in parts of 2³².
    fn moment(&self, drain: &Drain, share: u32) -> Time {
        let nanos = (self.0.as_nanos() * u128::from(share)) >> 32;
        drain.since + Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX))
    }
}

impl ShutdownPolicy for Spread {
    fn idle(&self, drain: &Drain, connection: &ConnView, now: Time) -> Idle {
        close_from(self.moment(drain, connection.draw), now)
    }

    fn announce(&self, drain: &Drain, connection: &ConnView, now: Time) -> Announce {
        let chance = scatter((u64::from(connection.draw) << 32) | u64::from(connection.served));
        // A share that is uniform lies in the part that has passed with just the probability that is wanted.
        let moment = self.moment(drain, chance).min(self.moment(drain, connection.draw));
        if now > moment || now >= drain.since + self.0 { Announce::Close } else { Announce::KeepAlive }
    }
}

/// Moves connections to another worker, without a word to their clients (D19). What cannot move, and all of them where there
/// is no other worker, this policy decides about.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a policy and nothing else")]
pub struct Handoff(pub Arc<dyn ShutdownPolicy>);

impl Handoff {
    fn moves(drain: &Drain, connection: &ConnView) -> bool {
        drain.receiver && connection.movable
    }
}

impl Default for Handoff {
    /// [`Finish`] decides about what does not move.
    fn default() -> Self {
        Self(Arc::new(Finish))
    }
}

impl ShutdownPolicy for Handoff {
    fn idle(&self, drain: &Drain, connection: &ConnView, now: Time) -> Idle {
        if Self::moves(drain, connection) { Idle::HandOff } else { self.0.idle(drain, connection, now) }
    }

    fn announce(&self, drain: &Drain, connection: &ConnView, now: Time) -> Announce {
        if Self::moves(drain, connection) {
            Announce::KeepAlive
        } else {
            self.0.announce(drain, connection, now)
        }
    }
}

fn close_from(moment: Time, now: Time) -> Idle {
    if now >= moment { Idle::Close } else { Idle::Keep { until: moment } }
}

#[cfg(test)]
mod tests;
