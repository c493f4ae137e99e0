//! The hand-off of connections between processes as a model. Every state of it is visited.
//!
//! A step is an action of one process that no other process sees half done: one system call, and
//! what belongs to it inside the process. Between any two steps any process may be killed. Time is
//! left out: what a limit would end may take for ever here, or end at once. So are a shortage of
//! descriptors and records of another version, which one process notices and decides alone. They
//! are tested beside their code.
//!
//! The names: [`Order::Leave`] is a drain order with a receiver, [`Order::Stop`] one without,
//! [`Order::LastWord`] is `backlog-end`, and a worker sees the arbiter's death as the end of its
//! order socket.

#![allow(clippy::exhaustive_enums, clippy::exhaustive_structs, reason = "no crate depends on it")]

use std::collections::VecDeque;

use stateright::{Model, Property};

pub mod rescue;

/// The size of the world to search, and the rules that its processes keep.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Worker processes. The first has all connections.
    pub workers: usize,
    /// Connections that clients keep.
    pub connections: usize,
    /// Connections that the queue holds.
    pub room: usize,
    /// Requests that the clients make in all.
    pub requests: u8,
    /// Workers that are ordered to hand their connections on, at most.
    pub recycles: u8,
    /// Processes that are killed, at most.
    pub deaths: u8,
    /// The rule that is broken in this world.
    pub broken: Option<Rule>,
}

/// The rules that the protocol depends on. A test breaks each, and so shows its purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// A worker that has sent a connection does not read from it any more.
    SentIsNotRead,
    /// The receiving end is open in every worker and in the arbiter.
    QueueOutlivesReceivers,
    /// A worker that has nothing left reads its orders once more, and ends only if there are none.
    OrdersBeforeTheEnd,
    /// At a stop a worker ends when it has seen the queue empty after the arbiter's last word.
    LookAfterLastWord,
    /// The arbiter's last word follows the stop orders of all workers.
    LastWordComesLast,
    /// A worker that was ordered to stop hands nothing on any more.
    NoHandoffAtAStop,
    /// The death of the arbiter is its last word (D18).
    DeathIsTheLastWord,
    /// A worker that has died has a successor, unless the server stops.
    TheDeadAreReplaced,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 8] = [
        Self::SentIsNotRead,
        Self::QueueOutlivesReceivers,
        Self::OrdersBeforeTheEnd,
        Self::LookAfterLastWord,
        Self::LastWordComesLast,
        Self::NoHandoffAtAStop,
        Self::DeathIsTheLastWord,
        Self::TheDeadAreReplaced,
    ];
}

