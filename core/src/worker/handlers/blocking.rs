//! A blocking handler's turn on a thread that may wait: the same pump, and poll(2) where the loop would wait.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::Waker;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Policies;
use super::clock::Clock;
use super::desk::{Desk, Piece};
use super::watch::Watch;
use crate::app::{Place, Turn};
use crate::config::Limits;
use crate::conn::Connection;
use crate::machine::{Cx, Interest, Transport, Wants};
use crate::order::PolicyId;
use crate::pump::{Io, Readiness, advance};
use crate::shutdown::Drain;

/// What all threads of a worker share.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Shared {
    /// What a connection may take.
    pub limits: Arc<Limits>,
    /// Who decides during a drain.
    pub policies: Policies,
    /// The drain.
    pub watch: Arc<Watch>,
}

impl Shared {
    /// For the threads of one worker.
    pub fn new(limits: Arc<Limits>, policies: Policies, watch: Arc<Watch>) -> Self {
        Self { limits, policies, watch }
    }

    /// What a step may know, at `clock`'s time and in `drain`.
    pub fn cx<'a>(&'a self, clock: &'a Clock, drain: Option<&'a (Drain, PolicyId)>) -> Cx<'a> {
        let policy = self.policies.get(drain.map_or(PolicyId::Stop, |(_, policy)| *policy));
        Cx::new(clock.now(), clock.date(), Waker::noop(), &self.limits, &**policy)
            .draining(drain.map(|(drain, _)| drain))
    }
}

/// Runs the blocking handler of the job on `desk`, on a thread that may wait. The loop sends what it has left queued. Where
/// handlers have a limit, somebody has to look whether the job [is overdue](super::Desks::take_overdue).
pub fn run_blocking<J: Piece>(desk: &Desk<J>, shared: &Shared) {
    let clock = Clock::new();
    if shared.limits.request_timeout.is_zero() {
        desk.work(|job| {
            let active = job.active();
            active.machine.run(&mut BlockingTurn::new(&mut active.io, shared, clock));
        });
        return;
    }
    let call = desk.work(|job| {
        let session = &mut job.active().machine;
        let call = session.begin_call(&shared.cx(&clock, None));
        desk.set_due(session.connection().due());
        call
    });
    let Some(call) = call.flatten() else { return };
    if let Some(now) = call.run(&mut AtDesk { desk, shared, clock }) {
        desk.work(|job| job.active().machine.end_call(call, now));
    }
}

/// A handler's connection, which it has hold of for one read or write at a time.
struct AtDesk<'a, J> {
    desk: &'a Desk<J>,
    shared: &'a Shared,
    clock: Clock,
}

impl<J: Piece> Place for AtDesk<'_, J> {
    fn with<R>(&mut self, work: impl FnOnce(&mut Connection, &mut dyn Turn) -> R) -> Option<R> {
        let Self { desk, shared, clock } = self;
        desk.work(|job| {
            let active = job.active();
            let connection = active.machine.connection_mut();
            let mut turn = BlockingTurn::new(&mut active.io, shared, *clock);
            let done = work(connection, &mut turn);
            *clock = turn.clock;
            // A change of the protocol lifts the limit.
            desk.set_due(connection.due());
            done
        })
    }
}

/// A [`Turn`] that waits with poll(2) on the socket and on the drain.
#[derive(Debug)]
pub struct BlockingTurn<'a, T> {
    io: &'a mut Io<T>,
    shared: &'a Shared,
    clock: Clock,
    drain: Option<(Drain, PolicyId)>,
}

impl<'a, T: Transport + AsFd> BlockingTurn<'a, T> {
    /// For one handler on `io`.
    pub fn new(io: &'a mut Io<T>, shared: &'a Shared, clock: Clock) -> Self {
        Self { io, shared, clock, drain: None }
    }

    fn refresh(&mut self) {
        self.clock.tick();
        self.drain = self.shared.watch.current();
    }

    /// Waits for the socket, the beginning of a drain or the nearest deadline.
    pub(super) fn wait(&mut self, connection: &Connection, interest: Interest) -> io::Result<()> {
        let deadline = connection.deadline(&self.shared.cx(&self.clock, self.drain.as_ref()));
        let timeout = deadline.map(|deadline| deadline.at - self.clock.now());
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN | PollFlags::RDHUP, interest.read);
        events.set(PollFlags::OUT, interest.write);
        let mut fds =
            [PollFd::new(self.io.transport(), events), PollFd::new(&self.shared.watch, PollFlags::IN)];
        // Seen once, the drain's descriptor has nothing more to say.
        let watched = if self.drain.is_none() { 2 } else { 1 };
        let timeout = timeout.map(|t| t.try_into().unwrap_or_default());
        match poll(&mut fds[..watched], timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let (got, told) = (fds[0].revents(), fds[1].revents());
        if !told.is_empty() {
            self.shared.watch.hear(self.clock.tick());
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

impl<T: Transport + AsFd> Turn for BlockingTurn<'_, T> {
    fn cx(&mut self) -> Cx<'_> {
        self.refresh();
        self.shared.cx(&self.clock, self.drain.as_ref())
    }

    fn advance(&mut self, connection: &mut Connection) -> io::Result<()> {
        self.refresh();
        let cx = self.shared.cx(&self.clock, self.drain.as_ref());
        if let Some(interest) = advance(connection, self.io, &cx)? {
            match self.io.transport().wants(interest) {
                Wants::Io(interest) => self.wait(connection, interest)?,
                Wants::Ready => self.io.ready(Readiness { readable: true, ..Readiness::default() }),
            }
        }
        Ok(())
    }

    fn can_wait(&self) -> bool {
        true
    }

    /// Reset, or closed in both directions: what poll(2) reports unasked.
    fn is_gone(&self) -> bool {
        let mut socket = [PollFd::new(self.io.transport(), PollFlags::empty())];
        poll(&mut socket, Some(&Timespec::default())).is_ok_and(|reported| reported > 0)
    }
}
