//! The arbiter: the process that binds, forks workers, watches and replaces them, and ends them in order.
//!
//! It serves nothing, accepts nothing but a backlog that would be lost and what operators say to it, and starts no thread; it
//! knows no HTTP and no backend. What a worker is comes from outside, as a [`Worker`]. What it promises about stops is the
//! drain contract's.
//!
//! ```text
//! plan      what happened → what to do; pure       run       system calls and the one wait
//! listener  bind, and end (D3)                     link      a control socket
//! sys       fork, signals: the only `unsafe`       notice    what people are told
//! backlog   connections that a stop would lose (D4)     upgrade   a new arbiter from the executable
//! orphans   listeners of a slot that has no worker
//! process   where, as whom, called what            pidfile   and the lock on it
//! activation, notify   the service manager: what it passed on, and what it is told
//! control   what operators ask for                 status    what they are told
//! admin     the helper that serves /healthz, /readyz and /metrics
//! hooks     what the program does at certain moments
//! ```
//!
//! # Signals
//!
//! All are blocked while [`Arbiter::run`] runs and read from a descriptor, but for those that report faults of the
//! program and those of job control. TERM stops gracefully, after the lame duck's time if there is one, which another signal
//! ends; INT stops within 2 s, QUIT at once; a second INT or TERM hurries a stop to 2 s. TTIN asks for one worker more, TTOU for one less; HUP reloads;
//! USR1 reopens the logs, here and in all workers. USR2 starts a new arbiter from the executable, which takes over; WINCH
//! drains all workers, and HUP has them come back. SIGCHLD and the signal mask are put back before `run` returns.

mod activation;
mod admin;
mod backlog;
mod control;
mod hooks;
#[path = "worker_link.rs"]
mod link;
mod listener;
#[path = "plan/notice.rs"]
mod notice;
mod notify;
#[path = "crash_report.rs"]
mod obituary;
#[path = "unattended.rs"]
mod orphans;
mod pidfile;
mod plan;
mod process;
#[doc(hidden)]
#[path = "simulated.rs"]
pub mod rehearsal;
mod run;
mod status;
mod sys;
mod upgrade;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use remuda_core::app::{AppError, AppFactory};
use remuda_core::config::Jitter;
use remuda_core::handoff::Records;
use remuda_core::shutdown::Reason;
use remuda_core::worker::{Logs, Policies, Worker, WorkerConfig};

pub use self::activation::is_socket_activated;
pub use self::hooks::{ChildExit, Hooks, ServerInfo, WorkerExit, WorkerInfo, WorkerPlace};
pub use self::listener::BindError;
pub use self::pidfile::PidfileError;
pub use self::process::{Group, ProcessConfig, User};
use self::run::Run;
pub use self::sys::ThreadsError;

/// A server that has not started.
pub struct Arbiter {
    loaded: Loaded,
    load: Box<Load>,
    hooks: Arc<dyn Hooks>,
    records: Records,
}

/// Loads what is to replace what it is given.
type Load = dyn Fn(&Loaded) -> Result<Loaded, String>;

impl Arbiter {
    /// A server of `worker` processes that each build their application with `app`. A reload (HUP) replaces them by others
    /// of the same kind.
    pub fn new(config: ArbiterConfig, worker: Arc<dyn Worker>, app: AppFactory) -> Self {
        Self::of(Loaded::new(config, worker, app))
    }

    /// A server of what was loaded.
    pub fn of(loaded: Loaded) -> Self {
        let load = Box::new(|current: &Loaded| Ok(current.clone()));
        Self { loaded, load, hooks: Arc::new(()), records: Records::default() }
    }

    /// Has each reload (HUP) call `load` for what is to come in place of what there is, which it is given. The error says why
    /// there is nothing, and everything stays as it is (D16).
    ///
    /// It is called in the arbiter, which sees to nothing else meanwhile, so it should not wait for anything; and it must start
    /// no thread.
    #[must_use]
    pub fn reloading(self, load: impl Fn(&Loaded) -> Result<Loaded, String> + 'static) -> Self {
        Self { load: Box::new(load), ..self }
    }

    /// Has `hooks` called at certain moments of the server's life. Default: none.
    #[must_use]
    pub fn hooks(self, hooks: Arc<dyn Hooks>) -> Self {
        Self { hooks, ..self }
    }

    /// Has its workers read and write these records of connections that move. Default: what this version does; others are for
    /// tests of upgrades between versions.
    #[doc(hidden)]
    #[must_use]
    pub fn records(self, records: Records) -> Self {
        Self { records, ..self }
    }

    /// Binds, forks and looks after the workers until told to stop. Returns in the arbiter process only; a worker
    /// ends inside.
    ///
    /// The process must have one thread, because fork(2) copies only the calling one. While this runs, all children
    /// of the process are reaped, also those that it did not start.
    pub fn run(self) -> Outcome {
        match Run::prepare(self.loaded, self.load, self.hooks, self.records) {
            Ok(run) => run.supervise(),
            Err(outcome) => outcome,
        }
    }
}

