//! What a program may have done at certain moments of its server's life.
//!
//! The names are gunicorn's where the moment is the same. Of its hooks these are missing: `worker_int` and `worker_abort`, whose
//! moment is in a handler of a signal, where next to nothing may be done (signal-safety(7)): handlers see a drain by their
//! `DrainSignal`, and [`child_exit`](Hooks::child_exit) tells how a worker ended; and those around requests, which are an
//! application's own.

use std::time::Duration;

use remuda_core::shutdown::Reason;
use remuda_core::worker::Exit;

use crate::Outcome;

/// What a program does at certain moments of its server's life. Every method does nothing unless it is written.
///
/// ```text
/// arbiter   on_starting ─ when_ready ─ … ─ on_reload, nworkers_changed, pre_exec … ─ on_exit
///           for each worker:  pre_fork                                            child_exit
/// worker                          └─ post_fork ─ post_worker_init ─ … ─ worker_exit ─┘
/// ```
///
/// What holds for all of them:
///
/// 1. Those of the **arbiter** run on its only thread, which does nothing else meanwhile: it hears no signal, replaces no worker
///    and tells its service manager nothing. They should take milliseconds; one that takes a second is logged. They must start no thread,
///    because a process that has more than one is not forked: no worker would come after that.
/// 2. Those of a **worker** run in its process, on its first thread, as the user that workers run as, before it accepts anything or
///    after it has served the last. They may start threads. What they change is seen by no other process: `self` is a copy, as
///    all memory is.
/// 3. A panic in the arbiter is caught and logged, and the server goes on as if the hook had returned. A worker whose
///    [`post_fork`](Self::post_fork) or [`post_worker_init`](Self::post_worker_init) panics cannot start; a panic in
///    [`worker_exit`](Self::worker_exit) is caught and logged.
/// 4. A reload changes no hooks: they are the program's. In an upgrade each of the two arbiters has its own.
///
/// The helper process that serves the admin listener is no worker, and no hook is told of it.
pub trait Hooks: Send + Sync + 'static {
    /// In the arbiter, once: it is where it is to be (directory, variables, umask), and there is nothing else yet: no
    /// [preloaded](crate::ArbiterConfig::preload) application, no listener, no worker. Signals still do what they did before.
    /// A thread that it leaves behind keeps the server from starting.
    fn on_starting(&self, server: &ServerInfo) {
        let _ = server;
    }

    /// In the arbiter, once: all workers were ready for the first time, and whoever has to know knows.
    fn when_ready(&self, server: &ServerInfo) {
        let _ = server;
    }

    /// In the arbiter, before each fork of a worker; that may fail, and is then tried again.
    fn pre_fork(&self, place: &WorkerPlace) {
        let _ = place;
    }

    /// In the worker, once: it is the user that it is to be, and has neither an application nor a runtime yet. It counts against
    /// `boot-timeout`. If it panics, the worker ends with 3, as one that could not start.
    fn post_fork(&self, worker: &WorkerInfo) {
        let _ = worker;
    }

    /// In the worker, once: its application was built (or is the preloaded one), and it reports ready next. It runs inside the backend's
    /// runtime, where the application is built, and counts against `boot-timeout`. If it panics, the worker ends with 4, as one
    /// whose application could not be built.
    fn post_worker_init(&self, worker: &WorkerInfo) {
        let _ = worker;
    }

    /// In the worker, before it ends by itself, whatever came of it since [`post_fork`](Self::post_fork). Not in one that is
    /// killed, ended by QUIT or by the timer of its drain's deadline (D10), which is also what ends a hook that takes longer than that.
    /// Handlers that the deadline has cut may still run on other threads.
    fn worker_exit(&self, worker: &WorkerInfo, exit: &WorkerExit) {
        let _ = (worker, exit);
    }

    /// In the arbiter, for each worker that was forked: it has ended, in whatever way, and was reaped.
    fn child_exit(&self, worker: &WorkerInfo, exit: &ChildExit) {
        let _ = (worker, exit);
    }

    /// In the arbiter: as many workers are asked for from now on as `server` says, instead of `before`. TTIN, TTOU or an operator has
    /// asked for that, or a reload has changed the setting, or WINCH lets them rest (0), or HUP calls them back.
    fn nworkers_changed(&self, server: &ServerInfo, before: usize) {
        let _ = (server, before);
    }

    /// In the arbiter, in each reload: the new configuration was loaded, its addresses are bound, and no worker of it was forked yet.
    /// `server` says its generation. It may still fail to boot, and then nothing has changed.
    fn on_reload(&self, server: &ServerInfo) {
        let _ = server;
    }

    /// In the arbiter, before it forks the process that is to become the new arbiter of an upgrade.
    fn pre_exec(&self, server: &ServerInfo) {
        let _ = server;
    }

    /// In the arbiter, last of all, once: no worker and no listener is left, and signals do again what they did before. Not in an
    /// arbiter that could not load its application or could not listen.
    fn on_exit(&self, server: &ServerInfo, outcome: &Outcome) {
        let _ = (server, outcome);
    }
}

/// No hooks.
impl Hooks for () {}

/// The server, as the arbiter's hooks see it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ServerInfo {
    /// The arbiter.
    pub pid: u32,
    /// Counts the configurations this arbiter has had, from 1.
    pub generation: u32,
    /// How many workers are asked for.
    pub workers: usize,
    /// Whether an upgrade has started it and the old arbiter is there still.
    pub is_heir: bool,
}

/// What a worker is to be that is not forked yet.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WorkerPlace {
    /// The place among the workers, from 0; a replacement has its predecessor's.
    pub slot: u16,
    /// The configuration that it has.
    pub generation: u32,
}

/// A worker.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its process.
    pub pid: u32,
    /// The place among the workers, from 0; a replacement has its predecessor's.
    pub slot: u16,
    /// The configuration that it has.
    pub generation: u32,
}

/// How a worker is about to end.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WorkerExit {
    /// With this exit status.
    pub exit: Exit,
    /// Why it was told to drain; none: nobody had told it yet.
    pub reason: Option<Reason>,
}

/// How a worker has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ChildExit {
    /// Its exit status, if no signal ended it.
    pub status: Option<i32>,
    /// The number of the signal that ended it.
    pub signal: Option<i32>,
    /// For how long it was there.
    pub lived: Duration,
    /// Why the arbiter had told it to end; none: it had not.
    pub reason: Option<Reason>,
    /// Whether another one is forked in its place, at once or after a while.
    pub is_replaced: bool,
}
