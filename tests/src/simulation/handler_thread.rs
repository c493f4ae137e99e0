//! A thread that runs a blocking handler, in virtual time: a coroutine that is resumed when what it waits for has
//! happened.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::task::Waker;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use remuda_core::app::Turn;
use remuda_core::config::Limits;
use remuda_core::conn::Connection;
use remuda_core::http1::HttpDate;
use remuda_core::machine::{Cx, Interest};
use remuda_core::order::PolicyId;
use remuda_core::pump::{Io, advance};
use remuda_core::shutdown::Drain;
use remuda_core::time::Time;
use remuda_core::worker::{Policies, intake};

use super::ground::{Ground, Nap, Shown};
use super::observed::Observed;
use super::wire::Socket;

pub(super) type Job = intake::Job<Observed, Socket>;

/// What the threads of a worker share.
#[derive(Clone)]
pub(super) struct Env {
    pub(super) ground: Arc<Ground>,
    pub(super) limits: Arc<Limits>,
    pub(super) policies: Policies,
    pub(super) shown: Arc<Shown>,
    pub(super) date: HttpDate,
}

impl Env {
    pub(super) fn cx<'a>(&'a self, drain: Option<&'a (Drain, PolicyId)>) -> Cx<'a> {
        let policy = self.policies.get(drain.map_or(PolicyId::Stop, |(_, policy)| *policy));
        Cx::new(self.ground.now(), &self.date, Waker::noop(), &self.limits, &**policy)
            .draining(drain.map(|(drain, _)| drain))
    }
}

/// What a handler waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pause {
    Nap(Nap),
    Io { interest: Interest, until: Option<Time>, draining: bool },
}

/// How a wait ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Resume {
    Go,
    /// With the process: nothing that happens from here on matters.
    Die,
}

/// A handler at work.
pub(super) struct Hand {
    coroutine: Coroutine<Resume, Pause, Box<Job>>,
    pub(super) pause: Pause,
    env: Env,
}

impl Hand {
    /// Begins `job`: a handler that waits, or the job, done.
    pub(super) fn begin(job: Job, env: &Env, stack: DefaultStack) -> Result<Self, (Box<Job>, DefaultStack)> {
        let (mut job, inside) = (Box::new(job), env.clone());
        let mut coroutine = Coroutine::with_stack(stack, move |yielder, _: Resume| {
            let active = &mut *job.active;
            let turn =
                &mut SimulatedTurn { io: &mut active.io, yielder, env: inside, drain: None, dead: false };
            active.machine.session.run(turn);
            job
        });
        match coroutine.resume(Resume::Go) {
            CoroutineResult::Yield(pause) => Ok(Self { coroutine, pause, env: env.clone() }),
            CoroutineResult::Return(job) => Err((job, coroutine.into_stack())),
        }
    }

    /// When time alone makes it go on.
    pub(super) fn deadline(&self) -> Option<Time> {
        match self.pause {
            Pause::Nap(nap) => Some(nap.until).filter(|at| *at < Time::MAX),
            Pause::Io { until, .. } => until,
        }
    }

    /// Whether what it waits for has happened; `socket` says what the wire is ready for.
    pub(super) fn may_go_on(&self, readable: bool, writable: bool) -> bool {
        let now = self.env.ground.now();
        let drains = self.env.shown.current().is_some();
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

/// As `BlockingTurn`, with a coroutine's pause where that calls poll(2).
struct SimulatedTurn<'a> {
    io: &'a mut Io<Socket>,
    yielder: &'a Yielder<Resume, Pause>,
    env: Env,
    drain: Option<(Drain, PolicyId)>,
    dead: bool,
}

impl SimulatedTurn<'_> {
    fn pause(&mut self, pause: Pause) {
        self.dead |= self.yielder.suspend(pause) == Resume::Die;
    }
}

impl Turn for SimulatedTurn<'_> {
    fn cx(&mut self) -> Cx<'_> {
        if let Some(nap) = self.env.ground.take_nap()
            && !self.dead
        {
            self.pause(Pause::Nap(nap));
            if self.dead {
                resume_unwind(Box::new("the process has ended"));
            }
        }
        self.drain = self.env.shown.current();
        self.env.cx(self.drain.as_ref())
    }

    fn advance(&mut self, connection: &mut Connection) -> io::Result<()> {
        self.drain = self.env.shown.current();
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
}
