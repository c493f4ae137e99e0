//! Accepting on a thread, for loops that cannot wait on the listeners themselves.
//!
//! The loop asks for a connection, and the thread waits in its own epoll instance only while a
//! request is open. A loop that hangs, or that is full, therefore takes no share: the kernel passes
//! over a worker that does not wait (epoll_ctl(2), `EPOLLEXCLUSIVE`), and the connection goes to
//! another worker or stays in the backlog. A connection that the loop asked for before it hung goes
//! to another worker through the hand-off queue.
//!
//! The thread counts and publishes what it accepts (D20), so that a connection on its way to the
//! loop is not lost with the worker.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::acceptor::{Accepted, Acceptor};
use super::listener::Listener;
use crate::app::Counters;
use crate::handoff::ConnectionRecord;
use crate::peer::Origin;
use crate::rescue::{ByteCounts, Entry, Standing};
use crate::worker::draws::Draws;
use crate::worker::handoff::Outbox;
use crate::worker::keeper::{Arrival, Entries};
use crate::worker::sys;

/// The token of the alert in the epoll set; the tokens of listeners are their numbers.
const ALERT: u64 = u64::MAX;

/// Events taken in one wait; further ones are reported by the next.
const EVENTS: usize = 16;

/// How long a connection waits for the loop that asked for it, before another worker may have it. A
/// healthy loop takes it far sooner; if this one does not, any other worker will serve the
/// connection sooner.
const PATIENCE: Duration = Duration::from_millis(100);

/// The loop's handle on the accepting thread, which accepts one connection at a time.
#[derive(Debug)]
pub struct AcceptThread {
    mailbox: Arc<Mailbox>,
}

impl AcceptThread {
    /// Starts the thread. It accepts nothing before the loop asks, and sends connections that the
    /// loop does not take to `outbox`, if there is one. It counts in `counters`, and publishes
    /// connections in `entries`, as fresh ones.
    ///
    /// # Errors
    ///
    /// As epoll_create1(2), epoll_ctl(2), eventfd(2) and pthread_create(3).
    pub fn start(
        listeners: Vec<Listener>,
        outbox: Option<Outbox>,
        entries: Option<Entries>,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let alert = eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &alert, EventData::new_u64(ALERT), EventFlags::IN)?;
        let mut acceptor = Acceptor::new(listeners, epoll.try_clone()?, 0);
        acceptor.resume()?;
        let mailbox = Arc::new(Mailbox { alert, state: Mutex::default() });
        let (mailbox_of_thread, draws) = (mailbox.clone(), Draws::new());
        let thread =
            AcceptLoop { mailbox: mailbox_of_thread, epoll, acceptor, outbox, entries, counters, draws };
        thread::Builder::new().name("acceptor".to_owned()).spawn(move || thread.run())?;
        Ok(Self { mailbox })
    }

    /// Asks for the next connection, and wakes `task` when it arrives. `None` once the thread has
    /// been [closed](Self::close), has closed its listeners, and all connections it accepted before
    /// have been returned.
    ///
    /// # Errors
    ///
    /// The thread cannot wait for connections, and has ended.
    pub fn poll_accept(&self, task: &Context<'_>) -> Poll<Option<io::Result<Accepted>>> {
        let mut state = self.mailbox.state();
        if let Some(answer) = state.answers.pop_front() {
            return Poll::Ready(Some(answer));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        match &mut state.asked {
            Some(waker) => waker.clone_from(task.waker()),
            none => {
                *none = Some(task.waker().clone());
                self.mailbox.signal();
            }
        }
        Poll::Pending
    }

    /// Ends accepting (D2), except for connections for which the kernel has already woken this
    /// worker. Does not wait for the thread, which closes its listeners at once.
    pub fn close(&self) {
        self.mailbox.state().closing = true;
        self.mailbox.signal();
    }
}

impl Drop for AcceptThread {
    fn drop(&mut self) {
        self.close();
    }
}

/// The state that the loop and the thread share.
#[derive(Debug)]
struct Mailbox {
    /// An eventfd that the loop signals when it asks for a connection, and when it closes.
    alert: OwnedFd,
    state: Mutex<MailboxState>,
}

#[derive(Debug, Default)]
struct MailboxState {
    /// The task that waits for an answer, if the loop has asked.
    asked: Option<Waker>,
    /// At most one, except for the last connections of all listeners.
    answers: VecDeque<io::Result<Accepted>>,
    closing: bool,
    ended: bool,
}

