//! What becomes of workers: they are born, are ready, say something, fall silent, and die.

use std::time::Duration;

use remuda_core::order::{Order, PolicyId, Report};
use remuda_core::time::Time;
use rustix::process::Pid;

use super::member::{LONG_ENOUGH, Member, Role, State};
use super::{ABORT_GRACE, Action, Death, Phase, Plan};
use crate::notice::Notice;

impl Plan {
    pub(super) fn spawned(&mut self, seat: u16, pid: Pid, now: Time, todo: &mut Vec<Action>) {
        let Some(member) = self.members.iter_mut().find(|member| member.seat == seat && member.is_spawning())
        else {
            todo.push(Action::Kill { pid }); // nobody asked for it, and nobody would look after it
            return;
        };
        member.is_born(pid, now);
        todo.push(Action::Log(Notice::Started { slot: member.slot, pid }));
        match &self.phase {
            Phase::Stopping(stop) => todo.extend(stop.orders(pid, member.leaves_by())),
            Phase::Lameduck { drain, .. } if member.leaves_by().is_none() => {
                todo.push(Action::Send {
                    pid,
                    order: Order::Drain { drain: *drain, policy: PolicyId::Stop },
                });
            }
            _ => todo.extend(member.leave_order(now)),
        }
    }

    pub(super) fn spawn_failed(&mut self, seat: u16, error: String, now: Time, todo: &mut Vec<Action>) {
        let stays = !self.is_stopping();
        let spawning = |member: &Member| member.seat == seat && member.is_spawning();
        let Some(index) = self.members.iter().position(spawning) else { return };
        let (unproven, unwanted) = (self.is_unproven(index), self.is_overtaken(index));
        let gives_up = matches!(self.phase, Phase::Starting) && self.gives_up(0);
        let member = &mut self.members[index];
        let replaced = stays && !gives_up && member.leaves_by().is_none() && !unwanted;
        let again_in = replaced.then(|| member.back_off.next(false));
        todo.push(Action::Log(Notice::NotStarted { slot: member.slot, error: error.clone(), again_in }));
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
        let (slot, role) = (self.members[index].slot, self.members[index].role);
        let Some(life) = self.members[index].life() else { return };
        match report {
            Report::Ready if life.ready.is_none() => {
                self.was_ready = true;
                life.ready = Some(now);
                life.well = now;
                life.weigh_at = life.bounds.rss.map(|_| now);
                let took = now - life.born;
                todo.push(Action::Log(Notice::Ready { slot, pid, took }));
                if !stopping {
                    self.take_over(index, now, todo);
                    self.become_ready(todo);
                }
            }
            Report::BootFailed { status, message } if !stopping => {
                life.said_why = true;
                todo.push(Action::Log(Notice::BootFailed { slot, pid, message: message.clone() }));
                if matches!(self.phase, Phase::Starting) {
                    if !matches!(role, Role::Leaver { .. }) && self.gives_up(status.into()) {
                        self.give_up(status.into(), message, now, todo);
                    }
                } else if self.is_unproven(index) {
                    self.give_up_reload(message, now, todo);
                }
            }
            Report::Recycle { reason } if !stopping && role == Role::Holder && life.spent.is_none() => {
                life.spent = Some((now, reason));
                todo.push(Action::Log(Notice::Spent { slot, pid, reason }));
            }
            Report::Draining => life.drains = true,
            _ => {}
        }
    }

    /// Whether a worker that has been silent for as long as it may is so still.
    pub(super) fn beat(&mut self, seat: u16, at: Time, now: Time, todo: &mut Vec<Action>) {
        let at = self.credited(at);
        let Some(member) = self.members.iter_mut().find(|member| member.seat == seat) else { return };
        let slot = member.slot;
        let Some(life) = member.life().filter(|life| life.aborted.is_none()) else { return };
        life.looking = false;
        life.well = life.well.max(at);
        if life.silent_at().is_none_or(|at| at > now) {
            return;
        }
        life.aborted = Some(now + ABORT_GRACE);
        let (pid, silent) = (life.pid, now - life.well);
        todo.push(Action::Log(match life.ready {
            Some(_) => Notice::Silent { slot, pid, silent },
            None => Notice::BootTimedOut { slot, pid, took: now - life.born },
        }));
        todo.extend([Action::Describe { slot, seat }, Action::Abort { pid }]);
        if let Phase::Stopping(stop) = &mut self.phase {
            stop.was_cut();
        }
    }

