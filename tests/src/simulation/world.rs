//! One schedule: its events in order, in virtual time, until server and clients have ended.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use corosensei::stack::DefaultStack;
use fastrand::Rng;
use remuda_arbiter::simulated::{Command, Scale};
use remuda_core::handoff::ConnectionRecord;
use remuda_core::order::Report;
use remuda_core::pump::Readiness;
use remuda_core::rescue::EntryMemory;
use remuda_core::shutdown::Reason;
use remuda_core::time::Time;

use super::client::{Client, ClientAction, Left};
use super::monitor::{Breach, Monitor, START, ms};
use super::process::Process;
use super::records::{Arbiter, Count, Records};
use super::script::{Fault, OperatorCommand, Script, signals};
use super::wire::Wire;
use super::{Summary, keeper};

/// The number of seats.
pub(super) const SEATS: usize = 8;

/// Events after which a schedule counts as endless.
const STEPS: u64 = 2_000_000;

#[derive(Clone, Debug)]
pub(super) enum Event {
    /// An arbiter wakes up.
    Arbiter(usize),
    /// An arbiter starts.
    Start(usize),
    /// Every arbiter that is not stopping is stopped.
    Stop,
    /// A helper of an arbiter ends.
    HelperEnds(usize, i32),
    /// The keeper of a worker of an arbiter ends.
    KeeperEnds(usize, i32),
    /// A load of an arbiter ends.
    LoadEnds(usize, u32),
    /// A turn of a worker's loop.
    Turn(i32),
    /// A handler's thread wakes up.
    Handler(i32, u32),
    /// The kernel's timer of a worker expires.
    Timer(i32),
    /// A client connects.
    Connect(u32),
    /// A client reads, and continues its acts.
    Client(u32),
    /// An action of a client arrives at the server.
    Arrive(u32, Arrival),
    /// Readiness of a connection is reported.
    Report(u32, Readiness),
    Fault(Fault),
    /// The next connection of the backlog is passed on.
    Passed(usize),
}

#[derive(Clone, Debug)]
pub(super) enum Arrival {
    Bytes(Vec<u8>),
    End,
    Reset,
}

/// An input of an arbiter.
#[derive(Debug)]
pub(super) enum Input {
    Signal(i32),
    Report(i32, Report),
    /// The worker will be reported as ended, and this keeper goes on for it.
    Kept(i32, i32),
    /// The keeper in this seat has ended.
    KeeperGone(u16),
    Exited(i32, ExitStatus),
    BacklogOver(usize),
    /// The load of this generation has ended.
    Loaded(u32),
    Command(u64, Command),
    /// The new arbiter serves, with these of the sockets.
    NewArbiterReady {
        receives: bool,
        kept: BTreeSet<usize>,
    },
    OldArbiterGone,
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) address: u8,
    /// The slot whose workers accept from it. None: all workers accept.
    pub(super) slot: Option<u16>,
    pub(super) is_open: bool,
    /// The arbiters that hold it.
    pub(super) holders: BTreeSet<usize>,
    /// Connections that no process has accepted.
    pub(super) queue: VecDeque<u32>,
    /// Since when the first connection waits.
    pub(super) waits_since: Option<Time>,
}

pub(super) struct World {
    pub(super) monitor: Arc<Monitor>,
    pub(super) script: Script,
    pub(super) rng: Rng,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<u64, Event>,
    number: u64,
    /// All arbiters, living or dead.
    pub(super) arbiters: Vec<Arbiter>,
    /// All listening sockets, open or closed.
    pub(super) sockets: Vec<Listening>,
    /// All hand-off queues.
    pub(super) inboxes: Vec<VecDeque<(u32, ConnectionRecord)>>,
    pub(super) processes: BTreeMap<i32, Process>,
    pub(super) records: Records,
    pub(super) clients: Vec<Client>,
    /// The entry of each connection.
    pub(super) entries: &'static [EntryMemory],
    /// The action that is not performed.
    pub(super) without: Option<&'static str>,
    /// No process runs before then.
    thaws: Time,
    pub(super) stacks: Vec<DefaultStack>,
    pub(super) steps: u64,
    pub(super) answered: usize,
}

