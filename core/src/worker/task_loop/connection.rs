//! The task of one connection: drives the connection, and waits for the events that it needs.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::{Stream, TaskShared};
use crate::conn;
use crate::machine::{CloseReason, Deadline, Interest, Move, Transport};
use crate::pump::{Io, Next, Readiness, drive};
use crate::rescue::Entry;
use crate::session::{Protocol, Session};
use crate::worker::alarm::Alarm;
use crate::worker::connections::Active;
use crate::worker::exit::EndOnPanic;
use crate::worker::handlers::{HandlerPool, Job, Lease, Leased, WorkerShared, run_blocking};
use crate::worker::socket::Socket;
use crate::worker::tokio_context::TokioContext;

/// A connection, its socket and its timer.
pub(super) struct ConnectionTask<S> {
    session: Session,
    io: Io<S>,
    timer: Alarm,
    place: OpenPlace<S>,
}

impl<S: Stream> ConnectionTask<S> {
    /// A connection whose task is about to be spawned.
    pub(super) fn new(
        common: Rc<TaskShared<S>>,
        connection: conn::Connection,
        stream: S,
        entry: Entry,
    ) -> Self {
        let session = Session::new(connection, common.service.clone());
        let io = Io::new(stream).published(entry);
        Self { session, io, timer: Alarm::default(), place: OpenPlace::new(common) }
    }

    /// Serves the connection to its end.
    pub(super) async fn serve(mut self) {
        let reason = loop {
            match poll_fn(|task| Poll::Ready(self.drive(task))).await {
                Next::Wait { interest, deadline } => self.wait(interest, deadline).await,
                Next::Again => let_others().await,
                Next::Move(Move::Lease) => self = self.run().await,
                Next::Spawn => self.spawn_calls(),
                Next::Close(reason) => break reason,
                // The stream deregisters the socket before it closes it.
                Next::Move(Move::Handoff) if self.hand_off() => break CloseReason::HandedOff,
                // The connection stays here, or tries again when the queue has room.
                Next::Move(Move::Handoff) => {}
            }
        };
        self.place.common.service.counters.closed(reason);
    }

    /// Advances the connection as far as possible without waiting. The futures of its application
    /// wake this task.
    fn drive(&mut self, task: &Context<'_>) -> Next {
        let _guard = EndOnPanic;
        let TaskShared { clock, shared, open, .. } = &*self.place.common;
        open.borrow_mut()[self.place.number].task.clone_from(task.waker());
        let drain = shared.watch.current();
        let mut clock = clock.borrow_mut();
        clock.tick();
        let cx = shared.cx(&clock, drain.as_ref()).waking(task.waker());
        drive(&mut self.session, &mut self.io, &cx)
    }

    /// Hands the connection off to another worker, if the queue has room.
    fn hand_off(&mut self) -> bool {
        let TaskShared { clock, departures, .. } = &*self.place.common;
        let now = clock.borrow().now();
        departures.borrow_mut().send(&mut self.session, self.io.transport().as_fd(), self.io.entry(), now)
    }

    /// Waits for readiness, for the deadline, or for a wake-up; the next drive finds out which it
    /// was. While only the application is at work, also waits for the peer to close the connection,
    /// and while the peer is slow to read, for the end of its side.
    async fn wait(&mut self, interest: Interest, deadline: Option<Deadline>) {
        let Self { io, timer, place, .. } = self;
        let read_closed = io.is_read_closed();
        let told = {
            let mut woken = false;
            let mut closed = pin!(io.transport().closed(read_closed));
            poll_fn(|task| {
                let looks = interest.is_none() || !(interest.read || read_closed);
                if looks && let Poll::Ready(told) = closed.as_mut().poll(task) {
                    return Poll::Ready(told);
                }
                if mem::replace(&mut woken, true) {
                    return Poll::Ready(Readiness::default());
                }
                if let Some(deadline) = deadline {
                    timer.set_by(deadline.at, place.common.clock.borrow().now(), task.waker());
                }
                io.transport().poll_ready(interest, task).map(|()| Readiness::default())
            })
            .await
        };
        let mut readiness = io.transport().readiness();
        readiness.merge(told);
        io.ready(readiness);
    }

