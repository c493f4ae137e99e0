//! A connection with its application, for any protocol: the machine that every backend drives.
//!
//! [`Session::step`](Machine::step) runs parsing, the exchange and encoding until the session has
//! to wait for I/O or for a deadline. An async handler is polled inside the step, and a blocking
//! one that declares itself short runs there. For any other handler the step returns
//! [`Move::Lease`](crate::machine::Move::Lease): the backend moves the session to a place where
//! handlers may run, takes the exchange by [`lease`](Protocol::lease) and returns it by
//! [`settle`](Protocol::settle). A protocol that carries several exchanges at a time keeps its
//! session on the loop: after [`Step::Spawn`] the backend takes the calls of its blocking handlers
//! by [`next_call`](Protocol::next_call), each with one exchange. Handlers run in no other way.

use std::fmt;
use std::sync::Arc;

use crate::app::streams::{ExchangeCall, Streams};
use crate::app::{BlockingIo, HeldExchange, Service};
use crate::conn::Connection;
use crate::handoff::ConnectionRecord;
use crate::machine::{CloseReason, Cx, IoSlices, Machine, Step, Wire};
use crate::rescue::Standing;
use crate::time::Time;

use self::http1::Chosen;
pub use self::http1::{BlockingCall, Http1Session, LeasedCall};

mod http1;

/// The operations of a worker on the machine of a connection, besides driving it.
///
/// ```
/// use remuda_core::app::BlockingIo;
/// use remuda_core::machine::Cx;
/// use remuda_core::session::{LeasedCall, Protocol, Session};
///
/// /// Runs the blocking handler that a step has asked a place for, on this thread.
/// fn run(session: &mut Session, io: &mut impl BlockingIo, cx: &Cx<'_>) {
///     if let Some(LeasedCall::Blocking(call)) = session.lease(cx)
///         && let Some(mut held) = session.hold(io)
///         && let Some(now) = call.run(&mut held)
///     {
///         session.settle(call, now);
///     }
/// }
/// ```
pub trait Protocol: Machine {
    /// Leases the exchange whose handler is to run, after
    /// [`Move::Lease`](crate::machine::Move::Lease). None if there is none any more. The exchange
    /// is recorded as busy until the returned call is dropped or settled.
    fn lease(&mut self, cx: &Cx<'_>) -> Option<LeasedCall>;

    /// Ends the lease: the handler of `call` returned at `now`.
    fn settle(&mut self, call: BlockingCall, now: Time);

    /// Whether the handler that waits for a lease is async. It has to be leased inside the runtime
    /// that polls it.
    fn is_async(&self) -> bool;

    /// Whether an async handler has leased the exchange. Its lease ends by steps on the same
    /// thread.
    fn is_leased(&self) -> bool;

    /// The next call of a blocking handler that runs elsewhere on one exchange, after
    /// [`Step::Spawn`].
    fn next_call(&mut self) -> Option<ExchangeCall>;

    /// Takes back a call that has not begun. It is the next one again.
    fn return_call(&mut self, call: ExchangeCall);

    /// Records that the exchange waits, because all places where its handler can run are taken.
    fn note_queued(&mut self);

    /// The record with which another worker resumes this connection, handed over at `now`. None if
    /// it cannot move. Once the record was sent, the machine has to be [ended](Self::end).
    fn hand_off(&self, now: Time) -> Option<ConnectionRecord>;

    /// The hand-off failed for now. The connection asks for none before `until`.
    fn delay_handoff(&mut self, until: Time);

    /// The connection cannot be handed off. The fallback policy decides about it from now on.
    fn refuse_handoff(&mut self);

    /// Ends the connection at once, because its transport has ended.
    fn end(&mut self, reason: CloseReason);
}

/// The machine of one connection, by its protocol.
#[derive(Debug)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "nearly all connections are of the large one")]
pub enum Session {
    /// HTTP/1.1: at most one exchange at a time. A connection whose protocol has not been chosen
    /// yet is one of these.
    Http1(Http1Session),
    /// Another protocol, with several exchanges at a time.
    Streams(OtherSession),
}

/// The machine of a protocol besides HTTP/1.1.
pub struct OtherSession(Box<dyn Streams>);

impl Session {
    /// A session on `connection` whose requests `service` answers. If the application is served
    /// [over another protocol](crate::app::App::over) too, the first bytes choose the protocol.
    pub fn new(connection: Connection, service: Arc<Service>) -> Self {
        Self::Http1(Http1Session::new(connection, service))
    }

