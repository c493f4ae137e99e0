//! A thread that runs a blocking handler, in virtual time: a coroutine, resumed when the awaited
//! event has happened.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::task::Waker;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use remuda_core::app::BlockingIo;
use remuda_core::config::Limits;
use remuda_core::conn::Connection;
use remuda_core::http1::HttpDate;
use remuda_core::machine::{Cx, Interest};
use remuda_core::order::PolicyId;
use remuda_core::pump::{Io, advance, push};
use remuda_core::session::{LeasedCall, Protocol};
use remuda_core::shutdown::Drain;
use remuda_core::time::Time;
use remuda_core::worker::{Policies, connections};

use super::monitor::{DrainState, Monitor, Nap};
use super::observed::Observed;
use super::wire::Socket;

pub(super) type Job = connections::Detached<Observed, Socket>;

/// The state that the threads of a worker share.
#[derive(Clone)]
pub(super) struct Env {
    pub(super) monitor: Arc<Monitor>,
    pub(super) limits: Arc<Limits>,
    pub(super) policies: Policies,
    pub(super) drain_state: Arc<DrainState>,
    pub(super) date: HttpDate,
}

impl Env {
    pub(super) fn cx<'a>(&'a self, drain: Option<&'a (Drain, PolicyId)>) -> Cx<'a> {
        let policy = self.policies.get(drain.map_or(PolicyId::Stop, |(_, policy)| *policy));
        Cx::new(self.monitor.now(), &self.date, Waker::noop(), &self.limits, &**policy)
            .draining(drain.map(|(drain, _)| drain))
    }
}

/// The event that a handler waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pause {
    Nap(Nap),
    Io { interest: Interest, until: Option<Time>, draining: bool },
}

/// How a wait ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Resume {
    Go,
    /// The process ends. Nothing that the handler does from here on has an effect.
    Die,
}

/// A running handler.
pub(super) struct HandlerThread {
    coroutine: Coroutine<Resume, Pause, Box<Job>>,
    pub(super) pause: Pause,
    env: Env,
}

impl HandlerThread {
    /// Begins `job`. Returns a waiting handler, or the finished job.
    pub(super) fn begin(job: Job, env: &Env, stack: DefaultStack) -> Result<Self, (Box<Job>, DefaultStack)> {
        let (mut job, inside) = (Box::new(job), env.clone());
        let mut coroutine = Coroutine::with_stack(stack, move |yielder, _: Resume| {
            let active = &mut *job.active;
            let turn =
                &mut SimulatedIo { io: &mut active.io, yielder, env: inside, drain: None, dead: false };
            let call = active.machine.session.lease(&turn.cx());
            if let Some(LeasedCall::Blocking(call)) = call
                && let Some(mut held) = active.machine.session.hold(turn)
                && let Some(now) = call.run(&mut held)
            {
                active.machine.session.settle(call, now);
            }
            job
        });
        match coroutine.resume(Resume::Go) {
            CoroutineResult::Yield(pause) => Ok(Self { coroutine, pause, env: env.clone() }),
            CoroutineResult::Return(job) => Err((job, coroutine.into_stack())),
        }
    }

    /// The time at which it continues without any other event.
    pub(super) fn deadline(&self) -> Option<Time> {
        match self.pause {
            Pause::Nap(nap) => Some(nap.until).filter(|at| *at < Time::MAX),
            Pause::Io { until, .. } => until,
        }
    }

    /// Whether the awaited event has happened, given the readiness of the wire.
    pub(super) fn may_go_on(&self, readable: bool, writable: bool) -> bool {
        let now = self.env.monitor.now();
        let drains = self.env.drain_state.current().is_some();
        match self.pause {
            Pause::Nap(nap) => now >= nap.until || nap.or_drain && drains,
            Pause::Io { interest, until, draining } => {
                interest.read && readable
                    || interest.write && writable
                    || until.is_some_and(|at| now >= at)
                    || drains && !draining
            }
        }
    }

    /// Goes on until the next wait, or to the end.
    pub(super) fn go_on(mut self) -> Result<Self, (Box<Job>, DefaultStack)> {
        match self.coroutine.resume(Resume::Go) {
            CoroutineResult::Yield(pause) => Ok(Self { pause, ..self }),
            CoroutineResult::Return(job) => Err((job, self.coroutine.into_stack())),
        }
    }

    /// Ends with its process.
    pub(super) fn die(mut self) -> DefaultStack {
        loop {
            if let CoroutineResult::Return(job) = self.coroutine.resume(Resume::Die) {
                drop(job);
                return self.coroutine.into_stack();
            }
        }
    }
}

/// As `PollBlocking`, with a coroutine's pause where that calls poll(2).
struct SimulatedIo<'a> {
    io: &'a mut Io<Socket>,
    yielder: &'a Yielder<Resume, Pause>,
    env: Env,
    drain: Option<(Drain, PolicyId)>,
    dead: bool,
}

impl SimulatedIo<'_> {
    fn pause(&mut self, pause: Pause) {
        self.dead |= self.yielder.suspend(pause) == Resume::Die;
    }
}

impl BlockingIo for SimulatedIo<'_> {
    fn cx(&mut self) -> Cx<'_> {
        if let Some(nap) = self.env.monitor.take_nap()
            && !self.dead
        {
            self.pause(Pause::Nap(nap));
            if self.dead {
                resume_unwind(Box::new("the process has ended"));
            }
        }
        self.drain = self.env.drain_state.current();
        self.env.cx(self.drain.as_ref())
    }

    fn advance(&mut self, connection: &mut Connection) -> io::Result<()> {
        self.drain = self.env.drain_state.current();
        if self.dead {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if let Some(interest) = advance(connection, self.io, &self.env.cx(self.drain.as_ref()))? {
            let deadline = connection.deadline(&self.env.cx(self.drain.as_ref()));
            let until = deadline.map(|deadline| deadline.at);
            self.pause(Pause::Io { interest, until, draining: self.drain.is_some() });
            if self.dead {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let level = self.io.transport().wire.borrow().level();
            self.io.ready(level);
        }
        Ok(())
    }

    fn can_wait(&self) -> bool {
        true
    }

    fn push(&mut self, connection: &mut Connection) {
        if !self.dead {
            push(connection, self.io, self.env.monitor.now());
        }
    }
}
