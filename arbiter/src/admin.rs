//! The admin listener, served by a small process of its own: `/healthz`, `/readyz` and `/metrics`.
//!
//! It reads the pages that the arbiter and its workers write, and asks nobody, so that it answers while every worker is
//! stuck. The arbiter forks it, replaces it when it dies, and serves nothing itself. All signals stay blocked in it: a TERM
//! to the whole group must not take readiness away before it has been told. It is killed by the arbiter at its end, or by
//! the kernel if that dies; where another helper follows it, it is retired and ends by itself.
//!
//! HTTP is core's: a [`Session`] for each connection, driven by [`drive`]; here is only the wait.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use remuda_core::app::{App, AppError, BodyReader, Counters, DrainSignal, Responder, Service, Short};
use remuda_core::config::Limits;
use remuda_core::conn::Connection;
use remuda_core::handoff::Origin;
use remuda_core::http1::{Head, ResponseHead};
use remuda_core::machine::{Cx, Interest};
use remuda_core::pump::{Io, Outcome, Readiness, drive};
use remuda_core::session::Session;
use remuda_core::shutdown::{Drain, Finish, Reason};
use remuda_core::time::Time;
use remuda_core::worker::{Accepted, Clock, Ledger, Listener, Scoreboard, Socket, Watch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::plan::RETIREMENT;
use crate::status::stage;

mod metrics;

/// What the helper tells of.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) board: Scoreboard,
    pub(crate) ledger: Ledger,
    /// Where the server listens; what waits there is asked of the kernel.
    pub(crate) listeners: Vec<Listener>,
}

/// Connections at most; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;

/// Serves on `listeners` until the process is ended or the other end of `leash` is closed. Then another helper accepts what
/// comes, and this one ends once all that are connected have been answered, with close announced, or were idle for long.
///
/// # Errors
///
/// Why it cannot go on.
pub(crate) fn serve(listeners: Vec<Listener>, leash: OwnedFd, view: View) -> io::Result<()> {
    let mut helper = Helper::new(listeners, leash, view)?;
    while helper.drain.is_none() || !helper.guests.is_empty() {
        helper.turn()?;
    }
    Ok(())
}

struct Helper {
    /// None once it is retired.
    listeners: Vec<Listener>,
    leash: OwnedFd,
    /// What it is in once it is retired.
    drain: Option<Drain>,
    service: Arc<Service>,
    limits: Limits,
    clock: Clock,
    guests: Vec<Guest>,
}

/// A connection, and what it waits for.
struct Guest {
    session: Session,
    io: Io<Socket>,
    interest: Interest,
    until: Time,
}

impl Helper {
    fn new(listeners: Vec<Listener>, leash: OwnedFd, view: View) -> io::Result<Self> {
        let handler = move |head: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>| answer(&view, head, out);
        let drain = DrainSignal::new(Arc::new(Watch::new()?));
        let service = Service::new(App::blocking(Short(handler)), drain, Arc::new(Counters::default()));
        Ok(Self {
            listeners,
            leash,
            drain: None,
            service: Arc::new(service),
            limits: Limits::default(),
            clock: Clock::new(),
            guests: Vec::new(),
        })
    }

    fn turn(&mut self) -> io::Result<()> {
        let accepts = self.guests.len() < CONNECTIONS;
        let mut fds: Vec<_> = self.guests.iter().map(Guest::poll_fd).collect();
        if self.drain.is_none() {
            fds.push(PollFd::new(&self.leash, PollFlags::empty())); // its end is always told
        }
        if accepts {
            fds.extend(self.listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        }
        let deadline = self.guests.iter().map(|guest| guest.until).min();
        let timeout = deadline.filter(|at| *at < Time::MAX).map(|at| timespec(at - self.clock.now()));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let seen: Vec<_> = fds.iter().map(|fd| readiness(fd.revents())).collect();
        drop(fds);
        let now = self.clock.tick();
        if self.drain.is_none() && seen[self.guests.len()].broken {
            self.listeners.clear();
            self.drain = Some(Drain::new(Reason::Upgrade, now, now + RETIREMENT));
        }
        for (guest, readiness) in self.guests.iter_mut().zip(seen) {
            guest.io.ready(readiness);
        }
        for listener in self.listeners.iter().filter(|_| accepts) {
            while let Ok(Some(Accepted { socket, peer, .. })) = listener.accept() {
                let connection = Connection::new(Origin::new(listener.index, peer, 0), now);
                let session = Session::new(connection, self.service.clone());
                let io = Io::new(Socket::new(socket));
                self.guests.push(Guest { session, io, interest: Interest::NONE, until: now });
            }
        }
        let cx = Cx::new(now, self.clock.date(), std::task::Waker::noop(), &self.limits, &Finish);
        let cx = cx.draining(self.drain.as_ref());
        self.guests.retain_mut(|guest| guest.goes_on(&cx));
        Ok(())
    }
}

impl Guest {
    fn poll_fd(&self) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN | PollFlags::RDHUP, self.interest.read);
        flags.set(PollFlags::OUT, self.interest.write);
        PollFd::from_borrowed_fd(self.io.transport().as_fd(), flags)
    }

    fn goes_on(&mut self, cx: &Cx<'_>) -> bool {
        match drive(&mut self.session, &mut self.io, cx) {
            Outcome::Wait { interest, deadline } => {
                self.interest = interest;
                self.until = deadline.map_or(Time::MAX, |deadline| deadline.at);
                true
            }
            Outcome::Again => {
                self.until = cx.now;
                true
            }
            // A body that is too large to be taken in would need a thread, and nobody has a reason to send one.
            Outcome::Run | Outcome::HandOff | Outcome::Close(_) => false,
        }
    }
}

fn answer(view: &View, head: &Head<'_>, out: Responder<'_>) -> Result<(), AppError> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, kind, body) = match (head.method(), head.path()) {
        ("GET" | "HEAD", "/healthz") => (200, TEXT, "alive\n".to_owned()),
        ("GET" | "HEAD", "/readyz") => match view.ledger.read(&view.board).is_ready() {
            true => (200, TEXT, "ready\n".to_owned()),
            false => (503, TEXT, format!("not ready: {}\n", stage(view.ledger.stage()))),
        },
        ("GET" | "HEAD", "/metrics") => (200, metrics::CONTENT_TYPE, metrics::text(view)),
        (_, "/healthz" | "/readyz" | "/metrics") => {
            let head = ResponseHead::new(405).field("Content-Type", TEXT).field("Allow", "GET, HEAD");
            return Ok(out.send(head, "GET or HEAD\n")?);
        }
        _ => (404, TEXT, "there are /healthz, /readyz and /metrics\n".to_owned()),
    };
    let head = ResponseHead::new(status).field("Content-Type", kind).field("Cache-Control", "no-store");
    Ok(out.send(head, body)?)
}

fn readiness(flags: PollFlags) -> Readiness {
    let broken = flags.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
    let read_closed = flags.contains(PollFlags::RDHUP);
    Readiness {
        readable: flags.contains(PollFlags::IN) || read_closed || broken,
        writable: flags.contains(PollFlags::OUT) || broken,
        read_closed,
        broken,
    }
}

fn timespec(left: Duration) -> Timespec {
    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
}
