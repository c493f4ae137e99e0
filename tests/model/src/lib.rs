//! The hand-off of connections between processes as a model, every state of which is visited.
//!
//! A step is what one process does without another seeing it half done: one system call, and what goes with it inside
//! the process. Between any two steps any process may be killed. Time is left out: whatever a limit would end sooner may
//! take for ever here, or end at once. So are descriptors that run out and records of another version, which a process
//! finds alone and decides alone; they have their tests where that is written.
//!
//! What the names stand for: [`Order::Leave`] is a drain whose order says that there is a receiver, [`Order::Stop`] one
//! without, [`Order::LastWord`] is `backlog-end`, and the death of the arbiter is seen as the end of the control socket.

#![allow(clippy::exhaustive_enums, clippy::exhaustive_structs, reason = "nobody depends on it")]

use std::collections::VecDeque;

use stateright::{Model, Property};

/// How large a world is searched, and by which rules its processes live.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Worker processes; the first has all connections.
    pub workers: usize,
    /// Connections that clients keep.
    pub connections: usize,
    /// Connections that the queue holds.
    pub room: usize,
    /// Requests that the clients make in all.
    pub requests: u8,
    /// Workers that are told to hand their connections on, at most.
    pub recycles: u8,
    /// Processes that are killed, at most.
    pub deaths: u8,
    /// A rule that nobody keeps.
    pub broken: Option<Rule>,
}

/// The rules that the protocol stands on. Each is broken in a test, which shows what it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Who has sent a connection does not read from it any more.
    SentIsNotRead,
    /// The receiving end is open in every worker and in the arbiter.
    QueueOutlivesReceivers,
    /// A worker that has nothing left reads its orders once more, and ends only if there are none.
    OrdersBeforeTheEnd,
    /// At a stop a worker ends when it has seen the queue empty after the arbiter's last word.
    LookAfterLastWord,
    /// The arbiter's last word is said when all workers have been told of the stop.
    LastWordComesLast,
    /// Who is told of a stop hands nothing on any more.
    NobodyReceivesAtAStop,
    /// The death of the arbiter is its last word (D18).
    DeathIsTheLastWord,
    /// A worker that has died has a successor, unless the server stops.
    TheDeadAreReplaced,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::SentIsNotRead,
        Self::QueueOutlivesReceivers,
        Self::OrdersBeforeTheEnd,
        Self::LookAfterLastWord,
        Self::LastWordComesLast,
        Self::NobodyReceivesAtAStop,
        Self::DeathIsTheLastWord,
        Self::TheDeadAreReplaced,
    ];
}

