//! The end of a worker as a model: its connections, their entries, its keeper, and the server around
//! them (D20). Every state of it is visited.
//!
//! A step is one store to an entry, or one system call. Between any two steps any process may be
//! killed. A response is two writes long, so that a worker can end in the middle of it. The kernel's
//! counts are those of TCP. Time is left out, as in the hand-off's model: a keeper may hold a
//! connection for ever, or end it at once.
//!
//! The names are those of `remuda_core::rescue` and `arbiter::plan`.

use std::collections::VecDeque;

use stateright::{Model, Property};

/// The size of the world to search, and the rules that its processes keep.
#[derive(Clone, Debug)]
pub struct Crash {
    /// Connections of the worker that may die.
    pub connections: usize,
    /// Requests that the clients make in all.
    pub requests: u8,
    /// Connections that the queue holds.
    pub room: usize,
    /// Processes that are killed, at most.
    pub deaths: u8,
    /// The rule that is broken in this world.
    pub broken: Option<Rule>,
}

/// The rules that a rescue depends on. A test breaks each, and so shows its purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// A worker leaves `Idle` in the entry before it reads.
    LeftBeforeARead,
    /// A worker enters `Begun` before it writes.
    BegunBeforeAWrite,
    /// What a worker has read and written before a store, the kernel's counts show.
    CountsDecide,
    /// The state of an entry changes before its count.
    StateBeforeCount,
    /// A worker clears the entry of a connection before it hands it off.
    ClearedBeforeASend,
    /// A keeper does nothing before its worker has ended.
    KeeperWaits,
    /// A keeper hands nothing off once no worker receives.
    NoHandoffWithoutReceiver,
    /// A seat is taken again only after the keeper in it has ended.
    SeatOutlivesKeeper,
    /// The arbiter ends after all keepers.
    ArbiterEndsLast,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 9] = [
        Self::LeftBeforeARead,
        Self::BegunBeforeAWrite,
        Self::CountsDecide,
        Self::StateBeforeCount,
        Self::ClearedBeforeASend,
        Self::KeeperWaits,
        Self::NoHandoffWithoutReceiver,
        Self::SeatOutlivesKeeper,
        Self::ArbiterEndsLast,
    ];
}

/// How many writes a response is long.
const RESPONSE: u8 = 2;

/// A state: all processes, the queue between them, and all connections.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    arbiter: Arbiter,
    worker: Life,
    keeper: Keeper,
    /// The worker that takes connections from the queue.
    receiver: Life,
    /// Another worker writes to the entries.
    seat_is_taken: bool,
    queue: VecDeque<u8>,
    connections: Vec<Connection>,
    requests: u8,
    deaths: u8,
    /// More has happened than is promised: two processes were killed, or one that nothing replaces.
    excused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Arbiter {
    Serving,
    Stopping,
    Ended,
    Killed,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Life {
    Running,
    Gone,
    Reaped,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Keeper {
    Waiting,
    Rescuing,
    Gone,
    Reaped,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Connection {
    /// A request is in its socket.
    asks: bool,
    /// Requests that were read, and writes that were made, as the kernel counts them.
    read: u8,
    written: u8,
    entry: Entry,
    /// What the worker does with it next.
    next: Next,
    /// It is open in the table that worker and keeper share.
    in_table: bool,
    /// It is open in the receiver.
    in_receiver: bool,
    end: Option<End>,
}

/// What a worker publishes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Entry {
    state: State,
    read: u8,
    /// Where the current response begins.
    response: u8,
    /// With so many writes the connection is idle.
    rest: Option<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum State {
    None,
    Idle,
    Reading,
    Unanswered,
    Begun,
}

/// The next step of a worker with a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Next {
    EnterReading,
    Read,
    EnterUnanswered,
    CountRead,
    EnterBegun,
    Write,
    EnterIdle,
    /// It was cleared, and is to be sent.
    Send,
    /// It was sent, and is to be closed here.
    Close,
}

/// How a connection has ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum End {
    /// By the rules of a stop, or by its client.
    Closed,
    /// The keeper has answered its request.
    Told,
    /// With a response in part.
    Cut,
    /// With its last process, when more has happened than is promised.
    Died,
    /// Although the worker alone has died, and nothing was in flight.
    Lost,
    /// An answer without a request, or in the middle of a response.
    Torn,
}

/// What may happen next. The number is that of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A client sends a request.
    Request(u8),
    /// The worker takes its next step with a connection.
    Work(u8),
    /// The worker begins to hand a connection off.
    Leave(u8),
    /// A worker ends an idle connection, in a stop.
    EndIdle(u8),
    /// The worker ends, with nothing left.
    Exit,
    /// The keeper finds that its worker is gone.
    SeeWorkerGone,
    /// The keeper does what it can for a connection.
    Rescue(u8),
    /// The keeper ends, with nothing left.
    KeeperExit,
    /// The receiver takes a connection from the queue.
    Take,
    /// The receiver answers a request.
    Answer(u8),
    /// The receiver ends, in a stop.
    ReceiverExit,
    /// The arbiter finds that a child has ended.
    ReapWorker,
    /// See [`Step::ReapWorker`].
    ReapKeeper,
    /// See [`Step::ReapWorker`]. A new worker receives in its place.
    ReapReceiver,
    /// The arbiter gives the seat to a new worker.
    TakeSeat,
    /// The arbiter decides that all workers have to stop.
    StopAll,
    /// The arbiter ends.
    Finish,
    /// A process is killed.
    Kill(Victim),
}

