//! The supervisor as a table: what happened and when go in, what to do comes out.
//!
//! It makes no system call and reads no clock, so a restart storm or a worker that will not end is a test of
//! microseconds. [`run`](crate::run) does what it says and tells it what came of that. It keeps these promises:
//!
//! 1. There are never more workers than asked for and those that are leaving, and a slot never has two.
//! 2. Once a stop has begun nothing is spawned, every worker is told before the listeners are ended and hears of the
//!    backlog's end after its last connection was passed on (D4), and `Finish` comes, once, when the last worker is gone.
//! 3. A worker is killed at most once, and only [`KILL_MARGIN`] after the deadline that it was told, or
//!    [`ABORT_GRACE`] after it was aborted because it was silent for too long (D1).
//! 4. A deadline that workers were told only ever moves closer (D11).
//! 5. TTIN and TTOU ask for one worker more or less, never for none and never for more than there is room for. A worker
//!    that is leaving drains as in a stop and is not replaced, whatever it dies of.
//!
//! ```text
//! Starting ── all ready ──▶ Serving ── TERM INT QUIT ──▶ Stopping ── all gone ──▶ Finished
//!     └──────────── TERM INT QUIT, or a failed boot ─────────▲
//! ```

use std::fmt;
use std::time::Duration;

use remuda_core::order::{Order, PolicyId, Report};
use remuda_core::shutdown::{Drain, Reason};
use remuda_core::time::Time;
use rustix::process::Pid;

use crate::Outcome;
use crate::notice::Notice;

/// The state of the server, from the first fork to the last exit.
#[derive(Debug)]
pub(crate) struct Plan {
    slots: Vec<Slot>,
    /// How many slots there may be.
    room: usize,
    graceful_timeout: Duration,
    patience: Patience,
    /// When the arbiter last ran: what it slept longer than it asked for, it was frozen.
    awake: Time,
    phase: Phase,
}

/// How long workers may be silent. Zero: for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Patience {
    /// While they serve or drain.
    pub(crate) timeout: Duration,
    /// Until they are ready.
    pub(crate) boot_timeout: Duration,
    /// How long the arbiter sleeps at most while there is somebody to watch. Twice that is a freeze.
    pub(crate) nap: Duration,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// Somebody sent the arbiter a signal.
    Signal(Signal),
    /// The spawn that was asked for has happened.
    Spawned { slot: u16, pid: Pid },
    /// The spawn that was asked for could not be done.
    SpawnFailed { slot: u16, error: String },
    /// A worker has said something.
    Report { pid: Pid, report: Report },
    /// The loop of the worker in a slot was alive then; [`Time::ZERO`] if it has not begun to beat.
    Beat { slot: u16, at: Time },
    /// A child, perhaps not one of ours, has ended and was reaped.
    Exited { pid: Pid, death: Death },
    /// Nothing more of the backlog will be passed on, and this many connections of it are lost.
    BacklogOver { lost: usize },
    /// Time has passed.
    Tick,
}

/// What to do, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Fork a worker; answer with [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn { slot: u16 },
    /// Send an order, without waiting for it to be read.
    Send { pid: Pid, order: Order },
    /// Look when the worker in a slot was last alive; answer with [`Event::Beat`].
    Look { slot: u16 },
    /// Tell people what the worker in a slot is, or was, serving.
    Describe { slot: u16 },
    /// The worker in a slot is gone: keep what it has counted, and empty its place. It ended itself with nothing left
    /// to do, or had to leave something.
    Bury { slot: u16, clean: bool },
    /// SIGABRT.
    Abort { pid: Pid },
    /// SIGKILL.
    Kill { pid: Pid },
    /// Refuse new connections (D3) and pass on those that the listeners' queues hold (D4), without waiting; answer with
    /// [`Event::BacklogOver`] when that is done.
    SaveBacklog,
    /// Give up what is left of the backlog, also what was passed on and not taken; answer likewise.
    DropBacklog,
    /// Say that the server is ready, with so many workers.
    AnnounceReady { workers: usize },
    /// Tell people.
    Log(Notice),
    /// All workers are gone: end like this.
    Finish(Outcome),
}

/// A signal that means something to the arbiter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signal {
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

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Death {
    /// With an exit status.
    Status(i32),
    /// By a signal.
    Signal(i32),
}

