//! One HTTP/1.1 connection as a state machine: bytes and time in; bytes, events, interest, a named deadline and
//! one reason for its end out (RFC 9112).
//!
//! It holds no socket, waker, channel or clock, and does not know the application. Four kinds of method:
//!
//! - inputs, which say what happened: [`Wire::handle_read`], [`Wire::handle_eof`], [`Wire::handle_written`],
//!   [`handle_time`](Connection::handle_time);
//! - outputs, which say what to do next: [`poll_event`](Connection::poll_event),
//!   [`interest`](Connection::interest), [`deadline`](Connection::deadline), [`ending`](Connection::ending),
//!   [`Wire::transmit`];
//! - commands, which an application gives: [`read_body`](Connection::read_body),
//!   [`respond`](Connection::respond), [`write`](Connection::write), [`finish`](Connection::finish);
//! - questions, such as [`state`](Connection::state).
//!
//! [`respond`](Connection::respond) is the only place that decides `Connection: close`, at the moment when the
//! head is encoded (D5).

use bytes::Bytes;

use self::buffer::{OutQueue, ReadBuffer};
use self::pace::Pace;
use self::record::Record;
use self::response::Encoder;
use self::state::{Fate, Input, Receiving, Sending};
use crate::app::{Answered, ConnectionInfo};
use crate::config::{HIGH_WATER, Limits};
use crate::handoff::{HandOff, Origin, Peer};
use crate::http1::{
    Ahead, BodyError, Decoder, HeadLimits, Parsed, Refusal, RequestHead, Version, parse_head,
};
use crate::machine::{CloseReason, Cx, Interest, IoSlices, Step, Wire};
use crate::shutdown::{ConnState, ConnView};
use crate::time::Time;

pub use self::body::{BodyRead, Buffered};
pub(crate) use self::deadline::sooner;
pub(crate) use self::response::Overdue;
pub use self::response::RespondError;
pub(crate) use self::response::push_interim;

mod body;
mod buffer;
mod deadline;
#[path = "conn/proxy_trust.rs"]
mod front;
mod pace;
mod record;
mod response;
mod state;
#[path = "conn/foreign_protocol.rs"]
mod stranger;

/// One connection. See the [module](self) for how its methods fit together.
#[derive(Debug)]
pub struct Connection {
    origin: Origin,
    /// The client as a PROXY header has named it; the peer if that named none.
    proxied: Option<Peer>,
    accepted: Time,
    /// Heads completed.
    requests: u32,
    /// Responses queued to their end.
    served: u32,

    rx: ReadBuffer,
    tx: OutQueue,
    receiving: Receiving,
    sending: Sending,
    fate: Fate,
    /// The peer has ended its side.
    eof: bool,
    upgraded: bool,
    /// It could not be handed off, so that the fallback decides from here on.
    stays: bool,
    /// It could not be handed off for now, and is not asked to leave again before.
    held_back: Time,

    /// Storage of the last head, for the next one.
    spare: Option<Box<RequestHead>>,
    /// A line has ended since parsing last found the head incomplete.
    line_ended: bool,
    /// Bytes of empty lines before the head under way.
    skipped: usize,
    /// What respond needs of the request under way.
    request: Request,
    /// The framing of its body.
    decoder: Decoder,
    /// What is known of the body that is waited for as a whole.
    ahead: Option<Ahead>,
    body_read: u64,
    /// The application waits for more of the body.
    body_wanted: bool,
    /// Why there will be no more of it.
    fault: Option<BodyError>,
    encoder: Encoder,
    /// The response under way announces close, or cannot be followed by another, for this reason.
    last: Option<CloseReason>,
    /// How that response broke its own Content-Length.
    breach: Option<RespondError>,
    /// The account of the exchange under way, if somebody asks for it.
    record: Option<Box<Record>>,

