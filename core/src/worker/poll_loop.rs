//! The loop of sync, threaded and mio: one wait for all descriptors of the worker, then every
//! connection with something to do advances as far as it can without waiting.
//!
//! A backend adds the poller that it waits with ([`Waiter`]), and how handlers run ([`Handlers`]):
//! on a [`HandlerPool`](super::handlers::HandlerPool) of threads, or
//! [`InPlace`](super::handlers::InPlace).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::event::epoll;

use super::accept::{Accepted, Acceptor};
use super::arbiter_link::ArbiterLink;
use super::clock::Clock;
use super::config::WorkerConfig;
use super::connections::{self, Connections, Token, Work};
use super::context::WorkerCx;
use super::drain::Ending;
use super::draws::Draws;
use super::exit::{EndOnPanic, Exit};
use super::handlers::{Handlers, Job, WorkerShared};
use super::handoff::{Departures, Inbox};
use super::keeper::{Arrival, Entries};
use super::scoreboard::Seat;
use super::socket::Socket;
use super::tokio_context::TokioContext;
use super::waiter::Waiter;
use super::{alarm, sys};
use crate::app::{AppFactory, Service};
use crate::conn::Connection;
use crate::machine::{CloseReason, Interest, Move};
use crate::peer::Origin;
use crate::pump::Readiness;
use crate::rescue::{ByteCounts, Entry};
use crate::session::{Protocol, Session};
use crate::time::Time;

/// Builds the application for a backend whose loop is not a runtime, with the tokio context that
/// the application may need. The caller enters the context for as long as it serves.
///
/// # Errors
///
/// The exit of the process if the application cannot be built; the reason was reported to the
/// arbiter.
pub fn build(
    cx: &WorkerCx,
    backend: &'static str,
    boot: &AppFactory,
) -> Result<(TokioContext, Arc<Service>), Exit> {
    let context = TokioContext::new(boot.wants_tokio()).map_err(|error| cx.cannot_start(&error))?;
    let service = {
        let _entered = context.enter();
        alarm::block_on(cx.build(backend, boot))?
    };
    let context = context.for_app(&service.app).map_err(|error| cx.cannot_start(&error))?;
    Ok((context, service))
}

/// Serves until the drain is over. `handlers` builds the handler executor from the worker's
/// settings, the state its threads share, and a waker that interrupts the loop when a handler has
/// finished.
pub fn serve<W: Waiter, H: Handlers>(
    cx: WorkerCx,
    service: Arc<Service>,
    waiter: io::Result<W>,
    handlers: impl FnOnce(&WorkerConfig, WorkerShared, Waker) -> io::Result<H>,
) -> Exit {
    let limits = Arc::new(cx.config.limits.clone());
    let shared = WorkerShared::new(limits, cx.policies.clone(), cx.link.watch().clone());
    let started = waiter.and_then(|waiter| {
        let waker = start(&cx, &waiter)?;
        Ok((waiter, waker.clone(), handlers(&cx.config, shared.clone(), waker)?))
    });
    let (waiter, waker, handlers) = match started {
        Ok(started) => started,
        Err(error) => return cx.cannot_start(&error),
    };
    let reports = cx.link.reports();
    let mut worker = match Loop::new(cx, service, shared, waiter, waker, handlers) {
        Ok(worker) => worker,
        Err(error) => return reports.cannot_start(&error),
    };
    worker.serve().unwrap_or_else(|error| {
        tracing::error!("the worker's loop failed: {error}");
        Exit::BootFailed
    })
}

const ORDERS: u64 = 0;
const SIGNALS: u64 = 1;
const WAKER: u64 = 2;
const INBOX: u64 = 3;
/// The first listener; the numbers above it, below those of connections, are the other listeners.
const LISTENERS: u64 = 16;

const READ: Interest = Interest { read: true, write: false };
const BOTH: Interest = Interest { read: true, write: true };

/// Registers a worker's descriptors other than connections, and returns the waker of the loop.
fn start(cx: &WorkerCx, waiter: &impl Waiter) -> io::Result<Waker> {
    let [orders, signals] = cx.link.sources();
    waiter.register(orders, ORDERS, READ)?;
    waiter.register(signals, SIGNALS, READ)?;
    if let Some(inbox) = cx.inbox.source() {
        waiter.register(inbox, INBOX, READ)?;
    }
    waiter.waker(WAKER)
}

