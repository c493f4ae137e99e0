//! The task of one connection: drives it, and waits for what it asks for.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::{Common, Stream};
use crate::conn;
use crate::machine::{CloseReason, Deadline, Interest, Transport};
use crate::pump::{Io, Outcome, Readiness, drive};
use crate::session::Session;
use crate::worker::alarm::Alarm;
use crate::worker::intake::Active;
use crate::worker::{Desk, Piece, Shared, Socket, TokioContext, run_blocking};

/// A connection, its socket and its timer.
pub(super) struct Connection<S> {
    session: Session,
    io: Io<S>,
    timer: Alarm,
    place: Place<S>,
}

impl<S: Stream> Connection<S> {
    /// Takes a connection in. Its task is to be spawned.
    pub(super) fn new(common: Rc<Common<S>>, connection: conn::Connection, stream: S) -> Self {
        let session = Session::new(connection, common.service.clone());
        Self { session, io: Io::new(stream), timer: Alarm::default(), place: Place::new(common) }
    }

    /// Serves the connection to its end.
    pub(super) async fn serve(mut self) {
        let reason = loop {
            match poll_fn(|task| Poll::Ready(self.drive(task))).await {
                Outcome::Wait { interest, deadline } => self.wait(interest, deadline).await,
                Outcome::Again => let_others().await,
                Outcome::Run => self = self.run().await,
                Outcome::Close(reason) => break reason,
                // Its stream stops watching the socket before it closes it.
                Outcome::HandOff if self.hand_off() => break CloseReason::HandedOff,
                Outcome::HandOff => {} // it waits for room, or stays
            }
        };
        self.place.common.service.counters.closed(reason);
    }

    /// Lets it go as far as it can. What its application waits for wakes this task.
    fn drive(&mut self, task: &Context<'_>) -> Outcome {
        let Common { clock, shared, open, .. } = &*self.place.common;
        open.borrow_mut()[self.place.number].task.clone_from(task.waker());
        let drain = shared.watch.current();
        let mut clock = clock.borrow_mut();
        clock.tick();
        let cx = shared.cx(&clock, drain.as_ref()).waking(task.waker());
        drive(&mut self.session, &mut self.io, &cx)
    }

    /// Hands it over to another worker, if there is room for it in the queue.
    fn hand_off(&mut self) -> bool {
        let Common { clock, departures, .. } = &*self.place.common;
        let now = clock.borrow().now();
        departures.borrow_mut().send(&mut self.session, self.io.transport().as_fd(), now)
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
                    timer.set_by(deadline.at, place.common.clock.borrow().now(), task.waker());
                }
                io.transport().poll_ready(interest, task).map(|()| false)
            })
            .await
        };
        let mut readiness = io.transport().readiness();
        readiness.broken |= broken;
        io.ready(readiness);
    }

    /// Runs its handler on a thread of the crew.
    async fn run(self) -> Self {
        let Self { session, io, timer, place } = self;
        // The runtime may be late to know of the socket; what it hears meanwhile it keeps for the stream's return.
        let active = Active { machine: session, io: untold(io).map(Socket::new) };
        let job = Job { active, number: place.number };
        place.common.crew.borrow_mut().submit(Box::new(job));
        let Job { active, .. } = *poll_fn(|task| place.returned(task)).await;
        // What the runtime knows of the socket is older than what the thread did with it.
        let io = untold(active.io.map(Socket::into_inner));
        Self { session: active.machine, io, timer, place }
    }
}

/// Anything may be tried: whoever knew what is ready does not see it any more.
fn untold<T: Transport>(mut io: Io<T>) -> Io<T> {
    io.ready(Readiness { readable: true, writable: true, ..Readiness::default() });
    io
}

/// Goes on when others have had their turn.
async fn let_others() {
    let mut have_had = false;
    poll_fn(|task| {
        if mem::replace(&mut have_had, true) {
            return Poll::Ready(());
        }
        task.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// A connection on its way to a thread that may block, or back.
pub(super) struct Job<S> {
    active: Active<Session, Socket<S>>,
    /// Its place, which its task keeps.
    number: usize,
}

impl<S: Stream> Piece for Box<Job<S>> {
    type Transport = Socket<S>;

    fn active(&mut self) -> &mut Active<Session, Socket<S>> {
        &mut self.active
    }
}

impl<S> Job<S> {
    /// Gives it back to its task.
    pub(super) fn give_back(self: Box<Self>, open: &mut Slab<Open<S>>) {
        let place = &mut open[self.number];
        place.task.wake_by_ref();
        place.returned = Some(self);
    }
}

/// What a thread of the crew does: the handler, and then as much of the response as goes without waiting. The handler
/// finds the `context` where it looks for it.
pub(super) fn run_handler<S: Stream>(
    shared: Shared,
    context: TokioContext,
) -> impl Fn(&Desk<Box<Job<S>>>) + Send + Sync {
    move |desk| {
        let _entered = context.enter();
        run_blocking(desk, &shared);
    }
}

/// An open connection, as others see it.
pub(super) struct Open<S> {
    pub(super) task: Waker,
    /// From a thread of the crew, until its task takes it.
    returned: Option<Box<Job<S>>>,
}

/// A place among the open connections, free again when it is dropped.
struct Place<S> {
    common: Rc<Common<S>>,
    number: usize,
}

impl<S> Place<S> {
    /// A place for a task that has not run yet, and need not be woken for that.
    fn new(common: Rc<Common<S>>) -> Self {
        let open = Open { task: Waker::noop().clone(), returned: None };
        let number = common.open.borrow_mut().insert(open);
        Self { common, number }
    }

    fn returned(&self, task: &Context<'_>) -> Poll<Box<Job<S>>> {
        let open = &mut self.common.open.borrow_mut()[self.number];
        open.task.clone_from(task.waker());
        open.returned.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<S> Drop for Place<S> {
    fn drop(&mut self) {
        let open = self.common.open.borrow_mut().remove(self.number);
        drop(open);
        self.common.caller.call();
    }
}
