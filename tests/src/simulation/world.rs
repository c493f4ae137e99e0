//! One schedule: what happens when, in virtual time, until server and clients are gone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use corosensei::stack::DefaultStack;
use fastrand::Rng;
use remuda_arbiter::ArbiterConfig;
use remuda_arbiter::rehearsal::Rehearsal;
use remuda_core::handoff::{HandOff, Origin, Peer};
use remuda_core::order::Report;
use remuda_core::pump::Readiness;
use remuda_core::shutdown::Reason;
use remuda_core::time::Time;

use super::client::{Client, Deed, Left};
use super::fates::Fates;
use super::ground::{Breach, Ground, START, ms};
use super::process::Process;
use super::script::{Fault, Script, signals};
use super::wire::Wire;

/// More workers than this there cannot be.
const SEATS: usize = 8;

/// Events after which a schedule counts as endless.
const STEPS: u64 = 2_000_000;

#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The arbiter has something to do.
    Arbiter,
    /// A worker's loop has something to do.
    Turn(i32),
    /// A handler's thread may have something to do.
    Hand(i32, u32),
    /// The kernel's timer of a worker.
    Timer(i32),
    /// A client connects.
    Connect(u32),
    /// A client reads and goes on with its part.
    Client(u32),
    /// What a client did arrives at the server.
    Arrive(u32, Arrival),
    /// Readiness of a connection is reported.
    Report(u32, Readiness),
    Fault(Fault),
    /// The backlog has been passed on.
    Passed,
}

#[derive(Clone, Debug)]
pub(super) enum Arrival {
    Bytes(Vec<u8>),
    End,
    Reset,
}

/// What the arbiter is told.
#[derive(Debug)]
pub(super) enum Told {
    Signal(i32),
    Report(i32, Report),
    Exited(i32, ExitStatus),
    BacklogOver(usize),
}

pub(super) struct World {
    pub(super) ground: Arc<Ground>,
    pub(super) script: Script,
    pub(super) rng: Rng,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<u64, Event>,
    number: u64,
    pub(super) arbiter: Option<Rehearsal>,
    pub(super) told: VecDeque<Told>,
    pub(super) processes: BTreeMap<i32, Process>,
    pub(super) fates: Fates,
    pub(super) clients: Vec<Client>,
    /// Connections in the listener's queue.
    pub(super) accept: VecDeque<u32>,
    /// Whether connects succeed.
    pub(super) listening: bool,
    /// Connections that a stop passes on.
    pub(super) passing: VecDeque<u32>,
    pub(super) inbox: VecDeque<(u32, HandOff)>,
    /// Nobody runs before then.
    thaws: Time,
    pub(super) stacks: Vec<DefaultStack>,
    pub(super) steps: u64,
    pub(super) answered: usize,
}

impl World {
    pub(super) fn new(seed: u64, ground: Arc<Ground>, stacks: Vec<DefaultStack>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut script = Script::draw(&mut rng);
        ground.trace(|| format!("script   {script:?}"));
        let mut config = ArbiterConfig::default();
        config.workers = script.workers;
        config.boot_timeout = script.boot_timeout;
        config.worker.graceful_timeout = script.graceful;
        config.worker.timeout = script.timeout;
        config.lameduck = script.lameduck;
        config.recycle_concurrency = script.recycle_concurrency;
        let beat_interval = config.worker.beat_interval();
        let plots = std::mem::take(&mut script.clients);
        let mut clients = Vec::new();
        for (conn, plot) in (0..).zip(plots) {
            let mood = [0, 30, 120][rng.usize(0..3)];
            let wire = Wire::new(plot.window, mood, rng.fork());
            clients.push(Client::new(conn, plot, wire));
        }
        let mut world = Self {
            fates: Fates::new(&script, beat_interval),
            ground,
            script,
            rng,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            number: 0,
            arbiter: Some(Rehearsal::new(&config, SEATS)),
            told: VecDeque::new(),
            processes: BTreeMap::new(),
            clients,
            accept: VecDeque::new(),
            listening: true,
            passing: VecDeque::new(),
            inbox: VecDeque::new(),
            thaws: START,
            stacks,
            steps: 0,
            answered: 0,
        };
        world.at(START, Event::Arbiter);
        for conn in 0..world.clients.len() {
            let at = START + world.clients[conn].plot.arrives;
            world.at(at, Event::Connect(conn as u32));
        }
        for (at, fault) in world.script.faults.clone() {
            world.at(START + at, Event::Fault(fault));
        }
        world
    }

