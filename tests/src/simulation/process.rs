//! A worker process: sessions among `Connections` as in the polling backends, a loop, threads for
//! handlers, and the effects of the kernel on a process.
//!
//! The decisions of the loop are those of core: the connections, the sessions, and [`completion`]
//! for the exit. The model is how orders and signals reach it, and how it accepts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use corosensei::stack::DefaultStack;
use remuda_core::app::{Counters, DrainSignal, Quota, Service};
use remuda_core::handoff::ConnectionRecord;
use remuda_core::machine::{CloseReason, Move};
use remuda_core::order::{Order, PolicyId};
use remuda_core::pump::Readiness;
use remuda_core::session::Protocol as _;
use remuda_core::shutdown::{Drain, Phase, Reason};
use remuda_core::time::Time;
use remuda_core::worker::connections::{Connections, Token, Work};
use remuda_core::worker::drain::completion::{self, BacklogState};
use remuda_core::worker::sys::{EXIT_MARGIN, QUICK_STOP};

use super::application::Simulated;
use super::handler_thread::{Env, HandlerThread, Job};
use super::monitor::{DrainState, Monitor, Timers};
use super::observed::Observed;
use super::script::{Script, signals};
use super::wire::Socket;

/// How a boot goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Boot {
    /// Ready then.
    Ready(Time),
    /// Fails with this status then.
    Fails(Time, u8),
    Hangs,
    Done,
}

pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) slot: u16,
    pub(super) seat: u16,
    /// The arbiter that has forked it.
    pub(super) parent: usize,
    pub(super) generation: u32,
    /// The sockets that it accepts from.
    pub(super) sockets: Vec<usize>,
    /// How often its logs were opened.
    pub(super) logs: u32,
    /// Bytes when it is ready, and how many more each second.
    pub(super) size: (u64, u64),
    pub(super) was_weighed: bool,
    /// It was too large when it was weighed first.
    pub(super) was_large: bool,
    /// The arbiter has received its report of readiness.
    pub(super) is_known: bool,
    /// It drains because of a signal that reached it directly, and reports that to the arbiter.
    pub(super) reports_drain: bool,
    /// An operator has requested its replacement.
    pub(super) is_requested: bool,
    pub(super) boot: Boot,
    pub(super) ready_at: Option<Time>,
    pub(super) beat: Option<Time>,
    /// When its loop or its boot last was alive, or could not be expected to be.
    pub(super) alive_at: Time,
    pub(super) hangs_until: Time,
    pub(super) signals: Vec<i32>,
    pub(super) orders: VecDeque<Order>,
    pub(super) orphaned: bool,
    /// The last order to drain from the arbiter.
    pub(super) drain_order: Option<Drain>,
    pub(super) ordered_stop: bool,
    pub(super) backlog: BacklogState,
    /// When the kernel ends it.
    pub(super) armed: Time,
    pub(super) env: Env,
    pub(super) timers: Arc<Timers>,
    pub(super) service: Arc<Service>,
    /// It has served its quota of requests, and has not reported that yet.
    pub(super) is_spent: Arc<AtomicBool>,
    /// Requests after which it is to be replaced; 0: never.
    pub(super) quota: u64,
    /// Since when it is to be replaced.
    pub(super) spent: Option<Time>,
    connections: Connections<Observed, Socket>,
    pub(super) woken: Arc<AtomicBool>,
    /// The readiness that the next wait reports, with its connections.
    pub(super) reported: Vec<(u32, Readiness)>,
    tokens: BTreeMap<u32, Token>,
    waiting: VecDeque<Job>,
    pub(super) handlers: BTreeMap<u32, HandlerThread>,
    done: Vec<Job>,
    threads: usize,
    graceful: Duration,
    beat_interval: Duration,
    /// Connections that leave for another worker.
    pub(super) leaving: Vec<(u32, ConnectionRecord)>,
    /// The free places of the hand-off queue.
    room: usize,
    /// Since when there has been none.
    full_since: Option<Time>,
    /// Turns within an instant.
    turns: (Time, u32),
    /// The next turn that is queued.
    pub(super) wakes: Time,
}

/// The result of a turn.
pub(super) enum Turned {
    /// The worker continues; its next turn is due then at the latest.
    Again(Time),
    /// The worker exits with this status.
    Exit(u8),
}

/// The pause before another attempt at a full hand-off queue.
const HANDOFF_PAUSE: Duration = Duration::from_millis(2);

/// How long the queue may be full before connections stay.
const HANDOFF_PATIENCE: Duration = Duration::from_secs(1);

/// Turns within an instant that are no progress.
const TURNS: u32 = 2_000;