impl Mailbox {
    fn state(&self) -> MutexGuard<'_, MailboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self) {
        // Adding one to an eventfd does not fail before 2^64 additions.
        let _ = rustix::io::write(&self.alert, &1_u64.to_ne_bytes());
    }

    /// Waits until the loop asks for a connection (true) or closes (false). None if that takes
    /// longer than `patience`.
    fn wait(&self, patience: Option<Duration>) -> Option<bool> {
        let patience = patience.map(|patience| patience.try_into().unwrap_or_default());
        loop {
            // An interrupted or failed wait is not a request: the state decides.
            if poll(&mut [PollFd::new(&self.alert, PollFlags::IN)], patience.as_ref()) == Ok(0) {
                return None;
            }
            let _ = rustix::io::read(&self.alert, &mut [0; 8]);
            let state = self.state();
            if state.closing || state.asked.is_some() {
                return Some(!state.closing);
            }
        }
    }

    /// Whether an accepted connection waits for the loop to take it.
    fn has_untaken(&self) -> bool {
        matches!(self.state().answers.front(), Some(Ok(_)))
    }

    /// Takes a connection back that the loop has not taken; the loop has to ask again.
    fn take_back(&self) -> Option<Accepted> {
        let mut state = self.state();
        matches!(state.answers.front(), Some(Ok(_))).then(|| state.answers.pop_front())??.ok()
    }

    fn answer(&self, answer: io::Result<Accepted>) {
        let mut state = self.state();
        state.answers.push_back(answer);
        let waker = state.asked.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        let waker = state.asked.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// What the thread runs.
struct AcceptLoop {
    mailbox: Arc<Mailbox>,
    epoll: OwnedFd,
    acceptor: Acceptor,
    /// The way to other workers.
    outbox: Option<Outbox>,
    entries: Option<Entries>,
    counters: Arc<Counters>,
    draws: Draws,
}

impl AcceptLoop {
    fn run(mut self) {
        while self.wait() {
            let Some(answer) = self.accept().transpose() else {
                // The kernel may have woken this thread for a connection while it waited.
                let arrival = self.entries.map(|entries| entries.arrival());
                for last in self.acceptor.close() {
                    self.enter(&last, arrival.as_ref());
                    self.mailbox.answer(Ok(last));
                }
                break;
            };
            self.mailbox.answer(answer);
        }
        // The kernel wakes no thread that does not wait, so connections that have arrived by now
        // are for other workers.
        self.acceptor.pause();
        self.acceptor.close();
        self.mailbox.end();
    }

    /// Counts a connection, and publishes it.
    fn enter(&mut self, accepted: &Accepted, arrival: Option<&Arrival>) {
        self.counters.accepted.increment();
        arrival.into_iter().for_each(Arrival::is_counted);
        self.publish(accepted);
    }

    /// Publishes a connection that the loop has not taken. The loop publishes it again.
    fn publish(&mut self, accepted: &Accepted) {
        let entry = self.entry(accepted);
        let origin = Origin::new(accepted.listener, accepted.peer, self.draws.draw());
        entry.describe(origin, sys::now(), None, Some(ByteCounts::default()));
        entry.publish(Standing::Fresh);
    }

    fn entry(&self, accepted: &Accepted) -> Entry {
        self.entries.map_or(Entry::NONE, |entries| entries.entry(&accepted.socket))
    }

    /// Waits until the loop asks for a connection (true) or closes (false). Meanwhile passes the
    /// previous connection on to another worker if the loop does not take it.
    fn wait(&mut self) -> bool {
        loop {
            let may_pass_on = self.outbox.is_some() && self.mailbox.has_untaken();
            if let Some(asked) = self.mailbox.wait(may_pass_on.then_some(PATIENCE)) {
                return asked;
            }
            self.pass_on();
        }
    }

    /// Hands a connection that the loop does not take to another worker. If the hand-off queue
    /// refuses it, the loop may still take it.
    fn pass_on(&mut self) {
        let Some((outbox, accepted)) = self.outbox.as_ref().zip(self.mailbox.take_back()) else { return };
        let origin = Origin::new(accepted.listener, accepted.peer, self.draws.draw());
        let now = sys::now();
        let record = ConnectionRecord { handed: Some(now), ..ConnectionRecord::fresh(origin, now) };
        self.entry(&accepted).clear();
        match outbox.send(accepted.socket.as_fd(), &record) {
            Ok(()) => {
                self.counters.handed.increment();
                tracing::debug!("loop busy: its accepted connection is handed to another worker")
            }
            Err(error) => {
                tracing::debug!(
                    "loop busy, and its accepted connection cannot be handed to another worker: {error}"
                );
                self.publish(&accepted);
                self.mailbox.state().answers.push_front(Ok(accepted));
            }
        }
    }

    /// Waits for a connection, counts and publishes it. `None` if the alert was signalled: while a request is open, it only
    /// signals the end.
    fn accept(&mut self) -> io::Result<Option<Accepted>> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let pause = self.acceptor.deadline().map(|until| until.since(sys::now()));
            let pause = pause.map(|pause| pause.try_into().unwrap_or_default());
            match epoll::wait(&self.epoll, spare_capacity(&mut events), pause.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let now = sys::now();
            for event in events.drain(..) {
                if event.data.u64() == ALERT {
                    return Ok(None);
                }
                let arrival = self.entries.map(|entries| entries.arrival());
                if let Some(accepted) = self.acceptor.accept(event.data.u64(), now) {
                    self.enter(&accepted, arrival.as_ref());
                    return Ok(Some(accepted));
                }
            }
            self.acceptor.handle_time(now)?;
        }
    }
}

#[cfg(test)]
mod tests;
