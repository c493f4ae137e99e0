//! Protocols that carry several exchanges at a time on one connection, and the hook that chooses
//! one of them for a connection.
//!
//! The machine of such a protocol keeps its connection, on the loop. A blocking handler gets its
//! exchange alone, as an [`ExchangeCall`], and shares it with the machine as a [`SharedExchange`].
//! An async handler is polled inside the steps of the machine, as an [`ExchangeFuture`].

use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use send_wrapper::SendWrapper;

use super::future::{AsyncCall, Storage};
use super::{Doing, Entered, Kind, LeasedExchange, Service, answer};
use crate::config::Limits;
use crate::exchange::Exchange;
use crate::http1::{self, HeadLimits, Parsed, Refusal, RequestHead};
use crate::machine::{CloseReason, Cx, Machine};
use crate::peer::{ConnectionInfo, Origin};
use crate::time::Time;

/// A protocol besides HTTP/1.1 that an application is served over, see
/// [`App::over`](super::App::over).
///
/// ```
/// use remuda_core::app::streams::{Opening, OtherProtocol, Streams};
/// use remuda_core::peer::Origin;
///
/// /// A protocol whose connections begin with a preface.
/// struct Prefaced {
///     preface: &'static [u8],
///     machine: fn(Opening) -> Box<dyn Streams>,
/// }
///
/// impl OtherProtocol for Prefaced {
///     fn is_begun_by(&self, _: &Origin, first: &[u8]) -> Option<bool> {
///         let compared = first.len().min(self.preface.len());
///         match first[..compared] == self.preface[..compared] {
///             true if compared < self.preface.len() => None,
///             is_begun => Some(is_begun),
///         }
///     }
///
///     fn machine(&self, opening: Opening) -> Box<dyn Streams> {
///         (self.machine)(opening)
///     }
/// }
/// ```
pub trait OtherProtocol: Send + Sync + 'static {
    /// Whether the `first` bytes of a connection from `origin` begin this protocol. Otherwise the
    /// connection carries HTTP/1.1. None: more bytes are needed. Then the connection waits for them
    /// like an HTTP/1.1 connection for the rest of its first head. Called again with all bytes.
    fn is_begun_by(&self, origin: &Origin, first: &[u8]) -> Option<bool>;

    /// The machine of a connection that this protocol was chosen for.
    fn machine(&self, opening: Opening) -> Box<dyn Streams>;
}

/// What the machine of a connection begins with.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opening {
    /// The application.
    pub service: Arc<Service>,
    /// Facts about the connection.
    pub connection: ConnectionInfo,
    /// When it was accepted.
    pub accepted: Time,
    /// The bytes that have arrived so far.
    pub received: Bytes,
    /// Whether the peer is known to have ended its side. No read may report that again.
    pub has_peer_ended: bool,
}

impl Opening {
    pub(crate) fn new(
        service: Arc<Service>,
        connection: ConnectionInfo,
        accepted: Time,
        received: Bytes,
        has_peer_ended: bool,
    ) -> Self {
        Self { service, connection, accepted, received, has_peer_ended }
    }
}

/// The machine of a protocol that carries several exchanges at a time on one connection.
///
/// Its step returns [`Step::Spawn`](crate::machine::Step::Spawn) while it has calls of blocking
/// handlers that have not been taken. It decides about drains and deadlines as its protocol does,
/// and ends by [`Step::Close`](crate::machine::Step::Close). It never asks for a
/// [move](crate::machine::Step::Move).
///
/// A machine that has closed takes all its exchanges away from their handlers
/// ([`SharedExchange::take`]). So does one that is dropped.
///
/// ```
/// use remuda_core::app::streams::{ExchangeCall, Streams};
///
/// /// Runs the waiting calls of a machine, each on a thread.
/// fn spawn(machine: &mut dyn Streams, on_thread: impl Fn(ExchangeCall)) {
///     while let Some(call) = machine.next_call() {
///         on_thread(call);
///     }
/// }
/// ```
pub trait Streams: Machine + Send {
    /// The next call of a blocking handler, to be run in a place of its own.
    fn next_call(&mut self) -> Option<ExchangeCall>;

