//! A virtual machine for plans: it has pids and time, but no processes.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::{ControlFlow, Deref, DerefMut};

use remuda_core::shutdown::Phase::Lameduck as LAMEDUCK;

use super::*;
use crate::supervisor::{Supervisor, System};

/// The largest number of workers, without those that are recycled.
pub(super) const ROOM: usize = 8;

/// The number of workers recycled at a time.
pub(super) const RECYCLED: usize = 1;

/// The number of workers reloaded at a time.
pub(super) const RELOADED: usize = 1;

/// The usual memory of a worker in bytes.
pub(super) const USUAL: u64 = 10_000;

/// A plan performed on a [`Machine`].
pub(super) struct World {
    pub(super) supervisor: Supervisor<Machine>,
}

/// The system of the plan's actions: a machine with pids and time, which checks every action
/// against the promises.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) is: Is,
    pub(super) promised: Promised,
    /// The actions since the last event was fed.
    done: Vec<Action>,
}

/// The facts: the state of processes, and the results of future actions.
#[derive(Debug)]
pub(super) struct Is {
    pub(super) now: Time,
    /// The slots of living workers, by pid.
    pub(super) living: BTreeMap<i32, u16>,
    /// The seats of living workers.
    pub(super) seats: BTreeMap<i32, u16>,
    /// The generations of living workers.
    pub(super) generations: BTreeMap<i32, u32>,
    /// Workers that were ready.
    pub(super) ready: BTreeSet<i32>,
    /// Workers that drain because they received a signal themselves.
    pub(super) deaf: BTreeSet<i32>,
    /// Workers due for recycling.
    pub(super) spent: BTreeSet<i32>,
    /// Silent workers, with their last heartbeat.
    pub(super) silent: BTreeMap<i32, Time>,
    /// Whether a worker survives an abort.
    pub(super) stubborn: bool,
    /// The memory of workers, if not [`USUAL`].
    pub(super) large: BTreeMap<i32, u64>,
    /// The last pid issued.
    pub(super) next_pid: i32,
    /// Whether forks fail.
    pub(super) exhausted: bool,
    /// The new arbiter of an upgrade.
    pub(super) new_arbiter: Option<NewArbiter>,
    /// The helper that was not retired.
    pub(super) helper: Option<i32>,
    /// The result of the next load. None: a failure.
    pub(super) found: Option<PlanConfig>,
    /// The current settings.
    pub(super) settings: PlanConfig,
    /// Whether passing on the backlog never ends.
    pub(super) stuck: bool,
    /// Whether QUIT was received: workers may be killed at once.
    pub(super) quit: bool,
}

/// The promises: the plan's past actions, which decide which actions are allowed.
#[derive(Debug)]
pub(super) struct Promised {
    /// The wanted number of workers.
    pub(super) target: usize,
    /// Workers that drain after a scale-down, and were not told of a stop.
    pub(super) leaving: BTreeSet<i32>,
    /// Workers that drain because a successor is ready, and were not told of a stop.
    pub(super) recycled: BTreeSet<i32>,
    /// Workers that drain because of a reload, and were not told of a stop.
    pub(super) reloaded: BTreeSet<i32>,
    /// The current generation.
    pub(super) generation: u32,
    /// The generation loaded last.
    pub(super) newest: u32,
    /// The generation that has to prove itself.
    pub(super) candidate: Option<PlanConfig>,
    /// Generations whose reload has not ended.
    pub(super) open: BTreeSet<u32>,
    /// Results of ended reloads.
    pub(super) ended: Vec<(u32, ReloadEnd)>,
    /// Whether the number of workers in the settings has changed.
    pub(super) resizing: bool,
    /// Workers whose last order to drain has a receiver (D19).
    pub(super) receivers: BTreeSet<i32>,
    /// Workers that were told of the stop.
    pub(super) lame: BTreeSet<i32>,
    /// Processes that were killed.
    pub(super) killed: BTreeSet<i32>,
    /// Workers that were aborted.
    pub(super) aborted: BTreeSet<i32>,
    /// Slots whose worker's requests were logged.
    pub(super) described: Vec<u16>,
    /// The number of readings of memory.
    pub(super) weighed: usize,
    /// Seats that were freed.
    pub(super) freed: Vec<u16>,
    /// Whether the listeners are open.
    pub(super) listening: bool,
    /// Whether a stop has begun.
    pub(super) stopping: bool,
    /// When the stop began.
    pub(super) stopped: Time,
    /// The number of workers that start again after WINCH.
    pub(super) resting: Option<usize>,
    /// How often the end of another arbiter was handled.
    pub(super) reclaimed: usize,
    /// The process announced as the server's main process.
    pub(super) handed_to: Option<i32>,
    /// Whether the backlog is being passed on.
    pub(super) passing: bool,
    /// Living workers that were told the end of the backlog.
    pub(super) told_end: BTreeSet<i32>,
    /// Slots from whose listeners the arbiter accepts.
    pub(super) accepted_for: Vec<u16>,
    /// Slots whose listeners have ended.
    pub(super) ended_slots: Vec<u16>,
    /// Since when the lame duck phase lasts.
    pub(super) is_lame: bool,
    /// Whether the server was announced as ready.
    pub(super) announced: bool,
    /// The outcome of the server.
    pub(super) outcome: Option<Outcome>,
    /// All logged notices.
    pub(super) log: Vec<Notice>,
    /// Retired helpers.
    pub(super) retired: Vec<Pid>,
    /// The answer to each ticket.
    pub(super) answers: BTreeMap<Ticket, Result<Done, Refused>>,
    /// Deadlines of leaving workers.
    pub(super) told: BTreeMap<i32, Time>,
}

