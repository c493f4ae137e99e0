//! Data types of the plan's events, actions and notices.

#![allow(
    missing_docs,
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    reason = "public for the simulation of the conformance suite alone"
)]

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal as Number;
use remuda_core::config::Jitter;
use remuda_core::time::Time;
use rustix::process::{self, Pid};
use thiserror::Error;

use crate::config::{ArbiterConfig, UpgradeDrain};

/// A signal with a meaning for the arbiter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    Term,
    Int,
    Quit,
    Hup,
    Usr1,
    Usr2,
    Ttin,
    Ttou,
    Winch,
}

impl Signal {
    /// The signal with this number, if it has a meaning for the arbiter.
    pub fn of(number: i32) -> Option<Self> {
        use process::Signal as Number;
        Some(match Number::from_named_raw(number)? {
            Number::TERM => Self::Term,
            Number::INT => Self::Int,
            Number::QUIT => Self::Quit,
            Number::HUP => Self::Hup,
            Number::USR1 => Self::Usr1,
            Number::USR2 => Self::Usr2,
            Number::TTIN => Self::Ttin,
            Number::TTOU => Self::Ttou,
            Number::WINCH => Self::Winch,
            _ => return None,
        })
    }

    pub fn number(self) -> process::Signal {
        use process::Signal as Number;
        match self {
            Self::Term => Number::TERM,
            Self::Int => Number::INT,
            Self::Quit => Number::QUIT,
            Self::Hup => Number::HUP,
            Self::Usr1 => Number::USR1,
            Self::Usr2 => Number::USR2,
            Self::Ttin => Number::TTIN,
            Self::Ttou => Number::TTOU,
            Self::Winch => Number::WINCH,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Hup => "HUP",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
            Self::Ttin => "TTIN",
            Self::Ttou => "TTOU",
            Self::Winch => "WINCH",
        })
    }
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// With an exit status.
    Status(i32),
    /// By a signal.
    Signal(i32),
}

impl Death {
    /// The exit status, if there is one.
    pub(super) fn status(self) -> Option<i32> {
        match self {
            Self::Status(status) => Some(status),
            Self::Signal(_) => None,
        }
    }
}

impl From<ExitStatus> for Death {
    /// Converts the status of an ended process: without an exit status it was ended by a signal.
    fn from(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Status(code),
            None => Self::Signal(status.signal().unwrap_or_default()),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Signal(number) => match Number::try_from(*number) {
                Ok(signal) => write!(f, "signal {number} ({signal})"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// The result of a reload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReloadEnd {
    /// All workers of older generations were told to drain.
    Done,
    /// The generation was adopted, but a newer one before all older workers were told to drain.
    Overtaken,
    /// The reload failed for this reason, and everything is as before.
    Failed(String),
    /// The server is ending, and everything stays as it is.
    TooLate,
}

/// The part of a configuration that the plan uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlanConfig {
    /// The wanted number of workers.
    pub(crate) workers: u16,
    /// The largest number of workers, without those that are being replaced.
    pub(crate) room: usize,
    /// The number of workers that are recycled at a time.
    pub(crate) recycle_concurrency: usize,
    /// The number of workers that are reloaded at a time.
    pub(crate) reload_concurrency: usize,
    pub(crate) graceful_timeout: Duration,
    /// How long to serve on after TERM.
    pub(crate) lameduck: Duration,
    pub(crate) patience: Patience,
    pub(crate) allowance: Allowance,
    /// Failed boots after which a server without any ready worker gives up. 0: after the first that
    /// reports a reason.
    pub(crate) max_boot_failures: u32,
    /// Whether each slot has listeners of its own. A reload does not change it.
    pub(crate) own_listeners: bool,
    /// Whether this arbiter waits for an operator to end it once the new one is ready.
    pub(crate) holds: bool,
}

impl PlanConfig {
    /// Extracts the plan's part of `config`, for a server with `seats` seats.
    pub fn of(config: &ArbiterConfig, seats: usize) -> Self {
        let (workers, replaced) = (config.workers.max(1), usize::from(config.replaced()));
        Self {
            workers,
            room: seats.saturating_sub(replaced),
            recycle_concurrency: config.recycle_concurrency.max(1).into(),
            reload_concurrency: config.reload_concurrency.max(1).into(),
            graceful_timeout: config.worker.graceful_timeout,
            lameduck: config.lameduck,
            holds: config.upgrade_drain == UpgradeDrain::Manual,
            patience: Patience {
                timeout: config.worker.timeout,
                boot_timeout: config.boot_timeout,
                nap: config.worker.beat_interval(),
            },
            allowance: Allowance {
                lifetime: config.max_lifetime,
                lifetime_jitter: config.max_lifetime_jitter,
                rss: config.max_rss,
                rss_jitter: config.max_rss_jitter,
            },
            max_boot_failures: config.max_boot_failures,
            own_listeners: config.reuse_port,
        }
    }
}

/// How long workers may be silent. Zero: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Patience {
    /// The limit while they serve or drain.
    pub(crate) timeout: Duration,
    /// The limit until they are ready.
    pub(crate) boot_timeout: Duration,
    /// The longest sleep of the arbiter while it watches a worker. More than twice that counts as a
    /// freeze.
    pub(crate) nap: Duration,
}

/// How old and how large workers may become.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allowance {
    /// Age since readiness. Zero: no limit.
    pub(crate) lifetime: Duration,
    /// The random addition, a percentage or nanoseconds.
    pub(crate) lifetime_jitter: Jitter,
    /// Bytes of resident memory. 0: no limit.
    pub(crate) rss: u64,
    /// The random addition, a percentage or bytes.
    pub(crate) rss_jitter: Jitter,
}