    /// When the first byte of the head under way arrived.
    head_since: Option<Time>,
    /// When the last response was flushed, or the connection was accepted (D8).
    idle_since: Time,
    /// When the body under way last made progress.
    body_since: Time,
    /// When the queue was last empty or made progress.
    write_since: Time,
    /// How fast the body under way arrives.
    body_pace: Pace,
    /// How fast the queue is taken, from the first response on that it began with.
    write_pace: Pace,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    version: Version,
    is_head: bool,
    keep_alive: bool,
    expects_continue: bool,
    offers_upgrade: bool,
    /// When its head was complete.
    since: Time,
    /// When its handler has had its time, if that has a limit.
    due: Option<Time>,
    /// Its handler has taken longer than it may.
    overdue: Option<Overdue>,
    /// Of the response under way, or of the last one.
    status: u16,
}

/// What a connection tells whoever drives it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A request's head is complete. Give it back with [`Connection::recycle`] once it is answered.
    Request(Box<RequestHead>),
}

impl Connection {
    /// A connection accepted at `now`.
    pub fn new(from: Origin, now: Time) -> Self {
        Self {
            origin: from,
            proxied: None,
            accepted: now,
            requests: 0,
            served: 0,
            rx: ReadBuffer::default(),
            tx: OutQueue::default(),
            receiving: Receiving::Head,
            sending: Sending::Quiet,
            fate: Fate::Open,
            eof: false,
            upgraded: false,
            stays: false,
            held_back: Time::ZERO,
            spare: None,
            line_ended: true,
            skipped: 0,
            request: Request {
                version: Version::Http11,
                is_head: false,
                keep_alive: false,
                expects_continue: false,
                offers_upgrade: false,
                since: now,
                due: None,
                overdue: None,
                status: 0,
            },
            decoder: Decoder::none(),
            ahead: None,
            body_read: 0,
            body_wanted: false,
            fault: None,
            encoder: Encoder::Swallow,
            last: None,
            breach: None,
            record: None,
            head_since: None,
            idle_since: now,
            body_since: now,
            write_since: now,
            body_pace: Pace::default(),
            write_pace: Pace::default(),
        }
    }

    /// A connection that another worker owned before, resumed as if it had always been here (D19).
    pub fn resume(record: HandOff, now: Time) -> Self {
        let origin = Origin::new(record.listener, record.peer, record.draw);
        Self {
            proxied: record.proxied,
            accepted: record.accepted,
            requests: record.served,
            served: record.served,
            idle_since: record.idle_since.unwrap_or(record.accepted),
            head_since: record.head_since.or_else(|| (!record.unread.is_empty()).then_some(now)),
            rx: ReadBuffer::holding(&record.unread),
            ..Self::new(origin, now)
        }
    }

    /// The record that lets another worker resume this connection, handed over `now`; `None` when it cannot move, which it
    /// can only between requests and with nothing queued.
    pub fn hand_off(&self, now: Time) -> Option<HandOff> {
        (self.is_between_requests() && self.is_movable()).then(|| HandOff {
            version: HandOff::VERSION,
            listener: self.origin.listener,
            served: self.served,
            accepted: self.accepted,
            handed: Some(now),
            idle_since: (self.served > 0).then_some(self.idle_since),
            head_since: self.head_since,
            draw: self.origin.draw,
            peer: self.origin.peer,
            proxied: self.proxied,
            unread: Bytes::copy_from_slice(self.rx.filled()),
        })
    }

    /// Keeps an account of each exchange from here on, with or without the head of its response.
    pub(crate) fn keep_account(&mut self, of_heads: bool) {
        self.record = Some(Box::new(Record::new(of_heads)));
    }

    // Outputs.

