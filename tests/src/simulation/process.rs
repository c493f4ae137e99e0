//! A worker process: sessions in an intake as the poll-shaped backends have them, a loop that turns, threads for
//! handlers, and what the kernel does to a process.
//!
//! What a loop decides is core's: the intake, the sessions, and [`leave`] for the exit. What is modelled is how orders
//! and signals reach it, and how it accepts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use corosensei::stack::DefaultStack;
use remuda_core::app::{Counters, DrainSignal, Quota, Service};
use remuda_core::order::{Order, PolicyId};
use remuda_core::pump::Readiness;
use remuda_core::shutdown::{Drain, Phase, Reason};
use remuda_core::time::Time;
use remuda_core::worker::intake::{Intake, Token, Work};
use remuda_core::worker::leave::{self, Backlog};
use remuda_core::worker::sys::{EXIT_MARGIN, QUICK_STOP};

use super::application::Simulated;
use super::ground::{Alarms, Ground, Shown};
use super::hand::{Env, Hand, Job};
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
    pub(super) boot: Boot,
    pub(super) ready_at: Option<Time>,
    pub(super) beat: Option<Time>,
    /// When its loop or its boot last was alive, or could not be expected to be.
    pub(super) well: Time,
    pub(super) hangs_until: Time,
    pub(super) signals: Vec<i32>,
    pub(super) orders: VecDeque<Order>,
    pub(super) orphaned: bool,
    /// It was told to drain by the arbiter.
    pub(super) told: Option<Drain>,
    pub(super) told_stop: bool,
    pub(super) backlog: Backlog,
    /// When the kernel ends it.
    pub(super) armed: Time,
    pub(super) env: Env,
    pub(super) alarms: Arc<Alarms>,
    pub(super) service: Arc<Service>,
    /// It has served its share of requests, and nobody knows yet.
    pub(super) is_spent: Arc<AtomicBool>,
    /// After so many; 0: never.
    pub(super) quota: u64,
    /// When it said so.
    pub(super) spent: Option<Time>,
    intake: Intake<Observed, Socket>,
    pub(super) rung: Arc<AtomicBool>,
    /// What a wait would report, of whom.
    pub(super) reported: Vec<(u32, Readiness)>,
    tokens: BTreeMap<u32, Token>,
    waiting: VecDeque<Job>,
    pub(super) hands: BTreeMap<u32, Hand>,
    done: Vec<Job>,
    threads: usize,
    graceful: Duration,
    beat_interval: Duration,
    /// Turns within an instant.
    turns: (Time, u32),
    /// The next turn that was asked for.
    pub(super) wakes: Time,
}

/// What has come of a turn.
pub(super) enum Turned {
    /// It goes on; the next turn is due then at the latest.
    Again(Time),
    /// It ends with this status.
    Exit(u8),
}

/// Turns within an instant that are no progress.
const TURNS: u32 = 2_000;

impl Process {
    pub(super) fn new(
        pid: i32,
        (slot, seat): (u16, u16),
        boot: Boot,
        script: &Script,
        quota: u64,
        ground: &Arc<Ground>,
        beat_interval: Duration,
    ) -> Self {
        let (shown, alarms) = (Arc::new(Shown::new(ground.clone())), Arc::new(Alarms::default()));
        let drain = DrainSignal::new(shown.clone());
        let app = Simulated {
            ground: ground.clone(),
            alarms: alarms.clone(),
            drain: drain.clone(),
            inline: script.inline,
        };
        let is_spent = Arc::new(AtomicBool::new(false));
        let spend = is_spent.clone();
        let limit = Quota::new(quota, move || spend.store(true, Ordering::Relaxed));
        let service = Service::new(app.app(script.blocking), drain, Arc::new(Counters::default()));
        let rung = Arc::new(AtomicBool::new(false));
        let ring = rung.clone();
        let now = ground.now();
        Self {
            pid,
            slot,
            seat,
            boot,
            ready_at: None,
            beat: None,
            well: now,
            hangs_until: now,
            signals: Vec::new(),
            orders: VecDeque::new(),
            orphaned: false,
            told: None,
            told_stop: false,
            backlog: Backlog::Unknown,
            armed: Time::MAX,
            env: Env {
                ground: ground.clone(),
                limits: Arc::new(script.limits.clone()),
                policies: script.policies.clone(),
                shown,
                date: remuda_core::http1::HttpDate::from_unix(784_111_777),
            },
            alarms,
            service: Arc::new(service.limited_to(limit)),
            is_spent,
            quota,
            spent: None,
            intake: Intake::new(move || ring.store(true, Ordering::Relaxed)),
            rung,
            reported: Vec::new(),
            tokens: BTreeMap::new(),
            waiting: VecDeque::new(),
            hands: BTreeMap::new(),
            done: Vec::new(),
            threads: script.threads,
            graceful: script.graceful,
            beat_interval,
            turns: (now, 0),
            wakes: Time::MAX,
        }
    }