/// A new arbiter started by the plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NewArbiter {
    pub(super) pid: i32,
    pub(super) ready: bool,
    /// Signals sent to it.
    pub(super) told: Vec<Signal>,
}

impl World {
    pub(super) fn new(workers: u16) -> Self {
        Self::of(workers, Patience::default())
    }

    /// Creates a server whose workers have these limits of silence.
    pub(super) fn of(workers: u16, patience: Patience) -> Self {
        Self::lame(workers, patience, Duration::ZERO)
    }

    /// The same with a lame duck phase of this length.
    pub(super) fn lame(workers: u16, patience: Patience, lameduck: Duration) -> Self {
        Self::with(PlanConfig { patience, lameduck, ..config(workers) })
    }

    /// Creates a server with these settings.
    pub(super) fn with(settings: PlanConfig) -> Self {
        let is = Is {
            now: Time::from_nanos(1_000_000_000_000),
            living: BTreeMap::new(),
            seats: BTreeMap::new(),
            generations: BTreeMap::new(),
            ready: BTreeSet::new(),
            deaf: BTreeSet::new(),
            spent: BTreeSet::new(),
            silent: BTreeMap::new(),
            stubborn: false,
            large: BTreeMap::new(),
            next_pid: 100,
            exhausted: false,
            new_arbiter: None,
            helper: None,
            found: Some(settings),
            settings,
            stuck: false,
            quit: false,
        };
        let promised = Promised {
            target: settings.workers.into(),
            leaving: BTreeSet::new(),
            recycled: BTreeSet::new(),
            reloaded: BTreeSet::new(),
            generation: 1,
            newest: 1,
            candidate: None,
            open: BTreeSet::new(),
            ended: Vec::new(),
            resizing: false,
            receivers: BTreeSet::new(),
            lame: BTreeSet::new(),
            killed: BTreeSet::new(),
            aborted: BTreeSet::new(),
            described: Vec::new(),
            weighed: 0,
            freed: Vec::new(),
            listening: true,
            stopping: false,
            stopped: Time::MAX,
            resting: None,
            reclaimed: 0,
            handed_to: None,
            passing: false,
            told_end: BTreeSet::new(),
            accepted_for: Vec::new(),
            ended_slots: Vec::new(),
            is_lame: false,
            announced: false,
            outcome: None,
            log: Vec::new(),
            retired: Vec::new(),
            answers: BTreeMap::new(),
            told: BTreeMap::new(),
        };
        let system = Machine { is, promised, done: Vec::new() };
        let mut world = Self { supervisor: Supervisor { plan: Plan::new(settings), system } };
        world.feed(Event::Tick);
        world
    }

    /// Creates a world with all workers ready for `age`.
    pub(super) fn serving(workers: u16, age: Duration) -> Self {
        Self::new(workers).serve(age)
    }

    /// Makes all workers of this world ready for `age`.
    pub(super) fn serve(mut self, age: Duration) -> Self {
        let world = &mut self;
        world.pids().into_iter().for_each(|pid| world.report(pid, Report::Ready));
        assert!(world.promised.announced);
        world.pass(age);
        self
    }