    /// The next thing that happened, if anything did.
    pub fn poll_event(&mut self, cx: &Cx<'_>) -> Option<Event> {
        if self.fate != Fate::Open {
            return None;
        }
        if (self.receiving, self.sending) == (Receiving::Discard, Sending::Quiet) {
            self.discard(cx);
        }
        if (self.receiving, self.sending) != (Receiving::Head, Sending::Quiet) || self.tx.len() >= HIGH_WATER
        {
            return None;
        }
        if self.awaits_proxy_header(cx) && !self.take_proxy_header(cx) {
            return None;
        }
        self.skip_empty_lines();
        let limits = HeadLimits {
            head: cx.limits.head.saturating_sub(self.skipped),
            request_line: cx.limits.request_line,
            fields: cx.limits.fields,
            field_size: cx.limits.field_size,
            framing: cx.limits.framing,
        };
        if self.skipped > cx.limits.head {
            self.refuse(Refusal::FieldsTooLarge, cx);
            return None;
        }
        if self.rx.is_empty() {
            if self.eof {
                self.fate = Fate::Flushing(CloseReason::PeerClosed);
            }
            return None;
        }
        if !self.is_worth_parsing(limits) {
            return self.wait_for_head();
        }
        self.rx.align();
        let mut head = self.spare.take().unwrap_or_default();
        let parsed = parse_head(self.rx.filled(), limits, &mut head);
        match parsed {
            Parsed::Complete(len) => match self.vet(&mut head, len, cx) {
                Ok(()) => return self.begin(head, len, cx),
                Err(refusal) => self.refuse(refusal, cx),
            },
            Parsed::Partial if self.rx.is_full() => self.refuse(Refusal::FieldsTooLarge, cx),
            Parsed::Partial => {
                self.spare = Some(head);
                self.line_ended = false;
                return self.wait_for_head();
            }
            Parsed::Refused(refusal) => {
                stranger::name(self.rx.filled(), self.origin.peer);
                self.refuse(refusal, cx);
            }
        }
        self.spare = Some(head);
        None
    }

    /// What has to be waited for.
    pub fn interest(&self) -> Interest {
        let read = !self.eof
            && match (self.fate, self.receiving, self.sending) {
                (Fate::Lingering { .. }, ..) => true,
                (Fate::Open, Receiving::Head, Sending::Quiet) => self.tx.len() < HIGH_WATER,
                (Fate::Open, Receiving::Discard, Sending::Quiet) => true,
                (Fate::Open, Receiving::Body, _) => self.body_wanted && !self.rx.is_full(),
                _ => false,
            };
        Interest { read, write: !self.tx.is_empty() && !matches!(self.fate, Fate::Ended(_)) }
    }

    /// The step that ends the connection, once there is one to take.
    pub fn ending(&mut self, cx: &Cx<'_>) -> Option<Step> {
        match self.fate {
            Fate::Flushing(reason) if self.tx.is_empty() => {
                if self.eof || cx.limits.linger.is_zero() {
                    self.fate = Fate::Ended(reason);
                    return Some(Step::Close(reason));
                }
                self.rx.clear();
                let Limits { linger, linger_size, .. } = *cx.limits;
                let left = if linger_size == 0 { u64::MAX } else { linger_size };
                self.fate = Fate::Lingering { reason, until: cx.now + linger, left };
                Some(Step::HalfClose)
            }
            Fate::Ended(reason) => Some(Step::Close(reason)),
            _ => None,
        }
    }

    /// The account of the exchange that `head` began, if one is kept.
    pub(crate) fn account<'a>(&'a self, head: &'a RequestHead, now: Time) -> Option<Answered<'a>> {
        let Record { since, status, sent, head: fields, .. } = &**self.record.as_ref()?;
        Some(Answered {
            head: head.view(),
            connection: self.info(),
            status: *status,
            sent: *sent,
            since: *since,
            took: now - *since,
            fields,
        })
    }

    /// What is known of a request that was refused before the application could see it, if an account is kept.
    pub(crate) fn take_refused(&mut self) -> Option<Box<RequestHead>> {
        self.record.as_mut()?.refused.take()
    }

    // Commands.

    /// The handler of the request is called: from here on it has its time.
    pub(crate) fn call(&mut self, cx: &Cx<'_>) {
        let limit = cx.limits.request_timeout;
        self.request.due = (!limit.is_zero()).then(|| cx.now + limit);
    }

    /// Ends the connection without the rest of the response: what is queued is sent, a final chunk is not.
    pub fn abort(&mut self, reason: CloseReason) {
        if self.fate == Fate::Open {
            self.fate = Fate::Flushing(reason);
        }
    }

