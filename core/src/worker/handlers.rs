//! How handlers run: on a pool of threads, or on the loop's own thread.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Waker};
use std::thread;

pub use self::blocking::{PollBlocking, WorkerShared, run_blocking};
pub use self::lease::{Lease, Leased, Leases};
pub use self::pool::HandlerPool;
use super::clock::Clock;
use super::connections::{self, Active};
use super::socket::Socket;
use super::sys;
use crate::app::streams::ExchangeCall;
use crate::pump::{Next, drive};
use crate::session::{Protocol, Session};
use crate::time::Time;

mod blocking;
#[cfg(feature = "tokio-context")]
pub mod future;
mod lease;
mod pool;

/// A connection that is outside of the loop while its handler runs.
pub type Detached = connections::Detached<Session, Socket>;

/// A handler to be run, with what it needs.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "a loop makes all of these")]
pub enum Job<C = Detached> {
    /// With the connection, whose exchange the handler leases.
    Connection(C),
    /// With its exchange alone. The connection stays with the loop.
    Exchange(ExchangeCall),
    /// With its exchange, and with the connection, whose bytes it moves while it waits: on the
    /// loop's own thread, because the loop does not run meanwhile.
    Attended(C, ExchangeCall),
}

impl<C> Job<C> {
    /// The connection that returns to the loop.
    pub(in crate::worker) fn into_connection(self) -> Option<C> {
        match self {
            Self::Connection(connection) | Self::Attended(connection, _) => Some(connection),
            Self::Exchange(_) => None,
        }
    }
}

impl<C: Leased> Job<C> {
    /// Records that it waits for a place to run in.
    pub(in crate::worker) fn note_queued(&mut self) {
        match self {
            Self::Connection(connection) => connection.active().machine.note_queued(),
            Self::Exchange(call) | Self::Attended(_, call) => call.note_queued(sys::now()),
        }
    }
}

impl Leased for Detached {
    type Transport = Socket;

    fn active(&mut self) -> &mut Active<Session, Socket> {
        &mut self.active
    }
}

/// How handlers run.
///
/// An implementation that counts handlers, and lets another one run them:
///
/// ```
/// use remuda_core::worker::handlers::{Handlers, Job, Leases};
///
/// struct Counting<H> {
///     inner: H,
///     begun: u64,
/// }
///
/// impl<H: Handlers> Handlers for Counting<H> {
///     const IN_PLACE: bool = H::IN_PLACE;
///
///     fn run(&mut self, job: Job) -> Option<Job> {
///         self.begun += 1;
///         self.inner.run(job)
///     }
///
///     fn take_done(&mut self) -> Option<Job> {
///         self.inner.take_done()
///     }
///
///     fn take_waiting(&mut self) -> Option<Job> {
///         self.inner.take_waiting()
///     }
///
///     fn leases(&self) -> Option<&Leases<Job>> {
///         self.inner.leases()
///     }
/// }
/// ```
pub trait Handlers {
    /// Whether a handler runs on the loop's thread. Orders are not read meanwhile, so the loop
    /// reads them after each handler.
    const IN_PLACE: bool;

    /// Runs the handler of `job`, now or later. Returns the job if the handler has already
    /// returned.
    fn run(&mut self, job: Job) -> Option<Job>;

    /// A finished job, if there is one.
    fn take_done(&mut self) -> Option<Job>;

    /// Takes back a job whose handler has not begun, if there is one.
    fn take_waiting(&mut self) -> Option<Job>;

    /// The leases of running jobs, from which the loop takes expired ones. None if another thread
    /// does that.
    fn leases(&self) -> Option<&Leases<Job>>;

    /// No connection is left, and the application ends: from now on, tasks that handlers have left
    /// on their threads are run to their end. Called at most once. The default does nothing, which
    /// fits handlers that leave no tasks on their threads.
    fn leave(&mut self) {}

    /// Polls `ending` in this thread's runtime for handlers, until it is ready, `epoll` is
    /// readable, or `until` has come. The default returns false: handlers have no runtime on this
    /// thread, and nothing was polled.
    ///
    /// # Errors
    ///
    /// Errors of the wait.
    fn attend(&mut self, ending: &mut Attended<'_>, epoll: BorrowedFd<'_>, until: Time) -> io::Result<bool> {
        let _ = (ending, epoll, until);
        Ok(false)
    }
}

/// The function that [`Handlers::attend`] polls.
pub type Attended<'a> = dyn FnMut(&mut Context<'_>) -> Poll<()> + 'a;

/// Each handler runs on a thread of the pool, as soon as one is free.
impl Handlers for HandlerPool<Job> {
    const IN_PLACE: bool = false;