    pub(super) fn now(&self) -> Time {
        self.ground.now()
    }

    pub(super) fn at(&mut self, at: Time, event: Event) {
        self.number += 1;
        self.queue.push(Reverse((at, self.number)));
        self.events.insert(self.number, event);
    }

    /// A little later: what a wake-up takes.
    pub(super) fn soon(&mut self, event: Event) {
        let latency = match self.rng.u8(..) {
            0..200 => self.rng.u64(0..50),
            200..250 => self.rng.u64(0..2_000),
            _ => self.rng.u64(0..10_000),
        };
        self.at(self.now() + Duration::from_micros(latency), event);
    }

    /// Lets everything happen, or the first breach of a rule.
    pub(super) fn play(&mut self) -> Result<(), Breach> {
        while let Some(Reverse((at, number))) = self.queue.pop() {
            let event = self.events.remove(&number).expect("each is queued once");
            let at = at.max(self.now());
            self.ground.set_now(at);
            self.steps += 1;
            if self.steps > STEPS {
                self.ground.breach("ends", "there is no end to it");
            }
            let held = matches!(event, Event::Arbiter | Event::Turn(_) | Event::Hand(..) | Event::Timer(_));
            if held && at < self.thaws {
                let late = Duration::from_micros(self.rng.u64(0..500));
                self.at(self.thaws + late, event);
                continue;
            }
            self.happen(event);
            self.settle();
            self.check();
            if let Some(breach) = self.ground.broken() {
                return Err(breach);
            }
            if self.is_over() {
                break;
            }
        }
        self.judge();
        self.ground.broken().map_or(Ok(()), Err)
    }

