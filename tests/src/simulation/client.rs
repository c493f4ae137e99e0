//! A client: sends its requests, reads responses, and checks at the end that each request got its
//! response.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use remuda_core::machine::{CloseReason, Timer};
use remuda_core::shutdown::{Drain, Phase};
use remuda_core::time::Time;

use super::application::{What, content};
use super::monitor::{Monitor, START};
use super::response::{Answer, Parser};
use super::script::{Act, Behaviour, Script, SentRequest};
use super::wire::Wire;

pub(super) struct Client {
    pub(super) conn: u32,
    pub(super) behaviour: Behaviour,
    pub(super) wire: Rc<RefCell<Wire>>,
    /// The next of its acts.
    next: usize,
    /// It has begun to wait until then.
    waits: Option<Time>,
    /// When the last bytes that it has sent arrive.
    pub(super) travels: Time,
    /// When its next event is due. An earlier one is queued in addition.
    pub(super) wakes: Time,
    /// It reads nothing before then.
    reads_at: Time,
    parser: Parser,
    pub(super) answers: Vec<Answer>,
    /// Bytes that it has sent, and those that have arrived.
    sent: u64,
    pub(super) delivered: u64,
    /// When the first and the last byte of each request arrived at the server.
    arrivals: Vec<(Option<Time>, Option<Time>)>,
    /// How it has ended its sending side, or the connection.
    pub(super) left: Option<Left>,
    /// Its whole socket is gone.
    pub(super) gone: bool,
    /// It has seen the server's end.
    pub(super) seen_end: Option<Time>,
    /// The worker that has its connection.
    pub(super) owner: Option<i32>,
    pub(super) refused: bool,
    /// Its worker ended without closing the connection, or no worker has accepted it.
    pub(super) abandoned: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    HalfClosed,
    Closed,
    Reset,
}

/// An effect of a client on the wire.
#[derive(Debug)]
pub(super) enum ClientAction {
    Bytes(Vec<u8>),
    Leave(Left),
}

impl Client {
    pub(super) fn new(conn: u32, behaviour: Behaviour, wire: Rc<RefCell<Wire>>) -> Self {
        Self {
            conn,
            arrivals: vec![(None, None); behaviour.requests.len()],
            behaviour,
            wire,
            next: 0,
            waits: None,
            travels: Time::ZERO,
            wakes: Time::MAX,
            reads_at: Time::ZERO,
            parser: Parser::default(),
            answers: Vec::new(),
            sent: 0,
            delivered: 0,
            left: None,
            gone: false,
            seen_end: None,
            owner: None,
            refused: false,
            abandoned: false,
        }
    }

    /// Reads the bytes that have arrived. Returns whether the server can write more, and when to
    /// read again.
    pub(super) fn read(&mut self, monitor: &Monitor) -> (bool, Option<Time>) {
        if self.gone {
            return (false, None);
        }
        let now = monitor.now();
        let mut wire = self.wire.borrow_mut();
        let mut taken = Vec::new();
        let mut again = None;
        if now < self.reads_at {
            again = Some(self.reads_at);
        } else {
            let most = self.behaviour.slow_reads.map_or(usize::MAX, |(bytes, _)| bytes);
            let n = wire.sent.len().min(most);
            taken.extend(wire.sent.drain(..n));
            if let (Some((_, pause)), true) = (self.behaviour.slow_reads, n > 0) {
                self.reads_at = now + pause;
                again = Some(self.reads_at);
            }
        }
        let ended = wire.over_since().is_some() && wire.sent.is_empty();
        let reset = wire.refused;
        drop(wire);
        let request = |at: usize| self.behaviour.requests.get(at);
        if let Err(error) = self.parser.take(&taken, &mut self.answers, now, request) {
            monitor.breach("bytes", format!("connection {}: {error}", self.conn));
        }
        if ended && self.seen_end.is_none() {
            self.seen_end = Some(now);
            self.parser.end(&mut self.answers, now, reset);
            monitor.trace(|| format!("client   {} sees the end", self.conn));
        }
        (!taken.is_empty(), again)
    }