    /// Has each waiting call run on a thread of the pool. The connection stays here.
    fn spawn_calls(&mut self) {
        let mut pool = self.place.common.pool.borrow_mut();
        while let Some(call) = self.session.next_call() {
            submit(&mut pool, Job::Exchange(call));
        }
    }

    /// Runs the handler on a thread of the pool.
    async fn run(self) -> Self {
        let Self { session, io, timer, place } = self;
        // The runtime may learn of the socket's state late; reports that arrive meanwhile are kept
        // until the stream returns.
        let active = Active { machine: session, io: untold(io).map(Socket::new) };
        let job = DetachedConnection { active, number: place.number };
        submit(&mut place.common.pool.borrow_mut(), Job::Connection(Box::new(job)));
        let DetachedConnection { active, .. } = *poll_fn(|task| place.returned(task)).await;
        // The runtime's readiness is older than the thread's reads and writes.
        let io = untold(active.io.map(Socket::into_inner));
        Self { session: active.machine, io, timer, place }
    }
}

/// Runs `job` as soon as a thread of `pool` is free.
fn submit<C: Leased + 'static>(pool: &mut HandlerPool<Job<C>>, mut job: Job<C>) {
    if pool.is_full() {
        job.note_queued();
    }
    pool.submit(job);
}

/// Marks both directions as ready to be tried: the recorded readiness is out of date.
fn untold<T: Transport>(mut io: Io<T>) -> Io<T> {
    io.ready(Readiness { readable: true, writable: true, ..Readiness::default() });
    io
}

/// Yields to the other tasks once.
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

/// A connection while its handler runs on a thread.
pub(super) struct DetachedConnection<S> {
    active: Active<Session, Socket<S>>,
    /// Its number among the open connections, which its task keeps.
    number: usize,
}

impl<S: Stream> Leased for Box<DetachedConnection<S>> {
    type Transport = Socket<S>;

    fn active(&mut self) -> &mut Active<Session, Socket<S>> {
        &mut self.active
    }
}

impl<S> DetachedConnection<S> {
    /// Returns the connection to its task.
    pub(super) fn give_back(self: Box<Self>, open: &mut Slab<OpenConnection<S>>) {
        let place = &mut open[self.number];
        place.task.wake_by_ref();
        place.returned = Some(self);
    }
}

/// What a thread of the pool runs: the handler, and then as much of the response as can be sent
/// without waiting. The handler runs inside the tokio `context`.
pub(super) fn run_handler<S: Stream>(
    shared: WorkerShared,
    context: TokioContext,
) -> impl Fn(&Lease<Job<Box<DetachedConnection<S>>>>) + Send + Sync {
    move |lease| {
        let _entered = context.enter();
        run_blocking(lease, &shared);
    }
}

/// An open connection, as the worker's own task sees it.
pub(super) struct OpenConnection<S> {
    pub(super) task: Waker,
    /// The connection after its handler, until its task takes it.
    returned: Option<Box<DetachedConnection<S>>>,
}

/// A place among the open connections, which is freed when it is dropped.
struct OpenPlace<S> {
    common: Rc<TaskShared<S>>,
    number: usize,
}

impl<S> OpenPlace<S> {
    /// A place for a new task, which needs no wake-up before its first run.
    fn new(common: Rc<TaskShared<S>>) -> Self {
        let open = OpenConnection { task: Waker::noop().clone(), returned: None };
        let number = common.open.borrow_mut().insert(open);
        Self { common, number }
    }

    fn returned(&self, task: &Context<'_>) -> Poll<Box<DetachedConnection<S>>> {
        let open = &mut self.common.open.borrow_mut()[self.number];
        open.task.clone_from(task.waker());
        open.returned.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<S> Drop for OpenPlace<S> {
    fn drop(&mut self) {
        let open = self.common.open.borrow_mut().remove(self.number);
        drop(open);
        self.common.loop_waker.call();
    }
}
