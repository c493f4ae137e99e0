//! The end of the server: the time as a lame duck, the drain of all workers, and what becomes of the backlog (D3, D4).

use std::mem;

use remuda_core::order::{Order, PolicyId};
use remuda_core::shutdown::{Drain, Reason};
use remuda_core::time::Time;
use rustix::process::Pid;

use super::member::{Member, State};
use super::{Action, HURRY, KILL_MARGIN, Phase, Plan};
use crate::Outcome;
use crate::notice::Notice;

/// A stop under way.
#[derive(Debug)]
pub(super) struct Stop {
    /// What every worker was told.
    pub(super) drain: Drain,
    pub(super) kill_at: Time,
    pub(super) backlog: Backlog,
    /// How the server will have ended, as far as is known.
    outcome: Outcome,
}

/// Where the connections of the listeners' queues are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Backlog {
    /// Still there, and another arbiter's as well, which is about to end.
    Shared,
    /// On their way to the workers.
    Passing,
    /// Passed on; who lives may not have taken them yet.
    Passed,
    /// Given up, and not counted yet.
    Dropping,
    /// Taken or counted.
    Gone,
}

impl Plan {
    /// Serves on for a while, and lets it be known. The drain's deadline is what it will be at the latest.
    pub(super) fn become_lame(&mut self, now: Time, todo: &mut Vec<Action>) {
        self.end_reload(now, todo);
        let until = now + self.shape.lameduck;
        let drain = Drain::new(Reason::Stop, now, until + self.shape.graceful_timeout).lameduck();
        todo.push(Action::Log(Notice::Lameduck { left: self.shape.lameduck }));
        let staying = self.members.iter().filter(|member| member.leaves_by().is_none());
        let order = Order::Drain { drain, policy: PolicyId::Stop };
        todo.extend(staying.filter_map(Member::pid).map(|pid| Action::Send { pid, order: order.clone() }));
        self.phase = Phase::Lameduck { until, drain };
    }