/// A process that can be killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the processes of a server")]
pub enum Victim {
    Worker,
    Keeper,
    Receiver,
    Arbiter,
}

impl Step {
    /// Whether the step needs a cause outside the server.
    fn is_wanted(self) -> bool {
        matches!(self, Self::Request(_) | Self::Leave(_) | Self::StopAll | Self::Kill(_))
    }
}

impl Model for Crash {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let entry = Entry { state: State::Idle, read: 0, response: 0, rest: None };
        let connection = Connection {
            asks: false,
            read: 0,
            written: 0,
            entry,
            next: Next::EnterReading,
            in_table: true,
            in_receiver: false,
            end: None,
        };
        vec![World {
            arbiter: Arbiter::Serving,
            worker: Life::Running,
            keeper: Keeper::Waiting,
            receiver: Life::Running,
            seat_is_taken: false,
            queue: VecDeque::new(),
            connections: vec![connection; self.connections],
            requests: 0,
            deaths: 0,
            excused: false,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (id, connection) in (0..).zip(&world.connections) {
            if connection.end.is_none() && connection.is_idle() && world.requests < self.requests {
                steps.push(Step::Request(id));
            }
        }
        self.worker(world, steps);
        self.keeper(world, steps);
        self.receiver(world, steps);
        self.arbiter(world, steps);
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        self.take(&mut world, step);
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no connection is read by two", |_, world: &World| {
                (0..world.connections.len() as u8).all(|id| world.readers(id) <= 1)
            }),
            Property::always("nothing idle is lost with its worker", |_, world: &World| {
                !world.has_ended(End::Lost)
            }),
            Property::always("an answer follows whole responses, to a request", |_, world: &World| {
                !world.has_ended(End::Torn)
            }),
            Property::always("entries have one writer", |_, world: &World| {
                let keeps = matches!(world.keeper, Keeper::Waiting | Keeper::Rescuing);
                let writes = world.keeper == Keeper::Rescuing;
                !(keeps && world.seat_is_taken || writes && world.worker == Life::Running)
            }),
            Property::always("nothing outlives the server", |_, world: &World| {
                world.arbiter != Arbiter::Ended || matches!(world.keeper, Keeper::Gone | Keeper::Reaped)
            }),
            Property::always(
                "no client waits in a state without further steps",
                |crash: &Self, world: &World| {
                    let mut steps = Vec::new();
                    crash.actions(world, &mut steps);
                    steps.iter().any(|step| !step.is_wanted()) || world.is_settled()
                },
            ),
            // These show that the search covers something.
            Property::sometimes("a connection lives on elsewhere", |_, world: &World| {
                world.worker != Life::Running
                    && world
                        .connections
                        .iter()
                        .any(|connection| connection.in_receiver && connection.read > 0)
            }),
            Property::sometimes("a request in flight is told", |_, world: &World| world.has_ended(End::Told)),
            Property::sometimes("a response in part is cut", |_, world: &World| world.has_ended(End::Cut)),
        ]
    }
}