impl Process {
    pub(super) fn new(
        pid: i32,
        (slot, seat): (u16, u16),
        boot: Boot,
        script: &Script,
        quota: u64,
        monitor: &Arc<Monitor>,
        beat_interval: Duration,
    ) -> Self {
        let (drain_state, timers) = (Arc::new(DrainState::new(monitor.clone())), Arc::new(Timers::default()));
        let drain = DrainSignal::new(drain_state.clone());
        let app = Simulated {
            monitor: monitor.clone(),
            timers: timers.clone(),
            drain: drain.clone(),
            inline: script.inline,
        };
        let is_spent = Arc::new(AtomicBool::new(false));
        let spend = is_spent.clone();
        let limit = Quota::new(quota, move || spend.store(true, Ordering::Relaxed));
        let service = Service::new(app.app(script.blocking), drain, Arc::new(Counters::default()));
        let woken = Arc::new(AtomicBool::new(false));
        let waker = woken.clone();
        let now = monitor.now();
        Self {
            pid,
            slot,
            seat,
            parent: 0,
            generation: 1,
            sockets: Vec::new(),
            logs: 0,
            size: (0, 0),
            was_weighed: false,
            was_large: false,
            is_known: false,
            reports_drain: false,
            is_requested: false,
            boot,
            ready_at: None,
            beat: None,
            alive_at: now,
            hangs_until: now,
            signals: Vec::new(),
            orders: VecDeque::new(),
            orphaned: false,
            drain_order: None,
            ordered_stop: false,
            backlog: BacklogState::Unknown,
            armed: Time::MAX,
            env: Env {
                monitor: monitor.clone(),
                limits: Arc::new(script.limits.clone()),
                policies: script.policies.clone(),
                drain_state,
                date: remuda_core::http1::HttpDate::from_unix(784_111_777),
            },
            timers,
            service: Arc::new(service.limited_to(limit)),
            is_spent,
            quota,
            spent: None,
            connections: Connections::new(move || waker.store(true, Ordering::Relaxed)),
            woken,
            reported: Vec::new(),
            tokens: BTreeMap::new(),
            waiting: VecDeque::new(),
            handlers: BTreeMap::new(),
            done: Vec::new(),
            threads: script.threads,
            graceful: script.graceful,
            beat_interval,
            leaving: Vec::new(),
            room: 0,
            full_since: None,
            turns: (now, 0),
            wakes: Time::MAX,
        }
    }

    pub(super) fn drain(&self) -> Option<Drain> {
        self.env.drain_state.current().map(|(drain, _)| drain)
    }

    /// Whether the arbiter has ordered it to leave, for any reason. A lame duck still serves.
    pub(super) fn is_leaving(&self) -> bool {
        self.drain_order.is_some_and(|drain| drain.phase >= Phase::Draining)
    }

    pub(super) fn is_serving(&self) -> bool {
        matches!(self.boot, Boot::Done)
    }

    /// Bytes of memory that it has resident.
    pub(super) fn rss(&self, now: Time) -> u64 {
        let age = self.ready_at.map_or(0, |at| now.since(at).as_millis() as u64);
        self.size.0 + self.size.1 * age / 1000
    }

    pub(super) fn open(&self) -> usize {
        self.connections.len()
    }

    /// Runs the signal handler, whatever the loop does.
    pub(super) fn interrupt(&mut self, signal: i32) {
        let grace = if signal == signals::INT { self.graceful.min(QUICK_STOP) } else { self.graceful };
        self.arm(self.env.monitor.now() + grace);
        self.signals.push(signal);
    }

    /// Handles orders and signals. Returns whether a drain began or was hurried.
    fn read_orders(&mut self) -> bool {
        let now = self.env.monitor.now();
        let mut changed = false;
        for signal in std::mem::take(&mut self.signals) {
            let (reason, grace) = match signal {
                signals::INT => (Reason::QuickStop, self.graceful.min(QUICK_STOP)),
                _ => (Reason::Stop, self.graceful),
            };
            let is_first = self.drain().is_none();
            changed |= self.enter(Drain::new(reason, now, now + grace), PolicyId::Stop);
            self.reports_drain |= is_first;
        }
        for order in std::mem::take(&mut self.orders) {
            match order {
                Order::Drain { drain, policy } => {
                    if drain.reason.is_stop() && drain.phase >= Phase::Draining {
                        self.backlog = self.backlog.max(BacklogState::Coming);
                    }
                    changed |= self.enter(drain, policy);
                }
                Order::BacklogEnd => self.backlog = self.backlog.max(BacklogState::Ended),
                _ => {}
            }
        }
        if self.orphaned {
            self.backlog = self.backlog.max(BacklogState::Ended);
            changed |= self.enter(Drain::new(Reason::ArbiterDied, now, now + self.graceful), PolicyId::Stop);
        }
        changed
    }

