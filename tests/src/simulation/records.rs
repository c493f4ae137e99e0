//! The history of arbiters and workers, as far as rules need it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use remuda_arbiter::Outcome;
use remuda_arbiter::simulated::Supervisor;
use remuda_core::time::Time;
use remuda_core::worker::sys::EXIT_MARGIN;

use super::monitor::{Monitor, START};
use super::process::Process;
use super::script::{Script, Setup};
use super::system::SLACK;
use super::world::{Event, Input};

/// The history of all processes.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) next_pid: i32,
    pub(super) timeout: Duration,
    pub(super) boot_timeout: Duration,
    pub(super) graceful: Duration,
    pub(super) beat_interval: Duration,
    /// The largest number of additional workers because of recycling (D15).
    pub(super) recycling: usize,
    pub(super) lameduck: Duration,
    /// Slot and seat of every worker, living or dead.
    pub(super) places: BTreeMap<i32, (u16, u16)>,
    /// The generation of every worker, living or dead.
    pub(super) generations: BTreeMap<i32, u32>,
    pub(super) thawed: Time,
    /// The end of the last freeze that was long enough to be seen.
    pub(super) forgiven: Time,
    pub(super) bad_boots: Vec<Option<u8>>,
    pub(super) no_forks_until: Time,
    pub(super) aborted: BTreeMap<i32, Time>,
    pub(super) killed: BTreeSet<i32>,
    /// For each dead worker: since when it served, and whether it was leaving.
    pub(super) lives: BTreeMap<i32, (Option<Time>, bool)>,
    /// Timers that were set, to set none twice.
    set: BTreeSet<(i32, u32, Time)>,
    /// Helpers that have ended.
    pub(super) helpers: BTreeSet<i32>,
    /// From then on every arbiter is stopped.
    pub(super) ending: Option<Time>,
    pub(super) count: Count,
}

/// Counts of what a schedule has exercised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Count {
    pub(super) reloads: u64,
    pub(super) upgrades: u64,
    pub(super) recycles: u64,
    pub(super) handoffs: u64,
    pub(super) unattended: u64,
    pub(super) rescued: u64,
    pub(super) actions: [u64; super::system::ACTIONS.len()],
}

/// One arbiter: its state in the model, and what the rules expect of it.
pub(super) struct Arbiter {
    pub(super) pid: i32,
    /// None before it has started, during an event, and after its end.
    pub(super) supervisor: Option<Supervisor<()>>,
    pub(super) is_alive: bool,
    pub(super) has_started: bool,
    pub(super) inputs: VecDeque<Input>,
    /// The arbiter that has started this one, until its end is noticed.
    pub(super) old_arbiter: Option<usize>,
    /// The arbiter that this one has started, until its end is noticed.
    pub(super) new_arbiter: Option<usize>,
    /// Set once the new arbiter has reported that it serves: whether its workers receive
    /// connections.
    pub(super) new_is_ready: Option<bool>,
    /// Whether it has ever had a new arbiter.
    pub(super) had_new: bool,
    /// Sockets that the other arbiter holds as well.
    pub(super) shared: BTreeSet<usize>,
    /// The hand-off queue that its workers use.
    pub(super) inbox: usize,

    // Generations.
    pub(super) setups: BTreeMap<u32, Setup>,
    /// The adopted generation.
    pub(super) generation: u32,
    /// The loaded generation that has to prove itself.
    pub(super) candidate: Option<u32>,
    /// Generations with a worker that was ready.
    pub(super) proven: BTreeSet<u32>,
    /// Loads that have not ended.
    pub(super) open: BTreeSet<u32>,
    pub(super) has_loaded: bool,

    // Listeners and backlog.
    pub(super) slots: BTreeSet<u16>,
    pub(super) accepted_for: Vec<u16>,
    pub(super) has_new_listeners: bool,
    /// Connections of the backlog that are being passed to workers.
    pub(super) passing: VecDeque<u32>,
    pub(super) is_passing: bool,
    /// New connects stay unanswered until then.
    pub(super) gate: Time,
    pub(super) is_saved: bool,