/// The loop of one worker process.
struct Loop<W, H> {
    waiter: W,
    clock: Clock,
    link: ArbiterLink,
    inbox: Inbox,
    acceptor: Acceptor,
    departures: Departures,
    /// The waiter's epoll instance, to deregister sockets that another process holds as well.
    epoll: OwnedFd,
    connections: Connections<Session, Socket>,
    handlers: H,
    /// Ends the loop's wait.
    waker: Waker,
    ending: Ending,
    entries: Option<Entries>,
    service: Arc<Service>,
    shared: WorkerShared,
    seat: Seat,
    config: WorkerConfig,
    draws: Draws,
}

impl<W: Waiter, H: Handlers> Loop<W, H> {
    fn new(
        cx: WorkerCx,
        service: Arc<Service>,
        shared: WorkerShared,
        waiter: W,
        waker: Waker,
        handlers: H,
    ) -> io::Result<Self> {
        let mut acceptor = Acceptor::new(cx.listeners, waiter.epoll()?, LISTENERS);
        acceptor.resume()?;
        let departures = Departures::new(cx.outbox, service.counters.clone());
        let ending = Ending::new(&service, shared.watch.state().holds());
        let epoll = waiter.epoll()?;
        let clock = Clock::new();
        // The first heartbeat comes before the report: from there on the arbiter expects more.
        cx.seat.beat(clock.now(), 0, shared.drain());
        cx.link.report_ready()?;
        Ok(Self {
            waiter,
            clock,
            link: cx.link,
            inbox: cx.inbox,
            acceptor,
            departures,
            epoll,
            connections: Connections::new({
                let waker = waker.clone();
                move || waker.wake_by_ref()
            }),
            handlers,
            waker,
            ending,
            entries: cx.entries,
            service,
            shared,
            seat: cx.seat,
            config: cx.config,
            draws: Draws::new(),
        })
    }

    /// Waits, handles what the wait has reported, and drives the connections, until the drain is
    /// over.
    fn serve(&mut self) -> io::Result<Exit> {
        let _guard = EndOnPanic;
        let mut events = W::Events::default();
        loop {
            self.wait(&mut events)?;
            self.connections.awake();
            let now = self.clock.tick();
            let alive = self.service.busy_since(self.config.threads).unwrap_or(now);
            self.seat.beat_since(alive, now, self.connections.len(), self.shared.drain());
            self.link.tend_logs(now);
            for (number, readiness) in W::reported(&events) {
                self.handle_report(number, readiness, now)?;
            }
            if H::IN_PLACE && self.link.has_changed() {
                self.handle_orders(now);
            }
            if !self.ending.has_no_connections() {
                self.take_over(now);
            }
            self.take_expired(now);
            self.acceptor.handle_time(now)?;
            alarm::ring(now);
            self.connections.begin_turn(now);
            self.drive()?;
            if let Some(exit) = self.end(now)? {
                return Ok(exit);
            }
        }
    }

    /// Waits for reports. Once the application ends, tasks that handlers have left on the loop's
    /// thread run meanwhile.
    fn wait(&mut self, events: &mut W::Events) -> io::Result<()> {
        let timeout = self.timeout();
        let until = self.clock.now() + timeout;
        let has_waited = H::IN_PLACE && self.ending.is_under_way() && self.advance_ending(None, until)?.1;
        self.waiter.wait(events, if has_waited { Duration::ZERO } else { timeout })
    }

    /// The exit of the worker, once the drain is over and the application has ended.
    fn end(&mut self, now: Time) -> io::Result<Option<Exit>> {
        let exit = self.shared.watch.exit(self.connections.len(), &self.service.counters, now);
        // After handing off its last connection, a worker checks for an order that it is the last
        // receiver: such an order was sent before the other receivers looked into the queue for the
        // last time.
        if exit.is_some() && !self.ending.has_no_connections() && self.handle_orders(now) {
            return Ok(None);
        }
        if self.ending.is_empty() {
            return Ok(exit);
        }
        let was_under_way = self.ending.is_under_way();
        let (ended, _) = self.advance_ending(exit, now)?;
        if self.ending.is_under_way() && !was_under_way {
            self.handlers.leave();
        }
        Ok(ended)
    }

