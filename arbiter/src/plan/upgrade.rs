//! The binary upgrade: another arbiter beside this one, and which of the two serves.
//!
//! ```text
//! old   Alone ── USR2 ──▶ New, booting ─── ready ──▶ drains and ends; or, with manual drain,
//!         ▲                  │ dies, is late,           │      serves on until WINCH, HUP, QUIT
//!         │                  │ TERM INT QUIT            │ dies
//!         └──────────────────┴──────────────────────────┘
//! new   Old ── the old one is gone ──▶ Alone
//! ```
//!
//! Until the new arbiter is ready nothing has changed, and a stop stops both: the old arbiter passes
//! the backlog on only when the new one is gone.

use std::mem;
use std::time::Duration;

use remuda_core::shutdown::{Drain, Reason};
use remuda_core::time::Time;
use rustix::process::Pid;

use super::notice::Notice;
use super::stop::Backlog;
use super::words::{Death, Refused, Signal};
use super::worker_entry::WorkerEntry;
use super::{Action, HURRY, KILL_MARGIN, Phase, Plan};
use crate::outcome::Outcome;

/// The other arbiter of an upgrade.
#[derive(Debug)]
pub(super) enum Other {
    /// No other arbiter.
    None,
    /// The old arbiter, which started this one, lives.
    Old,
    /// The start of a new arbiter was requested.
    Launching,
    /// A new arbiter was started.
    New(NewArbiter),
}

#[derive(Debug)]
pub(super) struct NewArbiter {
    pid: Pid,
    born: Time,
    ready: bool,
    /// Whether its workers receive handed-off connections.
    receives: bool,
    /// Whether it was told to end.
    told: bool,
    /// Whether it was told so because it was not ready in time.
    late: bool,
    /// When it is told to end or, after that, killed.
    due: Option<Time>,
}

/// The time between the latest end of a new arbiter with all its workers, after it was told to
/// end, and its kill.
const MARGIN: Duration = KILL_MARGIN.saturating_mul(2);

