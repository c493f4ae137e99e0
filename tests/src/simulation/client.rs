//! A client: plays its part, reads responses, and in the end says what became of its requests.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use remuda_core::machine::{CloseReason, Timer};
use remuda_core::shutdown::Phase;
use remuda_core::time::Time;

use super::application::{What, content};
use super::ground::Ground;
use super::response::{Answer, Parser};
use super::script::{Act, Plot, Script, Wanted};
use super::wire::Wire;

pub(super) struct Client {
    pub(super) conn: u32,
    pub(super) plot: Plot,
    pub(super) wire: Rc<RefCell<Wire>>,
    /// The next of its acts.
    next: usize,
    /// It has begun to wait until then.
    waits: Option<Time>,
    /// When the last of what it has sent arrives.
    pub(super) travels: Time,
    /// When it goes on by itself; what is sooner is set in addition.
    pub(super) wakes: Time,
    /// It takes nothing before then.
    sips_at: Time,
    parser: Parser,
    pub(super) answers: Vec<Answer>,
    /// Bytes that it has sent, and those that have arrived.
    sent: u64,
    pub(super) delivered: u64,
    /// When the first and the last byte of each request arrived at the server.
    arrivals: Vec<(Option<Time>, Option<Time>)>,
    /// It has ended its side, or more.
    pub(super) left: Option<Left>,
    /// Its whole socket is gone.
    pub(super) gone: bool,
    /// It has seen the server's end.
    pub(super) seen_end: Option<Time>,
    /// The worker that has its connection.
    pub(super) owner: Option<i32>,
    pub(super) refused: bool,
    /// The worker that had it ended without closing it.
    pub(super) widowed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    HalfClosed,
    Closed,
    Reset,
}

/// What a client does to the wire.
#[derive(Debug)]
pub(super) enum Deed {
    Bytes(Vec<u8>),
    Leave(Left),
}

impl Client {
    pub(super) fn new(conn: u32, plot: Plot, wire: Rc<RefCell<Wire>>) -> Self {
        Self {
            conn,
            arrivals: vec![(None, None); plot.requests.len()],
            plot,
            wire,
            next: 0,
            waits: None,
            travels: Time::ZERO,
            wakes: Time::MAX,
            sips_at: Time::ZERO,
            parser: Parser::default(),
            answers: Vec::new(),
            sent: 0,
            delivered: 0,
            left: None,
            gone: false,
            seen_end: None,
            owner: None,
            refused: false,
            widowed: false,
        }
    }

    /// Reads what is there; whether there is more room for the server to write, and when to come again.
    pub(super) fn read(&mut self, ground: &Ground) -> (bool, Option<Time>) {
        if self.gone {
            return (false, None);
        }
        let now = ground.now();
        let mut wire = self.wire.borrow_mut();
        let mut taken = Vec::new();
        let mut again = None;
        if now < self.sips_at {
            again = Some(self.sips_at);
        } else {
            let most = self.plot.sips.map_or(usize::MAX, |(bytes, _)| bytes);
            let n = wire.sent.len().min(most);
            taken.extend(wire.sent.drain(..n));
            if let (Some((_, pause)), true) = (self.plot.sips, n > 0) {
                self.sips_at = now + pause;
                again = Some(self.sips_at);
            }
        }
        let ended = wire.over_since().is_some() && wire.sent.is_empty();
        let reset = wire.refused;
        drop(wire);
        let wanted = |at: usize| self.plot.requests.get(at);
        if let Err(error) = self.parser.take(&taken, &mut self.answers, now, wanted) {
            ground.breach("bytes", format!("connection {}: {error}", self.conn));
        }
        if ended && self.seen_end.is_none() {
            self.seen_end = Some(now);
            self.parser.end(&mut self.answers, now, reset);
            ground.trace(|| format!("client   {} sees the end", self.conn));
        }
        (!taken.is_empty(), again)
    }

    /// Goes on with its part: what it does now, and when it wants to go on.
    pub(super) fn act(&mut self, ground: &Ground) -> (Vec<Deed>, Option<Time>) {
        let now = ground.now();
        let mut deeds = Vec::new();
        loop {
            if self.left == Some(Left::Closed) || self.left == Some(Left::Reset) {
                return (deeds, None);
            }
            let over = self.seen_end.or_else(|| self.was_told_to_close().filter(|_| !self.plot.rude));
            if let Some(over) = over
                && (!self.plot.rude || self.next >= self.plot.acts.len())
            {
                let Some(leave) = self.plot.leaves else { return (deeds, None) };
                let at = over + leave;
                if now < at {
                    return (deeds, Some(at));
                }
                self.leave(Left::Closed, &mut deeds);
                continue;
            }
            if let Some(until) = self.waits {
                if now < until {
                    return (deeds, Some(until));
                }
                self.waits = None;
            }
            let Some(act) = self.plot.acts.get(self.next) else { return (deeds, None) };
            match act.clone() {
                Act::Wait(length) => self.waits = Some(now + length),
                Act::Send(range) if self.left.is_none() => {
                    self.sent += range.len() as u64;
                    deeds.push(Deed::Bytes(self.plot.bytes[range].to_vec()));
                }
                Act::Await(n) if self.answers.len() < n => return (deeds, None),
                Act::Send(_) | Act::Await(_) => {}
                Act::HalfClose if self.left.is_none() => self.leave(Left::HalfClosed, &mut deeds),
                Act::HalfClose => {}
                Act::Close => self.leave(Left::Closed, &mut deeds),
                Act::Reset => self.leave(Left::Reset, &mut deeds),
            }
            self.next += 1;
        }
    }

