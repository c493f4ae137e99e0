//! The connections of a poll-shaped backend: who they are, who has something to do, and when the next deadline
//! passes.
//!
//! A connection is known by a [`Token`] with a generation, so that an event for a connection that has gone never
//! reaches the one that has its place. While a handler has a connection on another thread, its place is kept and
//! what is reported about it is remembered.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use slab::Slab;

use crate::machine::{CloseReason, Cx, Machine, Transport};
use crate::pump::{Io, Outcome, Readiness, drive};
use crate::time::Time;

/// Names a connection for as long as its worker lives. Numbers below [`Token::FIRST`] are never given, and are the
/// backend's own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token(u64);

impl Token {
    /// The first number that a connection can have.
    pub const FIRST: u64 = 1 << 32;

    /// The token as a number, for a poll set.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The token that a poll set gave back; `None` for the backend's own numbers.
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

/// A connection with what bytes travel through.
#[derive(Debug)]
#[non_exhaustive]
pub struct Active<M, T> {
    /// Its machine.
    pub machine: M,
    /// Its transport.
    pub io: Io<T>,
}

/// A connection on its way to a thread that may block or to another worker, or back.
#[derive(Debug)]
#[non_exhaustive]
pub struct Job<M, T> {
    /// Its place.
    pub token: Token,
    /// The connection.
    pub active: Box<Active<M, T>>,
}

/// What the intake cannot do for a connection by itself.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "every backend does all of these")]
pub enum Work<M, T> {
    /// Run its handler where that may block, then [`Intake::restore`] it.
    Run(Job<M, T>),
    /// Move it to another worker, then [`Intake::forget`] it; if that cannot be done, [`Intake::restore`] it.
    HandOff(Job<M, T>),
    /// It has ended for this reason; closing the transport is all that is left.
    Closed(CloseReason, T),
}

/// The connections of one worker.
pub struct Intake<M, T> {
    slots: Slab<Slot<M, T>>,
    /// Counts connections, so that no two have the same token.
    generation: u32,
    /// Who has something to do, in turn.
    ready: VecDeque<Token>,
    /// How many of them have their turn now.
    turn: usize,
    /// When somebody wants to be looked at: the place, not the connection, so that the number of entries does not grow
    /// with the number of connections that came and went.
    timers: BinaryHeap<Reverse<(Time, usize)>>,
    /// The earliest entry of each place in `timers`; [`Time::MAX`] if it has none.
    armed: Vec<Time>,
    /// Where futures ask for a turn.
    bell: Arc<Bell>,
}

struct Slot<M, T> {
    generation: u32,
    queued: bool,
    /// Gives this connection a turn.
    waker: Waker,
    state: State<M, T>,
}

enum State<M, T> {
    Here(Box<Active<M, T>>),
    /// With a handler, or about to leave; what a wait has reported since.
    Away(Readiness),
}

impl<M: Machine, T: Transport> Intake<M, T> {
    /// No connections. `wake` ends the loop's wait when a future wants its connection to have a turn; it is called
    /// from any thread, and only while the loop waits.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            slots: Slab::new(),
            generation: 0,
            ready: VecDeque::new(),
            turn: 0,
            timers: BinaryHeap::new(),
            armed: Vec::new(),
            bell: Arc::new(Bell {
                rung: Mutex::new(Vec::new()),
                waiting: AtomicBool::new(false),
                wake: Box::new(wake),
            }),
        }
    }

    /// The token of the next connection, by which it can be waited for before it is [taken in](Self::insert).
    pub fn next_token(&self) -> Token {
        Token::new(self.slots.vacant_key(), self.generation.wrapping_add(1).max(1))
    }

    /// Takes a connection in and gives it a turn.
    pub fn insert(&mut self, machine: M, transport: T) -> Token {
        let token = self.next_token();
        self.generation = token.generation();
        let active = Box::new(Active { machine, io: Io::new(transport) });
        let place = self.slots.vacant_entry();
        let index = place.key();
        let ring = Ring { token, rung: AtomicBool::new(false), bell: self.bell.clone() };
        let waker = Waker::from(Arc::new(ring));
        place.insert(Slot { generation: self.generation, queued: false, waker, state: State::Here(active) });
        if self.armed.len() <= index {
            self.armed.resize(index + 1, Time::MAX);
        }
        self.queue(token);
        token
    }

    /// A wait has reported something about a connection, which gets a turn.
    pub fn ready(&mut self, token: Token, readiness: Readiness) {
        match self.slot(token).map(|slot| &mut slot.state) {
            Some(State::Here(active)) => {
                active.io.ready(readiness);
                self.queue(token);
            }
            Some(State::Away(missed)) => missed.merge(readiness),
            None => {}
        }
    }

    /// A connection comes back from its handler and gets a turn.
    pub fn restore(&mut self, job: Job<M, T>) {
        let Job { token, mut active } = job;
        if let Some(slot) = self.slot(token) {
            if let State::Away(missed) = slot.state {
                active.io.ready(missed);
            }
            slot.state = State::Here(active);
            self.queue(token);
        }
    }

    /// A connection does not come back: another worker has it.
    pub fn forget(&mut self, token: Token) {
        self.remove(token);
    }

    /// Gives every connection a turn, because the world has changed.
    pub fn wake_all(&mut self) {
        for (index, slot) in &mut self.slots {
            if let State::Here(_) = slot.state
                && !slot.queued
            {
                slot.queued = true;
                self.ready.push_back(Token::new(index, slot.generation));
            }
        }
    }

    /// The loop's wait is over: futures need not end it any more, until [`deadline`](Self::deadline) is asked for again.
    pub fn awake(&self) {
        self.bell.waiting.store(false, Ordering::SeqCst);
    }

    /// Begins a turn: those whose deadline has passed join those that have something to do. [`work`](Self::work) then
    /// goes once through them; who has more to do after that waits for the next turn.
    pub fn begin_turn(&mut self, now: Time) {
        for ring in self.bell.answer() {
            ring.rung.swap(false, Ordering::AcqRel);
            self.queue(ring.token);
        }
        while let Some(&Reverse((at, index))) = self.timers.peek()
            && at <= now
        {
            self.timers.pop();
            if self.armed[index] == at {
                self.armed[index] = Time::MAX;
                if let Some(Slot { state: State::Here(_), generation, .. }) = self.slots.get(index) {
                    self.queue(Token::new(index, *generation));
                }
            }
        }
        self.turn = self.ready.len();
    }

    /// Drives connections until one needs something from the backend, or this turn is over.
    pub fn work(&mut self, cx: &Cx<'_>) -> Option<Work<M, T>> {
        while self.turn > 0 {
            self.turn -= 1;
            let Some(token) = self.ready.pop_front() else { break };
            let Some(slot) = self.slot(token) else { continue };
            slot.queued = false;
            let State::Here(active) = &mut slot.state else { continue };
            match drive(&mut active.machine, &mut active.io, &cx.waking(&slot.waker)) {
                Outcome::Wait { deadline, .. } => {
                    if let Some(deadline) = deadline {
                        self.arm(token.index(), deadline.at);
                    }
                }
                Outcome::Again => self.queue(token),
                outcome @ (Outcome::Run | Outcome::HandOff) => {
                    if let State::Here(active) =
                        std::mem::replace(&mut slot.state, State::Away(Readiness::default()))
                    {
                        let job = Job { token, active };
                        return Some(match outcome {
                            Outcome::Run => Work::Run(job),
                            _ => Work::HandOff(job),
                        });
                    }
                }
                Outcome::Close(reason) => {
                    return self.remove(token).map(|active| Work::Closed(reason, active.io.into_transport()));
                }
            }
        }
        None
    }

    /// When [`begin_turn`](Self::begin_turn) should be called again if nothing happens before; [`Time::ZERO`] while
    /// somebody still has something to do. Asked when the loop is about to wait: from here on futures wake it.
    pub fn deadline(&self) -> Option<Time> {
        if !self.ready.is_empty() || !self.bell.may_wait() {
            return Some(Time::ZERO);
        }
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// How many connections there are, those that handlers have included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn slot(&mut self, token: Token) -> Option<&mut Slot<M, T>> {
        let slot = self.slots.get_mut(token.index())?;
        (Token::new(token.index(), slot.generation) == token).then_some(slot)
    }

    fn queue(&mut self, token: Token) {
        if let Some(slot) = self.slot(token)
            && !slot.queued
        {
            slot.queued = true;
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
        self.slot(token)?;
        match self.slots.remove(token.index()).state {
            State::Here(active) => Some(active),
            State::Away(_) => None,
        }
    }
}