/// A state: all processes, the queue and sockets between them, and all connections.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    arbiter: Arbiter,
    workers: Vec<Worker>,
    queue: VecDeque<u8>,
    connections: Vec<Connection>,
    recycles: u8,
    deaths: u8,
    requests: u8,
    /// More has happened than the promise covers: a worker was killed that the arbiter will not
    /// replace, because the arbiter stops or was killed itself. A connection in the queue may then
    /// have no receiver.
    excused: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Arbiter {
    state: ArbiterState,
    /// Orders that are decided and not sent yet.
    unsent: VecDeque<(u8, Order)>,
    /// Workers that will stay, as far as the arbiter knows.
    staying: Vec<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum ArbiterState {
    Serving,
    Stopping,
    /// All workers have ended, and then the arbiter.
    Ended,
    Killed,
}

/// An order of the arbiter to a worker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    /// Hand your connections on: other workers receive them.
    Leave,
    /// End your connections.
    Stop,
    /// The arbiter puts nothing more into the queue.
    LastWord,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Worker {
    state: WorkerState,
    /// The unread orders in its socket.
    orders: VecDeque<Order>,
    /// Connections that it reads from.
    reads: Vec<u8>,
    /// A connection that was sent, and is still open here.
    sent: Option<u8>,
    heard_last_word: bool,
    /// The queue was seen empty after the last word.
    looked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum WorkerState {
    Running,
    Leaving,
    Stopping,
    Exited,
    Killed,
    /// Ended, and the arbiter knows.
    Reaped,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Connection {
    /// A request is in its socket.
    asks: bool,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Fate {
    Open,
    /// With an announced close, or by its client.
    Closed,
    /// With the worker that read from it, or because more processes were killed than the promise
    /// covers.
    Died,
    /// No process has it any more.
    Lost,
}

/// What may happen next. The numbers are those of a worker and of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A client sends a request.
    Request(u8),
    /// A worker answers the request of a connection and, in a stop, ends the connection with it.
    Answer(u8, u8),
    /// The fallback policy ends a connection of a worker.
    Close(u8, u8),
    /// The arbiter decides that a worker has to leave, whose replacement is ready.
    Recycle(u8),
    /// The arbiter decides that all workers have to stop.
    StopAll,
    /// The arbiter writes the next decided order to its socket.
    SendOrder,
    /// A worker reads an order.
    ReadOrder(u8),
    /// A worker reads the end of its order socket.
    SeeArbiterGone(u8),
    /// A worker puts a connection into the queue.
    Send(u8, u8),
    /// A worker closes its own descriptor of a connection that it has sent.
    DropSent(u8),
    /// A worker takes a connection from the queue.
    Take(u8),
    /// A worker finds nothing in the queue.
    SeeQueueEmpty(u8),
    /// A worker ends.
    Exit(u8),
    /// The arbiter finds that a worker has ended.
    Reap(u8),
    /// The arbiter ends, as all its workers have.
    Finish,
    /// A worker is killed.
    Kill(u8),
    /// The arbiter is killed.
    KillArbiter,
}

impl Step {
    /// Whether the step needs a cause outside the server. All other steps happen by themselves,
    /// sooner or later.
    fn is_wanted(self) -> bool {
        matches!(
            self,
            Self::Request(_) | Self::Recycle(_) | Self::StopAll | Self::Kill(_) | Self::KillArbiter
        )
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mut workers = vec![Worker::new(); self.workers];
        workers[0].reads = (0..self.connections as u8).collect();
        let arbiter = Arbiter {
            state: ArbiterState::Serving,
            unsent: VecDeque::new(),
            staying: vec![true; self.workers],
        };
        vec![World {
            arbiter,
            workers,
            queue: VecDeque::new(),
            connections: vec![Connection { asks: false, fate: Fate::Open }; self.connections],
            recycles: 0,
            deaths: 0,
            requests: 0,
            excused: false,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (id, connection) in (0..).zip(&world.connections) {
            if connection.fate == Fate::Open && !connection.asks && world.requests < self.requests {
                steps.push(Step::Request(id));
            }
        }
        self.arbiters(world, steps);
        for (id, worker) in (0..).zip(&world.workers) {
            self.workers(world, id, worker, steps);
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        self.take(&mut world, step);
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no connection is read by two", |_, world: &World| {
                world.ids().all(|id| world.readers(id) <= 1)
            }),
            Property::always("no connection is lost while a process could have it", |_, world: &World| {
                world.connections.iter().all(|connection| connection.fate != Fate::Lost)
            }),
            Property::always(
                "no client waits in a state without further steps",
                |protocol: &Self, world: &World| {
                    let mut steps = Vec::new();
                    protocol.actions(world, &mut steps);
                    steps.iter().any(|step| !step.is_wanted()) || world.is_settled()
                },
            ),
            // These show that the search covers something.
            Property::sometimes("a connection is answered by a third worker", |_, world: &World| {
                world.recycles >= 2 && world.workers.last().is_some_and(|worker| !worker.reads.is_empty())
            }),
            Property::sometimes("everything ends in a stop", |_, world: &World| {
                world.arbiter.state == ArbiterState::Ended
                    && world.deaths == 0
                    && world.connections.iter().all(|connection| connection.fate == Fate::Closed)
            }),
        ]
    }
}

impl Protocol {
    fn keeps(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    fn arbiters(&self, world: &World, steps: &mut Vec<Step>) {
        let Arbiter { state, unsent, staying } = &world.arbiter;
        if !matches!(state, ArbiterState::Serving | ArbiterState::Stopping) {
            return;
        }
        if world.deaths < self.deaths {
            steps.push(Step::KillArbiter);
        }
        if !unsent.is_empty() {
            steps.push(Step::SendOrder);
            return;
        }
        for (id, worker) in (0..).zip(&world.workers) {
            if matches!(worker.state, WorkerState::Exited | WorkerState::Killed) {
                steps.push(Step::Reap(id));
            }
        }
        if *state == ArbiterState::Serving {
            steps.push(Step::StopAll);
            let others = |id: usize| staying.iter().enumerate().any(|(other, trust)| *trust && other != id);
            if world.recycles < self.recycles {
                let ready = (0..self.workers).filter(|id| staying[*id] && others(*id));
                steps.extend(ready.map(|id| Step::Recycle(id as u8)));
            }
        } else if world.workers.iter().all(|worker| worker.state == WorkerState::Reaped) {
            steps.push(Step::Finish);
        }
    }

    fn workers(&self, world: &World, id: u8, worker: &Worker, steps: &mut Vec<Step>) {
        if !worker.is_alive() {
            return;
        }
        if world.deaths < self.deaths {
            steps.push(Step::Kill(id));
        }
        if worker.sent.is_some() {
            steps.push(Step::DropSent(id));
            if self.keeps(Rule::SentIsNotRead) {
                return; // the worker's one thread does nothing else between the two steps
            }
        }
        if !worker.orders.is_empty() {
            steps.push(Step::ReadOrder(id));
        } else if world.arbiter.state == ArbiterState::Killed && !worker.heard_last_word {
            steps.push(Step::SeeArbiterGone(id));
        }
        for connection in &worker.reads {
            if world.connections[usize::from(*connection)].asks {
                steps.push(Step::Answer(id, *connection));
            }
            match worker.state {
                WorkerState::Leaving if world.queue.len() < self.room => {
                    steps.push(Step::Send(id, *connection))
                }
                WorkerState::Stopping
                    if !self.keeps(Rule::NoHandoffAtAStop) && world.queue.len() < self.room =>
                {
                    steps.push(Step::Send(id, *connection));
                }
                WorkerState::Stopping => steps.push(Step::Close(id, *connection)),
                _ => {}
            }
        }
        let receives = matches!(worker.state, WorkerState::Running | WorkerState::Stopping);
        if receives && !world.queue.is_empty() {
            steps.push(Step::Take(id));
        }
        if worker.heard_last_word && !worker.looked && world.queue.is_empty() {
            steps.push(Step::SeeQueueEmpty(id));
        }
        if worker.reads.is_empty() && worker.sent.is_none() && self.may_exit(world, worker) {
            steps.push(Step::Exit(id));
        }
    }

    fn may_exit(&self, world: &World, worker: &Worker) -> bool {
        let arbiter_seen = world.arbiter.state != ArbiterState::Killed || worker.heard_last_word;
        let orders_read = worker.orders.is_empty() && arbiter_seen;
        match worker.state {
            WorkerState::Leaving => orders_read || !self.keeps(Rule::OrdersBeforeTheEnd),
            WorkerState::Stopping => worker.looked || !self.keeps(Rule::LookAfterLastWord),
            _ => false,
        }
    }

    fn take(&self, world: &mut World, step: Step) {
        match step {
            Step::Request(id) => {
                world.requests += 1;
                world.connections[usize::from(id)].asks = true;
            }
            Step::Answer(worker, id) => {
                let connection = &mut world.connections[usize::from(id)];
                connection.asks = false;
                if world.workers[usize::from(worker)].state == WorkerState::Stopping {
                    world.end(worker, id); // announced
                }
            }
            Step::Close(worker, id) => world.end(worker, id),
            Step::Recycle(id) => {
                world.recycles += 1;
                world.arbiter.staying[usize::from(id)] = false;
                world.arbiter.unsent.push_back((id, Order::Leave));
            }
            Step::StopAll => self.stop(world),
            Step::SendOrder => {
                if let Some((id, order)) = world.arbiter.unsent.pop_front() {
                    let worker = &mut world.workers[usize::from(id)];
                    if worker.is_alive() {
                        worker.orders.push_back(order);
                    }
                }
            }
            Step::ReadOrder(id) => {
                let worker = &mut world.workers[usize::from(id)];
                match worker.orders.pop_front() {
                    Some(Order::Leave) if worker.state == WorkerState::Running => {
                        worker.state = WorkerState::Leaving
                    }
                    Some(Order::Stop) => worker.state = WorkerState::Stopping,
                    Some(Order::LastWord) => worker.heard_last_word = true,
                    _ => {}
                }
            }
            Step::SeeArbiterGone(id) => {
                let worker = &mut world.workers[usize::from(id)];
                worker.state = WorkerState::Stopping;
                worker.heard_last_word = true;
                worker.looked |= !self.keeps(Rule::DeathIsTheLastWord);
            }
            Step::Send(from, id) => {
                world.queue.push_back(id);
                let worker = &mut world.workers[usize::from(from)];
                worker.sent = Some(id);
                if self.keeps(Rule::SentIsNotRead) {
                    worker.reads.retain(|read| *read != id);
                }
            }
            Step::DropSent(id) => {
                let worker = &mut world.workers[usize::from(id)];
                let sent = worker.sent.take();
                worker.reads.retain(|read| Some(*read) != sent);
            }
            Step::Take(id) => {
                if let Some(connection) = world.queue.pop_front() {
                    let worker = &mut world.workers[usize::from(id)];
                    worker.reads.push(connection);
                    worker.reads.sort_unstable();
                }
            }
            Step::SeeQueueEmpty(id) => world.workers[usize::from(id)].looked = true,
            Step::Exit(id) => {
                world.workers[usize::from(id)].state = WorkerState::Exited;
                self.close_queue(world);
            }
            Step::Reap(id) => self.reap(world, id),
            Step::Finish => {
                world.arbiter.state = ArbiterState::Ended;
                self.close_queue(world);
            }
            Step::Kill(id) => {
                world.deaths += 1;
                world.excused |= world.arbiter.state != ArbiterState::Serving;
                let worker = &mut world.workers[usize::from(id)];
                let died = std::mem::take(&mut worker.reads);
                *worker = Worker { state: WorkerState::Killed, ..Worker::new() };
                for connection in died {
                    world.connections[usize::from(connection)].fate = Fate::Died;
                }
                self.close_queue(world);
            }
            Step::KillArbiter => {
                world.excused |= world.deaths > 0;
                world.deaths += 1;
                world.arbiter.state = ArbiterState::Killed;
                world.arbiter.unsent.clear();
                self.close_queue(world);
            }
        }
    }

    fn stop(&self, world: &mut World) {
        world.excused |= world.workers.iter().any(|worker| worker.state == WorkerState::Killed);
        world.arbiter.state = ArbiterState::Stopping;
        let alive: Vec<_> =
            (0..).zip(&world.workers).filter(|(_, worker)| worker.state != WorkerState::Reaped).collect();
        let stops = alive.iter().map(|(id, _)| (*id, Order::Stop));
        let last_words = alive.iter().map(|(id, _)| (*id, Order::LastWord));
        world.arbiter.unsent = if self.keeps(Rule::LastWordComesLast) {
            stops.chain(last_words).collect()
        } else {
            stops.zip(last_words).flat_map(|(stop, last)| [stop, last]).collect()
        };
    }

    /// The arbiter finds that a worker is gone, and starts another one.
    fn reap(&self, world: &mut World, id: u8) {
        let worker = &mut world.workers[usize::from(id)];
        let serving = world.arbiter.state == ArbiterState::Serving && self.keeps(Rule::TheDeadAreReplaced);
        *worker =
            if serving { Worker::new() } else { Worker { state: WorkerState::Reaped, ..Worker::new() } };
        world.arbiter.staying[usize::from(id)] = serving;
    }

    /// The connections in the queue are gone with the last process that has the queue open.
    fn close_queue(&self, world: &mut World) {
        let arbiter = matches!(world.arbiter.state, ArbiterState::Serving | ArbiterState::Stopping);
        let is_open = world.workers.iter().any(Worker::is_alive)
            || (arbiter && self.keeps(Rule::QueueOutlivesReceivers));
        let fate = if world.excused { Fate::Died } else { Fate::Lost };
        if !is_open {
            for id in world.queue.drain(..) {
                world.connections[usize::from(id)].fate = fate;
            }
        }
    }
}

impl World {
    fn ids(&self) -> impl Iterator<Item = u8> {
        0..self.connections.len() as u8
    }

    fn readers(&self, id: u8) -> usize {
        self.workers.iter().filter(|worker| worker.reads.contains(&id)).count()
    }

    fn end(&mut self, worker: u8, id: u8) {
        self.workers[usize::from(worker)].reads.retain(|read| *read != id);
        self.connections[usize::from(id)] = Connection { asks: false, fate: Fate::Closed };
    }

    /// Nothing is pending: no connection in the queue, no request unanswered, no worker half gone.
    fn is_settled(&self) -> bool {
        let over = matches!(self.arbiter.state, ArbiterState::Ended | ArbiterState::Killed);
        let at_rest = |worker: &Worker| match worker.state {
            WorkerState::Running => !over,
            WorkerState::Leaving | WorkerState::Stopping => false,
            WorkerState::Exited | WorkerState::Killed | WorkerState::Reaped => true,
        };
        let served = |id: u8| {
            let Connection { asks, fate } = self.connections[usize::from(id)];
            fate != Fate::Open || (!asks && self.readers(id) == 1)
        };
        self.queue.is_empty() && self.workers.iter().all(at_rest) && self.ids().all(served)
    }
}

impl Worker {
    fn new() -> Self {
        Self {
            state: WorkerState::Running,
            orders: VecDeque::new(),
            reads: Vec::new(),
            sent: None,
            heard_last_word: false,
            looked: false,
        }
    }

    fn is_alive(&self) -> bool {
        matches!(self.state, WorkerState::Running | WorkerState::Leaving | WorkerState::Stopping)
    }
}

#[cfg(test)]
mod tests;
