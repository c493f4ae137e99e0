//! The mio backend: one loop over epoll for all connections, and a bounded pool for handlers that block.
//!
//! | good for | not for |
//! |---|---|
//! | many connections, most of them idle; short handlers, which run inline at the lowest cost a request | more blocking handlers at a time than `--threads` |
//!
//! This crate waits and moves bytes. What HTTP says, when a connection closes and how a drain goes on is decided in
//! `remuda-core`; nothing here knows.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use remuda_core::app::{AppFactory, Service};
use remuda_core::conn::Connection;
use remuda_core::handoff::Origin;
use remuda_core::machine::CloseReason;
use remuda_core::pump::Readiness;
use remuda_core::session::Session;
use remuda_core::time::Time;
use remuda_core::worker::intake::{self, Intake, Job, Work};
use remuda_core::worker::{
    Accepted, Acceptor, BlockingTurn, Clock, Control, Crew, Draws, Exit, Inbox, Seat, Shared, Socket,
    TokioContext, Worker, WorkerConfig, WorkerCx, alarm, block_on, sys,
};

/// The mio backend.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for a backend")]
pub struct Mio;

impl Worker for Mio {
    fn name(&self) -> &'static str {
        "mio"
    }

    fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit {
        let context = match TokioContext::new(boot.wants_tokio()) {
            Ok(context) => context,
            Err(error) => return cx.cannot_start(&error),
        };
        let _entered = context.enter();
        let service = match block_on(cx.build(self.name(), &boot)) {
            Ok(service) => service,
            Err(exit) => return exit,
        };
        let (poll, waker) = match start(&cx) {
            Ok(started) => started,
            Err(error) => return cx.cannot_start(&error),
        };
        match Loop::new(cx, service, poll, waker).and_then(|mut worker| worker.serve()) {
            Ok(exit) => exit,
            Err(error) => {
                tracing::error!("the worker's loop failed: {error}");
                Exit::BootFailed
            }
        }
    }
}

const ORDERS: Token = Token(0);
const SIGNALS: Token = Token(1);
const WAKER: Token = Token(2);
const INBOX: Token = Token(3);
/// The first listener; what is above and is no connection's are the others.
const LISTENERS: u64 = 16;

/// Events taken in one turn.
const EVENTS: usize = 1024;

/// Makes what may fail before the worker is ready.
fn start(cx: &WorkerCx) -> io::Result<(Poll, Arc<Waker>)> {
    let poll = Poll::new()?;
    let [orders, signals] = cx.control.sources();
    poll.registry().register(&mut SourceFd(&orders.as_raw_fd()), ORDERS, Interest::READABLE)?;
    poll.registry().register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)?;
    if let Some(inbox) = cx.inbox.source() {
        poll.registry().register(&mut SourceFd(&inbox.as_raw_fd()), INBOX, Interest::READABLE)?;
    }
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    Ok((poll, waker))
}

/// One worker process.
struct Loop {
    poll: Poll,
    clock: Clock,
    control: Control,
    inbox: Inbox,
    acceptor: Acceptor,
    intake: Intake<Session, Socket>,
    crew: Crew<Job<Session, Socket>>,
    service: Arc<Service>,
    shared: Shared,
    seat: Seat,
    config: WorkerConfig,
    draws: Draws,
}

impl Loop {
    fn new(cx: WorkerCx, service: Arc<Service>, poll: Poll, waker: Arc<Waker>) -> io::Result<Self> {
        let limits = Arc::new(cx.config.limits.clone());
        let shared = Shared::new(limits, cx.policies, cx.control.watch().clone());
        let wake = move || {
            if let Err(error) = waker.wake() {
                tracing::error!("cannot wake the loop: {error}");
            }
        };
        let crew = Crew::new(cx.config.threads, run_handler(shared.clone()), wake.clone());
        let mut acceptor = Acceptor::new(cx.listeners, sys::duplicate(&poll)?, LISTENERS);
        acceptor.resume()?;
        let clock = Clock::new();
        cx.seat.beat(clock.now(), 0, &shared.watch);
        cx.control.report_ready()?;
        Ok(Self {
            poll,
            clock,
            control: cx.control,
            inbox: cx.inbox,
            acceptor,
            intake: Intake::new(wake),
            crew,
            service,
            shared,
            seat: cx.seat,
            config: cx.config,
            draws: Draws::new(),
        })
    }

