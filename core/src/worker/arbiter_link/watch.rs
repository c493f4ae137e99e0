//! The drain as all threads of a worker see it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use slab::Slab;

use super::control::Ear;
use super::leave::{self, Backlog};
use super::{Exit, sys};
use crate::app::{Counters, DrainWatch};
use crate::order::PolicyId;
use crate::shutdown::{Drain, Phase};
use crate::time::Time;

/// The drain under way, with a descriptor that becomes readable when it begins and stays so: it is never read, and
/// dropped from a poll set once seen.
///
/// Where a worker has one thread, the descriptor is readable when there is something to hear, and asking
/// for the drain listens.
#[derive(Debug)]
pub struct Watch {
    drain: Mutex<Option<(Drain, PolicyId)>>,
    /// The drain's [`Phase`], which spares the lock while there is none.
    phase: AtomicU8,
    /// What whoever asks listens to, where nobody else does.
    ear: OnceLock<Listening>,
    /// A [`Backlog`]; it only ever grows.
    backlog: AtomicU8,
    descriptor: OwnedFd,
    /// Futures that wait for the drain.
    wakers: Mutex<Slab<Waker>>,
}

/// For a worker with one thread: orders and signals, and a descriptor that is readable when there are any.
#[derive(Debug)]
struct Listening {
    ear: Arc<Ear>,
    descriptor: OwnedFd,
    /// When they were last looked at, in nanoseconds.
    last: AtomicU64,
}

/// How long what has arrived may lie there while somebody asks about the drain over and over: looking costs two system
/// calls, and a drain begins within 50 ms (D2).
const LISTEN_EVERY: Duration = Duration::from_millis(5);

