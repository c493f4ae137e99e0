//! Accepting for loops that cannot wait on the listeners themselves: a thread with an epoll instance of its own.
//!
//! The loop asks for a connection, and the thread waits for one only while it is asked. So a loop that hangs, or that
//! has as many connections as it may have, takes no share: the kernel passes over a worker that does not wait
//! (epoll_ctl(2), `EPOLLEXCLUSIVE`), and the connection goes to another one or stays in the backlog. The one that a loop
//! had asked for before it hung goes to another worker through the hand-off queue.

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
use super::draws::Draws;
use super::handoff::Outbox;
use super::{Listener, sys};
use crate::handoff::{HandOff, Origin};

/// What the epoll set calls the bell; it calls listeners by their numbers.
const BELL: u64 = u64::MAX;

/// Events taken in one wait; what there is beyond them is reported again.
const EVENTS: usize = 16;

/// How long a connection waits for a loop that has asked for it, before another worker may have it. A loop in good
/// health takes it in far less, and one that does not is worse off than whoever is asked next.
const PATIENCE: Duration = Duration::from_millis(100);

/// The loop's side of a thread that accepts one connection at a time.
#[derive(Debug)]
pub struct AcceptThread {
    desk: Arc<Desk>,
}

impl AcceptThread {
    /// Starts the thread. It accepts nothing before it is asked to, and puts what the loop does not take into `outbox`,
    /// if there is one.
    ///
    /// # Errors
    ///
    /// As epoll_create1(2), epoll_ctl(2), eventfd(2) and pthread_create(3).
    pub fn start(listeners: Vec<Listener>, outbox: Option<Outbox>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
        let mut acceptor = Acceptor::new(listeners, epoll.try_clone()?, 0);
        acceptor.resume()?;
        let desk = Arc::new(Desk { bell, state: Mutex::default() });
        let thread = Thread { desk: desk.clone(), epoll, acceptor, outbox, draws: Draws::new() };
        thread::Builder::new().name("acceptor".to_owned()).spawn(move || thread.run())?;
        Ok(Self { desk })
    }

    /// Asks for the next connection, and wakes `task` when it is there. `None` once the thread has been
    /// [closed](Self::close), has given up its listeners and has nothing left that it accepted before.
    ///
    /// # Errors
    ///
    /// The thread cannot wait for connections, and has ended.
    pub fn poll_accept(&self, task: &Context<'_>) -> Poll<Option<io::Result<Accepted>>> {
        let mut state = self.desk.state();
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
                self.desk.ring();
            }
        }
        Poll::Pending
    }

    /// Accepts nothing any more (D2) but what the kernel has chosen this worker for. Does not wait for the thread, which
    /// gives its listeners up at once.
    pub fn close(&self) {
        self.desk.state().closing = true;
        self.desk.ring();
    }
}

impl Drop for AcceptThread {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where loop and thread meet.
#[derive(Debug)]
struct Desk {
    /// An eventfd: rung by the loop when it asks, and when it closes.
    bell: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The loop waits for an answer.
    asked: Option<Waker>,
    /// One at most, but for the last connections of all listeners.
    answers: VecDeque<io::Result<Accepted>>,
    closing: bool,
    ended: bool,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // An eventfd takes a one at any time; there is nothing to do about a kernel that says otherwise.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Waits until the bell rings; whether it is for a connection. None: that has taken longer than `patience`.
    fn wait(&self, patience: Option<Duration>) -> Option<bool> {
        let patience = patience.map(|patience| patience.try_into().unwrap_or_default());
        loop {
            // A signal interrupts it; whatever else may fail does not say that anyone asked.
            if poll(&mut [PollFd::new(&self.bell, PollFlags::IN)], patience.as_ref()) == Ok(0) {
                return None;
            }
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            let state = self.state();
            if state.closing || state.asked.is_some() {
                return Some(!state.closing);
            }
        }
    }

    /// A connection waits for the loop to take it.
    fn has_untaken(&self) -> bool {
        matches!(self.state().answers.front(), Some(Ok(_)))
    }

    /// Takes a connection back from the loop, which will have to ask anew.
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

/// The thread's side.
struct Thread {
    desk: Arc<Desk>,
    epoll: OwnedFd,
    acceptor: Acceptor,
    /// To other workers.
    outbox: Option<Outbox>,
    draws: Draws,
}

impl Thread {
    fn run(mut self) {
        while self.wait() {
            let Some(answer) = self.accept().transpose() else {
                // The kernel may have chosen this thread while it waited.
                self.acceptor.close().into_iter().for_each(|last| self.desk.answer(Ok(last)));
                break;
            };
            self.desk.answer(answer);
        }
        // It does not choose who does not wait: what is there by now belongs to others.
        self.acceptor.pause();
        self.acceptor.close();
        self.desk.end();
    }

    /// Waits until the loop asks for a connection, or is closing; gives others the one before if it does not take that.
    fn wait(&mut self) -> bool {
        loop {
            let may_pass_on = self.outbox.is_some() && self.desk.has_untaken();
            if let Some(asked) = self.desk.wait(may_pass_on.then_some(PATIENCE)) {
                return asked;
            }
            self.pass_on();
        }
    }

    /// Gives a connection that the loop does not take to whoever does. If that cannot be done the loop may still have it.
    fn pass_on(&mut self) {
        let Some((outbox, accepted)) = self.outbox.as_ref().zip(self.desk.take_back()) else { return };
        let origin = Origin::new(accepted.listener, accepted.peer, self.draws.draw());
        match outbox.send(accepted.socket.as_fd(), &HandOff::fresh(origin, sys::now())) {
            Ok(()) => {
                tracing::debug!("the loop is busy: another worker is given the connection it asked for")
            }
            Err(error) => {
                tracing::debug!("the loop is busy, and nobody else can have its connection: {error}");
                self.desk.state().answers.push_front(Ok(accepted));
            }
        }
    }

    /// Waits for a connection, or for the bell, which rings for nothing but the end while a connection is asked for.
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
                if event.data.u64() == BELL {
                    return Ok(None);
                }
                if let Some(accepted) = self.acceptor.accept(event.data.u64(), now) {
                    return Ok(Some(accepted));
                }
            }
            self.acceptor.handle_time(now)?;
        }
    }
}

#[cfg(test)]
#[path = "thread/tests.rs"]
mod tests;
