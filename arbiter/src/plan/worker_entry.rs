//! One worker, or the place of one that is to come: what it is there for, and how far it has come.

use std::mem;
use std::time::Duration;

use remuda_core::order::{Order, PolicyId};
use remuda_core::shutdown::{Drain, Reason};
use remuda_core::time::Time;
use rustix::process::Pid;

use super::expiry::{Allowance, Bounds};
use super::{Action, KILL_MARGIN, Patience};

/// A worker that was ready for this long is replaced at once; after a shorter life the slot waits.
pub(super) const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// The wait after a first short life; it doubles with each further one (D17).
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The longest wait.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Member {
    /// What the worker shows as its place. Who comes in its place has the same.
    pub(super) slot: u16,
    /// Where it writes on the scoreboard. No two members have the same.
    pub(super) seat: u16,
    pub(super) role: Role,
    pub(super) state: State,
    pub(super) back_off: BackOff,
}

/// Makes those that live shortly wait before they come again (D17).
#[derive(Debug, Default)]
pub(super) struct BackOff {
    /// Short lives in a row.
    failures: u32,
}

impl BackOff {
    /// How long to wait after a life or a boot that is over, which it counts if it was short.
    pub(super) fn next(&mut self, long_enough: bool) -> Duration {
        if long_enough {
            self.failures = 0;
            return Duration::ZERO;
        }
        let delay = BACKOFF_MIN.saturating_mul(2u32.saturating_pow(self.failures)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        delay
    }
}

/// What a worker is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// It is one of those that are asked for, and the only one of its slot.
    Holder,
    /// It takes the slot over from its holder once it is ready.
    Successor { reason: Reason },
    /// It drains until then at most, and nobody is spawned in its place. It may hand connections over as long as there is a
    /// receiver (D19).
    Leaver { reason: Reason, deadline: Time, receiver: bool },
}

#[derive(Debug)]
pub(super) enum State {
    /// There is no process until `at`.
    Due {
        at: Time,
    },
    /// A spawn was asked for.
    Spawning {
        generation: u32,
        patience: Patience,
        allowance: Allowance,
    },
    Alive(Life),
}

#[derive(Debug)]
pub(super) struct Life {
    pub(super) pid: Pid,
    /// The configuration that it has.
    pub(super) generation: u32,
    /// What that says of its silence.
    patience: Patience,
    /// What it says of its age and its size.
    pub(super) bounds: Bounds,
    pub(super) born: Time,
    pub(super) ready: Option<Time>,
    /// Up to when it is known to be well: its silence counts from here.
    pub(super) well: Time,
    /// An [`Action::Look`] was not answered yet.
    pub(super) looking: bool,
    /// It was silent for too long, was aborted, and is killed then.
    pub(super) aborted: Option<Time>,
    pub(super) killed: bool,
    /// It has said why it cannot boot.
    pub(super) said_why: bool,
    /// Bytes that it had when it was last looked at.
    pub(super) weight: Option<u64>,
    /// When it is looked at again.
    pub(super) weigh_at: Option<Time>,
    /// Since when, and why, it should be replaced.
    pub(super) spent: Option<(Time, Reason)>,
    /// It drains, and nobody here has told it to.
    pub(super) drains: bool,
}

impl Member {
    /// A place for a worker that is spawned then.
    pub(super) fn due(slot: u16, seat: u16, role: Role, at: Time) -> Self {
        Self { slot, seat, role, state: State::Due { at }, back_off: BackOff::default() }
    }

    /// The process that was asked for is there.
    pub(super) fn is_born(&mut self, pid: Pid, now: Time) {
        let State::Spawning { generation, patience, allowance } = self.state else { return };
        self.state = State::Alive(Life {
            pid,
            generation,
            patience,
            bounds: allowance.drawn(pid, now),
            born: now,
            ready: None,
            well: now,
            looking: false,
            aborted: None,
            killed: false,
            said_why: false,
            weight: None,
            weigh_at: None,
            spent: None,
            drains: false,
        });
    }

    /// Takes a slot that is without a worker; it is spawned then if that is sooner than it was due.
    pub(super) fn inherit(&mut self, at: Time) {
        self.role = Role::Holder;
        if let State::Due { at: due } = &mut self.state {
            *due = at.min(*due);
        }
    }

