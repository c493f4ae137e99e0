//! What every backend shares with the arbiter and with the other backends: the Unix half of core.
//!
//! Descriptors, signals and clocks, and no policy: what to do with a connection is decided by the machine, what
//! to do with a process by the arbiter. A backend is an implementation of [`Worker`].

#![allow(clippy::disallowed_types, reason = "descriptors are what this half is about")]

use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

pub use self::accept_thread::AcceptThread;
pub use self::acceptor::{AcceptError, Accepted, Acceptor};
pub use self::access_log::{AccessLog, Format, FormatError};
pub use self::clock::Clock;
pub use self::control::Control;
pub use self::crew::Crew;
pub use self::desk::{Desk, Desks, Piece};
pub use self::draws::Draws;
pub use self::handoff::{Adopted, Inbox, Outbox};
pub use self::ledger::{Account, Ledger, Loss, Stage};
pub use self::log_file::{LogFile, Logs, WorkerLogs};
pub use self::scoreboard::{Entry, Scoreboard, Seat};
pub use self::socket::Socket;
pub use self::tokio_context::{Entered, TokioContext};
pub use self::turn::{BlockingTurn, Shared, run_blocking};
pub use self::watch::Watch;
use crate::app::{AppError, AppFactory, Boot, DrainSignal, Observer, Overtime, Quota, Service};
use crate::config::{Jitter, Limits};
use crate::order::PolicyId;
use crate::shutdown::{Finish, Handoff, Reason, ShutdownPolicy};

#[path = "worker/accept/thread.rs"]
mod accept_thread;
#[path = "worker/accept/acceptor.rs"]
mod acceptor;
#[path = "worker/logs/access.rs"]
mod access_log;
pub mod alarm;
mod clock;
#[path = "worker/arbiter_link/orders.rs"]
mod control;
#[path = "worker/handlers/pool.rs"]
mod crew;
#[path = "worker/handoff/departures.rs"]
mod departures;
#[path = "worker/handlers/lease.rs"]
mod desk;
mod draws;
#[path = "worker/waiter/epoll.rs"]
pub mod epoll;
#[cfg(feature = "tokio-context")]
#[path = "worker/handlers/future.rs"]
pub mod future_turn;
pub mod handoff;
#[path = "worker/connections.rs"]
pub mod intake;
#[path = "worker/drain/completion.rs"]
pub mod leave;
#[path = "worker/scoreboard/ledger.rs"]
mod ledger;
#[path = "worker/logs/file.rs"]
mod log_file;
#[path = "worker/logs/level.rs"]
pub mod log_level;
pub mod poll_loop;
mod scoreboard;
mod socket;
pub mod sys;
pub mod task_loop;
mod tokio_context;
#[path = "worker/handlers/blocking.rs"]
mod turn;
#[path = "worker/arbiter_link/watch.rs"]
mod watch;

/// A backend: one way for a process to wait for many connections.
///
/// What it promises the arbiter:
///
/// 1. `run` is called once, in a process of its own, on its only thread, with all signals handled by
///    [`Control`]. It returns when the process should end.
/// 2. It builds the application, reports ready ([`Control::report_ready`]), and only then accepts.
/// 3. It enters a drain within 50 ms of an order or signal, whatever its connections do (D2), and returns as
///    soon as none is left (D9).
/// 4. It beats ([`Seat::beat`]) in every turn of the loop that serves, from the first before it reports ready to the
///    last, and at least every [`beat_interval`](WorkerConfig::beat_interval) (D1). Where every handler has a thread,
///    that counts from when the last of them began, once all are busy ([`Seat::beat_since`]).
/// 5. It does not decide about connections: it asks the machine, and waits for what the machine names.
/// 6. While it serves it takes over what its [`Inbox`] has, and what its machines want handed off it sends to the
///    [`Outbox`] (D19); such a socket it stops watching before it closes it, and never shuts down.
pub trait Worker: fmt::Debug + Send + Sync + 'static {
    /// The name that `-k` selects it by.
    fn name(&self) -> &'static str;

    /// How many handler threads a process of it can have at most, if there is such a limit of its own. Default: none.
    fn max_threads(&self) -> Option<usize> {
        None
    }

    /// Serves until it has drained.
    fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit;
}

/// Waits for `future` on a thread that has no runtime, with the alarms of that thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        match alarm::deadline() {
            Some(deadline) => thread::park_timeout(deadline - sys::now()),
            None => thread::park(),
        }
        alarm::ring(sys::now());
    }
}