    /// Feeds an event, and passes the backlog on if there is one. Returns all actions.
    pub(super) fn feed(&mut self, event: Event) -> Vec<Action> {
        self.done.clear();
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let _ = self.supervisor.feed(event);
            let passed = !self.is.stuck && mem::take(&mut self.promised.passing);
            next = passed.then_some(Event::BacklogOver { lost: 0 });
        }
        let promised = self.is.living.keys().filter(|raw| self.promised.receivers.contains(raw)).count();
        assert!(promised == 0 || self.has_receiver(), "{promised} hand connections over without a receiver");
        let deadline = self.supervisor.plan.deadline();
        assert!(deadline.is_none_or(|at| at > self.is.now), "nothing that is due is left undone");
        mem::take(&mut self.done)
    }

    pub(super) fn signal(&mut self, signal: Signal) -> Vec<Action> {
        self.is.quit |= signal == Signal::Quit;
        match signal {
            _ if self.promised.is_lame || self.promised.stopping || self.supervisor.plan.is_resting() => {}
            Signal::Ttin if self.promised.target + self.count(&self.promised.leaving) < ROOM => {
                self.promised.target += 1
            }
            Signal::Ttou => self.promised.target = 1.max(self.promised.target - 1),
            _ => {}
        }
        self.feed(Event::Signal(signal))
    }

    /// Sends a command that waits for its answer.
    pub(super) fn ask(&mut self, number: u64, command: Command) {
        match command {
            Command::Recycle(which)
                if self.promised.announced && self.promised.listening && !self.promised.is_lame =>
            {
                let asked = |raw: &i32| which.is_none_or(|which| which == pid(*raw));
                let holders = self.pids().into_iter().filter(|raw| !self.leaves(*raw));
                let asked: Vec<_> = holders.filter(asked).collect();
                self.is.spent.extend(asked);
            }
            Command::Scale(scale)
                if self.promised.listening
                    && !self.promised.is_lame
                    && !self.supervisor.plan.is_resting() =>
            {
                let wanted = match scale {
                    Scale::By(more) => self.promised.target.saturating_add_signed(more.into()),
                    Scale::To(workers) => workers.into(),
                };
                let fits =
                    wanted <= self.promised.target || wanted + self.count(&self.promised.leaving) <= ROOM;
                if wanted > 0 && fits {
                    self.promised.target = wanted;
                }
            }
            _ => {}
        }
        self.feed(Event::Asked { ticket: Ticket(number), command, wait: true });
    }

    pub(super) fn report(&mut self, raw: i32, report: Report) {
        match report {
            Report::Ready => drop(self.is.ready.insert(raw)),
            Report::Recycle { .. } => drop(self.is.spent.insert(raw)),
            Report::Draining => drop(self.is.deaf.insert(raw)),
            _ => {}
        }
        self.feed(Event::Report { pid: pid(raw), report });
    }

    pub(super) fn die(&mut self, raw: i32, death: Death) {
        self.is.living.remove(&raw).expect("alive until now");
        self.promised.told.remove(&raw);
        self.feed(Event::Exited { pid: pid(raw), death });
    }

    /// Reports that the new arbiter serves.
    pub(super) fn new_arbiter_ready(&mut self) {
        if let Some(new) = self.is.new_arbiter.as_mut().filter(|new| new.told.is_empty()) {
            new.ready = true;
        }
        self.feed(Event::NewArbiterReady { receives: true });
    }

    pub(super) fn new_arbiter_dies(&mut self, death: Death) {
        let new = self.is.new_arbiter.take().expect("alive until now");
        self.feed(Event::Exited { pid: pid(new.pid), death });
    }

    /// Lets time pass, with a tick whenever the plan wants one. Killed processes die.
    pub(super) fn pass(&mut self, length: Duration) {
        let end = self.is.now + length;
        while let Some(at) = self.supervisor.plan.deadline().filter(|at| *at <= end) {
            assert!(at > self.is.now);
            self.is.now = at;
            self.feed(Event::Tick);
            self.end_the_killed();
        }
        self.is.now = end;
        self.feed(Event::Tick);
        self.end_the_killed();
    }

    /// Lets time pass in which neither the arbiter nor a worker runs.
    pub(super) fn freeze(&mut self, length: Duration) {
        let hung = self.is.silent.clone();
        self.pids().into_iter().for_each(|pid| self.silence(pid));
        self.is.now = self.is.now + length;
        self.feed(Event::Tick);
        self.is.silent = hung;
        self.end_the_killed();
    }

    /// Silences a worker.
    pub(super) fn silence(&mut self, raw: i32) {
        let now = self.is.now;
        self.is.silent.entry(raw).or_insert(now);
    }

    pub(super) fn end_the_killed(&mut self) {
        if self.is.new_arbiter.as_ref().is_some_and(|new| self.promised.killed.contains(&new.pid)) {
            self.new_arbiter_dies(Death::Signal(9));
        }
        for raw in self.pids() {
            if self.promised.killed.contains(&raw) {
                self.die(raw, Death::Signal(9));
            } else if self.promised.aborted.contains(&raw) && !self.is.stubborn {
                self.die(raw, Death::Signal(6));
            }
        }
    }

    /// The number of living workers that are not leaving.
    pub(super) fn staying(&self) -> usize {
        self.is.living.keys().filter(|raw| !self.leaves(**raw)).count()
    }

    /// The generations of workers that stay, by pid.
    pub(super) fn made_of(&self) -> Vec<(i32, u32)> {
        let stays = self.is.living.keys().filter(|raw| !self.leaves(**raw));
        stays.map(|raw| (*raw, self.is.generations[raw])).collect()
    }

    /// Whether every reload has ended.
    pub(super) fn is_answered(&self) -> bool {
        self.promised.open.is_empty()
    }

    /// The time for which slot 0 stays empty.
    pub(super) fn gap(&mut self) -> Duration {
        let since = self.is.now;
        while self.in_slot(0).is_none() {
            let at = self.supervisor.plan.deadline().expect("it will be filled");
            self.pass(at - self.is.now);
        }
        self.is.now - since
    }
}

