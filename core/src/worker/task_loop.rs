//! The loop of the backends on an async runtime: a task for each connection, and one for the worker
//! itself.
//!
//! In each turn, the worker's own task does the work of every loop: it sends the heartbeat, reads
//! orders, accepts, takes over connections from the hand-off queue, takes finished jobs back from
//! handler threads, and checks whether the drain is over. Each connection is driven by its own
//! task. The backend implements [`Runtime`]: it runs these tasks on one thread, and waits.

mod connection;
mod reactor;

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use slab::Slab;

use self::connection::{ConnectionTask, DetachedConnection, OpenConnection, run_handler};
pub use self::reactor::{Reactor, Registered};
use super::accept::{AcceptThread, Accepted};
use super::arbiter_link::ArbiterLink;
use super::clock::Clock;
use super::config::WorkerConfig;
use super::context::WorkerCx;
use super::drain::Ending;
use super::draws::Draws;
use super::exit::{EndOnPanic, Exit};
use super::handlers::{HandlerPool, Job, WorkerShared};
use super::handoff::{Departures, Inbox};
use super::keeper::Entries;
use super::scoreboard::Seat;
use super::sys;
use super::tokio_context::TokioContext;
use crate::app::{AppFactory, Service};
use crate::conn;
use crate::machine::{Interest, Transport};
use crate::peer::Origin;
use crate::pump::Readiness;
use crate::rescue::{ByteCounts, Entry};
use crate::time::Time;

/// What a runtime does for the loop, on the thread that polls [`run`].
///
/// One runtime around another, which counts its tasks:
///
/// ```
/// use std::cell::Cell;
/// use std::future::Future;
/// use std::io;
/// use std::os::fd::OwnedFd;
/// use std::task::{Context, Poll};
///
/// use remuda_core::worker::TokioContext;
/// use remuda_core::worker::task_loop::{Reactor, Runtime};
///
/// struct Counting<R> {
///     inner: R,
///     tasks: Cell<u64>,
/// }
///
/// impl<R: Runtime> Runtime for Counting<R> {
///     type Stream = R::Stream;
///
///     fn spawn(&self, task: impl Future<Output = ()> + 'static) {
///         self.tasks.set(self.tasks.get() + 1);
///         self.inner.spawn(task);
///     }
///
///     fn watch(&self, socket: OwnedFd, reactor: &Reactor) -> io::Result<R::Stream> {
///         self.inner.watch(socket, reactor)
///     }
///
///     fn readable(
///         &self,
///         descriptor: OwnedFd,
///     ) -> io::Result<impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>> + 'static> {
///         self.inner.readable(descriptor)
///     }
///
///     fn context(&self) -> TokioContext {
///         self.inner.context()
///     }
/// }
/// ```
pub trait Runtime {
    /// A connection's socket, registered with this runtime.
    type Stream: Stream;

    /// Runs `task` concurrently, until it is done or the runtime ends.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Registers the socket of a connection. A runtime that can implement all of [`Stream`]
    /// registers it itself; others use the `reactor`, which makes it a [`Registered`].
    ///
    /// # Errors
    ///
    /// As epoll_ctl(2).
    fn watch(&self, socket: OwnedFd, reactor: &Reactor) -> io::Result<Self::Stream>;

    /// Registers any other descriptor. The returned function is [`Poll::Ready`] if new data may
    /// have arrived since it was last ready; otherwise the task is woken when some arrives.
    ///
    /// # Errors
    ///
    /// As epoll_ctl(2).
    fn readable(
        &self,
        descriptor: OwnedFd,
    ) -> io::Result<impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>> + 'static>;

    /// The tokio runtime that handlers find, if it exists before the application is built.
    fn context(&self) -> TokioContext;
}

/// A connected socket registered with a runtime. It remembers the readiness that the runtime has
/// reported; a direction that is not ready is not tried. On handler threads it is used through its
/// descriptor, with poll(2), which is more exact. Dropping it deregisters it **before** closing it,
/// because another process may hold the same socket (D19).
///
/// ```
/// use std::future::poll_fn;
///
/// use remuda_core::machine::Interest;
/// use remuda_core::worker::task_loop::Stream;
///
/// /// Resolves once the kernel has room for more bytes.
/// async fn writable(stream: &impl Stream) {
///     let write = Interest { read: false, write: true };
///     poll_fn(|task| stream.poll_ready(write, task)).await;
/// }
/// ```
pub trait Stream: Transport + AsFd + Send + 'static {
    /// Ready if a direction of `interest` can be tried; otherwise `task` is woken when one can.
    fn poll_ready(&self, interest: Interest, task: &mut Context<'_>) -> Poll<()>;

    /// Which directions can be tried, asked after each wake-up of the task, whatever its cause.
    fn readiness(&self) -> Readiness;

    /// Waits until the peer has ended its side or, if it already has (`read_closed`), until both
    /// directions are closed or the socket has failed, and returns which. Never ready if
    /// [`poll_ready`](Self::poll_ready) and [`readiness`](Self::readiness) report both events
    /// anyway.
    fn closed(&self, read_closed: bool) -> impl Future<Output = Readiness> {
        let _ = read_closed;
        pending()
    }
}