impl<M, T> fmt::Debug for Intake<M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("open", &self.slots.len()).field("ready", &self.ready.len()).finish()
    }
}

/// Where futures of any thread ask for a turn of their connection.
struct Bell {
    rung: Mutex<Vec<Arc<Ring>>>,
    /// The loop waits, or is about to.
    waiting: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Bell {
    /// Who has rung since the last time; the loop is awake from here on.
    fn answer(&self) -> Vec<Arc<Ring>> {
        self.waiting.store(false, Ordering::SeqCst);
        std::mem::take(&mut *self.rung())
    }

    /// Whether nobody has rung, so that the loop may wait; whoever rings from here on ends that wait.
    fn may_wait(&self) -> bool {
        self.waiting.store(true, Ordering::SeqCst);
        self.rung().is_empty()
    }

    fn rung(&self) -> MutexGuard<'_, Vec<Arc<Ring>>> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The waker of one connection.
struct Ring {
    token: Token,
    /// It is on the list already.
    rung: AtomicBool,
    bell: Arc<Bell>,
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        self.bell.rung().push(self.clone());
        if self.bell.waiting.swap(false, Ordering::SeqCst) {
            (self.bell.wake)();
        }
    }
}

#[cfg(test)]
#[path = "connections/tests.rs"]
mod tests;
