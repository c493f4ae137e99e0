//! The loop of the backends that are async runtimes: a task for each connection, and one for the worker itself.
//!
//! What the worker's own task does in a turn is what every loop does: it beats, obeys, adopts, takes back what handler
//! threads have done, accepts, and finds out whether the drain is over. Each connection is driven by its own task. The
//! runtime's part is [`Runtime`]: to run these tasks on one thread, and to wait.

mod connection;
#[path = "task_loop/reactor.rs"]
mod lookout;

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use slab::Slab;

use self::connection::{Connection, Job, Open, run_handler};
pub use self::lookout::{Lookout, Watched};
use super::departures::Departures;
use super::{
    AcceptThread, Accepted, Clock, Control, Crew, Draws, Exit, Inbox, Seat, Shared, TokioContext,
    WorkerConfig, WorkerCx, sys,
};
use crate::app::{AppFactory, Service};
use crate::conn;
use crate::handoff::Origin;
use crate::machine::{Interest, Transport};
use crate::pump::Readiness;
use crate::time::Time;

/// What a runtime does for the loop, on the one thread that [`run`] is waited for on.
pub trait Runtime {
    /// A connection's socket, as this runtime watches it.
    type Stream: Stream;

    /// Runs `task` beside all others, until it is done or the runtime ends.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Watches the socket of a connection. A runtime that can say all of [`Stream`] does so itself; another leaves it
    /// to the `lookout`, which makes a [`Watched`] of it.
    ///
    /// # Errors
    ///
    /// As epoll_ctl(2).
    fn watch(&self, socket: OwnedFd, lookout: &Lookout) -> io::Result<Self::Stream>;

    /// Watches any other descriptor: the function gives [`Poll::Ready`] when there may be something to read that was
    /// not there when it last did, or else has the task woken when that changes.
    ///
    /// # Errors
    ///
    /// As epoll_ctl(2).
    fn readable(
        &self,
        descriptor: OwnedFd,
    ) -> io::Result<impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>> + 'static>;

    /// The tokio runtime that handlers find on their threads, if any.
    fn context(&self) -> TokioContext;
}

/// A connected socket that a runtime watches. It remembers what the runtime has reported; what is not ready is not
/// tried. On a handler thread it is used by its descriptor, which poll(2) knows more of. Dropping it ends the watch, **then**
/// closes it: another process may hold the same socket (D19).
pub trait Stream: Transport + AsFd + Send + 'static {
    /// Whether something can be tried in a direction of `interest`; if nothing can, `task` is woken when that changes.
    fn poll_ready(&self, interest: Interest, task: &mut Context<'_>) -> Poll<()>;

    /// What can be tried, or is new, when the task has been woken, whoever did that.
    fn readiness(&self) -> Readiness;

    /// Waits until the peer is gone in both directions, or the socket has failed. Waits for ever where
    /// [`poll_ready`](Self::poll_ready) is ready for that in any case and [`readiness`](Self::readiness) says it.
    fn gone(&self) -> impl Future<Output = ()> {
        pending()
    }
}

/// Builds the application for `backend` inside the runtime, and serves it until the drain is over.
pub async fn run<R: Runtime>(runtime: R, backend: &'static str, cx: WorkerCx, boot: AppFactory) -> Exit {
    let mut lookout = match Lookout::new(&runtime, cx.control.sources(), cx.inbox.source()) {
        Ok(lookout) => lookout,
        Err(error) => return cx.cannot_start(&error),
    };
    let service = match lookout.during(cx.build(backend, &boot)).await {
        Ok(Ok(service)) => service,
        Ok(Err(exit)) => return exit,
        Err(error) => return cx.cannot_start(&error),
    };
    let exit = match Loop::start(runtime, cx, service, lookout) {
        Ok(mut worker) => poll_fn(|task| worker.turn(task)).await,
        Err(error) => Err(error),
    };
    exit.unwrap_or_else(|error| {
        tracing::error!("the worker's loop failed: {error}");
        Exit::BootFailed
    })
}

/// The worker's own task.
struct Loop<R: Runtime> {
    runtime: R,
    lookout: Lookout,
    control: Control,
    inbox: Inbox,
    acceptor: AcceptThread,
    seat: Seat,
    config: WorkerConfig,
    draws: Draws,
    common: Rc<Common<R::Stream>>,
}

impl<R: Runtime> Loop<R> {
    fn start(runtime: R, cx: WorkerCx, service: Arc<Service>, lookout: Lookout) -> io::Result<Self> {
        let limits = Arc::new(cx.config.limits.clone());
        let shared = Shared::new(limits, cx.policies, cx.control.watch().clone());
        let caller = Arc::new(Caller::default());
        let (work, wake) = (run_handler(shared.clone(), runtime.context()), caller.clone());
        let crew = Crew::new(&cx.config, work, move || wake.call());
        let departures = Departures::new(cx.outbox.clone(), service.counters.clone());
        let acceptor = AcceptThread::start(cx.listeners, cx.outbox)?;
        cx.seat.beat(sys::now(), 0, &shared.watch);
        cx.control.report_ready()?;
        let common = Common {
            clock: RefCell::default(),
            open: RefCell::default(),
            crew: RefCell::new(crew),
            departures: RefCell::new(departures),
            service,
            shared,
            caller,
        };
        Ok(Self {
            runtime,
            lookout,
            control: cx.control,
            inbox: cx.inbox,
            acceptor,
            seat: cx.seat,
            config: cx.config,
            draws: Draws::new(),
            common: Rc::new(common),
        })
    }

