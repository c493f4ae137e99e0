//! The tokio backend: one current-thread runtime for all connections, a task for each, and a bounded pool for
//! handlers that block.
//!
//! | good for | not for |
//! |---|---|
//! | applications that live in tokio: axum, clients and pools of connections; async handlers in any number | an async handler that computes or blocks: it holds up every connection of its worker, so run it blocking, or on `spawn_blocking` |
//! | many connections, most of them idle | short connections in masses: accepting costs a thread's wake-up each, which mio does without |
//! | blocking handlers beside async clients, up to `--threads` at a time | more than one processor in one worker: tasks do not leave their thread, more `--workers` do that |
//!
//! This crate waits and moves bytes. What HTTP says, when a connection closes and how a drain goes on is decided in
//! `remuda-core`; nothing here knows.

#![forbid(unsafe_code)]

mod connection;
mod ears;
mod stream;
mod timer;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use remuda_core::app::{AppFactory, Service};
use remuda_core::conn;
use remuda_core::handoff::Origin;
use remuda_core::time::Time;
use remuda_core::worker::{
    AcceptThread, Accepted, BlockingTurn, Clock, Control, Crew, Draws, Exit, Inbox, Seat, Shared, Worker,
    WorkerConfig, WorkerCx, alarm, sys,
};
use slab::Slab;
use tokio::runtime::{Builder, Handle, LocalOptions, LocalRuntime};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout_at};

use self::connection::{Connection, Job};
use self::ears::{Door, Ears};
use self::timer::Timer;

/// The tokio backend.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for a backend")]
pub struct Tokio;

impl Worker for Tokio {
    fn name(&self) -> &'static str {
        "tokio"
    }

    fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit {
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return cx.cannot_start(&error),
        };
        let exit = serve(&runtime, cx, &boot);
        // What an application still runs on threads of the runtime does not hold up the exit.
        runtime.shutdown_background();
        exit
    }
}

/// Builds the application inside the runtime, and serves it until the drain is over.
fn serve(runtime: &LocalRuntime, cx: WorkerCx, boot: &AppFactory) -> Exit {
    let inside = runtime.enter();
    runtime.spawn_local(ring_alarms());
    let service = match cx.build(Tokio.name(), boot, |app| runtime.block_on(app)) {
        Ok(service) => service,
        Err(exit) => return exit,
    };
    let (ears, door) = match (Ears::new(&cx.control), Door::new(&cx.inbox)) {
        (Ok(ears), Ok(door)) => (ears, door),
        (Err(error), _) | (_, Err(error)) => return cx.cannot_start(&error),
    };
    drop(inside);
    runtime.block_on(async {
        match Loop::start(cx, service, ears, door) {
            Ok(worker) => worker.serve().await,
            Err(error) => Err(error),
        }
        .unwrap_or_else(|error| {
            tracing::error!("the worker's loop failed: {error}");
            Exit::BootFailed
        })
    })
}

/// What the runtime's timers take for never.
const FAR: Duration = Duration::from_secs(86_400);

/// What all tasks of a worker share.
struct Loop {
    clock: RefCell<Clock>,
    acceptor: AcceptThread,
    /// The tasks of all open connections: how many there are, and how to give each a turn.
    open: RefCell<Slab<Waker>>,
    /// A connection has ended, or the drain has changed.
    changed: Notify,
    /// Something has arrived from the arbiter.
    told: Notify,
    crew: RefCell<Crew<Job>>,
    /// A thread of the crew is done.
    done: Arc<Notify>,
    service: Arc<Service>,
    shared: Shared,
    config: WorkerConfig,
    draws: RefCell<Draws>,
}

impl Loop {
    fn start(cx: WorkerCx, service: Arc<Service>, ears: Ears, door: Door) -> io::Result<Rc<Self>> {
        let limits = Arc::new(cx.config.limits.clone());
        let shared = Shared::new(limits, cx.policies, cx.control.watch().clone());
        let done = Arc::new(Notify::new());
        let wake = done.clone();
        let crew = Crew::new(cx.config.threads, run_handler(shared.clone()), move || wake.notify_one());
        let acceptor = AcceptThread::start(cx.listeners, cx.outbox)?;
        cx.seat.beat(sys::now(), 0, &shared.watch);
        cx.control.report_ready()?;
        let worker = Rc::new(Self {
            clock: RefCell::default(),
            acceptor,
            open: RefCell::default(),
            changed: Notify::new(),
            told: Notify::new(),
            crew: RefCell::new(crew),
            done,
            service,
            shared,
            config: cx.config,
            draws: RefCell::default(),
        });
        spawn_local(worker.clone().obey(cx.control, ears));
        spawn_local(worker.clone().adopt(cx.inbox, door));
        spawn_local(worker.clone().restore());
        spawn_local(worker.clone().beat(cx.seat));
        Ok(worker)
    }