    /// Continues its acts. Returns the actions that are due now, and when the next ones are.
    pub(super) fn act(&mut self, monitor: &Monitor) -> (Vec<ClientAction>, Option<Time>) {
        let now = monitor.now();
        let mut actions = Vec::new();
        loop {
            if self.left == Some(Left::Closed) || self.left == Some(Left::Reset) {
                return (actions, None);
            }
            let over =
                self.seen_end.or_else(|| self.was_told_to_close().filter(|_| !self.behaviour.keeps_sending));
            if let Some(over) = over
                && (!self.behaviour.keeps_sending || self.next >= self.behaviour.acts.len())
            {
                let Some(leave) = self.behaviour.leaves else { return (actions, None) };
                let at = over + leave;
                if now < at {
                    return (actions, Some(at));
                }
                self.leave(Left::Closed, &mut actions);
                continue;
            }
            if let Some(until) = self.waits {
                if now < until {
                    return (actions, Some(until));
                }
                self.waits = None;
            }
            let Some(act) = self.behaviour.acts.get(self.next) else { return (actions, None) };
            match act.clone() {
                Act::Wait(length) => self.waits = Some(now + length),
                Act::Send(range) if self.left.is_none() => {
                    self.sent += range.len() as u64;
                    actions.push(ClientAction::Bytes(self.behaviour.bytes[range].to_vec()));
                }
                Act::Await(n) if self.answers.len() < n => return (actions, None),
                Act::Send(_) | Act::Await(_) => {}
                Act::HalfClose if self.left.is_none() => self.leave(Left::HalfClosed, &mut actions),
                Act::HalfClose => {}
                Act::Close => self.leave(Left::Closed, &mut actions),
                Act::Reset => self.leave(Left::Reset, &mut actions),
            }
            self.next += 1;
        }
    }

    /// Counts `n` bytes that have arrived at the server.
    pub(super) fn deliver(&mut self, n: u64, now: Time) {
        let (before, after) = (self.delivered, self.delivered + n);
        self.delivered = after;
        for (request, (first, last)) in self.behaviour.requests.iter().zip(&mut self.arrivals) {
            if request.range.start >= before && request.range.start < after {
                *first = Some(now);
            }
            if request.range.end > before && request.range.end <= after {
                *last = Some(now);
            }
        }
    }

    fn was_told_to_close(&self) -> Option<Time> {
        self.answers.last().filter(|answer| answer.announced && answer.complete).map(|answer| answer.at)
    }

    fn leave(&mut self, how: Left, actions: &mut Vec<ClientAction>) {
        if self.left != Some(how) {
            self.left = Some(how);
            self.gone = how != Left::HalfClosed;
            actions.push(ClientAction::Leave(how));
        }
    }

    // The checks at the end.

    /// Checks everything that the client has received against the rules, once the server has ended.
    pub(super) fn check(&self, script: &Script, monitor: &Monitor) -> usize {
        let mut announced = None;
        let mut answered = 0;
        for (index, request) in self.behaviour.requests.iter().enumerate() {
            let id = request.task.id;
            match self.answers.get(index) {
                Some(answer) => {
                    monitor.hold(
                        "d6_nothing_is_served_after_an_announced_close",
                        announced.is_none(),
                        || format!("request {id} was answered after {announced:?} announced close"),
                    );
                    self.check_answer(request, answer, script, monitor);
                    announced = announced.or_else(|| answer.announced.then_some(id));
                    answered += usize::from(answer.complete);
                }
                None => self.check_unanswered(index, request, announced, script, monitor),
            }
        }
        // All requests are valid, so that no further response is due: an incomplete head at the end
        // gets none.
        let extra = self.answers.len().saturating_sub(self.behaviour.requests.len());
        monitor.hold("bytes", extra == 0, || format!("connection {}: {extra} answers too many", self.conn));
        self.check_last(script, monitor);
        answered
    }