impl Plan {
    /// Starts a new arbiter, unless one exists already or the phase does not allow it.
    pub(super) fn upgrade(&mut self, todo: &mut Vec<Action>) -> Result<(), &'static str> {
        Err(match (&self.phase, &self.other) {
            (Phase::Starting, _) => "the server is not ready yet",
            (Phase::Serving, _) if self.is_reloading() => "a reload is under way",
            (Phase::Serving, Other::None) => {
                self.other = Other::Launching;
                todo.push(Action::Launch);
                return Ok(());
            }
            (Phase::Serving, _) => "an upgrade is under way",
            _ => "the server stops",
        })
    }

    pub(super) fn launched(&mut self, pid: Pid, now: Time, todo: &mut Vec<Action>) {
        if !matches!(self.other, Other::Launching) {
            // The new arbiter is not requested any more, and no entry supervises it.
            return todo.push(Action::Kill { pid });
        }
        let bound = self.config.patience.boot_timeout;
        let due = (!bound.is_zero()).then(|| now + bound);
        self.other = Other::New(NewArbiter {
            pid,
            born: now,
            ready: false,
            receives: false,
            told: false,
            late: false,
            due,
        });
        todo.push(Action::Log(Notice::Upgrading { pid }));
    }

    pub(super) fn not_launched(&mut self, error: String, todo: &mut Vec<Action>) {
        if matches!(self.other, Other::Launching) {
            self.other = Other::None;
            todo.push(Action::Log(Notice::UpgradeFailed { why: error }));
        }
    }

    /// Handles the readiness of the new arbiter: this one drains its workers and ends, or waits for
    /// an operator.
    pub(super) fn new_arbiter_ready(&mut self, receives: bool, now: Time, todo: &mut Vec<Action>) {
        let Other::New(new) = &mut self.other else { return };
        if new.told || new.ready {
            return;
        }
        (new.ready, new.receives, new.due) = (true, receives, None);
        let (pid, took, held) = (new.pid, now - new.born, self.config.holds);
        todo.push(Action::Log(Notice::NewArbiterReady { pid, took, held }));
        if !held {
            self.leave_helping(now, todo);
            let drain = Drain::new(Reason::Upgrade, now, now + self.config.graceful_timeout);
            let drain = if receives { drain.with_receiver() } else { drain };
            self.enter_stop(drain, Outcome::Stopped { reason: Reason::Upgrade, cut: false }, todo);
        }
    }

    /// Handles the end of the new arbiter: shared listeners belong to this one again. Returns
    /// whether `pid` was it.
    pub(super) fn new_arbiter_exited(&mut self, pid: Pid, death: Death, todo: &mut Vec<Action>) -> bool {
        let Some(new) = self.new_arbiter().filter(|new| new.pid == pid) else { return false };
        todo.push(Action::Log(match new.ready {
            true => Notice::NewArbiterGone { pid, death },
            false => {
                let when = if new.late { "was not ready in time, and ended with" } else { "ended with" };
                let then = if new.late { "" } else { " before it was ready" };
                Notice::UpgradeFailed { why: format!("the new arbiter {pid} {when} {death}{then}") }
            }
        }));
        self.alone_again(todo);
        true
    }

    /// The old arbiter has ended.
    pub(super) fn old_arbiter_gone(&mut self, todo: &mut Vec<Action>) {
        if self.has_old_arbiter() {
            todo.push(Action::Log(Notice::OldArbiterGone));
            self.alone_again(todo);
        }
    }

    /// Passes a stop on to a new arbiter that is not ready.
    pub(super) fn end_new_arbiter(&mut self, signal: Signal, now: Time, todo: &mut Vec<Action>) {
        let hurry = self.config.graceful_timeout.min(HURRY);
        let left = match signal {
            Signal::Quit => KILL_MARGIN,
            Signal::Term if !self.is_stopping() => {
                self.config.lameduck + self.config.graceful_timeout + MARGIN
            }
            _ => hurry + MARGIN,
        };
        let Other::New(new) = &mut self.other else { return };
        let was_killed = new.told && new.due.is_none();
        if new.ready || was_killed {
            return;
        }
        let before = new.due.filter(|_| new.told);
        new.due = Some(before.map_or(now + left, |due| due.min(now + left)));
        new.told = true;
        todo.push(Action::Signal { pid: new.pid, signal });
    }

    /// Ends a new arbiter that is not ready in time, and kills it if it does not end.
    pub(super) fn watch_new_arbiter(&mut self, now: Time, todo: &mut Vec<Action>) {
        let Other::New(new) = &mut self.other else { return };
        if new.due.is_none_or(|at| at > now) {
            return;
        }
        let (pid, took) = (new.pid, now - new.born);
        if mem::replace(&mut new.told, true) {
            new.due = None;
            todo.extend([Action::Log(Notice::Killing { pid }), Action::Kill { pid }]);
        } else {
            (new.late, new.due) = (true, Some(now + HURRY + MARGIN));
            todo.push(Action::Log(Notice::NewArbiterLate { pid, took }));
            todo.push(Action::Signal { pid, signal: Signal::Int });
        }
    }

    /// When [`watch_new_arbiter`](Self::watch_new_arbiter) has work.
    pub(super) fn new_arbiter_due(&self) -> Option<Time> {
        self.new_arbiter().and_then(|new| new.due)
    }

    /// Whether a new arbiter has to end before this one.
    pub(super) fn waits_for_new_arbiter(&self) -> bool {
        self.new_arbiter().is_some_and(|new| !new.ready)
    }

    /// The new arbiter, if it serves.
    pub(crate) fn ready_new_arbiter(&self) -> Option<Pid> {
        self.new_arbiter().filter(|new| new.ready).map(|new| new.pid)
    }

    /// Whether the workers of a new arbiter receive handed-off connections.
    pub(super) fn new_arbiter_receives(&self) -> bool {
        self.new_arbiter().is_some_and(|new| new.receives)
    }

    /// Whether an old arbiter is still alive.
    pub(super) fn has_old_arbiter(&self) -> bool {
        matches!(self.other, Other::Old)
    }

    pub(super) fn new_arbiter(&self) -> Option<&NewArbiter> {
        match &self.other {
            Other::New(new) => Some(new),
            _ => None,
        }
    }

    /// Drains all workers and keeps listening, until [`come_back`](Self::come_back). Returns their
    /// pids.
    pub(super) fn rest(&mut self, now: Time, todo: &mut Vec<Action>) -> Result<Vec<Pid>, Refused> {
        match self.phase {
            Phase::Starting => return Err(Refused::NotReady),
            Phase::Serving if self.is_resting() => return Err(Refused::Resting),
            Phase::Serving if self.is_reloading() => return Err(Refused::Reloading),
            Phase::Serving => {}
            _ => return Err(Refused::Stopping),
        }
        let reason = self.ready_new_arbiter().map_or(Reason::ScaleDown, |_| Reason::Upgrade);
        self.resting = Some(self.workers());
        todo.push(Action::Log(Notice::Resting));
        for index in (0..self.entries.len()).rev() {
            if self.entries[index].leaves_by().is_none() {
                self.dismiss(index, reason, now, todo);
            }
        }
        Ok(self.entries.iter().filter_map(WorkerEntry::pid).collect())
    }

    /// Requests as many workers as there were before [`rest`](Self::rest).
    pub(super) fn come_back(&mut self, todo: &mut Vec<Action>) {
        if let Some(workers) = self.resting.take() {
            self.returning = workers;
            todo.push(Action::Log(Notice::Scaled { workers }));
        }
    }

    /// Handles the command `resume`: starts the workers again, and returns how many will serve,
    /// including those that are already starting.
    pub(super) fn resume(&mut self, todo: &mut Vec<Action>) -> Result<usize, Refused> {
        match self.phase {
            Phase::Serving if self.is_resting() => {
                self.come_back(todo);
                Ok(self.workers() + self.returning)
            }
            Phase::Starting | Phase::Serving => Err(Refused::Awake),
            _ => Err(Refused::Stopping),
        }
    }

    /// Whether all workers that were started again are ready.
    pub(super) fn has_resumed(&self) -> bool {
        !self.is_resting() && self.entries.iter().filter(|entry| entry.is_holder()).all(WorkerEntry::is_ready)
    }

    /// Adds workers that were requested again, as far as draining ones leave room.
    pub(super) fn let_come_back(&mut self, now: Time) {
        while self.returning > 0 && self.enlarge(now) {
            self.returning -= 1;
        }
    }

    /// Whether all workers were drained by [`rest`](Self::rest) and not requested again.
    pub(super) fn is_at_rest(&self) -> bool {
        self.resting.is_some()
    }

    /// Whether all workers were drained by [`rest`](Self::rest), or not all are back.
    pub(super) fn is_resting(&self) -> bool {
        self.resting.is_some() || self.returning > 0
    }

    fn alone_again(&mut self, todo: &mut Vec<Action>) {
        self.other = Other::None;
        todo.push(Action::Reclaim);
        self.lose_receiver(todo);
        match &mut self.phase {
            Phase::Stopping(stop) if stop.backlog == Backlog::Shared => {
                stop.backlog = Backlog::Passing;
                todo.push(Action::SaveBacklog);
                if stop.drain.reason == Reason::QuickStop {
                    todo.push(Action::HurryBacklog);
                }
            }
            Phase::Serving => self.come_back(todo), // or no worker would serve
            _ => {}
        }
    }
}