/// The deadline that INT, or asking twice, gives a stop (D11), unless `graceful_timeout` is shorter.
pub(crate) const HURRY: Duration = Duration::from_secs(2);

/// How long after the deadline that a worker was told it is killed (D10).
pub(crate) const KILL_MARGIN: Duration = Duration::from_millis(1500);

/// How long after SIGABRT a silent worker is killed.
pub(crate) const ABORT_GRACE: Duration = Duration::from_secs(1);

/// A worker that was ready for this long is replaced at once; after a shorter life the slot waits.
pub(crate) const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// The wait after a first short life; it doubles with each further one (D17).
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The longest wait.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum Phase {
    /// The workers have not all been ready yet: a boot that fails now would fail again, and ends the server.
    Starting,
    /// They have: a worker that dies is replaced, whatever it died of.
    Serving,
    Stopping(Stop),
    Finished,
}

#[derive(Debug)]
struct Stop {
    /// What every worker was told.
    drain: Drain,
    kill_at: Time,
    backlog: Backlog,
    /// How the server will have ended, as far as is known.
    outcome: Outcome,
}

/// Where the connections of the listeners' queues are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Backlog {
    /// On their way to the workers.
    Passing,
    /// Passed on; who lives may not have taken them yet.
    Passed,
    /// Given up, and not counted yet.
    Dropping,
    /// Taken or counted.
    Gone,
}

#[derive(Debug)]
struct Slot {
    state: State,
    /// Short lives in a row.
    failures: u32,
    /// The server runs one worker less: who is here drains until then, and is the last in this slot for now.
    leaving: Option<Time>,
}

#[derive(Debug)]
enum State {
    /// Empty until `at`.
    Due {
        at: Time,
    },
    /// A spawn was asked for.
    Spawning,
    Alive(Life),
    /// Empty until somebody asks for one more worker.
    Vacant,
}

#[derive(Debug)]
struct Life {
    pid: Pid,
    born: Time,
    ready: Option<Time>,
    /// Up to when it is known to be well: its silence counts from here.
    well: Time,
    /// An [`Action::Look`] was not answered yet.
    looking: bool,
    /// It was silent for too long, was aborted, and is killed then.
    aborted: Option<Time>,
    killed: bool,
}

impl Plan {
    /// A plan for `workers` processes, all of which are due.
    pub(crate) fn new(workers: u16, graceful_timeout: Duration) -> Self {
        let slots = (0..workers).map(|_| Slot::due_at(Time::ZERO)).collect();
        let (room, patience) = (usize::from(u16::MAX), Patience::default());
        Self { slots, room, graceful_timeout, patience, awake: Time::MAX, phase: Phase::Starting }
    }

    /// The same with at most `room` workers at a time, those that are leaving included.
    pub(crate) fn with_room(self, room: usize) -> Self {
        Self { room, ..self }
    }

