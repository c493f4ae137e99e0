//! A plain epoll(7) instance to wait with: what sync and threaded have, which need nothing else of a library.
//!
//! Not poll(2), because listeners are accepted in turn by `EPOLLEXCLUSIVE` (see [`Acceptor`](super::Acceptor)), and an
//! epoll instance inside a poll(2) set is not exclusive: each connection wakes every idle worker, and whoever is first
//! has it. Of 1,000 keep-alive connections with a request each, the busiest of four processes had 1.39 to 1.72 times its
//! share with poll(2), and 1.00 times with epoll_wait(2).

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::poll_loop::Waiter;
use crate::machine::Interest;
use crate::pump::Readiness;

/// An epoll instance, and nothing in it at first.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// As epoll_create1(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// What [`Waiter::wait`] does, which needs no more than this.
    pub(super) fn take(&self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        events.0.clear();
        // A time that does not fit is for ever.
        let timeout = Timespec::try_from(timeout).ok();
        match epoll::wait(&self.0, spare_capacity(&mut events.0), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reports nothing more of `source`.
    pub fn deregister(&self, source: BorrowedFd<'_>) {
        // Not being registered is as good as no longer being registered.
        let _ = epoll::delete(&self.0, source);
    }
}

/// What one wait has reported, at most so much at a time.
pub struct Events(Vec<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(Vec::with_capacity(1024))
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("len", &self.0.len()).finish()
    }
}

impl Waiter for Epoll {
    type Events = Events;

    fn register(&self, source: BorrowedFd<'_>, number: u64, interest: Interest) -> io::Result<()> {
        let mut flags = EventFlags::ET | EventFlags::RDHUP;
        flags.set(EventFlags::IN, interest.read);
        flags.set(EventFlags::OUT, interest.write);
        Ok(epoll::add(&self.0, source, EventData::new_u64(number), flags)?)
    }

    fn waker(&self, number: u64) -> io::Result<Waker> {
        let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        self.register(counter.as_fd(), number, Interest { read: true, write: false })?;
        Ok(Waker::from(Arc::new(Counter(counter))))
    }

    fn epoll(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    fn wait(&mut self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        self.take(events, timeout)
    }

    fn reported(events: &Events) -> impl Iterator<Item = (u64, Readiness)> {
        events.0.iter().map(|event| (event.data.u64(), readiness(event.flags)))
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Ends a wait. Every write is a change, so that nobody has to read it.
struct Counter(OwnedFd);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // It takes 2^64 wakes before there is no room for one.
        if let Err(error) = rustix::io::write(&self.0, &1_u64.to_ne_bytes()) {
            tracing::error!("cannot wake the loop: {error}");
        }
    }
}

fn readiness(got: EventFlags) -> Readiness {
    let broken = got.intersects(EventFlags::ERR | EventFlags::HUP);
    let read_closed = got.intersects(EventFlags::RDHUP | EventFlags::HUP);
    Readiness {
        readable: got.contains(EventFlags::IN) || read_closed || broken,
        writable: got.contains(EventFlags::OUT) || broken,
        read_closed,
        broken,
    }
}

#[cfg(test)]
#[path = "epoll/tests.rs"]
mod tests;