    /// It could not be handed off for now, and does not ask for that again before `until`.
    pub fn hold_back(&mut self, until: Time) {
        self.held_back = until;
    }

    /// It cannot be handed off: the policy is told so from here on.
    pub fn stay(&mut self) {
        self.stays = true;
    }

    /// Ends the connection at once: nothing more is sent.
    pub fn end(&mut self, reason: CloseReason) {
        if !matches!(self.fate, Fate::Ended(_)) {
            if let Some(record) = &mut self.record {
                record.sent = record.sent.saturating_sub(self.tx.len() as u64);
            }
            self.tx.clear();
            self.fate = Fate::Ended(reason);
        }
    }

    /// Gives memory back that is not needed before bytes arrive.
    pub fn rest(&mut self) {
        self.rx.rest();
    }

    /// Takes the storage of an answered head back.
    pub fn recycle(&mut self, mut head: Box<RequestHead>) {
        self.rx.return_storage(&mut head.buf);
        head.shrink();
        self.spare = Some(head);
    }

    // Questions.

    /// Where the connection is.
    pub fn state(&self) -> ConnState {
        match (self.fate, self.sending, self.receiving) {
            (Fate::Lingering { .. }, ..) => ConnState::Lingering,
            _ if self.upgraded => ConnState::Upgraded,
            (Fate::Open, Sending::Quiet, Receiving::Head) if self.tx.is_empty() => {
                match (self.rx.is_empty(), self.served) {
                    (false, _) => ConnState::Head,
                    (true, 0) => ConnState::Fresh,
                    (true, _) => ConnState::Idle,
                }
            }
            _ => ConnState::Busy,
        }
    }

    /// Whether a request is in flight: begun, and not answered to the last flushed byte.
    pub fn in_flight(&self) -> bool {
        matches!(self.state(), ConnState::Busy | ConnState::Upgraded)
    }

    /// Whether the request under way offers to change the protocol (RFC 9110 §7.8).
    pub fn offers_upgrade(&self) -> bool {
        self.request.offers_upgrade
    }

    /// Whether it has ended, or only its flushing and lingering are left.
    pub fn is_ending(&self) -> bool {
        self.fate != Fate::Open
    }

    /// Responses queued to their end so far.
    pub fn served(&self) -> u32 {
        self.served
    }

    /// Whether the request under way was refused.
    pub(crate) fn is_refused(&self) -> bool {
        self.fate == Fate::Flushing(CloseReason::Refused)
    }

    /// Bytes queued and not sent.
    pub fn unsent(&self) -> usize {
        self.tx.len()
    }

    /// Bytes of storage for what was read and for heads.
    #[cfg(test)]
    pub(crate) fn storage(&self) -> usize {
        self.rx.storage() + self.spare.as_ref().map_or(0, |head| head.storage())
    }

    /// What an application may know of it.
    pub fn info(&self) -> ConnectionInfo {
        ConnectionInfo { peer: self.proxied.unwrap_or(self.origin.peer), requests: self.requests }
    }

    /// What a policy may know of it.
    pub fn view(&self) -> ConnView {
        ConnView {
            state: self.state(),
            idle_since: self.idle_since,
            served: self.served,
            draw: self.origin.draw,
            movable: self.is_movable(),
        }
    }

    /// Whether it can move once it is between requests.
    fn is_movable(&self) -> bool {
        self.fate == Fate::Open && !self.eof && !self.upgraded && !self.stays
    }

    fn is_between_requests(&self) -> bool {
        matches!(self.state(), ConnState::Fresh | ConnState::Head | ConnState::Idle)
    }

    // Transitions.

    fn enter(&mut self, input: Input) {
        let from = (self.receiving, self.sending);
        debug_assert!(state::next(from, input).is_some(), "{input:?} in {from:?}");
        (self.receiving, self.sending) = state::next(from, input).unwrap_or(from);
    }

