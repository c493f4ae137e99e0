//! The terms and decisions of the drain contract: phases, reasons, connection states and the
//! policies.
//!
//! Everything here is pure. A policy decides about a connection from its arguments alone: no I/O,
//! no clock, no randomness of its own. The deadline of the drain (rule D10) limits every policy and
//! is enforced by the connection machine, not here.
//!
//! ```text
//! Booting → Running → Lameduck → Draining → Closing → Exited      (a worker)
//! ```

use std::fmt;
use std::time::Duration;

pub use self::policies::{CloseIdle, Finish, Grace, Handoff, Spread};
use crate::time::Time;

mod policies;

/// The phase of a worker's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "the contract names all phases of a worker")]
pub enum Phase {
    /// Forked; the application is not loaded yet.
    Booting = 0,
    /// Serving.
    Running = 1,
    /// Ordered to stop, still accepting, while readiness already fails.
    Lameduck = 2,
    /// Accepting no new connections, finishing the open ones.
    Draining = 3,
    /// Only lingering connections are left, or the deadline has passed.
    Closing = 4,
    /// The process is gone.
    Exited = 5,
}

/// Why a worker drains. Logs, metrics and hooks report it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum Reason {
    /// The whole server stops (TERM).
    Stop = 0,
    /// The whole server stops in a hurry (INT).
    QuickStop = 1,
    /// A new configuration takes over.
    Reload = 2,
    /// A new executable takes over.
    Upgrade = 3,
    /// This worker has served its share of requests.
    RecycleRequests = 4,
    /// This worker has reached its maximum age.
    RecycleLifetime = 5,
    /// This worker has grown too large.
    RecycleMemory = 6,
    /// The server runs fewer workers from now on.
    ScaleDown = 7,
    /// The arbiter is gone, so no process would replace or end this worker.
    ArbiterDied = 8,
    /// An operator asked for this worker to be replaced.
    RecycleAsked = 9,
    /// A blocking handler of this worker has exceeded its timeout.
    RecycleTimeout = 10,
}

impl Reason {
    /// Whether the whole server ends, so that no worker stays to receive connections.
    pub fn is_stop(self) -> bool {
        matches!(self, Self::Stop | Self::QuickStop | Self::ArbiterDied)
    }

    /// Whether one worker is replaced by another of the same server.
    pub fn is_recycle(self) -> bool {
        matches!(
            self,
            Self::RecycleRequests
                | Self::RecycleLifetime
                | Self::RecycleMemory
                | Self::RecycleAsked
                | Self::RecycleTimeout
        )
    }

    /// The reason with the number `byte`, if there is one.
    pub fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Stop,
            1 => Self::QuickStop,
            2 => Self::Reload,
            3 => Self::Upgrade,
            4 => Self::RecycleRequests,
            5 => Self::RecycleLifetime,
            6 => Self::RecycleMemory,
            7 => Self::ScaleDown,
            8 => Self::ArbiterDied,
            9 => Self::RecycleAsked,
            10 => Self::RecycleTimeout,
            _ => return None,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::QuickStop => "quick stop",
            Self::Reload => "reload",
            Self::Upgrade => "upgrade",
            Self::RecycleRequests => "recycle: requests",
            Self::RecycleLifetime => "recycle: lifetime",
            Self::RecycleMemory => "recycle: memory",
            Self::ScaleDown => "scale-down",
            Self::ArbiterDied => "arbiter died",
            Self::RecycleAsked => "recycle: asked",
            Self::RecycleTimeout => "recycle: request timeout",
        })
    }
}

/// The state of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "the contract names all states of a connection")]
pub enum ConnState {
    /// Accepted; no byte has arrived.
    Fresh = 0,
    /// Part of a request head has arrived.
    Head = 1,
    /// A head is complete, and its response is not completely flushed yet.
    Busy = 2,
    /// Between two requests.
    Idle = 3,
    /// No longer HTTP: the application uses its own protocol (101).
    Upgraded = 4,
    /// Everything is sent. Bytes that the peer still sends are discarded (RFC 9112 §9.6).
    Lingering = 5,
    /// Moved to another worker.
    Handed = 6,
}

/// The drain a worker is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Drain {
    /// Its reason.
    pub reason: Reason,
    /// Its phase: `Lameduck`, `Draining` or `Closing`.
    pub phase: Phase,
    /// When `Draining` began, or `Lameduck` during that phase.
    pub since: Time,
    /// When the remaining connections are ended (D10).
    pub deadline: Time,
    /// Whether another worker receives connections.
    pub receiver: bool,
}

impl Drain {
    /// A drain that begins at `since` and ends at `deadline`, without a receiver.
    pub fn new(reason: Reason, since: Time, deadline: Time) -> Self {
        Self { reason, phase: Phase::Draining, since, deadline, receiver: false }
    }