impl World {
    pub(super) fn new(seed: u64, monitor: Arc<Monitor>, stacks: Vec<DefaultStack>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut script = Script::draw(&mut rng);
        monitor.trace(|| format!("script   {script:?}"));
        let beat_interval = script.config().worker.beat_interval();
        let behaviours = std::mem::take(&mut script.clients);
        let mut clients = Vec::new();
        for (conn, behaviour) in (0..).zip(behaviours) {
            let partial_rate = [0, 30, 120][rng.usize(0..3)];
            let wire = Wire::new(behaviour.window, partial_rate, rng.fork());
            clients.push(Client::new(conn, behaviour, wire));
        }
        let mut world = Self {
            records: Records::new(&script, beat_interval),
            monitor,
            script,
            rng,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            number: 0,
            arbiters: Vec::new(),
            sockets: Vec::new(),
            inboxes: vec![VecDeque::new()],
            processes: BTreeMap::new(),
            clients,
            entries: keeper::entries(),
            without: None,
            thaws: START,
            stacks,
            steps: 0,
            answered: 0,
        };
        let pid = world.records.next_pid();
        world.arbiters.push(Arbiter::new(pid, world.script.setup, 0));
        world.at(START, Event::Start(0));
        for conn in 0..world.clients.len() {
            let at = START + world.clients[conn].behaviour.arrives;
            world.at(at, Event::Connect(conn as u32));
        }
        for (at, fault) in world.script.faults.clone() {
            world.at(START + at, Event::Fault(fault));
        }
        world
    }

    pub(super) fn now(&self) -> Time {
        self.monitor.now()
    }

    pub(super) fn at(&mut self, at: Time, event: Event) {
        self.number += 1;
        self.queue.push(Reverse((at, self.number)));
        self.events.insert(self.number, event);
    }

    /// Queues an event after the latency of a wake-up.
    pub(super) fn soon(&mut self, event: Event) {
        let latency = match self.rng.u8(..) {
            0..200 => self.rng.u64(0..50),
            200..250 => self.rng.u64(0..2_000),
            _ => self.rng.u64(0..10_000),
        };
        self.at(self.now() + Duration::from_micros(latency), event);
    }

    /// Plays all events, up to the first breach of a rule.
    pub(super) fn play(&mut self) -> Result<(), Breach> {
        while let Some(Reverse((at, number))) = self.queue.pop() {
            let event = self.events.remove(&number).expect("each is queued once");
            let at = at.max(self.now());
            self.monitor.set_now(at);
            self.steps += 1;
            if self.steps > STEPS {
                self.monitor.breach("ends", "there is no end to it");
            }
            let held = matches!(
                event,
                Event::Arbiter(_) | Event::Start(_) | Event::Turn(_) | Event::Handler(..) | Event::Timer(_)
            );
            if held && at < self.thaws {
                let late = Duration::from_micros(self.rng.u64(0..500));
                self.at(self.thaws + late, event);
                continue;
            }
            self.happen(event);
            self.settle();
            self.check();
            if let Some(breach) = self.monitor.broken() {
                return Err(breach);
            }
            if self.is_over() {
                break;
            }
        }
        self.check_end();
        self.monitor.broken().map_or(Ok(()), Err)
    }

    pub(super) fn summary(&self) -> Summary {
        let Count { reloads, upgrades, recycles, handoffs, unattended, rescued, actions } =
            self.records.count;
        let (steps, answered) = (self.steps, self.answered);
        Summary { steps, answered, reloads, upgrades, recycles, handoffs, unattended, rescued, actions }
    }

