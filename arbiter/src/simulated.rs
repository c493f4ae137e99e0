//! The arbiter without a system: its `Plan` plays against a [`Stage`], which does what it says in virtual time.
//!
//! It exists for the simulation in the conformance suite, which rehearses whole servers, and is no part of the public
//! interface. What `Run` does with system calls a stage does with a model of them.

use std::collections::VecDeque;
use std::process::ExitStatus;

use remuda_core::order::{Order, Report};
use remuda_core::time::Time;
use rustix::process::Pid;

use crate::plan::{Action, Event, Plan, Shape};
use crate::{ArbiterConfig, Outcome, run};

/// What the arbiter does to the world.
pub trait Stage {
    /// Forks a worker for that slot that writes in that seat: its pid, or why there is none.
    fn spawn(&mut self, slot: u16, seat: u16) -> Result<i32, String>;

    /// Sends an order to a worker.
    fn send(&mut self, pid: i32, order: Order);

    /// When the worker in a seat last beat; [`Time::ZERO`] if it has not begun to.
    fn last_beat(&mut self, seat: u16) -> Time;

    /// SIGABRT.
    fn abort(&mut self, pid: i32);

    /// SIGKILL.
    fn kill(&mut self, pid: i32);

    /// Refuses new connections and begins to pass on those that are queued; [`Rehearsal::backlog_over`] tells the end.
    fn save_backlog(&mut self);

    /// Gives up what has not been passed on or taken: how many connections.
    fn drop_backlog(&mut self) -> usize;

    /// The server is ready.
    fn ready(&mut self);

    /// The server has ended.
    fn finish(&mut self, outcome: Outcome);
}

/// An arbiter on a stage.
#[derive(Debug)]
pub struct Rehearsal {
    plan: Plan,
    /// What every reload finds.
    shape: Shape,
}

impl Rehearsal {
    /// An arbiter that has forked nobody yet; there may be `seats` workers at a time.
    pub fn new(config: &ArbiterConfig, seats: usize) -> Self {
        let shape = run::shape(config, seats);
        Self { plan: Plan::new(shape), shape }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time, stage: &mut dyn Stage) {
        self.feed(Event::Tick, now, stage);
    }

    /// A signal has arrived; one without a meaning for an arbiter is ignored.
    pub fn signal(&mut self, number: i32, now: Time, stage: &mut dyn Stage) {
        if let Some(signal) = run::signal(number) {
            self.feed(Event::Signal(signal), now, stage);
        }
    }

    /// A worker has said something.
    pub fn report(&mut self, pid: i32, report: Report, now: Time, stage: &mut dyn Stage) {
        self.feed(Event::Report { pid: name(pid), report }, now, stage);
    }

    /// A worker was reaped.
    pub fn exited(&mut self, pid: i32, status: ExitStatus, now: Time, stage: &mut dyn Stage) {
        self.feed(Event::Exited { pid: name(pid), death: status.into() }, now, stage);
    }

    /// All of the backlog has been passed on, but for those that are lost.
    pub fn backlog_over(&mut self, lost: usize, now: Time, stage: &mut dyn Stage) {
        self.feed(Event::BacklogOver { lost }, now, stage);
    }

    /// When [`tick`](Self::tick) is wanted, if nothing else happens before.
    pub fn deadline(&self) -> Option<Time> {
        self.plan.deadline()
    }

    fn feed(&mut self, event: Event, now: Time, stage: &mut dyn Stage) {
        let mut todo = VecDeque::from(self.plan.handle(event, now));
        while let Some(action) = todo.pop_front() {
            if let Some(answer) = self.perform(action, stage) {
                todo.extend(self.plan.handle(answer, now));
            }
        }
    }

    fn perform(&self, action: Action, stage: &mut dyn Stage) -> Option<Event> {
        match action {
            Action::Spawn { slot, seat, .. } => {
                return Some(match stage.spawn(slot, seat) {
                    Ok(pid) => Event::Spawned { seat, pid: name(pid) },
                    Err(error) => Event::SpawnFailed { seat, error },
                });
            }
            Action::Look { seat } => return Some(Event::Beat { seat, at: stage.last_beat(seat) }),
            Action::DropBacklog => return Some(Event::BacklogOver { lost: stage.drop_backlog() }),
            Action::Send { pid, order } => stage.send(pid.as_raw_nonzero().get(), order),
            Action::Abort { pid } => stage.abort(pid.as_raw_nonzero().get()),
            Action::Kill { pid } => stage.kill(pid.as_raw_nonzero().get()),
            Action::SaveBacklog => stage.save_backlog(),
            Action::AnnounceReady { .. } => stage.ready(),
            Action::Finish(outcome) => stage.finish(outcome),
            Action::Load { .. } => return Some(Event::Loaded { shape: self.shape }),
            // A stage has one configuration, and nothing of it goes or comes.
            Action::Adopt | Action::Abandon | Action::EndListeners => {}
            // Its slots share their listeners.
            Action::Relieve { .. } | Action::EndSlot { .. } => {}
            Action::Launch => return Some(Event::NotLaunched { error: "there is no executable".to_owned() }),
            // No upgrade gets that far.
            Action::Signal { .. } | Action::HandOver { .. } | Action::Reclaim => {}
            // Its workers have no size.
            Action::Weigh { .. } => {}
            // For people.
            Action::Describe { .. } | Action::Bury { .. } | Action::Log(_) => {}
            Action::ReopenLogs | Action::Reloaded { .. } => {}
            Action::SpawnHelper | Action::Retire { .. } | Action::Answer { .. } => {}
        }
        None
    }
}

fn name(pid: i32) -> Pid {
    Pid::from_raw(pid).expect("a pid is above zero")
}
