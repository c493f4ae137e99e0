//! Running a blocking handler on a thread that may wait: the same pump as in the loop, and poll(2)
//! for its waits.

use std::collections::VecDeque;
use std::io;
use std::iter;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::Waker;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Job;
use super::lease::{Lease, Leased};
use crate::app::streams::{CallPlace, ExchangeCall};
use crate::app::{BlockingIo, HeldExchange, LeasedExchange};
use crate::config::Limits;
use crate::conn::{Connection, Http1Exchange};
use crate::machine::{Cx, Deadline, Interest, Transport, Wants};
use crate::order::PolicyId;
use crate::pump::{Io, Next, Readiness, advance, drive, push};
use crate::session::{LeasedCall, Protocol, Session};
use crate::shutdown::Drain;
use crate::worker::arbiter_link::Watch;
use crate::worker::clock::Clock;
use crate::worker::config::Policies;
use crate::worker::connections::Active;
use crate::worker::sys;

/// The state that all threads of a worker share.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerShared {
    /// Limits of a connection.
    pub limits: Arc<Limits>,
    /// The policies that decide about connections during a drain.
    pub policies: Policies,
    /// The drain.
    pub watch: Arc<Watch>,
}

impl WorkerShared {
    /// For the threads of one worker.
    pub fn new(limits: Arc<Limits>, policies: Policies, watch: Arc<Watch>) -> Self {
        Self { limits, policies, watch }
    }

    /// The drain under way.
    pub(in crate::worker) fn drain(&self) -> Option<Drain> {
        self.watch.current().map(|(drain, _)| drain)
    }

    /// The context of a step, at `clock`'s time and in `drain`.
    pub fn cx<'a>(&'a self, clock: &'a Clock, drain: Option<&'a (Drain, PolicyId)>) -> Cx<'a> {
        let policy = self.policies.get(drain.map_or(PolicyId::Stop, |(_, policy)| *policy));
        Cx::new(clock.now(), clock.date(), Waker::noop(), &self.limits, &**policy)
            .draining(drain.map(|(drain, _)| drain))
            .reading(sys::now)
    }
}

/// Runs the blocking handler of the job in `lease`, on a thread that may wait. The loop sends the
/// bytes that the handler has left queued. If handlers have a time limit, another thread has to
/// call [`take_overdue`](super::Leases::take_overdue).
pub fn run_blocking<C: Leased>(lease: &Lease<Job<C>>, shared: &WorkerShared) {
    let clock = Clock::new();
    let call = lease.work(|job| match job {
        Job::Connection(connection) => connection.active().machine.lease(&shared.cx(&clock, None)),
        Job::Exchange(call) => {
            call.run(&mut Elsewhere { shared, clock, drain: None });
            None
        }
        Job::Attended(connection, call) => {
            let Active { machine, io, .. } = connection.active();
            let io = PollBlocking::new(io, shared, clock);
            let mut place = Attending { machine, io, later: VecDeque::new() };
            call.run(&mut place);
            place.return_calls();
            None
        }
    });
    let Some(Some(LeasedCall::Blocking(call))) = call else { return };
    if let Some(due) = call.due() {
        lease.set_due(Some(due));
        if let Some(now) = call.run(&mut LeasedConnection { lease, shared, clock }) {
            on_connection(lease, |active| active.machine.settle(call, now));
        }
        return;
    }
    // A lease without expiry is never taken back, so the job stays locked until the handler
    // returns.
    on_connection(lease, |Active { machine, io, .. }| {
        let mut io = PollBlocking::new(io, shared, clock);
        if let Some(now) = machine.hold(&mut io).and_then(|mut held| call.run(&mut held)) {
            machine.settle(call, now);
        }
    });
}

/// Runs `work` on the connection of the job in `lease`. None if the lease has expired.
fn on_connection<C: Leased, R>(
    lease: &Lease<Job<C>>,
    work: impl FnOnce(&mut Active<Session, C::Transport>) -> R,
) -> Option<R> {
    let done = lease.work(|job| match job {
        Job::Connection(connection) => Some(work(connection.active())),
        Job::Exchange(_) | Job::Attended(..) => None,
    });
    done.flatten()
}