    fn enter(&mut self, drain: Drain, policy: PolicyId) -> bool {
        let before = self.drain().map(|drain| drain.deadline);
        let changed = self.env.drain_state.enter(drain, policy);
        let after = self.drain().map(|drain| drain.deadline);
        self.env.monitor.hold("d11_hurry", before.is_none_or(|before| after <= Some(before)), || {
            format!("worker {}: its deadline moved from {before:?} to {after:?}", self.pid)
        });
        if let Some(deadline) = after.filter(|_| changed) {
            self.env.monitor.trace(|| format!("worker   {} drains: {:?}", self.pid, self.drain()));
            self.arm(deadline);
        }
        changed
    }

    pub(super) fn arm(&mut self, deadline: Time) {
        self.armed = self.armed.min(deadline + EXIT_MARGIN);
    }

    /// One turn of the loop, with new connections. If the wait is `late`, readiness is reported in
    /// the next turn.
    pub(super) fn turn(
        &mut self,
        adopt: Vec<(u32, Session)>,
        late: bool,
        room: usize,
        stacks: &mut Vec<DefaultStack>,
    ) -> Turned {
        self.room = room;
        let monitor = self.env.monitor.clone();
        let now = monitor.now();
        self.turns = if self.turns.0 == now { (now, self.turns.1 + 1) } else { (now, 0) };
        monitor.hold("no_spinning", self.turns.1 < TURNS, || {
            format!("worker {}: {TURNS} turns within an instant", self.pid)
        });
        self.connections.awake();
        (self.beat, self.alive_at) = (Some(now), now);
        let reported = if late { Vec::new() } else { std::mem::take(&mut self.reported) };
        for (conn, readiness) in reported {
            if let Some(token) = self.tokens.get(&conn) {
                self.connections.ready(*token, readiness);
            }
        }
        for job in std::mem::take(&mut self.done) {
            self.connections.restore(job);
        }
        if self.read_orders() {
            self.connections.wake_all();
        }
        for (conn, (machine, socket)) in adopt {
            self.service.counters.accepted.increment();
            let entry = socket.entry;
            let token = self.connections.insert_published(machine, socket, entry);
            self.tokens.insert(conn, token);
        }
        self.timers.fire(now);
        self.connections.begin_turn(now);
        self.woken.store(false, Ordering::Relaxed);
        self.drive(stacks);
        self.end_of_turn(now)
    }

    fn drive(&mut self, stacks: &mut Vec<DefaultStack>) {
        let drain = self.env.drain_state.current();
        if drain.is_some_and(|(drain, _)| drain.is_over(self.env.monitor.now())) {
            self.waiting.drain(..).for_each(|job| self.connections.restore(job));
        }
        let env = self.env.clone();
        let cx = env.cx(drain.as_ref());
        while let Some(work) = self.connections.work(&cx) {
            match work {
                Work::Move(Move::Lease, job) => {
                    self.waiting.push_back(job);
                    self.start_handlers(stacks);
                }
                Work::Closed(reason, socket) => {
                    self.service.counters.closed(reason);
                    self.tokens.remove(&socket.conn);
                    self.close(reason, socket, drain.as_ref().map(|(drain, _)| drain));
                }
                Work::Move(Move::Handoff, job) => {
                    self.hand_off(job, drain.as_ref().map(|(drain, _)| drain));
                }
                Work::Spawn(_) => self.env.monitor.breach("ends", "HTTP/1.1 spawns no calls"),
            }
        }
    }

    /// A connection leaves for another worker, if the hand-off queue has room.
    fn hand_off(&mut self, mut job: Job, drain: Option<&Drain>) {
        let (monitor, now) = (self.env.monitor.clone(), self.env.monitor.now());
        let conn = job.active.machine.conn;
        monitor.hold("d19_hand_off", drain.is_some_and(|drain| drain.receiver), || {
            format!("connection {conn} leaves worker {} without a receiver", self.pid)
        });
        let session = &mut job.active.machine.session;
        let Some(record) = session.hand_off(now) else {
            session.refuse_handoff();
            monitor.stay(conn);
            return self.connections.restore(job);
        };
        if self.leaving.len() >= self.room {
            let since = *self.full_since.get_or_insert(now);
            if now - since >= HANDOFF_PATIENCE {
                session.refuse_handoff();
                monitor.stay(conn);
            } else {
                session.delay_handoff(now + HANDOFF_PAUSE);
            }
            return self.connections.restore(job);
        }
        monitor.trace(|| format!("worker   {} handlers {conn} off", self.pid));
        self.full_since = None;
        session.end(CloseReason::HandedOff);
        self.service.counters.closed(CloseReason::HandedOff);
        self.tokens.remove(&conn);
        self.connections.forget(job.token);
        job.active.io.transport().wire.borrow_mut().moves = true;
        drop(job);
        self.leaving.push((conn, record));
    }

