//! The supervisor as a table: what happened and when go in, what to do comes out.
//!
//! It makes no system call and reads no clock, so a restart storm or a worker that will not end is a test of
//! microseconds. [`run`](crate::run) does what it says and tells it what came of that. It keeps these promises:
//!
//! 1. There are never more workers than asked for, those that leave because fewer are, and as many as may be recycled (D15)
//!    and reloaded (D16) at a time: for each of these one more, its successor first and then, until it is gone, itself. A
//!    slot never has two that stay.
//! 2. Once a stop has begun nothing is spawned, every worker is told before the listeners are ended and hears of the
//!    backlog's end after its last connection was passed on (D4), and `Finish` comes, once, when the last worker is gone.
//! 3. A worker is killed at most once, and only [`KILL_MARGIN`] after the deadline that it was told, or
//!    [`ABORT_GRACE`] after it was aborted because it was silent for too long (D1).
//! 4. A deadline that workers were told only ever moves closer (D11).
//! 5. Who is to be replaced serves on until its successor is ready. A successor that does not become ready is tried again
//!    with back-off, and takes the slot as soon as it is without a worker.
//! 6. TTIN and TTOU ask for one worker more or less, never for none and never for more than there is room for. A worker
//!    that is leaving drains as in a stop and is not replaced, whatever it dies of.
//! 7. A reload that is asked for ends, once, with what came of it. Until a worker of the new generation was ready everything is
//!    as it was, and after a reload that was given up it is so still.
//! 8. There is one other arbiter at most. One that was started and is not ready changes nothing: it is told to end with this
//!    one, or when it is late, and a stop outlives it.
//!
//! ```text
//! Starting ── all ready ──▶ Serving ───── INT QUIT, or TERM ────▶ Stopping ── all gone ──▶ Finished
//!     │                        └─ TERM ──▶ Lameduck ── time, TERM ──▲
//!     └────────────── TERM INT QUIT, or failed boots ───────────────┘
//! ```
//!
//! [`member`] is one worker, [`lives`] what becomes of it, [`expiry`] when it has served enough, [`replace`] who comes and who goes, [`orphans`] what becomes of
//! listeners meanwhile, [`reload`] one configuration for another, [`stop`] the end, [`upgrade`] another arbiter,
//! [`command`] what operators ask for, [`helper`] the process that tells them how the server is.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use remuda_core::order::{Order, Report};
use remuda_core::shutdown::{Drain, Reason};
use remuda_core::time::Time;
use rustix::process::Pid;

use self::command::Waiting;
pub(crate) use self::command::{Command, Done, Refused, Scale, Ticket};
pub(crate) use self::expiry::Allowance;
pub(crate) use self::helper::RETIREMENT;
use self::helper::{Helper, Retired};
use self::member::{Member, Role, State};
use self::reload::Reload;
use self::stop::{Backlog, Stop};
use self::upgrade::Other;
use crate::Outcome;
use crate::notice::Notice;

mod command;
mod expiry;
mod helper;
#[path = "plan/lifecycle.rs"]
mod lives;
#[path = "plan/worker_entry.rs"]
mod member;
#[path = "plan/unattended.rs"]
mod orphans;
mod reload;
mod replace;
mod stop;
mod upgrade;

/// The state of the server, from the first fork to the last exit.
#[derive(Debug)]
pub(crate) struct Plan {
    members: Vec<Member>,
    /// What counts now.
    shape: Shape,
    /// The configuration that workers are spawned with: the newest of which one was ready.
    generation: u32,
    reload: Reload,
    /// The other arbiter of an upgrade.
    other: Other,
    /// How many workers come back from their rest, once they are called.
    resting: Option<usize>,
    /// How many have been called, and have not come yet.
    returning: usize,
    /// When the arbiter last ran.
    awake: Time,
    /// When it woke up too late, and by how much: as far back as somebody's silence is counted.
    overslept: Vec<(Time, Duration)>,
    phase: Phase,
    helper: Option<Helper>,
    retired: Vec<Retired>,
    /// Who has asked for something that is not done yet.
    waiting: Vec<Waiting>,
    /// The slots of which nobody accepts what their own listeners are sent. None where all slots share their listeners.
    orphans: Option<Vec<u16>>,
    /// Whether any worker was ever ready.
    was_ready: bool,
    /// Boots that have failed before the server was ready.
    failed_boots: u32,
}