    /// Takes back a call that has not begun. It is the next one again, before those that come.
    fn return_call(&mut self, call: ExchangeCall);

    /// Ends the connection at once, without sending anything more.
    fn end(&mut self, reason: CloseReason);
}

/// The state of one exchange, as far as a handler in a place of its own needs it.
///
/// ```
/// use remuda_core::app::streams::{SharedExchange, StreamState};
/// use remuda_core::exchange::Exchange;
/// use remuda_core::machine::Cx;
///
/// /// Bytes of the response that wait to be sent. None once the exchange was taken away.
/// fn unsent<S: StreamState>(shared: &SharedExchange<S>, cx: &Cx<'_>) -> Option<usize> {
///     shared.with(|state| state.exchange(cx).state().unsent)
/// }
/// ```
pub trait StreamState: Send + 'static {
    /// The exchange, at the time of one call.
    type Exchange<'e>: Exchange;

    /// The exchange at the time of `cx`.
    fn exchange<'e>(&'e mut self, cx: &Cx<'_>) -> Self::Exchange<'e>;
}

/// One exchange that the machine of its connection shares with a handler elsewhere.
pub struct SharedExchange<S>(Arc<Shared<S>>);

struct Shared<S> {
    place: Mutex<Place<S>>,
    /// The handler may continue.
    changed: Condvar,
}

struct Place<S> {
    /// None once the machine has taken the exchange away.
    state: Option<S>,
    /// How often the machine has [notified](SharedExchange::notify) the handler.
    changes: u64,
    /// Whether a call was made of it that has not ended.
    is_lent: bool,
}

impl<S: StreamState> SharedExchange<S> {
    /// An exchange in this state.
    pub fn new(state: S) -> Self {
        let place = Mutex::new(Place { state: Some(state), changes: 0, is_lent: false });
        Self(Arc::new(Shared { place, changed: Condvar::new() }))
    }

    /// Does `work` on the state. None once it was taken away.
    pub fn with<R>(&self, work: impl FnOnce(&mut S) -> R) -> Option<R> {
        self.0.lock().state.as_mut().map(work)
    }

    /// Lets a handler that waits look at the exchange again: bytes have arrived or have been sent,
    /// or the exchange has ended.
    pub fn notify(&self) {
        self.0.lock().changes += 1;
        self.0.changed.notify_all();
    }

    /// Takes the exchange away from its handler, whose further reads and writes fail. A handler
    /// that has not begun does not begin.
    pub fn take(&self) -> Option<S> {
        let state = self.0.lock().state.take();
        self.notify();
        state
    }

    /// Whether a handler has it: one that runs or will run. Once this is false, the state changes no
    /// more; until then it may, also after it was looked at.
    pub fn is_lent(&self) -> bool {
        self.0.lock().is_lent
    }

    /// The call of the blocking handler of `service` for the request of `head`. It wakes `machine`
    /// when the machine has something to do for the exchange.
    pub fn lend(
        &self,
        head: Box<RequestHead>,
        connection: ConnectionInfo,
        service: Arc<Service>,
        machine: Waker,
    ) -> ExchangeCall {
        self.0.lock().is_lent = true;
        ExchangeCall(Box::new(Lent {
            shared: self.0.clone(),
            head,
            connection,
            service,
            machine,
            entered: None,
            is_settled: false,
        }))
    }
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Place<S>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> fmt::Debug for SharedExchange<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedExchange").field("is_lent", &self.0.lock().is_lent).finish_non_exhaustive()
    }
}

/// The call of a blocking handler on one exchange, without the connection of the exchange.
///
/// The exchange is returned to its machine when the handler returns, and when the call is dropped.
pub struct ExchangeCall(Box<dyn Callable>);

impl ExchangeCall {
    /// Runs the handler, unless its exchange was taken away.
    pub fn run(&mut self, place: &mut dyn CallPlace) {
        self.0.run(place);
    }

    /// Records that it waits, since `now`, because all places where it can run are taken.
    pub fn note_queued(&mut self, now: Time) {
        self.0.note_queued(now);
    }
}