    pub(super) fn life(&mut self) -> Option<&mut Life> {
        match &mut self.state {
            State::Alive(life) => Some(life),
            _ => None,
        }
    }

    pub(super) fn alive(&self) -> Option<&Life> {
        match &self.state {
            State::Alive(life) => Some(life),
            _ => None,
        }
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        self.alive().map(|life| life.pid)
    }

    /// What it has to hear, if it is leaving.
    pub(super) fn leave_order(&self, now: Time) -> Option<Action> {
        match (self.pid(), self.role) {
            (Some(pid), Role::Leaver { reason, deadline, receiver }) => {
                let (drain, policy) = (Drain::new(reason, now, deadline), PolicyId::of(reason));
                let drain = if receiver { drain.with_receiver() } else { drain };
                Some(Action::Send { pid, order: Order::Drain { drain, policy } })
            }
            _ => None,
        }
    }

    /// There is nobody any more to hand connections over to; whether it has to hear of that.
    pub(super) fn loses_receiver(&mut self) -> bool {
        match &mut self.role {
            Role::Leaver { receiver, .. } => mem::take(receiver),
            _ => false,
        }
    }

    /// Whether it is one of those that are asked for.
    pub(super) fn is_holder(&self) -> bool {
        self.role == Role::Holder
    }

    /// Whether it is there only because a worker is replaced, for a reason that is one of `these`.
    pub(super) fn is_replaced(&self, these: fn(Reason) -> bool) -> bool {
        matches!(self.role, Role::Successor { reason } | Role::Leaver { reason, .. } if these(reason))
    }

    /// Whether it comes because of a reload.
    pub(super) fn is_reloaded(&self) -> bool {
        self.role == Role::Successor { reason: Reason::Reload }
    }

    /// The configuration that its process has, if there is one or will be at once.
    pub(super) fn generation(&self) -> Option<u32> {
        match &self.state {
            State::Due { .. } => None,
            State::Spawning { generation, .. } => Some(*generation),
            State::Alive(life) => Some(life.generation),
        }
    }

    /// What its configuration says of its silence.
    pub(super) fn patience(&self) -> Option<Patience> {
        self.alive().map(|life| life.patience)
    }

    /// By when it has to have left, if it is leaving.
    pub(super) fn leaves_by(&self) -> Option<Time> {
        match self.role {
            Role::Leaver { deadline, .. } => Some(deadline),
            _ => None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.alive().is_some_and(|life| life.ready.is_some())
    }

    /// Whether it accepts connections, unless it was told to leave.
    pub(super) fn accepts(&self) -> bool {
        self.alive().is_some_and(|life| life.ready.is_some() && !life.drains)
    }

    pub(super) fn is_spawning(&self) -> bool {
        matches!(self.state, State::Spawning { .. })
    }

    /// When it is to be spawned.
    pub(super) fn due_at(&self) -> Option<Time> {
        match self.state {
            State::Due { at } => Some(at),
            _ => None,
        }
    }

    /// Since when, and why, it should be replaced.
    pub(super) fn spent(&self) -> Option<(Time, Reason)> {
        self.alive().and_then(|life| life.spent)
    }

    /// When it has been silent for too long, or is killed for that.
    pub(super) fn silent_at(&self) -> Option<Time> {
        self.alive().and_then(Life::silent_at)
    }

    /// Up to when it is known to be well, if its silence is counted.
    pub(super) fn counts_from(&self) -> Option<Time> {
        self.alive().filter(|life| life.silent_at().is_some()).map(|life| life.well)
    }

    /// When it has outlived its deadline: that of a stop, if there is one, or its own.
    pub(super) fn kill_at(&self, stop_kills_at: Option<Time>) -> Option<Time> {
        let is_left = self.alive().is_some_and(|life| !life.killed);
        let own = self.leaves_by().map(|deadline| deadline + KILL_MARGIN);
        [stop_kills_at, own].into_iter().flatten().min().filter(|_| is_left)
    }
}

impl Life {
    /// When it has been silent for too long or, if it was aborted for that, when it is killed.
    pub(super) fn silent_at(&self) -> Option<Time> {
        let Patience { timeout, boot_timeout, .. } = self.patience;
        let bound = if self.ready.is_some() { timeout } else { boot_timeout };
        match self.aborted {
            _ if self.killed => None,
            None if bound.is_zero() => None,
            None => Some(self.well + bound),
            at => at,
        }
    }
}
