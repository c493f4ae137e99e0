//! A plain epoll(7) instance, the waiter of sync and threaded.
//!
//! Why not poll(2): workers accept in turn by `EPOLLEXCLUSIVE` (see
//! [`Acceptor`](crate::worker::Acceptor)), and an epoll instance inside a poll(2) set is not
//! exclusive. Each connection would wake every idle worker, and the fastest would take it. Of 1,000
//! keep-alive connections with a request each, the busiest of four processes had 1.39 to 1.72 times
//! its share with poll(2), and 1.00 times with epoll_wait(2).

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

use super::Waiter;
use crate::machine::Interest;
use crate::pump::Readiness;

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty instance.
    ///
    /// # Errors
    ///
    /// As epoll_create1(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// [`Waiter::wait`] on a shared reference.
    pub(in crate::worker) fn take(&self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        events.0.clear();
        // A timeout too long for the type is unlimited.
        let mut timeout = Timespec::try_from(timeout).ok();
        loop {
            match epoll::wait(&self.0, spare_capacity(&mut events.0), timeout.as_ref()) {
                Ok(_) => return Ok(()),
                // A wait interrupted by a signal or by SIGCONT (signal(7)) may have missed events:
                // look once more without waiting.
                Err(Errno::INTR) => timeout = Some(Timespec::default()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends the reports about `source`.
    pub fn deregister(&self, source: BorrowedFd<'_>) {
        // The only failure is that it is not registered, which is the intended state.
        let _ = epoll::delete(&self.0, source);
    }
}

/// The reports of one wait, at most 1,024.
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
        Ok(Waker::from(Arc::new(EventfdWaker(counter))))
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

/// Ends a wait from any thread. Each write is a new edge, so the counter is never read.
struct EventfdWaker(OwnedFd);

impl Wake for EventfdWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The counter is full only after 2^64 wakes.
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
mod tests;
