//! The deadlines of a connection, and what happens when one passes.
//!
//! Nothing is armed or cancelled: the nearest deadline is computed from the state whenever somebody asks, so it
//! cannot disagree with it. Times that are zero in [`Limits`] have no deadline.

use std::time::Duration;

use super::pace::Pace;
use super::{Connection, Fate, Receiving, Sending};
use crate::config::{HIGH_WATER, LINGER_AT_DEADLINE, Limits};
use crate::http1::{BodyError, Refusal};
use crate::machine::{CloseReason, Cx, Deadline, Timer};
use crate::shutdown::{ConnState, Drain, Idle, Phase};
use crate::time::Time;

impl Connection {
    /// The nearest deadline, if any.
    pub fn deadline(&self, cx: &Cx<'_>) -> Option<Deadline> {
        let mut nearest = match self.fate {
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

    /// Ends or refuses what has reached its deadline, and gives the nearest that is still to come.
    pub fn handle_time(&mut self, cx: &Cx<'_>) -> Option<Deadline> {
        let Limits { write_timeout, write_rate, body_timeout, body_rate, .. } = *cx.limits;
        if !self.tx.is_empty() {
            self.write_pace.wait(cx.now, write_timeout, write_rate);
        }
        if self.awaits_body() {
            self.body_pace.wait(cx.now, body_timeout, body_rate);
        }
        loop {
            let nearest = self.deadline(cx);
            let Some(Deadline { why, .. }) = nearest.filter(|deadline| deadline.at <= cx.now) else {
                return nearest;
            };
            match why {
                Timer::Head if self.rx.is_empty() => self.end(CloseReason::IdleTimeout),
                Timer::Head => self.refuse(Refusal::HeadTimeout, cx),
                Timer::KeepAlive => self.end(CloseReason::IdleTimeout),
                // The application learns of it and decides, unless there is none waiting.
                Timer::Body if self.body_wanted => {
                    self.fault = Some(BodyError::TimedOut);
                    self.body_wanted = false;
                }
                Timer::Body => self.abort(CloseReason::TimedOut(why)),
                Timer::Write => self.end(CloseReason::TimedOut(why)),
                Timer::Linger => self.end_lingering(),
                Timer::Request => self.time_out(cx),
                Timer::Drain => self.end_for_drain(cx),
            }
        }
    }

    /// When it is to be handed off, if that is what the policy wants: now, or once there may be room for it in the queue.
    pub(crate) fn leaves_at(&self, cx: &Cx<'_>) -> Option<Time> {
        let drain = cx.draining_now().filter(|drain| drain.receiver && !drain.is_over(cx.now))?;
        let view = self.view();
        let may_leave = self.is_between_requests() && view.movable;
        let leaves = may_leave && cx.policy.idle(drain, &view, cx.now) == Idle::HandOff;
        leaves.then(|| self.held_back.max(cx.now))
    }

    fn write_deadline(&self, cx: &Cx<'_>) -> Option<Deadline> {
        (!self.tx.is_empty())
            .then(|| self.progress(self.write_since, &self.write_pace, cx.limits.write_timeout, Timer::Write))
            .flatten()
    }

    fn body_deadline(&self, cx: &Cx<'_>) -> Option<Deadline> {
        self.progress(self.body_since, &self.body_pace, cx.limits.body_timeout, Timer::Body)
    }

    /// The end of a transfer that makes no progress, or too little: the first as seen from the `last`, the second by its pace.
    /// On a connection that has changed the protocol nobody but the application knows what is too little.
    fn progress(&self, last: Time, pace: &Pace, timeout: Duration, why: Timer) -> Option<Deadline> {
        let floor = if self.upgraded { None } else { pace.deadline() };
        sooner(after(last, timeout, why), floor.map(|at| Deadline { at, why }))
    }

    /// Whether nothing but the peer keeps a request body from going on.
    fn awaits_body(&self) -> bool {
        match self.receiving {
            Receiving::Body => self.body_wanted && !self.upgraded,
            Receiving::Discard => self.sending == Sending::Quiet,
            Receiving::Head | Receiving::Done => false,
        }
    }

    fn read_deadline(&self, cx: &Cx<'_>) -> Option<Deadline> {
        let limits = cx.limits;
        match (self.receiving, self.sending) {
            (Receiving::Head, Sending::Quiet) => match (self.head_since, self.served) {
                // While the peer does not take our answers we do not look at its requests either.
                (Some(_), _) if self.tx.len() >= HIGH_WATER => None,
                (Some(since), _) => after(since, limits.header_timeout, Timer::Head),
                (None, _) if !self.tx.is_empty() => None,
                (None, 0) => {
                    let head = after(self.accepted, limits.header_timeout, Timer::Head);
                    // In a drain a silent connection is an idle one of the same age (D12).
                    let idle = after(self.accepted, limits.keep_alive, Timer::KeepAlive);
                    if cx.draining_now().is_some() { sooner(head, idle) } else { head }
                }
                (None, _) => after(self.idle_since, limits.keep_alive, Timer::KeepAlive),
            },
            _ => self.awaits_body().then(|| self.body_deadline(cx)).flatten(),
        }
    }

    /// When the drain does something to this connection: its deadline, or sooner if the policy says so.
    fn drain_deadline(&self, drain: &Drain, cx: &Cx<'_>) -> Deadline {
        let view = self.view();
        let at = match view.state {
            ConnState::Lingering => drain.deadline + LINGER_AT_DEADLINE,
            // The 503 of the deadline may still leave.
            _ if self.fate == Fate::Flushing(CloseReason::DeadlineCut) => drain.deadline + LINGER_AT_DEADLINE,
            // A head that has begun is finished (D5); a policy may only move it.
            ConnState::Fresh | ConnState::Idle => match cx.policy.idle(drain, &view, cx.now) {
                Idle::Keep { until } => until.min(drain.deadline),
                Idle::Close => cx.now,
                Idle::HandOff => drain.deadline,
            },
            _ => drain.deadline,
        };
        Deadline { at, why: Timer::Drain }
    }

    /// D10 at the deadline, otherwise the policy's wish. A policy whose `until` has passed without another
    /// answer gets the close it seems to have meant.
    fn end_for_drain(&mut self, cx: &Cx<'_>) {
        let over = cx.drain.is_some_and(|drain| drain.is_over(cx.now));
        match self.state() {
            ConnState::Lingering => self.end_lingering(),
            ConnState::Fresh | ConnState::Head | ConnState::Idle => {
                self.end(if over { CloseReason::DeadlineIdle } else { CloseReason::DrainIdle });
            }
            // It is answered; only the rest of a body that nobody reads was still to come.
            _ if self.fate == Fate::Open && self.sending == Sending::Quiet && self.tx.is_empty() => {
                self.end(CloseReason::DeadlineIdle);
            }
            _ => self.end(CloseReason::DeadlineCut),
        }
    }

    fn end_lingering(&mut self) {
        if let Fate::Lingering { reason, .. } = self.fate {
            self.fate = Fate::Ended(reason);
        }
    }
}

impl Cx<'_> {
    /// The drain, once it has anything to say about connections: a lame duck serves as before.
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
