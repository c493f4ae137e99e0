//! A virtual machine for plans: it has pids and time, but no processes.

use std::collections::{BTreeMap, BTreeSet};

use remuda_core::shutdown::Phase::Lameduck as LAMEDUCK;

use super::*;

/// More workers than this there cannot be, but for those that are recycled.
pub(super) const ROOM: usize = 8;

/// As many as may be recycled at a time.
pub(super) const RECYCLED: usize = 1;

/// As many as may be reloaded at a time.
pub(super) const RELOADED: usize = 1;

/// Bytes that a worker has.
pub(super) const USUAL: u64 = 10_000;

/// Does what the plan says, in virtual time, and checks its promises at every step.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) now: Time,
    /// How many workers are asked for.
    pub(super) target: usize,
    /// Who drains because fewer are, and was not told of a stop.
    pub(super) leaving: BTreeSet<i32>,
    /// Who drains because its successor is ready, and was not told of a stop.
    pub(super) recycled: BTreeSet<i32>,
    /// Who drains because of a reload, and was not told of a stop.
    pub(super) reloaded: BTreeSet<i32>,
    /// The configuration that the living have.
    generations: BTreeMap<i32, u32>,
    /// That which counts, and the last one that was loaded.
    pub(super) generation: u32,
    newest: u32,
    /// What was loaded and has to prove itself.
    candidate: Option<Shape>,
    /// What counts.
    pub(super) settings: Shape,
    /// What the next load finds; none: something broken.
    pub(super) found: Option<Shape>,
    /// Loads that have not come to an end, the generations that they are to be.
    open: BTreeSet<u32>,
    /// How they have ended.
    pub(super) ended: Vec<(u32, ReloadEnd)>,
    /// The number of workers in the settings has changed.
    resizing: bool,
    /// Who has asked to be replaced.
    spent: BTreeSet<i32>,
    /// Who has been ready.
    ready: BTreeSet<i32>,
    /// Who drains because of a signal.
    deaf: BTreeSet<i32>,
    /// Who was told that there is somebody to hand connections over to (D19), and has heard nothing else since.
    pub(super) promised: BTreeSet<i32>,
    /// Who was told that the server is to stop.
    pub(super) lame: BTreeSet<i32>,
    /// The living, by pid: slot and the deadline that they were told.
    pub(super) living: BTreeMap<i32, (u16, Option<Time>)>,
    /// Where they write.
    seats: BTreeMap<i32, u16>,
    pub(super) killed: BTreeSet<i32>,
    /// Who does not beat any more, and when it last did.
    pub(super) silent: BTreeMap<i32, Time>,
    pub(super) aborted: BTreeSet<i32>,
    /// Whether who is aborted lives on.
    pub(super) stubborn: bool,
    pub(super) described: Vec<u16>,
    /// Bytes that workers have, if not [`USUAL`], and how often somebody has looked.
    pub(super) large: BTreeMap<i32, u64>,
    pub(super) weighed: usize,
    pub(super) buried: Vec<u16>,
    next_pid: i32,
    /// Whether forks fail.
    pub(super) exhausted: bool,
    /// Until the listeners are ended.
    pub(super) listening: bool,
    /// Since a stop has begun.
    pub(super) stopping: bool,
    /// The new arbiter of an upgrade.
    pub(super) heir: Option<Heir>,
    /// How many come back from their rest.
    resting: Option<usize>,
    /// How often another arbiter was seen to be gone.
    pub(super) reclaimed: usize,
    /// Who was named to programs as the server from now on.
    pub(super) handed_to: Option<i32>,
    /// Whether the backlog takes for ever to pass on.
    pub(super) stuck: bool,
    /// The backlog is being passed on.
    passing: bool,
    /// The living that were told of the backlog's end.
    pub(super) told_end: BTreeSet<i32>,
    /// The slots whose listeners the arbiter accepts from.
    pub(super) relieved: Vec<u16>,
    /// The slots whose listeners have ended.
    pub(super) ended_slots: Vec<u16>,
    quit: bool,
    is_lame: bool,
    pub(super) announced: bool,
    pub(super) outcome: Option<Outcome>,
    pub(super) log: Vec<Notice>,
    pub(super) helper: Option<i32>,
    /// Helpers that are to end.
    pub(super) retired: Vec<Pid>,
    /// Who was answered what.
    pub(super) answers: BTreeMap<Ticket, Result<Done, Refused>>,
}

