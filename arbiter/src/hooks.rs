//! Hooks: callbacks of the program at certain moments of its server's life.
//!
//! The names are gunicorn's where the moment is the same. Some of its hooks are missing.
//! `worker_int` and `worker_abort` would run in a signal handler, where almost nothing is allowed
//! (signal-safety(7)); request handlers see a drain by their `DrainSignal`, and
//! [`child_exit`](Hooks::child_exit) reports how a worker ended. Hooks around requests belong to
//! the application.

use std::time::Duration;

use remuda_core::shutdown::Reason;
use remuda_core::worker::Exit;

use crate::outcome::Outcome;

/// Callbacks of the program at certain moments of its server's life. By default every method does
/// nothing.
///
/// ```text
/// arbiter   on_starting ─ when_ready ─ … ─ on_reload, nworkers_changed, pre_exec … ─ on_exit
///           for each worker:  pre_fork                                            child_exit
/// worker                          └─ post_fork ─ post_worker_init ─ … ─ worker_exit ─┘
/// ```
///
/// Rules for all hooks:
///
/// 1. Hooks of the **arbiter** run on its only thread, which does nothing else meanwhile: it
///    handles no signal, replaces no worker and sends its service manager nothing. They should take
///    milliseconds; a hook that takes a second is logged. They must start no thread: a process with
///    more than one thread is not forked, so no further worker could start. All signals are blocked
///    except in [`on_starting`](Self::on_starting). A program that a hook starts inherits the
///    blocked signals, and has to unblock those that it needs.
/// 2. Hooks of a **worker** run in its process, on its first thread, as the workers' user, before
///    it accepts the first connection or after it has served the last. They may start threads.
///    Their changes are invisible to other processes: `self` is a copy, as all memory is.
/// 3. A panic in the arbiter is caught and logged, and the server goes on as if the hook had
///    returned. A worker whose [`post_fork`](Self::post_fork) or
///    [`post_worker_init`](Self::post_worker_init) panics cannot start; a panic in
///    [`worker_exit`](Self::worker_exit) is caught and logged.
/// 4. A reload does not change hooks: they belong to the program. In an upgrade each of the two
///    arbiters has its own.
///
/// The helper process of the admin listener is not a worker, and no hook reports it.
///
/// ```
/// use remuda_arbiter::{ChildExit, Hooks, ServerInfo, WorkerInfo};
///
/// struct Journal;
///
/// impl Hooks for Journal {
///     fn when_ready(&self, server: &ServerInfo) {
///         println!("{} workers are ready", server.workers);
///     }
///
///     fn child_exit(&self, worker: &WorkerInfo, exit: &ChildExit) {
///         if let Some(signal) = exit.signal {
///             println!("signal {signal} ended worker {} after {:?}", worker.pid, exit.lived);
///         }
///     }
/// }
/// ```
pub trait Hooks: Send + Sync + 'static {
    /// In the arbiter, once: directory, variables and umask are set, and nothing else exists yet:
    /// no [preloaded](crate::ArbiterConfig::preload) application, no listener, no worker. Signals
    /// still have their previous actions. If the hook leaves a thread running, the server does not
    /// start.
    fn on_starting(&self, server: &ServerInfo) {
        let _ = server;
    }

    /// In the arbiter, once: all workers are ready for the first time, and the service manager has
    /// been notified.
    fn when_ready(&self, server: &ServerInfo) {
        let _ = server;
    }

    /// In the arbiter, before each fork of a worker. A fork that fails is tried again, with this
    /// hook.
    fn pre_fork(&self, place: &WorkerPlace) {
        let _ = place;
    }

    /// In the worker, once: it has changed to its user, and has neither an application nor a
    /// runtime yet. The time counts against `boot-timeout`. If the hook panics, the worker ends
    /// with 3, as a worker that could not start.
    fn post_fork(&self, worker: &WorkerInfo) {
        let _ = worker;
    }

    /// In the worker, once: its application is built (or preloaded), and it reports ready next. The
    /// hook runs inside the backend's runtime, where the application is built, and its time counts
    /// against `boot-timeout`. If the hook panics, the worker ends with 4, as a worker whose
    /// application could not be built.
    fn post_worker_init(&self, worker: &WorkerInfo) {
        let _ = worker;
    }

    /// In the worker, before it ends by itself, whatever happened since
    /// [`post_fork`](Self::post_fork). Not called in a worker that is killed, told to end before it
    /// was ready, or ended by QUIT or by the timer of its drain's deadline (D10). The same timer
    /// ends a hook that takes too long. Handlers that the deadline has cut may still run on other
    /// threads.
    fn worker_exit(&self, worker: &WorkerInfo, exit: &WorkerExit) {
        let _ = (worker, exit);
    }

    /// In the arbiter, for each forked worker: it has ended, in whatever way, and was reaped.
    fn child_exit(&self, worker: &WorkerInfo, exit: &ChildExit) {
        let _ = (worker, exit);
    }

    /// In the arbiter: the number of workers is that of `server` from now on, instead of `before`.
    /// The cause is TTIN, TTOU, a command, a reload with a changed setting, WINCH (0), or HUP after
    /// WINCH.
    fn nworkers_changed(&self, server: &ServerInfo, before: usize) {
        let _ = (server, before);
    }

    /// In the arbiter, in each reload: the new configuration is loaded, its addresses are bound,
    /// and none of its workers was forked yet. `server` has its generation. Its workers may still
    /// fail to boot, and then nothing has changed.
    fn on_reload(&self, server: &ServerInfo) {
        let _ = server;
    }

    /// In the arbiter, before it forks the process that becomes the new arbiter of an upgrade.
    fn pre_exec(&self, server: &ServerInfo) {
        let _ = server;
    }

    /// In the arbiter, last, once: no worker and no listener is left, and no signal ends the
    /// process before the hook returns. Not called in an arbiter that could not load its
    /// application or could not listen.
    fn on_exit(&self, server: &ServerInfo, outcome: &Outcome) {
        let _ = (server, outcome);
    }
}

/// No hooks.
impl Hooks for () {}

/// The server, as passed to hooks of the arbiter.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ServerInfo {
    /// The arbiter's process id.
    pub pid: u32,
    /// The number of the current configuration of this arbiter, from 1.
    pub generation: u32,
    /// The wanted number of workers.
    pub workers: usize,
    /// Whether an upgrade started this arbiter and the old one is still alive.
    pub has_old_arbiter: bool,
}

/// The place of a worker that is not forked yet.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WorkerPlace {
    /// The slot, from 0. A replacement has the slot of its predecessor.
    pub slot: u16,
    /// The generation of its configuration.
    pub generation: u32,
}

/// A worker.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its process id.
    pub pid: u32,
    /// The slot, from 0. A replacement has the slot of its predecessor.
    pub slot: u16,
    /// The generation of its configuration.
    pub generation: u32,
}

/// The imminent end of a worker.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WorkerExit {
    /// The exit status.
    pub exit: Exit,
    /// Why it was told to drain. None if it was not.
    pub reason: Option<Reason>,
}

/// The end of a worker.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ChildExit {
    /// Its exit status, if no signal ended it.
    pub status: Option<i32>,
    /// The number of the signal that ended it.
    pub signal: Option<i32>,
    /// How long the process lived.
    pub lived: Duration,
    /// Why the arbiter told it to end. None if it did not.
    pub reason: Option<Reason>,
    /// Whether a replacement is forked, at once or after a pause.
    pub is_replaced: bool,
}
