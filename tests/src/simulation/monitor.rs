//! The state that all parts of one simulation share: the time, the trace, the first breach of a
//! rule, and what the application has noted. It is shared with handlers, which have to be `Send`
//! and `Sync`; all of it runs on one thread.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use remuda_core::app::DrainWatch;
use remuda_core::order::PolicyId;
use remuda_core::shutdown::{Drain, Phase};
use remuda_core::time::Time;

/// The time at which every simulation begins. It is not zero, so that a duration measured from zero
/// is detected.
pub(super) const START: Time = Time::from_nanos(1_000_000_000_000);

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A rule that was broken.
#[derive(Clone, Debug)]
pub(super) struct Breach {
    pub(super) rule: &'static str,
    pub(super) what: String,
}

/// The wait of a handler, which takes effect at its next call on the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nap {
    pub(super) until: Time,
    /// Or until the worker drains.
    pub(super) or_drain: bool,
}

/// A response head that the application has given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) at: Time,
    /// The drain of its worker then.
    pub(super) drain: Option<Drain>,
    /// Bytes of its connection that had been read by then.
    pub(super) read: u64,
}

pub(super) struct Monitor {
    now: AtomicU64,
    notes: Mutex<Notes>,
    traced: bool,
}

#[derive(Default)]
struct Notes {
    breach: Option<Breach>,
    trace: Vec<String>,
    nap: Option<Nap>,
    answered: BTreeMap<u32, Answered>,
    /// Connections with a running handler.
    at_work: BTreeSet<u32>,
    /// Connections that no worker may hand off any more.
    stays: BTreeSet<u32>,
    /// Connections whose transport has changed.
    touched: Vec<u32>,
    /// Bytes read from each connection.
    read: BTreeMap<u32, u64>,
    /// Connections on which a keeper has answered.
    told: BTreeSet<u32>,
    /// The looks at each connection.
    looks: BTreeMap<u32, Vec<Look>>,
}

/// A look for bytes at a connection whose deadline has passed (D21).
#[derive(Clone, Copy)]
pub(super) struct Look {
    pub(super) at: Time,
    /// When its last response was sent: the deadline is later.
    pub(super) since: Time,
}

impl Monitor {
    pub(super) fn new(traced: bool) -> Arc<Self> {
        let now = AtomicU64::new(START.as_nanos());
        Arc::new(Self { now, notes: Mutex::default(), traced })
    }

    pub(super) fn now(&self) -> Time {
        Time::from_nanos(self.now.load(Ordering::Relaxed))
    }