/// An arbiter that the plan's has started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Heir {
    pub(super) pid: i32,
    pub(super) ready: bool,
    /// The signals that were passed on.
    pub(super) told: Vec<Signal>,
}

impl World {
    pub(super) fn new(workers: u16) -> Self {
        Self::of(workers, Patience::default())
    }

    /// A server whose workers may not be silent for longer than `patience` says.
    pub(super) fn of(workers: u16, patience: Patience) -> Self {
        Self::lame(workers, patience, Duration::ZERO)
    }

    /// The same that goes on for so long once TERM has come.
    pub(super) fn lame(workers: u16, patience: Patience, lameduck: Duration) -> Self {
        Self::with(Shape { patience, lameduck, ..shape(workers) })
    }

    /// A server with these settings.
    pub(super) fn with(settings: Shape) -> Self {
        let mut world = Self {
            plan: Plan::new(settings),
            reloaded: BTreeSet::new(),
            generations: BTreeMap::new(),
            generation: 1,
            newest: 1,
            candidate: None,
            settings,
            found: Some(settings),
            open: BTreeSet::new(),
            ended: Vec::new(),
            resizing: false,
            now: Time::from_nanos(1_000_000_000_000),
            target: settings.workers.into(),
            leaving: BTreeSet::new(),
            recycled: BTreeSet::new(),
            spent: BTreeSet::new(),
            ready: BTreeSet::new(),
            deaf: BTreeSet::new(),
            promised: BTreeSet::new(),
            lame: BTreeSet::new(),
            seats: BTreeMap::new(),
            living: BTreeMap::new(),
            killed: BTreeSet::new(),
            silent: BTreeMap::new(),
            aborted: BTreeSet::new(),
            stubborn: false,
            described: Vec::new(),
            large: BTreeMap::new(),
            weighed: 0,
            buried: Vec::new(),
            next_pid: 100,
            exhausted: false,
            listening: true,
            stopping: false,
            heir: None,
            resting: None,
            reclaimed: 0,
            handed_to: None,
            stuck: false,
            passing: false,
            told_end: BTreeSet::new(),
            relieved: Vec::new(),
            ended_slots: Vec::new(),
            quit: false,
            is_lame: false,
            announced: false,
            outcome: None,
            log: Vec::new(),
            helper: None,
            retired: Vec::new(),
            answers: BTreeMap::new(),
        };
        world.feed(Event::Tick);
        world
    }

    /// All workers ready, for `age`.
    pub(super) fn serving(workers: u16, age: Duration) -> Self {
        Self::new(workers).serve(age)
    }

    /// The same for a world that exists.
    pub(super) fn serve(mut self, age: Duration) -> Self {
        let world = &mut self;
        world.pids().into_iter().for_each(|pid| world.report(pid, Report::Ready));
        assert!(world.announced);
        world.pass(age);
        self
    }

    pub(super) fn feed(&mut self, event: Event) -> Vec<Action> {
        let mut all = Vec::new();
        let mut todo: Vec<_> = self.plan.handle(event, self.now);
        loop {
            while !todo.is_empty() {
                let action = todo.remove(0);
                if let Some(answer) = self.perform(&action) {
                    todo.extend(self.plan.handle(answer, self.now));
                }
                all.push(action);
            }
            if self.stuck || !std::mem::replace(&mut self.passing, false) {
                break;
            }
            todo.extend(self.plan.handle(Event::BacklogOver { lost: 0 }, self.now));
        }
        let promised = self.living.keys().filter(|raw| self.promised.contains(raw)).count();
        assert!(promised == 0 || self.has_receiver(), "{promised} hand connections over to nobody");
        assert!(self.plan.deadline().is_none_or(|at| at > self.now), "nothing that is due is left undone");
        all
    }