    fn check_answer(&self, request: &SentRequest, answer: &Answer, script: &Script, monitor: &Monitor) {
        let task = request.task;
        let slow = self.is_slow(request, script, monitor);
        let expected = match answer.status {
            200 => !matches!(task.what, What::Never | What::Panic),
            500 => task.what == What::Panic || monitor.told(self.conn),
            // The drain's deadline, or that of the handler.
            503 => self.was_over() || self.has_had_its_time(request, answer, script),
            408 => slow,
            // An application's answer to a body that did not arrive.
            400 => slow || self.left.is_some(),
            _ => false,
        };
        monitor.hold("bytes", expected, || format!("request {} got {} ({slow})", task.id, answer.status));
        if answer.status != 200 {
            return;
        }
        let size = if task.what == What::Events { answer.body.len() } else { task.size };
        let kept = if answer.complete && !answer.until_close {
            answer.body == content(task.id, false, 0, size)
        } else {
            answer.body == content(task.id, false, 0, answer.body.len())
        };
        monitor.hold("bytes", kept, || {
            format!("request {} got {} bytes that are not its own", task.id, answer.body.len())
        });
        monitor.hold("bytes", task.what != What::Break || !answer.complete || request.http_1_0, || {
            format!("request {}: a response that broke looks complete", task.id)
        });
        if request.closes {
            monitor.hold("close_is_honoured", answer.announced, || format!("request {}", task.id));
        }
        let drains = monitor
            .answered(task.id)
            .is_some_and(|head| head.drain.is_some_and(|drain| drain.phase >= Phase::Draining));
        let asked = request.closes
            || request.http_1_0
            || script.limits.keep_alive.is_zero()
            || self.left.is_some()
            || task.what == What::Ignore && request.has_body;
        let caused = drains || asked;
        monitor.hold("nothing_is_announced_without_a_drain", caused || !answer.announced, || {
            format!("request {}", task.id)
        });
        // A response on a connection that moves does not announce the drain (D19).
        let moves = monitor.answered(task.id).is_some_and(|head| {
            let moves =
                |drain: Drain| drain.receiver && script.hands_off(drain.reason) && !drain.is_over(head.at);
            head.drain.is_some_and(moves)
        });
        monitor.hold(
            "d19_nothing_is_announced",
            !moves || asked || monitor.stays(self.conn) || !answer.announced,
            || format!("request {}", task.id),
        );
        // Without a length, only the end of the connection marks a response as complete.
        let whole = answer.complete && (!answer.until_close || answer.body.len() >= size);
        if !whole {
            // A client that sends to a closed socket may lose the end of its response.
            let excused = task.what == What::Break || self.wire.borrow().refused || self.is_excused(slow);
            monitor.hold("d5_in_flight", excused, || {
                let (at, reason) = (answer.body.len(), self.wire.borrow().reason);
                format!("request {} of {task:?} was cut after {at} bytes: {reason:?}", task.id)
            });
        }
    }

    fn check_unanswered(
        &self,
        index: usize,
        request: &SentRequest,
        announced: Option<u32>,
        script: &Script,
        monitor: &Monitor,
    ) {
        let (first, last) = self.arrivals[index];
        let Some(first) = first else { return };
        let wire = self.wire.borrow();
        let reason = wire.reason;
        if wire.over_since().is_some_and(|at| at <= first) || self.is_excused(false) {
            return;
        }
        drop(wire);
        if let Some(by) = announced {
            // Requests that had been read when the head was encoded are answered, if the drain
            // caused the close.
            let Some(head) = monitor.answered(by) else { return };
            let read = request.range.start < head.read;
            let drained = reason == Some(CloseReason::Drained);
            let over = head.drain.is_some_and(|drain| drain.is_over(head.at));
            monitor.hold("d6_pipelined_requests_are_answered", !(read && drained) || over, || {
                format!("request {} had been read when {by} announced close", request.task.id)
            });
            return;
        }
        let whole = last.is_some() && self.delivered >= request.range.end;
        let excused = match reason {
            Some(CloseReason::TimedOut(Timer::Head | Timer::Body)) => !whole || self.is_late(index),
            Some(CloseReason::TimedOut(Timer::Write)) => true,
            // A response was cut when its handler had had its time.
            Some(CloseReason::TimedOut(Timer::Request)) => !script.limits.request_timeout.is_zero(),
            Some(CloseReason::PeerAborted | CloseReason::PeerClosed) => !whole,
            Some(CloseReason::ApplicationFailed) => self.has_broken(index),
            // An unread body was too large to be discarded.
            Some(CloseReason::Finished) => self.ignores_much(index),
            _ => false,
        };
        monitor.hold("d5_in_flight", excused, || {
            format!("request {} of {:?} was never answered: {reason:?}", request.task.id, request.task.what)
        });
    }