    /// The lame-duck phase before this drain, from `since` on, in which the worker serves as usual.
    pub fn lameduck(self) -> Self {
        Self { phase: Phase::Lameduck, ..self }
    }

    /// The same drain with another worker to receive connections.
    pub fn with_receiver(self) -> Self {
        Self { receiver: true, ..self }
    }

    /// Merges a later order into this drain (D11): deadlines only ever move closer, and the order
    /// and the signal of one stop count once.
    ///
    /// The drain that ends a lame-duck phase begins at its own time, with its own reason.
    pub fn merge(&mut self, later: Self) {
        if self.phase < Phase::Draining && later.phase >= Phase::Draining {
            *self = Self { deadline: later.deadline.min(self.deadline), ..later };
            return;
        }
        if later.deadline < self.deadline {
            self.deadline = later.deadline;
            self.reason = later.reason;
        }
        // Of an order and a signal, the one that was read later may have been sent first.
        self.since = self.since.min(later.since);
        self.phase = self.phase.max(later.phase);
        self.receiver &= later.receiver;
    }

    /// Whether the deadline has passed.
    pub fn is_over(&self, now: Time) -> bool {
        now >= self.deadline
    }
}

/// A connection as a policy sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ConnView {
    /// Its state.
    pub state: ConnState,
    /// When its last response was flushed, or when it was accepted if it had none (D8).
    pub idle_since: Time,
    /// Requests answered so far.
    pub served: u32,
    /// A random number fixed for the life of the connection.
    pub draw: u32,
    /// Whether it can be handed to another worker, now or once its request in flight is answered.
    pub movable: bool,
}

impl ConnView {
    /// A connection in `state` that has been idle since `idle_since`.
    pub fn new(state: ConnState, idle_since: Time) -> Self {
        Self { state, idle_since, served: 0, draw: 0, movable: false }
    }

    /// How long it has been idle (D8).
    pub fn idle_for(&self, now: Time) -> Duration {
        now.since(self.idle_since)
    }
}

/// What to do with an idle connection while its worker drains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "a policy has no fourth choice")]
pub enum Idle {
    /// Leave it open, and ask again at `until`.
    Keep {
        /// When to ask again. [`Time::MAX`] leaves the connection to its keep-alive time and the
        /// deadline.
        until: Time,
    },
    /// Close it now.
    Close,
    /// Move it to another worker, if there is one and the connection can be moved. Otherwise the
    /// fallback decides.
    Handoff,
}

/// Whether a response announces the end of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "a response either closes or does not")]
pub enum Announce {
    /// Send `Connection: close`.
    Close,
    /// Leave the connection open.
    KeepAlive,
}

/// Decides how a drain treats connections.
///
/// Both functions are pure. Only the core calls them:
///
/// 1. `idle` is called for connections that are `Fresh`, `Head` or `Idle`, when the drain begins
///    and again at each `until` it returned.
/// 2. `announce` is called once for each response, as late as possible: when the handler has given
///    its head, and that is encoded (D5).
/// 3. At the drain's deadline the core stops calling, and ends the remaining connections (D10). A
///    connection that the policy keeps ends sooner if its keep-alive time or, before its first
///    byte, the header timeout runs out (D12).
///
/// ```
/// use std::time::Duration;
///
/// use remuda_core::shutdown::{Announce, ConnState, ConnView, Drain, Idle, Reason, ShutdownPolicy};
/// use remuda_core::time::Time;
///
/// /// Closes connections that have been idle for a second, and keeps the others until then.
/// #[derive(Debug)]
/// struct OneSecond;
///
/// impl ShutdownPolicy for OneSecond {
///     fn idle(&self, _: &Drain, connection: &ConnView, now: Time) -> Idle {
///         let until = connection.idle_since + Duration::from_secs(1);
///         if now < until { Idle::Keep { until } } else { Idle::Close }
///     }
///
///     fn announce(&self, _: &Drain, _: &ConnView, _: Time) -> Announce {
///         Announce::Close
///     }
/// }
///
/// let drain = Drain::new(Reason::Stop, Time::ZERO, Time::ZERO + Duration::from_secs(30));
/// let connection = ConnView::new(ConnState::Idle, Time::ZERO);
/// let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
/// assert_eq!(OneSecond.idle(&drain, &connection, at(0)), Idle::Keep { until: at(1) });
/// assert_eq!(OneSecond.idle(&drain, &connection, at(1)), Idle::Close);
/// ```
pub trait ShutdownPolicy: fmt::Debug + Send + Sync + 'static {
    /// What to do with a connection that has no request in flight.
    fn idle(&self, drain: &Drain, connection: &ConnView, now: Time) -> Idle;

    /// Whether the response whose head is being encoded announces close.
    fn announce(&self, drain: &Drain, connection: &ConnView, now: Time) -> Announce;
}

#[cfg(test)]
mod tests;
