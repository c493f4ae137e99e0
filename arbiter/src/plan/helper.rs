//! The helper that tells operators how the server is: no worker, but there as long as the server is.

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
    Due {
        at: Time,
    },
    Spawning,
    Alive {
        pid: Pid,
        born: Time,
    },
    /// It is not to come again.
    Over {
        pid: Pid,
    },
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
            State::Alive { pid, .. } | State::Over { pid } => Some(pid),
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

    /// When it is to be spawned. While an old arbiter counts, that one's tells of the server.
    pub(super) fn helper_due_at(&self) -> Option<Time> {
        let waits = self.has_elder() && (self.shape.holds || matches!(self.phase, Phase::Starting));
        self.helper.as_ref().filter(|_| !waits).and_then(Helper::due_at)
    }

    /// Spawns it when that is due, also in a stop: it is wanted until the end.
    pub(super) fn help(&mut self, now: Time, todo: &mut Vec<Action>) {
        let is_due = self.helper_due_at().is_some_and(|at| at <= now);
        if let Some(helper) = self.helper.as_mut().filter(|_| is_due) {
            helper.state = State::Spawning;
            todo.push(Action::SpawnHelper);
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
    pub(super) fn leave_helping(&mut self, todo: &mut Vec<Action>) {
        self.helper = self.helper().map(|pid| {
            todo.push(Action::Kill { pid });
            Helper { state: State::Over { pid }, back_off: BackOff::default() }
        });
    }

    /// Whether the one that died was the helper.
    pub(super) fn helper_exited(
        &mut self,
        pid: Pid,
        death: Death,
        now: Time,
        todo: &mut Vec<Action>,
    ) -> bool {
        let Some(helper) = &mut self.helper else { return false };
        match helper.state {
            State::Alive { pid: alive, born } if alive == pid => {
                let again_in = helper.back_off.next(now - born >= LONG_ENOUGH);
                todo.push(Action::Log(Notice::HelperDied { pid, death, again_in }));
                helper.state = State::Due { at: now + again_in };
                true
            }
            State::Over { pid: over } if over == pid => {
                self.helper = None;
                true
            }
            _ => false,
        }
    }
}
