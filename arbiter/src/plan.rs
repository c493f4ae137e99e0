//! The supervisor as a table: events with their times go in, actions come out.
//!
//! The plan makes no system call and reads no clock, so a restart storm or a worker that does not
//! end is a test of microseconds. [`run`](crate::run) performs the actions and feeds their results
//! back as events. The plan keeps these promises:
//!
//! 1. The number of workers never exceeds the wanted number, plus those that leave after a
//!    scale-down, plus one for each worker that may be recycled (D15) or reloaded (D16) at a time:
//!    such a worker and its successor exist together until the worker is gone. A slot never has two
//!    workers that stay.
//! 2. Once a stop has begun no worker is spawned. Every worker is told before the listeners are
//!    ended, and is told the end of the backlog after its last connection was passed on (D4).
//!    `Finish` comes once, when the last worker is gone.
//! 3. A worker is killed at most once, and only [`KILL_MARGIN`] after the deadline that it was
//!    told, or [`ABORT_GRACE`] after it was aborted because it was silent for too long (D1). A
//!    worker that was never ready has nothing to finish: a stop kills it after [`KILL_MARGIN`], and
//!    no work counts as cut.
//! 4. A deadline that workers were told only ever moves closer (D11).
//! 5. A worker that is to be replaced serves on until its successor is ready. A successor that does
//!    not become ready is tried again with back-off, and takes the slot as soon as the slot has no
//!    worker.
//! 6. TTIN and TTOU change the number of workers by one, never to zero and never beyond the room
//!    that the scoreboard has. A worker that is leaving drains as in a stop and is not replaced,
//!    whatever it dies of.
//! 7. A requested reload ends once, with its result. Until a worker of the new generation is ready
//!    everything is as before, and so it is after a reload that was given up.
//! 8. There is at most one other arbiter. A new arbiter that is not ready changes nothing: it is
//!    told to end when this one stops, or when it is late. A stop ends only after it has ended.
//! 9. A seat is taken again only after the keeper of its last worker, if it has one, is gone (D20).
//!    A stop ends after all keepers.
//!
//! ```text
//! Starting ─ all ready ─▶ Serving ───── INT QUIT, or TERM ────▶ Stopping ─ all gone ─▶ Finished
//!     │                      └─ TERM ──▶ Lameduck ── time, TERM ──▲
//!     └───────────── TERM INT QUIT, or failed boots ──────────────┘
//! ```
//!
//! [`worker_entry`] is one worker, [`lifecycle`] its events, [`expiry`] its limits of age and
//! memory, [`replace`] scaling and replacement, [`unattended`] listeners without a worker,
//! [`reload`] the change of configurations, [`stop`] the end, [`upgrade`] another arbiter,
//! [`command`] commands of operators, [`helper`] the process of the admin listener, [`keeper`] what
//! is left of workers that are gone.

use std::time::Duration;

use remuda_core::order::Order;
use remuda_core::shutdown::{Drain, Reason};
use remuda_core::time::Time;
use rustix::process::Pid;

use self::command::Waiting;
pub use self::event::{Action, Event};
use self::helper::{Helper, Retired};
use self::keeper::Keeper;
use self::notice::Notice;
use self::reload::Reload;
use self::stop::{Backlog, Stop};
use self::upgrade::Other;
use self::words::{PlanConfig, Refused, Signal};
use self::worker_entry::{Role, State, WorkerEntry};
use crate::outcome::Outcome;

mod command;
mod event;
mod expiry;
mod helper;
mod keeper;
mod lifecycle;
pub(crate) mod notice;
mod reload;
mod replace;
mod stop;
mod unattended;
mod upgrade;
pub(crate) mod words;
mod worker_entry;

/// The state of the server, from the first fork to the last exit.
#[derive(Debug)]
pub struct Plan {
    entries: Vec<WorkerEntry>,
    /// The current configuration.
    config: PlanConfig,
    /// The generation with which workers are spawned: the newest with a worker that was ready.
    generation: u32,
    reload: Reload,
    /// The other arbiter of an upgrade.
    other: Other,
    /// How many workers start again after WINCH or `drain`, once HUP or `resume` asks for them.
    /// None if workers were not drained so.
    resting: Option<usize>,
    /// How many of them were asked for and are not spawned yet.
    returning: usize,
    /// When the arbiter last ran.
    awake: Time,
    /// When the arbiter woke up too late, and by how much, as far back as the silence of a worker
    /// is counted.
    overslept: Vec<(Time, Duration)>,
    phase: Phase,
    helper: Option<Helper>,
    retired: Vec<Retired>,
    /// Keepers that go on with the connections of workers that are gone.
    keepers: Vec<Keeper>,
    /// Commands that are answered later.
    waiting: Vec<Waiting>,
    /// Slots whose own listeners (`--reuse-port`) have no accepting worker at the moment; the
    /// arbiter accepts for them. None if all slots share one set of listeners.
    unattended: Option<Vec<u16>>,
    /// Whether any worker was ever ready.
    was_ready: bool,
    /// The number of failed boots before the server was ready.
    failed_boots: u32,
}

