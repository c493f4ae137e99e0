//! Log notices of the arbiter, as data: tests compare them, hooks and the service manager read
//! them.

#![allow(
    missing_docs,
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    reason = "public for the simulation of the conformance suite alone"
)]

use std::time::Duration;

use remuda_core::app::Busy;
use remuda_core::shutdown::Reason;
use remuda_core::time::Time;
use remuda_core::worker::Loss;
use rustix::process::Pid;

use super::words::{Death, Memory, ReloadEnd, Signal};

/// A notice for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A worker was forked.
    Started { slot: u16, pid: Pid },
    /// A worker could not be forked. `again_in`: it is tried again after that time; none: it is not
    /// needed any more.
    NotStarted { slot: u16, error: String, again_in: Option<Duration> },
    /// A worker is ready.
    Ready { slot: u16, pid: Pid, took: Duration },
    /// A worker could not start and reported why.
    BootFailed { slot: u16, pid: Pid, message: String },
    /// The server gives up: no worker was ever ready.
    GivingUp { boots: u32 },
    /// A worker has ended. `again_in`: it is replaced after that time; none: it is not needed any
    /// more.
    Died { slot: u16, pid: Pid, death: Death, lived: Duration, again_in: Option<Duration> },
    /// The helper of the admin listener could not be forked.
    HelperNotStarted { error: String, again_in: Duration },
    /// The helper has ended, and is replaced.
    HelperDied { pid: Pid, death: Death, again_in: Duration },
    /// A child that is not a worker has ended.
    UnknownChild { pid: Pid, death: Death },
    /// A worker requests its replacement.
    Spent { slot: u16, pid: Pid, reason: Reason },
    /// A worker has reached its age limit.
    Old { slot: u16, pid: Pid, age: Duration, limit: Duration },
    /// A worker has reached its memory limit.
    Large { slot: u16, pid: Pid, rss: u64, limit: u64 },
    /// A worker was above its memory limit as soon as it was ready.
    BornLarge { slot: u16, pid: Pid, rss: u64, limit: u64 },
    /// A successor of a worker is spawned, which takes over once it is ready.
    Recycling { slot: u16, reason: Reason },
    /// A configuration was loaded, and its first workers are spawned.
    Reloading { generation: u32 },
    /// A reload was requested, and cannot begin yet.
    ReloadWaits,
    /// A reload is over.
    Reloaded { generation: u32, end: ReloadEnd },
    /// The lame duck phase has begun.
    Lameduck { left: Duration },
    /// The server stops.
    Stopping { reason: Reason, left: Duration },
    /// The deadline of the stop moved closer.
    Hurried { left: Duration },
    /// Connections not accepted at the stop were lost.
    BacklogLost { lost: usize },
    /// The loop of a worker, or all its threads, were silent for longer than `timeout`.
    Silent { slot: u16, pid: Pid, silent: Duration },
    /// A worker was not ready within `boot_timeout`.
    BootTimedOut { slot: u16, pid: Pid, took: Duration },
    /// The requests that a worker is serving, or was at its end. `more` exchanges are not shown.
    Serving { slot: u16, pid: Pid, busy: Vec<Busy>, more: u64, at: Time, memory: Memory },
    /// A worker is killed after its deadline.
    Killing { pid: Pid },
    /// The wanted number of workers has changed.
    Scaled { workers: usize },
    /// TTOU cannot remove the last worker.
    TooFew,
    /// TTIN cannot add a worker beyond the room.
    TooMany { room: usize },
    /// A signal came too late: the server is stopping.
    TooLate { signal: Signal },
    /// An upgrade is refused.
    UpgradeRefused { why: &'static str },
    /// The new arbiter was started.
    Upgrading { pid: Pid },
    /// The new arbiter serves. This one ends, or, if `held`, serves on until an operator ends it.
    NewArbiterReady { pid: Pid, took: Duration, held: bool },
    /// The new arbiter was not ready within `boot_timeout`.
    NewArbiterLate { pid: Pid, took: Duration },
    /// The new arbiter could not be started, or ended before it was ready.
    UpgradeFailed { why: String },
    /// The new arbiter has ended, and this one serves again alone.
    NewArbiterGone { pid: Pid, death: Death },
    /// The old arbiter has ended.
    OldArbiterGone,
    /// All workers drain; HUP or `resume` starts them again.
    Resting,
    /// A signal has no meaning in this state.
    Ignored { signal: Signal },
}

impl Notice {
    /// The kind of loss, for a worker that is replaced unexpectedly.
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
