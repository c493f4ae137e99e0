//! A connection with its application: the machine that every backend drives.
//!
//! [`Session::step`](Machine::step) runs parsing, the exchange and encoding until only I/O or time can help. An async
//! handler is polled inside the step, and a blocking one that says it is short runs there; any other makes the step
//! [`Step::Run`], and the backend calls [`Session::run`] where it may block. Where all exchanges have turns of their own
//! ([`Turns`]), so do futures: there the backend calls [`Session::begin_turn`] and steps on until the exchange is over.

use std::mem;
use std::sync::Arc;

use send_wrapper::SendWrapper;

use crate::app::{self, Inline, Kind, Observer, Place, Service, Serving, Turn, Turns, Unshared, answer};
use crate::conn::{Buffered, Connection, Event, Overdue, sooner};
use crate::handoff::HandOff;
use crate::http1::RequestHead;
use crate::machine::{CloseReason, Cx, Deadline, IoSlices, Machine, Step, Timer, Wire};
use crate::time::Time;

/// One connection, and at most one exchange on it.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    service: Arc<Service>,
    exchange: Exchange,
    /// Responses that the counters know of.
    counted: u32,
    /// When it last took a step.
    now: Time,
    storage: app::Storage,
}

#[derive(Debug, Default)]
enum Exchange {
    /// There is none.
    #[default]
    None,
    /// A short handler runs once all of the body has arrived.
    Collecting(Box<RequestHead>),
    /// A handler is given its turn once all of a small body has arrived.
    Gathering(Box<RequestHead>),
    /// A handler waits for a place where it may block.
    Waiting(Box<RequestHead>),
    /// A handler is at work elsewhere. A session that takes a step meanwhile was taken away from it, because it has had
    /// its time.
    Called(Box<RequestHead>),
    /// A future answers. It is bound to its thread, which the session does not leave meanwhile: only
    /// [`Step::Run`] and [`Step::HandOff`] move a session, and neither comes while a request is in flight.
    Polling(SendWrapper<app::Exchange>, Box<RequestHead>),
}

impl Session {
    /// A session on `connection` that `service` answers.
    pub fn new(mut connection: Connection, service: Arc<Service>) -> Self {
        if let Some(observer) = &service.observer {
            connection.keep_account(observer.wants_fields());
        }
        Self {
            counted: connection.served(),
            now: Time::ZERO,
            connection,
            service,
            exchange: Exchange::None,
            storage: app::Storage::default(),
        }
    }

    /// Runs the blocking handler that a [`Step::Run`] asked for. Blocks as `turn` does.
    pub fn run(&mut self, turn: &mut dyn Turn) {
        if let Exchange::Waiting(head) = mem::take(&mut self.exchange) {
            let cx = turn.cx();
            let _busy = self.service.in_turn(head.summary(), cx.now);
            self.connection.call(&cx);
            self.answer(head, turn);
        }
    }

    /// Begins the call of the blocking handler that a [`Step::Run`] asked for, where the session may be taken away from
    /// it before [`end_call`](Self::end_call).
    pub fn begin_call(&mut self, cx: &Cx<'_>) -> Option<BlockingCall> {
        let Exchange::Waiting(head) = mem::take(&mut self.exchange) else { return None };
        let busy = self.service.in_turn(head.summary(), cx.now);
        self.connection.call(cx);
        self.exchange = Exchange::Called(head.clone());
        Some(BlockingCall { head, service: self.service.clone(), _busy: busy })
    }

    /// The handler has ended its exchange, in time or not.
    pub fn end_call(&mut self, call: BlockingCall, now: Time) {
        if let Exchange::Called(_) = mem::take(&mut self.exchange) {
            self.now = now;
            self.conclude(call.head);
        }
    }

    /// Whether an async handler waits for the turn that a [`Step::Run`] asked for.
    pub fn awaits_future(&self) -> bool {
        matches!(self.exchange, Exchange::Waiting(_)) && self.service.app.is_future()
    }