    pub(super) fn set_now(&self, now: Time) {
        self.now.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// Adds a line to the trace, if there is one.
    pub(super) fn trace(&self, line: impl FnOnce() -> String) {
        if self.traced {
            let at = self.now().since(START);
            let line = format!("{:>11.6} {}", at.as_secs_f64(), line());
            self.notes().trace.push(line);
        }
    }

    /// Records a breach. The first one is reported.
    pub(super) fn breach(&self, rule: &'static str, what: impl fmt::Display) {
        self.trace(|| format!("BREACH of {rule}: {what}"));
        self.notes().breach.get_or_insert_with(|| Breach { rule, what: what.to_string() });
    }

    /// Records a breach of `rule` unless `kept`.
    pub(super) fn hold(&self, rule: &'static str, kept: bool, what: impl FnOnce() -> String) {
        if !kept {
            self.breach(rule, what());
        }
    }

    pub(super) fn broken(&self) -> Option<Breach> {
        self.notes().breach.clone()
    }

    pub(super) fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut self.notes().trace)
    }

    pub(super) fn nap(&self, nap: Nap) {
        self.notes().nap = Some(nap);
    }

    pub(super) fn take_nap(&self) -> Option<Nap> {
        self.notes().nap.take()
    }

    pub(super) fn begin_work(&self, conn: u32) {
        self.notes().at_work.insert(conn);
    }

    pub(super) fn end_work(&self, conn: u32) {
        self.notes().at_work.remove(&conn);
    }

    pub(super) fn is_at_work(&self, conn: u32) -> bool {
        self.notes().at_work.contains(&conn)
    }

    pub(super) fn answer(&self, id: u32, drain: Option<Drain>) {
        let at = self.now();
        let mut notes = self.notes();
        let read = notes.read.get(&(id / 16)).copied().unwrap_or_default();
        let again = notes.answered.insert(id, Answered { at, drain, read }).is_some();
        drop(notes);
        self.hold("once", !again, || format!("request {id} was answered twice"));
    }

    pub(super) fn answered(&self, id: u32) -> Option<Answered> {
        self.notes().answered.get(&id).copied()
    }

    pub(super) fn look(&self, conn: u32, look: Look) {
        self.notes().looks.entry(conn).or_default().push(look);
    }

    /// The look that found the beginning of a request which was whole at `last` only.
    pub(super) fn look_within(&self, conn: u32, first: Time, last: Time) -> Option<Look> {
        let notes = self.notes();
        notes.looks.get(&conn)?.iter().copied().find(|look| first <= look.at && look.at <= last)
    }

    pub(super) fn tell(&self, conn: u32) {
        self.notes().told.insert(conn);
    }

    /// Whether a keeper has answered the last request of a connection.
    pub(super) fn told(&self, conn: u32) -> bool {
        self.notes().told.contains(&conn)
    }

    pub(super) fn stay(&self, conn: u32) {
        self.notes().stays.insert(conn);
    }

    pub(super) fn stays(&self, conn: u32) -> bool {
        self.notes().stays.contains(&conn)
    }

    pub(super) fn touch(&self, conn: u32) {
        self.notes().touched.push(conn);
    }

    pub(super) fn take_touched(&self) -> Vec<u32> {
        std::mem::take(&mut self.notes().touched)
    }

    pub(super) fn has_read(&self, conn: u32, n: usize) {
        *self.notes().read.entry(conn).or_default() += n as u64;
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The drain of one worker, as its handlers and its loop see it.
#[derive(Debug)]
pub(super) struct DrainState {
    monitor: Arc<Monitor>,
    drain: Mutex<Option<(Drain, PolicyId)>>,
    wakers: Mutex<BTreeMap<usize, Waker>>,
}

impl DrainState {
    pub(super) fn new(monitor: Arc<Monitor>) -> Self {
        Self { monitor, drain: Mutex::default(), wakers: Mutex::default() }
    }

    /// As in a worker's `Watch`: a lame duck serves as usual and has none yet.
    pub(super) fn current(&self) -> Option<(Drain, PolicyId)> {
        self.entered().filter(|(drain, _)| drain.phase >= Phase::Draining)
    }

    fn entered(&self) -> Option<(Drain, PolicyId)> {
        *self.drain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters `drain`, or joins it into the one under way; whether that changed anything.
    pub(super) fn enter(&self, drain: Drain, policy: PolicyId) -> bool {
        let mut current = self.drain.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *current;
        match &mut *current {
            Some((under_way, of)) => {
                // A lame duck has not begun to drain: the drain's own policy decides.
                if under_way.phase < Phase::Draining && drain.phase >= Phase::Draining {
                    *of = policy;
                }
                under_way.merge(drain);
            }
            none => *none = Some((drain, policy)),
        }
        let changed = before != *current;
        drop(current);
        let wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let wakers: Vec<_> = wakers.values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
        changed
    }
}

impl DrainWatch for DrainState {
    fn drain(&self) -> Option<Drain> {
        self.entered().map(|(drain, _)| drain)
    }

    fn wait(&self, _: Duration) -> bool {
        self.current().is_some()
    }

    fn register(&self, waker: &Waker, place: Option<usize>) -> usize {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let place = place.unwrap_or_else(|| wakers.last_key_value().map_or(0, |(last, _)| last + 1));
        wakers.insert(place, waker.clone());
        place
    }

    fn deregister(&self, place: usize) {
        let waker = self.wakers.lock().unwrap_or_else(PoisonError::into_inner).remove(&place);
        drop(waker);
    }

    fn now(&self) -> Time {
        self.monitor.now()
    }
}

/// The alarms of one worker's loop.
#[derive(Debug, Default)]
pub(super) struct Timers(Mutex<Set>);

/// The last number given, and the alarms by when they are due and by number.
type Set = (u64, BTreeMap<(Time, u64), Waker>);

impl Timers {
    pub(super) fn set(&self, at: Time, waker: &Waker) -> (Time, u64) {
        let mut timers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        timers.0 += 1;
        let key = (at, timers.0);
        timers.1.insert(key, waker.clone());
        key
    }

    pub(super) fn forget(&self, key: (Time, u64)) {
        let waker = self.0.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&key);
        drop(waker);
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let timers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        timers.1.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn fire(&self, now: Time) {
        while self.deadline().is_some_and(|at| at <= now) {
            let first = self.0.lock().unwrap_or_else(PoisonError::into_inner).1.pop_first();
            first.into_iter().for_each(|(_, waker)| waker.wake());
        }
    }
}
