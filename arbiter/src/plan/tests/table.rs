//! Every event in every state, and random sequences of events, including unexpected events and late
//! answers.
//!
//! [`World`] answers at once, as the plan may expect; here nothing is guaranteed. Whatever comes,
//! no absent process is told, checked or killed, the workers never exceed the room, each command is
//! answered once, and a stop ends.

use std::collections::{BTreeMap, HashSet};
use std::mem::discriminant;

use proptest::collection::vec;

use super::*;

#[test]
fn every_event_in_every_state_keeps_the_promises() {
    let events = every_event();
    for (name, reach, signal) in states() {
        for event in &events {
            let mut auditor = Auditor::of(reach(), signal);
            auditor.feed(event.clone());
            auditor.stop(&format!("{event:?} in {name}"));
        }
    }
}

#[test]
fn no_kind_of_event_is_forgotten() {
    let events = every_event();
    let kinds: HashSet<_> = events.iter().map(discriminant).collect();
    // A new kind of event does not compile here.
    let all = |event: &Event| match event {
        Event::Signal(_)
        | Event::Spawned { .. }
        | Event::SpawnFailed { .. }
        | Event::Report { .. }
        | Event::Beat { .. }
        | Event::Weighed { .. }
        | Event::Kept { .. }
        | Event::KeeperGone { .. }
        | Event::Exited { .. }
        | Event::Asked { .. }
        | Event::HelperSpawned(_)
        | Event::Listening
        | Event::BacklogOver { .. }
        | Event::Loaded { .. }
        | Event::NotLoaded { .. }
        | Event::Launched { .. }
        | Event::NotLaunched { .. }
        | Event::NewArbiterReady { .. }
        | Event::OldArbiterGone
        | Event::Tick => 20,
    };
    assert_eq!(kinds.len(), all(&events[0]));
}

proptest! {
    // A failure is reported within a minute, if not minimal.
    #![proptest_config(ProptestConfig { max_shrink_time: 60_000, ..ProptestConfig::with_cases(48) })]
    #[test]
    fn thousands_of_events_in_any_order_keep_the_promises_and_a_stop_finishes(
        which in 0..states().count(),
        steps in vec(step(|event| !is_stop(event)), 0..3000),
        late in vec(step(|_| true), 0..100),
    ) {
        let (name, reach, signal) = states().nth(which).expect("there are as many");
        let mut auditor = Auditor::of(reach(), signal);
        steps.into_iter().for_each(|step| auditor.take(step));
        auditor.feed(Event::Signal(Signal::Term));
        late.into_iter().for_each(|step| auditor.take(step));
        auditor.stop(name);
    }
}

/// The states of a plan: a way to each, and perhaps a signal after it.
fn states() -> impl Iterator<Item = (&'static str, Reach, Option<Signal>)> {
    let settled = PHASES.into_iter().chain(STATES).map(|(name, reach)| (name, reach, None));
    settled.chain(ASKING.map(|(name, reach, signal)| (name, reach, Some(signal))))
}

/// States outside of [`PHASES`].
const STATES: [(&str, Reach); 10] = [
    ("silent", || silent(false)),
    ("aborted", || silent(true)),
    ("with a helper", || {
        let mut world = World::serving(2, SECOND);
        world.supervisor.plan.helper = Some(Helper::due());
        world.feed(Event::Tick);
        world
    }),
    ("with a helper that is due", || {
        let mut world = World::serving(2, SECOND);
        world.supervisor.plan.helper = Some(Helper::due());
        world
    }),
    ("with own listeners", || {
        let mut world = World::new(3);
        world.supervisor.plan.unattended = Some(Vec::new());
        world.report(102, Report::Ready);
        world
    }),
    ("resting beside a new arbiter", || {
        let mut world = upgrade::held();
        world.signal(Signal::Winch);
        world
    }),
    ("coming back", || {
        let mut world = World::serving(ROOM as u16, SECOND);
        world.signal(Signal::Winch);
        world.signal(Signal::Hup);
        world
    }),
    ("recycling within a reload", || {
        let mut world = recycle::recycling();
        world.signal(Signal::Hup);
        world
    }),
    ("with workers that grow old and large", expiry::limited),
    ("with a backlog that takes for ever", || {
        let mut world = World::serving(2, SECOND);
        world.is.stuck = true;
        world.signal(Signal::Term);
        world
    }),
];