    pub(super) fn drain(&self) -> Option<Drain> {
        self.env.shown.current().map(|(drain, _)| drain)
    }

    /// Whether the arbiter has told it to go, for whatever reason. A lame duck still serves.
    pub(super) fn is_leaving(&self) -> bool {
        self.told.is_some_and(|drain| drain.phase >= Phase::Draining)
    }

    pub(super) fn is_serving(&self) -> bool {
        matches!(self.boot, Boot::Done)
    }

    pub(super) fn open(&self) -> usize {
        self.intake.len()
    }

    /// The handler of a signal runs, whatever the loop does.
    pub(super) fn interrupt(&mut self, signal: i32) {
        let grace = if signal == signals::INT { self.graceful.min(QUICK_STOP) } else { self.graceful };
        self.arm(self.env.ground.now() + grace);
        self.signals.push(signal);
    }

    /// Orders and signals; whether a drain began or was hurried.
    fn obey(&mut self) -> bool {
        let now = self.env.ground.now();
        let mut changed = false;
        for signal in std::mem::take(&mut self.signals) {
            let (reason, grace) = match signal {
                signals::INT => (Reason::QuickStop, self.graceful.min(QUICK_STOP)),
                _ => (Reason::Stop, self.graceful),
            };
            changed |= self.enter(Drain::new(reason, now, now + grace), PolicyId::Stop);
        }
        for order in std::mem::take(&mut self.orders) {
            match order {
                Order::Drain { drain, policy } => {
                    if drain.reason.is_stop() && drain.phase >= Phase::Draining {
                        self.backlog = self.backlog.max(Backlog::Coming);
                    }
                    changed |= self.enter(drain, policy);
                }
                Order::BacklogEnd => self.backlog = self.backlog.max(Backlog::Ended),
                _ => {}
            }
        }
        if self.orphaned {
            self.backlog = self.backlog.max(Backlog::Ended);
            changed |= self.enter(Drain::new(Reason::ArbiterDied, now, now + self.graceful), PolicyId::Stop);
        }
        changed
    }

    fn enter(&mut self, drain: Drain, policy: PolicyId) -> bool {
        let before = self.drain().map(|drain| drain.deadline);
        let changed = self.env.shown.enter(drain, policy);
        let after = self.drain().map(|drain| drain.deadline);
        self.env.ground.hold("d11_hurry", before.is_none_or(|before| after <= Some(before)), || {
            format!("worker {}: its deadline moved from {before:?} to {after:?}", self.pid)
        });
        if let Some(deadline) = after.filter(|_| changed) {
            self.env.ground.trace(|| format!("worker   {} drains: {:?}", self.pid, self.drain()));
            self.arm(deadline);
        }
        changed
    }

    pub(super) fn arm(&mut self, deadline: Time) {
        self.armed = self.armed.min(deadline + EXIT_MARGIN);
    }

    /// One turn of the loop, with what it takes in.
    pub(super) fn turn(&mut self, adopt: Vec<(u32, Session)>, stacks: &mut Vec<DefaultStack>) -> Turned {
        let ground = self.env.ground.clone();
        let now = ground.now();
        self.turns = if self.turns.0 == now { (now, self.turns.1 + 1) } else { (now, 0) };
        ground.hold("no_spinning", self.turns.1 < TURNS, || {
            format!("worker {}: {TURNS} turns within an instant", self.pid)
        });
        self.intake.awake();
        (self.beat, self.well) = (Some(now), now);
        for (conn, readiness) in std::mem::take(&mut self.reported) {
            if let Some(token) = self.tokens.get(&conn) {
                self.intake.ready(*token, readiness);
            }
        }
        for job in std::mem::take(&mut self.done) {
            self.intake.restore(job);
        }
        if self.obey() {
            self.intake.wake_all();
        }
        for (conn, (machine, socket)) in adopt {
            self.service.counters.accepted.increment();
            let token = self.intake.insert(machine, socket);
            self.tokens.insert(conn, token);
        }
        self.alarms.ring(now);
        self.intake.begin_turn(now);
        self.rung.store(false, Ordering::Relaxed);
        self.drive(stacks);
        self.end_of_turn(now)
    }

    fn drive(&mut self, stacks: &mut Vec<DefaultStack>) {
        let drain = self.env.shown.current();
        if drain.is_some_and(|(drain, _)| drain.is_over(self.env.ground.now())) {
            self.waiting.drain(..).for_each(|job| self.intake.restore(job));
        }
        let env = self.env.clone();
        let cx = env.cx(drain.as_ref());
        while let Some(work) = self.intake.work(&cx) {
            match work {
                Work::Run(job) => {
                    self.waiting.push_back(job);
                    self.give_hands(stacks);
                }
                Work::Closed(reason, socket) => {
                    self.service.counters.closed(reason);
                    self.tokens.remove(&socket.conn);
                    self.close(reason, socket, drain.as_ref().map(|(drain, _)| drain));
                }
                Work::HandOff(_) => {
                    self.env.ground.breach("d19_hand_off", "nobody has asked for it");
                }
            }
        }
    }

