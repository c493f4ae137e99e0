//! The admin listener, served by a small process of its own: `/healthz`, `/readyz` and `/metrics`.
//!
//! The helper reads the shared memory that the arbiter and workers write. It sends nothing to
//! another process and waits for none, so it answers while every worker is stuck. For `/metrics` it
//! also reads the kernel's data about listeners and processes. The arbiter forks it and replaces it
//! when it dies. All signals stay blocked in it: a TERM to the whole process group must not end it
//! before `/readyz` has reported the stop. The arbiter kills it at its own end, the kernel if the
//! arbiter dies. A helper with a successor is retired and ends by itself.
//!
//! It waits and keeps its connections as the poll loop of a worker does, with [`Epoll`] and
//! [`Connections`]. The loop itself is its own: a worker's reads orders, beats in a seat of the
//! scoreboard, takes over connections of others and stops accepting when it is full, none of which
//! fits here. HTTP is that of core.

use std::cmp::Reverse;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use remuda_core::app::{App, AppError, BodyReader, Counters, DrainSignal, Responder, Service, Short};
use remuda_core::config::Limits;
use remuda_core::conn::Connection;
use remuda_core::http1::{Head, ResponseHead};
use remuda_core::machine::{Cx, Interest};
use remuda_core::peer::{Origin, Peer};
use remuda_core::session::Session;
use remuda_core::shutdown::{Drain, Finish, Reason};
use remuda_core::time::Time;
use remuda_core::worker::connections::{Connections, Token, Work};
use remuda_core::worker::waiter::{Epoll, Events, Waiter as _};
use remuda_core::worker::{
    AcceptError, Accepted, Clock, Ledger, Listener, Logs, Scoreboard, ServerStage, Socket, Watch,
};
use rustix::process::Pid;

use self::metrics::Notation;
use self::processes::Processes;
use crate::plan::words::RETIREMENT;
use crate::status::stage;

mod metrics;
mod processes;

/// The data that the helper serves.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) board: Scoreboard,
    pub(crate) ledger: Ledger,
    /// The listeners of the server, whose queues the kernel reports.
    pub(crate) listeners: Vec<Listener>,
    /// The version of the program for `/metrics`.
    pub(crate) program: String,
    processes: Processes,
}

impl View {
    /// Creates the view of the helper of `arbiter`.
    pub(crate) fn new(
        board: Scoreboard,
        ledger: Ledger,
        listeners: Vec<Listener>,
        program: String,
        arbiter: Pid,
    ) -> Self {
        let processes = Processes::new(arbiter.as_raw_nonzero().get());
        Self { board, ledger, listeners, program, processes }
    }
}

/// The largest number of connections. A further one displaces another, so that a probe is answered
/// whatever other clients do.
const CONNECTIONS: usize = 64;

/// The pause of accepting if no descriptor is free and no connection can be closed for one.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves on `listeners` until the process is killed or the other end of `leash` is closed. After
/// that another helper accepts, and this one ends once all its connections have been answered with
/// close announced, or were idle until the deadline.
///
/// # Errors
///
/// As epoll_create1(2), epoll_ctl(2) and epoll_wait(2).
pub(crate) fn serve(listeners: Vec<Listener>, leash: OwnedFd, view: View, logs: Logs) -> io::Result<()> {
    let mut helper = Helper::new(listeners, leash, view, logs)?;
    let mut events = Events::default();
    while helper.drain.is_none() || !helper.connections.is_empty() {
        helper.turn(&mut events)?;
    }
    Ok(())
}

struct Helper {
    waiter: Epoll,
    clock: Clock,
    logs: Logs,
    /// Empty once the helper is retired.
    listeners: Vec<Listener>,
    /// Open for as long as its end is waited for.
    _leash: OwnedFd,
    /// The drain, once the helper is retired.
    drain: Option<Drain>,
    service: Arc<Service>,
    limits: Limits,
    connections: Connections<Session, Socket>,
    /// When to accept, if connections may have been left in a queue. Before that, none is accepted.
    /// None: when a listener reports one.
    accept_at: Option<Time>,
}

const LEASH: u64 = 0;
const LISTENER: u64 = 1;

const READ: Interest = Interest { read: true, write: false };
const BOTH: Interest = Interest { read: true, write: true };