    fn perform(&mut self, action: &Action) -> Option<Event> {
        assert_eq!(self.outcome, None, "Finish is the last action");
        match action {
            Action::Spawn { slot, seat, generation } => {
                assert!(!self.stopping, "no spawn in a stop");
                assert!(usize::from(*seat) < ROOM + RECYCLED + RELOADED);
                let is_candidate = self.candidate.is_some() && *generation == self.newest;
                assert!(is_candidate || *generation == self.generation, "of what counts, or to prove itself");
                assert_eq!(self.in_seat(*seat), None, "one worker a seat");
                if self.exhausted {
                    return Some(Event::SpawnFailed { seat: *seat, error: "no memory".into() });
                }
                self.next_pid += 1;
                self.living.insert(self.next_pid, (*slot, None));
                self.seats.insert(self.next_pid, *seat);
                self.generations.insert(self.next_pid, *generation);
                let spent = self.living.keys().filter(|raw| self.spent.contains(raw)).count();
                let reloads = if self.newest > 1 { RELOADED } else { 0 };
                let most = self.target + spent.min(RECYCLED) + reloads;
                assert!(self.living.len() - self.count(&self.leaving) <= most, "no more than asked for");
                return Some(Event::Spawned { seat: *seat, pid: pid(self.next_pid) });
            }
            Action::SpawnHelper => {
                self.next_pid += 1;
                assert_eq!(self.helper.replace(self.next_pid), None, "one at a time");
                return Some(Event::HelperSpawned(Ok(pid(self.next_pid))));
            }
            Action::Retire { pid } => {
                assert_eq!(self.helper.take(), Some(pid.as_raw_nonzero().get()), "retired once");
                self.retired.push(*pid);
            }
            Action::Answer { ticket, answer } => {
                assert!(self.answers.insert(*ticket, answer.clone()).is_none(), "answered once");
                if let Ok(Done::Scaled { workers }) = answer {
                    assert_eq!(*workers, self.target);
                }
            }
            Action::Send { pid, order } => {
                let pid = pid.as_raw_nonzero().get();
                let (_, told) = self.living.get_mut(&pid).expect("orders go to the living");
                let Order::Drain { drain, .. } = order else { return self.hear_other(pid, order) };
                if drain.receiver {
                    assert!(told.is_none() || self.stopping, "nobody is promised a receiver late");
                    self.promised.insert(pid);
                } else if self.promised.remove(&pid) && !drain.reason.is_stop() {
                    assert_eq!(*told, Some(drain.deadline), "nothing else has changed");
                    return None;
                }
                let mut own = *drain;
                own.receiver = false;
                match order {
                    Order::Drain { drain, policy: PolicyId::Stop } if drain.phase == LAMEDUCK => {
                        assert!(self.listening && told.is_none() && drain.reason == Reason::Stop);
                        assert!(self.lame.insert(pid), "told once");
                    }
                    Order::Drain { drain, policy: PolicyId::Recycle } => {
                        assert!(drain.reason.is_recycle());
                        assert_eq!(own, Drain::new(drain.reason, self.now, self.now + GRACEFUL));
                        assert!(self.listening && told.is_none(), "told to leave once, and not in a stop");
                        assert!(self.spent.contains(&pid), "nobody else is recycled");
                        *told = Some(drain.deadline);
                        self.recycled.insert(pid);
                        let (slot, _) = self.living[&pid];
                        let heir = self.in_slot(slot).expect("somebody comes in its place");
                        assert!(self.ready.contains(&heir), "who is recycled leaves when that one is ready");
                    }
                    Order::Drain { drain, policy: PolicyId::Stop } => {
                        assert!(!drain.receiver && drain.reason.is_stop());
                        // Who is leaving has to hear of a stop, even where that leaves its deadline as it is.
                        self.leaving.remove(&pid);
                        self.recycled.remove(&pid);
                        self.reloaded.remove(&pid);
                        assert!(told.is_none_or(|before| drain.deadline <= before), "deadlines move closer");
                        *told = Some(drain.deadline);
                    }
                    Order::Drain { drain, policy: PolicyId::Reload } if self.stopping => {
                        assert_eq!(drain.reason, Reason::Upgrade);
                        assert!(self.heir.as_ref().is_some_and(|heir| heir.ready), "somebody takes over");
                        self.leaving.remove(&pid);
                        self.recycled.remove(&pid);
                        self.reloaded.remove(&pid);
                        assert!(told.is_none_or(|before| drain.deadline <= before), "deadlines move closer");
                        *told = Some(drain.deadline);
                    }
                    Order::Drain { drain, policy: PolicyId::Reload } if drain.reason == Reason::Reload => {
                        assert_eq!(own, Drain::new(Reason::Reload, self.now, self.now + GRACEFUL));
                        assert!(self.listening && told.is_none(), "told to leave once, and not in a stop");
                        *told = Some(drain.deadline);
                        self.reloaded.insert(pid);
                        let (slot, own) = (self.living[&pid].0, self.generations[&pid]);
                        if own < self.generation {
                            let heir = self.in_slot(slot).expect("somebody comes in its place");
                            assert!(
                                self.ready.contains(&heir),
                                "who is reloaded leaves when that one is ready"
                            );
                            assert_eq!(self.generations[&heir], self.generation);
                        } else {
                            assert!(own > self.generation, "nobody else is told to leave");
                        }
                    }
                    Order::Drain { drain, policy: PolicyId::Reload } => {
                        assert!([Reason::ScaleDown, Reason::Upgrade].contains(&drain.reason));
                        assert_eq!(own, Drain::new(drain.reason, self.now, self.now + GRACEFUL));
                        assert!(self.listening && told.is_none(), "told to leave once, and not in a stop");
                        *told = Some(drain.deadline);
                        self.leaving.insert(pid);
                    }
                    other => panic!("unexpected order {other:?}"),
                }
            }
            Action::Kill { pid } => {
                let pid = pid.as_raw_nonzero().get();
                assert!(self.killed.insert(pid), "killed once");
                if let Some(heir) = self.heir.as_ref().filter(|heir| heir.pid == pid) {
                    assert!(!heir.ready && !heir.told.is_empty(), "told before it is killed");
                } else if self.aborted.contains(&pid) {
                    assert!(self.quit || self.stubborn, "what was aborted is dead already");
                } else if let Some((_, told)) = self.living.get(&pid) {
                    let deadline = told.expect("told before it is killed");
                    assert!(self.quit || self.now >= deadline + KILL_MARGIN, "not killed early");
                }
            }
            Action::Look { seat } => {
                let pid = self.in_seat(*seat).expect("looks at the living");
                let at = self.silent.get(&pid).copied().unwrap_or(self.now);
                return Some(Event::Beat { seat: *seat, at });
            }
            Action::Weigh { pid } => {
                self.weighed += 1;
                let raw = pid.as_raw_nonzero().get();
                assert!(self.ready.contains(&raw) && !self.leaves(raw) && !self.spent.contains(&raw));
                let rss = self.large.get(&raw).copied().unwrap_or(USUAL);
                return Some(Event::Weighed { pid: *pid, rss });
            }
            Action::Abort { pid } => {
                assert!(self.aborted.insert(pid.as_raw_nonzero().get()), "aborted once");
            }
            Action::Describe { slot, .. } => self.described.push(*slot),
            Action::Bury { seat, .. } => {
                assert_eq!(self.in_seat(*seat), None, "buried alive");
                self.buried.push(*seat);
            }
            Action::Launch => {
                assert!(!self.stopping && self.heir.is_none(), "one other at a time");
                if self.exhausted {
                    return Some(Event::NotLaunched { error: "no memory".into() });
                }
                self.next_pid += 1;
                self.heir = Some(Heir { pid: self.next_pid, ready: false, told: Vec::new() });
                return Some(Event::Launched { pid: pid(self.next_pid) });
            }
            Action::Signal { pid, signal } => {
                let heir = self.heir.as_mut().expect("signals go to the living");
                assert_eq!((heir.pid, heir.ready), (pid.as_raw_nonzero().get(), false));
                heir.told.push(*signal);
            }
            Action::HandOver { pid } => {
                assert!(self.heir.as_ref().is_some_and(|heir| heir.ready));
                assert_eq!(self.handed_to.replace(pid.as_raw_nonzero().get()), None, "handed over once");
            }
            Action::Reclaim => {
                assert_eq!(self.heir, None, "nothing is taken from the living");
                self.reclaimed += 1;
            }
            Action::SaveBacklog => {
                assert!(self.heir.as_ref().is_none_or(|heir| heir.ready), "who is to end has not ended");
                assert!(std::mem::replace(&mut self.listening, false), "listeners end once");
                assert!(self.living.values().all(|(_, told)| told.is_some()), "workers are told first");
                let leaving = [&self.leaving, &self.recycled, &self.reloaded].map(|who| self.count(who));
                assert_eq!(leaving, [0; 3], "all of them");
                self.passing = true;
            }
            Action::DropBacklog => {
                assert!(!self.listening);
                self.passing = false;
                return Some(Event::BacklogOver { lost: if self.stuck { 3 } else { 0 } });
            }
            Action::Relieve { slots } => {
                assert!(self.listening, "a stop is for all of them");
                self.relieved.clone_from(slots);
            }
            Action::EndSlot { slot } => {
                assert!(self.listening && self.in_slot(*slot).is_none(), "whoever was there is leaving");
                self.ended_slots.push(*slot);
            }
            Action::ReopenLogs => {}
            Action::Load { generation } => {
                assert!(self.listening && self.candidate.is_none(), "one after the other");
                assert_eq!(*generation, self.newest + 1);
                self.open.insert(*generation);
                return Some(match self.found {
                    Some(shape) => {
                        (self.newest, self.candidate) = (*generation, Some(shape));
                        Event::Loaded { shape }
                    }
                    None => Event::NotLoaded { why: "broken".into() },
                });
            }
            Action::Adopt => {
                let shape = self.candidate.take().expect("loaded, and not abandoned");
                self.generation = self.newest;
                let before = std::mem::replace(&mut self.settings, shape);
                self.resizing = before.workers != shape.workers;
            }
            Action::Abandon => self.candidate = None,
            Action::EndListeners => assert!(self.listening),
            Action::Reloaded { generation, end } => {
                // One that comes too late was not even begun.
                assert!(self.open.remove(generation) || *end == ReloadEnd::TooLate);
                let stays = |raw: &&i32| !self.leaves(**raw);
                let of: BTreeSet<_> =
                    self.living.keys().filter(stays).map(|raw| self.generations[raw]).collect();
                match end {
                    ReloadEnd::Done => assert!(of.iter().all(|n| n >= generation), "nobody is older: {of:?}"),
                    ReloadEnd::Overtaken => assert!(self.candidate.is_some()),
                    ReloadEnd::TooLate if !self.listening => {}
                    ReloadEnd::Failed(_) | ReloadEnd::TooLate => {
                        assert!(of.iter().all(|n| *n <= self.generation), "given up, but {of:?}")
                    }
                }
                self.ended.push((*generation, end.clone()));
            }
            Action::AnnounceReady { workers } => {
                assert_eq!(*workers, self.target);
                assert!(!std::mem::replace(&mut self.announced, true), "announced once");
            }
            Action::Log(notice) => {
                match notice {
                    Notice::Scaled { workers } if std::mem::take(&mut self.resizing) => {
                        assert!(*workers <= self.settings.workers.into());
                        self.target = *workers;
                    }
                    Notice::Scaled { workers } => {
                        self.target = self.resting.take().unwrap_or(self.target);
                        assert_eq!(*workers, self.target);
                    }
                    Notice::Resting => self.resting = Some(std::mem::take(&mut self.target)),
                    Notice::Stopping { .. } => self.stopping = true,
                    Notice::Lameduck { .. } => self.is_lame = true,
                    Notice::Old { pid, .. } | Notice::Large { pid, .. } => {
                        assert!(self.spent.insert(pid.as_raw_nonzero().get()), "said once");
                    }
                    _ => {}
                }
                self.log.push(notice.clone());
            }
            Action::Finish(outcome) => {
                assert!(self.living.is_empty(), "finished while workers live");
                assert!(!self.listening);
                assert!(self.heir.as_ref().is_none_or(|heir| heir.ready), "who was to end lives on");
                self.outcome = Some(outcome.clone());
            }
        }
        None
    }

