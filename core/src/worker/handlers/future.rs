//! Running an async handler on a thread that does nothing else meanwhile: the thread waits for its
//! future, its connection and the drain together, inside a tokio runtime.
//!
//! Each thread that needs it has a current-thread runtime, which only runs while an exchange does:
//! tasks that a handler spawns progress during the next exchange. The runtime also drives the
//! [`alarm`]s of its thread.

use std::cell::OnceCell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::Interest as Direction;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, Sleep, sleep};

use super::{Attended, Detached, Job, Lease, WorkerShared, run_blocking};
use crate::machine::{CloseReason, Interest};
use crate::pump::{Next, drive};
use crate::session::{Protocol, Session};
use crate::time::Time;
use crate::worker::arbiter_link::Watch;
use crate::worker::clock::Clock;
use crate::worker::connections::Active;
use crate::worker::socket::Socket;
use crate::worker::waiter::{Epoll, Events, Waiter};
use crate::worker::{alarm, sys};

/// Runs the handler of the job in `lease`, blocking or async, on a thread that may wait. The loop
/// sends the bytes that the handler has left queued. A job with a future is not taken away, because
/// the future stays on its thread.
pub fn run(lease: &Lease<Job>, shared: &WorkerShared) {
    let is_async = lease.work(|job| {
        let Job::Connection(Detached { active, .. }) = job else { return false };
        if !active.machine.is_async() {
            return false;
        }
        if let Err(error) = here(&shared.watch).and_then(|here| here.carry_out(active, shared)) {
            tracing::error!("cannot wait for an async handler, whose connection is closed: {error}");
            active.machine.end(CloseReason::ApplicationFailed);
        }
        true
    });
    if is_async == Some(false) {
        run_blocking(lease, shared);
    }
}

/// Creates the runtime of this thread, if it has none. Called before connections are accepted,
/// which may take the last free descriptor.
///
/// # Errors
///
/// The runtime could not be created.
pub fn prepare(watch: &Watch) -> io::Result<()> {
    here(watch).map(drop)
}

/// Blocks this thread on `future`, in its runtime.
///
/// # Errors
///
/// The runtime could not be created.
pub fn block_on<F: Future>(future: F, watch: &Watch) -> io::Result<F::Output> {
    let mut future = pin!(future);
    let runtime = &here(watch)?.runtime;
    let mut timer = RuntimeTimer::default();
    Ok(runtime.block_on(poll_fn(|task| {
        loop {
            let now = sys::now();
            alarm::ring(now);
            if let Poll::Ready(output) = future.as_mut().poll(task) {
                return Poll::Ready(output);
            }
            ready!(timer.poll(alarm::deadline(), now, task));
        }
    })))
}

/// Polls `ending` in this thread's runtime, as described at
/// [`Handlers::attend`](super::Handlers::attend). Without a runtime, an error is logged and false
/// returned.
///
/// # Errors
///
/// The wait failed.
pub fn attend(
    ending: &mut Attended<'_>,
    epoll: BorrowedFd<'_>,
    until: Time,
    watch: &Watch,
) -> io::Result<bool> {
    let here = match here(watch) {
        Ok(here) => here,
        Err(error) => {
            tracing::error!("the application's end has no tokio runtime: {error}");
            return Ok(false);
        }
    };
    let inside = here.runtime.enter();
    #[allow(deprecated, reason = "as in `ThreadRuntime::new`")]
    let reports = AsyncFd::with_interest(epoll.try_clone_to_owned()?, Direction::READABLE)?;
    drop(inside);
    let mut timer = RuntimeTimer::default();
    here.runtime.block_on(poll_fn(|task| {
        loop {
            let now = sys::now();
            alarm::ring(now);
            if ending(task).is_ready() || now >= until || reports.poll_read_ready(task)?.is_ready() {
                return Poll::Ready(Ok(true));
            }
            let next = alarm::deadline().map_or(until, |alarm| alarm.min(until));
            ready!(timer.poll(Some(next), now, task));
        }
    }))
}

/// Runs the tasks that handlers have left in this thread's runtime, until the process ends. Returns
/// if there is no runtime.
pub fn linger(watch: &Watch) {
    // Without a runtime there are no tasks.
    let _ = block_on(pending::<()>(), watch);
}

/// What a thread needs to wait for a future.
struct ThreadRuntime {
    runtime: Runtime,
    /// Contains the drain's descriptor, and the socket of an exchange that waits.
    waiter: AsyncFd<Epoll>,
}

thread_local! {
    /// Never dropped: it ends with the process, so that tasks of the application do not delay the
    /// exit.
    static RUNTIME: OnceCell<&'static ThreadRuntime> = const { OnceCell::new() };
}

const SOCKET: u64 = 0;
const WATCH: u64 = 1;

