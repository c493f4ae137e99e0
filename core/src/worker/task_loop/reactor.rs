//! The reactor: one epoll instance, which the runtime watches as a single descriptor, and which
//! wakes the worker's own task.
//!
//! It contains the orders, the signals, the inbox, a timer for all alarms of the thread, and the
//! sockets of runtimes that report less about a socket than epoll(7). All are edge-triggered: each
//! change, including a close, is reported once, and waiting again costs no system call.

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
use crate::worker::socket::Socket;
use crate::worker::{alarm, sys};

/// The tokens of orders and signals, of the inbox and of the timer in the epoll set. The token of a
/// socket is its number.
const CONTROL: u64 = u64::MAX;
const INBOX: u64 = u64::MAX - 1;
const TIMER: u64 = u64::MAX - 2;

/// Events taken in one call.
const EVENTS: usize = 1024;

/// An epoll instance with its sockets, its timer, and the reports that the loop has not taken yet.
pub struct Reactor {
    set: Arc<PollSet>,
    timer: OwnedFd,
    /// When the timer expires, if it is set.
    armed: Option<Time>,
    has_orders: bool,
    has_arrivals: bool,
    events: Vec<epoll::Event>,
    /// Ready when the epoll instance has events.
    readable: Box<Readable>,
}

type Readable = dyn FnMut(&mut Context<'_>) -> Poll<io::Result<()>>;

impl Reactor {
    /// A reactor for a worker with these descriptors for orders and signals, and for its `inbox`.
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
            set: Arc::new(PollSet { epoll, sockets: Mutex::default() }),
            timer,
            armed: None,
            has_orders: false,
            has_arrivals: false,
            events: Vec::with_capacity(EVENTS),
            readable,
        })
    }

    /// Runs `future` to its end, and drives the alarms of this thread meanwhile.
    pub(super) async fn run<T>(&mut self, future: impl Future<Output = T>) -> io::Result<T> {
        let mut future = pin!(future);
        poll_fn(|task| {
            self.process(task)?;
            let polled = future.as_mut().poll(task);
            self.wake_by(Time::MAX, sys::now(), task)?;
            polled.map(Ok)
        })
        .await
    }

    /// Handles all events, wakes `task` on the next one, and rings the alarms that are due.
    pub(super) fn process(&mut self, task: &mut Context<'_>) -> io::Result<()> {
        while let Poll::Ready(readable) = (self.readable)(task) {
            readable?;
            self.process_events()?;
        }
        alarm::ring(sys::now());
        Ok(())
    }

    /// Handles the events that exist now, which the runtime may report late.
    pub(super) fn process_events(&mut self) -> io::Result<()> {
        while self.take_events()? == EVENTS {}
        Ok(())
    }

    /// Wakes `task` at `at` or earlier, and for the next alarm. A timer that expires earlier is
    /// left as it is.
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

    /// Whether an order or a signal may have arrived since the last call.
    pub(super) fn has_orders(&mut self) -> bool {
        mem::take(&mut self.has_orders)
    }

    /// Whether a connection may have arrived in the inbox since the last call.
    pub(super) fn has_arrivals(&mut self) -> bool {
        mem::take(&mut self.has_arrivals)
    }

    fn take_events(&mut self) -> io::Result<usize> {
        let now = Timespec::default();
        match epoll::wait(&self.set.epoll, spare_capacity(&mut self.events), Some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let taken = self.events.len();
        for event in self.events.drain(..) {
            match event.data.u64() {
                CONTROL => self.has_orders = true,
                INBOX => self.has_arrivals = true,
                TIMER => self.armed = None,
                number => self.set.report(number as usize, readiness(event.flags)),
            }
        }
        Ok(taken)
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("set", &self.set).field("armed", &self.armed).finish()
    }
}

/// A connected socket registered with a [`Reactor`], for runtimes that do not report a closed
/// connection while no read is pending, or that register a socket again for every wait.
#[derive(Debug)]
pub struct Registered {
    socket: Socket,
    number: usize,
    set: Arc<PollSet>,
}

impl Registered {
    /// Registers `socket` with `reactor`.
    ///
    /// # Errors
    ///
    /// As epoll_ctl(2).
    pub fn new(socket: OwnedFd, reactor: &Reactor) -> io::Result<Self> {
        let set = reactor.set.clone();
        let number = set.sockets().insert(SocketState::default());
        // Created before the registration, so that its drop frees the number if that fails.
        let registered = Self { socket: Socket::new(socket), number, set };
        let all = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&registered.set.epoll, &registered.socket, EventData::new_u64(number as u64), all)?;
        Ok(registered)
    }
}

impl Drop for Registered {
    /// Deregisters the socket first: another process may hold it too, so that closing it alone
    /// would not end the registration.
    fn drop(&mut self) {
        // Fails only if the registration failed before.
        let _ = epoll::delete(&self.set.epoll, &self.socket);
        let state = self.set.sockets().try_remove(self.number);
        drop(state);
    }
}

impl Stream for Registered {
    fn poll_ready(&self, _: Interest, task: &mut Context<'_>) -> Poll<()> {
        let mut sockets = self.set.sockets();
        let state = &mut sockets[self.number];
        if state.readiness != Readiness::default() {
            return Poll::Ready(());
        }
        state.task = Some(task.waker().clone());
        Poll::Pending
    }

    fn readiness(&self) -> Readiness {
        mem::take(&mut self.set.sockets()[self.number].readiness)
    }
}

impl Transport for Registered {
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

impl AsFd for Registered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The registered sockets, by number.
#[derive(Debug)]
struct PollSet {
    epoll: OwnedFd,
    sockets: Mutex<Slab<SocketState>>,
}

/// The readiness of a socket that has been reported and not been taken, and the task that waits for
/// more.
#[derive(Debug, Default)]
struct SocketState {
    readiness: Readiness,
    task: Option<Waker>,
}

impl PollSet {
    fn report(&self, number: usize, readiness: Readiness) {
        let task = self.sockets().get_mut(number).and_then(|state| {
            state.readiness.merge(readiness);
            state.task.take()
        });
        // Woken after the lock is released.
        task.into_iter().for_each(Waker::wake);
    }

    fn sockets(&self) -> MutexGuard<'_, Slab<SocketState>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
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
mod tests;
