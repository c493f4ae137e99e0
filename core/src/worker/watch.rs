//! The drain as all threads of a worker see it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use slab::Slab;

use super::Exit;
use super::sys::{self, EXIT_MARGIN};
use crate::app::{Counters, DrainWatch};
use crate::order::PolicyId;
use crate::shutdown::Drain;
use crate::time::Time;

/// The drain under way, with a descriptor that becomes readable when it begins and stays so: it is never read, and
/// dropped from a poll set once seen.
#[derive(Debug)]
pub struct Watch {
    drain: Mutex<Option<(Drain, PolicyId)>>,
    /// Spares the lock while there is no drain.
    begun: AtomicBool,
    descriptor: OwnedFd,
    /// Futures that wait for the drain.
    wakers: Mutex<Slab<Waker>>,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            drain: Mutex::new(None),
            begun: AtomicBool::new(false),
            descriptor: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            wakers: Mutex::new(Slab::new()),
        })
    }

    /// The drain and its policy, if there is one.
    pub fn current(&self) -> Option<(Drain, PolicyId)> {
        if !self.begun.load(Ordering::Acquire) {
            return None;
        }
        *self.drain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to exit with, once the worker may: nothing of its `open` connections is left (D9), or the deadline has
    /// left it only what handlers do not give back (D10).
    pub fn exit(&self, open: usize, counters: &Counters, now: Time) -> Option<Exit> {
        let (drain, _) = self.current()?;
        match (open, counters.cut.get()) {
            (0, 0) => Some(Exit::Clean),
            (0, _) => Some(Exit::CutOff),
            _ => (now >= drain.deadline + EXIT_MARGIN).then_some(Exit::CutOff),
        }
    }

    /// When [`exit`](Self::exit) should be asked again if nothing happens before.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let (drain, _) = self.current()?;
        Some(if now < drain.deadline { drain.deadline } else { drain.deadline + EXIT_MARGIN })
    }

    /// Enters `drain` or joins it into the one under way; the drain after that, if anything changed.
    pub(super) fn enter(&self, drain: Drain, policy: PolicyId) -> Option<Drain> {
        let mut current = self.drain.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.begun.store(true, Ordering::Release);
        drop(current);
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
        self.descriptor.as_fd()
    }
}

impl DrainWatch for Watch {
    fn drain(&self) -> Option<Drain> {
        self.current().map(|(drain, _)| drain)
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
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).try_remove(place);
    }

    fn wait(&self, timeout: Duration) -> bool {
        let until = sys::now() + timeout;
        loop {
            if self.begun.load(Ordering::Acquire) {
                return true;
            }
            let left = until - sys::now();
            if left.is_zero() {
                return false;
            }
            let mut fds = [PollFd::new(&self.descriptor, PollFlags::IN)];
            // An interrupted poll(2) comes round again with what is left of the time.
            let _ = poll(&mut fds, Some(&left.try_into().unwrap_or_default()));
        }
    }
}
