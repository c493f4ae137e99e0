//! What the arbiter tells people about its workers, as data until it is logged.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal as Number;
use remuda_core::app::Busy;
use remuda_core::shutdown::Reason;
use remuda_core::time::Time;
use remuda_core::worker::Loss;
use rustix::process::Pid;
use tracing::{debug, error, info, warn};

use crate::obituary::Memory;
use crate::plan::{Death, ReloadEnd, Signal};

/// Something worth a line in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    /// A worker was forked.
    Started { slot: u16, pid: Pid },
    /// A worker could not be forked; none: it is not needed any more and nothing is tried again.
    NotStarted { slot: u16, error: String, again_in: Option<Duration> },
    /// A worker is ready.
    Ready { slot: u16, pid: Pid, took: Duration },
    /// A worker could not start and said why.
    BootFailed { slot: u16, pid: Pid, message: String },
    /// No worker was ever ready, and is not waited for any more.
    GivingUp { boots: u32 },
    /// A worker is gone. With `again_in` it is replaced after that time, without it is not needed any more.
    Died { slot: u16, pid: Pid, death: Death, lived: Duration, again_in: Option<Duration> },
    /// The helper that serves the admin listener could not be forked.
    HelperNotStarted { error: String, again_in: Duration },
    /// It is gone, and comes again.
    HelperDied { pid: Pid, death: Death, again_in: Duration },
    /// A child that is no worker has ended.
    Stranger { pid: Pid, death: Death },
    /// A worker should be replaced.
    Spent { slot: u16, pid: Pid, reason: Reason },
    /// A worker has lived for as long as it may.
    Old { slot: u16, pid: Pid, age: Duration, limit: Duration },
    /// A worker has grown larger than it may be.
    Large { slot: u16, pid: Pid, rss: u64, limit: u64 },
    /// A worker was larger as soon as it was ready.
    BornLarge { slot: u16, pid: Pid, rss: u64, limit: u64 },
    /// A worker gets a successor, which takes over once it is ready.
    Recycling { slot: u16, reason: Reason },
    /// A configuration was loaded, and has to prove itself.
    Reloading { generation: u32 },
    /// A reload was asked for, and cannot begin yet.
    ReloadWaits,
    /// A reload is over.
    Reloaded { generation: u32, end: ReloadEnd },
    /// The server is to stop, and serves on until then.
    Lameduck { left: Duration },
    /// The server stops.
    Stopping { reason: Reason, left: Duration },
    /// The stop under way was hurried.
    Hurried { left: Duration },
    /// Connections that had not been accepted when the server stopped were not served.
    BacklogLost { lost: usize },
    /// The loop of a worker, or all of its threads, were silent for longer than `timeout`.
    Silent { slot: u16, pid: Pid, silent: Duration },
    /// A worker was not ready within `boot_timeout`.
    BootTimedOut { slot: u16, pid: Pid, took: Duration },
    /// What a worker is serving, or was when it ended.
    Serving { slot: u16, pid: Pid, busy: Vec<Busy>, at: Time, memory: Memory },
    /// A worker has outlived its deadline.
    Killing { pid: Pid },
    /// So many workers are asked for from now on.
    Scaled { workers: usize },
    /// The last worker stays.
    TooFew,
    /// There is no room for one more worker.
    TooMany { room: usize },
    /// A server that stops is neither to grow nor to shrink.
    TooLate { signal: Signal },
    /// A new arbiter is not started.
    UpgradeRefused { why: &'static str },
    /// It was started.
    Upgrading { pid: Pid },
    /// It serves; this one ends, or is held until people end it.
    HeirReady { pid: Pid, took: Duration, held: bool },
    /// It is not ready within `boot_timeout`.
    HeirLate { pid: Pid, took: Duration },
    /// It could not be started, or has ended before it was ready.
    UpgradeFailed { why: String },
    /// It has ended while this one was still there.
    HeirGone { pid: Pid, death: Death },
    /// The arbiter that has started this one has ended.
    ElderGone,
    /// All workers drain, and come back when they are called.
    Resting,
    /// A signal that means nothing now.
    Ignored { signal: Signal },
}

