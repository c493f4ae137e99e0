//! The deadlines of a connection, and what happens when one passes.
//!
//! Nothing is armed or cancelled: the nearest deadline is computed from the state at each call, so
//! the two cannot disagree. Times that are zero in [`Limits`] have no deadline.
//!
//! A deadline that has passed asks for a last look at the transport before it ends anything (D21).
//! Bytes found then have arrived in time. They end a pause in a body. On a silent connection they
//! begin a head, whose time counts from the missed deadline. A head whose own deadline has passed
//! is accepted only if it is complete now. So a worker that was frozen or busy loses no request,
//! and a peer that sends single bytes gains nothing.

use std::time::Duration;

use super::pace::Pace;
use super::{Connection, End, Fate, Handoff, Receiving, Sending};
use crate::config::{LINGER_AT_DEADLINE, Limits};
use crate::http1::{BodyError, Refusal};
use crate::machine::{CloseReason, Cx, Deadline, Step, Timer};
use crate::shutdown::{ConnState, Drain, Idle, Phase};
use crate::time::Time;

/// What the connection knows from the last time that its deadlines were applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checked {
    /// The nearest deadline then, [`Time::MAX`] without one. Bytes that are found later count as
    /// arrived before it (D21).
    pub(super) nearest: Time,
    /// When a passed deadline last asked for a look at the transport.
    looked: Time,
}

impl Checked {
    pub(super) fn new() -> Self {
        Self { nearest: Time::MAX, looked: Time::ZERO }
    }

    /// Forgets the nearest deadline: another exchange, or none, has other deadlines.
    #[inline]
    pub(super) fn forget(&mut self) {
        self.nearest = Time::MAX;
    }
}

impl Connection {
    /// The nearest deadline, if any.
    pub fn deadline(&self, cx: &Cx<'_>) -> Option<Deadline> {
        let mut nearest = match self.state.fate() {
            Fate::Ended(_) => return None,
            Fate::Lingering { until, .. } => Some(Deadline { at: until, why: Timer::Linger }),
            Fate::Flushing(_) => self.write_deadline(cx),
            Fate::Open => {
                let io = sooner(self.write_deadline(cx), self.read_deadline(cx));
                sooner(io, self.due().map(|at| Deadline { at, why: Timer::Request }))
            }
        };
        if let Some(drain) = cx.draining_now() {
            nearest = sooner(nearest, Some(self.drain_deadline(drain, cx)));
        }
        nearest
    }

    /// Ends or refuses the connection, body or response whose deadline has passed, and returns the
    /// nearest deadline that is still to come.
    ///
    /// A deadline that has passed is returned first, and applied only after the look that
    /// [`wait`](Self::wait) asks for: bytes that arrived in time may not have been reported yet
    /// (D21).
    pub fn handle_time(&mut self, cx: &Cx<'_>) -> Option<Deadline> {
        let Limits { write_timeout, write_rate, body_timeout, body_rate, .. } = *cx.limits;
        if !self.writer.is_empty() {
            self.writer.pace.wait(cx.now, write_timeout, write_rate);
        }
        if self.awaits_body() {
            self.exchange.body.pace.wait(cx.now, body_timeout, body_rate);
        }
        loop {
            let nearest = self.deadline(cx);
            let Some(Deadline { at, why }) = nearest.filter(|deadline| deadline.at <= cx.now) else {
                self.checked.nearest = nearest.map_or(Time::MAX, |deadline| deadline.at);
                return nearest;
            };
            // A policy whose time has passed does not say when: the deadline is now. An earlier one
            // is kept.
            self.checked.nearest = self.checked.nearest.min(at);
            if self.checked.looked != cx.now && !self.interest().is_none() {
                return nearest;
            }
            match why {
                Timer::Head if self.reader.buffer.is_empty() => self.end(CloseReason::IdleTimeout),
                Timer::Head => self.refuse(Refusal::HeadTimeout, cx),
                Timer::KeepAlive => self.end(CloseReason::IdleTimeout),
                // The application sees the error and decides, unless no application waits.
                Timer::Body if self.exchange.body.is_wanted => {
                    self.exchange.body.fault = Some(BodyError::TimedOut);
                    self.exchange.body.is_wanted = false;
                }
                Timer::Body => self.abort(CloseReason::TimedOut(why)),
                Timer::Write => self.end(CloseReason::TimedOut(why)),
                Timer::Linger => self.end_lingering(),
                Timer::Request => self.time_out(cx),
                Timer::Drain => self.end_for_drain(cx),
            }
        }
    }

    /// The step of a connection that has nothing to do before `deadline`, its nearest: a wait, or
    /// the look at the transport that a passed deadline asks for.
    pub fn wait(&mut self, deadline: Option<Deadline>, cx: &Cx<'_>) -> Step {
        let interest = self.interest();
        if deadline.is_some_and(|deadline| deadline.at <= cx.now) {
            self.checked.looked = cx.now;
            return Step::Look { interest };
        }
        Step::Wait { interest, deadline }
    }