/// A state: all processes, what lies between them, and all connections.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    arbiter: Arbiter,
    workers: Vec<Worker>,
    queue: VecDeque<u8>,
    connections: Vec<Connection>,
    recycles: u8,
    deaths: u8,
    requests: u8,
    /// More has happened than the promise is for: a worker was killed whom the arbiter does not replace any more, because
    /// it stops or was killed itself. A connection in the queue may then be nobody's.
    excused: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Arbiter {
    life: Reign,
    /// Orders that are decided and not sent yet.
    unsent: VecDeque<(u8, Order)>,
    /// Workers that are to stay, as far as it knows.
    trusted: Vec<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Reign {
    Serving,
    Stopping,
    /// All its workers are gone, and so is it.
    Ended,
    Killed,
}

/// What the arbiter tells a worker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    /// Hand on what you have: others receive it.
    Leave,
    /// End what you have.
    Stop,
    /// Nothing will be put into the queue by the arbiter any more.
    LastWord,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Worker {
    life: Life,
    /// What is in its control socket.
    orders: VecDeque<Order>,
    /// Connections that it reads from.
    reads: Vec<u8>,
    /// Sent, and still open here.
    sent: Option<u8>,
    heard_last_word: bool,
    /// The queue was seen empty after that.
    looked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Life {
    Running,
    Leaving,
    Stopping,
    Exited,
    Killed,
    /// And the arbiter knows.
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
    /// With an announcement, or by its client.
    Closed,
    /// With the worker that read from it, or with one killed process more than it is safe from.
    Died,
    /// Nobody had it any more.
    Lost,
}

/// What may happen next; the numbers are those of a worker and of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A client sends a request.
    Request(u8),
    /// A worker answers the request of a connection, and in a stop ends that with it.
    Answer(u8, u8),
    /// The fallback policy ends a connection of a worker.
    Close(u8, u8),
    /// The arbiter decides that a worker has to leave, which another one is there to replace.
    Recycle(u8),
    /// The arbiter decides that all have to stop.
    StopAll,
    /// The arbiter writes what it has decided to a control socket.
    SendOrder,
    /// A worker reads from its control socket.
    ReadOrder(u8),
    /// A worker reads the end of its control socket.
    SeeArbiterGone(u8),
    /// A worker puts a connection into the queue.
    Send(u8, u8),
    /// A worker closes its own descriptor of what it has sent.
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
    /// Whether somebody outside has to want it. All else happens by itself, sooner or later.
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
        let arbiter =
            Arbiter { life: Reign::Serving, unsent: VecDeque::new(), trusted: vec![true; self.workers] };
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
            Property::always("none is lost while a process lives that could have it", |_, world: &World| {
                world.connections.iter().all(|connection| connection.fate != Fate::Lost)
            }),
            Property::always(
                "where nothing happens by itself nobody waits",
                |protocol: &Self, world: &World| {
                    let mut steps = Vec::new();
                    protocol.actions(world, &mut steps);
                    steps.iter().any(|step| !step.is_wanted()) || world.is_settled()
                },
            ),
            // The search is of something.
            Property::sometimes("a connection is answered by a third worker", |_, world: &World| {
                world.recycles >= 2 && world.workers.last().is_some_and(|worker| !worker.reads.is_empty())
            }),
            Property::sometimes("everything ends in a stop", |_, world: &World| {
                world.arbiter.life == Reign::Ended
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
        let Arbiter { life, unsent, trusted } = &world.arbiter;
        if !matches!(life, Reign::Serving | Reign::Stopping) {
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
            if matches!(worker.life, Life::Exited | Life::Killed) {
                steps.push(Step::Reap(id));
            }
        }
        if *life == Reign::Serving {
            steps.push(Step::StopAll);
            let others = |id: usize| trusted.iter().enumerate().any(|(other, trust)| *trust && other != id);
            if world.recycles < self.recycles {
                let ready = (0..self.workers).filter(|id| trusted[*id] && others(*id));
                steps.extend(ready.map(|id| Step::Recycle(id as u8)));
            }
        } else if world.workers.iter().all(|worker| worker.life == Life::Reaped) {
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
                return; // one thread, which does nothing else between the two
            }
        }
        if !worker.orders.is_empty() {
            steps.push(Step::ReadOrder(id));
        } else if world.arbiter.life == Reign::Killed && !worker.heard_last_word {
            steps.push(Step::SeeArbiterGone(id));
        }
        for connection in &worker.reads {
            if world.connections[usize::from(*connection)].asks {
                steps.push(Step::Answer(id, *connection));
            }
            match worker.life {
                Life::Leaving if world.queue.len() < self.room => steps.push(Step::Send(id, *connection)),
                Life::Stopping
                    if !self.keeps(Rule::NobodyReceivesAtAStop) && world.queue.len() < self.room =>
                {
                    steps.push(Step::Send(id, *connection));
                }
                Life::Stopping => steps.push(Step::Close(id, *connection)),
                _ => {}
            }
        }
        let receives = matches!(worker.life, Life::Running | Life::Stopping);
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
        let arbiter_seen = world.arbiter.life != Reign::Killed || worker.heard_last_word;
        let orders_read = worker.orders.is_empty() && arbiter_seen;
        match worker.life {
            Life::Leaving => orders_read || !self.keeps(Rule::OrdersBeforeTheEnd),
            Life::Stopping => worker.looked || !self.keeps(Rule::LookAfterLastWord),
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
                if world.workers[usize::from(worker)].life == Life::Stopping {
                    world.end(worker, id); // announced
                }
            }
            Step::Close(worker, id) => world.end(worker, id),
            Step::Recycle(id) => {
                world.recycles += 1;
                world.arbiter.trusted[usize::from(id)] = false;
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
                    Some(Order::Leave) if worker.life == Life::Running => worker.life = Life::Leaving,
                    Some(Order::Stop) => worker.life = Life::Stopping,
                    Some(Order::LastWord) => worker.heard_last_word = true,
                    _ => {}
                }
            }
            Step::SeeArbiterGone(id) => {
                let worker = &mut world.workers[usize::from(id)];
                worker.life = Life::Stopping;
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
                world.workers[usize::from(id)].life = Life::Exited;
                self.close_queue(world);
            }
            Step::Reap(id) => self.reap(world, id),
            Step::Finish => {
                world.arbiter.life = Reign::Ended;
                self.close_queue(world);
            }
            Step::Kill(id) => {
                world.deaths += 1;
                world.excused |= world.arbiter.life != Reign::Serving;
                let worker = &mut world.workers[usize::from(id)];
                let died = std::mem::take(&mut worker.reads);
                *worker = Worker { life: Life::Killed, ..Worker::new() };
                for connection in died {
                    world.connections[usize::from(connection)].fate = Fate::Died;
                }
                self.close_queue(world);
            }
            Step::KillArbiter => {
                world.excused |= world.deaths > 0;
                world.deaths += 1;
                world.arbiter.life = Reign::Killed;
                world.arbiter.unsent.clear();
                self.close_queue(world);
            }
        }
    }

    fn stop(&self, world: &mut World) {
        world.excused |= world.workers.iter().any(|worker| worker.life == Life::Killed);
        world.arbiter.life = Reign::Stopping;
        let alive: Vec<_> =
            (0..).zip(&world.workers).filter(|(_, worker)| worker.life != Life::Reaped).collect();
        let stops = alive.iter().map(|(id, _)| (*id, Order::Stop));
        let last_words = alive.iter().map(|(id, _)| (*id, Order::LastWord));
        world.arbiter.unsent = if self.keeps(Rule::LastWordComesLast) {
            stops.chain(last_words).collect()
        } else {
            stops.zip(last_words).flat_map(|(stop, last)| [stop, last]).collect()
        };
    }

    /// The arbiter finds that a worker is gone, and makes another one.
    fn reap(&self, world: &mut World, id: u8) {
        let worker = &mut world.workers[usize::from(id)];
        let serving = world.arbiter.life == Reign::Serving && self.keeps(Rule::TheDeadAreReplaced);
        *worker = if serving { Worker::new() } else { Worker { life: Life::Reaped, ..Worker::new() } };
        world.arbiter.trusted[usize::from(id)] = serving;
    }

    /// What is in the queue is gone with the last process that has it open.
    fn close_queue(&self, world: &mut World) {
        let arbiter = matches!(world.arbiter.life, Reign::Serving | Reign::Stopping);
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

    /// Nobody waits for anything: nothing is on its way, no request unanswered, no worker half gone.
    fn is_settled(&self) -> bool {
        let over = matches!(self.arbiter.life, Reign::Ended | Reign::Killed);
        let at_rest = |worker: &Worker| match worker.life {
            Life::Running => !over,
            Life::Leaving | Life::Stopping => false,
            Life::Exited | Life::Killed | Life::Reaped => true,
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
            life: Life::Running,
            orders: VecDeque::new(),
            reads: Vec::new(),
            sent: None,
            heard_last_word: false,
            looked: false,
        }
    }

    fn is_alive(&self) -> bool {
        matches!(self.life, Life::Running | Life::Leaving | Life::Stopping)
    }
}

#[cfg(test)]
mod tests;
