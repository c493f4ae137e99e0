//! The end of the server: lame duck phase, drain of all workers, and backlog (D3, D4).

use std::mem;

use remuda_core::order::{Order, PolicyId};
use remuda_core::shutdown::{Drain, Reason};
use remuda_core::time::Time;
use rustix::process::Pid;

use super::notice::Notice;
use super::worker_entry::{Process, State, WorkerEntry};
use super::{Action, HURRY, KILL_MARGIN, Phase, Plan};
use crate::outcome::Outcome;

/// A stop under way.
#[derive(Debug)]
pub(super) struct Stop {
    /// The drain that every worker was told.
    pub(super) drain: Drain,
    pub(super) kill_at: Time,
    /// When a worker that never reported ready is killed. It has nothing to finish and ends by
    /// itself when told to stop, unless the application handles signals itself.
    unready_kill_at: Time,
    pub(super) backlog: Backlog,
    /// The outcome of the server so far.
    outcome: Outcome,
}

/// The state of the connections in the listeners' queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Backlog {
    /// In the queues, which another arbiter shares that is about to end.
    Shared,
    /// Being passed to workers.
    Passing,
    /// Passed on; living workers may not have received them yet.
    Passed,
    /// Being dropped, and not counted yet.
    Dropping,
    /// Received or counted.
    Gone,
}

impl Plan {
    /// Begins the lame duck phase and tells all workers. The drain's deadline is the latest
    /// possible one.
    pub(super) fn become_lame(&mut self, now: Time, todo: &mut Vec<Action>) {
        self.end_reload(now, todo);
        let until = now + self.config.lameduck;
        let drain = Drain::new(Reason::Stop, now, until + self.config.graceful_timeout).lameduck();
        todo.push(Action::Log(Notice::Lameduck { left: self.config.lameduck }));
        let staying = self.entries.iter().filter(|entry| entry.leaves_by().is_none());
        let order = Order::Drain { drain, policy: PolicyId::Stop };
        todo.extend(
            staying.filter_map(WorkerEntry::pid).map(|pid| Action::Send { pid, order: order.clone() }),
        );
        self.phase = Phase::Lameduck { until, drain };
    }

    /// Stops by `deadline`. The deadline of a stop under way only moves closer (D11).
    pub(super) fn stop(&mut self, reason: Reason, now: Time, deadline: Time, todo: &mut Vec<Action>) {
        let drain = Drain::new(reason, now, deadline);
        match &mut self.phase {
            Phase::Starting | Phase::Serving => {
                self.enter_stop(drain, Outcome::Stopped { reason, cut: false }, todo);
            }
            Phase::Lameduck { drain: told, .. } => {
                // An arbiter that wakes late must not extend the deadline that workers were told.
                let drain = Drain::new(reason, now, deadline.min(told.deadline));
                self.enter_stop(drain, Outcome::Stopped { reason, cut: false }, todo);
            }
            Phase::Stopping(stop) => {
                if let Outcome::Stopped { reason: told, .. } = &mut stop.outcome
                    && reason == Reason::QuickStop
                {
                    *told = reason;
                }
                if stop.backlog == Backlog::Passing {
                    todo.push(Action::HurryBacklog);
                }
                if deadline < stop.drain.deadline {
                    stop.drain.merge(drain);
                    stop.kill_at = deadline + KILL_MARGIN;
                    todo.push(Action::Log(Notice::Hurried { left: deadline - now }));
                    for entry in &self.entries {
                        todo.extend(entry.pid().map(|pid| stop.drain_order(pid, entry.leaves_by())));
                    }
                }
            }
            Phase::Finished(_) => {}
        }
        self.hurry_helpers(deadline);
    }

    /// Stops without a drain.
    pub(super) fn quit(&mut self, now: Time, todo: &mut Vec<Action>) {
        self.stop(Reason::QuickStop, now, now, todo);
        if let Phase::Stopping(stop) = &mut self.phase {
            stop.kill_at = now;
        }
    }

    /// Ends a server that was never ready: the fault of one worker would affect its replacement as
    /// well.
    pub(super) fn give_up(&mut self, status: i32, message: String, now: Time, todo: &mut Vec<Action>) {
        let status = if status == 4 { 4 } else { 3 };
        if self.config.max_boot_failures > 0 {
            todo.push(Action::Log(Notice::GivingUp { boots: self.failed_boots }));
        }
        let drain = Drain::new(Reason::QuickStop, now, now + self.config.graceful_timeout.min(HURRY));
        self.enter_stop(drain, Outcome::BootFailed { status, message }, todo);
    }

    /// The new arbiter, whose workers took connections over, is gone.
    pub(super) fn lose_receiver(&mut self, todo: &mut Vec<Action>) {
        let Phase::Stopping(stop) = &mut self.phase else { return };
        if mem::take(&mut stop.drain.receiver) {
            for entry in &self.entries {
                todo.extend(entry.pid().map(|pid| stop.drain_order(pid, entry.leaves_by())));
            }
        }
    }