    /// Begins the exchange of the async handler that a [`Step::Run`] asked for. It is carried out by steps on this thread,
    /// while [`is_in_turn`](Self::is_in_turn), and noted as busy until the guard is dropped.
    pub fn begin_turn(&mut self, cx: &Cx<'_>) -> Option<Serving> {
        let Exchange::Waiting(head) = mem::take(&mut self.exchange) else { return None };
        self.now = cx.now;
        let busy = self.service.in_turn(head.summary(), cx.now);
        self.begin_future(head, cx);
        busy
    }

    /// Whether an exchange is under way that is bound to its thread.
    pub fn is_in_turn(&self) -> bool {
        matches!(self.exchange, Exchange::Polling(..))
    }

    /// The record that lets another worker go on with this session, handed over `now`; none if it cannot move. Once it was
    /// sent, the session is to [end](Self::end).
    pub fn hand_off(&self, now: Time) -> Option<HandOff> {
        self.connection.hand_off(now)
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The connection, for the handler that runs.
    pub fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// It could not be handed off for now, and does not ask for that again before `until`.
    pub fn hold_back(&mut self, until: Time) {
        self.connection.hold_back(until);
    }

    /// It cannot be handed off, so that the fallback policy decides about it from here on.
    pub fn stay(&mut self) {
        self.connection.stay();
    }

    /// Ends the session at once, because the transport did.
    pub fn end(&mut self, reason: CloseReason) {
        let refused = self.connection.take_refused();
        let head = mem::take(&mut self.exchange).into_head().or(refused);
        self.connection.end(reason);
        if let Some(head) = head {
            self.conclude(head);
        }
    }

    #[inline]
    fn answer(&mut self, head: Box<RequestHead>, turn: &mut dyn Turn) {
        if let Kind::Blocking(handler) = &self.service.app.kind {
            let mut place = Unshared(&mut self.connection, turn);
            self.now = answer(&**handler, &head, &self.service, &mut place).unwrap_or(self.now);
        }
        self.conclude(head);
    }

    fn poll(&mut self, mut exchange: SendWrapper<app::Exchange>, head: Box<RequestHead>, cx: &Cx<'_>) {
        let _busy = self.polls(&head, cx);
        if exchange.poll(&mut self.connection, &self.service, &mut self.storage, cx) {
            self.conclude(head);
        } else {
            self.exchange = Exchange::Polling(exchange, head);
        }
    }

    /// The exchange that `head` began is over: whoever asks for that is told, and it is counted.
    fn conclude(&mut self, head: Box<RequestHead>) {
        if let Some(how) = self.connection.overdue() {
            self.complain(&head, how);
        }
        if let Some(breach) = self.connection.breach() {
            tracing::error!(request = ?head.view(), "{breach}: the connection ends with that");
        }
        self.tell_of(head);
        if self.connection.served() != self.counted {
            self.counted = self.connection.served();
            let (status, took) = self.connection.answered(self.now);
            self.service.counters.finished(status, took);
        } else if self.connection.is_refused() {
            self.service.counters.rejected(self.connection.answered(self.now).0);
        } else if let Some(how) = self.connection.overdue() {
            self.service.counters.timed_out(how);
        }
    }

    /// The handler of `head` has had its time. A future is dropped; of a thread there is no other way to be rid than to
    /// replace the worker.
    #[cold]
    fn complain(&self, head: &RequestHead, how: Overdue) {
        let fate = match how {
            Overdue::Told => "its client is told 503",
            Overdue::Cut => "its response is cut",
        };
        tracing::warn!(request = ?head.view(), "a handler has taken longer than request-timeout allows: {fate}");
        if !self.service.app.is_future() {
            self.service.overtime.found();
        }
    }

    /// A request is over: whoever asks for that is told.
    fn tell_of(&mut self, head: Box<RequestHead>) {
        if let Some(observer) = &self.service.observer {
            tell(&**observer, &self.connection, &head, self.now);
        }
        self.connection.recycle(head);
    }

    /// Takes a complete head on: answers it here if its handler is short and all of the body has arrived.
    fn take_on(&mut self, head: Box<RequestHead>, cx: &Cx<'_>) {
        self.service.count_request();
        match &self.service.app.kind {
            Kind::Blocking(handler) if handler.is_short(&head.view()) => self.collect(head, cx),
            _ if self.service.turns != Turns::Blocking => self.gather(head, cx),
            Kind::Blocking(_) => self.exchange = Exchange::Waiting(head),
            Kind::Future(_) => self.begin_future(head, cx),
        }
    }

    fn begin_future(&mut self, head: Box<RequestHead>, cx: &Cx<'_>) {
        let Kind::Future(call) = &self.service.app.kind else { return };
        if is_over(cx) {
            return self.give_up(head, cx);
        }
        self.connection.call(cx);
        let _busy = self.polls(&head, cx);
        let begun = app::Exchange::begin(call, &head, &self.connection, &self.service, &mut self.storage, cx);
        let mut exchange = match begun {
            Ok(exchange) => exchange,
            Err(refusal) => {
                self.connection.refuse(refusal, cx);
                return self.conclude(head);
            }
        };
        if exchange.poll(&mut self.connection, &self.service, &mut self.storage, cx) {
            self.conclude(head);
        } else {
            self.exchange = Exchange::Polling(SendWrapper::new(exchange), head);
        }
    }

    /// Tells the client of an async handler that it will not be run any more (D10).
    fn give_up(&mut self, head: Box<RequestHead>, cx: &Cx<'_>) {
        self.connection.give_up(cx);
        self.conclude(head);
    }

    /// Notes that a future is polled; within a turn that is known already.
    fn polls(&self, head: &RequestHead, cx: &Cx<'_>) -> Option<Serving> {
        (self.service.turns == Turns::Blocking).then(|| self.service.hands.on_loop(head.summary(), cx.now))?
    }

    fn gather(&mut self, head: Box<RequestHead>, cx: &Cx<'_>) {
        self.exchange = match self.connection.collect_body(cx) {
            Buffered::Partial => Exchange::Gathering(head),
            Buffered::Complete | Buffered::Unbuffered => Exchange::Waiting(head),
        };
    }

    fn collect(&mut self, head: Box<RequestHead>, cx: &Cx<'_>) {
        match self.connection.collect_body(cx) {
            Buffered::Complete => {
                let _busy = self.service.hands.on_loop(head.summary(), cx.now);
                self.answer(head, &mut Inline(*cx));
            }
            Buffered::Partial => self.exchange = Exchange::Collecting(head),
            Buffered::Unbuffered => self.exchange = Exchange::Waiting(head),
        }
    }

    /// Takes `step` towards the end. A request that was refused led there: with its answer sent, it is over as well.
    fn end_with(&mut self, step: Step) -> Step {
        if let Some(head) = self.connection.take_refused() {
            self.tell_of(head);
        }
        step
    }

    /// What to wait for, or what has become of the connection while there was nothing else to do.
    fn wait(&mut self, cx: &Cx<'_>) -> Step {
        let leaves = self.connection.leaves_at(cx).map(|at| Deadline { at, why: Timer::Drain });
        if leaves.is_some_and(|leaves| leaves.at <= cx.now) {
            return Step::HandOff;
        }
        let deadline = sooner(self.connection.handle_time(cx), leaves);
        match self.connection.ending(cx) {
            Some(step) => self.end_with(step),
            None => Step::Wait { interest: self.connection.interest(), deadline },
        }
    }
}

/// A blocking handler that runs while its session lies where it may be taken away.
#[derive(Debug)]
pub struct BlockingCall {
    head: Box<RequestHead>,
    service: Arc<Service>,
    _busy: Option<Serving>,
}

impl BlockingCall {
    /// Runs it. Gives the time at its end; none if the session was taken away.
    pub fn run(&self, place: &mut impl Place) -> Option<Time> {
        match &self.service.app.kind {
            Kind::Blocking(handler) => answer(&**handler, &self.head, &self.service, place),
            Kind::Future(_) => None,
        }
    }
}

/// What no step has come for any more is over with the transport.
impl Drop for Session {
    fn drop(&mut self) {
        self.end(CloseReason::TransportFailed);
    }
}

impl Exchange {
    fn into_head(self) -> Option<Box<RequestHead>> {
        match self {
            Self::None => None,
            Self::Collecting(head)
            | Self::Gathering(head)
            | Self::Waiting(head)
            | Self::Called(head)
            | Self::Polling(_, head) => Some(head),
        }
    }
}

impl Machine for Session {
    fn step(&mut self, cx: &Cx<'_>) -> Step {
        self.now = cx.now;
        for _ in 0..cx.limits.pipeline_budget {
            if let Some(step) = self.connection.ending(cx) {
                return self.end_with(step);
            }
            match mem::take(&mut self.exchange) {
                Exchange::None => match self.connection.poll_event(cx) {
                    Some(Event::Request(head)) => self.take_on(head, cx),
                    None => return self.wait(cx),
                },
                Exchange::Collecting(head) => {
                    // A body that comes too late is there in full as far as it will ever be.
                    self.connection.handle_time(cx);
                    self.collect(head, cx);
                }
                // What no turn has come for by the drain's deadline is told 503 (D10).
                Exchange::Gathering(head) | Exchange::Waiting(head)
                    if is_over(cx) && self.service.app.is_future() =>
                {
                    self.give_up(head, cx);
                }
                Exchange::Gathering(head) => {
                    self.connection.handle_time(cx);
                    self.gather(head, cx);
                }
                // What has not begun its response by the drain's deadline is told 503, what has is cut (D10).
                Exchange::Polling(exchange, head) if is_over(cx) => {
                    drop(exchange);
                    self.give_up(head, cx);
                }
                Exchange::Polling(exchange, head) => {
                    self.connection.handle_time(cx);
                    self.poll(exchange, head, cx);
                }
                waiting @ Exchange::Waiting(_) => self.exchange = waiting,
                Exchange::Called(head) => {
                    self.connection.time_out(cx);
                    self.conclude(head);
                }
            }
            match self.exchange {
                Exchange::None | Exchange::Called(_) => {}
                Exchange::Collecting(_) | Exchange::Gathering(_) | Exchange::Polling(..) => {
                    return self.wait(cx);
                }
                // What no handler has begun by the drain's deadline is not begun any more (D10).
                Exchange::Waiting(_) => {
                    self.connection.handle_time(cx);
                    return self.connection.ending(cx).unwrap_or(Step::Run);
                }
            }
        }
        Step::Yield
    }

    fn rest(&mut self) {
        self.connection.rest();
    }
}

impl Wire for Session {
    fn read_buf(&mut self) -> &mut [u8] {
        self.connection.read_buf()
    }

    fn handle_read(&mut self, n: usize, now: Time) {
        self.connection.handle_read(n, now);
    }

    fn handle_eof(&mut self, now: Time) {
        self.connection.handle_eof(now);
    }

    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
        self.connection.transmit(out);
    }

    fn handle_written(&mut self, n: usize, now: Time) {
        self.connection.handle_written(n, now);
    }
}

/// Apart, because most servers tell nobody.
#[cold]
fn tell(observer: &dyn Observer, connection: &Connection, head: &RequestHead, now: Time) {
    if let Some(answered) = connection.account(head, now) {
        observer.answered(&answered);
    }
}

/// Whether the drain's deadline has passed, from when on no future is polled.
fn is_over(cx: &Cx<'_>) -> bool {
    cx.draining_now().is_some_and(|drain| drain.is_over(cx.now))
}

#[cfg(test)]
mod tests;
