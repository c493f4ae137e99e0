//! Commands of operators on the control socket. The answer comes when the command is done or, if
//! its client does not wait, when it has begun.

use remuda_core::shutdown::Reason;
use remuda_core::time::Time;
use remuda_core::worker::ServerStage;
use remuda_core::worker::drain::completion::has_end;
use rustix::process::Pid;

use super::notice::Notice;
use super::words::{Command, Done, Refused, ReloadEnd, Scale, Signal, Ticket};
use super::{Action, Phase, Plan};

/// A command that is answered later.
#[derive(Debug)]
pub(super) struct Waiting {
    ticket: Ticket,
    until: Until,
}

#[derive(Debug)]
enum Until {
    /// All these workers are gone.
    Gone { pids: Vec<Pid>, done: Done },
    /// A reload to this generation or a later one is over.
    Reloaded { generation: u32 },
    /// All workers that were started again are ready.
    Resumed,
    /// The new arbiter serves, or has failed.
    Upgraded,
    /// The server has ended.
    Stopped,
}

impl Plan {
    pub(super) fn asked(
        &mut self,
        ticket: Ticket,
        command: Command,
        wait: bool,
        now: Time,
        todo: &mut Vec<Action>,
    ) {
        let result = match command {
            Command::Scale(scale) => {
                self.scale(scale, now, todo).map(|workers| (Done::Scaled { workers }, None))
            }
            Command::Recycle(pid) => self.recycle_asked(pid, now).map(|pids| {
                let done = Done::Recycled { workers: pids.len() };
                (done.clone(), Some(Until::Gone { pids, done }))
            }),
            Command::Drain => self.rest(now, todo).map(|pids| {
                let done = Done::Drained { workers: pids.len() };
                (done.clone(), Some(Until::Gone { pids, done }))
            }),
            Command::Resume => {
                self.resume(todo).map(|workers| (Done::Resumed { workers }, Some(Until::Resumed)))
            }
            Command::Upgrade => match self.upgrade(todo) {
                Ok(()) => Ok((Done::Begun, Some(Until::Upgraded))),
                Err(why) => Err(Refused::NoUpgrade { why }),
            },
            Command::Reload if self.is_ending() => Err(Refused::Stopping),
            Command::Reload if self.is_resting() || self.new_arbiter().is_some() => Err(Refused::Resting),
            Command::Reload => {
                let generation = self.next_generation();
                self.ask_for_reload(todo);
                Ok((Done::Begun, Some(Until::Reloaded { generation })))
            }
            Command::Stop { quick } => {
                // Handled as the signal, so that a repeated stop shortens the drain (D11).
                self.signalled(if quick { Signal::Int } else { Signal::Term }, now, todo);
                Ok((Done::Begun, Some(Until::Stopped)))
            }
        };
        match result {
            Ok((_, Some(until))) if wait => self.waiting.push(Waiting { ticket, until }),
            Ok((done, _)) => todo.push(Action::Answer { ticket, answer: Ok(done) }),
            Err(refused) => todo.push(Action::Answer { ticket, answer: Err(refused) }),
        }
    }

