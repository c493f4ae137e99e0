//! The performer of the plan: the only place where events are fed to the [`Plan`] and each
//! [`Action`] is performed.
//!
//! The [`System`] implements the actions: by system calls in a server ([`run`](crate::run)), by a
//! model in the simulation of the conformance suite, and by a checker of promises in the unit tests
//! of the plan. The order is the same for all three: the actions of one event are performed in
//! turn, and actions that follow from their answers after them.

use std::collections::VecDeque;
use std::ops::ControlFlow::{self, Break, Continue};

use remuda_core::order::Order;
use remuda_core::time::Time;
use rustix::process::Pid;

use crate::config::ArbiterConfig;
use crate::outcome::Outcome;
use crate::plan::notice::Notice;
use crate::plan::words::{Done, PlanConfig, Refused, ReloadEnd, Signal, Ticket};
use crate::plan::{Action, Event, Plan};

/// The system on which actions are performed. The documentation of each [`Action`] describes the
/// method.
pub trait System {
    /// The way out of the loop: the server's outcome, or a child.
    type Leave;

    /// The time of the current event.
    fn now(&self) -> Time;

    /// Called after the plan has handled an event, before its actions.
    fn planned(&mut self, plan: &Plan) {
        let _ = plan;
    }

    /// Called before each action.
    fn performing(&mut self, action: &Action) {
        let _ = action;
    }

    /// Whether listeners were added since the last call. The running helper does not have them, so
    /// the plan replaces it.
    fn has_new_listeners(&mut self) -> bool {
        false
    }

    /// [`Action::Spawn`]: returns the process, or the error.
    fn spawn(
        &mut self,
        slot: u16,
        seat: u16,
        generation: u32,
    ) -> ControlFlow<Self::Leave, Result<Pid, String>>;

    /// [`Action::SpawnHelper`]: returns the process, or the error.
    fn spawn_helper(&mut self) -> ControlFlow<Self::Leave, Result<Pid, String>>;

    /// [`Action::Retire`].
    fn retire(&mut self, pid: Pid);

    /// [`Action::Answer`].
    fn answer(&mut self, ticket: Ticket, answer: Result<Done, Refused>);

    /// [`Action::Send`].
    fn send(&mut self, pid: Pid, order: Order);

    /// [`Action::Look`]: returns the last heartbeat of the worker in this seat; [`Time::ZERO`]
    /// before the first.
    fn last_beat(&mut self, seat: u16) -> Time;

    /// [`Action::Weigh`]: returns the resident memory in bytes. None if unknown.
    fn weigh(&mut self, pid: Pid) -> Option<u64>;

    /// [`Action::Describe`].
    fn describe(&mut self, slot: u16, seat: u16);

    /// [`Action::FreeSeat`].
    fn free_seat(&mut self, seat: u16, clean: bool);

    /// [`Action::Abort`].
    fn abort(&mut self, pid: Pid);

    /// [`Action::Kill`].
    fn kill(&mut self, pid: Pid);

    /// [`Action::SaveBacklog`].
    fn save_backlog(&mut self);

    /// [`Action::HurryBacklog`].
    fn hurry_backlog(&mut self);

    /// [`Action::AcceptFor`].
    fn accept_for(&mut self, slots: Vec<u16>);

    /// [`Action::EndSlot`].
    fn end_slot(&mut self, slot: u16);

    /// [`Action::DropBacklog`]: returns the number of lost connections.
    fn drop_backlog(&mut self) -> usize;

    /// [`Action::ReopenLogs`].
    fn reopen_logs(&mut self);

    /// [`Action::Load`]: returns the configuration, or the error. None if the answer comes later,
    /// as an event.
    #[allow(clippy::type_complexity, reason = "it is one answer, which may come later")]
    fn load(&mut self, generation: u32) -> ControlFlow<Self::Leave, Option<Result<PlanConfig, String>>>;

    /// [`Action::Adopt`].
    fn adopt(&mut self);

    /// [`Action::Abandon`].
    fn abandon(&mut self);

    /// [`Action::EndListeners`].
    fn end_listeners(&mut self);

    /// [`Action::Reloaded`].
    fn reloaded(&mut self, generation: u32, end: ReloadEnd);

    /// [`Action::Launch`]: returns the process, or the error.
    fn launch(&mut self) -> Result<Pid, String>;

    /// [`Action::Signal`].
    fn signal(&mut self, pid: Pid, signal: Signal);

    /// [`Action::HandOver`].
    fn hand_over(&mut self, pid: Pid);

    /// [`Action::Reclaim`]. `serves`: the wanted number of workers, unless this arbiter is ending.
    fn reclaim(&mut self, serves: Option<usize>);

    /// [`Action::AnnounceReady`].
    fn announce_ready(&mut self, workers: usize);

    /// [`Action::Log`].
    fn log(&mut self, notice: Notice);

