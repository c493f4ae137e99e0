//! The stock policies, as pure functions.
//!
//! | policy | idle connection | next request on it |
//! |---|---|---|
//! | [`Finish`] | kept until its next request, keep-alive time or the deadline | served, close |
//! | [`CloseIdle`] | closed at once | lost, if it was on its way |
//! | [`Grace`] | closed once idle for a given time since its last response | served, close |
//! | [`Spread`] | closed at its own moment of a window | served, close more and more often |
//! | [`Handoff`] | moved to another worker | served there, no close |
//!
//! "Close" means that the response announces it.

use std::sync::Arc;
use std::time::Duration;

use super::{Announce, ConnView, Drain, Idle, ShutdownPolicy};
use crate::draw::scatter;
use crate::time::Time;

/// The default policy: an idle connection is kept until its next request, the end of its keep-alive
/// time, or the deadline. The next response on it announces close.
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

/// Closes idle connections at once. Requests in flight are finished and announce close. A request
/// that crosses the close is lost, so this policy is for clients that retry.
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

/// Keeps a connection until it has been idle for this long since its last response (D8), including
/// time before the drain. The next response on it announces close. Zero equals [`CloseIdle`].
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

/// Closes connections one after the other over a window of this length from the drain's beginning,
/// so that clients do not all come back at once.
///
/// Each connection has its own moment in the window, by its `draw`, at which it is closed if it is
/// idle. A response announces close with a probability that rises from 0 to 1 over the window,
/// drawn anew for each response, and always after that moment, because the connection would be
/// closed right after it. A window of zero equals [`CloseIdle`]. The drain's deadline cuts a longer
/// window off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a time and nothing else")]
pub struct Spread(pub Duration);

impl Spread {
    /// The moment of the window at the fraction `share` / 2³².
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
        // A uniform share lies in the elapsed part with exactly the wanted probability.
        let moment = self.moment(drain, chance).min(self.moment(drain, connection.draw));
        if now > moment || now >= drain.since + self.0 { Announce::Close } else { Announce::KeepAlive }
    }
}

/// Moves connections to another worker, without notice to their clients (D19). The inner policy
/// decides about connections that cannot move, and about all if there is no other worker.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a policy and nothing else")]
pub struct Handoff(pub Arc<dyn ShutdownPolicy>);

impl Handoff {
    fn moves(drain: &Drain, connection: &ConnView) -> bool {
        drain.receiver && connection.movable
    }
}

impl Default for Handoff {
    /// With [`Finish`] as the inner policy.
    fn default() -> Self {
        Self(Arc::new(Finish))
    }
}

impl ShutdownPolicy for Handoff {
    fn idle(&self, drain: &Drain, connection: &ConnView, now: Time) -> Idle {
        if Self::moves(drain, connection) { Idle::Handoff } else { self.0.idle(drain, connection, now) }
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