impl Watch {
    /// No drain yet.
    ///
    /// # Errors
    ///
    /// As eventfd(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            drain: Mutex::new(None),
            phase: AtomicU8::new(Phase::Running as u8),
            ear: OnceLock::new(),
            backlog: AtomicU8::new(Backlog::Empty as u8),
            descriptor: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            wakers: Mutex::new(Slab::new()),
        })
    }

    /// The drain and its policy, if there is one. A lame duck serves as usual and has none yet.
    #[inline]
    pub fn current(&self) -> Option<(Drain, PolicyId)> {
        if !self.has_begun() && self.ear.get().is_none() {
            return None;
        }
        self.look()
    }

    /// The drain, once there may be one.
    #[cold]
    fn look(&self) -> Option<(Drain, PolicyId)> {
        if let Some(listening) = self.ear.get() {
            let now = sys::now();
            if now >= Time::from_nanos(listening.last.load(Ordering::Relaxed)) + LISTEN_EVERY {
                self.hear(now);
            }
        }
        self.has_begun().then(|| *self.lock()).flatten()
    }

    /// Lets whoever asks about the drain hear what `ear` has to say.
    pub(super) fn listen(&self, ear: Arc<Ear>) -> io::Result<()> {
        let descriptor = epoll::create(CreateFlags::CLOEXEC)?;
        for source in ear.sources() {
            epoll::add(&descriptor, source, EventData::new_u64(0), EventFlags::IN)?;
        }
        self.ear.get_or_init(|| Listening { ear, descriptor, last: AtomicU64::new(0) });
        Ok(())
    }

    /// The descriptor has become readable: takes in what that is about, unless somebody else listens.
    pub(super) fn hear(&self, now: Time) {
        if let Some(Listening { ear, last, .. }) = self.ear.get() {
            last.store(now.as_nanos(), Ordering::Relaxed);
            ear.listen(self, now);
        }
    }

    /// Whether there is a drain, as far as anybody has heard.
    #[inline]
    pub(super) fn has_begun(&self) -> bool {
        self.has_come_to(Phase::Draining)
    }

    /// What to exit with, once the worker may: nothing of its `open` connections is left (D9) and none can come (D4), or
    /// the deadline has left it only what handlers do not give back (D10).
    pub fn exit(&self, open: usize, counters: &Counters, now: Time) -> Option<Exit> {
        let (drain, _) = self.current()?;
        leave::exit(&drain, self.backlog(), open, counters.cut.get(), now)
    }

    /// When [`exit`](Self::exit) should be asked again if nothing happens before.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let (drain, _) = self.current()?;
        Some(leave::ask_again(&drain, self.backlog(), now))
    }

    /// There is an inbox, so a stop may bring connections.
    pub(super) fn expect_backlog(&self) {
        self.backlog.store(Backlog::Unknown as u8, Ordering::Release);
    }

    /// The arbiter stops the server.
    pub(super) fn backlog_comes(&self) {
        self.backlog.fetch_max(Backlog::Coming as u8, Ordering::AcqRel);
    }

    /// Nothing more is put into the inbox.
    pub(super) fn backlog_ends(&self) {
        self.backlog.fetch_max(Backlog::Ended as u8, Ordering::AcqRel);
    }

    /// Whether the inbox brings what nobody else would take.
    pub(super) fn backlog_is_due(&self) -> bool {
        self.backlog() >= Backlog::Coming
    }

    /// Whether what the inbox holds now is all there will be, and it has not been seen empty since.
    pub(super) fn backlog_has_ended(&self) -> bool {
        self.backlog() == Backlog::Ended
    }

    /// The inbox was seen empty after the backlog had ended.
    pub(super) fn backlog_is_empty(&self) {
        self.backlog.fetch_max(Backlog::Empty as u8, Ordering::AcqRel);
    }

    fn has_come_to(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Acquire) >= phase as u8
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Drain, PolicyId)>> {
        self.drain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn backlog(&self) -> Backlog {
        const ALL: [Backlog; 4] = [Backlog::Unknown, Backlog::Coming, Backlog::Ended, Backlog::Empty];
        ALL[usize::from(self.backlog.load(Ordering::Acquire))]
    }

    /// Enters `drain` or joins it into the one under way; the drain after that, if anything changed.
    pub(super) fn enter(&self, drain: Drain, policy: PolicyId) -> Option<Drain> {
        let mut current = self.lock();
        let entered = match &mut *current {
            Some((under_way, _)) => {
                let before = *under_way;
                under_way.merge(drain);
                (*under_way != before).then_some(*under_way)
            }
            none => {
                *none = Some((drain, policy));
                Some(drain)
            }
        };
        let phase = current.map_or(Phase::Running, |(drain, _)| drain.phase);
        self.phase.store(phase as u8, Ordering::Release);
        drop(current);
        if phase < Phase::Draining {
            return entered; // nobody has to do anything yet
        }
        // An eventfd takes a one at any time; there is nothing to do about a kernel that says otherwise.
        let _ = rustix::io::write(&self.descriptor, &1_u64.to_ne_bytes());
        let wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let wakers: Vec<_> = wakers.iter().map(|(_, waker)| waker.clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
        entered
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ear.get().map_or(&self.descriptor, |listening| &listening.descriptor).as_fd()
    }
}

impl DrainWatch for Watch {
    fn drain(&self) -> Option<Drain> {
        self.current(); // which hears what there is to hear
        let is_told = self.has_come_to(Phase::Lameduck);
        is_told.then(|| self.lock().map(|(drain, _)| drain)).flatten()
    }

    fn register(&self, waker: &Waker, place: Option<usize>) -> usize {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        match place.and_then(|place| wakers.get_mut(place).map(|known| (place, known))) {
            Some((place, known)) => {
                known.clone_from(waker);
                place
            }
            None => wakers.insert(waker.clone()),
        }
    }

    fn deregister(&self, place: usize) {
        let waker = self.wakers.lock().unwrap_or_else(PoisonError::into_inner).try_remove(place);
        // Dropped with the lock free: it may be the last owner of a task that itself waits here.
        drop(waker);
    }

    fn now(&self) -> Time {
        sys::now()
    }

    fn wait(&self, timeout: Duration) -> bool {
        let until = sys::now() + timeout;
        loop {
            let now = sys::now();
            self.hear(now);
            if self.has_begun() {
                return true;
            }
            let left = until - now;
            if left.is_zero() {
                return false;
            }
            let mut fds = [PollFd::new(self, PollFlags::IN)];
            // An interrupted poll(2) comes round again with what is left of the time.
            let _ = poll(&mut fds, Some(&left.try_into().unwrap_or_default()));
        }
    }
}

#[cfg(test)]
#[path = "watch/tests.rs"]
mod tests;