/// A worker, as others may see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Alive {
    pub(crate) slot: u16,
    pub(crate) seat: u16,
    pub(crate) pid: Pid,
    pub(crate) born: Time,
    pub(crate) ready: Option<Time>,
    pub(crate) is_leaving: bool,
}

/// What a plan reads of a configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// How many are asked for.
    pub(crate) workers: u16,
    /// How many there may be, without those that are being replaced.
    pub(crate) room: usize,
    /// How many may be recycled at a time.
    pub(crate) recycle_concurrency: usize,
    /// How many may be reloaded at a time.
    pub(crate) reload_concurrency: usize,
    pub(crate) graceful_timeout: Duration,
    /// How long to serve on when TERM asks for a stop.
    pub(crate) lameduck: Duration,
    pub(crate) patience: Patience,
    pub(crate) allowance: Allowance,
    /// After how many failed boots a server gives up of which no worker was ever ready. 0: after the first that says why.
    pub(crate) max_boot_failures: u32,
    /// Whether each slot has listeners of its own. No reload changes it.
    pub(crate) own_listeners: bool,
    /// Whether a new arbiter that is ready waits for people to end this one.
    pub(crate) holds: bool,
}

/// How long workers may be silent. Zero: for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Patience {
    /// While they serve or drain.
    pub(crate) timeout: Duration,
    /// Until they are ready.
    pub(crate) boot_timeout: Duration,
    /// How long the arbiter sleeps at most while there is somebody to watch. More than twice that is a freeze.
    pub(crate) nap: Duration,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// Somebody sent the arbiter a signal.
    Signal(Signal),
    /// The spawn that was asked for has happened.
    Spawned { seat: u16, pid: Pid },
    /// The spawn that was asked for could not be done.
    SpawnFailed { seat: u16, error: String },
    /// A worker has said something.
    Report { pid: Pid, report: Report },
    /// The loop of the worker in a seat was alive then; [`Time::ZERO`] if it has not begun to beat.
    Beat { seat: u16, at: Time },
    /// A worker has so many bytes of memory.
    Weighed { pid: Pid, rss: u64 },
    /// A child, perhaps not one of ours, has ended and was reaped.
    Exited { pid: Pid, death: Death },
    /// Somebody asks for something, and waits until it is done or not.
    Asked { ticket: Ticket, command: Command, wait: bool },
    /// The helper was forked, or could not be.
    HelperSpawned(Result<Pid, String>),
    /// There are listeners that the helper does not know.
    Listening,
    /// Nothing more of the backlog will be passed on, and this many connections of it are lost.
    BacklogOver { lost: usize },
    /// A configuration was loaded, and its listeners are bound.
    Loaded { shape: Shape },
    /// It could not be loaded, and nothing has changed.
    NotLoaded { why: String },
    /// The new arbiter that was asked for was forked.
    Launched { pid: Pid },
    /// It could not be.
    NotLaunched { error: String },
    /// The new arbiter serves, and its workers take connections over or not (D19).
    HeirReady { receives: bool },
    /// The arbiter that has started this one is gone.
    ElderGone,
    /// Time has passed.
    Tick,
}