    // Operators.
    pub(super) tickets: BTreeSet<u64>,
    pub(super) last_ticket: u64,
    pub(super) helper: Option<i32>,
    /// Helpers that were retired and live.
    pub(super) retired: BTreeSet<i32>,
    pub(super) logs: u32,
    /// Workers that were reaped, with seats that were not cleared yet.
    pub(super) unfreed: BTreeMap<u16, i32>,
    /// Seats with workers that were described.
    pub(super) described: BTreeSet<u16>,
    /// The number of requests to reopen the logs.
    pub(super) reopens: u32,
    /// A reload was requested, and begins as soon as no other is under way.
    pub(super) reload_requested: bool,
    /// An upgrade was requested.
    pub(super) upgrade_requested: bool,
    /// A hurried stop opens the gate by then.
    pub(super) hurried: Option<Time>,
    /// The new arbiter was sent a signal to end.
    pub(super) new_is_signalled: bool,
    /// Ended processes that the arbiter has not reaped.
    pub(super) unreaped: BTreeSet<i32>,
    /// The deadline of the last order to stop.
    pub(super) ordered_deadline: Option<Time>,
    /// Keepers that live, each with its seat.
    pub(super) keepers: BTreeMap<i32, u16>,
    /// The new arbiter was announced to programs as the server.
    pub(super) has_handed_over: bool,

    // Expectations.
    pub(super) target: usize,
    /// Numbers of workers that were requested.
    pub(super) requested: BTreeSet<usize>,
    /// All workers have been ready.
    pub(super) serving: bool,
    /// The end of the lame duck phase.
    pub(super) lame: Option<Time>,
    /// The slot of the worker whose readiness is being reported.
    pub(super) succeeded: Option<u16>,
    /// When the last worker has ended, or the arbiter has started.
    pub(super) emptied: Time,
    pub(super) stopping: bool,
    pub(super) quit: bool,
    /// When it was killed or failed, if it did not end by itself.
    pub(super) orphaned: Option<Time>,
    pub(super) outcome: Option<Outcome>,
    /// When a failed worker is tried again.
    pub(super) tries_at: Time,
    /// When the last generation was adopted.
    pub(super) changed: Time,
    /// For each slot and seat: the number of short lives in a row, and when the last one was
    /// reaped.
    pub(super) short: BTreeMap<(u16, u16), (u32, Time)>,
    pub(super) stop_deadline: Option<Time>,
}

impl Records {
    pub(super) fn new(script: &Script, beat_interval: Duration) -> Self {
        Self {
            next_pid: 100,
            timeout: script.timeout,
            boot_timeout: script.boot_timeout,
            graceful: script.graceful,
            beat_interval,
            recycling: script.recycle_concurrency.into(),
            lameduck: script.lameduck,
            places: BTreeMap::new(),
            generations: BTreeMap::new(),
            thawed: START,
            forgiven: START,
            bad_boots: Vec::new(),
            no_forks_until: START,
            aborted: BTreeMap::new(),
            killed: BTreeSet::new(),
            lives: BTreeMap::new(),
            set: BTreeSet::new(),
            helpers: BTreeSet::new(),
            ending: None,
            count: Count::default(),
        }
    }

    pub(super) fn next_pid(&mut self) -> i32 {
        self.next_pid += 1;
        self.next_pid
    }

    /// Timers of a worker that are not set yet.
    pub(super) fn due(&mut self, pid: i32, armed: Time, handlers: Vec<(u32, Time)>) -> Vec<(Time, Event)> {
        let mut due = Vec::new();
        if armed < Time::MAX && self.set.insert((pid, u32::MAX, armed)) {
            due.push((armed, Event::Timer(pid)));
        }
        for (conn, at) in handlers {
            if self.set.insert((pid, conn, at)) {
                due.push((at, Event::Handler(pid, conn)));
            }
        }
        due
    }