/// Builds the application for `backend` inside the runtime, and serves it until the drain is over.
pub async fn run<R: Runtime>(runtime: R, backend: &'static str, cx: WorkerCx, boot: AppFactory) -> Exit {
    let mut reactor = match Reactor::new(&runtime, cx.link.sources(), cx.inbox.source()) {
        Ok(reactor) => reactor,
        Err(error) => return cx.cannot_start(&error),
    };
    let service = match reactor.run(cx.build(backend, &boot)).await {
        Ok(Ok(service)) => service,
        Ok(Err(exit)) => return exit,
        Err(error) => return cx.cannot_start(&error),
    };
    let context = match runtime.context().for_app(&service.app) {
        Ok(context) => context,
        Err(error) => return cx.cannot_start(&error),
    };
    let _entered = context.enter();
    let reports = cx.link.reports();
    let mut worker = match Loop::start(runtime, cx, service, reactor, context.clone()) {
        Ok(worker) => worker,
        Err(error) => return reports.cannot_start(&error),
    };
    poll_fn(|task| worker.turn(task)).await.unwrap_or_else(|error| {
        tracing::error!("the worker's loop failed: {error}");
        Exit::BootFailed
    })
}

/// The worker's own task.
struct Loop<R: Runtime> {
    runtime: R,
    reactor: Reactor,
    link: ArbiterLink,
    inbox: Inbox,
    acceptor: AcceptThread,
    seat: Seat,
    config: WorkerConfig,
    draws: Draws,
    ending: Ending,
    entries: Option<Entries>,
    common: Rc<TaskShared<R::Stream>>,
}

impl<R: Runtime> Loop<R> {
    fn start(
        runtime: R,
        cx: WorkerCx,
        service: Arc<Service>,
        reactor: Reactor,
        context: TokioContext,
    ) -> io::Result<Self> {
        let limits = Arc::new(cx.config.limits.clone());
        let shared = WorkerShared::new(limits, cx.policies, cx.link.watch().clone());
        let loop_waker = Arc::new(LoopWaker::default());
        let (work, wake) = (run_handler(shared.clone(), context), loop_waker.clone());
        let pool = HandlerPool::new(&cx.config, work, move || wake.call())?;
        let departures = Departures::new(cx.outbox.clone(), service.counters.clone());
        let ending = Ending::new(&service, shared.watch.state().holds());
        let acceptor = AcceptThread::start(cx.listeners, cx.outbox, cx.entries, service.counters.clone())?;
        // The first heartbeat comes before the report: from there on the arbiter expects more.
        cx.seat.beat(sys::now(), 0, shared.drain());
        cx.link.report_ready()?;
        let common = TaskShared {
            clock: RefCell::default(),
            open: RefCell::default(),
            pool: RefCell::new(pool),
            departures: RefCell::new(departures),
            service,
            shared,
            loop_waker,
        };
        Ok(Self {
            runtime,
            reactor,
            link: cx.link,
            inbox: cx.inbox,
            acceptor,
            seat: cx.seat,
            config: cx.config,
            draws: Draws::new(),
            ending,
            entries: cx.entries,
            common: Rc::new(common),
        })
    }

    /// Handles what has happened, and registers for more. Ready when the drain is over.
    fn turn(&mut self, task: &mut Context<'_>) -> Poll<io::Result<Exit>> {
        let _guard = EndOnPanic;
        self.common.loop_waker.is(task.waker());
        self.reactor.process(task)?;
        let now = self.common.clock.borrow_mut().tick();
        self.seat.beat(now, self.common.len(), self.common.shared.drain());
        self.link.tend_logs(now);
        self.handle_orders(now);
        let all_accepted = self.accept(now, task)?;
        if !self.ending.has_no_connections() {
            self.take_over(now);
        }
        self.take_back(now);
        let exit = self.drained(now).filter(|_| all_accepted);
        // After handing off its last connection, a worker checks for an order that it is the last
        // receiver: such an order was sent before the other receivers looked into the queue for the
        // last time.
        let has_new_orders = exit.is_some() && !self.ending.has_no_connections() && {
            self.reactor.process_events()?;
            self.handle_orders(now)
        };
        let drain = self.common.shared.watch.current().filter(|_| !has_new_orders);
        let ended = drain.and_then(|(drain, _)| self.ending.poll(&drain, exit, now, task));
        if let Some(exit) = ended {
            return Poll::Ready(Ok(exit));
        }
        self.reactor.wake_by(self.deadline(now), now, task)?;
        Poll::Pending
    }

    /// Reads orders and signals, and returns whether the drain has begun or changed. If it has,
    /// accepting ends and every connection is driven.
    fn handle_orders(&mut self, now: Time) -> bool {
        let changed = self.reactor.has_orders() && self.link.handle(now);
        if changed {
            self.acceptor.close();
            self.common.open.borrow().iter().for_each(|(_, open)| open.task.wake_by_ref());
        }
        changed
    }