    /// Waits, takes in what happened, lets every connection go as far as it can; until the drain is over.
    fn serve(&mut self) -> io::Result<Exit> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            match self.poll.poll(&mut events, self.timeout()) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.intake.awake();
            let now = self.clock.tick();
            self.seat.beat(now, self.intake.len(), &self.shared.watch);
            for event in &events {
                self.take_in(event, now)?;
            }
            self.adopt(now);
            self.acceptor.handle_time(now)?;
            alarm::ring(now);
            self.intake.begin_turn(now);
            self.drive()?;
            if let Some(exit) = self.shared.watch.exit(self.intake.len(), &self.service.counters, now) {
                return Ok(exit);
            }
        }
    }

    fn take_in(&mut self, event: &Event, now: Time) -> io::Result<()> {
        match event.token() {
            ORDERS | SIGNALS => {
                if self.control.handle(now) {
                    for last in self.acceptor.close() {
                        self.welcome(last, now);
                    }
                    self.intake.wake_all();
                }
            }
            INBOX => self.inbox.wake(),
            WAKER => {
                while let Some(job) = self.crew.take_done() {
                    self.intake.restore(job);
                }
            }
            Token(number) => match intake::Token::from_u64(number as u64) {
                Some(token) => self.intake.ready(token, readiness(event)),
                None => self.accept(number as u64, now)?,
            },
        }
        Ok(())
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
        self.begin(Connection::new(origin, now), accepted.socket);
    }

    /// Takes over what other processes have accepted, however full the worker is: nobody else has it any more.
    fn adopt(&mut self, now: Time) {
        while let Some(adopted) = self.inbox.take(now) {
            self.begin(Connection::resume(adopted.record, now), adopted.socket);
        }
    }

    fn begin(&mut self, connection: Connection, socket: OwnedFd) {
        self.service.counters.accepted.increment();
        let fd = socket.as_raw_fd();
        let session = Session::new(connection, self.service.clone());
        let token = self.intake.insert(session, Socket::new(socket));
        let both = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) =
            self.poll.registry().register(&mut SourceFd(&fd), Token(token.as_u64() as usize), both)
        {
            tracing::error!("cannot wait for a connection, which is closed: {error}");
            self.intake.discard(token);
        }
    }

    fn drive(&mut self) -> io::Result<()> {
        let drain = self.shared.watch.current();
        if drain.is_some_and(|(drain, _)| drain.is_over(self.clock.now())) {
            // What no handler has begun by now is not begun any more.
            while let Some(job) = self.crew.take_waiting() {
                self.intake.restore(job);
            }
        }
        let cx = self.shared.cx(&self.clock, drain.as_ref());
        while let Some(work) = self.intake.work(&cx) {
            match work {
                Work::Run(job) => self.crew.submit(job),
                Work::Closed(reason, socket) => {
                    self.service.counters.closed(reason);
                    drop(socket);
                }
                // Nobody receives connections yet, and no application takes a transport over.
                Work::HandOff(active) | Work::Upgrade(active) => {
                    self.service.counters.closed(CloseReason::TransportFailed);
                    drop(active);
                }
            }
        }
        if drain.is_none() && !self.is_full() {
            self.acceptor.resume()?;
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.config.is_full(self.intake.len())
    }

    /// Until the next deadline or, if that is sooner, the next beat.
    fn timeout(&self) -> Option<Duration> {
        let now = self.clock.now();
        let (intake, acceptor, inbox) =
            (self.intake.deadline(), self.acceptor.deadline(), self.inbox.deadline());
        let (drain, alarm) = (self.shared.watch.deadline(now), alarm::deadline());
        let beat = now + self.config.beat_interval();
        let next = [intake, acceptor, inbox, drain, alarm].into_iter().flatten().min();
        Some(next.map_or(beat, |next| next.min(beat)).since(now))
    }
}

/// What a thread of the crew does. The loop sends what the handler has left queued.
fn run_handler(shared: Shared) -> impl Fn(&mut Job<Session, Socket>) + Send + Sync {
    move |job| {
        let active = &mut *job.active;
        active.machine.run(&mut BlockingTurn::new(&mut active.io, &shared, Clock::new()));
    }
}

fn readiness(event: &Event) -> Readiness {
    let broken = event.is_error() || event.is_write_closed();
    Readiness {
        readable: event.is_readable() || event.is_read_closed() || broken,
        writable: event.is_writable() || broken,
        read_closed: event.is_read_closed(),
        broken,
    }
}