impl Deref for World {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.supervisor.system
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Machine {
        &mut self.supervisor.system
    }
}

impl Machine {
    /// The deadline of a leaving worker.
    pub(super) fn leaves_by(&self, raw: i32) -> Option<Time> {
        self.promised.told.get(&raw).copied()
    }

    /// Whether any worker receives connections of leaving ones: every accepting worker does, here
    /// or of a new arbiter.
    pub(super) fn has_receiver(&self) -> bool {
        let accepts =
            |raw: &i32| self.is.ready.contains(raw) && !self.is.deaf.contains(raw) && !self.leaves(*raw);
        self.is.new_arbiter.as_ref().is_some_and(|new| new.ready)
            || (!self.promised.stopping
                && self.promised.resting.is_none()
                && self.is.living.keys().any(accepts))
    }

    /// The number of these that live.
    fn count(&self, of: &BTreeSet<i32>) -> usize {
        self.is.living.keys().filter(|raw| of.contains(raw)).count()
    }

    pub(super) fn pids(&self) -> Vec<i32> {
        self.is.living.keys().copied().collect()
    }

    /// The first worker in a slot that is not leaving.
    pub(super) fn in_slot(&self, slot: u16) -> Option<i32> {
        self.is.living.iter().find(|(raw, of)| **of == slot && !self.leaves(**raw)).map(|(raw, _)| *raw)
    }

    /// Whether the worker was told to leave before the others.
    fn leaves(&self, raw: i32) -> bool {
        [&self.promised.leaving, &self.promised.recycled, &self.promised.reloaded]
            .iter()
            .any(|who| who.contains(&raw))
    }

    fn in_seat(&self, seat: u16) -> Option<i32> {
        self.is.living.keys().find(|raw| self.is.seats[raw] == seat).copied()
    }
}

impl System for Machine {
    type Leave = ();

    fn now(&self) -> Time {
        self.is.now
    }

    fn performing(&mut self, action: &Action) {
        assert_eq!(self.promised.outcome, None, "Finish is the last action");
        self.done.push(action.clone());
    }

