//! The state of a worker's drain.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use rustix::event::{EventfdFlags, eventfd};
use slab::Slab;

use super::completion::BacklogState;
use crate::app::Holds;
use crate::order::PolicyId;
use crate::shutdown::{Drain, Phase};

/// The drain under way, if there is one, and the parts of the worker that wait for it or delay it.
///
/// Its descriptor becomes readable when a drain begins, and stays so: it is never read, and a poll
/// set drops it after the first report.
#[derive(Debug)]
pub(in crate::worker) struct DrainState {
    drain: Mutex<Option<(Drain, PolicyId)>>,
    /// The drain's [`Phase`], so that the lock is not taken while there is no drain.
    phase: AtomicU8,
    /// A [`BacklogState`], which only ever advances.
    backlog: AtomicU8,
    descriptor: OwnedFd,
    /// Of the futures that wait for the drain.
    wakers: Mutex<Slab<Waker>>,
    /// Tasks of the application that keep the worker from ending.
    holds: Arc<Holds>,
}

impl DrainState {
    /// No drain yet.
    ///
    /// # Errors
    ///
    /// As eventfd(2).
    pub(in crate::worker) fn new() -> io::Result<Self> {
        Ok(Self {
            drain: Mutex::new(None),
            phase: AtomicU8::new(Phase::Running as u8),
            backlog: AtomicU8::new(BacklogState::Empty as u8),
            descriptor: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            wakers: Mutex::new(Slab::new()),
            holds: Holds::new(),
        })
    }

    /// The drain and its policy, if it has begun. A lame duck serves as before: its drain has not.
    #[inline]
    pub(in crate::worker) fn current(&self) -> Option<(Drain, PolicyId)> {
        self.has_begun().then(|| *self.lock()).flatten()
    }

    /// The drain, also a lame duck's, which has not begun.
    pub(in crate::worker) fn announced(&self) -> Option<Drain> {
        let is_told = self.has_come_to(Phase::Lameduck);
        is_told.then(|| self.lock().map(|(drain, _)| drain)).flatten()
    }

    /// Wakes `waker` when a drain begins or changes. `place` is the result of an earlier call, if
    /// there was one.
    pub(in crate::worker) fn register(&self, waker: &Waker, place: Option<usize>) -> usize {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        match place.and_then(|place| wakers.get_mut(place).map(|known| (place, known))) {
            Some((place, known)) => {
                known.clone_from(waker);
                place
            }
            None => wakers.insert(waker.clone()),
        }
    }

    /// Forgets the waker that was registered at `place`.
    pub(in crate::worker) fn deregister(&self, place: usize) {
        let waker = self.wakers.lock().unwrap_or_else(PoisonError::into_inner).try_remove(place);
        // Dropped after the lock is released: it may be the last owner of a task that itself waits
        // here.
        drop(waker);
    }

    /// Whether a drain has begun, as far as orders have been read.
    #[inline]
    pub(in crate::worker) fn has_begun(&self) -> bool {
        self.has_come_to(Phase::Draining)
    }

    /// Tasks of the application that keep the worker from ending.
    pub(in crate::worker) fn holds(&self) -> Arc<Holds> {
        self.holds.clone()
    }

    /// The worker has an inbox, so a stop may bring connections.
    pub(in crate::worker) fn expect_backlog(&self) {
        self.backlog.store(BacklogState::Unknown as u8, Ordering::Release);
    }

    /// The arbiter stops the server: connections may come through the inbox.
    pub(in crate::worker) fn backlog_comes(&self) {
        self.backlog.fetch_max(BacklogState::Coming as u8, Ordering::AcqRel);
    }

    /// The last connection has been put into the inbox.
    pub(in crate::worker) fn backlog_ends(&self) {
        self.backlog.fetch_max(BacklogState::Ended as u8, Ordering::AcqRel);
    }

    /// Whether the inbox may bring connections that no other worker would take.
    pub(in crate::worker) fn backlog_is_due(&self) -> bool {
        self.backlog() >= BacklogState::Coming
    }

    /// Whether the inbox holds the last connections, and has not been found empty since.
    pub(in crate::worker) fn backlog_has_ended(&self) -> bool {
        self.backlog() == BacklogState::Ended
    }

    /// The inbox was found empty after the backlog had ended.
    pub(in crate::worker) fn backlog_is_empty(&self) {
        self.backlog.fetch_max(BacklogState::Empty as u8, Ordering::AcqRel);
    }

    fn has_come_to(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Acquire) >= phase as u8
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Drain, PolicyId)>> {
        self.drain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::worker) fn backlog(&self) -> BacklogState {
        const ALL: [BacklogState; 4] =
            [BacklogState::Unknown, BacklogState::Coming, BacklogState::Ended, BacklogState::Empty];
        ALL[usize::from(self.backlog.load(Ordering::Acquire))]
    }

    /// Enters `drain`, or merges it into the drain under way. Returns the drain that results, if it
    /// changed.
    pub(in crate::worker) fn enter(&self, drain: Drain, policy: PolicyId) -> Option<Drain> {
        let mut current = self.lock();
        let entered = match &mut *current {
            Some((under_way, of)) => {
                let before = *under_way;
                // A lame duck has not begun to drain. A worker that is recycled or reloaded meanwhile
                // drains by the policy of that, and not by the policy of the stop to come.
                if before.phase < Phase::Draining && drain.phase >= Phase::Draining {
                    *of = policy;
                }
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
            return entered; // a lame duck serves as before
        }
        // Adding one to an eventfd does not fail before 2^64 additions.
        let _ = rustix::io::write(&self.descriptor, &1_u64.to_ne_bytes());
        let wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let wakers: Vec<_> = wakers.iter().map(|(_, waker)| waker.clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
        entered
    }
}

impl AsFd for DrainState {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