    /// So many bytes of it have arrived at the server.
    pub(super) fn deliver(&mut self, n: u64, now: Time) {
        let (before, after) = (self.delivered, self.delivered + n);
        self.delivered = after;
        for (wanted, (first, last)) in self.plot.requests.iter().zip(&mut self.arrivals) {
            if wanted.range.start >= before && wanted.range.start < after {
                *first = Some(now);
            }
            if wanted.range.end > before && wanted.range.end <= after {
                *last = Some(now);
            }
        }
    }

    fn was_told_to_close(&self) -> Option<Time> {
        self.answers.last().filter(|answer| answer.announced && answer.complete).map(|answer| answer.at)
    }

    fn leave(&mut self, how: Left, deeds: &mut Vec<Deed>) {
        if self.left != Some(how) {
            self.left = Some(how);
            self.gone = how != Left::HalfClosed;
            deeds.push(Deed::Leave(how));
        }
    }

    // What became of it.

    /// Holds all that this client has seen against the rules. Called when the server has ended.
    pub(super) fn judge(&self, script: &Script, ground: &Ground) -> usize {
        let mut announced = None;
        let mut answered = 0;
        for (index, wanted) in self.plot.requests.iter().enumerate() {
            let id = wanted.task.id;
            match self.answers.get(index) {
                Some(answer) => {
                    ground.hold("d6_nothing_is_served_after_an_announced_close", announced.is_none(), || {
                        format!("request {id} was answered after {announced:?} announced close")
                    });
                    self.judge_answer(wanted, answer, script, ground);
                    announced = announced.or_else(|| answer.announced.then_some(id));
                    answered += usize::from(answer.complete);
                }
                None => self.judge_silence(index, wanted, announced, ground),
            }
        }
        // A peer's fault is answered, too, but nobody makes one here: what is left is the answer to half a head.
        let extra = self.answers.len().saturating_sub(self.plot.requests.len());
        ground.hold("bytes", extra == 0, || format!("connection {}: {extra} answers too many", self.conn));
        self.judge_last(script, ground);
        answered
    }

    fn judge_answer(&self, wanted: &Wanted, answer: &Answer, script: &Script, ground: &Ground) {
        let task = wanted.task;
        let slow = self.is_slow(wanted, script);
        let expected = match answer.status {
            200 => !matches!(task.what, What::Never | What::Panic),
            500 => task.what == What::Panic,
            503 => self.was_over(),
            408 => slow,
            // An application's answer to a body that did not arrive.
            400 => slow || self.left.is_some(),
            _ => false,
        };
        ground.hold("bytes", expected, || format!("request {} got {} ({slow})", task.id, answer.status));
        if answer.status != 200 {
            return;
        }
        let size = if task.what == What::Events { answer.body.len() } else { task.size };
        let kept = if answer.complete && !answer.until_close {
            answer.body == content(task.id, false, 0, size)
        } else {
            answer.body == content(task.id, false, 0, answer.body.len())
        };
        ground.hold("bytes", kept, || {
            format!("request {} got {} bytes that are not its own", task.id, answer.body.len())
        });
        ground.hold("bytes", task.what != What::Break || !answer.complete || wanted.http_1_0, || {
            format!("request {}: a response that broke looks complete", task.id)
        });
        if wanted.closes {
            ground.hold("close_is_honoured", answer.announced, || format!("request {}", task.id));
        }
        let drains = ground
            .answered(task.id)
            .is_some_and(|head| head.drain.is_some_and(|drain| drain.phase >= Phase::Draining));
        let caused = drains
            || wanted.closes
            || wanted.http_1_0
            || script.limits.keep_alive.is_zero()
            || self.left.is_some()
            || task.what == What::Ignore && wanted.has_body;
        ground.hold("nothing_is_announced_without_a_drain", caused || !answer.announced, || {
            format!("request {}", task.id)
        });
        // Without a length, the end of the connection is all there is to tell a whole response by.
        let whole = answer.complete && (!answer.until_close || answer.body.len() >= size);
        if !whole {
            // Who goes on sending to a socket that is closed may lose the end of what it was sent.
            let excused = task.what == What::Break || self.wire.borrow().refused || self.is_excused(slow);
            ground.hold("d5_in_flight", excused, || {
                let (at, reason) = (answer.body.len(), self.wire.borrow().reason);
                format!("request {} of {task:?} was cut after {at} bytes: {reason:?}", task.id)
            });
        }
    }