    fn run(&mut self, mut job: Job) -> Option<Job> {
        if self.is_full() {
            job.note_queued();
        }
        self.submit(job);
        None
    }

    fn take_done(&mut self) -> Option<Job> {
        Self::take_done(self)
    }

    fn take_waiting(&mut self) -> Option<Job> {
        Self::take_waiting(self)
    }

    fn leases(&self) -> Option<&Leases<Job>> {
        Some(self.leases())
    }

    fn leave(&mut self) {
        self.linger();
    }
}

/// Handlers run on the loop's own thread, one at a time. If blocking handlers have a time limit, a
/// second thread [watches](Self::watched) the first, because the loop does nothing else while a
/// handler runs.
pub struct InPlace<F> {
    work: F,
    lease: Arc<Lease<Job>>,
    /// Jobs that the second thread has taken away.
    taken: Option<Receiver<Job>>,
    attend: Option<Box<Attend>>,
}

type Attend = dyn FnMut(&mut Attended<'_>, BorrowedFd<'_>, Time) -> io::Result<bool>;

impl<F: FnMut(&Lease<Job>)> InPlace<F> {
    /// Runs handlers with `work`.
    pub fn new(work: F) -> Self {
        Self { work, lease: Arc::default(), taken: None, attend: None }
    }

    /// For handlers with a runtime on this thread: `attend` implements [`Handlers::attend`] with
    /// it.
    #[must_use]
    pub fn attended(
        self,
        attend: impl FnMut(&mut Attended<'_>, BorrowedFd<'_>, Time) -> io::Result<bool> + 'static,
    ) -> Self {
        Self { attend: Some(Box::new(attend)), ..self }
    }

    /// Enforces the time limit for blocking handlers, which is in the limits of `shared`. Wakes
    /// `loop_waker` when a job has been taken away.
    ///
    /// # Errors
    ///
    /// As pthread_create(3).
    pub fn watched(self, shared: WorkerShared, loop_waker: Waker) -> io::Result<Self> {
        if shared.limits.request_timeout.is_zero() {
            return Ok(self);
        }
        let (give, taken) = channel();
        let lease = self.lease.clone();
        let watch = move || watch(&lease, &shared, &give, &loop_waker);
        thread::Builder::new().name("watch".to_owned()).spawn(watch)?;
        Ok(Self { taken: Some(taken), ..self })
    }
}

impl<F: FnMut(&Lease<Job>)> Handlers for InPlace<F> {
    const IN_PLACE: bool = true;

    fn run(&mut self, job: Job) -> Option<Job> {
        self.lease.put(job);
        (self.work)(&self.lease);
        self.lease.take()
    }

    fn take_done(&mut self) -> Option<Job> {
        self.taken.as_ref()?.try_recv().ok()
    }

    fn take_waiting(&mut self) -> Option<Job> {
        None
    }

    fn leases(&self) -> Option<&Leases<Job>> {
        None
    }

    fn attend(&mut self, ending: &mut Attended<'_>, epoll: BorrowedFd<'_>, until: Time) -> io::Result<bool> {
        self.attend.as_mut().map_or(Ok(false), |attend| attend(ending, epoll, until))
    }
}

impl<F> fmt::Debug for InPlace<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InPlace").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// Takes the job away from a handler whose time is over, and answers its client, as the loop would
/// if it were not blocked. The loop gets the job back for everything else.
fn watch(lease: &Lease<Job>, shared: &WorkerShared, give: &Sender<Job>, loop_waker: &Waker) {
    loop {
        let now = sys::now();
        if let Some(mut job) = lease.take_overdue(now) {
            if let Job::Connection(Detached { active, .. }) = &mut job
                && let Err(error) = tell(active, shared)
            {
                tracing::error!("cannot answer a request beyond request-timeout: {error}");
            }
            if give.send(job).is_err() {
                return; // the worker ends
            }
            loop_waker.wake_by_ref();
        }
        thread::park_timeout(lease.next_look(now, shared.limits.request_timeout) - sys::now());
    }
}

/// Sends all queued bytes, and shuts down the sending side.
fn tell(active: &mut Active<Session, Socket>, shared: &WorkerShared) -> io::Result<()> {
    let mut clock = Clock::new();
    loop {
        let drain = shared.watch.current();
        match drive(&mut active.machine, &mut active.io, &shared.cx(&clock, drain.as_ref())) {
            Next::Wait { interest, deadline } if interest.write => {
                PollBlocking::new(&mut active.io, shared, clock).wait(deadline, interest)?;
            }
            Next::Again => {}
            Next::Close(_) => return active.io.close_write(),
            _ => return Ok(()),
        }
        clock.tick();
    }
}