    fn hear_other(&mut self, pid: i32, order: &Order) -> Option<Event> {
        match order {
            Order::BacklogEnd => {
                let (_, told) = self.living[&pid];
                assert!(told.is_some() && !self.listening, "the backlog ends within a stop");
                assert!(!self.passing, "the backlog ends when it has been passed on");
                assert!(self.told_end.insert(pid), "the backlog ends once");
            }
            Order::ReopenLogs => {}
            other => panic!("unexpected order {other:?}"),
        }
        None
    }

    /// Whether somebody takes connections over from those that leave: who accepts, here or beside a new arbiter.
    pub(super) fn has_receiver(&self) -> bool {
        let accepts = |raw: &i32| self.ready.contains(raw) && !self.deaf.contains(raw) && !self.leaves(*raw);
        self.heir.as_ref().is_some_and(|heir| heir.ready)
            || (!self.stopping && self.resting.is_none() && self.living.keys().any(accepts))
    }

    pub(super) fn signal(&mut self, signal: Signal) -> Vec<Action> {
        self.quit |= signal == Signal::Quit;
        match signal {
            _ if self.is_lame || self.stopping || self.plan.is_resting() => {}
            Signal::Ttin if self.target + self.count(&self.leaving) < ROOM => self.target += 1,
            Signal::Ttou => self.target = 1.max(self.target - 1),
            _ => {}
        }
        self.feed(Event::Signal(signal))
    }