impl Crash {
    fn keeps(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    fn worker(&self, world: &World, steps: &mut Vec<Step>) {
        if world.worker != Life::Running {
            return;
        }
        if world.deaths < self.deaths {
            steps.push(Step::Kill(Victim::Worker));
        }
        for (id, connection) in (0..).zip(&world.connections) {
            if !connection.in_table || connection.end.is_some() {
                continue;
            }
            match connection.next {
                Next::EnterReading if connection.asks => steps.push(Step::Work(id)),
                Next::EnterReading if world.serves() => steps.push(Step::Leave(id)),
                Next::EnterReading => steps.push(Step::EndIdle(id)),
                Next::Send if !world.serves() => steps.push(Step::EndIdle(id)),
                Next::Send if world.queue.len() >= self.room => {}
                _ => steps.push(Step::Work(id)),
            }
        }
        let holds = world.connections.iter().any(|connection| connection.in_table);
        if !world.serves() && !holds {
            steps.push(Step::Exit);
        }
    }

    fn keeper(&self, world: &World, steps: &mut Vec<Step>) {
        let is_alone = world.worker != Life::Running || !self.keeps(Rule::KeeperWaits);
        match world.keeper {
            Keeper::Waiting if is_alone => steps.push(Step::SeeWorkerGone),
            Keeper::Rescuing => {
                let held = (0..).zip(&world.connections).filter(|(_, connection)| connection.in_table);
                let held: Vec<u8> = held.map(|(id, _)| id).collect();
                let waits = |id: &u8| {
                    let hands_off = self.standing(world, *id) == State::Idle && self.hands_off(world);
                    hands_off && world.queue.len() >= self.room
                };
                steps.extend(held.iter().filter(|id| !waits(id)).map(|id| Step::Rescue(*id)));
                if held.is_empty() {
                    steps.push(Step::KeeperExit);
                }
            }
            _ => return,
        }
        if world.deaths < self.deaths {
            steps.push(Step::Kill(Victim::Keeper));
        }
    }

    fn receiver(&self, world: &World, steps: &mut Vec<Step>) {
        if world.receiver != Life::Running {
            return;
        }
        if world.deaths < self.deaths {
            steps.push(Step::Kill(Victim::Receiver));
        }
        if !world.queue.is_empty() {
            steps.push(Step::Take);
        }
        for (id, connection) in (0..).zip(&world.connections) {
            if !connection.in_receiver {
                continue;
            }
            if connection.asks {
                steps.push(Step::Answer(id));
            } else if !world.serves() {
                steps.push(Step::EndIdle(id));
            }
        }
        // What other workers hand off at the begin of a stop is still served.
        let comes = world.worker == Life::Running && world.connections.iter().any(Connection::is_leaving);
        let holds = world.connections.iter().any(|connection| connection.in_receiver);
        if !world.serves() && !holds && !comes && world.queue.is_empty() {
            steps.push(Step::ReceiverExit);
        }
    }

    fn arbiter(&self, world: &World, steps: &mut Vec<Step>) {
        if !matches!(world.arbiter, Arbiter::Serving | Arbiter::Stopping) {
            return;
        }
        if world.deaths < self.deaths {
            steps.push(Step::Kill(Victim::Arbiter));
        }
        let is_kept = matches!(world.keeper, Keeper::Waiting | Keeper::Rescuing);
        match world.worker {
            Life::Running => {}
            Life::Gone => steps.push(Step::ReapWorker),
            Life::Reaped if world.seat_is_taken || !world.serves() => {}
            Life::Reaped if world.keeper == Keeper::Reaped || !self.keeps(Rule::SeatOutlivesKeeper) => {
                steps.push(Step::TakeSeat)
            }
            Life::Reaped => {}
        }
        if world.keeper == Keeper::Gone {
            steps.push(Step::ReapKeeper);
        }
        if world.receiver == Life::Gone {
            steps.push(Step::ReapReceiver);
        }
        if world.serves() {
            steps.push(Step::StopAll);
        } else if world.worker == Life::Reaped
            && world.receiver == Life::Reaped
            && (!is_kept || !self.keeps(Rule::ArbiterEndsLast))
        {
            steps.push(Step::Finish);
        }
    }

    /// Whether a keeper hands connections to other workers.
    fn hands_off(&self, world: &World) -> bool {
        world.serves() || !self.keeps(Rule::NoHandoffWithoutReceiver)
    }

    /// What a keeper finds in the entry of a connection and in the kernel's counts.
    fn standing(&self, world: &World, id: u8) -> State {
        let Connection { entry, read, written, .. } = world.connections[usize::from(id)];
        if !self.keeps(Rule::CountsDecide) {
            return if entry.state == State::Reading { State::Unanswered } else { entry.state };
        }
        match entry.state {
            State::Reading if read == entry.read => State::Idle,
            State::Reading => State::Unanswered,
            State::Begun if entry.rest == Some(written) => State::Idle,
            State::Begun if written == entry.response => State::Unanswered,
            state => state,
        }
    }

    fn take(&self, world: &mut World, step: Step) {
        match step {
            Step::Request(id) => {
                world.requests += 1;
                world.connections[usize::from(id)].asks = true;
            }
            Step::Work(id) => self.work(world, id),
            Step::Leave(id) => {
                let connection = &mut world.connections[usize::from(id)];
                connection.next = Next::Send;
                if self.keeps(Rule::ClearedBeforeASend) {
                    connection.entry.state = State::None;
                }
            }
            Step::EndIdle(id) => world.connections[usize::from(id)].ends(End::Closed),
            Step::Exit => {
                world.worker = Life::Gone;
                self.close_queue(world);
            }
            Step::SeeWorkerGone => {
                world.keeper = Keeper::Rescuing;
                // What has no entry is closed with everything else.
                let others = world
                    .connections
                    .iter_mut()
                    .filter(|connection| connection.in_table && connection.entry.state == State::None);
                for connection in others {
                    connection.in_table = false;
                    if connection.next != Next::Close {
                        connection.ends(End::Died);
                    }
                }
            }
            Step::Rescue(id) => self.rescue(world, id),
            Step::KeeperExit => world.keeper = Keeper::Gone,
            Step::Take => {
                if let Some(id) = world.queue.pop_front() {
                    world.connections[usize::from(id)].in_receiver = true;
                }
            }
            Step::Answer(id) => {
                let connection = &mut world.connections[usize::from(id)];
                connection.asks = false;
                connection.read += 1;
                connection.written += RESPONSE;
            }
            Step::ReceiverExit => {
                world.receiver = Life::Gone;
                self.close_queue(world);
            }
            Step::ReapWorker => world.worker = Life::Reaped,
            Step::ReapKeeper => world.keeper = Keeper::Reaped,
            Step::ReapReceiver => {
                world.receiver = if world.serves() { Life::Running } else { Life::Reaped };
            }
            Step::TakeSeat => world.seat_is_taken = true,
            Step::StopAll => {
                world.excused |= world.receiver == Life::Gone;
                world.arbiter = Arbiter::Stopping;
            }
            Step::Finish => {
                world.arbiter = Arbiter::Ended;
                self.close_queue(world);
            }
            Step::Kill(victim) => self.kill(world, victim),
        }
    }

    /// The next store, or system call, of the worker with a connection.
    fn work(&self, world: &mut World, id: u8) {
        let connection = &mut world.connections[usize::from(id)];
        let Connection { entry, read, written, .. } = connection;
        connection.next = match connection.next {
            Next::EnterReading => {
                if self.keeps(Rule::LeftBeforeARead) {
                    entry.state = State::Reading;
                }
                Next::Read
            }
            Next::Read => {
                connection.asks = false;
                *read += 1;
                if self.keeps(Rule::StateBeforeCount) { Next::EnterUnanswered } else { Next::CountRead }
            }
            Next::EnterUnanswered => {
                (entry.state, entry.response) = (State::Unanswered, *written);
                if self.keeps(Rule::StateBeforeCount) { Next::CountRead } else { Next::EnterBegun }
            }
            Next::CountRead => {
                entry.read = *read;
                if self.keeps(Rule::StateBeforeCount) { Next::EnterBegun } else { Next::EnterUnanswered }
            }
            Next::EnterBegun => {
                entry.rest = Some(*written + RESPONSE);
                if self.keeps(Rule::BegunBeforeAWrite) {
                    entry.state = State::Begun;
                }
                Next::Write
            }
            Next::Write => {
                *written += 1;
                if entry.rest == Some(*written) { Next::EnterIdle } else { Next::Write }
            }
            Next::EnterIdle => {
                (entry.state, entry.rest) = (State::Idle, None);
                Next::EnterReading
            }
            Next::Send => {
                world.queue.push_back(id);
                Next::Close
            }
            Next::Close => {
                connection.in_table = false;
                connection.entry.state = State::None;
                Next::Close
            }
        };
    }

    /// What the keeper does for a connection.
    fn rescue(&self, world: &mut World, id: u8) {
        let (standing, hands_off) = (self.standing(world, id), self.hands_off(world));
        let is_promised = !world.excused && world.serves();
        let connection = &mut world.connections[usize::from(id)];
        match standing {
            State::Idle if hands_off => {
                connection.in_table = false;
                world.queue.push_back(id);
                self.close_queue(world);
            }
            State::Idle | State::None => connection.ends(End::Closed),
            State::Unanswered => {
                let is_sound = connection.written
                    == RESPONSE * (connection.read - u8::from(connection.read > 0))
                    && connection.read > 0;
                connection.ends(if is_sound { End::Told } else { End::Torn });
            }
            State::Begun | State::Reading => {
                let idle = connection.written == RESPONSE * connection.read;
                connection.ends(if idle && is_promised { End::Lost } else { End::Cut });
            }
        }
    }

    fn kill(&self, world: &mut World, victim: Victim) {
        world.deaths += 1;
        world.excused |= world.deaths > 1 || victim == Victim::Receiver && !world.serves();
        match victim {
            Victim::Worker => world.worker = Life::Gone,
            Victim::Keeper => world.keeper = Keeper::Gone,
            Victim::Arbiter => world.arbiter = Arbiter::Killed,
            Victim::Receiver => {
                world.receiver = Life::Gone;
                let held = world.connections.iter_mut().filter(|connection| connection.in_receiver);
                held.for_each(|connection| connection.ends(End::Died));
            }
        }
        // The table is gone with the last process that shares it.
        if world.worker != Life::Running && matches!(world.keeper, Keeper::Gone | Keeper::Reaped) {
            for connection in world.connections.iter_mut().filter(|connection| connection.in_table) {
                connection.in_table = false;
                if connection.next != Next::Close {
                    connection.ends(End::Died);
                }
            }
        }
        self.close_queue(world);
    }

    /// The connections in the queue are gone with the last process that receives.
    fn close_queue(&self, world: &mut World) {
        let arbiter = matches!(world.arbiter, Arbiter::Serving | Arbiter::Stopping);
        if arbiter || world.receiver == Life::Running || world.worker == Life::Running {
            return;
        }
        for id in std::mem::take(&mut world.queue) {
            let end = if world.excused { End::Died } else { End::Lost };
            world.connections[usize::from(id)].ends(end);
        }
    }
}

impl World {
    /// Whether workers that end have successors.
    fn serves(&self) -> bool {
        self.arbiter == Arbiter::Serving
    }