    fn is_over(&self) -> bool {
        let server =
            self.processes.is_empty() && (self.fates.outcome.is_some() || self.fates.orphaned.is_some());
        server
            && self.queue.iter().all(|Reverse((_, number))| {
                !matches!(self.events.get(number), Some(Event::Client(_) | Event::Arrive(..)))
            })
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arbiter => self.arbitrate(),
            Event::Turn(pid) => self.turn(pid),
            Event::Hand(pid, conn) => self.hand(pid, conn),
            Event::Timer(pid) => self.timer(pid),
            Event::Connect(conn) => self.connect(conn),
            Event::Client(conn) => self.client(conn),
            Event::Arrive(conn, arrival) => self.arrive(conn, arrival),
            Event::Report(conn, readiness) => self.report(conn, readiness),
            Event::Fault(fault) => self.fault(fault),
            Event::Passed => self.pass_backlog(),
        }
    }

    // Clients and the network.

    fn connect(&mut self, conn: u32) {
        let client = &mut self.clients[conn as usize];
        if !self.listening {
            let ended = self.fates.stopping || self.fates.orphaned.is_some();
            self.ground.hold("d3_close_the_listener", ended, || {
                format!("connection {conn} is refused before a stop")
            });
            client.refused = true;
            return;
        }
        self.ground.trace(|| format!("client   {conn} connects"));
        self.accept.push_back(conn);
        self.wake_acceptor();
        self.soon(Event::Client(conn));
    }

    /// One of those that wait on the listener is woken.
    pub(super) fn wake_acceptor(&mut self) {
        let serving: Vec<i32> = self
            .processes
            .values()
            .filter(|process| process.is_serving() && process.drain().is_none())
            .map(|process| process.pid)
            .collect();
        if !serving.is_empty() && !self.accept.is_empty() {
            let pid = serving[self.rng.usize(0..serving.len())];
            self.soon(Event::Turn(pid));
        }
    }

    fn client(&mut self, conn: u32) {
        let ground = self.ground.clone();
        let client = &mut self.clients[conn as usize];
        let (room, sip) = client.read(&ground);
        let (deeds, next) = client.act(&ground);
        let latency = client.plot.latency;
        let now = ground.now();
        if room {
            let writable = Readiness { writable: true, ..Readiness::default() };
            self.at(now + latency, Event::Report(conn, writable));
        }
        for deed in deeds {
            ground.trace(|| match &deed {
                Deed::Bytes(bytes) => format!("client   {conn} sends {} bytes", bytes.len()),
                Deed::Leave(left) => format!("client   {conn} leaves: {left:?}"),
            });
            match deed {
                Deed::Bytes(mut bytes) => {
                    while bytes.len() > 1 && self.rng.u8(..) < self.clients[conn as usize].wire.borrow().mood
                    {
                        let rest = bytes.split_off(self.rng.usize(1..bytes.len()));
                        self.travel(conn, Arrival::Bytes(std::mem::replace(&mut bytes, rest)));
                    }
                    self.travel(conn, Arrival::Bytes(bytes));
                }
                Deed::Leave(Left::Reset) => self.travel(conn, Arrival::Reset),
                Deed::Leave(_) => self.travel(conn, Arrival::End),
            }
        }
        let client = &mut self.clients[conn as usize];
        if now >= client.wakes {
            client.wakes = Time::MAX;
        }
        if let Some(at) = [sip, next].into_iter().flatten().min().filter(|at| *at < client.wakes) {
            client.wakes = at;
            self.at(at, Event::Client(conn));
        }
    }

    /// Has something arrive after all that is on its way.
    fn travel(&mut self, conn: u32, arrival: Arrival) {
        let apart = Duration::from_micros(self.rng.u64(0..300));
        let now = self.now();
        let client = &mut self.clients[conn as usize];
        let at = (now + client.plot.latency).max(client.travels + apart);
        client.travels = at;
        self.at(at, Event::Arrive(conn, arrival));
    }

    fn arrive(&mut self, conn: u32, arrival: Arrival) {
        let now = self.now();
        let client = &mut self.clients[conn as usize];
        let mut wire = client.wire.borrow_mut();
        let mut readiness = Readiness { readable: true, ..Readiness::default() };
        match arrival {
            Arrival::Bytes(bytes) => {
                if wire.closed.is_some() {
                    wire.refused = true;
                } else {
                    wire.arrived.extend(&bytes);
                }
                drop(wire);
                client.deliver(bytes.len() as u64, now);
            }
            Arrival::End => {
                wire.ended = true;
                readiness.read_closed = true;
                drop(wire);
            }
            Arrival::Reset => {
                wire.reset = true;
                wire.arrived.clear();
                readiness = wire.level();
                drop(wire);
            }
        }
        self.report(conn, readiness);
    }

    fn report(&mut self, conn: u32, readiness: Readiness) {
        let Some(pid) = self.clients[conn as usize].owner else { return };
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.reported.push((conn, readiness));
        let handled = process.hands.contains_key(&conn);
        self.soon(Event::Turn(pid));
        if handled {
            self.soon(Event::Hand(pid, conn));
        }
    }

    // The arbiter, and what goes wrong.

    pub(super) fn tell(&mut self, told: Told) {
        self.told.push_back(told);
        self.soon(Event::Arbiter);
    }

    /// The arbiter is gone, and with it what it was passing on; the last worker takes the listener with it.
    pub(super) fn lose_backlog(&mut self) {
        self.fates.passing = false;
        let mut lost: Vec<u32> = self.passing.drain(..).collect();
        if self.processes.is_empty() {
            self.listening = false;
            lost.extend(self.accept.drain(..).chain(self.inbox.drain(..).map(|(conn, _)| conn)));
        }
        self.lose(&lost);
    }

    /// Connections that nobody will ever take.
    pub(super) fn lose(&mut self, conns: &[u32]) {
        for conn in conns {
            let client = &mut self.clients[*conn as usize];
            client.widowed = true;
            client.wire.borrow_mut().closed = Some(self.ground.now());
            self.ground.touch(*conn);
        }
    }

    fn pass_backlog(&mut self) {
        if let Some(conn) = self.passing.pop_front() {
            let record = HandOff::fresh(Origin::new(0, Peer::Unix, self.rng.u32(..)), self.now());
            self.inbox.push_back((conn, record));
            let pids: Vec<i32> = self.processes.keys().copied().collect();
            pids.into_iter().for_each(|pid| self.soon(Event::Turn(pid)));
            self.at(self.now() + ms(1), Event::Passed);
        } else if self.fates.passing {
            self.fates.passing = false;
            self.tell(Told::BacklogOver(0));
        }
    }

    fn fault(&mut self, fault: Fault) {
        let now = self.now();
        self.ground.trace(|| format!("fault    {fault:?}"));
        let pids: Vec<i32> = self.processes.keys().copied().collect();
        let victim = (!pids.is_empty()).then(|| pids[self.rng.usize(0..pids.len())]);
        match (fault, victim) {
            (Fault::Signal(signal), _) => self.tell(Told::Signal(signal)),
            (Fault::Group(signal), _) => {
                pids.into_iter().for_each(|pid| self.signal(pid, signal));
                self.tell(Told::Signal(signal));
            }
            (Fault::Worker(signals::QUIT), Some(pid)) => self.end(pid, ExitStatus::from_raw(0)),
            (Fault::Worker(signal), Some(pid)) => self.signal(pid, signal),
            (Fault::Kill, Some(pid)) => self.end(pid, ExitStatus::from_raw(signals::KILL)),
            (Fault::Hang(length), Some(pid)) => {
                let process = self.processes.get_mut(&pid).expect("it was chosen");
                process.hangs_until = process.hangs_until.max(now + length);
            }
            (Fault::Freeze(length), _) => {
                self.thaws = self.thaws.max(now + length);
                self.fates.freeze(self.thaws, length);
            }
            (Fault::BadBoot(status), _) => self.fates.bad_boots.push(status),
            (Fault::NoForks(length), _) => self.fates.no_forks_until = now + length,
            (Fault::Orphan, _) => {
                if self.arbiter.take().is_some() {
                    self.fates.orphaned = Some(now);
                    self.lose_backlog();
                    for pid in pids {
                        self.processes.get_mut(&pid).expect("it lives").orphaned = true;
                        self.signal(pid, signals::TERM);
                    }
                }
            }
            (_, None) => {}
        }
    }

    /// What the last event has set off.
    fn settle(&mut self) {
        for conn in self.ground.take_touched() {
            let client = &mut self.clients[conn as usize];
            let mut wire = client.wire.borrow_mut();
            let owed = std::mem::take(&mut wire.owed);
            let gone = client.gone && wire.ended && !wire.reset && !wire.sent.is_empty();
            let latency = client.plot.latency;
            drop(wire);
            let now = self.now();
            if owed != Readiness::default() {
                let later = Duration::from_micros(self.rng.u64(1..300));
                self.at(now + later, Event::Report(conn, owed));
            }
            if gone {
                // Who has closed its socket answers data with a reset.
                self.at(now + 2 * latency, Event::Arrive(conn, Arrival::Reset));
            }
            self.at(now + latency, Event::Client(conn));
        }
        let now = self.now();
        let mut spent = Vec::new();
        for process in self.processes.values_mut() {
            if process.is_spent.swap(false, Ordering::Relaxed) {
                process.spent = Some(now);
                spent.push(process.pid);
            }
        }
        for pid in spent {
            self.tell(Told::Report(pid, Report::Recycle { reason: Reason::RecycleRequests }));
        }
        let rung: Vec<i32> = self
            .processes
            .values()
            .filter(|process| process.rung.swap(false, Ordering::Relaxed))
            .map(|process| process.pid)
            .collect();
        rung.into_iter().for_each(|pid| self.soon(Event::Turn(pid)));
    }

    fn judge(&mut self) {
        let server =
            self.processes.is_empty() && (self.fates.outcome.is_some() || self.fates.orphaned.is_some());
        self.ground.hold("ends", server, || {
            format!("{} workers are left and nothing happens any more", self.processes.len())
        });
        for client in &mut self.clients {
            // What is on its way still arrives.
            while !client.gone && !client.wire.borrow().sent.is_empty() && client.plot.sips.is_none() {
                client.read(&self.ground);
            }
            client.read(&self.ground);
            self.answered += client.judge(&self.script, &self.ground);
        }
    }
}