    fn close(&self, reason: remuda_core::machine::CloseReason, socket: Socket, drain: Option<&Drain>) {
        use remuda_core::machine::CloseReason as R;
        let ground = &self.env.ground;
        let now = ground.now();
        let mut wire = socket.wire.borrow_mut();
        wire.reason = Some(reason);
        wire.was_over = drain.is_some_and(|drain| drain.is_over(now));
        let linger = self.env.limits.linger;
        let patient = match wire.half_closed {
            Some(at) => now >= at + linger || wire.end_read || wire.reset || wire.was_over,
            // What was answered to the end has to be half-closed first, unless the client has ended its side.
            None => {
                !matches!(reason, R::Finished | R::Drained | R::Refused | R::ApplicationFailed)
                    || wire.end_read
                    || wire.reset
                    || linger.is_zero()
            }
        };
        ground.hold("d7_closing", patient, || {
            format!("connection {} is closed for {reason:?} while its client may still send", socket.conn)
        });
        let rude = !wire.arrived.is_empty()
            && matches!(reason, R::IdleTimeout | R::DrainIdle | R::PeerClosed)
            && !wire.owed.readable;
        ground.hold("d7_closing", !rude, || {
            format!("connection {} is closed for {reason:?} with bytes unread", socket.conn)
        });
        ground.trace(|| format!("worker   {} closes {}: {reason:?}", self.pid, socket.conn));
        drop(wire);
        drop(socket);
    }

    /// Lets free threads take what waits for one.
    pub(super) fn give_hands(&mut self, stacks: &mut Vec<DefaultStack>) {
        while self.hands.len() < self.threads
            && let Some(job) = self.waiting.pop_front()
        {
            let conn = job.active.machine.conn;
            let stack =
                stacks.pop().unwrap_or_else(|| DefaultStack::new(64 * 1024).expect("there is memory"));
            match Hand::begin(job, &self.env, stack) {
                Ok(hand) => drop(self.hands.insert(conn, hand)),
                Err((job, stack)) => {
                    stacks.push(stack);
                    self.done.push(*job);
                }
            }
        }
    }

    /// A handler goes on, if what it waits for has happened; whether the loop has to look.
    pub(super) fn resume(
        &mut self,
        conn: u32,
        readable: bool,
        writable: bool,
        stacks: &mut Vec<DefaultStack>,
    ) -> bool {
        let ready = self.hands.get(&conn).is_some_and(|hand| hand.may_go_on(readable, writable));
        if !ready {
            return false;
        }
        let hand = self.hands.remove(&conn).expect("it is there");
        match hand.go_on() {
            Ok(hand) => {
                self.hands.insert(conn, hand);
                false
            }
            Err((job, stack)) => {
                stacks.push(stack);
                self.done.push(*job);
                self.give_hands(stacks);
                true
            }
        }
    }

    fn end_of_turn(&self, now: Time) -> Turned {
        let drain = self.drain();
        let (open, cut) = (self.open(), self.service.counters.cut.get());
        if let Some(exit) = drain.and_then(|drain| leave::exit(&drain, self.backlog, open, cut, now)) {
            self.check_exit(exit.status(), open, now);
            return Turned::Exit(exit.status());
        }
        let intake = self.intake.deadline().map(|at| at.max(now));
        let again = drain.map(|drain| leave::ask_again(&drain, self.backlog, now));
        let beat = now + self.beat_interval;
        let done = (!self.done.is_empty()).then_some(now);
        let next = [intake, again, self.alarms.deadline(), done, Some(beat)];
        Turned::Again(next.into_iter().flatten().min().unwrap_or(beat))
    }

    fn check_exit(&self, status: u8, open: usize, now: Time) {
        let ground = &self.env.ground;
        let drain = self.drain().expect("nobody else exits");
        let tally = self.service.counters.tally();
        ground.hold("d9_exit_when_empty", open == 0 || now >= drain.deadline + EXIT_MARGIN, || {
            format!("worker {} exits with {open} connections open", self.pid)
        });
        ground.hold("d9_exit_when_empty", status == 0 || now >= drain.deadline, || {
            format!("worker {} exits with {status} before its deadline", self.pid)
        });
        let counted = tally.finished <= tally.requests && tally.requests <= tally.finished + tally.aborted;
        ground.hold("d10_counts", counted || open > 0, || format!("worker {}: {tally:?}", self.pid));
    }

    /// The process is gone, and all that it had.
    pub(super) fn end(mut self, stacks: &mut Vec<DefaultStack>) {
        self.env.ground.take_nap();
        for (_, hand) in std::mem::take(&mut self.hands) {
            stacks.push(hand.die());
        }
    }
}

/// A connection to take in.
pub(super) type Session = (Observed, Socket);