    /// The same with bounds on the silence of workers. Default: none.
    pub(crate) fn watching(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// What to do about `event`, which happened `now`.
    pub(crate) fn handle(&mut self, event: Event, now: Time) -> Vec<Action> {
        let mut todo = Vec::new();
        self.forgive_a_freeze(now);
        match event {
            Event::Signal(signal) => self.signalled(signal, now, &mut todo),
            Event::Spawned { slot, pid } => self.spawned(slot, pid, now, &mut todo),
            Event::SpawnFailed { slot, error } => self.spawn_failed(slot, error, now, &mut todo),
            Event::Report { pid, report } => self.reported(pid, report, now, &mut todo),
            Event::Beat { slot, at } => self.beat(slot, at, now, &mut todo),
            Event::Exited { pid, death } => self.exited(pid, death, now, &mut todo),
            Event::BacklogOver { lost } => self.backlog_over(lost, &mut todo),
            Event::Tick => {}
        }
        self.do_what_is_due(now, &mut todo);
        todo
    }

    /// When [`Event::Tick`] is wanted, if nothing else happens before; none: whenever.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let phase = match &self.phase {
            Phase::Starting | Phase::Serving => self.slots.iter().filter_map(Slot::due).min(),
            Phase::Stopping(stop) => (stop.backlog == Backlog::Passing).then_some(stop.drain.deadline),
            Phase::Finished => None,
        };
        let stop_kills_at = self.stop_kills_at();
        let kill = self.slots.iter().filter_map(|slot| slot.kill_at(stop_kills_at)).min();
        let silence = self.slots.iter().filter_map(|slot| slot.silent_at(&self.patience)).min();
        // Only who wakes up often can tell a frozen server from silent workers.
        let nap = silence.map(|_| self.awake + self.patience.nap);
        [phase, kill, silence, nap].into_iter().flatten().min()
    }

    /// An arbiter that slept for much longer than it asked for was stopped, and its workers may have been, too: their
    /// silence counts from now on (D1).
    fn forgive_a_freeze(&mut self, now: Time) {
        if now.since(self.awake) > 2 * self.patience.nap {
            for life in self.slots.iter_mut().filter_map(Slot::life) {
                life.well = now;
            }
        }
        self.awake = now;
    }

    fn signalled(&mut self, signal: Signal, now: Time, todo: &mut Vec<Action>) {
        let hurry = self.graceful_timeout.min(HURRY);
        match signal {
            Signal::Term if self.is_stopping() => self.stop(Reason::Stop, now, now + hurry, todo),
            Signal::Term => self.stop(Reason::Stop, now, now + self.graceful_timeout, todo),
            Signal::Int => self.stop(Reason::QuickStop, now, now + hurry, todo),
            Signal::Quit => {
                self.stop(Reason::QuickStop, now, now, todo);
                if let Phase::Stopping(stop) = &mut self.phase {
                    stop.kill_at = now;
                }
            }
            Signal::Ttin | Signal::Ttou if self.is_stopping() => {
                todo.push(Action::Log(Notice::TooLate { signal }));
            }
            Signal::Ttin => self.grow(now, todo),
            Signal::Ttou => self.shrink(now, todo),
            Signal::Hup | Signal::Usr1 | Signal::Usr2 | Signal::Winch => {
                todo.push(Action::Log(Notice::Unsupported { signal }));
            }
        }
    }

    /// One worker more, in the first slot that is free. One whose worker is leaving is not.
    fn grow(&mut self, now: Time, todo: &mut Vec<Action>) {
        let free = self.slots.iter().position(|slot| matches!(slot.state, State::Vacant));
        match free {
            Some(index) => self.slots[index] = Slot::due_at(now),
            None if self.slots.len() < self.room => self.slots.push(Slot::due_at(now)),
            None => {
                todo.push(Action::Log(Notice::TooMany { room: self.room }));
                return;
            }
        }
        todo.push(Action::Log(Notice::Scaled { workers: self.workers() }));
    }

    /// One worker less: the one in the last slot that is to have one.
    fn shrink(&mut self, now: Time, todo: &mut Vec<Action>) {
        let workers = self.workers();
        let Some(slot) = self.slots.iter_mut().rfind(|slot| slot.counts()).filter(|_| workers > 1) else {
            todo.push(Action::Log(Notice::TooFew));
            return;
        };
        todo.push(Action::Log(Notice::Scaled { workers: workers - 1 }));
        match slot.state {
            State::Due { .. } | State::Vacant => slot.state = State::Vacant,
            State::Spawning | State::Alive(_) => slot.leaving = Some(now + self.graceful_timeout),
        }
        todo.extend(slot.leave_order(now));
        self.become_ready(todo);
    }

    fn spawned(&mut self, index: u16, pid: Pid, now: Time, todo: &mut Vec<Action>) {
        let Some(slot) = self.slots.get_mut(usize::from(index)).filter(|slot| slot.is_spawning()) else {
            todo.push(Action::Kill { pid }); // nobody asked for it, and nobody would look after it
            return;
        };
        slot.state = State::Alive(Life {
            pid,
            born: now,
            ready: None,
            well: now,
            looking: false,
            aborted: None,
            killed: false,
        });
        todo.push(Action::Log(Notice::Started { slot: index, pid }));
        match &self.phase {
            Phase::Stopping(stop) => todo.extend(stop.orders(pid, slot.leaving)),
            _ => todo.extend(slot.leave_order(now)),
        }
    }

    fn spawn_failed(&mut self, index: u16, error: String, now: Time, todo: &mut Vec<Action>) {
        let stopping = self.is_stopping();
        let Some(slot) = self.slots.get_mut(usize::from(index)).filter(|slot| slot.is_spawning()) else {
            return;
        };
        let again_in = (!stopping && slot.counts()).then(|| slot.back_off());
        slot.empty(again_in, now);
        todo.push(Action::Log(Notice::NotStarted { slot: index, error, again_in }));
    }

    fn reported(&mut self, pid: Pid, report: Report, now: Time, todo: &mut Vec<Action>) {
        let Some((index, life)) = self.find(pid) else { return };
        match report {
            Report::Ready if life.ready.is_none() => {
                life.ready = Some(now);
                life.well = now;
                let took = now - life.born;
                todo.push(Action::Log(Notice::Ready { slot: index, pid, took }));
                self.become_ready(todo);
            }
            Report::BootFailed { status, message } if !self.is_stopping() => {
                todo.push(Action::Log(Notice::BootFailed { slot: index, pid, message: message.clone() }));
                if matches!(self.phase, Phase::Starting) {
                    self.give_up(status.into(), message, now, todo);
                }
            }
            _ => {}
        }
    }

    /// All workers that are asked for are ready, for the first time: perhaps because one that was not is leaving.
    fn become_ready(&mut self, todo: &mut Vec<Action>) {
        let all_are = self.slots.iter().filter(|slot| slot.counts()).all(Slot::is_ready);
        if all_are && matches!(self.phase, Phase::Starting) {
            self.phase = Phase::Serving;
            todo.push(Action::AnnounceReady { workers: self.workers() });
        }
    }

    /// Whether a worker that has been silent for as long as it may is so still.
    fn beat(&mut self, index: u16, at: Time, now: Time, todo: &mut Vec<Action>) {
        let slot = self.slots.get_mut(usize::from(index));
        let Some(life) = slot.and_then(Slot::life).filter(|life| life.aborted.is_none()) else { return };
        life.looking = false;
        life.well = life.well.max(at);
        if life.silent_at(&self.patience).is_none_or(|at| at > now) {
            return;
        }
        life.aborted = Some(now + ABORT_GRACE);
        let (slot, pid, silent) = (index, life.pid, now - life.well);
        todo.push(Action::Log(match life.ready {
            Some(_) => Notice::Silent { slot, pid, silent },
            None => Notice::BootTimedOut { slot, pid, took: now - life.born },
        }));
        todo.extend([Action::Describe { slot }, Action::Abort { pid }]);
        if let Phase::Stopping(stop) = &mut self.phase {
            stop.was_cut();
        }
    }

    fn exited(&mut self, pid: Pid, death: Death, now: Time, todo: &mut Vec<Action>) {
        let stopping = self.is_stopping();
        let Some((index, life)) = self.find(pid) else {
            todo.push(Action::Log(Notice::Stranger { pid, death }));
            return;
        };
        let lived = now - life.born;
        let described = life.aborted.is_some();
        let boot_failed = life.ready.is_none() && matches!(death, Death::Status(3 | 4));
        let long_enough = life.ready.is_some_and(|ready| now - ready >= LONG_ENOUGH);
        let ends_server = stopping || (boot_failed && matches!(self.phase, Phase::Starting));

        let slot = &mut self.slots[usize::from(index)];
        if long_enough {
            slot.failures = 0;
        }
        let again_in = match (ends_server || !slot.counts(), long_enough) {
            (true, _) => None,
            (false, true) => Some(Duration::ZERO),
            (false, false) => Some(slot.back_off()),
        };
        slot.empty(again_in, now);
        todo.push(Action::Log(Notice::Died { slot: index, pid, death, lived, again_in }));
        let clean = death == Death::Status(0);
        if !clean && !described {
            todo.push(Action::Describe { slot: index });
        }
        todo.push(Action::Bury { slot: index, clean });

        match (&mut self.phase, death) {
            (Phase::Stopping(stop), Death::Status(6)) => stop.was_cut(),
            (Phase::Starting, Death::Status(status)) if boot_failed => {
                let message = format!("worker {pid} ended with status {status} before it was ready");
                self.give_up(status, message, now, todo);
            }
            _ => {}
        }
    }

    fn backlog_over(&mut self, lost: usize, todo: &mut Vec<Action>) {
        let Phase::Stopping(stop) = &mut self.phase else { return };
        stop.backlog = if stop.backlog == Backlog::Passing { Backlog::Passed } else { Backlog::Gone };
        if lost > 0 {
            todo.push(Action::Log(Notice::BacklogLost { lost }));
        }
        let living = self.slots.iter_mut().filter_map(Slot::life);
        todo.extend(living.map(|life| Action::Send { pid: life.pid, order: Order::BacklogEnd }));
    }

    /// What time alone brings: workers to look at, to spawn, to kill, the end.
    fn do_what_is_due(&mut self, now: Time, todo: &mut Vec<Action>) {
        let stop_kills_at = self.stop_kills_at();
        for (index, slot) in (0..).zip(&mut self.slots) {
            let is_due = slot.silent_at(&self.patience).is_some_and(|at| at <= now);
            let is_over = slot.kill_at(stop_kills_at).is_some_and(|at| at <= now);
            match slot.life() {
                Some(life) if is_over || is_due && life.aborted.is_some() => {
                    life.killed = true;
                    if let Phase::Stopping(stop) = &mut self.phase {
                        stop.was_cut();
                    }
                    todo.extend([
                        Action::Log(Notice::Killing { pid: life.pid }),
                        Action::Kill { pid: life.pid },
                    ]);
                }
                Some(life) if is_due && !life.looking => {
                    life.looking = true;
                    todo.push(Action::Look { slot: index });
                }
                _ => {}
            }
        }
        match &mut self.phase {
            Phase::Starting | Phase::Serving => {
                for (index, slot) in (0..).zip(&mut self.slots) {
                    if slot.due().is_some_and(|at| at <= now) {
                        slot.state = State::Spawning;
                        todo.push(Action::Spawn { slot: index });
                    }
                }
            }
            Phase::Stopping(stop) => {
                let nobody = self.slots.iter().all(|slot| matches!(slot.state, State::Vacant));
                let nobody_takes_it = match stop.backlog {
                    Backlog::Passing => nobody || stop.drain.is_over(now),
                    Backlog::Passed => nobody,
                    Backlog::Dropping | Backlog::Gone => false,
                };
                if nobody_takes_it {
                    stop.backlog = Backlog::Dropping;
                    todo.push(Action::DropBacklog);
                }
                if nobody && stop.backlog == Backlog::Gone {
                    todo.push(Action::Finish(stop.outcome.clone()));
                    self.phase = Phase::Finished;
                }
            }
            Phase::Finished => {}
        }
    }

    /// Ends a server that never was ready: what kept one worker from booting would keep its replacement.
    fn give_up(&mut self, status: i32, message: String, now: Time, todo: &mut Vec<Action>) {
        let status = if status == 4 { 4 } else { 3 };
        let drain = Drain::new(Reason::QuickStop, now, now + self.graceful_timeout.min(HURRY));
        self.enter_stop(drain, Outcome::BootFailed { status, message }, todo);
    }

    /// Stops by `deadline`; a stop under way is hurried, never slowed (D11).
    fn stop(&mut self, reason: Reason, now: Time, deadline: Time, todo: &mut Vec<Action>) {
        let drain = Drain::new(reason, now, deadline);
        match &mut self.phase {
            Phase::Starting | Phase::Serving => {
                self.enter_stop(drain, Outcome::Stopped { reason, cut: false }, todo);
            }
            Phase::Stopping(stop) => {
                if let Outcome::Stopped { reason: told, .. } = &mut stop.outcome
                    && reason == Reason::QuickStop
                {
                    *told = reason;
                }
                if deadline < stop.drain.deadline {
                    stop.drain.merge(drain);
                    stop.kill_at = deadline + KILL_MARGIN;
                    todo.push(Action::Log(Notice::Hurried { left: deadline - now }));
                    for slot in &mut self.slots {
                        let leaving = slot.leaving;
                        todo.extend(slot.life().map(|life| stop.drain_order(life.pid, leaving)));
                    }
                }
            }
            Phase::Finished => {}
        }
    }

    fn enter_stop(&mut self, drain: Drain, outcome: Outcome, todo: &mut Vec<Action>) {
        let kill_at = drain.deadline + KILL_MARGIN;
        let stop = Stop { drain, kill_at, backlog: Backlog::Passing, outcome };
        todo.push(Action::Log(Notice::Stopping { reason: drain.reason, left: drain.deadline - drain.since }));
        for slot in &mut self.slots {
            match &slot.state {
                State::Due { .. } => slot.state = State::Vacant,
                State::Alive(life) => todo.extend(stop.orders(life.pid, slot.leaving)),
                State::Spawning | State::Vacant => {}
            }
        }
        todo.push(Action::SaveBacklog);
        self.phase = Phase::Stopping(stop);
    }

    fn find(&mut self, pid: Pid) -> Option<(u16, &mut Life)> {
        let mut lives = (0..).zip(&mut self.slots).filter_map(|(index, slot)| Some((index, slot.life()?)));
        lives.find(|(_, life)| life.pid == pid)
    }

    /// How many workers are asked for.
    fn workers(&self) -> usize {
        self.slots.iter().filter(|slot| slot.counts()).count()
    }

    fn stop_kills_at(&self) -> Option<Time> {
        match &self.phase {
            Phase::Stopping(stop) => Some(stop.kill_at),
            _ => None,
        }
    }

    fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping(_) | Phase::Finished)
    }
}