    /// In a drain under a policy that announces, the last response announces close.
    fn check_last(&self, script: &Script, monitor: &Monitor) {
        let Some(index) = self.answers.len().checked_sub(1) else { return };
        let (answer, request) = (&self.answers[index], self.behaviour.requests.get(index));
        let Some(request) = request.filter(|_| answer.complete && !answer.announced) else { return };
        let Some(head) = monitor.answered(request.task.id) else { return };
        let Some(drain) = head.drain.filter(|drain| drain.phase >= Phase::Draining) else { return };
        // A connection that moves, or was to move until there was no receiver any more, is left
        // open.
        if drain.receiver || head.at < drain.since + script.undecided || self.is_excused(false) {
            return;
        }
        let next = self.arrivals.get(index + 1).and_then(|(first, _)| *first);
        // Bytes of a next request that were there may have been read.
        let followed = next.is_some_and(|at| at <= head.at);
        monitor.hold("d6_the_last_announces", followed, || {
            format!(
                "request {} was answered in a drain under {:?} and left open",
                request.task.id, script.policies
            )
        });
    }

    /// Whether the client, the end of a process or the deadline has caused the loss.
    fn is_excused(&self, slow: bool) -> bool {
        let wire = self.wire.borrow();
        slow || self.gone && self.seen_end.is_none()
            || wire.reset
            || self.abandoned
            || self.refused
            || wire.was_over
            || self.behaviour.slow_reads.is_some()
            || matches!(wire.reason, Some(CloseReason::TimedOut(Timer::Write | Timer::Request)))
    }

    /// Whether the handler of a request may have had its time when it was answered.
    fn has_had_its_time(&self, request: &SentRequest, answer: &Answer, script: &Script) -> bool {
        let limit = script.limits.request_timeout;
        let (first, _) = self.arrivals[(request.task.id % 16) as usize];
        !limit.is_zero() && first.is_some_and(|first| answer.at.since(first) >= limit)
    }

    fn was_over(&self) -> bool {
        self.wire.borrow().was_over
    }

    /// Whether the client has stalled within this request for longer than a limit, or for ever.
    fn is_slow(&self, request: &SentRequest, script: &Script, monitor: &Monitor) -> bool {
        let index = (request.task.id % 16) as usize;
        let least = script.limits.header_timeout.min(script.limits.body_timeout);
        // The head of the first request may take its time from the connect on (D12).
        let connected = START + self.behaviour.arrives;
        let is_first = self.behaviour.requests.first().is_some_and(|one| one.task.id == request.task.id);
        match self.arrivals[index] {
            (Some(first), Some(last)) => {
                let first = if is_first { connected } else { first };
                // The time of a head that a look has found begins with the deadline that was missed
                // (D21), which was set when the response before was sent.
                let look = monitor.look_within(self.conn, first, last);
                let first = look.map_or(first, |look| first.min(look.since));
                last.since(first) + Duration::from_millis(1) >= least
            }
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
        self.behaviour.requests[..=index]
            .iter()
            .any(|request| matches!(request.task.what, What::Break | What::Panic))
    }

    fn ignores_much(&self, index: usize) -> bool {
        self.behaviour.requests[..index].iter().any(|request| {
            matches!(request.task.what, What::Ignore | What::Panic)
                && request.range.end - request.range.start > 60_000
        })
    }
}
