//! The connections of a poll loop: their storage, the queue of those that have something to do, and
//! their timers.
//!
//! A [`Token`] identifies a connection by its place and a generation, so that an event for an ended
//! connection never reaches the next one in the same place. While a connection is with a handler on
//! another thread, its place is kept and reports about it are remembered.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use slab::Slab;

use crate::machine::{CloseReason, Cx, Machine, Move, Transport};
use crate::pump::{Io, Next, Readiness, drive};
use crate::rescue;
use crate::time::Time;

/// Identifies a connection for as long as its worker lives. Numbers below [`Token::FIRST`] are
/// never assigned: backends use them for their own sources.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(u64);

impl Token {
    /// The lowest number of a connection.
    pub const FIRST: u64 = 1 << 32;

    /// The token as a number, for a poll set.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The token of a number that a poll set has reported; `None` for the backend's own numbers.
    pub fn from_u64(number: u64) -> Option<Self> {
        (number >= Self::FIRST).then_some(Self(number))
    }

    fn new(index: usize, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | index as u64)
    }

    fn index(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// A connection with its transport.
#[derive(Debug)]
#[non_exhaustive]
pub struct Active<M, T> {
    /// The protocol machine.
    pub machine: M,
    /// The transport, with its readiness.
    pub io: Io<T>,
}

/// A connection outside of [`Connections`]: with a handler that may block, or about to be handed
/// off.
#[derive(Debug)]
#[non_exhaustive]
pub struct Detached<M, T> {
    /// The place that is kept for it.
    pub token: Token,
    /// The connection.
    pub active: Box<Active<M, T>>,
}

/// What a backend has to do for a connection.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "every backend does all of these")]
pub enum Work<M, T> {
    /// Move the connection: run its handler on a lease and then [`Connections::restore`] it, or
    /// hand it off to another worker and then [`Connections::forget`] it. If the hand-off fails,
    /// restore it.
    Move(Move, Detached<M, T>),
    /// Take the calls of its handlers, which run elsewhere, and then [`Connections::restore`] the
    /// connection.
    Spawn(Detached<M, T>),
    /// The connection has ended for this reason: close the transport.
    Closed(CloseReason, T),
}

/// The connections of one worker.
pub struct Connections<M, T> {
    entries: Slab<Entry<M, T>>,
    /// Incremented for each connection, so that no two have the same token.
    generation: u32,
    /// The connections that have something to do, in order.
    ready: VecDeque<Token>,
    /// How many of them are driven in this turn.
    turn: usize,
    /// The time at which each place is due. Keyed by place and not by connection, so that the heap
    /// does not grow with the number of connections served.
    timers: BinaryHeap<Reverse<(Time, usize)>>,
    /// The earliest entry of each place in `timers`; [`Time::MAX`] for none.
    armed: Vec<Time>,
    /// Where wakers of connections report, from any thread.
    wake_queue: Arc<WakeQueue>,
}

struct Entry<M, T> {
    generation: u32,
    queued: bool,
    /// Queues this connection for a turn, from any thread.
    waker: Waker,
    presence: Presence<M, T>,
}

enum Presence<M, T> {
    Here(Box<Active<M, T>>),
    /// With a handler, or about to be handed off. Collects the readiness reported meanwhile.
    Away(Readiness),
}

impl<M, T> Presence<M, T> {
    /// Takes the connection away.
    fn detach(&mut self) -> Option<Box<Active<M, T>>> {
        match mem::replace(self, Self::Away(Readiness::default())) {
            Self::Here(active) => Some(active),
            Self::Away(_) => None,
        }
    }
}

impl<M: Machine, T: Transport> Connections<M, T> {
    /// No connections. `wake` ends the loop's wait when a future wakes its connection; it is called
    /// from any thread, and only while the loop waits.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            entries: Slab::new(),
            generation: 0,
            ready: VecDeque::new(),
            turn: 0,
            timers: BinaryHeap::new(),
            armed: Vec::new(),
            wake_queue: Arc::new(WakeQueue {
                woken: Mutex::new(Vec::new()),
                waiting: AtomicBool::new(false),
                wake: Box::new(wake),
            }),
        }
    }

    /// The token of the next connection, so that it can be registered with a poll set before it is
    /// [inserted](Self::insert).
    pub fn next_token(&self) -> Token {
        Token::new(self.entries.vacant_key(), self.generation.wrapping_add(1).max(1))
    }

    /// Adds a connection and queues it for a turn.
    pub fn insert(&mut self, machine: M, transport: T) -> Token {
        self.insert_published(machine, transport, rescue::Entry::NONE)
    }

    /// The same with an entry, in which the standing of the connection is published (D20).
    pub fn insert_published(&mut self, machine: M, transport: T, entry: rescue::Entry) -> Token {
        let token = self.next_token();
        self.generation = token.generation();
        let active = Box::new(Active { machine, io: Io::new(transport).published(entry) });
        let place = self.entries.vacant_entry();
        let index = place.key();
        let connection_waker =
            ConnectionWaker { token, queued: AtomicBool::new(false), wake_queue: self.wake_queue.clone() };
        let waker = Waker::from(Arc::new(connection_waker));
        place.insert(Entry {
            generation: self.generation,
            queued: false,
            waker,
            presence: Presence::Here(active),
        });
        if self.armed.len() <= index {
            self.armed.resize(index + 1, Time::MAX);
        }
        self.queue(token);
        token
    }

    /// A wait has reported `readiness` of a connection: queues it for a turn.
    pub fn ready(&mut self, token: Token, readiness: Readiness) {
        match self.entry(token).map(|entry| &mut entry.presence) {
            Some(Presence::Here(active)) => {
                active.io.ready(readiness);
                self.queue(token);
            }
            Some(Presence::Away(missed)) => missed.merge(readiness),
            None => {}
        }
    }

    /// Takes a connection back from its handler, and queues it for a turn.
    pub fn restore(&mut self, detached: Detached<M, T>) {
        let Detached { token, mut active } = detached;
        if let Some(entry) = self.entry(token) {
            if let Presence::Away(missed) = entry.presence {
                active.io.ready(missed);
            }
            entry.presence = Presence::Here(active);
            self.queue(token);
        }
    }

    /// Removes a connection: a detached one, which another worker has now, or any one that has to
    /// make room. Its transport is dropped, if it is here.
    pub fn forget(&mut self, token: Token) {
        self.remove(token);
    }

    /// The connections that are not detached, in no order. The lower a token, the older the
    /// connection.
    pub fn iter(&self) -> impl Iterator<Item = (Token, &M)> {
        self.entries.iter().filter_map(|(index, entry)| match &entry.presence {
            Presence::Here(active) => Some((Token::new(index, entry.generation), &active.machine)),
            Presence::Away(_) => None,
        })
    }

    /// Queues every connection for a turn, because the drain has begun or changed.
    pub fn wake_all(&mut self) {
        for (index, entry) in &mut self.entries {
            if let Presence::Here(_) = entry.presence
                && !entry.queued
            {
                entry.queued = true;
                self.ready.push_back(Token::new(index, entry.generation));
            }
        }
    }

    /// The loop's wait is over: futures need not end it until [`deadline`](Self::deadline) is
    /// called again.
    pub fn awake(&self) {
        self.wake_queue.waiting.store(false, Ordering::SeqCst);
    }

    /// Begins a turn: adds the connections whose future was woken or whose deadline has passed to
    /// the queue. [`work`](Self::work) then drives each queued connection once; those with more to
    /// do wait for the next turn.
    pub fn begin_turn(&mut self, now: Time) {
        for woken in self.wake_queue.take() {
            woken.queued.swap(false, Ordering::AcqRel);
            self.queue(woken.token);
        }
        while let Some(&Reverse((at, index))) = self.timers.peek()
            && at <= now
        {
            self.timers.pop();
            if self.armed[index] == at {
                self.armed[index] = Time::MAX;
                if let Some(Entry { presence: Presence::Here(_), generation, .. }) = self.entries.get(index) {
                    self.queue(Token::new(index, *generation));
                }
            }
        }
        self.turn = self.ready.len();
    }

    /// Drives the connections of this turn until one of them needs the backend. None: the turn is
    /// over.
    pub fn work(&mut self, cx: &Cx<'_>) -> Option<Work<M, T>> {
        while self.turn > 0 {
            self.turn -= 1;
            let Some(token) = self.ready.pop_front() else { break };
            // The connection may have been removed since it was queued.
            let Some(entry) = self.entry(token) else { continue };
            entry.queued = false;
            if let Some(work) = self.drive_one(token, cx) {
                return Some(work);
            }
        }
        None
    }

    /// Drives one connection, if it is here: for loops that answer a new connection before its
    /// turn, which it still has. None if it waits, or has more to do.
    #[inline]
    pub fn drive_one(&mut self, token: Token, cx: &Cx<'_>) -> Option<Work<M, T>> {
        let entry = self.entry(token)?;
        let Presence::Here(active) = &mut entry.presence else { return None };
        match drive(&mut active.machine, &mut active.io, &cx.waking(&entry.waker)) {
            Next::Wait { deadline, .. } => {
                if let Some(deadline) = deadline {
                    self.arm(token.index(), deadline.at);
                }
                None
            }
            Next::Again => {
                self.queue(token);
                None
            }
            // The backend takes the connection. Its place stays and collects the readiness reported
            // meanwhile.
            Next::Move(to) => {
                entry.presence.detach().map(|active| Work::Move(to, Detached { token, active }))
            }
            Next::Spawn => entry.presence.detach().map(|active| Work::Spawn(Detached { token, active })),
            Next::Close(reason) => {
                self.remove(token).map(|active| Work::Closed(reason, active.io.into_transport()))
            }
        }
    }

    /// When to call [`begin_turn`](Self::begin_turn) again if nothing happens before;
    /// [`Time::ZERO`] while connections are queued. Called right before the loop waits: from here
    /// on, futures end the wait.
    pub fn deadline(&self) -> Option<Time> {
        if !self.ready.is_empty() || !self.wake_queue.may_wait() {
            return Some(Time::ZERO);
        }
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// The number of connections, including detached ones.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn entry(&mut self, token: Token) -> Option<&mut Entry<M, T>> {
        let entry = self.entries.get_mut(token.index())?;
        (Token::new(token.index(), entry.generation) == token).then_some(entry)
    }

    fn queue(&mut self, token: Token) {
        if let Some(entry) = self.entry(token)
            && !entry.queued
        {
            entry.queued = true;
            self.ready.push_back(token);
        }
    }

    fn arm(&mut self, index: usize, at: Time) {
        if at < self.armed[index] {
            self.armed[index] = at;
            self.timers.push(Reverse((at, index)));
        }
    }

    fn remove(&mut self, token: Token) -> Option<Box<Active<M, T>>> {
        self.entry(token)?;
        match self.entries.remove(token.index()).presence {
            Presence::Here(active) => Some(active),
            Presence::Away(_) => None,
        }
    }
}

