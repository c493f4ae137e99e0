//! The drain as all threads of a worker see it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};

use super::orders::OrderReader;
use crate::app::{Counters, DrainWatch, Holds};
use crate::order::PolicyId;
use crate::shutdown::Drain;
use crate::time::Time;
use crate::worker::drain::{DrainState, completion};
use crate::worker::exit::Exit;
use crate::worker::sys;

/// The worker's drain, to be asked and waited for from any thread.
///
/// As a descriptor it is readable from the beginning of a drain on. On single-threaded workers it
/// is instead readable while an order or signal waits to be read, and asking for the drain reads
/// them.
#[derive(Debug)]
pub struct Watch {
    state: DrainState,
    /// Set on single-threaded workers (sync) only. Orders and signals are then read by whichever
    /// call asks about the drain, because the loop cannot read them while a handler runs.
    source: OnceLock<OrderSource>,
}

/// What a single-threaded worker reads orders and signals from.
#[derive(Debug)]
struct OrderSource {
    reader: Arc<OrderReader>,
    /// An epoll instance that is readable while an order or signal waits to be read.
    descriptor: OwnedFd,
    /// When they were last read, in nanoseconds of [`Time`].
    last_read: AtomicU64,
}

/// How often calls that ask about the drain read orders and signals: a read costs two system calls,
/// and a drain has to begin within 50 ms (D2).
const READ_EVERY: Duration = Duration::from_millis(5);

impl Watch {
    /// No drain yet.
    ///
    /// # Errors
    ///
    /// As eventfd(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self { state: DrainState::new()?, source: OnceLock::new() })
    }

    /// The drain and its policy, if it has begun. A lame duck serves as before: its drain has not.
    #[inline]
    pub fn current(&self) -> Option<(Drain, PolicyId)> {
        if !self.state.has_begun() && self.source.get().is_none() {
            return None;
        }
        self.read_and_look()
    }

    /// What [`current`](Self::current) does once a drain has begun, or if this call reads the
    /// orders.
    #[cold]
    fn read_and_look(&self) -> Option<(Drain, PolicyId)> {
        if let Some(source) = self.source.get() {
            let now = sys::now();
            if now >= Time::from_nanos(source.last_read.load(Ordering::Relaxed)) + READ_EVERY {
                self.read_orders(now);
            }
        }
        self.state.current()
    }

    /// From now on, calls that ask about the drain read orders and signals with `reader`.
    pub(super) fn read_from(&self, reader: Arc<OrderReader>) -> io::Result<()> {
        let descriptor = epoll::create(CreateFlags::CLOEXEC)?;
        for source in reader.sources() {
            epoll::add(&descriptor, source, EventData::new_u64(0), EventFlags::IN)?;
        }
        self.source.get_or_init(|| OrderSource { reader, descriptor, last_read: AtomicU64::new(0) });
        Ok(())
    }

    /// Reads the orders and signals that have made the descriptor readable, on single-threaded
    /// workers; elsewhere the loop does.
    pub(in crate::worker) fn read_orders(&self, now: Time) {
        if let Some(OrderSource { reader, last_read, .. }) = self.source.get() {
            last_read.store(now.as_nanos(), Ordering::Relaxed);
            reader.read(&self.state, now);
        }
    }

    /// What is known of the drain, without reading orders.
    pub(in crate::worker) fn state(&self) -> &DrainState {
        &self.state
    }

    /// The exit of the worker, once it may exit: none of its `open` connections is left (D9) and
    /// none can come (D4), or the deadline has passed and only handlers that do not return still
    /// hold connections (D10).
    pub fn exit(&self, open: usize, counters: &Counters, now: Time) -> Option<Exit> {
        let (drain, _) = self.current()?;
        completion::exit(&drain, self.state.backlog(), open, counters.cut.get(), now)
    }

    /// When [`exit`](Self::exit) should be asked again if nothing happens before.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let (drain, _) = self.current()?;
        Some(completion::ask_again(&drain, self.state.backlog(), now))
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.get().map_or_else(|| self.state.as_fd(), |source| source.descriptor.as_fd())
    }
}

impl DrainWatch for Watch {
    fn drain(&self) -> Option<Drain> {
        self.current(); // reads orders, where this call has to
        self.state.announced()
    }

    fn register(&self, waker: &Waker, place: Option<usize>) -> usize {
        self.state.register(waker, place)
    }

    fn deregister(&self, place: usize) {
        self.state.deregister(place);
    }

    fn holds(&self) -> Option<Arc<Holds>> {
        Some(self.state.holds())
    }

    fn now(&self) -> Time {
        sys::now()
    }

    fn wait(&self, timeout: Duration) -> bool {
        let until = sys::now() + timeout;
        loop {
            let now = sys::now();
            self.read_orders(now);
            if self.state.has_begun() {
                return true;
            }
            let left = until - now;
            if left.is_zero() {
                return false;
            }
            let mut fds = [PollFd::new(self, PollFlags::IN)];
            // An interrupted poll(2) is repeated with the time that is left.
            let _ = poll(&mut fds, Some(&left.try_into().unwrap_or_default()));
        }
    }
}

#[cfg(test)]
mod tests;