/// A living worker, for other modules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Alive {
    pub(crate) slot: u16,
    pub(crate) seat: u16,
    pub(crate) pid: Pid,
    pub(crate) born: Time,
    pub(crate) ready: Option<Time>,
    pub(crate) is_leaving: bool,
}

/// The time that a stop has after INT, or after a second signal (D11), unless `graceful_timeout` is
/// shorter.
pub(crate) const HURRY: Duration = Duration::from_secs(2);

/// The time between a worker's deadline and its kill (D10).
pub(crate) const KILL_MARGIN: Duration = Duration::from_millis(1500);

/// The time between SIGABRT to a silent worker and its kill.
pub(crate) const ABORT_GRACE: Duration = Duration::from_secs(1);

/// Delays of the arbiter below this are ignored: a timer, or a turn on a busy machine, takes that
/// long.
const DROWSY: Duration = Duration::from_millis(10);

#[derive(Debug)]
enum Phase {
    /// Not all workers have been ready yet. A failed boot may end the server.
    Starting,
    /// All workers have been ready. A worker that dies is replaced, whatever it died of.
    Serving,
    /// The lame duck phase: the server serves until `until`. Every worker that stays was told
    /// `drain`.
    Lameduck {
        until: Time,
        drain: Drain,
    },
    Stopping(Stop),
    /// The server has ended.
    Finished(Outcome),
}

impl Plan {
    /// Creates a plan with all workers due, as generation 1.
    pub(crate) fn new(config: PlanConfig) -> Self {
        Self {
            entries: (0..config.workers).map(|n| WorkerEntry::due(n, n, Role::Holder, Time::ZERO)).collect(),
            config,
            generation: 1,
            reload: Reload::new(1),
            other: Other::None,
            resting: None,
            returning: 0,
            awake: Time::MAX,
            overslept: Vec::new(),
            phase: Phase::Starting,
            helper: None,
            retired: Vec::new(),
            keepers: Vec::new(),
            waiting: Vec::new(),
            unattended: config.own_listeners.then(Vec::new),
            was_ready: false,
            failed_boots: 0,
        }
    }

    /// Marks the plan as that of a new arbiter, whose old arbiter lives.
    pub(crate) fn with_old_arbiter(self) -> Self {
        Self { other: Other::Old, ..self }
    }

    /// Returns the actions for `event`, which happened at `now`.
    pub(crate) fn handle(&mut self, event: Event, now: Time) -> Vec<Action> {
        let mut todo = Vec::new();
        self.forgive_a_freeze(now);
        match event {
            Event::Signal(signal) => self.signalled(signal, now, &mut todo),
            Event::Spawned { seat, pid } => self.spawned(seat, pid, now, &mut todo),
            Event::SpawnFailed { seat, error } => self.spawn_failed(seat, error, now, &mut todo),
            Event::Report { pid, report } => self.reported(pid, report, now, &mut todo),
            Event::Beat { seat, at } => self.beat(seat, at, now, &mut todo),
            Event::Weighed { pid, rss } => self.weighed(pid, rss, now, &mut todo),
            Event::Kept { pid, keeper } => self.kept(pid, keeper),
            Event::KeeperGone { seat } => self.keeper_gone(seat, &mut todo),
            Event::Exited { pid, death } => self.exited(pid, death, now, &mut todo),
            Event::Asked { ticket, command, wait } => self.asked(ticket, command, wait, now, &mut todo),
            Event::HelperSpawned(result) => self.helper_spawned(result, now, &mut todo),
            Event::Listening => self.retire_helper(now, &mut todo),
            Event::BacklogOver { lost } => self.backlog_over(lost, &mut todo),
            Event::Loaded { config } => self.loaded(config, &mut todo),
            Event::NotLoaded { why } => self.not_loaded(why, &mut todo),
            Event::Launched { pid } => self.launched(pid, now, &mut todo),
            Event::NotLaunched { error } => self.not_launched(error, &mut todo),
            Event::NewArbiterReady { receives } => self.new_arbiter_ready(receives, now, &mut todo),
            Event::OldArbiterGone => self.old_arbiter_gone(&mut todo),
            Event::Tick => {}
        }
        self.do_what_is_due(now, &mut todo);
        self.look_for_unattended_listeners(&mut todo);
        self.look_for_receivers(now, &mut todo);
        self.answer_waiting(&mut todo);
        todo
    }

