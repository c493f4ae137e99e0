//! The life of a worker: spawn, readiness, reports, silence and death.

use std::time::Duration;

use remuda_core::order::{Order, PolicyId, Report};
use remuda_core::time::Time;
use rustix::process::Pid;

use super::notice::Notice;
use super::words::Death;
use super::worker_entry::{LONG_ENOUGH, Role, State, WorkerEntry};
use super::{ABORT_GRACE, Action, Phase, Plan};

impl Plan {
    pub(super) fn spawned(&mut self, seat: u16, pid: Pid, now: Time, todo: &mut Vec<Action>) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.seat == seat && entry.is_spawning())
        else {
            todo.push(Action::Kill { pid }); // not requested any more, and no entry supervises it
            return;
        };
        entry.is_forked(pid, now);
        todo.push(Action::Log(Notice::Started { slot: entry.slot, pid }));
        match &self.phase {
            Phase::Stopping(stop) => todo.extend(stop.orders(pid, entry.leaves_by())),
            Phase::Lameduck { drain, .. } if entry.leaves_by().is_none() => {
                todo.push(Action::Send {
                    pid,
                    order: Order::Drain { drain: *drain, policy: PolicyId::Stop },
                });
            }
            _ => todo.extend(entry.leave_order(now)),
        }
    }

    pub(super) fn spawn_failed(&mut self, seat: u16, error: String, now: Time, todo: &mut Vec<Action>) {
        let stays = !self.is_stopping();
        let spawning = |entry: &WorkerEntry| entry.seat == seat && entry.is_spawning();
        let Some(index) = self.entries.iter().position(spawning) else { return };
        let (unproven, unwanted) = (self.is_unproven(index), self.is_overtaken(index));
        let gives_up = matches!(self.phase, Phase::Starting) && self.gives_up(0);
        let entry = &mut self.entries[index];
        let replaced = stays && !gives_up && entry.leaves_by().is_none() && !unwanted;
        let again_in = replaced.then(|| entry.back_off.next(false));
        todo.push(Action::Log(Notice::NotStarted { slot: entry.slot, error: error.clone(), again_in }));
        self.empty(index, again_in, now);
        if gives_up {
            self.give_up(0, format!("it could not be started: {error}"), now, todo);
        } else if unproven {
            self.give_up_reload(error, now, todo);
        }
    }

    pub(super) fn reported(&mut self, pid: Pid, report: Report, now: Time, todo: &mut Vec<Action>) {
        let stopping = self.is_stopping();
        let Some(index) = self.find(pid) else { return };
        let (slot, role) = (self.entries[index].slot, self.entries[index].role);
        let Some(process) = self.entries[index].process_mut() else { return };
        match report {
            Report::Ready if process.ready.is_none() => {
                self.was_ready = true;
                process.ready = Some(now);
                process.well = now;
                process.weigh_at = process.bounds.rss.map(|_| now);
                let took = now - process.born;
                todo.push(Action::Log(Notice::Ready { slot, pid, took }));
                // In a stop all workers leave: one that becomes ready replaces none.
                if !stopping {
                    self.take_over(index, now, todo);
                    self.become_ready(todo);
                }
            }
            Report::BootFailed { status, message } if !stopping => {
                process.said_why = true;
                todo.push(Action::Log(Notice::BootFailed { slot, pid, message: message.clone() }));
                if matches!(self.phase, Phase::Starting) {
                    // A worker that already leaves is not needed: its failure ends no start.
                    if !matches!(role, Role::Leaver { .. }) && self.gives_up(status.into()) {
                        self.give_up(status.into(), message, now, todo);
                    }
                } else if self.is_unproven(index) {
                    self.give_up_reload(message, now, todo);
                }
            }
            Report::Recycle { reason } if !stopping && role == Role::Holder && process.spent.is_none() => {
                process.spent = Some((now, reason));
                todo.push(Action::Log(Notice::Spent { slot, pid, reason }));
            }
            Report::Draining => process.drains = true,
            Report::ReopenLogs => {
                todo.extend([Action::ReopenLogs, Action::Send { pid, order: Order::ReopenLogs }]);
            }
            _ => {}
        }
    }

    /// Handles the last heartbeat of a worker that was silent for its time: if it is still silent,
    /// it is aborted.
    pub(super) fn beat(&mut self, seat: u16, at: Time, now: Time, todo: &mut Vec<Action>) {
        let at = self.credited(at);
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.seat == seat) else { return };
        let slot = entry.slot;
        let Some(process) = entry.process_mut().filter(|process| process.aborted.is_none()) else { return };
        process.looking = false;
        process.well = process.well.max(at);
        if process.silent_at().is_none_or(|at| at > now) {
            return;
        }
        process.aborted = Some(now + ABORT_GRACE);
        let (pid, silent, was_ready) = (process.pid, now - process.well, process.ready.is_some());
        todo.push(Action::Log(match process.ready {
            Some(_) => Notice::Silent { slot, pid, silent },
            None => Notice::BootTimedOut { slot, pid, took: now - process.born },
        }));
        todo.extend([Action::Describe { slot, seat }, Action::Abort { pid }]);
        if let Phase::Stopping(stop) = &mut self.phase
            && was_ready
        {
            stop.was_cut();
        }
    }

    /// The worker is about to be reported as gone, and its keeper lives.
    pub(super) fn kept(&mut self, pid: Pid, keeper: Pid) {
        let process = self.find(pid).and_then(|index| self.entries[index].process_mut());
        process.into_iter().for_each(|process| process.keeper = Some(keeper));
    }

    pub(super) fn exited(&mut self, pid: Pid, death: Death, now: Time, todo: &mut Vec<Action>) {
        if self.helper_exited(pid, death, now, todo) {
            return;
        }
        let Some(index) = self.find(pid) else {
            if !self.new_arbiter_exited(pid, death, todo) {
                todo.push(Action::Log(Notice::UnknownChild { pid, death }));
            }
            return;
        };
        let (stopping, starting) = (self.is_stopping(), matches!(self.phase, Phase::Starting));
        let (unproven, unwanted) = (self.is_unproven(index), self.is_overtaken(index));
        let entry = &mut self.entries[index];
        let (slot, seat, leaves) = (entry.slot, entry.seat, entry.leaves_by().is_some());
        let Some(process) = entry.process_mut() else { return };
        let lived = now - process.born;
        let (described, was_ready) = (process.aborted.is_some(), process.ready.is_some());
        let keeper = process.keeper;
        let status = death.status().unwrap_or_default();
        // A boot that reported its reason was counted when the report arrived.
        let boot_failed = starting && !leaves && process.ready.is_none() && !process.said_why;
        let long_enough = process.ready.is_some_and(|ready| now - ready >= LONG_ENOUGH);
        let gives_up = boot_failed && self.gives_up(status);
        let stays = !stopping && !gives_up && !leaves && !unwanted;
        let again_in = stays.then(|| self.entries[index].back_off.next(long_enough));
        todo.push(Action::Log(Notice::Died { slot, pid, death, lived, again_in }));
        let clean = death == Death::Status(0);
        // An aborted worker was described before the abort, while its seat still had its requests.
        if !clean && !described {
            todo.push(Action::Describe { slot, seat });
        }
        self.vacate(seat, clean, keeper, todo);
        self.empty(index, again_in, now);

        match (&mut self.phase, death) {
            // With status 6 the worker reports that its deadline cut work off.
            (Phase::Stopping(stop), Death::Status(6)) if was_ready => stop.was_cut(),
            _ if gives_up || unproven => {
                let message = match described {
                    true => format!("worker {pid} was not ready in time, and ended with {death}"),
                    false => format!("worker {pid} ended with {death} before it was ready"),
                };
                match gives_up {
                    true => self.give_up(status, message, now, todo),
                    false => self.give_up_reload(message, now, todo),
                }
            }
            _ => {}
        }
    }

    /// Counts a boot that failed during the start, with this exit status or none. Returns whether
    /// the server gives up: a worker that reports why it cannot boot would do so again, unless
    /// `max-boot-failures` allows more attempts.
    fn gives_up(&mut self, status: i32) -> bool {
        self.failed_boots = self.failed_boots.saturating_add(1);
        match self.config.max_boot_failures {
            0 => matches!(status, 3 | 4),
            most => !self.was_ready && self.failed_boots >= most,
        }
    }

    /// Requests the heartbeat of workers that are silent, and kills workers beyond their deadline.
    pub(super) fn watch(&mut self, now: Time, todo: &mut Vec<Action>) {
        let mut stop = match &mut self.phase {
            Phase::Stopping(stop) => Some(stop),
            _ => None,
        };
        for entry in &mut self.entries {
            let is_due = entry.silent_at().is_some_and(|at| at <= now);
            let is_over = entry.kill_at(stop.as_deref()).is_some_and(|at| at <= now);
            let seat = entry.seat;
            match entry.process_mut() {
                Some(process) if is_over || is_due && process.aborted.is_some() => {
                    process.killed = true;
                    if let Some(stop) = stop.as_mut().filter(|_| process.ready.is_some()) {
                        stop.was_cut();
                    }
                    todo.extend([
                        Action::Log(Notice::Killing { pid: process.pid }),
                        Action::Kill { pid: process.pid },
                    ]);
                }
                Some(process) if is_due && !process.looking => {
                    process.looking = true;
                    todo.push(Action::Look { seat });
                }
                _ => {}
            }
        }
    }

    /// Handles an entry without process: it gets a new process after `again_in`, or is removed. Its
    /// successor, if any, takes the slot and waits no longer than that, unless it has to prove its
    /// generation first.
    fn empty(&mut self, index: usize, again_in: Option<Duration>, now: Time) {
        let successor = self.successor_of(index).filter(|successor| !self.is_unproven(*successor));
        match (again_in, successor) {
            (Some(delay), None) => {
                // Its seat may still be its keeper's.
                let seat = self.free_seat_for(index);
                let entry = &mut self.entries[index];
                (entry.seat, entry.state) = (seat, State::Due { at: now + delay });
            }
            (Some(delay), Some(successor)) => {
                self.entries[successor].inherit(now + delay);
                self.entries.remove(index);
            }
            (None, _) => drop(self.entries.remove(index)),
        }
    }
}