/// States in which the plan waits for an answer after a signal.
const ASKING: [(&str, Reach, Signal); 5] = [
    ("asking for a worker", || World::serving(1, SECOND), Signal::Ttin),
    ("asking for a load", || World::serving(2, SECOND), Signal::Hup),
    ("asking for a load within a reload", reload::adopted, Signal::Hup),
    ("asking for the end of a backlog", || World::serving(2, SECOND), Signal::Term),
    ("asking for no backlog any more", || World::serving(2, SECOND), Signal::Quit),
];

/// A worker that does not beat, detected or not; it survives the abort.
fn silent(aborted: bool) -> World {
    let mut world = World::of(2, heartbeat::PATIENCE).serve(SECOND);
    world.is.stubborn = true;
    world.silence(101);
    world.pass(heartbeat::PATIENCE.timeout - SECOND);
    world.pass(if aborted { SECOND } else { Duration::ZERO });
    world
}

/// At least one event of each kind.
fn every_event() -> Vec<Event> {
    let deaths = [Death::Status(0), Death::Status(3), Death::Status(4), Death::Status(6), Death::Signal(9)];
    let commands = [
        Command::Scale(Scale::By(1)),
        Command::Scale(Scale::By(-1)),
        Command::Scale(Scale::To(5)),
        Command::Recycle(None),
        Command::Recycle(Some(pid(102))),
        Command::Reload,
        Command::Stop { quick: false },
        Command::Stop { quick: true },
    ];
    let mut events = SIGNALS.map(Event::Signal).to_vec();
    for raw in [101, 102, 103, 104, 999] {
        events.extend(reports().map(|report| Event::Report { pid: pid(raw), report }));
        events.extend(deaths.map(|death| Event::Exited { pid: pid(raw), death }));
        events.extend([0, u64::MAX].map(|rss| Event::Weighed { pid: pid(raw), rss }));
    }
    for seat in 0..4 {
        events.push(Event::Spawned { seat, pid: pid(900) });
        events.push(Event::SpawnFailed { seat, error: "no".into() });
        events.extend([Time::ZERO, Time::MAX].map(|at| Event::Beat { seat, at }));
    }
    for (n, command) in commands.into_iter().enumerate() {
        let ticket = |more| Ticket(900 + 2 * n as u64 + more);
        events.push(Event::Asked { ticket: ticket(0), command, wait: false });
        events.push(Event::Asked { ticket: ticket(1), command, wait: true });
    }
    events.extend([Ok(pid(900)), Err("no".into())].map(Event::HelperSpawned));
    events.extend([0, 3].map(|lost| Event::BacklogOver { lost }));
    events.extend([1, 3].map(|workers| Event::Loaded { config: config(workers) }));
    events.extend([
        Event::NotLoaded { why: "no".into() },
        Event::Listening,
        Event::Kept { pid: pid(99), keeper: pid(98) },
        Event::KeeperGone { seat: 9 },
        Event::Launched { pid: pid(900) },
        Event::NotLaunched { error: "no".into() },
        Event::NewArbiterReady { receives: false },
        Event::NewArbiterReady { receives: true },
        Event::OldArbiterGone,
        Event::Tick,
    ]);
    events
}

fn reports() -> [Report; 6] {
    [Report::Ready, boot_failed(3), boot_failed(4), recycle::SPENT, Report::Draining, Report::ReopenLogs]
}

/// Whether the event requests the end of the server.
fn is_stop(event: &Event) -> bool {
    let stops = [Signal::Term, Signal::Int, Signal::Quit].map(Event::Signal);
    stops.contains(event) || matches!(event, Event::Asked { command: Command::Stop { .. }, .. })
}

