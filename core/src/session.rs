//! A connection with its application, for any protocol: the machine that every backend drives.
//!
//! [`Session::step`](Machine::step) runs parsing, the exchange and encoding until the session has
//! to wait for I/O or for a deadline. An async handler is polled inside the step, and a blocking
//! one that declares itself short runs there. For any other handler the step returns
//! [`Move::Lease`](crate::machine::Move::Lease): the backend moves the session to a place where
//! handlers may run, takes the exchange by [`lease`](Protocol::lease) and returns it by
//! [`settle`](Protocol::settle). Handlers run in no other way.

use std::sync::Arc;

use crate::app::{BlockingIo, HeldExchange, Service};
use crate::conn::Connection;
use crate::handoff::ConnectionRecord;
use crate::machine::{CloseReason, Cx, IoSlices, Machine, Step, Wire};
use crate::rescue::Standing;
use crate::time::Time;

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
///         && let Some(now) = call.run(&mut session.hold(io))
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
pub enum Session {
    /// HTTP/1.1: at most one exchange at a time.
    Http1(Http1Session),
}

impl Session {
    /// A session on `connection` whose requests `service` answers.
    pub fn new(connection: Connection, service: Arc<Service>) -> Self {
        Self::Http1(Http1Session::new(connection, service))
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        let Self::Http1(session) = self;
        session.connection()
    }

    /// Gives the exchange to a leased handler, until the handler returns. `io` moves the bytes of
    /// the exchange.
    pub fn hold<'a, I: BlockingIo + ?Sized>(&'a mut self, io: &'a mut I) -> HeldExchange<'a, I> {
        let Self::Http1(session) = self;
        HeldExchange::new(session.connection_mut(), io)
    }
}

impl Protocol for Session {
    fn lease(&mut self, cx: &Cx<'_>) -> Option<LeasedCall> {
        let Self::Http1(session) = self;
        session.lease(cx)
    }

    fn settle(&mut self, call: BlockingCall, now: Time) {
        let Self::Http1(session) = self;
        session.settle(call, now);
    }

    fn is_async(&self) -> bool {
        let Self::Http1(session) = self;
        session.is_async()
    }

    fn is_leased(&self) -> bool {
        let Self::Http1(session) = self;
        session.is_leased()
    }

    fn note_queued(&mut self) {
        let Self::Http1(session) = self;
        session.note_queued();
    }

    fn hand_off(&self, now: Time) -> Option<ConnectionRecord> {
        let Self::Http1(session) = self;
        session.connection().hand_off(now)
    }

    fn delay_handoff(&mut self, until: Time) {
        let Self::Http1(session) = self;
        session.connection_mut().delay_handoff(until);
    }

    fn refuse_handoff(&mut self) {
        let Self::Http1(session) = self;
        session.connection_mut().refuse_handoff();
    }

    fn end(&mut self, reason: CloseReason) {
        let Self::Http1(session) = self;
        session.end(reason);
    }
}

impl Machine for Session {
    #[inline]
    fn step(&mut self, cx: &Cx<'_>) -> Step {
        let Self::Http1(session) = self;
        session.step(cx)
    }

    fn handle_peer_end(&mut self) {
        let Self::Http1(session) = self;
        session.handle_peer_end();
    }

    #[inline]
    fn rest(&mut self) {
        let Self::Http1(session) = self;
        session.rest();
    }
}

impl Wire for Session {
    #[inline]
    fn read_buf(&mut self) -> &mut [u8] {
        let Self::Http1(session) = self;
        session.read_buf()
    }

    #[inline]
    fn handle_read(&mut self, n: usize, now: Time) {
        let Self::Http1(session) = self;
        session.handle_read(n, now);
    }

    fn handle_eof(&mut self, now: Time) {
        let Self::Http1(session) = self;
        session.handle_eof(now);
    }

    #[inline]
    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
        let Self::Http1(session) = self;
        session.transmit(out);
    }

    #[inline]
    fn standing(&self) -> Standing {
        let Self::Http1(session) = self;
        session.connection().standing()
    }

    #[inline]
    fn standing_once_sent(&self, n: usize) -> Option<Standing> {
        let Self::Http1(session) = self;
        session.connection().standing_once_sent(n)
    }

    #[inline]
    fn handle_written(&mut self, n: usize, now: Time) {
        let Self::Http1(session) = self;
        session.handle_written(n, now);
    }
}

#[cfg(test)]
mod tests;
