//! The loop of the poll-shaped backends: one wait for everything that a worker's descriptors have to say, and then as
//! much for each connection as can be done at once.
//!
//! What such a backend adds is what it waits with ([`Waiter`]), and how handlers run ([`Handlers`]): on a
//! [`Crew`](super::Crew) of threads, or [`InPlace`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use rustix::event::epoll;

pub use self::handlers::{Handlers, InPlace, Job};
use super::departures::Departures;
use super::intake::{self, Intake, Token, Work};
use super::{
    Accepted, Acceptor, Clock, Control, Draws, Exit, Inbox, Seat, Shared, Socket, TokioContext, WorkerConfig,
    WorkerCx, alarm, block_on,
};
use crate::app::{AppFactory, Service};
use crate::conn::Connection;
use crate::handoff::Origin;
use crate::machine::{CloseReason, Interest};
use crate::pump::Readiness;
use crate::session::Session;
use crate::time::Time;

#[path = "handlers.rs"]
mod handlers;

/// What a loop waits with: epoll(7), by whatever name.
pub trait Waiter {
    /// What one wait has reported.
    type Events: Default;

    /// Reports `source` under `number` from now on, whenever something about the directions of `interest` has changed
    /// (`EPOLLET`), until its last descriptor is closed.
    ///
    /// # Errors
    ///
    /// As epoll_ctl(2).
    fn register(&self, source: BorrowedFd<'_>, number: u64, interest: Interest) -> io::Result<()>;

    /// What ends a wait from any thread, reported under `number`. Called once.
    ///
    /// # Errors
    ///
    /// As eventfd(2) and epoll_ctl(2).
    fn waker(&self, number: u64) -> io::Result<Waker>;

    /// The epoll instance itself, for the [`Acceptor`].
    ///
    /// # Errors
    ///
    /// As dup(2).
    fn epoll(&self) -> io::Result<OwnedFd>;

    /// Waits until there is something to report, at most for `timeout`, or for a signal.
    ///
    /// # Errors
    ///
    /// As epoll_wait(2), but for `EINTR`.
    fn wait(&mut self, events: &mut Self::Events, timeout: Duration) -> io::Result<()>;

    /// What a wait has reported: under which number, and what.
    fn reported(events: &Self::Events) -> impl Iterator<Item = (u64, Readiness)>;
}

/// Builds the application of a backend whose loop is no runtime, with the tokio context that it may want. The caller
/// enters that for as long as it serves.
///
/// # Errors
///
/// What to exit with if that fails; the arbiter has been told why.
pub fn build(
    cx: &WorkerCx,
    backend: &'static str,
    boot: &AppFactory,
) -> Result<(TokioContext, Arc<Service>), Exit> {
    let context = TokioContext::new(boot.wants_tokio()).map_err(|error| cx.cannot_start(&error))?;
    let service = {
        let _entered = context.enter();
        block_on(cx.build(backend, boot))?
    };
    Ok((context, service))
}

/// Serves `service` with what a [`Waiter`] reports, until the drain is over. `handlers` makes what runs handlers, out of
/// what threads of a worker share and of what wakes the loop when one of them is done.
pub fn serve<W: Waiter, H: Handlers>(
    cx: WorkerCx,
    service: Arc<Service>,
    waiter: io::Result<W>,
    handlers: impl FnOnce(&WorkerConfig, Shared, Waker) -> io::Result<H>,
) -> Exit {
    let limits = Arc::new(cx.config.limits.clone());
    let shared = Shared::new(limits, cx.policies.clone(), cx.control.watch().clone());
    let started = waiter.and_then(|waiter| {
        let waker = start(&cx, &waiter)?;
        Ok((waiter, waker.clone(), handlers(&cx.config, shared.clone(), waker)?))
    });
    let (waiter, waker, handlers) = match started {
        Ok(started) => started,
        Err(error) => return cx.cannot_start(&error),
    };
    match Loop::new(cx, service, shared, waiter, waker, handlers).and_then(|mut worker| worker.serve()) {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!("the worker's loop failed: {error}");
            Exit::BootFailed
        }
    }
}

const ORDERS: u64 = 0;
const SIGNALS: u64 = 1;
const WAKER: u64 = 2;
const INBOX: u64 = 3;
/// The first listener; what is above and is no connection's are the others.
const LISTENERS: u64 = 16;

