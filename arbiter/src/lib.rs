//! The arbiter: the process that binds, forks workers, watches and replaces them, and ends them in
//! order.
//!
//! The arbiter serves no requests and starts no thread. It accepts connections only to save a
//! backlog, or from operators. Workers are supplied from outside, as a [`Worker`]. Stops follow the
//! drain contract.
//!
//! ```text
//! plan      what happened → what to do; pure           run      system calls, and the one wait
//! listener  binding, sharing and ending sockets (D3)   sys      fork, signals: the only `unsafe`
//! backlog   connections that a stop would lose (D4)    upgrade  a new arbiter from the executable
//! gate, handshakes   how the queue of a listener that ends is emptied
//! unattended         listeners of a slot that has no worker
//! worker_link        the order socket of one worker
//! generation, config, outcome   what workers are made of, what to run, how it ended
//! process, pidfile, file, lost  directory, user and title; files by which the server is found
//! activation, notify            the service manager: what it passes on, and what it is told
//! control, status               the operators' socket, its language, and the answer to `status`
//! crash_report, symbolizer      memory and stack traces of lost workers
//! admin     the helper process that serves /healthz, /readyz and /metrics; HTTP itself is core's
//! hooks     callbacks of the embedding program
//! simulated the plan without a system, for the simulation of the conformance suite
//! ```
//!
//! # Signals
//!
//! [`Arbiter::run`] blocks all signals and reads them from a descriptor, except those that report
//! faults of the program and those of job control. SIGCHLD and the signal mask are restored last,
//! before `run` returns.
//!
//! - TERM stops gracefully, after the lame duck phase if one is configured; another TERM or INT
//!   ends that phase.
//! - INT stops within 2 s, QUIT at once. A second INT or TERM shortens a stop to 2 s.
//! - TTIN adds a worker, TTOU removes one.
//! - HUP reloads. USR1 reopens the logs, here and in all workers.
//! - USR2 starts a new arbiter from the executable, which takes over.
//! - WINCH drains all workers, and HUP starts them again.

mod activation;
mod admin;
mod background_job;
mod backlog;
mod config;
mod control;
mod crash_report;
mod file;
mod gate;
mod generation;
mod handshakes;
mod hooks;
mod listener;
mod lost;
mod notify;
mod outcome;
mod pidfile;
mod plan;
mod process;
mod run;
#[doc(hidden)]
pub mod simulated;
mod status;
mod supervisor;
mod symbolizer;
mod sys;
mod unattended;
mod upgrade;
mod worker_link;

use std::fmt;
use std::sync::Arc;

use remuda_core::app::AppFactory;
use remuda_core::handoff::Records;
use remuda_core::worker::Worker;

pub use self::activation::is_socket_activated;
pub use self::background_job::{BackgroundJob, Unloaded};
pub use self::config::{ArbiterConfig, Bind, UpgradeDrain};
pub use self::gate::{Gate, ListenerEnd};
use self::generation::Load;
pub use self::generation::Loaded;
pub use self::hooks::{ChildExit, Hooks, ServerInfo, WorkerExit, WorkerInfo, WorkerPlace};
pub use self::listener::BindError;
pub use self::lost::lost_files;
pub use self::outcome::Outcome;
pub use self::pidfile::PidfileError;
pub use self::process::{Group, ProcessConfig, User};
pub use self::sys::ThreadsError;

/// A server before its start.
pub struct Arbiter {
    loaded: Loaded,
    load: Box<Load>,
    hooks: Arc<dyn Hooks>,
    records: Records,
}

impl Arbiter {
    /// Creates a server with workers of the backend `worker`. Each worker builds its application
    /// with `app`. A reload (HUP) replaces the workers, with the same configuration.
    pub fn new(config: ArbiterConfig, worker: Arc<dyn Worker>, app: AppFactory) -> Self {
        Self::of(Loaded::new(config, worker, app))
    }

    /// Creates a server from a loaded configuration.
    pub fn of(loaded: Loaded) -> Self {
        let load = Box::new(|current: &Loaded| Ok(current.clone()));
        Self { loaded, load, hooks: Arc::new(()), records: Records::default() }
    }

    /// Sets the function that a reload (HUP) calls to load a new configuration. Its argument is the
    /// current one. An error leaves everything as it is (D16), or names a background job to run
    /// first.
    ///
    /// The function runs in the arbiter, which does nothing else meanwhile. It should not wait: an
    /// [`BackgroundJob`] can. It must start no thread.
    #[must_use]
    pub fn reloading(self, load: impl Fn(&Loaded) -> Result<Loaded, Unloaded> + 'static) -> Self {
        Self { load: Box::new(load), ..self }
    }

    /// Sets the hooks of the server. Default: none.
    #[must_use]
    pub fn hooks(self, hooks: Arc<dyn Hooks>) -> Self {
        Self { hooks, ..self }
    }

    /// Sets the versions of hand-off records that workers read and write. Default: those of this
    /// program. Others are for tests of upgrades between versions.
    #[doc(hidden)]
    #[must_use]
    pub fn records(self, records: Records) -> Self {
        Self { records, ..self }
    }

    /// Binds, forks workers and supervises them until the stop. Returns only in the arbiter
    /// process: a worker ends inside.
    ///
    /// The process must have one thread, because fork(2) copies only the calling thread. All
    /// children of the process are reaped meanwhile, including children that the arbiter did not
    /// fork.
    ///
    /// A signal that arrives after the return ends the process with [`Outcome::status`] instead of
    /// by the signal, unless the program handles it: TERM, INT, QUIT, HUP, USR1, USR2, TTIN and
    /// TTOU.
    pub fn run(self) -> Outcome {
        self.run_then(|_| {})
    }

    /// Like [`run`](Self::run), and calls `last` with the outcome before a signal can end the
    /// process again.
    pub fn run_then(self, last: impl FnOnce(&Outcome)) -> Outcome {
        match run::prepare(self.loaded, self.load, self.hooks, self.records) {
            Ok(run) => run.supervise(last),
            Err(outcome) => {
                last(&outcome);
                outcome
            }
        }
    }
}

impl fmt::Debug for Arbiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arbiter").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}
