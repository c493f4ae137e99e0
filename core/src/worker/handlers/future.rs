//! An async handler's turn on a thread that does nothing else meanwhile: its future, its connection and the drain are
//! waited for together, inside a tokio runtime.
//!
//! The runtime is of one thread, exists once on each thread that needs it, and runs while a turn does: what a handler spawns there goes on in the next one. [`alarm`] rings here as well.

use std::cell::OnceCell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::Interest as Direction;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, Sleep, sleep};

use super::epoll::{Epoll, Events};
use super::intake::Active;
use super::poll_loop::{Job, Waiter};
use super::{Clock, Desk, Shared, Socket, Watch, alarm, run_blocking, sys};
use crate::machine::{CloseReason, Interest};
use crate::pump::{Outcome, drive};
use crate::session::Session;
use crate::time::Time;

/// Runs the handler of the job on `desk`, of either kind, on a thread that may wait. The loop sends what it has left
/// queued. A future stays on its thread, so that nobody takes the job away meanwhile.
pub fn run(desk: &Desk<Job>, shared: &Shared) {
    let is_async = desk.work(|job| {
        let active = &mut *job.active;
        if !active.machine.awaits_future() {
            return false;
        }
        if let Err(error) = here(&shared.watch).and_then(|here| here.carry_out(active, shared)) {
            tracing::error!("cannot wait for an async handler, whose connection is closed: {error}");
            active.machine.end(CloseReason::ApplicationFailed);
        }
        true
    });
    if is_async == Some(false) {
        run_blocking(desk, shared);
    }
}

/// Makes the runtime of this thread, if it has none: before there are connections, that may take the last descriptor.
///
/// # Errors
///
/// The runtime could not be made.
pub fn prepare(watch: &Watch) -> io::Result<()> {
    here(watch).map(drop)
}

/// Waits for `future` in this thread's runtime.
///
/// # Errors
///
/// The runtime could not be made.
pub fn block_on<F: Future>(future: F, watch: &Watch) -> io::Result<F::Output> {
    let mut future = pin!(future);
    let runtime = &here(watch)?.runtime;
    let mut timer = Timer::default();
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

/// What a thread has to wait for a future with.
struct Here {
    runtime: Runtime,
    /// The drain is in it, and the socket of a turn that waits.
    waiter: AsyncFd<Epoll>,
}

thread_local! {
    /// Never dropped: it ends with the process, and what an application still runs in it does not hold the exit.
    static HERE: OnceCell<&'static Here> = const { OnceCell::new() };
}

const SOCKET: u64 = 0;
const WATCH: u64 = 1;

fn here(watch: &Watch) -> io::Result<&'static Here> {
    HERE.with(|here| match here.get() {
        Some(here) => Ok(*here),
        None => {
            let made = Here::new(watch)?;
            Ok(*here.get_or_init(|| Box::leak(Box::new(made))))
        }
    })
}

impl Here {
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

    /// Begins the exchange of a connection, and drives on until it is over. What fails is the waiting.
    fn carry_out(&self, active: &mut Active<Session, Socket>, shared: &Shared) -> io::Result<()> {
        let mut turn = Turn { clock: Clock::new(), timer: Timer::default(), events: None };
        let mut busy = None;
        let result = self.runtime.block_on(poll_fn(|task| {
            if busy.is_none() {
                let drain = shared.watch.current();
                let cx = shared.cx(&turn.clock, drain.as_ref()).waking(task.waker());
                busy = Some(active.machine.begin_turn(&cx));
            }
            turn.poll(self, active, shared, task)
        }));
        if turn.events.is_some() {
            self.waiter.get_ref().deregister(active.io.transport().as_fd());
        }
        result
    }
}

/// What one exchange needs besides.
struct Turn {
    clock: Clock,
    timer: Timer,
    /// Room for what is reported, once its socket is waited for.
    events: Option<Events>,
}

impl Turn {
    /// Drives the connection; ready once its exchange is over.
    fn poll(
        &mut self,
        here: &Here,
        active: &mut Active<Session, Socket>,
        shared: &Shared,
        task: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while active.machine.is_in_turn() {
            let now = self.clock.tick();
            alarm::ring(now);
            let drain = shared.watch.current();
            let cx = shared.cx(&self.clock, drain.as_ref()).waking(task.waker());
            match drive(&mut active.machine, &mut active.io, &cx) {
                Outcome::Wait { deadline, .. } if active.machine.is_in_turn() => {
                    let alarms = alarm::deadline();
                    let next = deadline.map(|deadline| deadline.at).into_iter().chain(alarms).min();
                    let due = self.timer.poll(next, now, task).is_ready();
                    let reported = self.poll_ready(here, active, shared, task)?.is_ready();
                    if !due && !reported {
                        return Poll::Pending;
                    }
                }
                Outcome::Again if active.machine.is_in_turn() => {
                    task.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Outcome::Close(reason) => active.machine.end(reason),
                _ => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready if something was reported of the connection or of the drain.
    fn poll_ready(
        &mut self,
        here: &Here,
        active: &mut Active<Session, Socket>,
        shared: &Shared,
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
                    _ => shared.watch.hear(self.clock.now()),
                }
            }
            if any {
                return Poll::Ready(Ok(()));
            }
            guard.clear_ready();
        }
    }
}

/// The runtime's timer, made when it is first needed.
#[derive(Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready at `next`; never without one.
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