    /// Gives every connection a task until a drain begins, and then waits for the last of them.
    async fn serve(self: Rc<Self>) -> io::Result<Exit> {
        while let Some(accepted) = self.accept().await {
            self.take_in(accepted?);
        }
        Ok(self.drained().await)
    }

    /// The next connection, once there is room for it; `None` in a drain.
    async fn accept(&self) -> Option<io::Result<Accepted>> {
        while self.is_full() && self.shared.watch.current().is_none() {
            self.changed.notified().await;
        }
        poll_fn(|task| self.acceptor.poll_accept(task)).await
    }

    fn take_in(self: &Rc<Self>, accepted: Accepted) {
        let origin = Origin::new(accepted.listener, accepted.peer, self.draws.borrow_mut().draw());
        self.begin(conn::Connection::new(origin, self.now()), accepted.socket);
    }

    fn begin(self: &Rc<Self>, connection: conn::Connection, socket: OwnedFd) {
        self.service.counters.accepted.increment();
        match Connection::new(self.clone(), connection, socket) {
            Ok(connection) => drop(spawn_local(connection.serve())),
            Err(error) => tracing::error!("cannot wait for a connection, which is closed: {error}"),
        }
    }

    /// Takes over what other processes have accepted, however full the worker is: nobody else has it any more.
    async fn adopt(self: Rc<Self>, mut inbox: Inbox, mut door: Door) {
        loop {
            let now = self.now();
            while let Some(adopted) = inbox.take(now) {
                self.begin(conn::Connection::resume(adopted.record, now), adopted.socket);
            }
            // The last look into the queue may be what the exit has waited for.
            self.changed.notify_one();
            let again = Instant::now() + inbox.deadline().unwrap_or(Time::MAX).since(now).min(FAR);
            let knocked = {
                let (mut knock, mut told) = (pin!(door.knock()), pin!(self.told.notified()));
                let either = poll_fn(|task| match knock.as_mut().poll(task) {
                    Poll::Ready(()) => Poll::Ready(true),
                    Poll::Pending => told.as_mut().poll(task).map(|()| false),
                });
                timeout_at(again, either).await.unwrap_or(false)
            };
            if knocked {
                inbox.wake();
            }
        }
    }

    /// Shows that the loop is alive.
    async fn beat(self: Rc<Self>, seat: Seat) {
        loop {
            seat.beat(self.now(), self.open.borrow().len(), &self.shared.watch);
            sleep(self.config.beat_interval()).await;
        }
    }

    /// Waits for the last connection (D9), or until the deadline leaves only what handlers do not give back (D10).
    async fn drained(&self) -> Exit {
        loop {
            let now = self.now();
            if let Some(exit) = self.shared.watch.exit(self.open.borrow().len(), &self.service.counters, now)
            {
                return exit;
            }
            if self.shared.watch.current().is_some_and(|(drain, _)| drain.is_over(now)) {
                // What no handler has begun by now is not begun any more.
                while let Some(job) = self.crew.borrow_mut().take_waiting() {
                    job.give_back();
                }
            }
            let again = self.shared.watch.deadline(now).unwrap_or(Time::MAX);
            // Which of the two it was is found by looking again.
            let _ = timeout_at(Instant::now() + again.since(now).min(FAR), self.changed.notified()).await;
        }
    }

    /// Takes orders and signals. When a drain begins or changes, nothing more is accepted, and everybody gets a turn.
    async fn obey(self: Rc<Self>, mut control: Control, ears: Ears) {
        loop {
            ears.hear(control.has_arbiter()).await;
            if control.handle(self.now()) {
                self.acceptor.close();
                self.open.borrow().iter().for_each(|(_, task)| task.wake_by_ref());
                self.changed.notify_one();
            }
            self.told.notify_one();
        }
    }

    /// Takes connections back from the crew.
    async fn restore(self: Rc<Self>) {
        loop {
            self.done.notified().await;
            while let Some(job) = self.crew.borrow_mut().take_done() {
                job.give_back();
            }
        }
    }

    fn is_full(&self) -> bool {
        self.config.is_full(self.open.borrow().len())
    }

    fn now(&self) -> Time {
        self.clock.borrow_mut().tick()
    }
}

/// Has the runtime's timer ring the alarms that the application sets.
async fn ring_alarms() {
    let mut timer = Timer::new();
    poll_fn(|task| {
        let now = sys::now();
        alarm::ring(now);
        alarm::on_sooner(task.waker());
        if let Some(next) = alarm::deadline() {
            timer.set(next, now, task);
        }
        Poll::Pending
    })
    .await
}

/// What a thread of the crew does: the handler, and then as much of the response as goes without waiting. The handler
/// finds the runtime where it looks for it.
fn run_handler(shared: Shared) -> impl Fn(&mut Job) + Send + Sync {
    let runtime = Handle::current();
    move |job| {
        let _inside = runtime.enter();
        job.session.run(&mut BlockingTurn::new(&mut job.io, &shared, Clock::new()));
    }
}