    /// [`Action::Finish`].
    fn finish(&mut self, outcome: Outcome) -> Self::Leave;
}

/// A plan, and the system on which it is performed.
#[derive(Debug)]
pub struct Supervisor<S> {
    pub(crate) plan: Plan,
    /// The system.
    pub system: S,
}

impl<S> Supervisor<S> {
    /// Creates a server without workers, with `seats` seats. `has_old_arbiter`: an old arbiter has
    /// started this one, and lives.
    pub fn new(config: &ArbiterConfig, seats: usize, has_old_arbiter: bool, system: S) -> Self {
        let plan = Plan::new(PlanConfig::of(config, seats));
        let plan = if config.admin.is_some() { plan.with_helper() } else { plan };
        let plan = if has_old_arbiter { plan.with_old_arbiter() } else { plan };
        Self { plan, system }
    }

    /// Moves the plan to another system.
    pub fn on<T>(self, system: T) -> Supervisor<T> {
        Supervisor { plan: self.plan, system }
    }

    /// When to feed [`Event::Tick`], if nothing else happens before.
    pub fn deadline(&self) -> Option<Time> {
        self.plan.deadline()
    }
}

impl<S: System> Supervisor<S> {
    /// Feeds an event to the plan, and performs its actions.
    pub fn feed(&mut self, event: Event) -> ControlFlow<S::Leave> {
        let mut todo = VecDeque::from(self.plan(event));
        loop {
            if self.system.has_new_listeners() {
                todo.extend(self.plan(Event::Listening));
            }
            let Some(action) = todo.pop_front() else { return Continue(()) };
            self.system.performing(&action);
            if let Some(answer) = self.perform(action)? {
                todo.extend(self.plan(answer));
            }
        }
    }

    /// Feeds an event to the plan. [`System::planned`] publishes the new stage before any action.
    fn plan(&mut self, event: Event) -> Vec<Action> {
        let todo = self.plan.handle(event, self.system.now());
        self.system.planned(&self.plan);
        todo
    }

    /// Performs one action. Returns the event that answers it, if any.
    fn perform(&mut self, action: Action) -> ControlFlow<S::Leave, Option<Event>> {
        let system = &mut self.system;
        match action {
            Action::Spawn { slot, seat, generation } => {
                return Continue(Some(match system.spawn(slot, seat, generation)? {
                    Ok(pid) => Event::Spawned { seat, pid },
                    Err(error) => Event::SpawnFailed { seat, error },
                }));
            }
            Action::SpawnHelper => return Continue(Some(Event::HelperSpawned(system.spawn_helper()?))),
            Action::Retire { pid } => system.retire(pid),
            Action::Answer { ticket, answer } => system.answer(ticket, answer),
            Action::Send { pid, order } => system.send(pid, order),
            Action::Look { seat } => return Continue(Some(Event::Beat { seat, at: system.last_beat(seat) })),
            Action::Weigh { pid } => {
                return Continue(system.weigh(pid).map(|rss| Event::Weighed { pid, rss }));
            }
            Action::Describe { slot, seat } => system.describe(slot, seat),
            Action::FreeSeat { seat, clean } => system.free_seat(seat, clean),
            Action::Abort { pid } => system.abort(pid),
            Action::Kill { pid } => system.kill(pid),
            Action::SaveBacklog => system.save_backlog(),
            Action::HurryBacklog => system.hurry_backlog(),
            Action::AcceptFor { slots } => system.accept_for(slots),
            Action::EndSlot { slot } => system.end_slot(slot),
            Action::DropBacklog => return Continue(Some(Event::BacklogOver { lost: system.drop_backlog() })),
            Action::ReopenLogs => system.reopen_logs(),
            Action::Load { generation } => {
                return Continue(system.load(generation)?.map(|loaded| match loaded {
                    Ok(config) => Event::Loaded { config },
                    Err(why) => Event::NotLoaded { why },
                }));
            }
            Action::Adopt => system.adopt(),
            Action::Abandon => system.abandon(),
            Action::EndListeners => system.end_listeners(),
            Action::Reloaded { generation, end } => system.reloaded(generation, end),
            Action::Launch => {
                return Continue(Some(match system.launch() {
                    Ok(pid) => Event::Launched { pid },
                    Err(error) => Event::NotLaunched { error },
                }));
            }
            Action::Signal { pid, signal } => system.signal(pid, signal),
            Action::HandOver { pid } => system.hand_over(pid),
            Action::Reclaim => {
                let serves = (!self.plan.is_ending()).then(|| self.plan.workers());
                system.reclaim(serves);
            }
            Action::AnnounceReady { workers } => system.announce_ready(workers),
            Action::Log(notice) => system.log(notice),
            Action::Finish(outcome) => return Break(system.finish(outcome)),
        }
        Continue(None)
    }
}