    /// Somebody asks for something, and waits for it.
    pub(super) fn ask(&mut self, number: u64, command: Command) {
        match command {
            Command::Recycle(which) if self.announced && self.listening && !self.is_lame => {
                let asked = |raw: &i32| which.is_none_or(|which| which == pid(*raw));
                let holders = self.pids().into_iter().filter(|raw| !self.leaves(*raw));
                self.spent.extend(holders.filter(asked).collect::<Vec<_>>());
            }
            Command::Scale(scale) if self.listening && !self.is_lame => {
                let wanted = match scale {
                    Scale::By(more) => self.target.saturating_add_signed(more.into()),
                    Scale::To(workers) => workers.into(),
                };
                let fits = wanted <= self.target || wanted + self.count(&self.leaving) <= ROOM;
                if wanted > 0 && fits {
                    self.target = wanted;
                }
            }
            _ => {}
        }
        self.feed(Event::Asked { ticket: Ticket(number), command, wait: true });
    }

    pub(super) fn report(&mut self, raw: i32, report: Report) {
        match report {
            Report::Ready => drop(self.ready.insert(raw)),
            Report::Recycle { .. } => drop(self.spent.insert(raw)),
            Report::Draining => drop(self.deaf.insert(raw)),
            _ => {}
        }
        self.feed(Event::Report { pid: pid(raw), report });
    }

