//! The Unix half of core: what all backends share.
//!
//! It handles descriptors, signals and clocks, and decides nothing: the protocol machine decides
//! about connections, the arbiter about processes. A backend is an implementation of [`Worker`].

#![allow(clippy::disallowed_types, reason = "descriptors are what this half is about")]

use std::fmt;

pub use self::accept::{AcceptError, AcceptThread, Accepted, Acceptor, Bound, Gates, Listener, Ownership};
pub use self::alarm::block_on;
pub use self::arbiter_link::{ArbiterLink, Watch};
pub use self::clock::Clock;
pub use self::config::{Policies, WorkerConfig};
pub use self::context::WorkerCx;
pub use self::drain::Ending;
pub use self::draws::Draws;
pub use self::exit::Exit;
pub use self::handoff::{Adopted, Inbox, Outbox};
pub use self::keeper::{Entries, KeeperCx, answer_last, start as start_keeper, without as without_keeper};
pub use self::logs::{AccessLog, Format, FormatError, LogFile, Logs, Sink, WorkerLogs};
pub use self::scoreboard::{Account, Ledger, Loss, Scoreboard, Seat, SeatSnapshot, ServerStage};
pub use self::shortage::{limits_of_tasks, probe_thread};
pub use self::socket::Socket;
pub use self::tokio_context::{Entered, TokioContext};
use crate::app::AppFactory;

mod accept;
pub mod alarm;
mod arbiter_link;
mod clock;
mod config;
pub mod connections;
mod context;
pub mod drain;
mod draws;
mod exit;
pub mod handlers;
pub mod handoff;
mod keeper;
pub mod logs;
pub mod poll_loop;
mod scoreboard;
mod shortage;
mod socket;
pub mod sys;
pub mod task_loop;
mod tokio_context;
pub mod waiter;

/// A backend: one way for a process to serve many connections.
///
/// An implementation promises the arbiter:
///
/// 1. `run` is called once, in a process of its own, on its only thread, with all signals handled
///    by [`ArbiterLink`]. It returns when the process should end.
/// 2. It builds the application, reports ready ([`ArbiterLink::report_ready`]), and only then
///    accepts.
/// 3. It enters a drain within 50 ms of an order or signal, whatever its connections do (D2), and
///    returns as soon as no connection is left (D9).
/// 4. It sends a heartbeat ([`Seat::beat`]) in every turn of the loop that serves, and at least
///    every [`beat_interval`](WorkerConfig::beat_interval) (D1). The first one comes before it
///    reports ready. If every handler runs on a thread and all threads are busy, the heartbeat
///    carries the time at which the last handler began ([`Seat::beat_since`]).
/// 5. It does not decide about connections: it steps the machine, and waits for the events that the
///    machine names.
/// 6. When its last connection is gone, it polls the application's [`Ending`] until that is over
///    (D14).
/// 7. While it serves, it takes over connections from its [`Inbox`], and sends connections that
///    their machines hand off to the [`Outbox`] (D19). It stops watching the socket of such a
///    connection before it closes the descriptor, and never calls shutdown(2) on it.
///
/// A polling backend names its poller and how its handlers run; [`poll_loop`] does the rest:
///
/// ```
/// use remuda_core::app::{AppFactory, Placement};
/// use remuda_core::worker::handlers::{HandlerPool, run_blocking};
/// use remuda_core::worker::poll_loop::{build, serve};
/// use remuda_core::worker::waiter::Epoll;
/// use remuda_core::worker::{Exit, Worker, WorkerCx};
///
/// #[derive(Debug)]
/// struct Threads;
///
/// impl Worker for Threads {
///     fn name(&self) -> &'static str {
///         "threads"
///     }
///
///     fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit {
///         let (context, service) = match build(&cx, self.name(), &boot) {
///             Ok(built) => built,
///             Err(exit) => return exit,
///         };
///         let _entered = context.enter();
///         serve(cx, service.placed(Placement::OnThread), Epoll::new(), |config, shared, waker| {
///             let work = move |lease: &_| run_blocking(lease, &shared);
///             HandlerPool::new(config, work, move || waker.wake_by_ref())
///         })
///     }
/// }
/// ```
pub trait Worker: fmt::Debug + Send + Sync + 'static {
    /// The name by which `-k` selects the backend.
    fn name(&self) -> &'static str;

    /// The most handler threads that a worker of this backend can have. Default: no limit.
    fn max_threads(&self) -> Option<usize> {
        None
    }

    /// Serves until the drain is over.
    fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit;
}
