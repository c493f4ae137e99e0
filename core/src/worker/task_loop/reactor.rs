//! What wakes the worker's own task: one epoll instance, which the runtime watches as a single descriptor.
//!
//! In it are the orders, the signals, the inbox, a timer for all alarms of the thread, and the sockets of runtimes that
//! know less of a socket than epoll(7) does. All are registered for edges: what happens is told once, an end too, and
//! waiting again costs no system call.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use slab::Slab;

use super::{Runtime, Stream};
use crate::machine::{Interest, Transport, Wants};
use crate::pump::Readiness;
use crate::time::Time;
use crate::worker::{Socket, alarm, sys};

/// What the epoll set calls orders and signals, the inbox and the timer; it calls sockets by their numbers.
const CONTROL: u64 = u64::MAX;
const INBOX: u64 = u64::MAX - 1;
const TIMER: u64 = u64::MAX - 2;

/// Events taken in one call.
const EVENTS: usize = 1024;

/// The worker's view of all that it does not do itself.
pub struct Lookout {
    sockets: Arc<Sockets>,
    timer: OwnedFd,
    /// When the timer goes off.
    armed: Option<Time>,
    told: bool,
    knocked: bool,
    events: Vec<epoll::Event>,
    /// The runtime's word that there are events.
    readable: Box<Readable>,
}

type Readable = dyn FnMut(&mut Context<'_>) -> Poll<io::Result<()>>;

impl Lookout {
    /// For the worker whose orders and signals come from `control`, and connections of others from `inbox`.
    pub(super) fn new(
        runtime: &impl Runtime,
        control: [BorrowedFd<'_>; 2],
        inbox: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let sources = control.map(|source| (source, CONTROL)).into_iter();
        let sources = sources.chain(inbox.map(|source| (source, INBOX)));
        for (source, token) in sources.chain([(timer.as_fd(), TIMER)]) {
            epoll::add(&epoll, source, EventData::new_u64(token), EventFlags::IN | EventFlags::ET)?;
        }
        let readable = Box::new(runtime.readable(epoll.try_clone()?)?);
        Ok(Self {
            sockets: Arc::new(Sockets { epoll, known: Mutex::default() }),
            timer,
            armed: None,
            told: false,
            knocked: false,
            events: Vec::with_capacity(EVENTS),
            readable,
        })
    }

    /// Waits for `future` alone, with the alarms of this thread.
    pub(super) async fn during<T>(&mut self, future: impl Future<Output = T>) -> io::Result<T> {
        let mut future = pin!(future);
        poll_fn(|task| {
            self.look(task)?;
            let polled = future.as_mut().poll(task);
            self.wake_by(Time::MAX, sys::now(), task)?;
            polled.map(Ok)
        })
        .await
    }

    /// Takes in what happened, has `task` woken when more does, and rings the alarms that are due.
    pub(super) fn look(&mut self, task: &mut Context<'_>) -> io::Result<()> {
        while let Poll::Ready(readable) = (self.readable)(task) {
            readable?;
            self.take_in()?;
        }
        alarm::ring(sys::now());
        Ok(())
    }

    /// Takes in what happened so far, of which the runtime may be late to tell.
    pub(super) fn take_in(&mut self) -> io::Result<()> {
        while self.take_events()? == EVENTS {}
        Ok(())
    }

    /// Has `task` woken at `at` or before, and for the next alarm. A timer that goes off sooner is left as it is.
    pub(super) fn wake_by(&mut self, at: Time, now: Time, task: &Context<'_>) -> io::Result<()> {
        let at = alarm::deadline().map_or(at, |next| next.min(at));
        let armed = self.armed.filter(|armed| *armed <= at);
        if at <= now {
            task.waker().wake_by_ref();
        } else if armed.is_none() && at < Time::MAX {
            let value = Itimerspec {
                it_interval: Timespec::default(),
                it_value: at.since(Time::ZERO).try_into().unwrap_or_default(),
            };
            timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value)?;
            self.armed = Some(at);
        }
        alarm::on_sooner(self.armed.unwrap_or(Time::MAX), task.waker());
        Ok(())
    }

    /// Whether an order or a signal may have come since it was last asked.
    pub(super) fn told(&mut self) -> bool {
        mem::take(&mut self.told)
    }

    /// Whether a connection may have been handed over since it was last asked.
    pub(super) fn knocked(&mut self) -> bool {
        mem::take(&mut self.knocked)
    }

    fn take_events(&mut self) -> io::Result<usize> {
        let now = Timespec::default();
        match epoll::wait(&self.sockets.epoll, spare_capacity(&mut self.events), Some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let taken = self.events.len();
        for event in self.events.drain(..) {
            match event.data.u64() {
                CONTROL => self.told = true,
                INBOX => self.knocked = true,
                TIMER => self.armed = None,
                number => self.sockets.report(number as usize, readiness(event.flags)),
            }
        }
        Ok(taken)
    }
}

impl fmt::Debug for Lookout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookout").field("sockets", &self.sockets).field("armed", &self.armed).finish()
    }
}