impl<M, T> fmt::Debug for Connections<M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("open", &self.entries.len())
            .field("ready", &self.ready.len())
            .finish()
    }
}

/// Collects wake-ups of connections from all threads.
struct WakeQueue {
    woken: Mutex<Vec<Arc<ConnectionWaker>>>,
    /// Whether the loop waits, or is about to.
    waiting: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl WakeQueue {
    /// Takes the connections woken since the last call. The loop counts as awake from here on.
    fn take(&self) -> Vec<Arc<ConnectionWaker>> {
        self.waiting.store(false, Ordering::SeqCst);
        mem::take(&mut *self.woken())
    }

    /// Whether no connection was woken, so that the loop may wait. From here on a wake-up ends the
    /// wait.
    fn may_wait(&self) -> bool {
        self.waiting.store(true, Ordering::SeqCst);
        self.woken().is_empty()
    }

    fn woken(&self) -> MutexGuard<'_, Vec<Arc<ConnectionWaker>>> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The waker of one connection.
struct ConnectionWaker {
    token: Token,
    /// Whether it is in the queue already.
    queued: AtomicBool,
    wake_queue: Arc<WakeQueue>,
}

impl Wake for ConnectionWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        self.wake_queue.woken().push(self.clone());
        if self.wake_queue.waiting.swap(false, Ordering::SeqCst) {
            (self.wake_queue.wake)();
        }
    }
}

#[cfg(test)]
mod tests;