    /// Records the end of a worker.
    pub(super) fn ended(&mut self, process: &Process, status: ExitStatus, monitor: &Monitor) {
        let now = monitor.now();
        if let Some(drain) = process.drain() {
            // Each drain is signalled as well, and a signal handler runs while the loop hangs.
            let heard = process.ready_at.unwrap_or(now);
            let late = drain.deadline.max(self.thawed).max(heard) + EXIT_MARGIN + SLACK;
            let by_itself = status.signal().is_none();
            monitor.hold("d10_deadline", !by_itself || now <= late, || {
                format!(
                    "worker {} ended itself at {now:?}, its deadline was {:?}",
                    process.pid, drain.deadline
                )
            });
        }
        // The successor of a leaving worker begins anew.
        let since = process.ready_at.filter(|_| !process.is_leaving());
        self.lives.insert(process.pid, (since, process.is_leaving()));
    }

    /// No process runs until `thaws`. A short freeze looks like a busy machine, and gives workers
    /// no more time than the arbiter has overslept.
    pub(super) fn freeze(&mut self, thaws: Time, length: Duration) {
        self.thawed = self.thawed.max(thaws);
        if length > 2 * self.beat_interval {
            self.forgiven = self.forgiven.max(thaws);
        }
    }
}

impl Arbiter {
    /// An arbiter that begins with `setup`.
    pub(super) fn new(pid: i32, setup: Setup, inbox: usize) -> Self {
        Self {
            pid,
            supervisor: None,
            is_alive: true,
            has_started: false,
            inputs: VecDeque::new(),
            old_arbiter: None,
            new_arbiter: None,
            new_is_ready: None,
            had_new: false,
            shared: BTreeSet::new(),
            inbox,
            setups: BTreeMap::from([(1, setup)]),
            generation: 1,
            candidate: None,
            proven: BTreeSet::new(),
            open: BTreeSet::new(),
            has_loaded: false,
            slots: BTreeSet::new(),
            accepted_for: Vec::new(),
            has_new_listeners: false,
            passing: VecDeque::new(),
            is_passing: false,
            gate: START,
            is_saved: false,
            tickets: BTreeSet::new(),
            last_ticket: 0,
            helper: None,
            retired: BTreeSet::new(),
            logs: 0,
            unfreed: BTreeMap::new(),
            described: BTreeSet::new(),
            reopens: 0,
            reload_requested: false,
            upgrade_requested: false,
            hurried: None,
            new_is_signalled: false,
            unreaped: BTreeSet::new(),
            ordered_deadline: None,
            keepers: BTreeMap::new(),
            has_handed_over: false,
            target: setup.workers.into(),
            requested: BTreeSet::new(),
            serving: false,
            lame: None,
            succeeded: None,
            emptied: START,
            stopping: false,
            quit: false,
            orphaned: None,
            outcome: None,
            tries_at: START,
            changed: START,
            short: BTreeMap::new(),
            stop_deadline: None,
        }
    }

    /// The settings of the adopted generation.
    pub(super) fn setup(&self) -> Setup {
        self.setups[&self.generation]
    }

    /// Whether it serves, without another arbiter, and is not ending.
    pub(super) fn is_calm(&self) -> bool {
        let is_alone = self.old_arbiter.is_none() && self.new_arbiter.is_none();
        self.is_alive && self.serving && self.lame.is_none() && !self.stopping && is_alone
    }

    /// Whether a load is under way, which answers every request that arrives meanwhile.
    pub(super) fn is_loading(&self) -> bool {
        self.candidate.is_none() && self.open.iter().any(|generation| *generation > self.generation)
    }

    /// Whether a reload is under way or was requested.
    pub(super) fn is_reloading(&self) -> bool {
        self.reload_requested || !self.open.is_empty()
    }

    /// Forgets the short lives of other seats of a slot.
    pub(super) fn forget_others(&mut self, (slot, seat): (u16, u16)) {
        self.short.retain(|place, _| place.0 != slot || place.1 == seat);
    }
}
