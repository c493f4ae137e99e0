//! What operators ask for on the control socket, and when they are answered: once it is done or, if they do not wait, once
//! it is begun.

use remuda_core::shutdown::Reason;
use remuda_core::time::Time;
use remuda_core::worker::Stage;
use rustix::process::Pid;
use thiserror::Error;

use super::{Action, Phase, Plan, ReloadEnd, Signal};
use crate::notice::Notice;

/// What somebody asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// More workers, or fewer.
    Scale(Scale),
    /// A new worker in place of that one, or of each.
    Recycle(Option<Pid>),
    /// Settings and application loaded afresh, as by HUP.
    Reload,
    /// All workers drained and nobody in their place, as by WINCH.
    Drain,
    /// A new arbiter that takes over, as by USR2.
    Upgrade,
    /// A stop, as by TERM or, if it is to be quick, by INT.
    Stop { quick: bool },
}

/// How many workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scale {
    By(i16),
    To(u16),
}

/// Who has asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Ticket(pub(crate) u64);

/// What has been done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Done {
    /// So many workers are asked for now.
    Scaled { workers: usize },
    /// So many workers were replaced, or are about to be.
    Recycled { workers: usize },
    /// So many workers have drained, or are about to.
    Drained { workers: usize },
    /// A new arbiter serves.
    Upgraded { pid: Pid },
    /// This generation, which was loaded then or later, has taken over.
    Reloaded { generation: u32 },
    /// It is begun, and nobody waits for it.
    Begun,
    /// The server has stopped.
    Stopped,
}

/// Why it is not done.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum Refused {
    #[error("the server stops")]
    Stopping,
    #[error("the server is not ready yet")]
    NotReady,
    #[error("an upgrade is under way, or the workers rest until HUP calls them back")]
    Resting,
    #[error("a reload is under way")]
    Reloading,
    #[error("no upgrade is begun: {why}")]
    NoUpgrade { why: &'static str },
    #[error("the upgrade has failed, nothing has changed: {why}")]
    NotUpgraded { why: String },
    #[error("at least 1 worker stays")]
    TooFew,
    #[error("there is room for {room} workers, those that are leaving included")]
    TooMany { room: usize },
    #[error("there is no worker with pid {pid} that is not leaving already")]
    NoWorker { pid: Pid },
    #[error("not reloaded, the server goes on as before: {why}")]
    NotReloaded { why: String },
}

/// Somebody who is answered later.
#[derive(Debug)]
pub(super) struct Waiting {
    ticket: Ticket,
    until: Until,
}

#[derive(Debug)]
enum Until {
    /// All of these are gone.
    Gone { pids: Vec<Pid>, done: Done },
    /// A reload to this generation, or a later one, is over.
    Reloaded { generation: u32 },
    /// The new arbiter serves, or will not.
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
            Command::Upgrade => match self.upgrade(todo) {
                Ok(()) => Ok((Done::Begun, Some(Until::Upgraded))),
                Err(why) => Err(Refused::NoUpgrade { why }),
            },
            Command::Reload if self.is_ending() => Err(Refused::Stopping),
            Command::Reload if self.is_resting() || self.heir().is_some() => Err(Refused::Resting),
            Command::Reload => {
                let generation = self.next_generation();
                self.ask_for_reload(todo);
                Ok((Done::Begun, Some(Until::Reloaded { generation })))
            }
            Command::Stop { quick } => {
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

    /// Answers those who have what they waited for, or will not get it.
    pub(super) fn answer_waiting(&mut self, todo: &mut Vec<Action>) {
        let ending = self.is_ending();
        let finished = matches!(self.phase, Phase::Finished);
        let living: Vec<_> = self.members.iter().filter_map(|member| member.pid()).collect();
        let reloaded = |action: &Action| match action {
            Action::Reloaded { generation, end } => Some((*generation, end.clone())),
            _ => None,
        };
        let ended: Vec<_> = todo.iter().filter_map(reloaded).collect();
        let upgraded = todo.iter().find_map(|action| match action {
            Action::Log(Notice::HeirReady { pid, .. }) => Some(Ok(Done::Upgraded { pid: *pid })),
            Action::Log(Notice::UpgradeFailed { why }) => {
                Some(Err(Refused::NotUpgraded { why: why.clone() }))
            }
            _ => None,
        });
        self.waiting.retain(|Waiting { ticket, until }| {
            let answer = match until {
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
                Until::Upgraded => match &upgraded {
                    Some(answer) => answer.clone(),
                    None if ending => Err(Refused::Stopping),
                    None => return true,
                },
                Until::Stopped if finished => Ok(Done::Stopped),
                _ => return true,
            };
            todo.push(Action::Answer { ticket: *ticket, answer });
            false
        });
    }

    /// How far the server is.
    pub(crate) fn stage(&self) -> Stage {
        match self.phase {
            Phase::Starting => Stage::Starting,
            Phase::Serving => Stage::Serving,
            Phase::Lameduck { .. } => Stage::Lameduck,
            Phase::Stopping(_) | Phase::Finished => Stage::Stopping,
        }
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

    /// Marks workers as spent, and says which they are.
    fn recycle_asked(&mut self, pid: Option<Pid>, now: Time) -> Result<Vec<Pid>, Refused> {
        match self.phase {
            Phase::Serving => {}
            Phase::Starting => return Err(Refused::NotReady),
            _ => return Err(Refused::Stopping),
        }
        let mut asked = Vec::new();
        for member in self.members.iter_mut().filter(|member| member.is_holder()) {
            if let Some(life) = member.life()
                && pid.is_none_or(|pid| pid == life.pid)
            {
                life.spent.get_or_insert((now, Reason::RecycleAsked));
                asked.push(life.pid);
            }
        }
        match pid {
            Some(pid) if asked.is_empty() => Err(Refused::NoWorker { pid }),
            _ => Ok(asked),
        }
    }
}