    pub(super) fn exited(&mut self, pid: Pid, death: Death, now: Time, todo: &mut Vec<Action>) {
        if self.helper_exited(pid, death, now, todo) {
            return;
        }
        let Some(index) = self.find(pid) else {
            if !self.heir_exited(pid, death, todo) {
                todo.push(Action::Log(Notice::Stranger { pid, death }));
            }
            return;
        };
        let (stopping, starting) = (self.is_stopping(), matches!(self.phase, Phase::Starting));
        let (unproven, unwanted) = (self.is_unproven(index), self.is_overtaken(index));
        let member = &mut self.members[index];
        let (slot, seat, leaves) = (member.slot, member.seat, member.leaves_by().is_some());
        let Some(life) = member.life() else { return };
        let lived = now - life.born;
        let described = life.aborted.is_some();
        let status = death.status().unwrap_or_default();
        let boot_failed = starting && !leaves && life.ready.is_none() && !life.said_why;
        let long_enough = life.ready.is_some_and(|ready| now - ready >= LONG_ENOUGH);
        let gives_up = boot_failed && self.gives_up(status);
        let stays = !stopping && !gives_up && !leaves && !unwanted;
        let again_in = stays.then(|| self.members[index].back_off.next(long_enough));
        todo.push(Action::Log(Notice::Died { slot, pid, death, lived, again_in }));
        let clean = death == Death::Status(0);
        if !clean && !described {
            todo.push(Action::Describe { slot, seat });
        }
        todo.push(Action::Bury { seat, clean });
        self.empty(index, again_in, now);

        match (&mut self.phase, death) {
            (Phase::Stopping(stop), Death::Status(6)) => stop.was_cut(),
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

    /// Counts a boot that has failed, with this exit status or none of its own, while the server starts. Whether the server
    /// gives up for it: what says why it cannot boot would say so again, but people may want to wait for that to change.
    fn gives_up(&mut self, status: i32) -> bool {
        self.failed_boots = self.failed_boots.saturating_add(1);
        match self.shape.max_boot_failures {
            0 => matches!(status, 3 | 4),
            most => !self.was_ready && self.failed_boots >= most,
        }
    }

    /// Looks at those that have been silent for long, and kills those that have outlived their deadline.
    pub(super) fn watch(&mut self, now: Time, todo: &mut Vec<Action>) {
        let stop_kills_at = self.stop_kills_at();
        for member in &mut self.members {
            let is_due = member.silent_at().is_some_and(|at| at <= now);
            let is_over = member.kill_at(stop_kills_at).is_some_and(|at| at <= now);
            let seat = member.seat;
            match member.life() {
                Some(life) if is_over || is_due && life.aborted.is_some() => {
                    life.killed = true;
                    if let Phase::Stopping(stop) = &mut self.phase {
                        stop.was_cut();
                    }
                    todo.extend([
                        Action::Log(Notice::Killing { pid: life.pid }),
                        Action::Kill { pid: life.pid },
                    ]);
                }
                Some(life) if is_due && !life.looking => {
                    life.looking = true;
                    todo.push(Action::Look { seat });
                }
                _ => {}
            }
        }
    }

    /// A member has no process any more: it gets another one after that time or, without one, goes. A successor of it does
    /// not wait for longer to take its place, unless it has to prove its generation first.
    fn empty(&mut self, index: usize, again_in: Option<Duration>, now: Time) {
        let successor = self.successor_of(index).filter(|successor| !self.is_unproven(*successor));
        match (again_in, successor) {
            (Some(delay), None) => self.members[index].state = State::Due { at: now + delay },
            (Some(delay), Some(successor)) => {
                self.members[successor].inherit(now + delay);
                self.members.remove(index);
            }
            (None, _) => drop(self.members.remove(index)),
        }
    }
}