/// How a worker ends; the process's exit status.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "the table of exit statuses is complete")]
pub enum Exit {
    /// Drained: nothing was cut.
    Clean = 0,
    /// The worker could not start; it has told the arbiter why.
    BootFailed = 3,
    /// The application could not be built; it has told the arbiter why.
    AppFailed = 4,
    /// The drain's deadline cut requests in flight.
    CutOff = 6,
}

impl Exit {
    /// The process's exit status.
    pub fn status(self) -> u8 {
        self as u8
    }
}

/// What a worker is given by the arbiter.
#[derive(Debug)]
#[non_exhaustive]
pub struct WorkerCx {
    /// The place among the workers, from 0; a replacement has its predecessor's.
    pub slot: u16,
    /// Counts the configurations this server has had, from 1.
    pub generation: u32,
    /// Where to accept. Shared with the other workers.
    pub listeners: Vec<Listener>,
    /// Orders and signals.
    pub control: Control,
    /// Connections that other processes hand over.
    pub inbox: Inbox,
    /// Where to hand connections over to other processes; none: nowhere.
    pub outbox: Option<Outbox>,
    /// Its place on the scoreboard.
    pub seat: Seat,
    /// What the settings say.
    pub config: WorkerConfig,
    /// Who decides during a drain.
    pub policies: Policies,
    /// Where it notes requests. Default: nowhere.
    pub access_log: Option<Arc<AccessLog>>,
}

impl WorkerCx {
    /// For worker `slot` of `generation`.
    pub fn new(
        slot: u16,
        generation: u32,
        listeners: Vec<Listener>,
        control: Control,
        seat: Seat,
        config: WorkerConfig,
        policies: Policies,
    ) -> Self {
        control.set_graceful_timeout(config.graceful_timeout);
        control.set_seat(seat);
        seat.sit(generation);
        let inbox = Inbox::none(control.watch().clone());
        Self {
            slot,
            generation,
            listeners,
            control,
            inbox,
            outbox: None,
            seat,
            config,
            policies,
            access_log: None,
        }
    }

    /// The same worker with both ends of the hand-off queue: it also takes over what arrives there.
    #[must_use]
    pub fn with_queue(self, outbox: Outbox, inbox: OwnedFd) -> Self {
        let inbox = Inbox::new(inbox, self.control.watch().clone(), self.seat.counters());
        Self { inbox, outbox: Some(outbox), ..self }
    }

    /// The same worker with logs to write and to reopen.
    #[must_use]
    pub fn with_logs(self, logs: &WorkerLogs) -> Self {
        self.control.set_logs(logs.clone());
        Self { access_log: logs.access().cloned(), ..self }
    }

    /// Builds the application for `backend`, whose loop waits for it.
    ///
    /// # Errors
    ///
    /// What to exit with if that fails; the arbiter has been told why.
    pub async fn build(&self, backend: &'static str, factory: &AppFactory) -> Result<Arc<Service>, Exit> {
        let drain = DrainSignal::new(self.control.watch().clone());
        let counters = self.seat.counters();
        let boot = Boot::new(self.slot, self.generation, backend, drain.clone(), counters.clone());
        alarm::attend();
        let mut building = pin!(async { factory.build(&boot).await });
        let app = poll_fn(|task| {
            catch_unwind(AssertUnwindSafe(|| building.as_mut().poll(task)))
                .unwrap_or_else(|_| Poll::Ready(Err(AppError::msg("it panicked, as said above"))))
        });
        match app.await {
            Ok(app) => {
                let reporter = self.control.reporter();
                let spent = move || reporter.report_recycle(Reason::RecycleRequests);
                let quota = Quota::new(self.config.quota(Draws::new().draw()), spent);
                let reporter = self.control.reporter();
                let overtime = Overtime::new(move || reporter.report_recycle(Reason::RecycleTimeout));
                let observer = self.access_log.clone().map(|log| log as Arc<dyn Observer>);
                let service = Service::new(app, drain, counters).noting(self.seat.hands());
                Ok(Arc::new(service.limited_to(quota).reporting(overtime).observed_by(observer)))
            }
            Err(error) => {
                let message = format!("the application failed to load: {error}");
                self.control.report_boot_failure(Exit::AppFailed.status(), message);
                Err(Exit::AppFailed)
            }
        }
    }

    /// Tells the arbiter that the backend itself cannot start, and gives what to exit with.
    pub fn cannot_start(&self, error: &dyn Error) -> Exit {
        let message = format!("the worker failed to start: {error}");
        self.control.report_boot_failure(Exit::BootFailed.status(), message);
        Exit::BootFailed
    }
}