impl fmt::Debug for ExchangeCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExchangeCall")
    }
}

/// The place where an [`ExchangeCall`] runs.
///
/// ```
/// use std::io;
///
/// use remuda_core::app::streams::CallPlace;
/// use remuda_core::machine::Cx;
///
/// /// A thread of its own, beside the loop that moves the bytes of the connection.
/// struct Thread<'a>(Cx<'a>);
///
/// impl CallPlace for Thread<'_> {
///     fn cx(&mut self) -> Cx<'_> {
///         self.0
///     }
///
///     fn drive(&mut self, _: &dyn Fn() -> bool) -> Option<io::Result<()>> {
///         None
///     }
/// }
/// ```
pub trait CallPlace {
    /// The present context.
    fn cx(&mut self) -> Cx<'_>;

    /// Moves bytes of the connection if its machine is in the care of this thread, and then waits
    /// until some can be moved or a deadline passes, but not if `may_continue`. None: another
    /// thread drives the machine, and the handler waits for that.
    ///
    /// # Errors
    ///
    /// The connection has ended.
    fn drive(&mut self, may_continue: &dyn Fn() -> bool) -> Option<io::Result<()>>;
}

trait Callable: Send {
    fn run(&mut self, place: &mut dyn CallPlace);
    fn note_queued(&mut self, now: Time);
}

/// An exchange on its way to a handler, or with one.
struct Lent<S> {
    shared: Arc<Shared<S>>,
    head: Box<RequestHead>,
    connection: ConnectionInfo,
    service: Arc<Service>,
    machine: Waker,
    /// Its entry among the visible exchanges, while it waits for a place.
    entered: Option<Entered>,
    is_settled: bool,
}

impl<S> Lent<S> {
    /// It waits for its handler no longer.
    fn leave_board(&mut self) {
        if let Some(entered) = self.entered.take() {
            self.service.in_flight.leave(entered);
        }
    }

    /// Returns the exchange to its machine.
    fn settle(&mut self) {
        self.leave_board();
        if !mem::replace(&mut self.is_settled, true) {
            self.shared.lock().is_lent = false;
            self.machine.wake_by_ref();
        }
    }
}

impl<S: StreamState> Callable for Lent<S> {
    fn run(&mut self, place: &mut dyn CallPlace) {
        self.leave_board();
        let Kind::Blocking(handler) = &self.service.app.kind else { return };
        if self.shared.lock().state.is_none() {
            return;
        }
        let busy = self.service.note_placed(self.head.summary(), place.cx().now);
        let Self { shared, machine, .. } = self;
        let mut leased = Leased { shared, machine, place, seen: 0 };
        answer(&**handler, &self.head, self.connection, &self.service, &mut leased);
        drop(busy);
        self.settle();
    }

    fn note_queued(&mut self, now: Time) {
        if self.entered.is_none() {
            self.entered = self.service.in_flight.enter(self.head.summary(), now, Doing::Queued);
        }
    }
}

impl<S> Drop for Lent<S> {
    fn drop(&mut self) {
        self.settle();
    }
}

/// The lease of a handler on its exchange. It expires when the machine takes the exchange away.
struct Leased<'a, S> {
    shared: &'a Shared<S>,
    machine: &'a Waker,
    place: &'a mut dyn CallPlace,
    /// The number of changes when the handler looked at the exchange last.
    seen: u64,
}

impl<S: StreamState> Leased<'_, S> {
    /// Has the machine look at the exchange.
    fn tell_machine(&mut self) {
        // An error shows when the handler has to wait.
        if self.place.drive(&|| true).is_none() {
            self.machine.wake_by_ref();
        }
    }
}