/// A connected socket that a [`Lookout`] watches, for runtimes that do not tell when a peer is gone while nobody reads,
/// or that arm a socket anew for every wait.
#[derive(Debug)]
pub struct Watched {
    socket: Socket,
    number: usize,
    sockets: Arc<Sockets>,
}

impl Watched {
    /// Has `lookout` watch `socket`.
    ///
    /// # Errors
    ///
    /// As epoll_ctl(2).
    pub fn new(socket: OwnedFd, lookout: &Lookout) -> io::Result<Self> {
        let sockets = lookout.sockets.clone();
        let number = sockets.known().insert(Known::default());
        // Made first, so that an error takes the number back.
        let watched = Self { socket: Socket::new(socket), number, sockets };
        let all = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&watched.sockets.epoll, &watched.socket, EventData::new_u64(number as u64), all)?;
        Ok(watched)
    }
}

impl Drop for Watched {
    /// Another process may hold the same socket, so that closing it would not end the registration.
    fn drop(&mut self) {
        // One that could not be registered is not registered.
        let _ = epoll::delete(&self.sockets.epoll, &self.socket);
        let known = self.sockets.known().try_remove(self.number);
        drop(known);
    }
}

impl Stream for Watched {
    fn poll_ready(&self, _: Interest, task: &mut Context<'_>) -> Poll<()> {
        let mut known = self.sockets.known();
        let known = &mut known[self.number];
        if known.readiness != Readiness::default() {
            return Poll::Ready(());
        }
        known.task = Some(task.waker().clone());
        Poll::Pending
    }

    fn readiness(&self) -> Readiness {
        mem::take(&mut self.sockets.known()[self.number].readiness)
    }
}

impl Transport for Watched {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.try_read(buffer)
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.try_write(slices)
    }

    fn close_write(&mut self) -> io::Result<()> {
        self.socket.close_write()
    }

    fn wants(&self, interest: Interest) -> Wants {
        self.socket.wants(interest)
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// All sockets that are watched, by number.
#[derive(Debug)]
struct Sockets {
    epoll: OwnedFd,
    known: Mutex<Slab<Known>>,
}

/// What has been reported of a socket and not been asked for, and who waits for more.
#[derive(Debug, Default)]
struct Known {
    readiness: Readiness,
    task: Option<Waker>,
}

impl Sockets {
    fn report(&self, number: usize, readiness: Readiness) {
        let task = self.known().get_mut(number).and_then(|known| {
            known.readiness.merge(readiness);
            known.task.take()
        });
        // Woken with the lock free.
        task.into_iter().for_each(Waker::wake);
    }

    fn known(&self) -> MutexGuard<'_, Slab<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn readiness(flags: EventFlags) -> Readiness {
    let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
    Readiness {
        readable: broken || flags.intersects(EventFlags::IN | EventFlags::RDHUP),
        writable: broken || flags.contains(EventFlags::OUT),
        read_closed: flags.intersects(EventFlags::RDHUP | EventFlags::HUP),
        broken,
    }
}

#[cfg(test)]
#[path = "reactor/tests.rs"]
mod tests;