impl Allowance {
    /// Draws the limits of one worker. Its pid and the time of its birth, which together are
    /// unique, are the seed.
    pub(super) fn drawn(self, pid: Pid, born: Time) -> Bounds {
        let seed = born.as_nanos() ^ (u64::from(pid.as_raw_nonzero().get().unsigned_abs()) << 32);
        let least = Time::ZERO + self.lifetime;
        let lifetime = Duration::from_nanos(self.lifetime_jitter.scattered(least.as_nanos(), seed));
        Bounds {
            lifetime: (!self.lifetime.is_zero()).then_some(lifetime),
            rss: (self.rss > 0).then(|| self.rss_jitter.scattered(self.rss, !seed)),
        }
    }
}

/// Limits of one worker. None: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bounds {
    pub(super) lifetime: Option<Duration>,
    pub(super) rss: Option<u64>,
}

/// A command of an operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Change the number of workers.
    Scale(Scale),
    /// Replace this worker, or all.
    Recycle(Option<Pid>),
    /// Load settings and application anew, as HUP does.
    Reload,
    /// Drain all workers without replacement, as WINCH does.
    Drain,
    /// Start as many workers again as there were before, as HUP does.
    Resume,
    /// Start a new arbiter that takes over, as USR2 does.
    Upgrade,
    /// Stop as TERM does, or as INT if `quick`.
    Stop { quick: bool },
}

/// A new number of workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    By(i16),
    To(u16),
}

/// Identifies a command, for its answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(pub u64);

/// The result of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// The wanted number of workers is this now.
    Scaled { workers: usize },
    /// This number of workers were replaced, or will be.
    Recycled { workers: usize },
    /// This number of workers have drained, or will.
    Drained { workers: usize },
    /// This number of workers serve again, or will.
    Resumed { workers: usize },
    /// A new arbiter serves.
    Upgraded { pid: Pid },
    /// This generation, loaded at the time of the command or later, has taken over.
    Reloaded { generation: u32 },
    /// The command has begun, and its client does not wait.
    Begun,
    /// The server has stopped, and its process ends with this status. `cut`: work was cut off.
    Stopped { status: u8, cut: bool },
}

/// Why a command is refused or failed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refused {
    #[error("the server stops")]
    Stopping,
    #[error("the server is not ready yet")]
    NotReady,
    #[error("an upgrade is under way, or all workers were drained until HUP or resume")]
    Resting,
    #[error("no drained workers: resume starts those again that drain or WINCH has drained")]
    Awake,
    #[error("all workers were drained again")]
    RestingAgain,
    #[error("a reload is under way")]
    Reloading,
    #[error("upgrade refused: {why}")]
    NoUpgrade { why: &'static str },
    #[error("upgrade failed, nothing has changed: {why}")]
    NotUpgraded { why: String },
    #[error("1 worker is the minimum")]
    TooFew,
    #[error("there is room for {}, including those that are leaving", counted(*room, "worker"))]
    TooMany { room: usize },
    #[error("no worker has pid {pid}, or it is leaving already")]
    NoWorker { pid: Pid },
    #[error("not reloaded, the server goes on as before: {why}")]
    NotReloaded { why: String },
}

/// The memory of a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// Resident memory now, in bytes. None for a dead worker.
    pub(crate) now: Option<u64>,
    /// The peak of resident memory, in bytes. None for a living worker.
    pub(crate) peak: Option<u64>,
    /// Whether the kernel killed a process of its control group for lack of memory at its end.
    pub(crate) wanting: bool,
}

/// Formats as `, with 12.5 MiB of memory`. Empty if nothing is known.
impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        if let Some(now) = self.now {
            write!(f, ", with {:.1} MiB of memory", mebibytes(now))?;
        }
        if let Some(peak) = self.peak {
            write!(f, ", with {:.1} MiB of memory at most", mebibytes(peak))?;
        }
        match self.wanting {
            true => f.write_str("; the kernel has killed a process of its control group for lack of memory"),
            false => Ok(()),
        }
    }
}

/// The time that a retired helper has for its connections: longer than it keeps an idle one.
pub(crate) const RETIREMENT: Duration = Duration::from_secs(6);

/// Formats a number with its noun: `1 worker`, `2 workers`. For nouns with a regular plural.
pub(crate) fn counted(n: usize, noun: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{plural}")
}