/// The settings that workers read.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WorkerConfig {
    /// What a connection may take.
    pub limits: Limits,
    /// Threads for blocking handlers. Default 4; at least 1.
    pub threads: usize,
    /// Open connections at which a worker stops accepting. Default 1000; 0: no limit.
    pub connections: usize,
    /// How long a drain may take that no order gives a deadline. Default 30 s.
    pub graceful_timeout: Duration,
    /// How long the loop may be silent before the arbiter ends the worker (D1). Default 30 s; zero: for ever.
    pub timeout: Duration,
    /// Requests after which a worker is replaced (D15). Default 0: never.
    pub max_requests: u64,
    /// How many more they are at most, by chance, so that workers are not replaced all at once. Default 10 %.
    pub max_requests_jitter: Jitter,
}

impl WorkerConfig {
    /// Whether a worker with so many connections `open` leaves further ones to others.
    pub fn is_full(&self, open: usize) -> bool {
        self.connections > 0 && open >= self.connections
    }

    /// After how many requests this worker is to be replaced; `draw` is a random number. 0: never.
    fn quota(&self, draw: u32) -> u64 {
        match self.max_requests {
            0 => 0,
            least => least.saturating_add(self.max_requests_jitter.some(least, draw)),
        }
    }

    /// How often a loop beats at least, also when it has nothing to do: every second, or four times in a `timeout`
    /// that is short.
    pub fn beat_interval(&self) -> Duration {
        const EVERY: Duration = Duration::from_secs(1);
        if self.timeout.is_zero() { EVERY } else { EVERY.min(self.timeout / 4) }
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            threads: 4,
            connections: 1000,
            graceful_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            max_requests: 0,
            max_requests_jitter: Jitter::default(),
        }
    }
}

/// The policies of a server, by what they are for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Policies {
    /// `--drain`.
    pub stop: Arc<dyn ShutdownPolicy>,
    /// `--drain-reload`.
    pub reload: Arc<dyn ShutdownPolicy>,
    /// `--drain-recycle`.
    pub recycle: Arc<dyn ShutdownPolicy>,
}

impl Policies {
    /// Has `policy` decide about the drains that `id` is for.
    pub fn set(&mut self, id: PolicyId, policy: Arc<dyn ShutdownPolicy>) {
        match id {
            PolicyId::Stop => self.stop = policy,
            PolicyId::Reload => self.reload = policy,
            PolicyId::Recycle => self.recycle = policy,
        }
    }

    /// The policy that an order names.
    pub fn get(&self, id: PolicyId) -> &Arc<dyn ShutdownPolicy> {
        match id {
            PolicyId::Stop => &self.stop,
            PolicyId::Reload => &self.reload,
            PolicyId::Recycle => &self.recycle,
        }
    }
}

impl Default for Policies {
    /// [`Finish`] for a stop, and [`Handoff`] where other workers stay.
    fn default() -> Self {
        let handoff = Arc::new(Handoff::default());
        Self { stop: Arc::new(Finish), reload: handoff.clone(), recycle: handoff }
    }
}

/// A bound, listening, non-blocking socket.
#[derive(Debug)]
#[non_exhaustive]
pub struct Listener {
    /// Its place among the listeners of the server.
    pub index: u16,
    /// The socket.
    pub socket: OwnedFd,
    /// What it is bound to.
    pub bound: Bound,
    /// Who may end it.
    pub ownership: Ownership,
}

impl Listener {
    /// The `index`-th listener of the server.
    pub fn new(index: u16, socket: OwnedFd, bound: Bound, ownership: Ownership) -> Self {
        Self { index, socket, bound, ownership }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a listener is bound to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[allow(clippy::exhaustive_enums, reason = "HTTP is served over these two")]
pub enum Bound {
    /// An address and the port that the kernel gave.
    Inet(SocketAddr),
    /// A path.
    Unix(PathBuf),
}

impl fmt::Display for Bound {
    /// As a client would write it: `http://127.0.0.1:8000`, `unix:/run/app.sock`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(addr) => write!(f, "http://{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Who may end a listener (D3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(clippy::exhaustive_enums, reason = "the contract names three")]
pub enum Ownership {
    /// Bound by this server, and no other arbiter holds it: it may be shut down and unlinked.
    Sole,
    /// Two arbiters of an upgrade hold it: it may only be closed.
    Shared,
    /// Given by socket activation or `fd://`: it may only be closed, also after an upgrade.
    Inherited,
}

#[cfg(test)]
#[path = "worker/config/tests.rs"]
mod tests;