    fn spawn(&mut self, slot: u16, seat: u16, generation: u32) -> ControlFlow<(), Result<Pid, String>> {
        let promised = &self.promised;
        assert!(!promised.stopping, "no spawn in a stop");
        assert!(usize::from(seat) < ROOM + RECYCLED + RELOADED);
        let is_candidate = promised.candidate.is_some() && generation == promised.newest;
        assert!(is_candidate || generation == promised.generation, "of what counts, or to prove itself");
        assert_eq!(self.in_seat(seat), None, "one worker a seat");
        if self.is.exhausted {
            return ControlFlow::Continue(Err("no memory".into()));
        }
        self.is.next_pid += 1;
        let raw = self.is.next_pid;
        self.is.living.insert(raw, slot);
        self.is.seats.insert(raw, seat);
        self.is.generations.insert(raw, generation);
        let spent = self.is.living.keys().filter(|raw| self.is.spent.contains(raw)).count();
        let reloads = if self.promised.newest > 1 { RELOADED } else { 0 };
        let most = self.promised.target + spent.min(RECYCLED) + reloads;
        let staying = self.is.living.len() - self.count(&self.promised.leaving);
        assert!(staying <= most, "no more than asked for");
        ControlFlow::Continue(Ok(pid(raw)))
    }

    fn spawn_helper(&mut self) -> ControlFlow<(), Result<Pid, String>> {
        self.is.next_pid += 1;
        assert_eq!(self.is.helper.replace(self.is.next_pid), None, "one at a time");
        ControlFlow::Continue(Ok(pid(self.is.next_pid)))
    }

    fn retire(&mut self, pid: Pid) {
        assert_eq!(self.is.helper.take(), Some(pid.as_raw_nonzero().get()), "retired once");
        self.promised.retired.push(pid);
    }

    fn answer(&mut self, ticket: Ticket, answer: Result<Done, Refused>) {
        if let Ok(Done::Scaled { workers }) = answer {
            assert_eq!(workers, self.promised.target);
        }
        assert!(self.promised.answers.insert(ticket, answer).is_none(), "answered once");
    }

    fn send(&mut self, pid: Pid, order: Order) {
        let pid = pid.as_raw_nonzero().get();
        let (is, promised) = (&self.is, &mut self.promised);
        assert!(is.living.contains_key(&pid), "orders go to the living");
        let told = promised.told.get(&pid).copied();
        let (drain, policy) = match order {
            Order::Drain { drain, policy } => (drain, policy),
            Order::BacklogEnd => {
                assert!(told.is_some() && !promised.listening, "the backlog ends within a stop");
                assert!(!promised.passing, "the backlog ends when it has been passed on");
                assert!(promised.told_end.insert(pid), "the backlog ends once");
                return;
            }
            Order::ReopenLogs => return,
            other => panic!("unexpected order {other:?}"),
        };
        if drain.receiver {
            assert!(told.is_none() || promised.stopping, "no worker gets a receiver late");
            promised.receivers.insert(pid);
        } else if promised.receivers.remove(&pid) && !drain.reason.is_stop() {
            assert_eq!(told, Some(drain.deadline), "nothing else has changed");
            return;
        }
        let mut own = drain;
        own.receiver = false;
        if policy == PolicyId::Stop && drain.phase == LAMEDUCK {
            assert!(promised.listening && told.is_none() && drain.reason == Reason::Stop);
            assert!(promised.lame.insert(pid), "told once");
            return;
        }
        promised.told.insert(pid, drain.deadline);
        let is_stop = policy == PolicyId::Stop || policy == PolicyId::Reload && promised.stopping;
        if is_stop {
            match policy {
                PolicyId::Stop => assert!(!drain.receiver && drain.reason.is_stop()),
                _ => {
                    assert_eq!(drain.reason, Reason::Upgrade);
                    assert!(
                        is.new_arbiter.as_ref().is_some_and(|new| new.ready),
                        "the new arbiter takes over"
                    );
                }
            }
            // A leaving worker has to be told of a stop, even if its deadline does not change.
            for who in [&mut promised.leaving, &mut promised.recycled, &mut promised.reloaded] {
                who.remove(&pid);
            }
            assert!(told.is_none_or(|before| drain.deadline <= before), "deadlines move closer");
            return;
        }
        assert_eq!(own, Drain::new(drain.reason, is.now, is.now + GRACEFUL));
        assert!(promised.listening && told.is_none(), "told to leave once, and not in a stop");
        let who = match (policy, drain.reason) {
            (PolicyId::Recycle, reason) => {
                assert!(reason.is_recycle());
                assert!(is.spent.contains(&pid), "no other worker is recycled");
                &mut promised.recycled
            }
            (PolicyId::Reload, Reason::Reload) => &mut promised.reloaded,
            (PolicyId::Reload, reason) => {
                assert!([Reason::ScaleDown, Reason::Upgrade].contains(&reason));
                &mut promised.leaving
            }
            other => panic!("unexpected drain {other:?}"),
        };
        who.insert(pid);
        let (slot, own) = (self.is.living[&pid], self.is.generations[&pid]);
        let is_older = own < self.promised.generation;
        if drain.reason == Reason::Reload && !is_older {
            assert!(own > self.promised.generation, "no other worker is told to leave");
        } else if drain.reason == Reason::Reload || policy == PolicyId::Recycle {
            let successor = self.in_slot(slot).expect("a successor has its slot");
            assert!(
                self.is.ready.contains(&successor),
                "a replaced worker leaves when its successor is ready"
            );
            let same =
                policy == PolicyId::Recycle || self.is.generations[&successor] == self.promised.generation;
            assert!(same, "by the generation that counts");
        }
    }