    pub(super) fn die(&mut self, raw: i32, death: Death) {
        self.living.remove(&raw).expect("alive until now");
        self.feed(Event::Exited { pid: pid(raw), death });
    }

    /// The new arbiter says that it serves.
    pub(super) fn heir_ready(&mut self) {
        if let Some(heir) = self.heir.as_mut().filter(|heir| heir.told.is_empty()) {
            heir.ready = true;
        }
        self.feed(Event::HeirReady { receives: true });
    }

    pub(super) fn heir_dies(&mut self, death: Death) {
        let heir = self.heir.take().expect("alive until now");
        self.feed(Event::Exited { pid: pid(heir.pid), death });
    }

    /// Lets time pass, with a tick whenever the plan wants one; what was killed dies.
    pub(super) fn pass(&mut self, length: Duration) {
        let end = self.now + length;
        while let Some(at) = self.plan.deadline().filter(|at| *at <= end) {
            assert!(at > self.now);
            self.now = at;
            self.feed(Event::Tick);
            self.bury();
        }
        self.now = end;
        self.feed(Event::Tick);
        self.bury();
    }

    /// Lets time pass in which nobody runs: neither the arbiter nor a worker.
    pub(super) fn freeze(&mut self, length: Duration) {
        let hung = self.silent.clone();
        self.pids().into_iter().for_each(|pid| self.silence(pid));
        self.now = self.now + length;
        self.feed(Event::Tick);
        self.silent = hung;
        self.bury();
    }

