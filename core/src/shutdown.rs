//! The drain contract's words and decisions: phases, reasons, connection states and the policies.
//!
//! Everything here is pure. A policy is asked what to do with a connection and answers from its arguments alone:
//! no I/O, no clock, no randomness of its own. The deadline of the drain (rule D10) wraps every policy and is
//! enforced by the connection machine, not here.
//!
//! ```text
//! Booting → Running → Lameduck → Draining → Closing → Exited      (a worker)
//! ```

use std::fmt;
use std::time::Duration;

pub use self::policies::{CloseIdle, Finish, Grace, Handoff, Spread};
use crate::time::Time;

mod policies;

/// Where a worker is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "the contract names all phases of a worker")]
pub enum Phase {
    /// Forked; the application is not loaded yet.
    Booting = 0,
    /// Serving.
    Running = 1,
    /// Told to stop, still accepting, while readiness already fails.
    Lameduck = 2,
    /// Accepting nothing new; finishing what is open.
    Draining = 3,
    /// Only lingering connections are left, or the deadline has passed.
    Closing = 4,
    /// The process is gone.
    Exited = 5,
}

/// Why a worker drains. Logs, metrics and hooks carry it.
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
    /// This worker has lived its time.
    RecycleLifetime = 5,
    /// This worker has grown too large.
    RecycleMemory = 6,
    /// The server runs fewer workers from now on.
    ScaleDown = 7,
    /// The arbiter is gone, so nobody would replace or end this worker.
    ArbiterDied = 8,
    /// Somebody asked for this worker to be replaced.
    RecycleAsked = 9,
    /// A blocking handler of this worker has taken longer than it may.
    RecycleTimeout = 10,
}

impl Reason {
    /// Whether the whole server ends, so that nobody is left to take connections over.
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

    /// The reason that [`Reason`] as a byte stands for, if any.
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

/// Where a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "the contract names all states of a connection")]
pub enum ConnState {
    /// Accepted; no byte has arrived.
    Fresh = 0,
    /// Part of a request head has arrived.
    Head = 1,
    /// A head is complete, up to the last byte of its response being flushed.
    Busy = 2,
    /// Between two requests.
    Idle = 3,
    /// No longer HTTP: the application speaks its own protocol (101).
    Upgraded = 4,
    /// Everything is sent; what the peer still sends is discarded (RFC 9112 §9.6).
    Lingering = 5,
    /// Moved to another worker.
    Handed = 6,
}

/// The drain a worker is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Drain {
    /// Why.
    pub reason: Reason,
    /// How far it has come: `Lameduck`, `Draining` or `Closing`.
    pub phase: Phase,
    /// When it began: `Draining`, or `Lameduck` as long as it is that.
    pub since: Time,
    /// When what is left is ended (D10).
    pub deadline: Time,
    /// Whether another worker takes connections over.
    pub receiver: bool,
}

impl Drain {
    /// A drain that begins at `since` and ends at `deadline`, without a receiver.
    pub fn new(reason: Reason, since: Time, deadline: Time) -> Self {
        Self { reason, phase: Phase::Draining, since, deadline, receiver: false }
    }

    /// The time before that drain, from `since` on, in which the worker serves as usual.
    pub fn lameduck(self) -> Self {
        Self { phase: Phase::Lameduck, ..self }
    }

    /// The same drain with another worker to take connections over.
    pub fn with_receiver(self) -> Self {
        Self { receiver: true, ..self }
    }

    /// Joins a later order into this drain (D11): deadlines only ever move closer, and the order and the
    /// signal of one stop count once.
    ///
    /// The drain that ends a lame duck's time begins then, with its own reason.
    pub fn merge(&mut self, later: Self) {
        if self.phase < Phase::Draining && later.phase >= Phase::Draining {
            *self = Self { deadline: later.deadline.min(self.deadline), ..later };
            return;
        }
        if later.deadline < self.deadline {
            self.deadline = later.deadline;
            self.reason = later.reason;
        }
        // Of an order and a signal, the one that was heard later may have been given first.
        self.since = self.since.min(later.since);
        self.phase = self.phase.max(later.phase);
        self.receiver &= later.receiver;
    }

    /// Whether the deadline has passed.
    pub fn is_over(&self, now: Time) -> bool {
        now >= self.deadline
    }
}

/// What a policy may know of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ConnView {
    /// Where it is.
    pub state: ConnState,
    /// When its last response was flushed, or when it was accepted if there was none (D8).
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
        /// When to ask again; [`Time::MAX`] leaves it to its keep-alive time and the deadline.
        until: Time,
    },
    /// Close it now.
    Close,
    /// Move it to another worker, if there is one and it can be moved; otherwise the fallback decides.
    HandOff,
}

/// Whether a response says that the connection ends with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "a response either closes or does not")]
pub enum Announce {
    /// Send `Connection: close`.
    Close,
    /// Leave the connection open.
    KeepAlive,
}

/// Decides what a drain does to connections.
///
/// Both functions are pure. The core calls them; nobody else does:
///
/// 1. `idle` is asked for connections that are `Fresh`, `Head` or `Idle`, when the drain begins and again
///    at each `until` it named.
/// 2. `announce` is asked once for each response, when its head is encoded, after the handler ran (D5).
/// 3. At the drain's deadline the core stops asking: it ends what is left (D10). What a policy keeps ends sooner where
///    its keep-alive time or, before its first byte, the header timeout runs out (D12).
pub trait ShutdownPolicy: fmt::Debug + Send + Sync + 'static {
    /// What to do with a connection that has no request in flight.
    fn idle(&self, drain: &Drain, connection: &ConnView, now: Time) -> Idle;

    /// Whether the response whose head is being encoded announces close.
    fn announce(&self, drain: &Drain, connection: &ConnView, now: Time) -> Announce;
}

#[cfg(test)]
mod tests;
