//! The helper that tells operators how the server is: no worker, but there as long as the server is.
//!
//! One that is followed by another, of this arbiter or of a new one, is retired: it accepts nothing any more, and ends once
//! those that are connected have been answered. Whoever connects meanwhile waits for the other one.

use std::time::Duration;

use remuda_core::time::Time;
use rustix::process::Pid;

use super::member::{BackOff, LONG_ENOUGH};
use super::{Action, Death, Phase, Plan};
use crate::notice::Notice;

/// A process, or the place of one that is to come.
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

/// One that another follows.
#[derive(Debug)]
pub(super) struct Retired {
    pid: Pid,
    /// When it is killed; none: it was.
    until: Option<Time>,
}

/// How long one that is retired has for those that are connected: longer than it keeps an idle connection.
pub(crate) const RETIREMENT: Duration = Duration::from_secs(6);

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
    /// The same with a helper.
    pub(crate) fn with_helper(self) -> Self {
        Self { helper: Some(Helper::due()), ..self }
    }

    /// The helper's process, if there is one.
    pub(crate) fn helper(&self) -> Option<Pid> {
        self.helper.as_ref().and_then(Helper::pid)
    }

    /// Its process and those that were retired.
    pub(crate) fn helpers(&self) -> impl Iterator<Item = Pid> {
        self.helper().into_iter().chain(self.retired.iter().map(|retired| retired.pid))
    }

    /// When [`help`](Self::help) has something to do.
    pub(super) fn helper_due_at(&self) -> Option<Time> {
        self.retired.iter().filter_map(|retired| retired.until).chain(self.helper_spawned_at()).min()
    }

    /// Spawns it when that is due, also in a stop: it is wanted until the end. Kills those that take too long to end.
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

    /// Ends it for good: from now on that of a new arbiter tells of the server.
    pub(super) fn leave_helping(&mut self, now: Time, todo: &mut Vec<Action>) {
        self.retire_helper(now, todo);
        self.helper = None;
    }

    /// A stop ends those that were retired by its deadline.
    pub(super) fn hurry_helpers(&mut self, deadline: Time) {
        let untils = self.retired.iter_mut().filter_map(|retired| retired.until.as_mut());
        untils.for_each(|until| *until = deadline.min(*until));
    }

    /// Whether the one that died was the helper.
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
        let waits = self.has_elder() && (self.shape.holds || matches!(self.phase, Phase::Starting));
        self.helper.as_ref().filter(|_| !waits).and_then(Helper::due_at)
    }

    /// Has another one follow.
    pub(super) fn retire_helper(&mut self, now: Time, todo: &mut Vec<Action>) {
        if let Some(helper) = &mut self.helper
            && let State::Alive { pid, .. } = helper.state
        {
            helper.state = State::Due { at: now };
            self.retired.push(Retired { pid, until: Some(now + RETIREMENT) });
            todo.push(Action::Retire { pid });
        }
    }
}