impl Stop {
    /// All that a worker has to hear which has not heard of the stop. It may be leaving already.
    fn orders(&self, pid: Pid, leaving: Option<Time>) -> impl Iterator<Item = Action> + use<> {
        let ended = matches!(self.backlog, Backlog::Passed | Backlog::Gone);
        let end = ended.then_some(Action::Send { pid, order: Order::BacklogEnd });
        [self.drain_order(pid, leaving)].into_iter().chain(end)
    }

    /// Who is leaving has until then, and no longer.
    fn drain_order(&self, pid: Pid, leaving: Option<Time>) -> Action {
        let mut drain = self.drain;
        drain.deadline = leaving.map_or(drain.deadline, |at| at.min(drain.deadline));
        Action::Send { pid, order: Order::Drain { drain, policy: PolicyId::Stop } }
    }

    fn was_cut(&mut self) {
        if let Outcome::Stopped { cut, .. } = &mut self.outcome {
            *cut = true;
        }
    }
}

impl Slot {
    fn due_at(at: Time) -> Self {
        Self { state: State::Due { at }, failures: 0, leaving: None }
    }

    /// Empties the slot, for a while or until it is needed again.
    fn empty(&mut self, again_in: Option<Duration>, now: Time) {
        self.state = again_in.map_or(State::Vacant, |delay| State::Due { at: now + delay });
        self.leaving = None;
    }