impl Helper {
    fn new(listeners: Vec<Listener>, leash: OwnedFd, view: View, logs: Logs) -> io::Result<Self> {
        let handler = move |head: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>| answer(&view, head, out);
        let drain = DrainSignal::new(Arc::new(Watch::new()?));
        let service = Service::new(App::blocking(Short(handler)), drain, Arc::new(Counters::default()));
        // Pipelined requests for metrics must not delay other connections.
        let mut limits = Limits::default();
        limits.pipeline_budget = 1;
        let waiter = Epoll::new()?;
        waiter.register(leash.as_fd(), LEASH, READ)?;
        listeners.iter().try_for_each(|listener| waiter.register(listener.as_fd(), LISTENER, READ))?;
        Ok(Self {
            waiter,
            clock: Clock::new(),
            logs,
            listeners,
            _leash: leash,
            drain: None,
            service: Arc::new(service),
            limits,
            connections: Connections::new(|| ()), // no future runs here, which could end a wait
            accept_at: None,
        })
    }

    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        self.waiter.wait(events, self.timeout())?;
        self.connections.awake();
        let now = self.clock.tick();
        self.logs.tend(now);
        for (number, readiness) in Epoll::reported(events) {
            match Token::from_u64(number) {
                Some(token) => self.connections.ready(token, readiness),
                None if number == LEASH => self.retire(now),
                None => {} // the turn looks at all listeners
            }
        }
        self.connections.begin_turn(now);
        let cx = cx(&self.clock, &self.limits, self.drain.as_ref(), now);
        while let Some(work) = self.connections.work(&cx) {
            close(&mut self.connections, work);
        }
        if self.accept_at.is_none_or(|at| at <= now) {
            self.accept_at =
                (0..self.listeners.len()).filter_map(|listener| self.accept(listener, now)).min();
        }
        Ok(())
    }

    fn timeout(&self) -> Duration {
        let next = [self.connections.deadline(), self.accept_at, self.logs.deadline()];
        next.into_iter().flatten().min().map_or(Duration::MAX, |at| at.since(self.clock.now()))
    }

    /// The arbiter has closed its end of the leash: a successor accepts from now on.
    fn retire(&mut self, now: Time) {
        if self.drain.is_none() {
            // Other processes hold the listeners, so closing them would not end their reports.
            self.listeners.drain(..).for_each(|listener| self.waiter.deregister(listener.as_fd()));
            self.drain = Some(Drain::new(Reason::Upgrade, now, now + RETIREMENT));
            self.connections.wake_all();
        }
    }

    /// Accepts from a listener. Returns when to accept again, if connections may have been left in
    /// its queue.
    fn accept(&mut self, listener: usize, now: Time) -> Option<Time> {
        // Connected clients are served between batches of this size.
        for _ in 0..CONNECTIONS {
            match self.listeners[listener].accept() {
                Ok(Some(accepted)) => self.begin(accepted, now),
                Ok(None) => return None,
                Err(AcceptError::Exhausted(_)) if !self.connections.is_empty() => self.make_room(),
                Err(_) => return Some(now + PAUSE),
            }
        }
        Some(now)
    }

    /// Answers a request that has already arrived at once, however many connections wait for their
    /// turn. A complete one needs no place.
    fn begin(&mut self, Accepted { socket, peer, listener, .. }: Accepted, now: Time) {
        let token = self.connections.next_token();
        if let Err(error) = self.waiter.register(socket.as_fd(), token.as_u64(), BOTH) {
            return tracing::error!("cannot wait for a connection, which is closed: {error}");
        }
        let connection = Connection::new(Origin::new(listener, peer, 0), now);
        self.connections.insert(Session::new(connection, self.service.clone()), Socket::new(socket));
        let cx = cx(&self.clock, &self.limits, self.drain.as_ref(), now);
        if let Some(work) = self.connections.drive_one(token, &cx) {
            close(&mut self.connections, work);
        }
        if self.connections.len() > CONNECTIONS {
            self.make_room();
        }
    }

    /// Closes the oldest connection of the address with the most connections. A client with many
    /// connections thus displaces its own, and its new connections are still served.
    fn make_room(&mut self) {
        let all: Vec<_> = self.connections.iter().map(|(token, session)| (token, host(session))).collect();
        let count = |host| all.iter().filter(|(_, other)| *other == host).count();
        let oldest = all.iter().max_by_key(|(token, host)| (count(*host), Reverse(*token)));
        if let Some((token, _)) = oldest {
            self.connections.forget(*token);
        }
    }
}

fn cx<'a>(clock: &'a Clock, limits: &'a Limits, drain: Option<&'a Drain>, now: Time) -> Cx<'a> {
    Cx::new(now, clock.date(), Waker::noop(), limits, &Finish).draining(drain)
}

/// Closes a connection that has ended. One that needs a thread is closed as well: only a body too
/// large to be buffered does, and no client has a reason to send one.
fn close(connections: &mut Connections<Session, Socket>, work: Work<Session, Socket>) {
    if let Work::Move(_, detached) | Work::Spawn(detached) = work {
        connections.forget(detached.token);
    }
}

/// The peer's address without port. None for peers on unix sockets, which count as one.
fn host(session: &Session) -> Option<IpAddr> {
    match session.connection()?.info().peer {
        Peer::Inet(addr) => Some(addr.ip()),
        Peer::Unix => None,
    }
}

fn answer(view: &View, head: &Head<'_>, out: Responder<'_>) -> Result<(), AppError> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, kind, body) = match (head.method(), head.path()) {
        ("GET" | "HEAD", "/healthz") => (200, TEXT, "alive\n".to_owned()),
        ("GET" | "HEAD", "/readyz") => match view.ledger.read(&view.board).is_ready() {
            true => (200, TEXT, "ready\n".to_owned()),
            false => (503, TEXT, format!("not ready: {}\n", why_not(view.ledger.stage()))),
        },
        ("GET" | "HEAD", "/metrics") => {
            let notation = Notation::accepted(head.field("accept"));
            (200, notation.content_type(), metrics::text(view, notation))
        }
        (_, "/healthz" | "/readyz" | "/metrics") => {
            let head = ResponseHead::new(405).field("Content-Type", TEXT).field("Allow", "GET, HEAD");
            return Ok(out.send(head, "allowed: GET, HEAD\n")?);
        }
        _ => (404, TEXT, "not found; available: /healthz, /readyz, /metrics\n".to_owned()),
    };
    let head = ResponseHead::new(status)
        .field("Content-Type", kind)
        .field("Cache-Control", "no-store")
        .field("Vary", "Accept");
    Ok(out.send(head, body)?)
}

/// The reason why a server in this stage is not ready. In the stage Serving it is the lack of a
/// ready worker.
fn why_not(at: ServerStage) -> &'static str {
    match at {
        ServerStage::Serving => "no worker is ready",
        other => stage(other),
    }
}