    /// Stops by `deadline`; a stop under way is hurried, never slowed (D11).
    pub(super) fn stop(&mut self, reason: Reason, now: Time, deadline: Time, todo: &mut Vec<Action>) {
        let drain = Drain::new(reason, now, deadline);
        match &mut self.phase {
            Phase::Starting | Phase::Serving => {
                self.enter_stop(drain, Outcome::Stopped { reason, cut: false }, todo);
            }
            Phase::Lameduck { drain: told, .. } => {
                // An arbiter that wakes late does not move what they were told.
                let drain = Drain::new(reason, now, deadline.min(told.deadline));
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
                    for member in &self.members {
                        todo.extend(member.pid().map(|pid| stop.drain_order(pid, member.leaves_by())));
                    }
                }
            }
            Phase::Finished => {}
        }
        self.hurry_helpers(deadline);
    }

    /// Stops without any drain.
    pub(super) fn quit(&mut self, now: Time, todo: &mut Vec<Action>) {
        self.stop(Reason::QuickStop, now, now, todo);
        if let Phase::Stopping(stop) = &mut self.phase {
            stop.kill_at = now;
        }
    }

    /// Ends a server that never was ready: what kept one worker from booting would keep its replacement.
    pub(super) fn give_up(&mut self, status: i32, message: String, now: Time, todo: &mut Vec<Action>) {
        let status = if status == 4 { 4 } else { 3 };
        if self.shape.max_boot_failures > 0 {
            todo.push(Action::Log(Notice::GivingUp { boots: self.failed_boots }));
        }
        let drain = Drain::new(Reason::QuickStop, now, now + self.shape.graceful_timeout.min(HURRY));
        self.enter_stop(drain, Outcome::BootFailed { status, message }, todo);
    }

    /// The new arbiter, whose workers took connections over, is gone.
    pub(super) fn lose_receiver(&mut self, todo: &mut Vec<Action>) {
        let Phase::Stopping(stop) = &mut self.phase else { return };
        if mem::take(&mut stop.drain.receiver) {
            for member in &self.members {
                todo.extend(member.pid().map(|pid| stop.drain_order(pid, member.leaves_by())));
            }
        }
    }

    pub(super) fn backlog_over(&mut self, lost: usize, todo: &mut Vec<Action>) {
        if lost > 0 {
            todo.push(Action::Log(Notice::BacklogLost { lost }));
        }
        // Without a stop it was that of listeners which a reload has ended, or a slot. So it is while those of a stop are
        // another arbiter's as well.
        let Phase::Stopping(stop) = &mut self.phase else { return };
        stop.backlog = match stop.backlog {
            Backlog::Passing => Backlog::Passed,
            Backlog::Dropping => Backlog::Gone,
            Backlog::Shared | Backlog::Passed | Backlog::Gone => return,
        };
        let living = self.members.iter().filter_map(Member::pid);
        todo.extend(living.map(|pid| Action::Send { pid, order: Order::BacklogEnd }));
    }

    pub(super) fn finish_when_all_are_gone(&mut self, now: Time, todo: &mut Vec<Action>) {
        let Phase::Stopping(stop) = &mut self.phase else { return };
        let (nobody, is_over) = (self.members.is_empty(), stop.drain.is_over(now));
        let nobody_takes_it = match stop.backlog {
            Backlog::Passing => nobody || is_over,
            Backlog::Passed => nobody,
            Backlog::Shared | Backlog::Dropping | Backlog::Gone => false,
        };
        if nobody_takes_it {
            stop.backlog = Backlog::Dropping;
            todo.push(Action::DropBacklog);
        }
        if nobody && stop.backlog == Backlog::Gone {
            // Where another arbiter goes on, who asks this one's helper is not to notice.
            if self.ready_heir().is_some() && !is_over {
                self.leave_helping(now, todo);
            }
            let Phase::Stopping(stop) = &mut self.phase else { return };
            if !self.retired.is_empty() {
                return;
            }
            let finish = Action::Finish(stop.outcome.clone());
            self.phase = Phase::Finished;
            self.answer_waiting(todo);
            todo.push(finish);
        }
    }

    pub(super) fn enter_stop(&mut self, drain: Drain, outcome: Outcome, todo: &mut Vec<Action>) {
        let kill_at = drain.deadline + KILL_MARGIN;
        let backlog = if self.waits_for_heir() { Backlog::Shared } else { Backlog::Passing };
        let stop = Stop { drain, kill_at, backlog, outcome };
        todo.extend(self.ready_heir().map(|pid| Action::HandOver { pid }));
        todo.push(Action::Log(Notice::Stopping { reason: drain.reason, left: drain.deadline - drain.since }));
        self.members.retain(|member| !matches!(member.state, State::Due { .. }));
        for member in &self.members {
            todo.extend(member.pid().into_iter().flat_map(|pid| stop.orders(pid, member.leaves_by())));
        }
        if backlog == Backlog::Passing {
            todo.push(Action::SaveBacklog);
        }
        self.hurry_helpers(drain.deadline);
        self.phase = Phase::Stopping(stop);
        self.end_reload(drain.since, todo);
    }
}

impl Stop {
    /// All that a worker has to hear which has not heard of the stop. It may be leaving already.
    pub(super) fn orders(&self, pid: Pid, leaves_by: Option<Time>) -> impl Iterator<Item = Action> + use<> {
        let ended = matches!(self.backlog, Backlog::Passed | Backlog::Gone);
        let end = ended.then_some(Action::Send { pid, order: Order::BacklogEnd });
        [self.drain_order(pid, leaves_by)].into_iter().chain(end)
    }

    /// Who is leaving has until then, and no longer.
    fn drain_order(&self, pid: Pid, leaves_by: Option<Time>) -> Action {
        let mut drain = self.drain;
        drain.deadline = leaves_by.map_or(drain.deadline, |at| at.min(drain.deadline));
        Action::Send { pid, order: Order::Drain { drain, policy: PolicyId::of(drain.reason) } }
    }

    pub(super) fn was_cut(&mut self) {
        if let Outcome::Stopped { cut, .. } = &mut self.outcome {
            *cut = true;
        }
    }
}