    fn close(&self, reason: CloseReason, socket: Socket, drain: Option<&Drain>) {
        use CloseReason as R;
        let monitor = &self.env.monitor;
        let now = monitor.now();
        let mut wire = socket.wire.borrow_mut();
        wire.reason = Some(reason);
        wire.was_over = drain.is_some_and(|drain| drain.is_over(now));
        let linger = self.env.limits.linger;
        let patient = match wire.half_closed {
            Some(at) => now >= at + linger || wire.end_read || wire.reset || wire.was_over,
            // After a complete response the sending side has to be ended first, unless the client
            // has ended its own.
            None => {
                !matches!(reason, R::Finished | R::Drained | R::Refused | R::ApplicationFailed)
                    || wire.end_read
                    || wire.reset
                    || linger.is_zero()
            }
        };
        monitor.hold("d7_closing", patient, || {
            format!("connection {} is closed for {reason:?} while its client may still send", socket.conn)
        });
        let unread = !wire.arrived.is_empty()
            && matches!(reason, R::IdleTimeout | R::DrainIdle | R::DeadlineIdle | R::PeerClosed)
            && !wire.owed.readable;
        monitor.hold("d7_closing", !unread, || {
            format!("connection {} is closed for {reason:?} with bytes unread", socket.conn)
        });
        monitor.trace(|| format!("worker   {} closes {}: {reason:?}", self.pid, socket.conn));
        drop(wire);
        drop(socket);
    }

    /// Begins waiting handlers on free threads.
    pub(super) fn start_handlers(&mut self, stacks: &mut Vec<DefaultStack>) {
        while self.handlers.len() < self.threads
            && let Some(job) = self.waiting.pop_front()
        {
            let conn = job.active.machine.conn;
            let stack =
                stacks.pop().unwrap_or_else(|| DefaultStack::new(64 * 1024).expect("there is memory"));
            match HandlerThread::begin(job, &self.env, stack) {
                Ok(handler) => drop(self.handlers.insert(conn, handler)),
                Err((mut job, stack)) => {
                    job.active.machine.returned();
                    stacks.push(stack);
                    self.done.push(*job);
                }
            }
        }
    }

    /// Resumes a handler, if the awaited event has happened. Returns whether the loop has to run.
    pub(super) fn resume(
        &mut self,
        conn: u32,
        readable: bool,
        writable: bool,
        stacks: &mut Vec<DefaultStack>,
    ) -> bool {
        let ready = self.handlers.get(&conn).is_some_and(|handler| handler.may_go_on(readable, writable));
        if !ready {
            return false;
        }
        let handler = self.handlers.remove(&conn).expect("it is there");
        match handler.go_on() {
            Ok(handler) => {
                self.handlers.insert(conn, handler);
                false
            }
            Err((mut job, stack)) => {
                job.active.machine.returned();
                stacks.push(stack);
                self.done.push(*job);
                self.start_handlers(stacks);
                true
            }
        }
    }

    fn end_of_turn(&self, now: Time) -> Turned {
        let drain = self.drain();
        let (open, cut) = (self.open(), self.service.counters.cut.get());
        if let Some(exit) = drain.and_then(|drain| completion::exit(&drain, self.backlog, open, cut, now)) {
            self.check_exit(exit.status(), open, now);
            return Turned::Exit(exit.status());
        }
        let connections = self.connections.deadline().map(|at| at.max(now));
        let again = drain.map(|drain| completion::ask_again(&drain, self.backlog, now));
        let beat = now + self.beat_interval;
        let done = (!self.done.is_empty() || !self.reported.is_empty()).then_some(now);
        let next = [connections, again, self.timers.deadline(), done, Some(beat)];
        Turned::Again(next.into_iter().flatten().min().unwrap_or(beat))
    }

    fn check_exit(&self, status: u8, open: usize, now: Time) {
        let monitor = &self.env.monitor;
        let drain = self.drain().expect("only a draining worker exits");
        let tally = self.service.counters.tally();
        monitor.hold("d9_exit_when_empty", open == 0 || now >= drain.deadline + EXIT_MARGIN, || {
            format!("worker {} exits with {open} connections open", self.pid)
        });
        monitor.hold("d9_exit_when_empty", status == 0 || now >= drain.deadline, || {
            format!("worker {} exits with {status} before its deadline", self.pid)
        });
        let settled = tally.answered() + tally.aborted;
        let counted = settled == tally.requests && tally.cut <= tally.aborted;
        monitor.hold("d10_counts", counted || open > 0, || format!("worker {}: {tally:?}", self.pid));
    }

    /// Ends the process, with everything that it held.
    pub(super) fn end(mut self, stacks: &mut Vec<DefaultStack>) {
        self.env.monitor.take_nap();
        for (_, handler) in std::mem::take(&mut self.handlers) {
            stacks.push(handler.die());
        }
    }
}

/// A connection to take in.
pub(super) type Session = (Observed, Socket);