impl<S: StreamState> LeasedExchange for Leased<'_, S> {
    type Exchange<'e> = S::Exchange<'e>;

    fn with<R>(&mut self, work: impl for<'e> FnOnce(&mut S::Exchange<'e>) -> R) -> Option<R> {
        let cx = self.place.cx();
        let mut shared = self.shared.lock();
        self.seen = shared.changes;
        shared.state.as_mut().map(|state| work(&mut state.exchange(&cx)))
    }

    fn advance(&mut self) -> io::Result<()> {
        let Self { shared, machine, place, seen } = self;
        if let Some(result) = place.drive(&|| shared.lock().changes != *seen) {
            return result;
        }
        machine.wake_by_ref();
        let waits = |place: &mut Place<S>| place.state.is_some() && place.changes == *seen;
        let waited = shared.changed.wait_while(shared.lock(), waits);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn can_wait(&self) -> bool {
        true
    }

    fn push(&mut self) {
        self.tell_machine();
    }

    fn look_for_end(&mut self) {
        self.tell_machine();
    }

    fn look_for_reset(&mut self) {
        self.tell_machine();
    }
}

/// The call of an async handler on one exchange, polled by the steps of its machine. It stays on
/// the thread that began it.
pub struct ExchangeFuture {
    call: SendWrapper<AsyncCall>,
    storage: Storage,
}

impl ExchangeFuture {
    /// Begins to answer the request of `head` by the async handler of `service`. None if its
    /// handlers are blocking. `waker` is woken when the handler can continue.
    ///
    /// # Errors
    ///
    /// [`http::Request`] cannot represent the request.
    pub fn begin(
        service: &Service,
        head: &RequestHead,
        exchange: &impl Exchange,
        waker: &Waker,
    ) -> Option<Result<Self, Refusal>> {
        let Kind::Future(call) = &service.app.kind else { return None };
        let mut storage = Storage::default();
        let call = AsyncCall::begin(call, head, exchange, service, &mut storage, waker);
        Some(call.map(|call| Self { call: SendWrapper::new(call), storage }))
    }

    /// Continues as far as possible without waiting. `true` once the exchange is over.
    pub fn poll(&mut self, exchange: &mut impl Exchange, service: &Service, waker: &Waker) -> bool {
        self.call.poll(exchange, service, &mut self.storage, waker)
    }

    /// The peer has ended its side: tells the handler.
    pub fn end_client(&self) {
        self.storage.end_client();
    }
}

impl fmt::Debug for ExchangeFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExchangeFuture")
    }
}

/// The head of a request in a protocol that spells heads as HTTP/1.1 does. `bytes` are all of it.
///
/// # Errors
///
/// It is invalid, incomplete or followed by other bytes, or exceeds a limit.
pub fn parse_head(bytes: &[u8], limits: &Limits) -> Result<Box<RequestHead>, Refusal> {
    let Limits { head: most, request_line, fields, field_size, framing, .. } = *limits;
    let limits = HeadLimits { head: most, request_line, fields, field_size, framing };
    let mut head: Box<RequestHead> = Box::default();
    match http1::parse_head(bytes, limits, &mut head) {
        Parsed::Complete(len) if len == bytes.len() => {
            head.buf = bytes.to_vec();
            Ok(head)
        }
        Parsed::Complete(_) | Parsed::Partial => Err(Refusal::BadField),
        Parsed::Refused(refusal) => Err(refusal),
    }
}

/// A request that was counted, and is counted once more when it is over: as answered, or as aborted
/// if this is dropped.
#[derive(Debug)]
pub struct CountedRequest {
    service: Arc<Service>,
    since: Time,
    is_over: bool,
}

impl CountedRequest {
    /// Counts a request whose head was complete at `since`.
    pub fn new(service: Arc<Service>, since: Time) -> Self {
        service.count_request();
        Self { service, since, is_over: false }
    }

    /// Counts it as answered with `status`: the last byte of the response was sent by `now`.
    pub fn answered(mut self, status: u16, now: Time) {
        self.is_over = true;
        self.service.counters.finished(status, now - self.since);
    }

    /// Counts it as cut, or answered with 503, by the deadline of a drain.
    pub fn cut(mut self) {
        self.is_over = true;
        self.service.counters.aborted(true);
    }
}

impl Drop for CountedRequest {
    fn drop(&mut self) {
        if !self.is_over {
            self.service.counters.aborted(false);
        }
    }
}

#[cfg(test)]
mod tests;