    fn judge_silence(&self, index: usize, wanted: &Wanted, announced: Option<u32>, ground: &Ground) {
        let (first, last) = self.arrivals[index];
        let Some(first) = first else { return };
        let wire = self.wire.borrow();
        let reason = wire.reason;
        if wire.over_since().is_some_and(|at| at <= first) || self.is_excused(false) {
            return;
        }
        drop(wire);
        if let Some(by) = announced {
            // What had been read when the head was encoded is answered, unless the end was not the drain's wish.
            let Some(head) = ground.answered(by) else { return };
            let read = wanted.range.start < head.read;
            let drained = reason == Some(CloseReason::Drained);
            let over = head.drain.is_some_and(|drain| drain.is_over(head.at));
            ground.hold("d6_pipelined_requests_are_answered", !(read && drained) || over, || {
                format!("request {} had been read when {by} announced close", wanted.task.id)
            });
            return;
        }
        let whole = last.is_some() && self.delivered >= wanted.range.end;
        let excused = match reason {
            Some(CloseReason::TimedOut(Timer::Head | Timer::Body)) => !whole || self.is_late(index),
            Some(CloseReason::TimedOut(Timer::Write)) => true,
            Some(CloseReason::PeerAborted | CloseReason::PeerClosed) => !whole,
            Some(CloseReason::ApplicationFailed) => self.has_broken(index),
            // A body that nobody reads was too large to read it away.
            Some(CloseReason::Finished) => self.ignores_much(index),
            _ => false,
        };
        ground.hold("d5_in_flight", excused, || {
            format!("request {} of {:?} was never answered: {reason:?}", wanted.task.id, wanted.task.what)
        });
    }

    /// In a drain under a policy that announces, the last response says so.
    fn judge_last(&self, script: &Script, ground: &Ground) {
        let Some(index) = self.answers.len().checked_sub(1) else { return };
        let (answer, wanted) = (&self.answers[index], self.plot.requests.get(index));
        let Some(wanted) = wanted.filter(|_| answer.complete && !answer.announced) else { return };
        let Some(head) = ground.answered(wanted.task.id) else { return };
        let Some(drain) = head.drain.filter(|drain| drain.phase >= Phase::Draining) else { return };
        if head.at < drain.since + script.undecided || self.is_excused(false) {
            return;
        }
        let next = self.arrivals.get(index + 1).and_then(|(first, _)| *first);
        // Bytes of a next request that were there may have been read.
        let followed = next.is_some_and(|at| at <= head.at);
        ground.hold("d6_the_last_announces", followed, || {
            format!(
                "request {} was answered in a drain under {:?} and left open",
                wanted.task.id, script.policies
            )
        });
    }

    /// Whether nobody but the client, a death or the deadline is to blame.
    fn is_excused(&self, slow: bool) -> bool {
        let wire = self.wire.borrow();
        slow || self.gone && self.seen_end.is_none()
            || wire.reset
            || self.widowed
            || self.refused
            || wire.was_over
            || self.plot.sips.is_some()
            || matches!(wire.reason, Some(CloseReason::TimedOut(Timer::Write)))
    }

    fn was_over(&self) -> bool {
        self.wire.borrow().was_over
    }

    /// Whether the client has stalled within this request for longer than a limit, or for ever.
    fn is_slow(&self, wanted: &Wanted, script: &Script) -> bool {
        let index = (wanted.task.id % 16) as usize;
        let least = script.limits.header_timeout.min(script.limits.body_timeout);
        match self.arrivals[index] {
            (Some(first), Some(last)) => last.since(first) + Duration::from_millis(1) >= least,
            _ => true,
        }
    }

    /// Whether an earlier request may have taken the time of this one.
    fn is_late(&self, index: usize) -> bool {
        self.arrivals[..=index].iter().any(|(first, last)| match (first, last) {
            (Some(first), Some(last)) => last.since(*first) > Duration::from_millis(200),
            _ => true,
        })
    }

    fn has_broken(&self, index: usize) -> bool {
        self.plot.requests[..=index]
            .iter()
            .any(|wanted| matches!(wanted.task.what, What::Break | What::Panic))
    }

    fn ignores_much(&self, index: usize) -> bool {
        self.plot.requests[..index].iter().any(|wanted| {
            matches!(wanted.task.what, What::Ignore | What::Panic)
                && wanted.range.end - wanted.range.start > 60_000
        })
    }
}