    /// Takes in what happened, and waits for more; until the drain is over.
    fn turn(&mut self, task: &mut Context<'_>) -> Poll<io::Result<Exit>> {
        self.common.caller.is(task.waker());
        self.lookout.look(task)?;
        let now = self.common.clock.borrow_mut().tick();
        self.seat.beat(now, self.common.len(), &self.common.shared.watch);
        self.obey(now);
        let all_accepted = self.accept(now, task)?;
        self.adopt(now);
        self.restore(now);
        if let Some(exit) = self.drained(now).filter(|_| all_accepted) {
            // Whoever has sent its last connection looks whether there is still a receiver: an order that says otherwise came
            // before the receivers looked for the last time.
            self.lookout.take_in()?;
            if !self.obey(now) {
                return Poll::Ready(Ok(exit));
            }
        }
        self.lookout.wake_by(self.deadline(now), now, task)?;
        Poll::Pending
    }

    /// Takes orders and signals. When a drain begins or changes, which is the answer, nothing more is accepted, and everybody
    /// gets a turn.
    fn obey(&mut self, now: Time) -> bool {
        let changed = self.lookout.told() && self.control.handle(now);
        if changed {
            self.acceptor.close();
            self.common.open.borrow().iter().for_each(|(_, open)| open.task.wake_by_ref());
        }
        changed
    }

    /// Gives connections a task while there is room; whether the last one has come, as it does in a drain.
    fn accept(&mut self, now: Time, task: &Context<'_>) -> io::Result<bool> {
        while !self.is_full() || self.common.shared.watch.current().is_some() {
            match self.acceptor.poll_accept(task) {
                Poll::Ready(Some(accepted)) => {
                    // An order that came before the connection is obeyed before: the runtime may be late to tell.
                    self.lookout.take_in()?;
                    self.obey(now);
                    self.take_in(accepted?, now);
                }
                Poll::Ready(None) => return Ok(true),
                Poll::Pending => break,
            }
        }
        Ok(false)
    }

    /// Takes over what other processes hand over.
    fn adopt(&mut self, now: Time) {
        if self.lookout.knocked() {
            self.inbox.wake();
        }
        while let Some(adopted) = self.inbox.take(now, self.is_full()) {
            self.begin(conn::Connection::resume(adopted.record, now), adopted.socket);
        }
    }

    /// Takes connections back from the crew, also from handlers that have had their time; once the drain's deadline is
    /// over, those that no handler has begun by now as well: they are not begun any more.
    fn restore(&self, now: Time) {
        let Common { shared, crew, open, .. } = &*self.common;
        let over = shared.watch.current().is_some_and(|(drain, _)| drain.is_over(now));
        let mut crew = crew.borrow_mut();
        let mut next = || {
            let job = crew.take_done().or_else(|| crew.desks().take_overdue(now));
            job.or_else(|| over.then(|| crew.take_waiting())?)
        };
        while let Some(job) = next() {
            job.give_back(&mut open.borrow_mut());
        }
    }

    /// What to exit with, once the last connection is gone (D9), or the deadline has left only what handlers do not give
    /// back (D10).
    fn drained(&self, now: Time) -> Option<Exit> {
        self.common.shared.watch.exit(self.common.len(), &self.common.service.counters, now)
    }

    /// When the next turn is due, if nothing happens before: for the next beat at the latest.
    fn deadline(&self, now: Time) -> Time {
        let overdue = self.common.crew.borrow().desks().next_look(now);
        let (inbox, drain) = (self.inbox.deadline(self.is_full()), self.common.shared.watch.deadline(now));
        let deadlines = [inbox, drain, overdue];
        deadlines.into_iter().flatten().fold(now + self.config.beat_interval(), Time::min)
    }

    fn is_full(&self) -> bool {
        self.config.is_full(self.common.len())
    }

    fn take_in(&mut self, accepted: Accepted, now: Time) {
        let origin = Origin::new(accepted.listener, accepted.peer, self.draws.draw());
        self.common.service.counters.accepted.increment();
        self.begin(conn::Connection::new(origin, now), accepted.socket);
    }

    fn begin(&self, connection: conn::Connection, socket: OwnedFd) {
        match self.runtime.watch(socket, &self.lookout) {
            Ok(stream) => {
                self.runtime.spawn(Connection::new(self.common.clone(), connection, stream).serve());
            }
            Err(error) => {
                self.common.service.counters.ended.increment();
                tracing::error!("cannot wait for a connection, which is closed: {error}");
            }
        }
    }
}

/// What the tasks of a worker share.
struct Common<S> {
    clock: RefCell<Clock>,
    /// All open connections: how many there are, and how to give each a turn.
    open: RefCell<Slab<Open<S>>>,
    crew: RefCell<Crew<Box<Job<S>>>>,
    departures: RefCell<Departures>,
    service: Arc<Service>,
    shared: Shared,
    caller: Arc<Caller>,
}

impl<S> Common<S> {
    fn len(&self) -> usize {
        self.open.borrow().len()
    }
}

/// Gives the worker's own task a turn, from any task or thread.
#[derive(Default)]
struct Caller(Mutex<Option<Waker>>);

impl Caller {
    /// The task is woken through `waker` now.
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
