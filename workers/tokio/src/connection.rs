//! The task of one connection: drives it, and waits for what it asks for.

use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::{io, mem};

use remuda_core::conn;
use remuda_core::machine::{CloseReason, Deadline, Interest};
use remuda_core::pump::{Io, Outcome, Readiness, drive};
use remuda_core::session::Session;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::Loop;
use super::stream::{Away, Stream};
use super::timer::Timer;

/// A connection, its socket and its timer.
pub(crate) struct Connection {
    session: Session,
    io: Io<Stream>,
    timer: Timer,
    place: Place,
}

impl Connection {
    /// Takes a connection in. Its task is to be spawned.
    ///
    /// # Errors
    ///
    /// The runtime cannot wait for the socket, which is closed.
    pub(crate) fn new(worker: Rc<Loop>, connection: conn::Connection, socket: OwnedFd) -> io::Result<Self> {
        let session = Session::new(connection, worker.service.clone());
        let io = Io::new(Stream::new(socket)?);
        Ok(Self { session, io, timer: Timer::new(), place: Place::new(worker) })
    }

    /// Serves the connection to its end.
    pub(crate) async fn serve(mut self) {
        let reason = loop {
            match poll_fn(|task| Poll::Ready(self.drive(task))).await {
                Outcome::Wait { interest, deadline } => self.wait(interest, deadline).await,
                Outcome::Again => yield_now().await,
                Outcome::Run => match self.run().await {
                    Some(connection) => self = connection,
                    None => return,
                },
                Outcome::Close(reason) => break reason,
                // Nobody receives connections yet, and no application takes a transport over.
                Outcome::HandOff | Outcome::Upgrade => break CloseReason::TransportFailed,
            }
        };
        self.place.worker.service.counters.closed(reason);
    }

    /// Lets it go as far as it can. What its application waits for wakes this task.
    fn drive(&mut self, task: &Context<'_>) -> Outcome {
        let Loop { clock, shared, open, .. } = &*self.place.worker;
        open.borrow_mut()[self.place.number].clone_from(task.waker());
        let drain = shared.watch.current();
        let mut clock = clock.borrow_mut();
        clock.tick();
        let cx = shared.cx(&clock, drain.as_ref()).waking(task.waker());
        drive(&mut self.session, &mut self.io, &cx)
    }

    /// Waits for readiness, for the deadline, or to be woken: whatever it was, driving on finds out. While only its
    /// application is at work, the peer's going away is worth knowing.
    async fn wait(&mut self, interest: Interest, deadline: Option<Deadline>) {
        let Self { io, timer, place, .. } = self;
        let broken = {
            let mut woken = false;
            let mut gone = pin!(io.transport().gone());
            poll_fn(|task| {
                let broken = interest.is_none() && gone.as_mut().poll(task).is_ready();
                if broken || mem::replace(&mut woken, true) {
                    return Poll::Ready(broken);
                }
                if let Some(deadline) = deadline {
                    timer.set(deadline.at, place.worker.clock.borrow().now(), task);
                }
                io.transport().poll_ready(interest, task).map(|()| false)
            })
            .await
        };
        // The transport knows what is ready; every wake-up is a reason to ask it.
        io.ready(Readiness { readable: true, writable: true, read_closed: false, broken });
    }

    /// Runs its handler on a thread of the crew. `None` if the worker has ended meanwhile.
    async fn run(self) -> Option<Self> {
        let Self { session, io, timer, place } = self;
        let (back, returned) = oneshot::channel();
        let io = Io::new(Away(io.into_transport()));
        place.worker.crew.borrow_mut().submit(Job { session, io, back });
        let (session, io) = returned.await.ok()?;
        Some(Self { session, io, timer, place })
    }
}

/// A connection on its way to a thread that may block, or back.
pub(crate) struct Job {
    pub(crate) session: Session,
    pub(crate) io: Io<Away>,
    back: oneshot::Sender<(Session, Io<Stream>)>,
}

impl Job {
    /// Gives it back to its task, which tries both directions: what the runtime knows of the socket is older than what
    /// the thread did with it.
    pub(crate) fn give_back(self) {
        let io = Io::new(self.io.into_transport().0);
        // Without its task the worker is ending.
        let _ = self.back.send((self.session, io));
    }
}

/// A place among the open connections, free again when it is dropped.
struct Place {
    worker: Rc<Loop>,
    number: usize,
}

impl Place {
    /// A place for a task that has not run yet, and need not be woken for that.
    fn new(worker: Rc<Loop>) -> Self {
        let number = worker.open.borrow_mut().insert(Waker::noop().clone());
        Self { worker, number }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.open.borrow_mut().remove(self.number);
        self.worker.changed.notify_one();
    }
}
