//! A session, each step of which is checked against the contract.

use std::sync::Arc;

use remuda_core::config::{HIGH_WATER, LINGER_AT_DEADLINE, Limits};
use remuda_core::conn::Connection;
use remuda_core::machine::{CloseReason, Cx, IoSlices, Machine, Move, Step, Timer, Wire};
use remuda_core::rescue::Standing;
use remuda_core::session::Session;
use remuda_core::shutdown::{ConnState, Drain, Idle, Phase};
use remuda_core::time::Time;

use super::monitor::{Look, Monitor, ms};

/// Bytes that a response may add to the high-water mark: the largest that is given in one piece,
/// and heads.
const ONE_RESPONSE: usize = 160 * 1024;

/// Steps within one instant that are no progress.
const STEPS: u32 = 20_000;

pub(super) struct Observed {
    pub(super) session: Session,
    pub(super) conn: u32,
    monitor: Arc<Monitor>,
    limits: Arc<Limits>,
    accepted: Time,
    /// When the last queued byte was sent, or the last byte of a discarded body was read.
    flushed: Time,
    /// A thread has moved its bytes.
    was_away: bool,
    /// When that thread was done, which the loop may see later.
    flushed_away: Option<Time>,
    half_closed: Option<Time>,
    /// The deadline of the head under way, for as many responses.
    head: Option<(u32, Time)>,
    drain_deadline: Option<Time>,
    steps: (Time, u32),
}

impl Observed {
    pub(super) fn new(
        session: Session,
        conn: u32,
        monitor: Arc<Monitor>,
        limits: Arc<Limits>,
        accepted: Time,
    ) -> Self {
        Self {
            session,
            conn,
            monitor,
            limits,
            accepted,
            flushed: accepted,
            was_away: false,
            flushed_away: None,
            half_closed: None,
            head: None,
            drain_deadline: None,
            steps: (accepted, 0),
        }
    }

    /// A thread returns it to the loop.
    pub(super) fn returned(&mut self) {
        self.flushed_away = Some(self.monitor.now());
    }

    fn connection(&self) -> &Connection {
        self.session.connection().expect("all connections carry HTTP/1.1")
    }

    fn hold(&self, rule: &'static str, kept: bool, what: impl FnOnce() -> String) {
        self.monitor.hold(rule, kept, || format!("connection {}: {}", self.conn, what()));
    }

    /// Checks the rules for a wait.
    fn check_wait(&mut self, step: Step, cx: &Cx<'_>) {
        let Step::Wait { interest, deadline } = step else { return };
        let (now, state) = (cx.now, self.connection().state());
        let unsent = self.connection().unsent();
        let at = deadline.map(|deadline| deadline.at);
        self.hold("no_spinning", at.is_none_or(|at| at > now), || format!("{deadline:?} has passed"));
        self.hold("no_lost_wake_up", interest.write == (unsent > 0), || {
            format!("{unsent} bytes unsent, waits for {interest:?}")
        });
        let never = interest.is_none() && at.is_none() && !self.monitor.is_at_work(self.conn);
        self.hold("no_lost_wake_up", !never, || format!("{state:?} waits for nothing"));
        self.hold("memory", unsent <= HIGH_WATER + ONE_RESPONSE, || format!("{unsent} bytes unsent"));
        if interest.read {
            let room = self.session.read_buf().len();
            self.hold("memory", (1..=64 * 1024).contains(&room), || format!("reads into {room} bytes"));
        }

        let within = |bound: Time| at.is_some_and(|at| at <= bound);
        let limits = self.limits.clone();
        if self
            .head
            .is_some_and(|(served, _)| state != ConnState::Head || served != self.connection().served())
        {
            self.head = None;
        }
        match state {
            ConnState::Idle if !limits.keep_alive.is_zero() => {
                // The end of a discarded body may be handled in the next turn.
                let bound = self.flushed + limits.keep_alive + ms(15);
                self.hold("d8_idle_age", within(bound), || format!("idle until {at:?}, not {bound:?}"));
            }
            ConnState::Fresh => {
                let bound = self.accepted + limits.header_timeout;
                self.hold("d12_silent_clients", within(bound), || {
                    format!("fresh until {at:?}, not {bound:?}")
                });
            }
            ConnState::Head => {
                let served = self.connection().served();
                let bound = self.head.map_or(now + limits.header_timeout, |(_, bound)| bound);
                self.hold("d12_silent_clients", within(bound), || {
                    format!("half a head until {at:?}, not {bound:?}")
                });
                // The hand-off queue, which may have no room for a while, moves no deadline of the
                // head.
                let own = deadline.filter(|deadline| deadline.why == Timer::Head).map(|deadline| deadline.at);
                self.head = Some((served, own.unwrap_or(bound)));
            }
            ConnState::Lingering => {
                let bound = self.half_closed.unwrap_or(now) + limits.linger;
                self.hold("d7_closing", within(bound), || format!("lingers until {at:?}, not {bound:?}"));
            }
            _ => {}
        }
        if let Some(drain) = cx.drain.filter(|drain| drain.phase >= Phase::Draining) {
            self.check_drain(drain, at, now);
            if matches!(state, ConnState::Fresh | ConnState::Idle) {
                let wish = cx.policy.idle(drain, &self.connection().view(), now);
                // The hand-off queue may have no room for a while.
                let waits = wish == Idle::Handoff && within(now + ms(10));
                self.hold(
                    "d6_policy",
                    waits || matches!(wish, Idle::Keep { until } if within(until)),
                    || format!("{state:?} until {at:?}, but the policy returns {wish:?}"),
                );
            }
        }
    }