    fn last_beat(&mut self, seat: u16) -> Time {
        let pid = self.in_seat(seat).expect("looks at the living");
        self.is.silent.get(&pid).copied().unwrap_or(self.is.now)
    }

    fn weigh(&mut self, pid: Pid) -> Option<u64> {
        self.promised.weighed += 1;
        let raw = pid.as_raw_nonzero().get();
        assert!(self.is.ready.contains(&raw) && !self.leaves(raw) && !self.is.spent.contains(&raw));
        Some(self.is.large.get(&raw).copied().unwrap_or(USUAL))
    }

    fn describe(&mut self, slot: u16, _: u16) {
        self.promised.described.push(slot);
    }

    fn free_seat(&mut self, seat: u16, _: bool) {
        assert_eq!(self.in_seat(seat), None, "a living worker has it");
        self.promised.freed.push(seat);
    }

    fn abort(&mut self, pid: Pid) {
        assert!(self.promised.aborted.insert(pid.as_raw_nonzero().get()), "aborted once");
    }

    fn kill(&mut self, pid: Pid) {
        let pid = pid.as_raw_nonzero().get();
        assert!(self.promised.killed.insert(pid), "killed once");
        if let Some(new) = self.is.new_arbiter.as_ref().filter(|new| new.pid == pid) {
            assert!(!new.ready && !new.told.is_empty(), "told before it is killed");
        } else if self.promised.aborted.contains(&pid) {
            assert!(self.is.quit || self.is.stubborn, "what was aborted is dead already");
        } else if self.is.living.contains_key(&pid) {
            let deadline = self.leaves_by(pid).expect("told before it is killed");
            let unready = !self.is.ready.contains(&pid) && self.is.now >= self.promised.stopped + KILL_MARGIN;
            assert!(self.is.quit || unready || self.is.now >= deadline + KILL_MARGIN, "not killed early");
        }
    }

    fn save_backlog(&mut self) {
        assert!(
            self.is.new_arbiter.as_ref().is_none_or(|new| new.ready),
            "a new arbiter told to end has not ended"
        );
        assert!(mem::replace(&mut self.promised.listening, false), "listeners end once");
        assert!(
            self.is.living.keys().all(|raw| self.promised.told.contains_key(raw)),
            "workers are told first"
        );
        let leaving = [&self.promised.leaving, &self.promised.recycled, &self.promised.reloaded];
        assert_eq!(leaving.map(|who| self.count(who)), [0; 3], "all of them");
        self.promised.passing = true;
    }

    fn hurry_backlog(&mut self) {
        assert!(self.promised.passing && !self.promised.listening, "there is one to hurry");
    }

    fn accept_for(&mut self, slots: Vec<u16>) {
        assert!(self.promised.listening, "a stop is for all of them");
        self.promised.accepted_for = slots;
    }

    fn end_slot(&mut self, slot: u16) {
        assert!(self.promised.listening && self.in_slot(slot).is_none(), "the previous worker is leaving");
        self.promised.ended_slots.push(slot);
    }

    fn drop_backlog(&mut self) -> usize {
        assert!(!self.promised.listening);
        self.promised.passing = false;
        if self.is.stuck { 3 } else { 0 }
    }

    fn reopen_logs(&mut self) {}

    fn load(&mut self, generation: u32) -> ControlFlow<(), Option<Result<PlanConfig, String>>> {
        let promised = &mut self.promised;
        assert!(promised.listening && promised.candidate.is_none(), "one after the other");
        assert_eq!(generation, promised.newest + 1);
        promised.open.insert(generation);
        ControlFlow::Continue(Some(match self.is.found {
            Some(config) => {
                (promised.newest, promised.candidate) = (generation, Some(config));
                Ok(config)
            }
            None => Err("broken".into()),
        }))
    }

