//! The binary upgrade: another arbiter beside this one, and which of the two serves.
//!
//! ```text
//! the old one   Alone ── USR2 ──▶ Heir, booting ── ready ──▶ drains and ends; or, where people decide, serves on
//!                 ▲                  │ dies, is late, TERM INT QUIT │ dies            until WINCH, HUP and QUIT say more
//!                 └──────────────────┴──────────────────────────────┘
//! the new one   Elder ── the old one is gone ──▶ Alone
//! ```
//!
//! Until the heir is ready nothing has changed, and who stops the server stops both: the backlog is nobody's before
//! the heir is gone.

use std::mem;
use std::time::Duration;

use remuda_core::shutdown::{Drain, Reason};
use remuda_core::time::Time;
use rustix::process::Pid;

use super::member::Member;
use super::stop::Backlog;
use super::{Action, Death, HURRY, KILL_MARGIN, Phase, Plan, Refused, Signal};
use crate::Outcome;
use crate::notice::Notice;

/// The other arbiter of an upgrade.
#[derive(Debug)]
pub(super) enum Other {
    /// There is none.
    None,
    /// It has started this one, and lives.
    Elder,
    /// It was asked for.
    Launching,
    /// This one has started it.
    Heir(Heir),
}

#[derive(Debug)]
pub(super) struct Heir {
    pid: Pid,
    born: Time,
    ready: bool,
    /// Its workers take connections over.
    receives: bool,
    /// It was told to end.
    told: bool,
    /// Because it was not ready in time.
    late: bool,
    /// When it is told to end, or after that is killed.
    due: Option<Time>,
}

/// How long after its own end at the latest, with all its workers, an heir is killed that was told to end.
const MARGIN: Duration = KILL_MARGIN.saturating_mul(2);