/// What to do, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Fork a worker of this generation that shows this slot as its place and writes in this seat of the scoreboard; answer
    /// with [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn { slot: u16, seat: u16, generation: u32 },
    /// Fork the helper; answer with [`Event::HelperSpawned`].
    SpawnHelper,
    /// The helper is to accept nothing more, and to end once who is connected was answered.
    Retire { pid: Pid },
    /// Tell who has asked.
    Answer { ticket: Ticket, answer: Result<Done, Refused> },
    /// Send an order, without waiting for it to be read.
    Send { pid: Pid, order: Order },
    /// Look when the worker in a seat was last alive; answer with [`Event::Beat`].
    Look { seat: u16 },
    /// Look how much memory a worker has resident; answer with [`Event::Weighed`] where that can be known.
    Weigh { pid: Pid },
    /// Tell people what the worker in a seat is, or was, serving.
    Describe { slot: u16, seat: u16 },
    /// The worker in a seat is gone: keep what it has counted, and empty the seat. It ended itself with nothing left
    /// to do, or had to leave something.
    Bury { seat: u16, clean: bool },
    /// SIGABRT.
    Abort { pid: Pid },
    /// SIGKILL.
    Kill { pid: Pid },
    /// Refuse new connections (D3) and pass on those that the listeners' queues hold (D4), without waiting; answer with
    /// [`Event::BacklogOver`] when that is done.
    SaveBacklog,
    /// Nobody accepts what the listeners of these slots are sent, and only of these: pass it on to who accepts elsewhere,
    /// from now on.
    Relieve { slots: Vec<u16> },
    /// The slot is given up: end its own listeners, as a stop does. Answered with [`Event::BacklogOver`], too.
    EndSlot { slot: u16 },
    /// Give up what is left of the backlog, also what was passed on and not taken; answer likewise.
    DropBacklog,
    /// Go on in new files of the logs.
    ReopenLogs,
    /// Load settings and application afresh as this generation, and bind what is new; answer with [`Event::Loaded`] or
    /// [`Event::NotLoaded`]. Whoever has asked for a reload until now learns from this generation's
    /// [`Reloaded`](Action::Reloaded) what came of it.
    Load { generation: u32 },
    /// What was loaded last counts from now on, and what counted before is needed no more.
    Adopt,
    /// Forget what was loaded last, with the listeners that were bound for it.
    Abandon,
    /// End the listeners that are not among those of the generation that counts (D3) and pass on what their queues hold (D4),
    /// without waiting; answer with [`Event::BacklogOver`] if there are any.
    EndListeners,
    /// The reload to this generation is over. Tell people, and whoever asked.
    Reloaded { generation: u32, end: ReloadEnd },
    /// Start a new arbiter from the executable, which shares the listeners from then on; answer with [`Event::Launched`] or
    /// [`Event::NotLaunched`].
    Launch,
    /// Pass a signal on to the new arbiter.
    Signal { pid: Pid, signal: Signal },
    /// This arbiter ends and the new one serves on, which is who programs should know of.
    HandOver { pid: Pid },
    /// The other arbiter is gone: what was shared with it is this one's alone.
    Reclaim,
    /// Say that the server is ready, with so many workers.
    AnnounceReady { workers: usize },
    /// Tell people.
    Log(Notice),
    /// All workers are gone: end like this.
    Finish(Outcome),
}

/// What came of a reload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ReloadEnd {
    /// All workers of older generations were told to drain.
    Done,
    /// It counts, but before they all were, a newer one did.
    Overtaken,
    /// Everything is as it was before, for this reason.
    Failed(String),
    /// The server is to end, and everything stays as it is.
    TooLate,
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

impl Death {
    /// The exit status, if there is one.
    fn status(self) -> Option<i32> {
        match self {
            Self::Status(status) => Some(status),
            Self::Signal(_) => None,
        }
    }
}

impl From<ExitStatus> for Death {
    /// Of a process that has ended: what is no exit is a signal.
    fn from(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Status(code),
            None => Self::Signal(status.signal().unwrap_or_default()),
        }
    }
}

/// The deadline that INT, or asking twice, gives a stop (D11), unless `graceful_timeout` is shorter.
pub(crate) const HURRY: Duration = Duration::from_secs(2);

/// How long after the deadline that a worker was told it is killed (D10).
pub(crate) const KILL_MARGIN: Duration = Duration::from_millis(1500);

/// How long after SIGABRT a silent worker is killed.
pub(crate) const ABORT_GRACE: Duration = Duration::from_secs(1);

/// What the arbiter oversleeps less than, nobody remembers: a timer, and a turn on a busy machine, take that.
const DROWSY: Duration = Duration::from_millis(10);