    /// The connection, if it carries HTTP/1.1.
    pub fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Http1(session) => Some(session.connection()),
            Self::Streams(_) => None,
        }
    }

    /// Gives the exchange to a leased handler, until the handler returns. `io` moves the bytes of
    /// the exchange. None if the protocol leases no exchange in this way.
    pub fn hold<'a, I: BlockingIo + ?Sized>(&'a mut self, io: &'a mut I) -> Option<HeldExchange<'a, I>> {
        match self {
            Self::Http1(session) => Some(HeldExchange::new(session.connection_mut(), io)),
            Self::Streams(_) => None,
        }
    }

    /// The step of a connection whose protocol was not chosen before.
    #[cold]
    fn open(&mut self, cx: &Cx<'_>) -> Step {
        let Self::Http1(session) = self else { return self.step(cx) };
        match session.choose(cx) {
            Chosen::Http1 => session.step(cx),
            Chosen::Undecided => session.wait_for_choice(cx),
            Chosen::Other(machine) => {
                *self = Self::Streams(OtherSession(machine));
                self.step(cx)
            }
        }
    }
}

impl Protocol for Session {
    fn lease(&mut self, cx: &Cx<'_>) -> Option<LeasedCall> {
        match self {
            Self::Http1(session) => session.lease(cx),
            Self::Streams(_) => None,
        }
    }

    fn settle(&mut self, call: BlockingCall, now: Time) {
        if let Self::Http1(session) = self {
            session.settle(call, now);
        }
    }

    fn is_async(&self) -> bool {
        matches!(self, Self::Http1(session) if session.is_async())
    }

    fn is_leased(&self) -> bool {
        matches!(self, Self::Http1(session) if session.is_leased())
    }

    fn next_call(&mut self) -> Option<ExchangeCall> {
        match self {
            Self::Http1(_) => None,
            Self::Streams(session) => session.0.next_call(),
        }
    }

    fn return_call(&mut self, call: ExchangeCall) {
        if let Self::Streams(session) = self {
            session.0.return_call(call);
        }
    }

    fn note_queued(&mut self) {
        if let Self::Http1(session) = self {
            session.note_queued();
        }
    }

    fn hand_off(&self, now: Time) -> Option<ConnectionRecord> {
        match self {
            Self::Http1(session) => session.connection().hand_off(now),
            Self::Streams(_) => None,
        }
    }

    fn delay_handoff(&mut self, until: Time) {
        if let Self::Http1(session) = self {
            session.connection_mut().delay_handoff(until);
        }
    }

    fn refuse_handoff(&mut self) {
        if let Self::Http1(session) = self {
            session.connection_mut().refuse_handoff();
        }
    }

    fn end(&mut self, reason: CloseReason) {
        match self {
            Self::Http1(session) => session.end(reason),
            Self::Streams(session) => session.0.end(reason),
        }
    }
}

impl Machine for Session {
    #[inline]
    fn step(&mut self, cx: &Cx<'_>) -> Step {
        match self {
            Self::Http1(session) if session.is_opening() => self.open(cx),
            Self::Http1(session) => session.step(cx),
            Self::Streams(session) => session.0.step(cx),
        }
    }

    fn handle_peer_end(&mut self) {
        match self {
            Self::Http1(session) => session.handle_peer_end(),
            Self::Streams(session) => session.0.handle_peer_end(),
        }
    }

    #[inline]
    fn rest(&mut self) {
        match self {
            Self::Http1(session) => session.rest(),
            Self::Streams(session) => session.0.rest(),
        }
    }
}

impl Wire for Session {
    #[inline]
    fn read_buf(&mut self) -> &mut [u8] {
        match self {
            Self::Http1(session) => session.read_buf(),
            Self::Streams(session) => session.0.read_buf(),
        }
    }

    #[inline]
    fn handle_read(&mut self, n: usize, now: Time) {
        match self {
            Self::Http1(session) => session.handle_read(n, now),
            Self::Streams(session) => session.0.handle_read(n, now),
        }
    }

    fn handle_eof(&mut self, now: Time) {
        match self {
            Self::Http1(session) => session.handle_eof(now),
            Self::Streams(session) => session.0.handle_eof(now),
        }
    }

    #[inline]
    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
        match self {
            Self::Http1(session) => session.transmit(out),
            Self::Streams(session) => session.0.transmit(out),
        }
    }

    #[inline]
    fn standing(&self) -> Standing {
        match self {
            Self::Http1(session) => session.connection().standing(),
            Self::Streams(session) => session.0.standing(),
        }
    }

    #[inline]
    fn standing_once_sent(&self, n: usize) -> Option<Standing> {
        match self {
            Self::Http1(session) => session.connection().standing_once_sent(n),
            Self::Streams(session) => session.0.standing_once_sent(n),
        }
    }

    #[inline]
    fn handle_written(&mut self, n: usize, now: Time) {
        match self {
            Self::Http1(session) => session.handle_written(n, now),
            Self::Streams(session) => session.0.handle_written(n, now),
        }
    }
}

impl fmt::Debug for OtherSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OtherSession")
    }
}

#[cfg(test)]
mod tests;
