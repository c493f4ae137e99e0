//! Events, the input of the plan, and actions, its output.

#![allow(
    missing_docs,
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    reason = "public for the simulation of the conformance suite alone"
)]

use remuda_core::order::{Order, Report};
use remuda_core::time::Time;
use rustix::process::Pid;

use super::notice::Notice;
use super::words::{Command, Death, Done, PlanConfig, Refused, ReloadEnd, Signal, Ticket};
use crate::outcome::Outcome;

/// An event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The arbiter received a signal.
    Signal(Signal),
    /// [`Action::Spawn`] succeeded.
    Spawned { seat: u16, pid: Pid },
    /// [`Action::Spawn`] failed.
    SpawnFailed { seat: u16, error: String },
    /// A worker has sent a report.
    Report { pid: Pid, report: Report },
    /// The last heartbeat of the worker in a seat; [`Time::ZERO`] before the first.
    Beat { seat: u16, at: Time },
    /// The resident memory of a worker, in bytes.
    Weighed { pid: Pid, rss: u64 },
    /// The worker `pid` is about to be reported as reaped, and its keeper lives (D20).
    Kept { pid: Pid, keeper: Pid },
    /// The keeper of the worker that had this seat was reaped.
    KeeperGone { seat: u16 },
    /// A child was reaped. It need not be a worker.
    Exited { pid: Pid, death: Death },
    /// An operator has sent a command. `wait`: the answer is due when it is done.
    Asked { ticket: Ticket, command: Command, wait: bool },
    /// [`Action::SpawnHelper`] succeeded or failed.
    HelperSpawned(Result<Pid, String>),
    /// The listeners have changed, and the helper does not have the new ones.
    Listening,
    /// The backlog is finished; `lost` connections could not be passed on.
    BacklogOver { lost: usize },
    /// A configuration was loaded, and its listeners are bound.
    Loaded { config: PlanConfig },
    /// Loading failed, and nothing has changed.
    NotLoaded { why: String },
    /// [`Action::Launch`] succeeded.
    Launched { pid: Pid },
    /// [`Action::Launch`] failed.
    NotLaunched { error: String },
    /// The new arbiter serves. `receives`: its workers receive handed-off connections (D19).
    NewArbiterReady { receives: bool },
    /// The old arbiter has ended.
    OldArbiterGone,
    /// Time has passed.
    Tick,
}

/// An action. Actions are performed in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Fork a worker of this generation, for this slot and this seat of the scoreboard. Answered by
    /// [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn { slot: u16, seat: u16, generation: u32 },
    /// Fork the helper. Answered by [`Event::HelperSpawned`].
    SpawnHelper,
    /// Retire the helper: it stops accepting, and ends once its connections have been answered.
    Retire { pid: Pid },
    /// Answer a command.
    Answer { ticket: Ticket, answer: Result<Done, Refused> },
    /// Send an order to a worker, without waiting.
    Send { pid: Pid, order: Order },
    /// Read the last heartbeat of the worker in a seat. Answered by [`Event::Beat`].
    Look { seat: u16 },
    /// Read a worker's resident memory. Answered by [`Event::Weighed`] if it can be read.
    Weigh { pid: Pid },
    /// Log the requests that the worker in a seat is, or was, serving.
    Describe { slot: u16, seat: u16 },
    /// The worker in a seat is gone: keep its counts, and free the seat. `clean`: it ended by
    /// itself with nothing left to do.
    FreeSeat { seat: u16, clean: bool },
    /// SIGABRT.
    Abort { pid: Pid },
    /// SIGKILL.
    Kill { pid: Pid },
    /// Refuse new connections (D3) and pass on those in the listeners' queues (D4), without
    /// waiting. Answered by [`Event::BacklogOver`] when done.
    SaveBacklog,
    /// Shorten the wait for open handshakes to what D3 allows.
    HurryBacklog,
    /// From now on accept from the listeners of exactly these slots, which have no accepting
    /// worker, for workers of other slots.
    AcceptFor { slots: Vec<u16> },
    /// End the listeners of a released slot, as a stop does. Answered by [`Event::BacklogOver`] as
    /// well.
    EndSlot { slot: u16 },
    /// Drop the rest of the backlog, including connections passed on and not received. Answered
    /// likewise.
    DropBacklog,
    /// Reopen the logs.
    ReopenLogs,
    /// Load settings and application anew as this generation, and bind new addresses. Answered by
    /// [`Event::Loaded`] or [`Event::NotLoaded`]. The [`Reloaded`](Action::Reloaded) of this
    /// generation answers all commands that have requested a reload until now.
    Load { generation: u32 },
    /// Make the configuration loaded last the current one, and drop the previous one.
    Adopt,
    /// Drop the configuration loaded last, with the listeners bound for it.
    Abandon,
    /// End the listeners that the current generation does not use (D3) and pass on the connections
    /// in their queues (D4), without waiting. Answered by [`Event::BacklogOver`] if there are any.
    EndListeners,
    /// The reload to this generation is over: log it, and notify the service manager and operators.
    Reloaded { generation: u32, end: ReloadEnd },
    /// Start a new arbiter from the executable; it shares the listeners from then on. Answered by
    /// [`Event::Launched`] or [`Event::NotLaunched`].
    Launch,
    /// Send a signal to the new arbiter.
    Signal { pid: Pid, signal: Signal },
    /// This arbiter ends and the new one serves on: make it the one that the service manager and
    /// clients of files find.
    HandOver { pid: Pid },
    /// The other arbiter has ended: shared listeners and files belong to this one alone.
    Reclaim,
    /// Announce that the server is ready, with this number of workers.
    AnnounceReady { workers: usize },
    /// Log a notice.
    Log(Notice),
    /// All workers are gone: end with this outcome.
    Finish(Outcome),
}