    fn begin(&mut self, mut head: Box<RequestHead>, len: usize, cx: &Cx<'_>) -> Option<Event> {
        self.decoder = std::mem::replace(&mut head.framing, Decoder::none());
        self.ahead = None;
        self.request = Request {
            version: head.version(),
            is_head: head.is_head,
            keep_alive: head.keep_alive,
            expects_continue: head.expects_continue,
            offers_upgrade: head.offers_upgrade,
            since: cx.now,
            due: None,
            overdue: None,
            status: 0,
        };
        self.enter(Input::Request { body: !self.decoder.is_done() });
        self.requests += 1;
        self.head_since = None;
        self.line_ended = true;
        self.skipped = 0;
        self.body_since = cx.now;
        self.body_read = 0;
        self.fault = None;
        self.last = None;
        self.breach = None;
        self.rx.split_storage(len, &mut head.buf);
        self.body_pace = Pace::with(self.rx.filled().len());
        if let Some(record) = &mut self.record {
            record.begin(cx.now);
        }
        let over = cx.limits.body > 0 && self.decoder.remaining().is_some_and(|n| n > cx.limits.body);
        if over {
            self.refuse(Refusal::BodyTooLarge, cx);
            match &mut self.record {
                Some(record) => record.refused = Some(head),
                None => self.recycle(head),
            }
            return None;
        }
        Some(Event::Request(head))
    }

    fn wait_for_head(&mut self) -> Option<Event> {
        if self.eof {
            self.fate = Fate::Flushing(CloseReason::PeerAborted);
        }
        None
    }

    /// Whether there may be more to say of what there is of a head than when it was last parsed: a line has ended since, or
    /// is over its limit already.
    fn is_worth_parsing(&self, limits: HeadLimits) -> bool {
        let head = self.rx.filled();
        if self.line_ended || self.rx.is_full() || head.len() > limits.head {
            return true;
        }
        let (line, limit) = match memchr::memrchr(b'\n', head) {
            None => (head.len(), limits.request_line),
            Some(end) => (head.len() - end - 1, limits.field_size),
        };
        line > limit.saturating_add(1)
    }

    /// Notes when the head began whose first bytes are here already.
    fn begin_head(&mut self, now: Time) {
        self.head_since = (!self.rx.is_empty()).then_some(now);
    }

    /// RFC 9112 §2.2: empty lines before a request line are ignored, though not without end.
    fn skip_empty_lines(&mut self) {
        while self.rx.filled().starts_with(b"\r\n") {
            self.rx.consume(2);
            self.skipped += 2;
            if self.rx.is_empty() {
                self.head_since = None;
            }
        }
    }
}

impl Wire for Connection {
    fn read_buf(&mut self) -> &mut [u8] {
        if matches!(self.fate, Fate::Lingering { .. }) {
            self.rx.clear();
        }
        self.rx.space()
    }

    fn handle_read(&mut self, n: usize, now: Time) {
        if let Fate::Lingering { reason, left, .. } = &mut self.fate {
            *left = left.saturating_sub(n as u64);
            if *left == 0 {
                self.fate = Fate::Ended(*reason);
            }
            return;
        }
        if self.receiving == Receiving::Head {
            self.line_ended |= memchr::memchr(b'\n', &self.rx.space()[..n]).is_some();
            self.head_since.get_or_insert(now);
        }
        self.rx.filled_up(n);
        self.body_since = now;
        self.body_pace.advance(n, now);
    }

    fn handle_eof(&mut self, _: Time) {
        self.eof = true;
        // No more of it will come: what is wrong with it shows now, however it came.
        self.line_ended = true;
        if let Fate::Lingering { reason, .. } = self.fate {
            self.fate = Fate::Ended(reason);
        }
    }

    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
        self.tx.transmit(out);
    }

    fn handle_written(&mut self, n: usize, now: Time) {
        let held_up = self.tx.len() >= HIGH_WATER;
        self.tx.consume(n);
        if held_up && self.tx.len() < HIGH_WATER && self.receiving == Receiving::Head {
            // Only now is the next head looked at.
            self.begin_head(now);
        }
        self.write_since = now;
        self.write_pace.advance(n, now);
        if self.tx.is_empty() {
            self.idle_since = now;
        }
    }
}

#[cfg(test)]
mod tests;