/// One step of a random run; indices choose among what exists.
#[derive(Clone, Debug)]
enum Step {
    /// An event, expected or not.
    Event(Event),
    /// An action is answered.
    Answer(usize, bool),
    Report(usize, usize),
    Die(usize, Death),
    Pass(u64),
}

fn step(which: fn(&Event) -> bool) -> impl Strategy<Value = Step> {
    let events: Vec<_> = every_event().into_iter().filter(which).collect();
    let death = prop_oneof![(0..8).prop_map(Death::Status), (1..16).prop_map(Death::Signal)];
    prop_oneof![
        1 => prop::sample::select(events).prop_map(Step::Event),
        8 => any::<(usize, bool)>().prop_map(|(which, well)| Step::Answer(which, well)),
        4 => any::<(usize, usize)>().prop_map(|(which, report)| Step::Report(which, report)),
        2 => (any::<usize>(), death).prop_map(|(which, death)| Step::Die(which, death)),
        4 => (0..20_000u64).prop_map(Step::Pass),
    ]
}

/// An action that awaits its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    Spawn { seat: u16 },
    Helper,
    Look { seat: u16 },
    Load,
    Launch,
    Backlog,
}

/// A model that relies only on the events, and checks every action against them.
struct Auditor {
    plan: Plan,
    now: Time,
    /// Living workers with their seats, the helper and the new arbiter.
    living: BTreeMap<i32, Option<u16>>,
    /// Workers that were told to leave.
    told: BTreeSet<i32>,
    aborted: BTreeSet<i32>,
    killed: BTreeSet<i32>,
    questions: Vec<Question>,
    /// Commands that wait for an answer.
    tickets: BTreeSet<Ticket>,
    /// The last pid and the last ticket issued.
    last: i32,
    stopping: bool,
    /// Whether the listeners are ended.
    saved: bool,
    finished: bool,
}