    fn is_over(&self) -> bool {
        let server = self.processes.is_empty() && self.arbiters.iter().all(|arbiter| !arbiter.is_alive);
        server
            && self.queue.iter().all(|Reverse((_, number))| {
                !matches!(self.events.get(number), Some(Event::Client(_) | Event::Arrive(..)))
            })
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arbiter(arbiter) => self.arbitrate(arbiter),
            Event::Start(arbiter) => self.start(arbiter),
            Event::Stop => self.stop_all(),
            Event::HelperEnds(arbiter, pid) => self.end_helper(arbiter, pid),
            Event::KeeperEnds(arbiter, pid) => self.end_keeper(arbiter, pid),
            Event::LoadEnds(arbiter, generation) => self.notify(arbiter, Input::Loaded(generation)),
            Event::Turn(pid) => self.turn(pid),
            Event::Handler(pid, conn) => self.run_handler(pid, conn),
            Event::Timer(pid) => self.timer(pid),
            Event::Connect(conn) => self.connect(conn),
            Event::Client(conn) => self.client(conn),
            Event::Arrive(conn, arrival) => self.arrive(conn, arrival),
            Event::Report(conn, readiness) => self.report(conn, readiness),
            Event::Fault(fault) => self.fault(fault),
            Event::Passed(arbiter) => self.pass_backlog(arbiter),
        }
    }

    // Clients and the network.

    fn connect(&mut self, conn: u32) {
        let address = self.clients[conn as usize].behaviour.address;
        let open: Vec<_> =
            self.sockets.iter_mut().filter(|socket| socket.is_open && socket.address == address).collect();
        if open.is_empty() {
            let wanted = |arbiter: &Arbiter| {
                arbiter.is_alive
                    && arbiter.has_started
                    && !arbiter.stopping
                    && arbiter.setup().binds & (1 << address) != 0
            };
            let refused = self.arbiters.iter().any(wanted);
            self.monitor.hold("d3_close_the_listener", !refused, || {
                format!("connection {conn} is refused before a stop")
            });
            self.clients[conn as usize].refused = true;
            return;
        }
        self.monitor.trace(|| format!("client   {conn} connects"));
        let now = self.monitor.now();
        let chosen = self.rng.usize(0..open.len());
        let socket = open.into_iter().nth(chosen).expect("it was chosen");
        if socket.queue.is_empty() {
            socket.waits_since = Some(now);
        }
        socket.queue.push_back(conn);
        self.wake_acceptor();
        let arbiters: Vec<_> = (0..self.arbiters.len())
            .filter(|arbiter| !self.arbiters[*arbiter].accepted_for.is_empty())
            .collect();
        arbiters.into_iter().for_each(|arbiter| self.soon(Event::Arbiter(arbiter)));
        self.soon(Event::Client(conn));
    }

    /// Wakes one of the workers that accept from each socket with waiting connections.
    pub(super) fn wake_acceptor(&mut self) {
        for id in 0..self.sockets.len() {
            if self.sockets[id].queue.is_empty() {
                continue;
            }
            let serving = |process: &&Process| {
                process.is_serving() && process.drain().is_none() && process.sockets.contains(&id)
            };
            let serving: Vec<i32> =
                self.processes.values().filter(serving).map(|process| process.pid).collect();
            if !serving.is_empty() {
                let pid = serving[self.rng.usize(0..serving.len())];
                self.soon(Event::Turn(pid));
            }
        }
    }

    /// Wakes all workers that receive from a hand-off queue.
    pub(super) fn wake_inbox(&mut self, inbox: usize) {
        let takes = |process: &&Process| self.arbiters[process.parent].inbox == inbox;
        let pids: Vec<i32> = self.processes.values().filter(takes).map(|process| process.pid).collect();
        pids.into_iter().for_each(|pid| self.soon(Event::Turn(pid)));
    }

    fn client(&mut self, conn: u32) {
        let monitor = self.monitor.clone();
        let client = &mut self.clients[conn as usize];
        let (room, reads_again) = client.read(&monitor);
        let (actions, next) = client.act(&monitor);
        let latency = client.behaviour.latency;
        let now = monitor.now();
        if room {
            let writable = Readiness { writable: true, ..Readiness::default() };
            self.at(now + latency, Event::Report(conn, writable));
        }
        for action in actions {
            monitor.trace(|| match &action {
                ClientAction::Bytes(bytes) => format!("client   {conn} sends {} bytes", bytes.len()),
                ClientAction::Leave(left) => format!("client   {conn} leaves: {left:?}"),
            });
            match action {
                ClientAction::Bytes(mut bytes) => {
                    while bytes.len() > 1
                        && self.rng.u8(..) < self.clients[conn as usize].wire.borrow().partial_rate
                    {
                        let rest = bytes.split_off(self.rng.usize(1..bytes.len()));
                        self.travel(conn, Arrival::Bytes(std::mem::replace(&mut bytes, rest)));
                    }
                    self.travel(conn, Arrival::Bytes(bytes));
                }
                ClientAction::Leave(Left::Reset) => self.travel(conn, Arrival::Reset),
                ClientAction::Leave(_) => self.travel(conn, Arrival::End),
            }
        }
        let client = &mut self.clients[conn as usize];
        if now >= client.wakes {
            client.wakes = Time::MAX;
        }
        if let Some(at) = [reads_again, next].into_iter().flatten().min().filter(|at| *at < client.wakes) {
            client.wakes = at;
            self.at(at, Event::Client(conn));
        }
    }

    /// Queues an arrival after those under way.
    fn travel(&mut self, conn: u32, arrival: Arrival) {
        let apart = Duration::from_micros(self.rng.u64(0..300));
        let now = self.now();
        let client = &mut self.clients[conn as usize];
        let at = (now + client.behaviour.latency).max(client.travels + apart);
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
        let handled = process.handlers.contains_key(&conn);
        self.soon(Event::Turn(pid));
        if handled {
            self.soon(Event::Handler(pid, conn));
        }
    }

    // The arbiters, and faults.

    pub(super) fn notify(&mut self, arbiter: usize, input: Input) {
        if self.arbiters[arbiter].is_alive {
            self.arbiters[arbiter].inputs.push_back(input);
            self.soon(Event::Arbiter(arbiter));
        }
    }

    /// The open sockets that an arbiter holds.
    pub(super) fn sockets_of(&self, arbiter: usize) -> BTreeSet<usize> {
        let held = |(id, socket): (usize, &Listening)| {
            (socket.is_open && socket.holders.contains(&arbiter)).then_some(id)
        };
        self.sockets.iter().enumerate().filter_map(held).collect()
    }

    /// The sockets that a worker of that slot accepts from.
    pub(super) fn sockets_for(&self, arbiter: usize, slot: u16, binds: u8) -> Vec<usize> {
        let is_for = |id: &usize| {
            let socket = &self.sockets[*id];
            binds & (1 << socket.address) != 0 && socket.slot.is_none_or(|of| of == slot)
        };
        self.sockets_of(arbiter).into_iter().filter(is_for).collect()
    }

    /// Binds these addresses for an arbiter, in all of its slots.
    pub(super) fn bind(&mut self, arbiter: usize, binds: u8) {
        let own = &self.arbiters[arbiter];
        let slots: Vec<_> = match self.script.per_slot {
            true => {
                own.slots.iter().copied().chain([0]).map(Some).collect::<BTreeSet<_>>().into_iter().collect()
            }
            false => vec![None],
        };
        for address in (0..2).filter(|address| binds & (1 << address) != 0) {
            for slot in &slots {
                let there = |socket: &Listening| {
                    let is_held = socket.is_open && socket.holders.contains(&arbiter);
                    is_held && socket.address == address && socket.slot == *slot
                };
                if self.sockets.iter().any(there) {
                    continue;
                }
                self.sockets.push(Listening {
                    address,
                    slot: *slot,
                    is_open: true,
                    holders: BTreeSet::from([arbiter]),
                    queue: VecDeque::new(),
                    waits_since: None,
                });
            }
        }
    }

    /// Closes sockets and queues that no process holds any more, as the kernel does.
    pub(super) fn close_sockets(&mut self) {
        let mut lost = Vec::new();
        for (id, socket) in self.sockets.iter_mut().enumerate() {
            let held = |process: &Process| process.sockets.contains(&id);
            if socket.is_open && socket.holders.is_empty() && !self.processes.values().any(held) {
                socket.is_open = false;
                lost.extend(socket.queue.drain(..));
            }
        }
        for inbox in 0..self.inboxes.len() {
            let uses = |arbiter: &Arbiter| arbiter.inbox == inbox;
            let lives = self.arbiters.iter().any(|arbiter| arbiter.is_alive && uses(arbiter))
                || self.processes.values().any(|process| uses(&self.arbiters[process.parent]));
            if !lives {
                lost.extend(self.inboxes[inbox].drain(..).map(|(conn, _)| conn));
            }
        }
        self.lose(&lost);
    }

    fn pass_backlog(&mut self, arbiter: usize) {
        let now = self.now();
        if let Some(conn) = self.arbiters[arbiter].passing.pop_front() {
            self.pass(arbiter, conn);
            self.at(now + ms(1), Event::Passed(arbiter));
        } else if self.arbiters[arbiter].is_passing && now < self.arbiters[arbiter].gate {
            let at = self.arbiters[arbiter].gate.min(now + ms(2));
            self.at(at, Event::Passed(arbiter));
        } else if self.arbiters[arbiter].is_passing {
            self.arbiters[arbiter].is_passing = false;
            self.notify(arbiter, Input::BacklogOver(0));
        }
    }

    fn end_helper(&mut self, arbiter: usize, pid: i32) {
        if self.records.helpers.insert(pid) {
            self.notify(arbiter, Input::Exited(pid, ExitStatus::from_raw(0)));
        }
    }

    /// Signals an arbiter, which may not have started.
    pub(super) fn signal_arbiter(&mut self, arbiter: usize, signal: i32) {
        let own = &self.arbiters[arbiter];
        if own.has_started {
            self.notify(arbiter, Input::Signal(signal));
        } else if !own.setup().hangs || self.rng.bool() {
            self.end_arbiter(arbiter, ExitStatus::from_raw(signal));
        }
    }

    /// Stops every arbiter that is not stopping, and kills those that have not started.
    fn stop_all(&mut self) {
        let mut left = false;
        for arbiter in 0..self.arbiters.len() {
            let own = &self.arbiters[arbiter];
            let is_lost = !own.has_started
                && own.old_arbiter.is_none_or(|old_arbiter| !self.arbiters[old_arbiter].is_alive);
            left |= own.is_alive;
            if own.is_alive && is_lost {
                self.end_arbiter(arbiter, ExitStatus::from_raw(signals::KILL));
            } else if own.is_alive && own.has_started && own.stop_deadline.is_none() {
                self.notify(arbiter, Input::Signal(signals::TERM));
            }
        }
        if left || self.records.ending.is_none() {
            self.at(self.now() + ms(500), Event::Stop);
        }
    }

    fn operate(&mut self, asked: OperatorCommand) {
        let arbiters: Vec<_> =
            (0..self.arbiters.len()).filter(|arbiter| self.arbiters[*arbiter].has_started).collect();
        let Some(arbiter) = self.rng.choice(arbiters) else { return };
        let workers: Vec<i32> = self.of(arbiter).map(|process| process.pid).collect();
        let command = match (asked, self.rng.choice(workers)) {
            (OperatorCommand::Reload, _) => Command::Reload,
            (OperatorCommand::Upgrade, _) => Command::Upgrade,
            (OperatorCommand::Scale(workers), _) => Command::Scale(Scale::To(workers)),
            (OperatorCommand::Recycle { all: false }, Some(pid)) => {
                Command::Recycle(Some(super::system::name(pid)))
            }
            (OperatorCommand::Recycle { .. }, _) => Command::Recycle(None),
        };
        let own = &mut self.arbiters[arbiter];
        own.last_ticket += 1;
        let ticket = own.last_ticket;
        self.notify(arbiter, Input::Command(ticket, command));
    }

    fn fault(&mut self, fault: Fault) {
        let now = self.now();
        self.monitor.trace(|| format!("fault    {fault:?}"));
        let pids: Vec<i32> = self.processes.keys().copied().collect();
        let victim = (!pids.is_empty()).then(|| pids[self.rng.usize(0..pids.len())]);
        let living: Vec<_> =
            (0..self.arbiters.len()).filter(|arbiter| self.arbiters[*arbiter].is_alive).collect();
        match (fault, victim) {
            (Fault::Signal(signal), _) => {
                let started: Vec<_> =
                    living.into_iter().filter(|arbiter| self.arbiters[*arbiter].has_started).collect();
                let chosen = self.rng.choice(started);
                chosen.into_iter().for_each(|arbiter| self.notify(arbiter, Input::Signal(signal)));
            }
            (Fault::Stop(signal), _) => {
                living.into_iter().for_each(|arbiter| self.signal_arbiter(arbiter, signal));
                self.end_from_now_on();
            }
            (Fault::Group(signal), _) => {
                pids.into_iter().for_each(|pid| self.signal(pid, signal));
                living.into_iter().for_each(|arbiter| self.signal_arbiter(arbiter, signal));
                self.end_from_now_on();
            }
            (Fault::Operator(asked), _) => self.operate(asked),
            (Fault::Worker(signals::QUIT), Some(pid)) => self.end(pid, ExitStatus::from_raw(0)),
            (Fault::Worker(signal), Some(pid)) => self.signal(pid, signal),
            (Fault::Kill, Some(pid)) => self.end(pid, ExitStatus::from_raw(signals::KILL)),
            (Fault::Hang(length), Some(pid)) => {
                let process = self.processes.get_mut(&pid).expect("it was chosen");
                process.hangs_until = process.hangs_until.max(now + length);
            }
            (Fault::Freeze(length), _) => {
                self.thaws = self.thaws.max(now + length);
                self.records.freeze(self.thaws, length);
            }
            (Fault::BadBoot(status), _) => self.records.bad_boots.push(status),
            (Fault::NoForks(length), _) => self.records.no_forks_until = now + length,
            (Fault::Orphan, _) => {
                let chosen = self.rng.choice(living);
                let killed = ExitStatus::from_raw(signals::KILL);
                chosen.into_iter().for_each(|arbiter| self.end_arbiter(arbiter, killed));
                self.end_from_now_on();
            }
            (_, None) => {}
        }
    }

    fn end_from_now_on(&mut self) {
        if self.records.ending.replace(self.now()).is_none() {
            self.at(self.now() + ms(100), Event::Stop);
        }
    }

    /// Records connections that no worker will accept.
    pub(super) fn lose(&mut self, conns: &[u32]) {
        for conn in conns {
            let client = &mut self.clients[*conn as usize];
            client.abandoned = true;
            client.wire.borrow_mut().closed = Some(self.monitor.now());
            self.monitor.touch(*conn);
        }
    }

    /// Queues the consequences of the last event.
    fn settle(&mut self) {
        for conn in self.monitor.take_touched() {
            let client = &mut self.clients[conn as usize];
            let mut wire = client.wire.borrow_mut();
            let owed = std::mem::take(&mut wire.owed);
            let gone = client.gone && wire.ended && !wire.reset && !wire.sent.is_empty();
            let latency = client.behaviour.latency;
            drop(wire);
            let now = self.now();
            if owed != Readiness::default() {
                let later = Duration::from_micros(self.rng.u64(1..300));
                self.at(now + later, Event::Report(conn, owed));
            }
            if gone {
                // The kernel of a client that has closed answers data with a reset.
                self.at(now + 2 * latency, Event::Arrive(conn, Arrival::Reset));
            }
            self.at(now + latency, Event::Client(conn));
        }
        let now = self.now();
        let mut spent = Vec::new();
        for process in self.processes.values_mut() {
            if process.is_spent.swap(false, Ordering::Relaxed) {
                process.spent.get_or_insert(now);
                spent.push((process.parent, process.pid));
            }
        }
        for (arbiter, pid) in spent {
            self.notify(arbiter, Input::Report(pid, Report::Recycle { reason: Reason::RecycleRequests }));
        }
        let woken: Vec<i32> = self
            .processes
            .values()
            .filter(|process| process.woken.swap(false, Ordering::Relaxed))
            .map(|process| process.pid)
            .collect();
        woken.into_iter().for_each(|pid| self.soon(Event::Turn(pid)));
    }
}
