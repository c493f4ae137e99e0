//! How handlers run: on threads, or in place.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Waker;
use std::thread;

use crate::pump::{Outcome, drive};
use crate::session::Session;
use crate::worker::intake::{self, Active};
use crate::worker::{BlockingTurn, Clock, Crew, Desk, Desks, Piece, Shared, Socket, sys};

/// A connection whose handler is to run, or has run.
pub type Job = intake::Job<Session, Socket>;

impl Piece for Job {
    type Transport = Socket;

    fn active(&mut self) -> &mut Active<Session, Socket> {
        &mut self.active
    }
}

/// How handlers run.
pub trait Handlers {
    /// Whether the loop waits for a handler. Nobody listens to the arbiter meanwhile, so that it looks around after each.
    const IN_PLACE: bool;

    /// Runs the handler of `job`, now or later; gives the job back if that is done already.
    fn run(&mut self, job: Job) -> Option<Job>;

    /// A job that is done, if there is one.
    fn take_done(&mut self) -> Option<Job>;

    /// Takes back a job that has not begun, if there is one.
    fn take_waiting(&mut self) -> Option<Job>;

    /// Where the jobs lie that are worked at, for the loop to take away those whose handlers have had their time; none if
    /// somebody else does that.
    fn desks(&self) -> Option<&Desks<Job>>;
}

/// On threads of their own, as soon as one is free.
impl Handlers for Crew<Job> {
    const IN_PLACE: bool = false;

    fn run(&mut self, job: Job) -> Option<Job> {
        self.submit(job);
        None
    }

    fn take_done(&mut self) -> Option<Job> {
        Self::take_done(self)
    }

    fn take_waiting(&mut self) -> Option<Job> {
        Self::take_waiting(self)
    }

    fn desks(&self) -> Option<&Desks<Job>> {
        Some(self.desks())
    }
}

/// On the loop's own thread, one at a time. Where blocking handlers have a limit, a second thread
/// [watches](Self::watched) the first, which cannot look to anything while one runs.
pub struct InPlace<F> {
    work: F,
    desk: Arc<Desk<Job>>,
    /// What the second thread has taken away.
    taken: Option<Receiver<Job>>,
}

impl<F: FnMut(&Desk<Job>)> InPlace<F> {
    /// Runs a handler by `work`.
    pub fn new(work: F) -> Self {
        Self { work, desk: Arc::default(), taken: None }
    }

    /// The same for blocking handlers, of which each has as long as the limits of `shared` say. `loop_waker` is woken when
    /// there is a job to take back.
    ///
    /// # Errors
    ///
    /// As pthread_create(3).
    pub fn watched(self, shared: Shared, loop_waker: Waker) -> io::Result<Self> {
        if shared.limits.request_timeout.is_zero() {
            return Ok(self);
        }
        let (give, taken) = channel();
        let desk = self.desk.clone();
        let watch = move || watch(&desk, &shared, &give, &loop_waker);
        thread::Builder::new().name("watch".to_owned()).spawn(watch)?;
        Ok(Self { taken: Some(taken), ..self })
    }
}

impl<F: FnMut(&Desk<Job>)> Handlers for InPlace<F> {
    const IN_PLACE: bool = true;

    fn run(&mut self, job: Job) -> Option<Job> {
        self.desk.put(job);
        (self.work)(&self.desk);
        self.desk.take()
    }

    fn take_done(&mut self) -> Option<Job> {
        self.taken.as_ref()?.try_recv().ok()
    }

    fn take_waiting(&mut self) -> Option<Job> {
        None
    }

    fn desks(&self) -> Option<&Desks<Job>> {
        None
    }
}

impl<F> fmt::Debug for InPlace<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InPlace").field("desk", &self.desk).finish_non_exhaustive()
    }
}

/// Takes the job away from a handler that has had its time, and tells its client as the loop would if it were free. The
/// loop gets it back for the rest.
fn watch(desk: &Desk<Job>, shared: &Shared, give: &Sender<Job>, loop_waker: &Waker) {
    loop {
        let now = sys::now();
        if let Some(mut job) = desk.take_overdue(now) {
            if let Err(error) = tell(&mut job.active, shared) {
                tracing::error!("cannot tell a client that its request has taken too long: {error}");
            }
            if give.send(job).is_err() {
                return; // the worker is ending
            }
            loop_waker.wake_by_ref();
        }
        thread::park_timeout(desk.next_look(now, shared.limits.request_timeout) - sys::now());
    }
}

/// Sends all there is to send, and ends the sending side.
fn tell(active: &mut Active<Session, Socket>, shared: &Shared) -> io::Result<()> {
    let mut clock = Clock::new();
    loop {
        let drain = shared.watch.current();
        match drive(&mut active.machine, &mut active.io, &shared.cx(&clock, drain.as_ref())) {
            Outcome::Wait { interest, .. } if interest.write => {
                let connection = active.machine.connection();
                BlockingTurn::new(&mut active.io, shared, clock).wait(connection, interest)?;
            }
            Outcome::Again => {}
            Outcome::Close(_) => return active.io.close_write(),
            _ => return Ok(()),
        }
        clock.tick();
    }
}