    /// Answers commands that are done, or that will not be done any more.
    pub(super) fn answer_waiting(&mut self, todo: &mut Vec<Action>) {
        let ending = self.is_ending();
        let stopped = match &self.phase {
            Phase::Finished(outcome) => {
                Some(Done::Stopped { status: outcome.status(), cut: outcome.was_cut() })
            }
            _ => None,
        };
        let resumed = match self.is_at_rest() {
            true => Some(Err(Refused::RestingAgain)),
            false => self.has_resumed().then(|| Ok(Done::Resumed { workers: self.workers() })),
        };
        let living: Vec<_> = self.entries.iter().filter_map(|entry| entry.pid()).collect();
        // The plan does not keep how a reload or an upgrade failed: the result is read from the
        // actions of the current event.
        let reloaded = |action: &Action| match action {
            Action::Reloaded { generation, end } => Some((*generation, end.clone())),
            _ => None,
        };
        let ended: Vec<_> = todo.iter().filter_map(reloaded).collect();
        let upgraded = todo.iter().find_map(|action| match action {
            Action::Log(Notice::NewArbiterReady { pid, .. }) => Some(Ok(Done::Upgraded { pid: *pid })),
            Action::Log(Notice::UpgradeFailed { why }) => {
                Some(Err(Refused::NotUpgraded { why: why.clone() }))
            }
            _ => None,
        });
        self.waiting.retain(|Waiting { ticket, until }| {
            let answer = match until {
                // Before the check for a stop: once the workers are gone the command is done, even
                // if the server now ends.
                Until::Gone { pids, done } if !pids.iter().any(|pid| living.contains(pid)) => {
                    Ok(done.clone())
                }
                Until::Gone { .. } if ending => Err(Refused::Stopping),
                Until::Reloaded { generation } => match ended.iter().find(|(n, _)| n >= generation) {
                    Some((n, ReloadEnd::Done | ReloadEnd::Overtaken)) => {
                        Ok(Done::Reloaded { generation: *n })
                    }
                    Some((_, ReloadEnd::TooLate)) => Err(Refused::Stopping),
                    Some((_, ReloadEnd::Failed(why))) => Err(Refused::NotReloaded { why: why.clone() }),
                    None => return true,
                },
                Until::Resumed => match &resumed {
                    _ if ending => Err(Refused::Stopping),
                    Some(answer) => answer.clone(),
                    None => return true,
                },
                Until::Upgraded => match &upgraded {
                    Some(answer) => answer.clone(),
                    None if ending => Err(Refused::Stopping),
                    None => return true,
                },
                Until::Stopped => match &stopped {
                    Some(done) => Ok(done.clone()),
                    None => return true,
                },
                Until::Gone { .. } => return true,
            };
            todo.push(Action::Answer { ticket: *ticket, answer });
            false
        });
    }

    /// The stage of the server.
    pub(crate) fn stage(&self) -> ServerStage {
        match self.phase {
            Phase::Starting => ServerStage::Starting,
            Phase::Serving if self.is_at_rest() => ServerStage::Resting,
            Phase::Serving => ServerStage::Serving,
            Phase::Lameduck { .. } => ServerStage::Lameduck,
            Phase::Stopping(_) | Phase::Finished(_) => ServerStage::Stopping,
        }
    }

    /// The deadline of the stop under way. One that ends everything at once (QUIT) has none left:
    /// it is in the past.
    pub(crate) fn stop_deadline(&self) -> Option<Time> {
        let drain = &self.under_way()?.drain;
        Some(if has_end(drain) { drain.deadline } else { Time::from_nanos(1) })
    }

    fn scale(&mut self, scale: Scale, now: Time, todo: &mut Vec<Action>) -> Result<usize, Refused> {
        if self.is_ending() {
            return Err(Refused::Stopping);
        }
        if self.is_resting() {
            return Err(Refused::Resting);
        }
        let wanted = match scale {
            Scale::By(more) => self.workers().saturating_add_signed(more.into()),
            Scale::To(workers) => workers.into(),
        };
        self.scale_to(wanted, now, todo)?;
        Ok(wanted)
    }

    /// Marks workers as due for recycling, and returns their pids.
    fn recycle_asked(&mut self, pid: Option<Pid>, now: Time) -> Result<Vec<Pid>, Refused> {
        match self.phase {
            Phase::Serving => {}
            Phase::Starting => return Err(Refused::NotReady),
            _ => return Err(Refused::Stopping),
        }
        let mut asked = Vec::new();
        for entry in self.entries.iter_mut().filter(|entry| entry.is_holder()) {
            if let Some(process) = entry.process_mut()
                && pid.is_none_or(|pid| pid == process.pid)
            {
                process.spent.get_or_insert((now, Reason::RecycleAsked));
                asked.push(process.pid);
            }
        }
        match pid {
            Some(pid) if asked.is_empty() => Err(Refused::NoWorker { pid }),
            _ => Ok(asked),
        }
    }
}