impl Notice {
    /// Writes it to the log, at the level it deserves.
    pub(crate) fn log(&self) {
        match self {
            Self::Started { slot, pid } => debug!(slot, %pid, "worker started"),
            Self::NotStarted { slot, error, again_in: Some(delay) } => {
                error!(slot, error, "worker not started, next try in {delay:?}");
            }
            Self::NotStarted { slot, error, again_in: None } => warn!(slot, error, "worker not started"),
            Self::Ready { slot, pid, took } => debug!(slot, %pid, ?took, "worker ready"),
            Self::BootFailed { slot, pid, message } => {
                error!(slot, %pid, "worker could not start: {message}");
            }
            Self::GivingUp { boots } => {
                error!(boots, "no worker was ever ready, and max-boot-failures is {boots}: giving up");
            }
            Self::Died { slot, pid, death, lived, again_in: Some(Duration::ZERO) } => {
                warn!(slot, %pid, ?lived, "worker ended with {death}, replaced at once");
            }
            Self::Died { slot, pid, death, lived, again_in: Some(delay) } => {
                error!(slot, %pid, ?lived, "worker ended with {death}, replaced in {delay:?}");
            }
            Self::Died { slot, pid, death: death @ Death::Status(0), lived, again_in: None } => {
                debug!(slot, %pid, ?lived, "worker ended with {death}");
            }
            Self::Died { slot, pid, death, lived, again_in: None } => {
                warn!(slot, %pid, ?lived, "worker ended with {death}");
            }
            Self::HelperNotStarted { error, again_in } => {
                error!(error, "admin helper not started, next try in {again_in:?}");
            }
            Self::HelperDied { pid, death, again_in } => {
                warn!(%pid, "admin helper ended with {death}, replaced in {again_in:?}");
            }
            Self::Stranger { pid, death } => debug!(%pid, "reaped a child that is no worker: {death}"),
            Self::Spent { slot, pid, reason } => debug!(slot, %pid, %reason, "worker asks to be replaced"),
            Self::Old { slot, pid, age, limit } => {
                info!(slot, %pid, "worker is {age:.1?} old, its limit is {limit:.1?}: it is to be replaced");
            }
            Self::Large { slot, pid, rss, limit } => {
                info!(slot, %pid, rss, "worker has {rss} bytes resident, its limit is {limit}: it is to be replaced");
            }
            Self::BornLarge { slot, pid, rss, limit } => {
                warn!(
                    slot, %pid, rss,
                    "worker has {rss} bytes resident as soon as it is ready, its limit is {limit}: it is not replaced for \
                     that, because the next one would be as large; raise max-rss"
                );
            }
            Self::Recycling { slot, reason } => info!(slot, %reason, "worker is replaced"),
            Self::Reloading { generation } => {
                info!(generation, "reloading: settings and application are loaded")
            }
            Self::ReloadWaits => info!("reload waits for what is under way"),
            Self::Reloaded { generation, end: ReloadEnd::Done } => {
                info!(generation, "reloaded: all older workers were told to drain");
            }
            Self::Reloaded { generation, end: ReloadEnd::Overtaken } => {
                info!(generation, "reload goes on with a newer configuration");
            }
            Self::Reloaded { generation, end: ReloadEnd::TooLate } => {
                warn!(generation, "not reloaded: the server stops");
            }
            Self::Reloaded { generation, end: ReloadEnd::Failed(why) } => {
                error!(generation, "not reloaded, the server goes on as before: {why}");
            }
            Self::Lameduck { left } => info!("to stop in {left:?}, serving until then"),
            Self::Stopping { reason, left: Duration::ZERO } => info!(%reason, "stopping at once"),
            Self::Stopping { reason, left } => info!(%reason, "stopping, at most {left:?}"),
            Self::Hurried { left } => info!("stopping faster, at most {left:?}"),
            Self::BacklogLost { lost } => {
                warn!(backlog_lost = lost, "{lost} connections of the backlog are lost");
            }
            Self::Silent { slot, pid, silent } => {
                error!(slot, %pid, "worker hangs: it was silent for {silent:.1?}, aborting it");
            }
            Self::BootTimedOut { slot, pid, took } => {
                error!(slot, %pid, "worker was not ready after {took:.1?}, aborting it");
            }
            Self::Serving { slot, pid, busy, at, memory: memory @ Memory { now, peak, wanting } } => {
                let requests: Vec<_> = busy.iter().map(|busy| serving(busy, *at)).collect();
                let requests = if busy.is_empty() { "nothing".to_owned() } else { requests.join(", ") };
                macro_rules! log {
                    ($level:ident) => {
                        $level!(
                            slot,
                            %pid,
                            memory = now,
                            memory_peak = peak,
                            oom_kill = wanting.then_some(true),
                            "worker was serving {requests}{memory}"
                        )
                    };
                }
                if busy.is_empty() { log!(warn) } else { log!(error) }
            }
            Self::Killing { pid } => warn!(%pid, "worker is still there, killing it"),
            Self::Scaled { workers: 1 } => info!(workers = 1, "now 1 worker"),
            Self::Scaled { workers } => info!(workers, "now {workers} workers"),
            Self::TooFew => warn!("signal TTOU is ignored: there is 1 worker, and at least 1 stays"),
            Self::TooMany { room } => {
                warn!(room, "signal TTIN is ignored: there are {room} workers, and no room for more");
            }
            Self::TooLate { signal } => warn!("signal {signal} is ignored: the server stops"),
            Self::UpgradeRefused { why } => warn!("no upgrade is begun: {why}"),
            Self::Upgrading { pid } => info!(%pid, "upgrade: a new arbiter was started, pid {pid}"),
            Self::HeirReady { pid, took, held: false } => {
                info!(%pid, ?took, "upgrade: the new arbiter {pid} is ready and takes over");
            }
            Self::HeirReady { pid, took, held: true } => {
                info!(%pid, ?took, "upgrade: the new arbiter {pid} is ready, this one serves on until it is told to end");
            }
            Self::HeirLate { pid, took } => {
                error!(%pid, "upgrade: the new arbiter {pid} was not ready after {took:.1?}, ending it");
            }
            Self::UpgradeFailed { why } => error!("the upgrade has failed, nothing has changed: {why}"),
            Self::HeirGone { pid, death } => warn!(%pid, "upgrade: the new arbiter {pid} ended with {death}"),
            Self::ElderGone => info!("upgrade: the old arbiter is gone, this one is alone"),
            Self::Resting => info!("all workers drain, and nobody serves until HUP calls them back"),
            Self::Ignored { signal } => {
                warn!("signal {signal} is ignored: an upgrade or a reload is under way, or workers rest");
            }
        }
    }
}

impl Notice {
    /// What it says of a worker that is to be replaced without having been meant to be.
    pub(crate) fn loss(&self) -> Option<Loss> {
        match self {
            Self::Silent { .. } => Some(Loss::Hung),
            Self::BootTimedOut { .. } => Some(Loss::Late),
            Self::Died { again_in: Some(_), .. } => Some(Loss::Died),
            Self::NotStarted { again_in: Some(_), .. } => Some(Loss::NotStarted),
            _ => None,
        }
    }
}

/// As in `GET /report for 31.2s on its loop`.
fn serving(busy: &Busy, at: Time) -> String {
    let request = busy.request.as_deref().unwrap_or("a request");
    let place = if busy.on_loop { "its loop" } else { "a thread" };
    format!("{request} for {:.1?} on {place}", at - busy.since)
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
