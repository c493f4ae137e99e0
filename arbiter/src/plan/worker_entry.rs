//! The entry of one worker, or of a worker that is due: its role and its state.

use std::mem;
use std::time::Duration;

use remuda_core::order::{Order, PolicyId};
use remuda_core::shutdown::{Drain, Reason};
use remuda_core::time::Time;
use rustix::process::Pid;

use super::Action;
use super::words::{Allowance, Bounds, Patience};

/// A worker that was ready for this long is replaced at once; after a shorter life with back-off.
pub(super) const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// The back-off after the first short life; it doubles with each further one (D17).
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The longest back-off.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct WorkerEntry {
    /// The slot of the worker. Its successors have the same.
    pub(super) slot: u16,
    /// Its seat on the scoreboard, unique among entries.
    pub(super) seat: u16,
    pub(super) role: Role,
    pub(super) state: State,
    pub(super) back_off: BackOff,
}

/// The back-off of workers with short lives (D17).
#[derive(Debug, Default)]
pub(super) struct BackOff {
    /// Short lives in a row.
    failures: u32,
}

impl BackOff {
    /// Returns the wait after the end of a life or a boot, and counts it if it was short.
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

/// The role of a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// One of the wanted workers, and the only one of its slot.
    Holder,
    /// Takes over the slot from its holder once it is ready.
    Successor { reason: Reason },
    /// Drains until `deadline` at most, and is not replaced. It may hand connections over while
    /// there is a receiver (D19).
    Leaver { reason: Reason, deadline: Time, receiver: bool },
}

#[derive(Debug)]
pub(super) enum State {
    /// No process until `at`.
    Due {
        at: Time,
    },
    /// A spawn was requested.
    Spawning {
        generation: u32,
        patience: Patience,
        allowance: Allowance,
    },
    Alive(Process),
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    /// The generation of its configuration.
    pub(super) generation: u32,
    /// The limits of silence in its configuration.
    patience: Patience,
    /// Its limits of age and memory.
    pub(super) bounds: Bounds,
    pub(super) born: Time,
    pub(super) ready: Option<Time>,
    /// The last time at which it was known to be alive: its silence counts from here.
    pub(super) well: Time,
    /// Whether an [`Action::Look`] is unanswered.
    pub(super) looking: bool,
    /// Aborted after too long a silence; the time at which it is killed.
    pub(super) aborted: Option<Time>,
    pub(super) killed: bool,
    /// Whether it has reported why it cannot boot.
    pub(super) said_why: bool,
    /// Bytes of memory at the last reading.
    pub(super) weight: Option<u64>,
    /// When its memory is read next.
    pub(super) weigh_at: Option<Time>,
    /// Since when, and why, it is due for replacement.
    pub(super) spent: Option<(Time, Reason)>,
    /// Whether it drains without an order of the arbiter.
    pub(super) drains: bool,
    /// Its keeper, once it is about to be reported as gone (D20).
    pub(super) keeper: Option<Pid>,
}

impl WorkerEntry {
    /// Creates the entry of a worker that is spawned at `at`.
    pub(super) fn due(slot: u16, seat: u16, role: Role, at: Time) -> Self {
        Self { slot, seat, role, state: State::Due { at }, back_off: BackOff::default() }
    }

    /// Records the process that was forked.
    pub(super) fn is_forked(&mut self, pid: Pid, now: Time) {
        let State::Spawning { generation, patience, allowance } = self.state else { return };
        self.state = State::Alive(Process {
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
            keeper: None,
        });
    }

    /// Takes a slot without a worker. The spawn is due at `at`, or earlier if it was.
    pub(super) fn inherit(&mut self, at: Time) {
        self.role = Role::Holder;
        if let State::Due { at: due } = &mut self.state {
            *due = at.min(*due);
        }
    }

    pub(super) fn process_mut(&mut self) -> Option<&mut Process> {
        match &mut self.state {
            State::Alive(process) => Some(process),
            _ => None,
        }
    }

    pub(super) fn process(&self) -> Option<&Process> {
        match &self.state {
            State::Alive(process) => Some(process),
            _ => None,
        }
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        self.process().map(|process| process.pid)
    }

    /// The order to drain, if the worker is leaving.
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

    /// Removes the receiver of its connections. Returns whether it had one, and has to be told.
    pub(super) fn loses_receiver(&mut self) -> bool {
        match &mut self.role {
            Role::Leaver { receiver, .. } => mem::take(receiver),
            _ => false,
        }
    }

    /// Whether it is one of the wanted workers.
    pub(super) fn is_holder(&self) -> bool {
        self.role == Role::Holder
    }

    /// Whether it exists only because a worker is replaced, for one of `these` reasons.
    pub(super) fn is_replaced(&self, these: fn(Reason) -> bool) -> bool {
        matches!(self.role, Role::Successor { reason } | Role::Leaver { reason, .. } if these(reason))
    }

    /// Whether it is a successor in a reload.
    pub(super) fn is_reloaded(&self) -> bool {
        self.role == Role::Successor { reason: Reason::Reload }
    }

    /// The generation of its process, if it has one or is being spawned.
    pub(super) fn generation(&self) -> Option<u32> {
        match &self.state {
            State::Due { .. } => None,
            State::Spawning { generation, .. } => Some(*generation),
            State::Alive(process) => Some(process.generation),
        }
    }

    /// The limits of silence in its configuration.
    pub(super) fn patience(&self) -> Option<Patience> {
        self.process().map(|process| process.patience)
    }

    /// Its deadline, if it is leaving.
    pub(super) fn leaves_by(&self) -> Option<Time> {
        match self.role {
            Role::Leaver { deadline, .. } => Some(deadline),
            _ => None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.process().is_some_and(|process| process.ready.is_some())
    }

    /// Whether it accepts connections, apart from an order to leave.
    pub(super) fn accepts(&self) -> bool {
        self.process().is_some_and(|process| process.ready.is_some() && !process.drains)
    }

    pub(super) fn is_spawning(&self) -> bool {
        matches!(self.state, State::Spawning { .. })
    }

    /// When its spawn is due.
    pub(super) fn due_at(&self) -> Option<Time> {
        match self.state {
            State::Due { at } => Some(at),
            _ => None,
        }
    }

    /// Since when, and why, it is due for replacement.
    pub(super) fn spent(&self) -> Option<(Time, Reason)> {
        self.process().and_then(|process| process.spent)
    }

    /// When it counts as hung, or is killed for that.
    pub(super) fn silent_at(&self) -> Option<Time> {
        self.process().and_then(Process::silent_at)
    }

    /// The last time at which it was known to be alive, if its silence is limited.
    pub(super) fn counts_from(&self) -> Option<Time> {
        self.process().filter(|process| process.silent_at().is_some()).map(|process| process.well)
    }
}

impl Process {
    /// When it counts as hung or, after it was aborted for that, when it is killed.
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