const READ: Interest = Interest { read: true, write: false };
const BOTH: Interest = Interest { read: true, write: true };

/// Lets `waiter` report what a worker has besides connections, and gives what wakes it.
fn start(cx: &WorkerCx, waiter: &impl Waiter) -> io::Result<Waker> {
    let [orders, signals] = cx.control.sources();
    waiter.register(orders, ORDERS, READ)?;
    waiter.register(signals, SIGNALS, READ)?;
    if let Some(inbox) = cx.inbox.source() {
        waiter.register(inbox, INBOX, READ)?;
    }
    waiter.waker(WAKER)
}

/// One worker process.
struct Loop<W, H> {
    waiter: W,
    clock: Clock,
    control: Control,
    inbox: Inbox,
    acceptor: Acceptor,
    departures: Departures,
    /// The waiter's, to end a registration whose socket another process has as well.
    epoll: OwnedFd,
    intake: Intake<Session, Socket>,
    handlers: H,
    service: Arc<Service>,
    shared: Shared,
    seat: Seat,
    config: WorkerConfig,
    draws: Draws,
}

impl<W: Waiter, H: Handlers> Loop<W, H> {
    fn new(
        cx: WorkerCx,
        service: Arc<Service>,
        shared: Shared,
        waiter: W,
        waker: Waker,
        handlers: H,
    ) -> io::Result<Self> {
        let mut acceptor = Acceptor::new(cx.listeners, waiter.epoll()?, LISTENERS);
        acceptor.resume()?;
        let departures = Departures::new(cx.outbox, service.counters.clone());
        let epoll = waiter.epoll()?;
        let clock = Clock::new();
        cx.seat.beat(clock.now(), 0, &shared.watch);
        cx.control.report_ready()?;
        Ok(Self {
            waiter,
            clock,
            control: cx.control,
            inbox: cx.inbox,
            acceptor,
            departures,
            epoll,
            intake: Intake::new(move || waker.wake_by_ref()),
            handlers,
            service,
            shared,
            seat: cx.seat,
            config: cx.config,
            draws: Draws::new(),
        })
    }

    /// Waits, takes in what happened, lets every connection go as far as it can; until the drain is over.
    fn serve(&mut self) -> io::Result<Exit> {
        let mut events = W::Events::default();
        loop {
            self.waiter.wait(&mut events, self.timeout())?;
            self.intake.awake();
            let now = self.clock.tick();
            let alive = self.service.busy_since(self.config.threads).unwrap_or(now);
            self.seat.beat_since(alive, now, self.intake.len(), &self.shared.watch);
            for (number, readiness) in W::reported(&events) {
                self.take_in(number, readiness, now)?;
            }
            if H::IN_PLACE && self.control.has_changed() {
                self.obey(now);
            }
            self.adopt(now);
            self.relieve(now);
            self.acceptor.handle_time(now)?;
            alarm::ring(now);
            self.intake.begin_turn(now);
            self.drive()?;
            // Whoever has sent its last connection looks whether there is still a receiver: an order that says otherwise came
            // before the receivers looked for the last time.
            if let Some(exit) = self.shared.watch.exit(self.intake.len(), &self.service.counters, now)
                && !self.obey(now)
            {
                return Ok(exit);
            }
        }
    }

    fn take_in(&mut self, number: u64, readiness: Readiness, now: Time) -> io::Result<()> {
        match number {
            ORDERS | SIGNALS => drop(self.obey(now)),
            INBOX => self.inbox.wake(),
            WAKER => {
                while let Some(job) = self.handlers.take_done() {
                    self.intake.restore(job);
                }
            }
            _ => match Token::from_u64(number) {
                Some(token) => self.intake.ready(token, readiness),
                None => self.accept(number, now)?,
            },
        }
        Ok(())
    }

    /// Takes orders and signals. When a drain begins or changes, which is the answer, nothing more is accepted, and everybody
    /// gets a turn.
    fn obey(&mut self, now: Time) -> bool {
        let changed = self.control.handle(now);
        if changed {
            for last in self.acceptor.close() {
                self.welcome(last, now);
            }
            self.intake.wake_all();
        }
        changed
    }