    /// When to send [`Event::Tick`], if nothing else happens before. None: not needed.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let due = self.entries.iter().filter_map(WorkerEntry::due_at).min();
        let phase = match &self.phase {
            Phase::Starting | Phase::Serving => due,
            Phase::Lameduck { until, .. } => Some(due.map_or(*until, |due| due.min(*until))),
            Phase::Stopping(stop) => (stop.backlog == Backlog::Passing).then_some(stop.drain.deadline),
            Phase::Finished(_) => None,
        };
        let kill = self.entries.iter().filter_map(|entry| entry.kill_at(self.under_way())).min();
        let silence = self.entries.iter().filter_map(WorkerEntry::silent_at).min();
        // Only an arbiter that wakes up often can tell a frozen server from silent workers.
        let nap = silence.map(|_| self.awake + self.nap());
        let (helper, expiry) = (self.helper_due_at(), self.expiry());
        let keepers = self.keepers_killed_at();
        let others = self.new_arbiter_due();
        [phase, kill, silence, nap, helper, expiry, others, keepers].into_iter().flatten().min()
    }

    /// Excludes the arbiter's own delay from the silence of workers: an arbiter that slept longer
    /// than planned was stopped or not scheduled, and perhaps so were its workers. After a much
    /// longer delay the silence of all workers counts from now on (D1).
    fn forgive_a_freeze(&mut self, now: Time) {
        let asked = self.deadline().map(|due| due.max(self.awake));
        let overslept = asked.map_or(Duration::ZERO, |asked| now.since(asked));
        let is_freeze = now.since(self.awake) > 2 * self.nap();
        self.awake = now;
        for process in self.entries.iter_mut().filter_map(WorkerEntry::process_mut) {
            process.well = if is_freeze { now } else { process.well + overslept };
        }
        if overslept >= DROWSY {
            self.overslept.push((now, overslept));
        }
        let oldest = self.entries.iter().filter_map(WorkerEntry::counts_from).min();
        self.overslept.retain(|(woke, _)| oldest.is_some_and(|oldest| *woke > oldest));
    }

    /// The time from which the silence of a worker counts whose last heartbeat was at `at`.
    fn credited(&self, at: Time) -> Time {
        let later = self.overslept.iter().filter(|(woke, _)| *woke > at);
        later.fold(at, |at, (woke, overslept)| (at + *overslept).min(*woke))
    }

    /// The shortest watch interval of all workers.
    fn nap(&self) -> Duration {
        let watched = self.entries.iter().filter(|entry| entry.silent_at().is_some());
        let naps = watched.filter_map(WorkerEntry::patience).map(|patience| patience.nap);
        naps.min().unwrap_or(self.config.patience.nap)
    }

    fn signalled(&mut self, signal: Signal, now: Time, todo: &mut Vec<Action>) {
        let hurry = self.config.graceful_timeout.min(HURRY);
        // A new arbiter that is not ready ends with this one.
        if matches!(signal, Signal::Term | Signal::Int | Signal::Quit) {
            self.end_new_arbiter(signal, now, todo);
        }
        match signal {
            Signal::Term if self.is_stopping() => self.stop(Reason::Stop, now, now + hurry, todo),
            Signal::Term if matches!(self.phase, Phase::Serving) && !self.config.lameduck.is_zero() => {
                self.become_lame(now, todo);
            }
            Signal::Term => self.stop(Reason::Stop, now, now + self.config.graceful_timeout, todo),
            Signal::Int => self.stop(Reason::QuickStop, now, now + hurry, todo),
            Signal::Quit => self.quit(now, todo),
            Signal::Ttin | Signal::Ttou if self.is_ending() => {
                todo.push(Action::Log(Notice::TooLate { signal }));
            }
            Signal::Ttin | Signal::Ttou if self.is_resting() => {
                todo.push(Action::Log(Notice::Ignored { signal }));
            }
            Signal::Ttin | Signal::Ttou => {
                let workers = self.workers();
                let wanted = if signal == Signal::Ttin { workers + 1 } else { workers.saturating_sub(1) };
                match self.scale_to(wanted, now, todo) {
                    Err(Refused::TooMany { room }) => todo.push(Action::Log(Notice::TooMany { room })),
                    Err(_) => todo.push(Action::Log(Notice::TooFew)),
                    Ok(()) => {}
                }
            }
            // Drained workers have to come back before HUP can mean a reload again.
            Signal::Hup if self.is_resting() && matches!(self.phase, Phase::Serving) => self.come_back(todo),
            Signal::Hup if self.new_arbiter().is_some() => todo.push(Action::Log(Notice::Ignored { signal })),
            Signal::Hup => self.ask_for_reload(todo),
            Signal::Usr1 => self.reopen_logs(now, todo),
            Signal::Usr2 => {
                if let Err(why) = self.upgrade(todo) {
                    todo.push(Action::Log(Notice::UpgradeRefused { why }));
                }
            }
            Signal::Winch => {
                if self.rest(now, todo).is_err() {
                    todo.push(Action::Log(Notice::Ignored { signal }));
                }
            }
        }
    }

    /// Reopens the logs in the arbiter first, so that processes forked from now on have the new
    /// files. The helper takes no orders and is replaced.
    fn reopen_logs(&mut self, now: Time, todo: &mut Vec<Action>) {
        todo.push(Action::ReopenLogs);
        self.retire_helper(now, todo);
        let pids = self.entries.iter().filter_map(WorkerEntry::pid);
        todo.extend(pids.map(|pid| Action::Send { pid, order: Order::ReopenLogs }));
    }

    /// Checks whether all wanted workers are ready for the first time. That may also come true
    /// because a worker that is not ready leaves.
    fn become_ready(&mut self, todo: &mut Vec<Action>) {
        let all_are = self.entries.iter().filter(|entry| entry.is_holder()).all(WorkerEntry::is_ready);
        if all_are && matches!(self.phase, Phase::Starting) {
            self.phase = Phase::Serving;
            todo.push(Action::AnnounceReady { workers: self.workers() });
        }
    }

    /// Performs what is due by time: workers to check, to kill, to recycle, to spawn, and the end
    /// of a stop.
    fn do_what_is_due(&mut self, now: Time, todo: &mut Vec<Action>) {
        self.help(now, todo);
        self.watch(now, todo);
        self.watch_new_arbiter(now, todo);
        self.watch_keepers(now, todo);
        if let Phase::Lameduck { until, .. } = self.phase
            && now >= until
        {
            self.stop(Reason::Stop, now, now + self.config.graceful_timeout, todo);
        }
        self.expire(now, todo);
        if matches!(self.phase, Phase::Serving) {
            self.let_come_back(now);
            self.begin_reload(todo);
            self.renew(now, todo);
            self.recycle(now, todo);
        }
        if self.is_stopping() {
            self.finish_when_all_are_gone(now, todo);
        } else {
            for index in 0..self.entries.len() {
                if self.entries[index].due_at().is_some_and(|at| at <= now) {
                    let (generation, PlanConfig { patience, allowance, .. }) = self.made_of(index);
                    let entry = &mut self.entries[index];
                    entry.state = State::Spawning { generation, patience, allowance };
                    todo.push(Action::Spawn { slot: entry.slot, seat: entry.seat, generation });
                }
            }
        }
    }

    /// The index of the worker with this pid.
    fn find(&self, pid: Pid) -> Option<usize> {
        self.entries.iter().position(|entry| entry.pid() == Some(pid))
    }

    /// The living workers.
    pub(crate) fn lives(&self) -> impl Iterator<Item = Alive> {
        self.entries.iter().filter_map(|entry| {
            let (slot, seat, is_leaving) = (entry.slot, entry.seat, entry.leaves_by().is_some());
            let process = entry.process()?;
            Some(Alive { slot, seat, pid: process.pid, born: process.born, ready: process.ready, is_leaving })
        })
    }

    /// The wanted number of workers.
    pub(crate) fn workers(&self) -> usize {
        self.entries.iter().filter(|entry| entry.is_holder()).count()
    }

    /// The stop under way.
    fn under_way(&self) -> Option<&Stop> {
        match &self.phase {
            Phase::Stopping(stop) => Some(stop),
            _ => None,
        }
    }

    fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping(_) | Phase::Finished(_))
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_stopping() || matches!(self.phase, Phase::Lameduck { .. })
    }
}

#[cfg(test)]
mod tests;