/// A thread without the connection, which the loop drives meanwhile.
struct Elsewhere<'a> {
    shared: &'a WorkerShared,
    clock: Clock,
    drain: Option<(Drain, PolicyId)>,
}

impl CallPlace for Elsewhere<'_> {
    fn cx(&mut self) -> Cx<'_> {
        self.clock.tick();
        self.drain = self.shared.watch.current();
        self.shared.cx(&self.clock, self.drain.as_ref())
    }

    fn drive(&mut self, _: &dyn Fn() -> bool) -> Option<io::Result<()>> {
        None
    }
}

/// The loop's own thread, which drives the connection of the handler while the handler waits.
struct Attending<'a, T> {
    machine: &'a mut Session,
    io: PollBlocking<'a, T>,
    /// The calls of other handlers that the machine has made meanwhile.
    later: VecDeque<ExchangeCall>,
}

impl<T: Transport + AsFd> Attending<'_, T> {
    /// Returns the calls that have come meanwhile: the loop takes its turn before each of them.
    fn return_calls(&mut self) {
        self.later.drain(..).for_each(|call| self.machine.return_call(call));
    }

    fn attend(&mut self, may_continue: &dyn Fn() -> bool) -> io::Result<()> {
        loop {
            self.io.refresh();
            let cx = self.io.shared.cx(&self.io.clock, self.io.drain.as_ref());
            match drive(self.machine, self.io.io, &cx) {
                Next::Wait { interest, deadline } => {
                    return if may_continue() { Ok(()) } else { self.io.wait(deadline, interest) };
                }
                Next::Spawn => self.later.extend(iter::from_fn(|| self.machine.next_call())),
                Next::Again | Next::Move(_) => return Ok(()),
                Next::Close(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }
}

impl<T: Transport + AsFd> CallPlace for Attending<'_, T> {
    fn cx(&mut self) -> Cx<'_> {
        self.io.cx()
    }

    fn drive(&mut self, may_continue: &dyn Fn() -> bool) -> Option<io::Result<()>> {
        Some(self.attend(may_continue))
    }
}

/// A handler's connection, locked for one read or write at a time.
struct LeasedConnection<'a, C> {
    lease: &'a Lease<Job<C>>,
    shared: &'a WorkerShared,
    clock: Clock,
}

impl<C: Leased> LeasedConnection<'_, C> {
    /// Runs `work` on the connection, which is locked meanwhile. None if the lease has expired.
    fn hold<R>(
        &mut self,
        work: impl FnOnce(&mut HeldExchange<'_, PollBlocking<'_, C::Transport>>) -> R,
    ) -> Option<R> {
        let Self { lease, shared, clock } = self;
        let done = on_connection(lease, |active| {
            let mut io = PollBlocking::new(&mut active.io, shared, *clock);
            let done = active.machine.hold(&mut io).map(|mut held| work(&mut held));
            *clock = io.clock;
            // A change of the protocol lifts the time limit.
            lease.set_due(active.machine.connection().and_then(Connection::due));
            done
        });
        done.flatten()
    }
}

impl<C: Leased> LeasedExchange for LeasedConnection<'_, C> {
    type Exchange<'e> = Http1Exchange<'e>;

    fn with<R>(&mut self, work: impl for<'e> FnOnce(&mut Http1Exchange<'e>) -> R) -> Option<R> {
        self.hold(|held| held.with(work)).flatten()
    }

    fn advance(&mut self) -> io::Result<()> {
        self.hold(|held| held.advance()).unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    fn can_wait(&self) -> bool {
        true
    }

    fn push(&mut self) {
        self.hold(|held| held.push());
    }

    fn look_for_end(&mut self) {
        self.hold(|held| held.look_for_end());
    }

    fn look_for_reset(&mut self) {
        self.hold(|held| held.look_for_reset());
    }
}