    fn accept(&mut self, listener: u64, now: Time) -> io::Result<()> {
        let Some(accepted) = self.acceptor.accept(listener, now) else { return Ok(()) };
        self.welcome(accepted, now);
        if self.is_full() {
            self.acceptor.pause();
        }
        Ok(())
    }

    fn welcome(&mut self, accepted: Accepted, now: Time) {
        let origin = Origin::new(accepted.listener, accepted.peer, self.draws.draw());
        self.service.counters.accepted.increment();
        self.begin(Connection::new(origin, now), accepted.socket);
    }

    /// Takes over what other processes hand over.
    fn adopt(&mut self, now: Time) {
        while let Some(adopted) = self.inbox.take(now, self.is_full()) {
            self.begin(Connection::resume(adopted.record, now), adopted.socket);
        }
    }

    /// Takes connections away from handlers that have had their time.
    fn relieve(&mut self, now: Time) {
        while let Some(job) = self.handlers.desks().and_then(|desks| desks.take_overdue(now)) {
            self.intake.restore(job);
        }
    }

    fn begin(&mut self, connection: Connection, socket: OwnedFd) {
        let session = Session::new(connection, self.service.clone());
        let token = self.intake.next_token();
        match self.waiter.register(socket.as_fd(), token.as_u64(), BOTH) {
            Ok(()) => drop(self.intake.insert(session, Socket::new(socket))),
            Err(error) => {
                self.service.counters.ended.increment();
                tracing::error!("cannot wait for a connection, which is closed: {error}");
            }
        }
    }

    fn drive(&mut self) -> io::Result<()> {
        let drain = self.shared.watch.current();
        if drain.is_some_and(|(drain, _)| drain.is_over(self.clock.now())) {
            // What no handler has begun by now is not begun any more.
            while let Some(job) = self.handlers.take_waiting() {
                self.intake.restore(job);
            }
        }
        let cx = self.shared.cx(&self.clock, drain.as_ref());
        while let Some(work) = self.intake.work(&cx) {
            match work {
                Work::Run(job) => {
                    if let Some(done) = self.handlers.run(job) {
                        self.intake.restore(done);
                    }
                    if H::IN_PLACE {
                        self.look_around();
                        break;
                    }
                }
                Work::Closed(reason, socket) => {
                    self.service.counters.closed(reason);
                    drop(socket);
                }
                Work::HandOff(mut job) => {
                    let intake::Active { machine, io, .. } = &mut *job.active;
                    let socket = io.transport().as_fd();
                    if self.departures.send(machine, socket, cx.now) {
                        // Closing it would not end the registration: the socket lives on elsewhere.
                        let _ = epoll::delete(&self.epoll, socket);
                        self.intake.forget(job.token);
                        self.service.counters.closed(CloseReason::HandedOff);
                    } else {
                        self.intake.restore(job);
                    }
                }
            }
        }
        if drain.is_none() && !self.is_full() {
            self.acceptor.resume()?;
        }
        Ok(())
    }

    /// A handler has run in place, and orders may have come meanwhile. The kernel has not chosen this worker for any
    /// connection, because it did not wait: those that came after the order are not accepted (D2).
    fn look_around(&mut self) {
        if self.shared.watch.current().is_some() && self.control.has_changed() {
            self.acceptor.pause();
            let now = self.clock.tick();
            self.obey(now);
        }
    }

    fn is_full(&self) -> bool {
        self.config.is_full(self.intake.len())
    }

    /// Until the next deadline or, if that is sooner, the next beat.
    fn timeout(&self) -> Duration {
        let now = self.clock.now();
        let (intake, acceptor, inbox) =
            (self.intake.deadline(), self.acceptor.deadline(), self.inbox.deadline(self.is_full()));
        let (drain, alarm) = (self.shared.watch.deadline(now), alarm::deadline());
        let overdue = self.handlers.desks().and_then(|desks| desks.next_look(now));
        let beat = now + self.config.beat_interval();
        if H::IN_PLACE && self.control.has_changed() {
            return Duration::ZERO;
        }
        let next = [intake, acceptor, inbox, drain, alarm, overdue].into_iter().flatten().min();
        next.map_or(beat, |next| next.min(beat)).since(now)
    }
}