impl fmt::Debug for Arbiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arbiter").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}

/// All that a generation of workers is made of: what a reload replaces.
#[derive(Clone)]
#[non_exhaustive]
pub struct Loaded {
    /// What to run.
    pub config: ArbiterConfig,
    /// The backend.
    pub worker: Arc<dyn Worker>,
    /// Builds the application in each worker.
    pub app: AppFactory,
    applied: Option<Arc<dyn Fn()>>,
}

impl Loaded {
    /// Workers of this backend that build their application with `app`.
    pub fn new(config: ArbiterConfig, worker: Arc<dyn Worker>, app: AppFactory) -> Self {
        Self { config, worker, app, applied: None }
    }

    /// The same with something to do first of all in each worker that has this, and in the arbiter once a reload has made it
    /// what counts. What a start takes besides is done before that.
    #[must_use]
    pub fn applying(self, apply: impl Fn() + 'static) -> Self {
        Self { applied: Some(Arc::new(apply)), ..self }
    }

    /// Builds the application here and now, for all workers, if it is to be [preloaded](ArbiterConfig::preload).
    fn preload(&mut self) -> Result<(), Outcome> {
        if self.config.preload {
            let built = catch_unwind(AssertUnwindSafe(|| self.app.preload(self.worker.name())));
            let built = built.unwrap_or_else(|_| Err(AppError::msg("it panicked, as said above")));
            self.app =
                built.map_err(|error| Outcome::BootFailed { status: 4, message: error.to_string() })?;
            sys::only_thread()
                .map_err(|error| error.because_of("the application that `preload` builds here"))?;
        }
        Ok(())
    }

    /// Has the application that was preloaded `before`, if one was: the arbiter builds none while it has workers to look after.
    fn keep_preloaded(&mut self, before: &Self) {
        self.config.preload = before.config.preload;
        if self.config.preload {
            self.app = before.app.clone();
            tracing::info!("the application stays the one that was preloaded; an upgrade builds it anew");
        }
    }

    fn apply(&self) {
        if let Some(apply) = &self.applied {
            apply();
        }
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("config", &self.config)
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

/// What to run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ArbiterConfig {
    /// Worker processes. Default 1; 0 counts as 1.
    pub workers: u16,
    /// Where to listen. Default `127.0.0.1:8000`; at least one.
    pub binds: Vec<Bind>,
    /// Connections that the kernel queues on each listener (listen(2)). Default 2048. Listeners that came as
    /// descriptors keep their own.
    pub backlog: u32,
    /// Whether each slot has a TCP listener of its own for each address (`SO_REUSEPORT`), instead of one that all workers
    /// accept from in turn. Default false.
    pub reuse_port: bool,
    /// What workers read. The arbiter reads `graceful_timeout`, `timeout` and `threads`.
    pub worker: WorkerConfig,
    /// Whether the application is built once, before any fork, in memory that all workers share until they write there. No
    /// reload changes that, or builds it anew. Default false.
    pub preload: bool,
    /// How long a worker may take until it is ready. Default 60 s; zero: for ever.
    pub boot_timeout: Duration,
    /// Failed boots, one after the other, after which a server gives up of which no worker was ever ready. Default 0: it does so
    /// after the first that says why, and never where workers just die.
    pub max_boot_failures: u32,
    /// How long a worker serves, from when it was ready, before it is replaced (D15). Default 0: for ever.
    pub max_lifetime: Duration,
    /// How much longer that is at most, by chance: a part, or nanoseconds. Default 10 %.
    pub max_lifetime_jitter: Jitter,
    /// Bytes of resident memory at which a worker is replaced (D15). Default 0: never.
    pub max_rss: u64,
    /// How many more bytes that is at most, by chance. Default 10 %.
    pub max_rss_jitter: Jitter,
    /// How long the server serves on after TERM, before it stops; it is no part of `graceful_timeout`. Default 0: not at all.
    pub lameduck: Duration,
    /// Workers that are replaced at a time because they have served enough (D15). Default 1; 0 counts as 1.
    pub recycle_concurrency: u16,
    /// Workers that are replaced at a time in a reload (D16). Default 1; 0 counts as 1.
    pub reload_concurrency: u16,
    /// Whether this arbiter ends by itself once a new one, which USR2 has started, is ready. Default: it does.
    pub upgrade_drain: UpgradeDrain,
    /// Who decides during drains.
    pub policies: Policies,
    /// What the processes are to their system.
    pub process: ProcessConfig,
    /// The logs that arbiter and workers write, and open anew when USR1 says so. Default: none.
    pub logs: Logs,
    /// Path of the unix socket that takes commands of operators. Default: none.
    pub control_socket: Option<PathBuf>,
    /// Where `/healthz`, `/readyz` and `/metrics` are served. Default: nowhere.
    pub admin: Option<Bind>,
    /// What `status` says of the program. Default: the version of this crate.
    pub version: String,
}

impl ArbiterConfig {
    /// How many workers there may be besides those that are asked for, because some are replaced.
    fn replaced(&self) -> u16 {
        self.recycle_concurrency.max(1).saturating_add(self.reload_concurrency.max(1))
    }
}

impl Default for ArbiterConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            binds: vec![Bind::Inet(SocketAddr::from(([127, 0, 0, 1], 8000)))],
            backlog: 2048,
            reuse_port: false,
            worker: WorkerConfig::default(),
            preload: false,
            boot_timeout: Duration::from_secs(60),
            max_boot_failures: 0,
            max_lifetime: Duration::ZERO,
            max_lifetime_jitter: Jitter::default(),
            max_rss: 0,
            max_rss_jitter: Jitter::default(),
            lameduck: Duration::ZERO,
            recycle_concurrency: 1,
            reload_concurrency: 1,
            upgrade_drain: UpgradeDrain::default(),
            policies: Policies::default(),
            process: ProcessConfig::default(),
            logs: Logs::default(),
            control_socket: None,
            admin: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What an arbiter does once a new one is ready that is to replace it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum UpgradeDrain {
    /// It drains its workers and ends.
    #[default]
    Automatic,
    /// It serves on beside the new one until people end one of the two.
    Manual,
}

/// An address to listen on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Bind {
    /// A TCP address. Port 0 lets the kernel choose; `[::]` serves IPv4 too.
    Inet(SocketAddr),
    /// A unix socket's path. Its mode is given by the umask, its owner is who workers run as.
    Unix(PathBuf),
    /// A listening descriptor that somebody else bound: `fd://3`. The server takes it over.
    Fd(i32),
    /// All listeners of that name that a service manager passed on (`FileDescriptorName=` in systemd.socket(5)).
    Named(String),
    /// All listeners that a service manager passed on.
    Activated,
}