    fn check_drain(&mut self, drain: &Drain, at: Option<Time>, now: Time) {
        let bound = if drain.is_over(now) { drain.deadline + LINGER_AT_DEADLINE } else { drain.deadline };
        let bound = match self.connection().state() {
            ConnState::Lingering => drain.deadline + LINGER_AT_DEADLINE,
            _ => bound,
        };
        self.hold("d10_deadline", at.is_some_and(|at| at <= bound), || {
            format!("waits until {at:?}, the drain until {bound:?}")
        });
        let before = self.drain_deadline.replace(drain.deadline);
        self.hold("d11_hurry", before.is_none_or(|before| drain.deadline <= before), || {
            format!("a deadline has moved from {before:?} to {:?}", drain.deadline)
        });
    }

    /// Checks the rules for the end of a connection.
    fn check_end(&self, reason: CloseReason, cx: &Cx<'_>) {
        let (now, limits) = (cx.now, &self.limits);
        let over = cx.drain.is_some_and(|drain| drain.is_over(now));
        let draining = cx.drain.is_some_and(|drain| drain.phase >= Phase::Draining);
        let fresh = self.connection().served() == 0;
        let kept = match reason {
            CloseReason::DeadlineIdle | CloseReason::DeadlineCut => over,
            CloseReason::DrainIdle | CloseReason::Drained => draining,
            CloseReason::IdleTimeout if fresh => {
                let least = limits.header_timeout;
                now >= self.accepted + if draining { least.min(limits.keep_alive) } else { least }
            }
            // A thread may have flushed it before the loop saw that.
            CloseReason::IdleTimeout => {
                let flushed = self.flushed_away.unwrap_or(self.flushed).min(self.flushed);
                now + ms(15) >= flushed + limits.keep_alive
            }
            CloseReason::TimedOut(Timer::Body) => now >= self.accepted + limits.body_timeout,
            CloseReason::TimedOut(Timer::Write) => now >= self.accepted + limits.write_timeout,
            _ => true,
        };
        self.hold("d10_deadline", kept, || format!("ended too early, {reason:?}"));
    }
}

impl Machine for Observed {
    fn step(&mut self, cx: &Cx<'_>) -> Step {
        self.steps = if self.steps.0 == cx.now { (cx.now, self.steps.1 + 1) } else { (cx.now, 0) };
        self.hold("no_spinning", self.steps.1 < STEPS, || format!("{STEPS} steps within an instant"));
        if std::mem::take(&mut self.was_away) {
            self.flushed = cx.now;
        }
        let step = self.session.step(cx);
        match step {
            Step::Move(Move::Lease) => (self.was_away, self.flushed_away) = (true, None),
            Step::Wait { .. } => self.check_wait(step, cx),
            Step::HalfClose => self.half_closed = Some(cx.now),
            Step::Close(reason) => self.check_end(reason, cx),
            Step::Look { .. } => {
                self.monitor.look(self.conn, Look { at: cx.now, since: self.flushed.min(cx.now) });
            }
            _ => {}
        }
        self.monitor.trace(|| format!("step     {} {:?} {step:?}", self.conn, self.connection().state()));
        step
    }

    fn rest(&mut self) {
        self.session.rest();
    }
}

impl Wire for Observed {
    fn read_buf(&mut self) -> &mut [u8] {
        self.session.read_buf()
    }

    fn handle_read(&mut self, n: usize, now: Time) {
        self.session.handle_read(n, now);
        if self.connection().in_flight() {
            self.flushed = now;
        }
    }

    fn handle_eof(&mut self, now: Time) {
        self.session.handle_eof(now);
    }

    fn standing(&self) -> Standing {
        self.session.standing()
    }

    fn standing_once_sent(&self, n: usize) -> Option<Standing> {
        self.session.standing_once_sent(n)
    }

    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
        self.session.transmit(out);
    }

    fn handle_written(&mut self, n: usize, now: Time) {
        self.session.handle_written(n, now);
        if self.connection().unsent() == 0 {
            self.flushed = now;
        }
    }
}