fn here(watch: &Watch) -> io::Result<&'static ThreadRuntime> {
    RUNTIME.with(|here| match here.get() {
        Some(here) => Ok(*here),
        None => {
            let made = ThreadRuntime::new(watch)?;
            Ok(*here.get_or_init(|| Box::leak(Box::new(made))))
        }
    })
}

impl ThreadRuntime {
    fn new(watch: &Watch) -> io::Result<Self> {
        alarm::attend();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let epoll = Epoll::new()?;
        epoll.register(watch.as_fd(), WATCH, Interest { read: true, write: false })?;
        let inside = runtime.enter();
        #[allow(
            deprecated,
            reason = "sound with a descriptor that is owned; what replaces it is unsafe, and is newer"
        )]
        let waiter = AsyncFd::with_interest(epoll, Direction::READABLE)?;
        drop(inside);
        Ok(Self { runtime, waiter })
    }

    /// Begins the exchange of a connection, and drives the connection until the exchange is over.
    /// An error is one of the wait.
    fn carry_out(&self, active: &mut Active<Session, Socket>, shared: &WorkerShared) -> io::Result<()> {
        let mut turn = FutureExchange { clock: Clock::new(), timer: RuntimeTimer::default(), events: None };
        let mut busy = None;
        let result = self.runtime.block_on(poll_fn(|task| {
            if busy.is_none() {
                let drain = shared.watch.current();
                let cx = shared.cx(&turn.clock, drain.as_ref()).waking(task.waker());
                busy = Some(active.machine.lease(&cx));
            }
            turn.poll(self, active, shared, task)
        }));
        if turn.events.is_some() {
            self.waiter.get_ref().deregister(active.io.transport().as_fd());
        }
        result
    }
}

/// What one exchange needs in addition to the runtime.
struct FutureExchange {
    clock: Clock,
    timer: RuntimeTimer,
    /// A buffer for reports, once the socket is registered.
    events: Option<Events>,
}

impl FutureExchange {
    /// Drives the connection. Ready once its exchange is over.
    fn poll(
        &mut self,
        here: &ThreadRuntime,
        active: &mut Active<Session, Socket>,
        shared: &WorkerShared,
        task: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while active.machine.is_leased() {
            let now = self.clock.tick();
            alarm::ring(now);
            let drain = shared.watch.current();
            let cx = shared.cx(&self.clock, drain.as_ref()).waking(task.waker());
            match drive(&mut active.machine, &mut active.io, &cx) {
                Next::Wait { deadline, .. } if active.machine.is_leased() => {
                    let alarms = alarm::deadline();
                    let next = deadline.map(|deadline| deadline.at).into_iter().chain(alarms).min();
                    // Both are polled, so that both wake the task.
                    let due = self.timer.poll(next, now, task).is_ready();
                    let reported = self.poll_ready(here, active, shared, task)?.is_ready();
                    if !due && !reported {
                        return Poll::Pending;
                    }
                }
                Next::Again if active.machine.is_leased() => {
                    // Yields to the tasks that the handler has spawned in this runtime.
                    task.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Next::Close(reason) => active.machine.end(reason),
                _ => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready once the connection or the drain has reported something.
    fn poll_ready(
        &mut self,
        here: &ThreadRuntime,
        active: &mut Active<Session, Socket>,
        shared: &WorkerShared,
        task: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let epoll = here.waiter.get_ref();
        let events = match &mut self.events {
            Some(events) => events,
            none => {
                epoll.register(
                    active.io.transport().as_fd(),
                    SOCKET,
                    Interest { read: true, write: true },
                )?;
                none.insert(Events::default())
            }
        };
        loop {
            let mut guard = ready!(here.waiter.poll_read_ready(task))?;
            epoll.take(events, Duration::ZERO)?;
            let mut any = false;
            for (number, readiness) in Epoll::reported(events) {
                any = true;
                match number {
                    SOCKET => active.io.ready(readiness),
                    _ => shared.watch.read_orders(self.clock.now()),
                }
            }
            if any {
                return Poll::Ready(Ok(()));
            }
            // Without a report the readiness was stale.
            guard.clear_ready();
        }
    }
}

/// The runtime's timer, created at its first use.
#[derive(Default)]
struct RuntimeTimer(Option<Pin<Box<Sleep>>>);

impl RuntimeTimer {
    /// Ready at `next`; never if there is none.
    fn poll(&mut self, next: Option<Time>, now: Time, task: &mut Context<'_>) -> Poll<()> {
        let Some(next) = next else { return Poll::Pending };
        let left = next.since(now);
        let sleep = match &mut self.0 {
            Some(sleep) => {
                sleep.as_mut().reset(Instant::now() + left);
                sleep
            }
            none => none.insert(Box::pin(sleep(left))),
        };
        sleep.as_mut().poll(task)
    }
}