impl Bind {
    fn is_any_port(&self) -> bool {
        matches!(self, Self::Inet(addr) if addr.port() == 0)
    }
}

/// As in the settings: `127.0.0.1:8000`, `unix:/run/app.sock`, `fd://3`.
impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(fd) => write!(f, "fd://{fd}"),
            Self::Named(name) => write!(f, "fd://{name}"),
            Self::Activated => f.write_str("systemd"),
        }
    }
}

/// How a server ended. Its `Display` is a sentence for people.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// As asked.
    #[non_exhaustive]
    Stopped {
        /// How it was asked: [`Reason::Stop`] by TERM, [`Reason::QuickStop`] by INT or QUIT.
        reason: Reason,
        /// Whether the deadline cut off work, or a worker had to be killed.
        cut: bool,
    },
    /// A worker failed to boot before the server ever was ready.
    #[non_exhaustive]
    BootFailed {
        /// 3: the worker; 4: the application.
        status: u8,
        /// Why, as the worker said.
        message: String,
    },
    /// It could not listen; nothing was started.
    BindFailed(BindError),
    /// It could not write its pidfile, perhaps because the server is running already; nothing was started.
    PidfileFailed(PidfileError),
    /// The process has more than one thread; nothing was started.
    Threads(ThreadsError),
    /// The system refused the arbiter something that it cannot do without.
    #[non_exhaustive]
    Internal {
        /// What, and why.
        message: String,
    },
}

impl Outcome {
    /// The exit status: 0 as asked, 6 if a TERM stop cut work off, 3 or 4 if the first boot failed, 5 if it could
    /// not bind, 1 otherwise.
    pub fn status(&self) -> u8 {
        match self {
            Self::Stopped { reason: Reason::Stop, cut: true } => 6,
            Self::Stopped { .. } => 0,
            Self::BootFailed { status, .. } => *status,
            Self::BindFailed(_) => 5,
            Self::PidfileFailed(_) | Self::Threads(_) | Self::Internal { .. } => 1,
        }
    }

    fn internal(what: &str, error: &io::Error) -> Self {
        Self::Internal { message: format!("cannot {what}: {error}") }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped { cut: false, .. } => f.write_str("stopped"),
            Self::Stopped { cut: true, .. } => f.write_str("stopped; not all work was finished"),
            Self::BootFailed { status: 4, message } => write!(f, "the application failed to load: {message}"),
            Self::BootFailed { message, .. } => write!(f, "a worker failed to boot: {message}"),
            Self::BindFailed(error) => error.fmt(f),
            Self::PidfileFailed(error) => error.fmt(f),
            Self::Threads(error) => error.fmt(f),
            Self::Internal { message } => f.write_str(message),
        }
    }
}

impl From<BindError> for Outcome {
    fn from(error: BindError) -> Self {
        Self::BindFailed(error)
    }
}

impl From<PidfileError> for Outcome {
    fn from(error: PidfileError) -> Self {
        Self::PidfileFailed(error)
    }
}

impl From<ThreadsError> for Outcome {
    fn from(error: ThreadsError) -> Self {
        Self::Threads(error)
    }
}

#[cfg(test)]
#[path = "outcome/tests.rs"]
mod tests;