    fn adopt(&mut self) {
        let config = self.promised.candidate.take().expect("loaded, and not abandoned");
        self.promised.generation = self.promised.newest;
        let before = mem::replace(&mut self.is.settings, config);
        self.promised.resizing = before.workers != config.workers;
    }

    fn abandon(&mut self) {
        self.promised.candidate = None;
    }

    fn end_listeners(&mut self) {
        assert!(self.promised.listening);
    }

    fn reloaded(&mut self, generation: u32, end: ReloadEnd) {
        // A reload that comes too late has not begun.
        assert!(self.promised.open.remove(&generation) || end == ReloadEnd::TooLate);
        let stays = |raw: &&i32| !self.leaves(**raw);
        let of: BTreeSet<_> =
            self.is.living.keys().filter(stays).map(|raw| self.is.generations[raw]).collect();
        match end {
            ReloadEnd::Done => assert!(of.iter().all(|n| *n >= generation), "no worker is older: {of:?}"),
            ReloadEnd::Overtaken => assert!(self.promised.candidate.is_some()),
            ReloadEnd::TooLate if !self.promised.listening => {}
            ReloadEnd::Failed(_) | ReloadEnd::TooLate => {
                assert!(of.iter().all(|n| *n <= self.promised.generation), "given up, but {of:?}");
            }
        }
        self.promised.ended.push((generation, end));
    }

    fn launch(&mut self) -> Result<Pid, String> {
        assert!(!self.promised.stopping && self.is.new_arbiter.is_none(), "one other at a time");
        if self.is.exhausted {
            return Err("no memory".into());
        }
        self.is.next_pid += 1;
        self.is.new_arbiter = Some(NewArbiter { pid: self.is.next_pid, ready: false, told: Vec::new() });
        Ok(pid(self.is.next_pid))
    }

    fn signal(&mut self, pid: Pid, signal: Signal) {
        let new = self.is.new_arbiter.as_mut().expect("signals go to the living");
        assert_eq!((new.pid, new.ready), (pid.as_raw_nonzero().get(), false));
        new.told.push(signal);
    }

    fn hand_over(&mut self, pid: Pid) {
        assert!(self.is.new_arbiter.as_ref().is_some_and(|new| new.ready));
        assert_eq!(self.promised.handed_to.replace(pid.as_raw_nonzero().get()), None, "handed over once");
    }

    fn reclaim(&mut self, _: Option<usize>) {
        assert_eq!(self.is.new_arbiter, None, "nothing is taken from the living");
        self.promised.reclaimed += 1;
    }

    fn announce_ready(&mut self, workers: usize) {
        assert_eq!(workers, self.promised.target);
        assert!(!mem::replace(&mut self.promised.announced, true), "announced once");
    }

    fn log(&mut self, notice: Notice) {
        let promised = &mut self.promised;
        match &notice {
            Notice::Scaled { workers } if mem::take(&mut promised.resizing) => {
                assert!(*workers <= self.is.settings.workers.into());
                promised.target = *workers;
            }
            Notice::Scaled { workers } => {
                promised.target = promised.resting.take().unwrap_or(promised.target);
                assert_eq!(*workers, promised.target);
            }
            Notice::Resting => promised.resting = Some(mem::take(&mut promised.target)),
            Notice::Stopping { .. } => (promised.stopping, promised.stopped) = (true, self.is.now),
            Notice::Lameduck { .. } => promised.is_lame = true,
            Notice::Old { pid, .. } | Notice::Large { pid, .. } => {
                assert!(self.is.spent.insert(pid.as_raw_nonzero().get()), "said once");
            }
            _ => {}
        }
        promised.log.push(notice);
    }

    fn finish(&mut self, outcome: Outcome) {
        assert!(self.is.living.is_empty(), "finished while workers live");
        assert!(!self.promised.listening);
        assert!(
            self.is.new_arbiter.as_ref().is_none_or(|new| new.ready),
            "a new arbiter told to end lives on"
        );
        self.promised.outcome = Some(outcome);
    }
}

pub(super) fn pid(raw: i32) -> Pid {
    Pid::from_raw(raw).unwrap()
}