    /// Whether it is one of those that are asked for.
    fn counts(&self) -> bool {
        self.leaving.is_none() && !matches!(self.state, State::Vacant)
    }

    /// What the worker here has to hear, if it is leaving.
    fn leave_order(&self, now: Time) -> Option<Action> {
        match (&self.state, self.leaving) {
            (State::Alive(life), Some(deadline)) => {
                let drain = Drain::new(Reason::ScaleDown, now, deadline);
                Some(Action::Send { pid: life.pid, order: Order::Drain { drain, policy: PolicyId::Reload } })
            }
            _ => None,
        }
    }

    /// Counts a short life; how long to wait after it.
    fn back_off(&mut self) -> Duration {
        let delay = BACKOFF_MIN.saturating_mul(2u32.saturating_pow(self.failures)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        delay
    }

    fn life(&mut self) -> Option<&mut Life> {
        match &mut self.state {
            State::Alive(life) => Some(life),
            _ => None,
        }
    }

    /// When the worker here has been silent for too long, or is killed for that.
    fn silent_at(&self, patience: &Patience) -> Option<Time> {
        match &self.state {
            State::Alive(life) => life.silent_at(patience),
            _ => None,
        }
    }

    fn due(&self) -> Option<Time> {
        match self.state {
            State::Due { at } => Some(at),
            _ => None,
        }
    }

    fn is_spawning(&self) -> bool {
        matches!(self.state, State::Spawning)
    }

    fn is_ready(&self) -> bool {
        matches!(&self.state, State::Alive(life) if life.ready.is_some())
    }

    /// When the worker here has outlived its deadline: that of a stop, if there is one, or its own.
    fn kill_at(&self, stop_kills_at: Option<Time>) -> Option<Time> {
        let alive = matches!(&self.state, State::Alive(life) if !life.killed);
        let own = self.leaving.map(|deadline| deadline + KILL_MARGIN);
        [stop_kills_at, own].into_iter().flatten().min().filter(|_| alive)
    }
}

impl Life {
    /// When it has been silent for too long or, if it was aborted for that, when it is killed.
    fn silent_at(&self, patience: &Patience) -> Option<Time> {
        let bound = if self.ready.is_some() { patience.timeout } else { patience.boot_timeout };
        match self.aborted {
            _ if self.killed => None,
            None if bound.is_zero() => None,
            None => Some(self.well + bound),
            at => at,
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

#[cfg(test)]
mod tests;