    /// When the policy wants a hand-off: now, or once the queue may have room.
    pub(crate) fn leaves_at(&self, cx: &Cx<'_>) -> Option<Time> {
        let drain = cx.draining_now().filter(|drain| drain.receiver && !drain.is_over(cx.now))?;
        let view = self.view();
        let may_leave = self.is_between_requests() && view.movable;
        let leaves = may_leave && cx.policy.idle(drain, &view, cx.now) == Idle::Handoff;
        match self.handoff {
            Handoff::From(at) if leaves => Some(at.max(cx.now)),
            _ => None,
        }
    }

    fn write_deadline(&self, cx: &Cx<'_>) -> Option<Deadline> {
        (!self.writer.is_empty())
            .then(|| {
                self.progress(self.writer.since, &self.writer.pace, cx.limits.write_timeout, Timer::Write)
            })
            .flatten()
    }

    fn body_deadline(&self, cx: &Cx<'_>) -> Option<Deadline> {
        self.progress(self.exchange.body.since, &self.exchange.body.pace, cx.limits.body_timeout, Timer::Body)
    }

    /// The deadline of a transfer without progress since `last`, or with too little by its pace. On
    /// a connection that has changed the protocol only the application can judge what is too
    /// little.
    fn progress(&self, last: Time, pace: &Pace, timeout: Duration, why: Timer) -> Option<Deadline> {
        let floor = if self.exchange.is_upgraded { None } else { pace.deadline() };
        sooner(after(last, timeout, why), floor.map(|at| Deadline { at, why }))
    }

    /// Whether only the peer delays a request body.
    fn awaits_body(&self) -> bool {
        match self.state.receiving() {
            Receiving::Body => self.exchange.body.is_wanted && !self.exchange.is_upgraded,
            Receiving::Discard => self.state.sending() == Sending::Quiet,
            Receiving::Head | Receiving::Done => false,
        }
    }

    fn read_deadline(&self, cx: &Cx<'_>) -> Option<Deadline> {
        let limits = cx.limits;
        match (self.state.receiving(), self.state.sending()) {
            (Receiving::Head, Sending::Quiet) => match (self.reader.head_since, self.usage.served) {
                // While the peer does not read responses, its requests are not read either.
                (Some(_), _) if self.writer.is_full() => None,
                (Some(since), _) => after(since, limits.header_timeout, Timer::Head),
                (None, _) if !self.writer.is_empty() => None,
                (None, 0) => {
                    let head = after(self.usage.accepted, limits.header_timeout, Timer::Head);
                    // In a drain a silent connection counts as an idle one of the same age (D12).
                    let idle = after(self.usage.accepted, limits.keep_alive, Timer::KeepAlive);
                    if cx.draining_now().is_some() { sooner(head, idle) } else { head }
                }
                (None, _) => after(self.usage.idle_since, limits.keep_alive, Timer::KeepAlive),
            },
            _ => self.awaits_body().then(|| self.body_deadline(cx)).flatten(),
        }
    }

    /// When the drain acts on this connection: at its deadline, or sooner if the policy says so.
    fn drain_deadline(&self, drain: &Drain, cx: &Cx<'_>) -> Deadline {
        let view = self.view();
        let at = match view.state {
            ConnState::Lingering => drain.deadline + LINGER_AT_DEADLINE,
            // The 503 of the deadline may still be sent.
            _ if self.state.fate() == Fate::Flushing(CloseReason::DeadlineCut) => {
                drain.deadline + LINGER_AT_DEADLINE
            }
            // A head that has begun is finished (D5). A policy may only move the connection.
            ConnState::Fresh | ConnState::Idle => match cx.policy.idle(drain, &view, cx.now) {
                Idle::Keep { until } => until.min(drain.deadline),
                Idle::Close => cx.now,
                Idle::Handoff => drain.deadline,
            },
            _ => drain.deadline,
        };
        Deadline { at, why: Timer::Drain }
    }

    /// Applies D10 at the deadline, otherwise the policy's decision. A policy whose `until` has
    /// passed without another decision gets the close that it seems to have meant.
    fn end_for_drain(&mut self, cx: &Cx<'_>) {
        let over = cx.drain.is_some_and(|drain| drain.is_over(cx.now));
        match self.state() {
            ConnState::Lingering => self.end_lingering(),
            ConnState::Fresh | ConnState::Head | ConnState::Idle => {
                self.end(if over { CloseReason::DeadlineIdle } else { CloseReason::DrainIdle });
            }
            // The request is answered, and only the rest of an unread body was still to come.
            _ if self.state.is_open() && self.state.sending() == Sending::Quiet && self.writer.is_empty() => {
                self.end(CloseReason::DeadlineIdle);
            }
            _ if self.awaits_response() => self.give_up(cx),
            _ => self.end(CloseReason::DeadlineCut),
        }
    }

    fn end_lingering(&mut self) {
        self.state.end(End::PeerClosed);
    }
}

impl Cx<'_> {
    /// The drain, once it affects connections: a lame duck serves as before.
    pub(crate) fn draining_now(&self) -> Option<&Drain> {
        self.drain.filter(|drain| drain.phase >= Phase::Draining)
    }
}

fn after(since: Time, length: Duration, why: Timer) -> Option<Deadline> {
    (!length.is_zero()).then(|| Deadline { at: since + length, why })
}

pub(crate) fn sooner(a: Option<Deadline>, b: Option<Deadline>) -> Option<Deadline> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.at < a.at { b } else { a }),
        (one, None) | (None, one) => one,
    }
}