impl Plan {
    /// Starts a new arbiter, unless something stands in the way: there is another one already, or it is not the time.
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
            return todo.push(Action::Kill { pid }); // nobody asked for it, and nobody would look after it
        }
        let bound = self.shape.patience.boot_timeout;
        let due = (!bound.is_zero()).then(|| now + bound);
        self.other = Other::Heir(Heir {
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

    /// The new arbiter serves: this one drains its workers and ends, or waits for people to say so.
    pub(super) fn heir_ready(&mut self, receives: bool, now: Time, todo: &mut Vec<Action>) {
        let Other::Heir(heir) = &mut self.other else { return };
        if heir.told || heir.ready {
            return;
        }
        (heir.ready, heir.receives, heir.due) = (true, receives, None);
        let (pid, took, held) = (heir.pid, now - heir.born, self.shape.holds);
        todo.push(Action::Log(Notice::HeirReady { pid, took, held }));
        if !held {
            self.leave_helping(now, todo);
            let drain = Drain::new(Reason::Upgrade, now, now + self.shape.graceful_timeout);
            let drain = if receives { drain.with_receiver() } else { drain };
            self.enter_stop(drain, Outcome::Stopped { reason: Reason::Upgrade, cut: false }, todo);
        }
    }

    /// Whether it was the new arbiter that has ended. What was shared is this one's again.
    pub(super) fn heir_exited(&mut self, pid: Pid, death: Death, todo: &mut Vec<Action>) -> bool {
        let Some(heir) = self.heir().filter(|heir| heir.pid == pid) else { return false };
        todo.push(Action::Log(match heir.ready {
            true => Notice::HeirGone { pid, death },
            false => {
                let when = if heir.late { "was not ready in time, and ended with" } else { "ended with" };
                let then = if heir.late { "" } else { " before it was ready" };
                Notice::UpgradeFailed { why: format!("the new arbiter {pid} {when} {death}{then}") }
            }
        }));
        self.alone_again(todo);
        true
    }

    /// The old arbiter has ended.
    pub(super) fn elder_gone(&mut self, todo: &mut Vec<Action>) {
        if self.has_elder() {
            todo.push(Action::Log(Notice::ElderGone));
            self.alone_again(todo);
        }
    }

    /// Has an arbiter that is not ready end as this one does.
    pub(super) fn end_heir(&mut self, signal: Signal, now: Time, todo: &mut Vec<Action>) {
        let hurry = self.shape.graceful_timeout.min(HURRY);
        let left = match signal {
            Signal::Quit => KILL_MARGIN,
            Signal::Term if !self.is_stopping() => self.shape.lameduck + self.shape.graceful_timeout + MARGIN,
            _ => hurry + MARGIN,
        };
        let Other::Heir(heir) = &mut self.other else { return };
        let was_killed = heir.told && heir.due.is_none();
        if heir.ready || was_killed {
            return;
        }
        let before = heir.due.filter(|_| heir.told);
        heir.due = Some(before.map_or(now + left, |due| due.min(now + left)));
        heir.told = true;
        todo.push(Action::Signal { pid: heir.pid, signal });
    }

    /// Ends a new arbiter that is not ready in time, and kills one that does not end.
    pub(super) fn watch_heir(&mut self, now: Time, todo: &mut Vec<Action>) {
        let Other::Heir(heir) = &mut self.other else { return };
        if heir.due.is_none_or(|at| at > now) {
            return;
        }
        let (pid, took) = (heir.pid, now - heir.born);
        if mem::replace(&mut heir.told, true) {
            heir.due = None;
            todo.extend([Action::Log(Notice::Killing { pid }), Action::Kill { pid }]);
        } else {
            (heir.late, heir.due) = (true, Some(now + HURRY + MARGIN));
            todo.push(Action::Log(Notice::HeirLate { pid, took }));
            todo.push(Action::Signal { pid, signal: Signal::Int });
        }
    }

    /// When [`watch_heir`](Self::watch_heir) has something to do.
    pub(super) fn heir_due(&self) -> Option<Time> {
        self.heir().and_then(|heir| heir.due)
    }

    /// Whether a new arbiter has to end before this one can.
    pub(super) fn waits_for_heir(&self) -> bool {
        self.heir().is_some_and(|heir| !heir.ready)
    }

    /// The new arbiter, if it serves.
    pub(crate) fn ready_heir(&self) -> Option<Pid> {
        self.heir().filter(|heir| heir.ready).map(|heir| heir.pid)
    }

    /// Whether the workers of a new arbiter take connections over.
    pub(super) fn heir_receives(&self) -> bool {
        self.heir().is_some_and(|heir| heir.receives)
    }

    /// Whether an old arbiter is there still.
    pub(super) fn has_elder(&self) -> bool {
        matches!(self.other, Other::Elder)
    }

    pub(super) fn heir(&self) -> Option<&Heir> {
        match &self.other {
            Other::Heir(heir) => Some(heir),
            _ => None,
        }
    }

    /// Drains all workers and goes on listening, until [`come_back`](Self::come_back). Says who they are.
    pub(super) fn rest(&mut self, now: Time, todo: &mut Vec<Action>) -> Result<Vec<Pid>, Refused> {
        match self.phase {
            Phase::Starting => return Err(Refused::NotReady),
            Phase::Serving if self.is_resting() => return Err(Refused::Resting),
            Phase::Serving if self.is_reloading() => return Err(Refused::Reloading),
            Phase::Serving => {}
            _ => return Err(Refused::Stopping),
        }
        let reason = self.ready_heir().map_or(Reason::ScaleDown, |_| Reason::Upgrade);
        self.resting = Some(self.workers());
        todo.push(Action::Log(Notice::Resting));
        for index in (0..self.members.len()).rev() {
            if self.members[index].leaves_by().is_none() {
                self.dismiss(index, reason, now, todo);
            }
        }
        Ok(self.members.iter().filter_map(Member::pid).collect())
    }

    /// As many workers as there were before they were to rest.
    pub(super) fn come_back(&mut self, todo: &mut Vec<Action>) {
        if let Some(workers) = self.resting.take() {
            self.returning = workers;
            todo.push(Action::Log(Notice::Scaled { workers }));
        }
    }

    /// Lets those come that were to come back, as far as those that still drain leave room.
    pub(super) fn let_come_back(&mut self, now: Time) {
        while self.returning > 0 && self.enlarge(now) {
            self.returning -= 1;
        }
    }

    /// Whether workers were told to rest, and not to come back.
    pub(super) fn is_at_rest(&self) -> bool {
        self.resting.is_some()
    }

    /// Whether workers were told to rest, or have not all come back.
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
            }
            Phase::Serving => self.come_back(todo), // or nobody would serve
            _ => {}
        }
    }
}