    /// Advances the application's end. If this thread has a runtime for that, does so until a
    /// descriptor reports something, or `until`. Returns the exit of the worker, and whether this
    /// call has waited.
    fn advance_ending(&mut self, exit: Option<Exit>, until: Time) -> io::Result<(Option<Exit>, bool)> {
        let Some((drain, _)) = self.shared.watch.current() else { return Ok((None, false)) };
        let (ending, mut ended) = (&mut self.ending, None);
        let mut poll = |task: &mut Context<'_>| {
            ended = ending.poll(&drain, exit, sys::now(), task);
            if ended.is_some() { Poll::Ready(()) } else { Poll::Pending }
        };
        let has_waited = self.handlers.attend(&mut poll, self.epoll.as_fd(), until)?;
        if !has_waited {
            let _ = poll(&mut Context::from_waker(&self.waker));
        }
        Ok((ended, has_waited))
    }

    fn handle_report(&mut self, number: u64, readiness: Readiness, now: Time) -> io::Result<()> {
        match number {
            ORDERS | SIGNALS => drop(self.handle_orders(now)),
            INBOX => self.inbox.wake(),
            WAKER => {
                while let Some(job) = self.handlers.take_done() {
                    self.restore(job);
                }
            }
            _ => match Token::from_u64(number) {
                Some(token) => self.connections.ready(token, readiness),
                None => self.accept(number, now)?,
            },
        }
        Ok(())
    }

    /// Reads orders and signals, and returns whether the drain has begun or changed. If it has,
    /// accepting ends and every connection is driven.
    fn handle_orders(&mut self, now: Time) -> bool {
        let changed = self.link.handle(now);
        if changed {
            let arrival = self.entries.map(|entries| entries.arrival());
            for last in self.acceptor.close() {
                self.begin_accepted(last, arrival.as_ref());
            }
            self.connections.wake_all();
        }
        changed
    }

    fn accept(&mut self, listener: u64, now: Time) -> io::Result<()> {
        let arrival = self.entries.map(|entries| entries.arrival());
        let Some(accepted) = self.acceptor.accept(listener, now) else { return Ok(()) };
        self.begin_accepted(accepted, arrival.as_ref());
        if self.is_full() {
            self.acceptor.pause();
        }
        Ok(())
    }

    fn begin_accepted(&mut self, accepted: Accepted, arrival: Option<&Arrival>) {
        let origin = Origin::new(accepted.listener, accepted.peer, self.draws.draw());
        self.service.counters.accepted.increment();
        arrival.into_iter().for_each(Arrival::is_counted);
        // The process may have been suspended since the turn's time was read, so the time is read
        // again.
        let now = self.clock.tick();
        self.begin(Connection::new(origin, now), accepted.socket, Some(ByteCounts::default()));
    }

    /// Takes over connections from the hand-off queue.
    fn take_over(&mut self, now: Time) {
        while let Some(adopted) = self.inbox.take(now, self.is_full()) {
            let counts = self.entries.and_then(|_| Entries::counts(&adopted.socket));
            self.begin(Connection::resume(adopted.record, now), adopted.socket, counts);
        }
    }

    /// Takes connections away from handlers whose time is over.
    fn take_expired(&mut self, now: Time) {
        while let Some(job) = self.handlers.leases().and_then(|leases| leases.take_overdue(now)) {
            self.restore(job);
        }
    }

    /// Takes the connection of a job back, if the job has one.
    fn restore(&mut self, job: Job) {
        job.into_connection().into_iter().for_each(|detached| self.connections.restore(detached));
    }

    /// Serves a connection. `counts`: what was read and written before, if that is known.
    fn begin(&mut self, mut connection: Connection, socket: OwnedFd, counts: Option<ByteCounts>) {
        let entry = self.entries.map_or(Entry::NONE, |entries| entries.entry(&socket));
        connection.publish(entry, counts);
        let session = Session::new(connection, self.service.clone());
        let token = self.connections.next_token();
        match self.waiter.register(socket.as_fd(), token.as_u64(), BOTH) {
            Ok(()) => drop(self.connections.insert_published(session, Socket::new(socket), entry)),
            Err(error) => {
                entry.clear();
                self.service.counters.ended.increment();
                tracing::error!("cannot wait for a connection, which is closed: {error}");
            }
        }
    }

    fn drive(&mut self) -> io::Result<()> {
        let drain = self.shared.watch.current();
        if drain.is_some_and(|(drain, _)| drain.is_over(self.clock.now())) {
            // A request whose handler has not begun by the deadline is not begun.
            while let Some(job) = self.handlers.take_waiting() {
                self.restore(job);
            }
        }
        let cx = self.shared.cx(&self.clock, drain.as_ref());
        while let Some(work) = self.connections.work(&cx) {
            match work {
                Work::Move(Move::Lease, detached) => {
                    if let Some(done) = self.handlers.run(Job::Connection(detached)) {
                        done.into_connection().into_iter().for_each(|done| self.connections.restore(done));
                    }
                    if H::IN_PLACE {
                        self.handle_late_orders();
                        break;
                    }
                }
                Work::Spawn(mut detached) if H::IN_PLACE => {
                    // One call a turn: the loop beats and reads orders between handlers.
                    let Some(call) = detached.active.machine.next_call() else {
                        self.connections.restore(detached);
                        continue;
                    };
                    if let Some(done) = self.handlers.run(Job::Attended(detached, call)) {
                        done.into_connection().into_iter().for_each(|done| self.connections.restore(done));
                    }
                    self.handle_late_orders();
                    break;
                }
                Work::Spawn(mut detached) => {
                    while let Some(call) = detached.active.machine.next_call() {
                        drop(self.handlers.run(Job::Exchange(call)));
                    }
                    self.connections.restore(detached);
                }
                Work::Closed(reason, socket) => {
                    self.service.counters.closed(reason);
                    drop(socket);
                }
                Work::Move(Move::Handoff, mut detached) => {
                    let connections::Active { machine, io, .. } = &mut *detached.active;
                    let socket = io.transport().as_fd();
                    if self.departures.send(machine, socket, io.entry(), cx.now) {
                        // Closing the socket would not end its registration, because another
                        // process holds it too.
                        let _ = epoll::delete(&self.epoll, socket);
                        self.connections.forget(detached.token);
                        self.service.counters.closed(CloseReason::HandedOff);
                    } else {
                        self.connections.restore(detached);
                    }
                }
            }
        }
        // Connections may have ended in this turn, so a full worker may have room again.
        if drain.is_none() && !self.is_full() {
            self.acceptor.resume()?;
        }
        Ok(())
    }

    /// A handler has run in place, and orders may have arrived meanwhile. The kernel has woken this
    /// worker for no connection, because it did not wait: connections that arrived after the order
    /// are not accepted (D2).
    fn handle_late_orders(&mut self) {
        if self.shared.watch.current().is_some() && self.link.has_changed() {
            self.acceptor.pause();
            let now = self.clock.tick();
            self.handle_orders(now);
        }
    }

    fn is_full(&self) -> bool {
        self.config.is_full(self.connections.len())
    }

    /// How long to wait: until the next deadline or the next heartbeat, whichever is earlier.
    fn timeout(&self) -> Duration {
        let now = self.clock.now();
        let (connections, acceptor, inbox) =
            (self.connections.deadline(), self.acceptor.deadline(), self.inbox.deadline(self.is_full()));
        let (drain, alarm) = (self.shared.watch.deadline(now), alarm::deadline());
        let end = self.shared.watch.current().and_then(|(drain, _)| self.ending.deadline(&drain));
        let overdue = self.handlers.leases().and_then(|leases| leases.next_look(now));
        let beat = now + self.config.beat_interval();
        if H::IN_PLACE && self.link.has_changed() {
            return Duration::ZERO;
        }
        let logs = self.link.logs_deadline();
        let next =
            [connections, acceptor, inbox, drain, end, alarm, overdue, logs].into_iter().flatten().min();
        next.map_or(beat, |next| next.min(beat)).since(now)
    }
}
