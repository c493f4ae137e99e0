//! What the processes of a server have gone through, as far as rules ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use remuda_arbiter::Outcome;
use remuda_core::time::Time;
use remuda_core::worker::sys::EXIT_MARGIN;

use super::ground::{Ground, START};
use super::process::Process;
use super::script::Script;
use super::stage::SLACK;
use super::world::Event;

/// What the processes of a server have gone through.
#[derive(Debug)]
pub(super) struct Fates {
    pub(super) next_pid: i32,
    pub(super) timeout: Duration,
    pub(super) boot_timeout: Duration,
    pub(super) graceful: Duration,
    pub(super) beat_interval: Duration,
    pub(super) target: usize,
    /// Workers above the target that come or go because others are recycled, at most (D15).
    pub(super) recycling: usize,
    pub(super) lameduck: Duration,
    /// All workers have been ready.
    pub(super) serving: bool,
    /// Until when a server that was told to stop serves on.
    pub(super) lame: Option<Time>,
    /// Slot and seat of every worker there was.
    pub(super) places: BTreeMap<i32, (u16, u16)>,
    /// The slot of the worker that the arbiter hears is ready.
    pub(super) succeeded: Option<u16>,
    /// When the last worker has ended.
    pub(super) emptied: Time,
    pub(super) stopping: bool,
    pub(super) quit: bool,
    pub(super) thawed: Time,
    /// The end of the last freeze that was long enough to be seen.
    pub(super) forgiven: Time,
    pub(super) bad_boots: Vec<Option<u8>>,
    pub(super) no_forks_until: Time,
    pub(super) orphaned: Option<Time>,
    pub(super) outcome: Option<Outcome>,
    pub(super) passing: bool,
    pub(super) aborted: BTreeMap<i32, Time>,
    pub(super) killed: BTreeSet<i32>,
    /// Short lives in a row of each slot and seat, and when the last one was reaped.
    pub(super) short: BTreeMap<(u16, u16), (u32, Time)>,
    /// Of the dead: since when they served, and whether they were to go.
    pub(super) lives: BTreeMap<i32, (Option<Time>, bool)>,
    /// Timers that were set, to set none twice.
    pub(super) set: BTreeSet<(i32, u32, Time)>,
    pub(super) stop_deadline: Option<Time>,
}

impl Fates {
    pub(super) fn new(script: &Script, beat_interval: Duration) -> Self {
        Self {
            next_pid: 100,
            timeout: script.timeout,
            boot_timeout: script.boot_timeout,
            graceful: script.graceful,
            beat_interval,
            target: script.workers.into(),
            recycling: script.recycle_concurrency.into(),
            lameduck: script.lameduck,
            serving: false,
            lame: None,
            places: BTreeMap::new(),
            succeeded: None,
            emptied: START,
            stopping: false,
            quit: false,
            thawed: START,
            forgiven: START,
            bad_boots: Vec::new(),
            no_forks_until: START,
            orphaned: None,
            outcome: None,
            passing: false,
            aborted: BTreeMap::new(),
            killed: BTreeSet::new(),
            short: BTreeMap::new(),
            lives: BTreeMap::new(),
            set: BTreeSet::new(),
            stop_deadline: None,
        }
    }

    /// Timers of a worker that are not set yet.
    pub(super) fn due(&mut self, pid: i32, armed: Time, hands: Vec<(u32, Time)>) -> Vec<(Time, Event)> {
        let mut due = Vec::new();
        if armed < Time::MAX && self.set.insert((pid, u32::MAX, armed)) {
            due.push((armed, Event::Timer(pid)));
        }
        for (conn, at) in hands {
            if self.set.insert((pid, conn, at)) {
                due.push((at, Event::Hand(pid, conn)));
            }
        }
        due
    }

    /// A worker has ended.
    pub(super) fn ended(&mut self, process: &Process, status: ExitStatus, ground: &Ground) {
        let now = ground.now();
        if let Some(drain) = process.drain() {
            // Each drain comes as a signal, too, which a loop that does not turn does not miss.
            let heard = process.ready_at.unwrap_or(now);
            let late = drain.deadline.max(self.thawed).max(heard) + EXIT_MARGIN + SLACK;
            let by_itself = status.signal().is_none();
            ground.hold("d10_deadline", !by_itself || now <= late, || {
                format!(
                    "worker {} ended itself at {now:?}, its deadline was {:?}",
                    process.pid, drain.deadline
                )
            });
        }
        // Who comes after one that was to go begins anew.
        let since = process.ready_at.filter(|_| !process.is_leaving());
        self.emptied = now;
        self.lives.insert(process.pid, (since, process.is_leaving()));
    }

    /// What others of a worker's slot went through does not count any more.
    pub(super) fn forget_others(&mut self, pid: i32) {
        let (slot, seat) = self.places[&pid];
        self.short.retain(|place, _| place.0 != slot || place.1 == seat);
    }

    /// Nobody runs until `thaws`. After a short freeze, which looks like a busy machine, nobody
    /// has more time than what the arbiter overslept of it.
    pub(super) fn freeze(&mut self, thaws: Time, length: Duration) {
        self.thawed = self.thawed.max(thaws);
        if length > 2 * self.beat_interval {
            self.forgiven = self.forgiven.max(thaws);
        }
    }
}