    /// From now on a worker does not beat.
    pub(super) fn silence(&mut self, raw: i32) {
        self.silent.entry(raw).or_insert(self.now);
    }

    pub(super) fn bury(&mut self) {
        if self.heir.as_ref().is_some_and(|heir| self.killed.contains(&heir.pid)) {
            self.heir_dies(Death::Signal(9));
        }
        for raw in self.pids() {
            if self.killed.contains(&raw) {
                self.die(raw, Death::Signal(9));
            } else if self.aborted.contains(&raw) && !self.stubborn {
                self.die(raw, Death::Signal(6));
            }
        }
    }

    /// How many live and are not leaving.
    pub(super) fn staying(&self) -> usize {
        self.living.keys().filter(|raw| !self.leaves(**raw)).count()
    }

    /// How many of these live.
    fn count(&self, of: &BTreeSet<i32>) -> usize {
        self.living.keys().filter(|raw| of.contains(raw)).count()
    }

    pub(super) fn pids(&self) -> Vec<i32> {
        self.living.keys().copied().collect()
    }

    /// The first in a slot that is not leaving.
    pub(super) fn in_slot(&self, slot: u16) -> Option<i32> {
        self.living.iter().find(|(raw, (of, _))| *of == slot && !self.leaves(**raw)).map(|(raw, _)| *raw)
    }

    /// Whether it was told to leave before the others.
    fn leaves(&self, raw: i32) -> bool {
        [&self.leaving, &self.recycled, &self.reloaded].iter().any(|who| who.contains(&raw))
    }

    /// The configuration of everybody who stays, by pid.
    pub(super) fn made_of(&self) -> Vec<(i32, u32)> {
        let stays = self.living.keys().filter(|raw| !self.leaves(**raw));
        stays.map(|raw| (*raw, self.generations[raw])).collect()
    }

    /// Whether every reload that was begun has ended.
    pub(super) fn is_answered(&self) -> bool {
        self.open.is_empty()
    }

    fn in_seat(&self, seat: u16) -> Option<i32> {
        self.living.keys().find(|raw| self.seats[raw] == seat).copied()
    }

    /// How long slot 0 stays empty.
    pub(super) fn gap(&mut self) -> Duration {
        let since = self.now;
        while self.in_slot(0).is_none() {
            let at = self.plan.deadline().expect("it will be filled");
            self.pass(at - self.now);
        }
        self.now - since
    }
}

pub(super) fn pid(raw: i32) -> Pid {
    Pid::from_raw(raw).unwrap()
}
