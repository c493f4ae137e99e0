//! The helper process of the admin listener. It is not a worker, and lives as long as the server.
//!
//! A helper with a successor, of this arbiter or of a new one, is retired: it stops accepting, and
//! ends once its connections have been answered. New connections wait for the successor.

use remuda_core::time::Time;
use rustix::process::Pid;

use super::notice::Notice;
use super::words::{Death, RETIREMENT};
use super::worker_entry::{BackOff, LONG_ENOUGH};
use super::{Action, Phase, Plan};

/// The helper: a process, or one that is due.
#[derive(Debug)]
pub(super) struct Helper {
    state: State,
    back_off: BackOff,
}

#[derive(Debug)]
enum State {
    Due { at: Time },
    Spawning,
    Alive { pid: Pid, born: Time },
}

/// A retired helper.
#[derive(Debug)]
pub(super) struct Retired {
    pid: Pid,
    /// When it is killed. None: it was.
    until: Option<Time>,
}

impl Helper {
    pub(super) fn due() -> Self {
        Self { state: State::Due { at: Time::ZERO }, back_off: BackOff::default() }
    }

    fn due_at(&self) -> Option<Time> {
        match self.state {
            State::Due { at } => Some(at),
            _ => None,
        }
    }

    fn pid(&self) -> Option<Pid> {
        match self.state {
            State::Alive { pid, .. } => Some(pid),
            _ => None,
        }
    }
}

impl Plan {
    /// Adds a helper to the plan.
    pub(crate) fn with_helper(self) -> Self {
        Self { helper: Some(Helper::due()), ..self }
    }

    /// The helper's process, if there is one.
    pub(crate) fn helper(&self) -> Option<Pid> {
        self.helper.as_ref().and_then(Helper::pid)
    }

    /// The processes of the helper and of retired helpers.
    pub(crate) fn helpers(&self) -> impl Iterator<Item = Pid> {
        self.helper().into_iter().chain(self.retired.iter().map(|retired| retired.pid))
    }

    /// When [`help`](Self::help) has work.
    pub(super) fn helper_due_at(&self) -> Option<Time> {
        self.retired.iter().filter_map(|retired| retired.until).chain(self.helper_spawned_at()).min()
    }

    /// Spawns the helper when due, also in a stop: it serves until the end. Kills retired helpers
    /// that do not end in time.
    pub(super) fn help(&mut self, now: Time, todo: &mut Vec<Action>) {
        let is_due = self.helper_spawned_at().is_some_and(|at| at <= now);
        if let Some(helper) = self.helper.as_mut().filter(|_| is_due) {
            helper.state = State::Spawning;
            todo.push(Action::SpawnHelper);
        }
        for retired in self.retired.iter_mut().filter(|retired| retired.until.is_some_and(|at| at <= now)) {
            retired.until = None;
            todo.push(Action::Kill { pid: retired.pid });
        }
    }

    pub(super) fn helper_spawned(&mut self, result: Result<Pid, String>, now: Time, todo: &mut Vec<Action>) {
        let Some(helper) = &mut self.helper else { return };
        helper.state = match result {
            Ok(pid) => State::Alive { pid, born: now },
            Err(error) => {
                let again_in = helper.back_off.next(false);
                todo.push(Action::Log(Notice::HelperNotStarted { error, again_in }));
                State::Due { at: now + again_in }
            }
        };
    }

    /// Ends the helper for good: that of the new arbiter serves from now on.
    pub(super) fn leave_helping(&mut self, now: Time, todo: &mut Vec<Action>) {
        self.retire_helper(now, todo);
        self.helper = None;
    }

    /// Limits retired helpers to the deadline of a stop.
    pub(super) fn hurry_helpers(&mut self, deadline: Time) {
        let untils = self.retired.iter_mut().filter_map(|retired| retired.until.as_mut());
        untils.for_each(|until| *until = deadline.min(*until));
    }

    /// Handles the end of a helper. Returns whether `pid` was one.
    pub(super) fn helper_exited(
        &mut self,
        pid: Pid,
        death: Death,
        now: Time,
        todo: &mut Vec<Action>,
    ) -> bool {
        if let Some(Helper { state, back_off }) = &mut self.helper
            && let State::Alive { pid: alive, born } = *state
            && alive == pid
        {
            let again_in = back_off.next(now - born >= LONG_ENOUGH);
            todo.push(Action::Log(Notice::HelperDied { pid, death, again_in }));
            *state = State::Due { at: now + again_in };
            return true;
        }
        self.retired.extract_if(.., |retired| retired.pid == pid).count() > 0
    }

    /// When it is to be spawned. While an old arbiter counts, that one's tells of the server.
    fn helper_spawned_at(&self) -> Option<Time> {
        let waits = self.has_old_arbiter() && (self.config.holds || matches!(self.phase, Phase::Starting));
        self.helper.as_ref().filter(|_| !waits).and_then(Helper::due_at)
    }

    /// Retires the helper; a successor is spawned.
    pub(super) fn retire_helper(&mut self, now: Time, todo: &mut Vec<Action>) {
        // A stop does not wait for a retired helper beyond its deadline.
        let deadline = self.under_way().map_or(Time::MAX, |stop| stop.drain.deadline);
        if let Some(helper) = &mut self.helper
            && let State::Alive { pid, .. } = helper.state
        {
            helper.state = State::Due { at: now };
            self.retired.push(Retired { pid, until: Some((now + RETIREMENT).min(deadline)) });
            todo.push(Action::Retire { pid });
        }
    }
}