    pub(super) fn backlog_over(&mut self, lost: usize, todo: &mut Vec<Action>) {
        if lost > 0 {
            todo.push(Action::Log(Notice::BacklogLost { lost }));
        }
        // Outside of a stop it was the backlog of listeners ended by a reload, or of a slot. The
        // same holds in a stop while another arbiter shares the listeners.
        let Phase::Stopping(stop) = &mut self.phase else { return };
        stop.backlog = match stop.backlog {
            Backlog::Passing => Backlog::Passed,
            Backlog::Dropping => Backlog::Gone,
            Backlog::Shared | Backlog::Passed | Backlog::Gone => return,
        };
        let living = self.entries.iter().filter_map(WorkerEntry::pid);
        todo.extend(living.map(|pid| Action::Send { pid, order: Order::BacklogEnd }));
    }

    pub(super) fn finish_when_all_are_gone(&mut self, now: Time, todo: &mut Vec<Action>) {
        let Phase::Stopping(stop) = &mut self.phase else { return };
        let (nobody, is_over) = (self.entries.is_empty(), stop.drain.is_over(now));
        let nobody_takes_it = match stop.backlog {
            Backlog::Passing => nobody || is_over,
            Backlog::Passed => nobody,
            Backlog::Shared | Backlog::Dropping | Backlog::Gone => false,
        };
        if nobody_takes_it {
            stop.backlog = Backlog::Dropping;
            todo.push(Action::DropBacklog);
        }
        if nobody && stop.backlog == Backlog::Gone && self.keepers.is_empty() {
            // If another arbiter serves on, clients of this one's helper must not notice the end.
            if self.ready_new_arbiter().is_some() && !is_over {
                self.leave_helping(now, todo);
            }
            let Phase::Stopping(stop) = &mut self.phase else { return };
            if !self.retired.is_empty() {
                return;
            }
            let outcome = stop.outcome.clone();
            self.phase = Phase::Finished(outcome.clone());
            self.answer_waiting(todo);
            todo.push(Action::Finish(outcome));
        }
    }

    pub(super) fn enter_stop(&mut self, drain: Drain, outcome: Outcome, todo: &mut Vec<Action>) {
        let kill_at = drain.deadline + KILL_MARGIN;
        let backlog = if self.waits_for_new_arbiter() { Backlog::Shared } else { Backlog::Passing };
        let unready_kill_at = kill_at.min(drain.since + KILL_MARGIN);
        let stop = Stop { drain, kill_at, unready_kill_at, backlog, outcome };
        todo.extend(self.ready_new_arbiter().map(|pid| Action::HandOver { pid }));
        todo.push(Action::Log(Notice::Stopping { reason: drain.reason, left: drain.deadline - drain.since }));
        self.entries.retain(|entry| !matches!(entry.state, State::Due { .. }));
        for entry in &self.entries {
            todo.extend(entry.pid().into_iter().flat_map(|pid| stop.orders(pid, entry.leaves_by())));
        }
        if backlog == Backlog::Passing {
            todo.push(Action::SaveBacklog);
            if drain.reason == Reason::QuickStop {
                todo.push(Action::HurryBacklog);
            }
        }
        self.hurry_helpers(drain.deadline);
        self.phase = Phase::Stopping(stop);
        self.end_reload(drain.since, todo);
    }
}

impl Stop {
    /// All orders for a worker that was not told of the stop. It may already be leaving.
    pub(super) fn orders(&self, pid: Pid, leaves_by: Option<Time>) -> impl Iterator<Item = Action> + use<> {
        let ended = matches!(self.backlog, Backlog::Passed | Backlog::Gone);
        let end = ended.then_some(Action::Send { pid, order: Order::BacklogEnd });
        [self.drain_order(pid, leaves_by)].into_iter().chain(end)
    }

    /// The order to drain. A leaving worker keeps its deadline if that is earlier.
    fn drain_order(&self, pid: Pid, leaves_by: Option<Time>) -> Action {
        let mut drain = self.drain;
        drain.deadline = leaves_by.map_or(drain.deadline, |at| at.min(drain.deadline));
        Action::Send { pid, order: Order::Drain { drain, policy: PolicyId::of(drain.reason) } }
    }

    /// When this stop kills `process`.
    pub(super) fn kills_at(&self, process: &Process) -> Time {
        match process.ready {
            Some(_) => self.kill_at,
            None => self.kill_at.min(self.unready_kill_at.max(process.born + KILL_MARGIN)),
        }
    }

    pub(super) fn was_cut(&mut self) {
        if let Outcome::Stopped { cut, .. } = &mut self.outcome {
            *cut = true;
        }
    }
}

impl WorkerEntry {
    /// When it is killed: after the deadline of a stop, or after its own.
    pub(super) fn kill_at(&self, stop: Option<&Stop>) -> Option<Time> {
        let process = self.process().filter(|process| !process.killed)?;
        let own = self.leaves_by().map(|deadline| deadline + KILL_MARGIN);
        [stop.map(|stop| stop.kills_at(process)), own].into_iter().flatten().min()
    }
}