impl Auditor {
    /// Continues from the state of a world, perhaps with a signal.
    fn of(world: World, signal: Option<Signal>) -> Self {
        let seats = world.supervisor.plan.entries.iter();
        let seats: BTreeMap<_, _> = seats.filter_map(|entry| Some((raw(entry.pid()?), entry.seat))).collect();
        let others = world.is.helper.into_iter().chain(world.is.new_arbiter.iter().map(|new| new.pid));
        let living =
            world.pids().into_iter().chain(others).map(|raw| (raw, seats.get(&raw).copied())).collect();
        let told = world.pids().into_iter().filter(|raw| world.leaves_by(*raw).is_some());
        let mut auditor = Self {
            living,
            told: told.collect(),
            aborted: world.promised.aborted.clone(),
            killed: world.promised.killed.clone(),
            questions: Vec::new(),
            tickets: BTreeSet::new(),
            last: 1000,
            stopping: world.promised.stopping,
            saved: !world.promised.listening,
            finished: world.promised.outcome.is_some(),
            now: world.is.now,
            plan: world.supervisor.plan,
        };
        if let Some(signal) = signal {
            auditor.feed(Event::Signal(signal));
            assert!(!auditor.questions.is_empty(), "nothing is asked");
        }
        auditor
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Event(event) => self.feed(event),
            Step::Answer(which, well) => {
                let open = self.questions.len();
                if open > 0 {
                    self.answer(self.questions[which % open], well);
                }
            }
            Step::Report(who, what) => {
                let reports = reports();
                let report = reports[what % reports.len()].clone();
                self.one(who)
                    .into_iter()
                    .for_each(|pid| self.feed(Event::Report { pid, report: report.clone() }));
            }
            Step::Die(who, death) => {
                self.one(who).into_iter().for_each(|pid| self.feed(Event::Exited { pid, death }));
            }
            Step::Pass(millis) => {
                self.now = self.now + Duration::from_millis(millis);
                self.feed(Event::Tick);
            }
        }
    }

    /// One of the living processes.
    fn one(&self, which: usize) -> Option<Pid> {
        self.living.keys().nth(which % self.living.len().max(1)).map(|raw| pid(*raw))
    }

    fn answer(&mut self, question: Question, well: bool) {
        let (pid, error) = (pid(self.last + 1), "no".to_owned());
        self.feed(match question {
            Question::Spawn { seat } if well => Event::Spawned { seat, pid },
            Question::Spawn { seat } => Event::SpawnFailed { seat, error },
            Question::Helper => Event::HelperSpawned(if well { Ok(pid) } else { Err(error) }),
            Question::Look { seat } => Event::Beat { seat, at: if well { self.now } else { Time::ZERO } },
            Question::Load if well => Event::Loaded { config: config(1 + self.last as u16 % 5) },
            Question::Load => Event::NotLoaded { why: error },
            Question::Launch if well => Event::Launched { pid },
            Question::Launch => Event::NotLaunched { error },
            Question::Backlog => Event::BacklogOver { lost: usize::from(!well) },
        });
    }

    fn feed(&mut self, mut event: Event) {
        let is_stray =
            !self.prepare(&mut event) && matches!(event, Event::Spawned { .. } | Event::Launched { .. });
        for action in self.plan.handle(event, self.now) {
            self.audit(&action);
        }
        assert!(!is_stray || self.killed.contains(&self.last), "no entry supervises it");
        // No other event can happen between these two.
        if self.questions.contains(&Question::Launch) {
            self.answer(Question::Launch, self.last % 4 > 0);
        }
        let working = self.living.values().flatten().count();
        assert!(working <= MOST, "{working} workers");
    }

    /// Records `event`, and whether it was requested. A new process has an unused pid, and a
    /// command an unused ticket.
    fn prepare(&mut self, event: &mut Event) -> bool {
        let answered = match event {
            Event::Spawned { seat, .. } | Event::SpawnFailed { seat, .. } => {
                Some(Question::Spawn { seat: *seat })
            }
            Event::HelperSpawned(_) => Some(Question::Helper),
            Event::Beat { seat, .. } => Some(Question::Look { seat: *seat }),
            Event::Loaded { .. } | Event::NotLoaded { .. } => Some(Question::Load),
            Event::Launched { .. } | Event::NotLaunched { .. } => Some(Question::Launch),
            Event::BacklogOver { .. } => Some(Question::Backlog),
            _ => None,
        };
        let at = answered.and_then(|answered| self.questions.iter().position(|open| *open == answered));
        let expected = at.map(|at| self.questions.remove(at)).is_some();
        match event {
            Event::Spawned { pid: born, .. }
            | Event::Launched { pid: born }
            | Event::HelperSpawned(Ok(born)) => {
                self.last += 1;
                *born = pid(self.last);
                self.living.insert(self.last, None);
            }
            Event::Asked { ticket, .. } => {
                self.last += 1;
                *ticket = Ticket(self.last as u64);
                self.tickets.insert(*ticket);
            }
            Event::Exited { pid, .. } => drop(self.living.remove(&raw(*pid))),
            _ => {}
        }
        if let Event::Spawned { seat, .. } = event
            && expected
        {
            self.living.insert(self.last, Some(*seat));
        }
        expected
    }

    fn audit(&mut self, action: &Action) {
        match action {
            Action::Spawn { seat, .. } => {
                assert!(!self.stopping, "no spawn in a stop");
                assert!(usize::from(*seat) < MOST);
                assert!(!self.living.values().any(|of| *of == Some(*seat)), "one worker a seat");
                self.ask(Question::Spawn { seat: *seat });
                let staying =
                    self.living.iter().filter(|(raw, seat)| seat.is_some() && !self.told.contains(raw));
                assert!(
                    staying.count() < self.plan.workers() + RECYCLED + RELOADED,
                    "no more than asked for"
                );
            }
            Action::SpawnHelper => self.ask(Question::Helper),
            Action::Load { .. } => self.ask(Question::Load),
            Action::Launch => self.ask(Question::Launch),
            Action::Look { seat } => {
                assert!(self.living.values().any(|of| *of == Some(*seat)), "looks at the living");
                self.ask(Question::Look { seat: *seat });
            }
            Action::SaveBacklog | Action::DropBacklog => {
                assert!(self.stopping && !self.finished);
                assert!(!self.plan.waits_for_new_arbiter(), "it is the new arbiter's as well");
                let saves = *action == Action::SaveBacklog;
                assert_eq!(std::mem::replace(&mut self.saved, true), !saves, "saved once, then dropped");
                self.questions.retain(|open| *open != Question::Backlog);
                self.ask(Question::Backlog);
            }
            Action::Send { pid, order } => {
                assert!(
                    self.living.get(&raw(*pid)).is_some_and(Option::is_some),
                    "orders go to workers that live"
                );
                if let Order::Drain { drain, .. } = order
                    && drain.phase != remuda_core::shutdown::Phase::Lameduck
                {
                    self.told.insert(raw(*pid));
                }
            }
            // Its memory may never be known.
            Action::Weigh { pid } => {
                assert!(
                    self.living.get(&raw(*pid)).is_some_and(Option::is_some),
                    "workers that live are weighed"
                );
            }
            Action::Retire { pid } => {
                assert!(self.living.get(&raw(*pid)).is_some_and(Option::is_none), "no worker is retired so");
            }
            Action::Abort { pid } => {
                assert!(self.living.contains_key(&raw(*pid)), "the dead are left alone");
                assert!(self.aborted.insert(raw(*pid)), "aborted once");
            }
            Action::Kill { pid } => {
                assert!(self.living.contains_key(&raw(*pid)), "the dead are left alone");
                assert!(self.killed.insert(raw(*pid)), "killed once");
            }
            Action::Signal { pid, .. } | Action::HandOver { pid } => {
                assert!(self.living.get(&raw(*pid)).is_some_and(Option::is_none), "no worker takes over");
            }
            Action::FreeSeat { seat, .. } => {
                assert!(!self.living.values().any(|of| *of == Some(*seat)), "a living worker has it");
            }
            Action::Answer { ticket, .. } => assert!(self.tickets.remove(ticket), "answered once"),
            Action::Log(Notice::Stopping { .. }) => self.stopping = true,
            Action::Finish(_) => {
                assert!(!self.living.values().any(Option::is_some), "finished while workers live");
                assert!(self.saved && !self.plan.waits_for_new_arbiter());
                assert!(!std::mem::replace(&mut self.finished, true), "finished once");
            }
            _ => {}
        }
    }

    fn ask(&mut self, question: Question) {
        assert!(!self.questions.contains(&question), "{question:?} is open already");
        self.questions.push(question);
    }

    /// Finishes the run: every requested stop ends once all actions are answered and killed
    /// processes have died.
    fn stop(mut self, after: &str) {
        let (start, mut since) = (self.now, (self.now, 0));
        self.feed(Event::Signal(Signal::Term));
        while !self.finished {
            since = if since.0 == self.now { (self.now, since.1 + 1) } else { (self.now, 0) };
            assert!(since.1 < PATIENCE, "{after}: time stands still with {:?}", self.plan);
            for _ in 0..PATIENCE {
                let Some(question) = self.questions.first().copied() else { break };
                self.answer(question, true);
            }
            assert!(self.questions.is_empty(), "{after}: {:?} is asked without end", self.questions);
            let killed = self.living.keys().find(|raw| self.killed.contains(raw)).copied();
            if let Some(killed) = killed {
                self.feed(Event::Exited { pid: pid(killed), death: Death::Signal(9) });
            } else if !self.finished {
                self.now = self.plan.deadline().unwrap_or_else(|| panic!("{after}: nothing is waited for"));
                assert!(self.now - start <= LONGEST, "{after}: never finishes");
                self.feed(Event::Tick);
            }
        }
        assert!(self.tickets.is_empty(), "{after}: every command is answered");
    }
}

/// The largest number of steps at one moment.
const PATIENCE: usize = 1000;

/// The largest number of workers.
const MOST: usize = ROOM + RECYCLED + RELOADED;

fn raw(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}