/// A [`BlockingIo`] that waits with poll(2) on the socket and on the drain.
#[derive(Debug)]
pub struct PollBlocking<'a, T> {
    io: &'a mut Io<T>,
    shared: &'a WorkerShared,
    clock: Clock,
    drain: Option<(Drain, PolicyId)>,
}

impl<'a, T: Transport + AsFd> PollBlocking<'a, T> {
    /// For one handler on `io`.
    pub fn new(io: &'a mut Io<T>, shared: &'a WorkerShared, clock: Clock) -> Self {
        Self { io, shared, clock, drain: None }
    }

    fn refresh(&mut self) {
        self.clock.tick();
        self.drain = self.shared.watch.current();
    }

    /// Whether the socket reports any of `events`, or an error, right now.
    fn reports(&self, events: PollFlags) -> bool {
        let mut socket = [PollFd::new(self.io.transport(), events)];
        poll(&mut socket, Some(&Timespec::default())).is_ok_and(|reported| reported > 0)
    }

    /// Waits for the socket, for the beginning of a drain, or until `deadline`.
    pub(in crate::worker) fn wait(
        &mut self,
        deadline: Option<Deadline>,
        interest: Interest,
    ) -> io::Result<()> {
        let timeout = deadline.map(|deadline| deadline.at - self.clock.now());
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN | PollFlags::RDHUP, interest.read);
        events.set(PollFlags::OUT, interest.write);
        let mut fds =
            [PollFd::new(self.io.transport(), events), PollFd::new(&self.shared.watch, PollFlags::IN)];
        // The drain's descriptor stays readable: it is only polled before the drain has been seen.
        let watched = if self.drain.is_none() { 2 } else { 1 };
        let mut timeout = timeout.map(|t| t.try_into().unwrap_or_default());
        loop {
            match poll(&mut fds[..watched], timeout.as_ref()) {
                Ok(_) => break,
                // A wait interrupted by a signal may have missed events: look once more without
                // waiting.
                Err(rustix::io::Errno::INTR) => timeout = Some(Timespec::default()),
                Err(error) => return Err(error.into()),
            }
        }
        let (got, told) = (fds[0].revents(), fds[1].revents());
        if !told.is_empty() {
            self.shared.watch.read_orders(self.clock.tick());
        }
        let broken = got.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
        self.io.ready(Readiness {
            readable: broken || got.intersects(PollFlags::IN | PollFlags::RDHUP),
            writable: broken || got.contains(PollFlags::OUT),
            read_closed: got.intersects(PollFlags::RDHUP | PollFlags::HUP),
            broken: got.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL),
        });
        Ok(())
    }
}

impl<T: Transport + AsFd> BlockingIo for PollBlocking<'_, T> {
    fn cx(&mut self) -> Cx<'_> {
        self.refresh();
        self.shared.cx(&self.clock, self.drain.as_ref())
    }

    fn advance(&mut self, connection: &mut Connection) -> io::Result<()> {
        self.refresh();
        let cx = self.shared.cx(&self.clock, self.drain.as_ref());
        if let Some(interest) = advance(connection, self.io, &cx)? {
            match self.io.transport().wants(interest) {
                Wants::Io(interest) => self.wait(connection.deadline(&cx), interest)?,
                Wants::Ready => self.io.ready(Readiness { readable: true, ..Readiness::default() }),
            }
        }
        Ok(())
    }

    fn can_wait(&self) -> bool {
        true
    }

    fn push(&mut self, connection: &mut Connection) {
        push(connection, self.io, self.clock.now());
    }

    fn has_peer_ended(&self) -> bool {
        self.io.is_read_closed() || self.reports(PollFlags::RDHUP)
    }

    /// Reset, or closed in both directions: poll(2) reports both unasked.
    fn is_gone(&self) -> bool {
        self.reports(PollFlags::empty())
    }
}