    /// How many processes read from a connection, now or once they take it from the queue.
    fn readers(&self, id: u8) -> usize {
        let connection = &self.connections[usize::from(id)];
        let worker = self.worker == Life::Running && connection.in_table && connection.next != Next::Close;
        let queued = self.queue.iter().filter(|queued| **queued == id).count();
        usize::from(worker) + usize::from(connection.in_receiver) + queued
    }

    fn has_ended(&self, end: End) -> bool {
        self.connections.iter().any(|connection| connection.end == Some(end))
    }

    /// Nothing is pending: no connection in the queue or with a keeper, and no request unanswered.
    fn is_settled(&self) -> bool {
        let served = |(id, connection): (u8, &Connection)| {
            connection.end.is_some() || connection.is_idle() && self.readers(id) == 1
        };
        let over = matches!(self.arbiter, Arbiter::Ended | Arbiter::Killed);
        let reaped = self.worker != Life::Gone && self.keeper != Keeper::Gone;
        let rescued = self.keeper != Keeper::Rescuing;
        self.queue.is_empty() && (0..).zip(&self.connections).all(served) && rescued && (over || reaped)
    }
}

impl Connection {
    /// Whether its client has all responses, and has sent nothing.
    fn is_idle(&self) -> bool {
        !self.asks && self.written == RESPONSE * self.read
    }

    /// Whether its worker hands it off.
    fn is_leaving(&self) -> bool {
        self.in_table && matches!(self.next, Next::Send)
    }

    fn ends(&mut self, end: End) {
        (self.asks, self.in_table, self.in_receiver, self.end) = (false, false, false, Some(end));
        self.entry.state = State::None;
    }
}

#[cfg(test)]
mod tests;