#[derive(Debug)]
enum Phase {
    /// The workers have not all been ready yet: boots that fail now may end the server.
    Starting,
    /// They have: a worker that dies is replaced, whatever it died of.
    Serving,
    /// Told to stop, and serving on until then; every worker that stays was told of `drain`.
    Lameduck {
        until: Time,
        drain: Drain,
    },
    Stopping(Stop),
    Finished,
}

impl Plan {
    /// A plan whose workers are all due, as generation 1.
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            members: (0..shape.workers).map(|n| Member::due(n, n, Role::Holder, Time::ZERO)).collect(),
            shape,
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
            waiting: Vec::new(),
            orphans: shape.own_listeners.then(Vec::new),
            was_ready: false,
            failed_boots: 0,
        }
    }

    /// The same that was started by another arbiter, which lives.
    pub(crate) fn with_elder(self) -> Self {
        Self { other: Other::Elder, ..self }
    }

    /// What to do about `event`, which happened `now`.
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
            Event::Exited { pid, death } => self.exited(pid, death, now, &mut todo),
            Event::Asked { ticket, command, wait } => self.asked(ticket, command, wait, now, &mut todo),
            Event::HelperSpawned(result) => self.helper_spawned(result, now, &mut todo),
            Event::Listening => self.retire_helper(now, &mut todo),
            Event::BacklogOver { lost } => self.backlog_over(lost, &mut todo),
            Event::Loaded { shape } => self.loaded(shape, &mut todo),
            Event::NotLoaded { why } => self.not_loaded(why, &mut todo),
            Event::Launched { pid } => self.launched(pid, now, &mut todo),
            Event::NotLaunched { error } => self.not_launched(error, &mut todo),
            Event::HeirReady { receives } => self.heir_ready(receives, now, &mut todo),
            Event::ElderGone => self.elder_gone(&mut todo),
            Event::Tick => {}
        }
        self.do_what_is_due(now, &mut todo);
        self.look_for_orphans(&mut todo);
        self.look_for_receivers(now, &mut todo);
        self.answer_waiting(&mut todo);
        todo
    }

    /// When [`Event::Tick`] is wanted, if nothing else happens before; none: whenever.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let due = self.members.iter().filter_map(Member::due_at).min();
        let phase = match &self.phase {
            Phase::Starting | Phase::Serving => due,
            Phase::Lameduck { until, .. } => Some(due.map_or(*until, |due| due.min(*until))),
            Phase::Stopping(stop) => (stop.backlog == Backlog::Passing).then_some(stop.drain.deadline),
            Phase::Finished => None,
        };
        let stop_kills_at = self.stop_kills_at();
        let kill = self.members.iter().filter_map(|member| member.kill_at(stop_kills_at)).min();
        let silence = self.members.iter().filter_map(Member::silent_at).min();
        // Only who wakes up often can tell a frozen server from silent workers.
        let nap = silence.map(|_| self.awake + self.nap());
        let (helper, expiry) = (self.helper_due_at(), self.expiry());
        [phase, kill, silence, nap, helper, expiry, self.heir_due()].into_iter().flatten().min()
    }

    /// An arbiter that slept for longer than it asked for was stopped, or had no turn, and its workers perhaps neither: that
    /// time is no part of anybody's silence. After much longer the silence of all counts from now on (D1).
    fn forgive_a_freeze(&mut self, now: Time) {
        let asked = self.deadline().map(|due| due.max(self.awake));
        let overslept = asked.map_or(Duration::ZERO, |asked| now.since(asked));
        let is_freeze = now.since(self.awake) > 2 * self.nap();
        self.awake = now;
        for life in self.members.iter_mut().filter_map(Member::life) {
            life.well = if is_freeze { now } else { life.well + overslept };
        }
        if overslept >= DROWSY {
            self.overslept.push((now, overslept));
        }
        let oldest = self.members.iter().filter_map(Member::counts_from).min();
        self.overslept.retain(|(woke, _)| oldest.is_some_and(|oldest| *woke > oldest));
    }

    /// From when on to count the silence of a worker that was alive `at` then.
    fn credited(&self, at: Time) -> Time {
        let later = self.overslept.iter().filter(|(woke, _)| *woke > at);
        later.fold(at, |at, (woke, overslept)| (at + *overslept).min(*woke))
    }

    /// As often as the most closely watched worker wants.
    fn nap(&self) -> Duration {
        let naps = self.members.iter().filter_map(Member::patience).map(|patience| patience.nap);
        naps.min().unwrap_or(self.shape.patience.nap)
    }

    fn signalled(&mut self, signal: Signal, now: Time, todo: &mut Vec<Action>) {
        let hurry = self.shape.graceful_timeout.min(HURRY);
        if matches!(signal, Signal::Term | Signal::Int | Signal::Quit) {
            self.end_heir(signal, now, todo);
        }
        match signal {
            Signal::Term if self.is_stopping() => self.stop(Reason::Stop, now, now + hurry, todo),
            Signal::Term if matches!(self.phase, Phase::Serving) && !self.shape.lameduck.is_zero() => {
                self.become_lame(now, todo);
            }
            Signal::Term => self.stop(Reason::Stop, now, now + self.shape.graceful_timeout, todo),
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
            Signal::Hup if self.is_resting() && matches!(self.phase, Phase::Serving) => self.come_back(todo),
            Signal::Hup if self.heir().is_some() => todo.push(Action::Log(Notice::Ignored { signal })),
            Signal::Hup => self.ask_for_reload(todo),
            Signal::Usr1 => self.reopen_logs(todo),
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

    /// Here first, so that who is forked from now on finds the new files open.
    fn reopen_logs(&self, todo: &mut Vec<Action>) {
        todo.push(Action::ReopenLogs);
        let pids = self.members.iter().filter_map(Member::pid);
        todo.extend(pids.map(|pid| Action::Send { pid, order: Order::ReopenLogs }));
    }

    /// All workers that are asked for are ready, for the first time: perhaps because one that was not is leaving.
    fn become_ready(&mut self, todo: &mut Vec<Action>) {
        let all_are = self.members.iter().filter(|member| member.is_holder()).all(Member::is_ready);
        if all_are && matches!(self.phase, Phase::Starting) {
            self.phase = Phase::Serving;
            todo.push(Action::AnnounceReady { workers: self.workers() });
        }
    }

    /// What time alone brings: workers to look at, to kill, to recycle, to spawn, and the end.
    fn do_what_is_due(&mut self, now: Time, todo: &mut Vec<Action>) {
        self.help(now, todo);
        self.watch(now, todo);
        self.watch_heir(now, todo);
        if let Phase::Lameduck { until, .. } = self.phase
            && now >= until
        {
            self.stop(Reason::Stop, now, now + self.shape.graceful_timeout, todo);
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
            for index in 0..self.members.len() {
                if self.members[index].due_at().is_some_and(|at| at <= now) {
                    let (generation, Shape { patience, allowance, .. }) = self.made_of(index);
                    let member = &mut self.members[index];
                    member.state = State::Spawning { generation, patience, allowance };
                    todo.push(Action::Spawn { slot: member.slot, seat: member.seat, generation });
                }
            }
        }
    }

    /// Where the worker with that pid is.
    fn find(&self, pid: Pid) -> Option<usize> {
        self.members.iter().position(|member| member.pid() == Some(pid))
    }

    /// The workers there are: slot, seat and pid, when each was born and ready, and whether it is leaving.
    pub(crate) fn lives(&self) -> impl Iterator<Item = Alive> {
        self.members.iter().filter_map(|member| {
            let (slot, seat, is_leaving) = (member.slot, member.seat, member.leaves_by().is_some());
            let life = member.alive()?;
            Some(Alive { slot, seat, pid: life.pid, born: life.born, ready: life.ready, is_leaving })
        })
    }

    /// How many workers are asked for.
    pub(crate) fn workers(&self) -> usize {
        self.members.iter().filter(|member| member.is_holder()).count()
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

    pub(crate) fn is_ending(&self) -> bool {
        self.is_stopping() || matches!(self.phase, Phase::Lameduck { .. })
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