    /// Spawns tasks for accepted connections while the worker has room. Returns whether the last
    /// connection has been accepted, in a drain.
    fn accept(&mut self, now: Time, task: &Context<'_>) -> io::Result<bool> {
        while !self.is_full() || self.common.shared.watch.current().is_some() {
            match self.acceptor.poll_accept(task) {
                Poll::Ready(Some(accepted)) => {
                    // An order that arrived before the connection takes effect first. The runtime
                    // may report it late, so the events are read here.
                    self.reactor.process_events()?;
                    self.handle_orders(now);
                    self.begin_accepted(accepted?);
                }
                Poll::Ready(None) => return Ok(true),
                Poll::Pending => break,
            }
        }
        Ok(false)
    }

    /// Takes over connections from the hand-off queue.
    fn take_over(&mut self, now: Time) {
        if self.reactor.has_arrivals() {
            self.inbox.wake();
        }
        while let Some(adopted) = self.inbox.take(now, self.is_full()) {
            let counts = self.entries.and_then(|_| Entries::counts(&adopted.socket));
            self.begin(conn::Connection::resume(adopted.record, now), adopted.socket, counts);
        }
    }

    /// Takes connections back from the pool: those whose handler has finished, those whose
    /// handler's time is over and, once the drain's deadline is over, those whose handler has not
    /// begun, which it then never does.
    fn take_back(&self, now: Time) {
        let TaskShared { shared, pool, open, .. } = &*self.common;
        let over = shared.watch.current().is_some_and(|(drain, _)| drain.is_over(now));
        let mut pool = pool.borrow_mut();
        let mut next = || {
            let job = pool.take_done().or_else(|| pool.leases().take_overdue(now));
            job.or_else(|| over.then(|| pool.take_waiting())?)
        };
        while let Some(job) = next() {
            if let Some(connection) = job.into_connection() {
                connection.give_back(&mut open.borrow_mut());
            }
        }
    }

    /// The exit of the worker, once the last connection is gone (D9), or the deadline has passed
    /// and only handlers that do not return still hold connections (D10).
    fn drained(&self, now: Time) -> Option<Exit> {
        self.common.shared.watch.exit(self.common.len(), &self.common.service.counters, now)
    }

    /// When the next turn is due if nothing happens before: at the latest for the next heartbeat.
    fn deadline(&self, now: Time) -> Time {
        let overdue = self.common.pool.borrow().leases().next_look(now);
        let watch = &self.common.shared.watch;
        let (inbox, drain) = (self.inbox.deadline(self.is_full()), watch.deadline(now));
        let end = watch.current().and_then(|(drain, _)| self.ending.deadline(&drain));
        let deadlines = [inbox, drain, end, overdue, self.link.logs_deadline()];
        deadlines.into_iter().flatten().fold(now + self.config.beat_interval(), Time::min)
    }

    fn is_full(&self) -> bool {
        self.config.is_full(self.common.len())
    }

    fn begin_accepted(&mut self, accepted: Accepted) {
        let origin = Origin::new(accepted.listener, accepted.peer, self.draws.draw());
        // The process may have been suspended since the turn's time was read, so the time is read
        // again.
        let now = self.common.clock.borrow_mut().tick();
        self.begin(conn::Connection::new(origin, now), accepted.socket, Some(ByteCounts::default()));
    }

    /// Serves a connection. `counts`: what was read and written before, if that is known.
    fn begin(&self, mut connection: conn::Connection, socket: OwnedFd, counts: Option<ByteCounts>) {
        let entry = self.entries.map_or(Entry::NONE, |entries| entries.entry(&socket));
        connection.publish(entry, counts);
        match self.runtime.watch(socket, &self.reactor) {
            Ok(stream) => {
                let common = self.common.clone();
                self.runtime.spawn(ConnectionTask::new(common, connection, stream, entry).serve());
            }
            Err(error) => {
                entry.clear();
                self.common.service.counters.ended.increment();
                tracing::error!("cannot wait for a connection, which is closed: {error}");
            }
        }
    }
}

/// The state that the tasks of a worker share.
struct TaskShared<S> {
    clock: RefCell<Clock>,
    /// All open connections, with the waker of each.
    open: RefCell<Slab<OpenConnection<S>>>,
    pool: RefCell<HandlerPool<Job<Box<DetachedConnection<S>>>>>,
    departures: RefCell<Departures>,
    service: Arc<Service>,
    shared: WorkerShared,
    loop_waker: Arc<LoopWaker>,
}

impl<S> TaskShared<S> {
    fn len(&self) -> usize {
        self.open.borrow().len()
    }
}

/// Wakes the worker's own task, from any task or thread.
#[derive(Default)]
struct LoopWaker(Mutex<Option<Waker>>);

impl LoopWaker {
    /// Sets the waker of the task.
    fn is(&self, waker: &Waker) {
        match &mut *self.waker() {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn call(&self) {
        self.waker().iter().for_each(Waker::wake_by_ref);
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
