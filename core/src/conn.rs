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

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use self::buffer::{OutQueue, ReadBuffer};
use self::record::Record;
use self::state::{Fate, Input, Receiving, Sending};
use crate::app::{Answered, ConnectionInfo};
use crate::config::{DISCARD_MAX, HIGH_WATER, LINGER_MAX, READ_BUFFER};
use crate::handoff::{HandOff, Origin, Peer};
use crate::http1::{
    BodyError, BodyLen, ChunkHeader, ConnectionField, Decoded, Decoder, FieldError, Framing, HeadLimits,
    LAST_CHUNK, Parsed, Refusal, RequestHead, ResponseHead, Version, encode_head, frame, parse_head,
};
use crate::machine::{CloseReason, Cx, Interest, IoSlices, Step, Timer, Wire};
use crate::shutdown::{Announce, ConnState, ConnView};
use crate::time::Time;

pub(crate) use self::deadline::sooner;

mod buffer;
mod deadline;
mod record;
mod state;

/// One connection. See the [module](self) for how its methods fit together.
#[derive(Debug)]
pub struct Connection {
    origin: Origin,
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
    /// What respond needs of the request under way.
    request: Request,
    /// The framing of its body.
    decoder: Decoder,
    body_read: u64,
    /// The application waits for more of the body.
    body_wanted: bool,
    /// Why there will be no more of it.
    fault: Option<BodyError>,
    encoder: Encoder,
    /// The response under way announces close, or cannot be followed by another, for this reason.
    last: Option<CloseReason>,
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

/// What has become of a request whose handler takes longer than it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Overdue {
    /// Its client was told 503.
    Told,
    /// Its response had begun, and is cut.
    Cut,
}

/// How the body of the response under way is put on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Encoder {
    /// This many bytes more.
    Length(u64),
    Chunked,
    /// As it comes, until the connection ends.
    Raw,
    /// Not at all: the response has no content, whatever the application writes (RFC 9110 §6.4.1).
    Swallow,
}

/// What a connection tells whoever drives it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A request's head is complete. Give it back with [`Connection::recycle`] once it is answered.
    Request(Box<RequestHead>),
}

/// What there is of a request body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "a read has these outcomes")]
pub enum BodyRead {
    /// This many bytes.
    Data(usize),
    /// Its end.
    End,
    /// Nothing yet: bytes have to arrive first.
    NeedInput,
    /// No more of it, and not because it ended.
    Aborted(BodyError),
}

/// Whether all of a request body has arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "there is no fourth case")]
pub enum Buffered {
    /// All of it is here, or no more of it will come.
    Complete,
    /// Not yet, but it would fit.
    Partial,
    /// It is larger than a read buffer may be.
    TooLarge,
}

/// Why a response could not be begun, written or ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RespondError {
    /// There is no request, or it has been answered.
    #[error("there is no request to answer")]
    NoRequest,
    /// The head has an invalid field or status.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// An interim status cannot answer a request.
    #[error("status {0} is not a final response")]
    Interim(u16),
    /// The client did not offer to change the protocol, or not before all of its request was read.
    #[error("the client has not offered to change the protocol")]
    NotOffered,
    /// More was written than Content-Length said.
    #[error("the response body is longer than its content-length")]
    TooLong,
    /// The response ended before Content-Length bytes.
    #[error("the response body is {missing} bytes shorter than its content-length")]
    TooShort {
        /// How many bytes were not written.
        missing: u64,
    },
    /// The connection has ended.
    #[error("the connection has ended")]
    Closed,
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
            body_read: 0,
            body_wanted: false,
            fault: None,
            encoder: Encoder::Swallow,
            last: None,
            record: None,
            head_since: None,
            idle_since: now,
            body_since: now,
            write_since: now,
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
            self.discard(cx.now);
        }
        if (self.receiving, self.sending) != (Receiving::Head, Sending::Quiet) || self.tx.len() >= HIGH_WATER
        {
            return None;
        }
        self.skip_empty_lines();
        if self.rx.is_empty() {
            if self.eof {
                self.fate = Fate::Flushing(CloseReason::PeerClosed);
            }
            return None;
        }
        if !self.line_ended && !self.rx.is_full() {
            return self.wait_for_head();
        }
        self.rx.align();
        let limits = HeadLimits {
            request_line: cx.limits.request_line,
            fields: cx.limits.fields,
            field_size: cx.limits.field_size,
        };
        let mut head = self.spare.take().unwrap_or_default();
        let parsed = parse_head(self.rx.filled(), limits, &mut head);
        match parsed {
            Parsed::Complete(len) => return self.begin(head, len, cx),
            Parsed::Partial if self.rx.is_full() => self.refuse(Refusal::FieldsTooLarge, cx),
            Parsed::Partial => {
                self.spare = Some(head);
                self.line_ended = false;
                return self.wait_for_head();
            }
            Parsed::Refused(refusal) => self.refuse(refusal, cx),
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
                self.fate = Fate::Lingering { reason, until: cx.now + cx.limits.linger, left: LINGER_MAX };
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

    /// Reads what has arrived of the request body into `buffer`, which must not be empty.
    pub fn read_body(&mut self, buffer: &mut [u8], cx: &Cx<'_>) -> BodyRead {
        if let Some(fault) = self.fault {
            return BodyRead::Aborted(fault);
        }
        match (self.fate, self.receiving) {
            (Fate::Open, Receiving::Done) => return BodyRead::End,
            (Fate::Open, Receiving::Body) => {}
            _ => return BodyRead::Aborted(BodyError::Closed),
        }
        match self.decoder.decode(self.rx.filled(), buffer.len()) {
            Err(error) => return self.fail_body(error),
            Ok(Decoded { skip, data }) => {
                buffer[..data].copy_from_slice(&self.rx.filled()[skip..skip + data]);
                self.rx.consume(skip + data);
                self.body_read += data as u64;
                if cx.limits.body > 0 && self.body_read > cx.limits.body && !self.upgraded {
                    return self.fail_body(BodyError::TooLarge { limit: cx.limits.body });
                }
                if self.decoder.is_done() {
                    self.enter(Input::BodyEnd);
                }
                if data > 0 {
                    self.body_wanted = false;
                    return BodyRead::Data(data);
                }
            }
        }
        if self.receiving == Receiving::Done || (self.eof && self.upgraded) {
            return BodyRead::End;
        }
        if self.eof {
            return self.fail_body(BodyError::Truncated);
        }
        self.want_body(cx);
        BodyRead::NeedInput
    }

    /// Whether all of the request body is in the read buffer; asks for more of it if it is not and would fit.
    pub fn collect_body(&mut self, cx: &Cx<'_>) -> Buffered {
        if self.receiving != Receiving::Body
            || self.decoder.find_end(self.rx.filled()) != Ok(None)
            || self.eof
            || self.fault.is_some()
        {
            // Nobody waits for the peer any more, whoever is waited for next.
            self.body_wanted = false;
            return Buffered::Complete;
        }
        let room = crate::config::READ_BUFFER_MAX as u64;
        if self.rx.is_full() || self.decoder.remaining().is_some_and(|left| left > room) {
            self.body_wanted = false;
            return Buffered::TooLarge;
        }
        self.want_body(cx);
        Buffered::Partial
    }

    /// Tells that nobody will read the rest of the request body.
    pub fn discard_body(&mut self) {
        if self.receiving == Receiving::Body && !self.upgraded {
            self.receiving = Receiving::Discard;
            self.body_wanted = false;
        }
    }

    /// Begins the response: decides about close, then queues the head.
    ///
    /// # Errors
    ///
    /// See [`RespondError`]; nothing has been queued then.
    pub fn respond(&mut self, head: &ResponseHead, len: BodyLen, cx: &Cx<'_>) -> Result<(), RespondError> {
        self.may_respond(head)?;
        if (100..200).contains(&head.status()) {
            return Err(RespondError::Interim(head.status()));
        }
        let framing = frame(head, len, self.request.is_head, self.request.version);
        self.last = self.decide_close(head, framing, cx);
        let connection = match (self.last, self.request.version) {
            (Some(_), _) => ConnectionField::Close,
            (None, Version::Http10) => ConnectionField::KeepAlive,
            (None, Version::Http11) => ConnectionField::Default,
        };
        self.encoder = match framing {
            Framing::Nothing => Encoder::Swallow,
            _ if self.request.is_head || head.status() == 304 || head.status() == 205 => Encoder::Swallow,
            Framing::Length(n) => Encoder::Length(n),
            Framing::Chunked => Encoder::Chunked,
            Framing::UntilClose => Encoder::Raw,
        };
        self.queue_head(head, framing, connection, cx);
        self.enter(Input::ResponseHead);
        Ok(())
    }

    /// Answers 101 and leaves the connection to the application: raw bytes both ways from here on.
    ///
    /// # Errors
    ///
    /// See [`RespondError`]; a request whose body has not been read cannot be upgraded (`NotOffered`).
    pub fn upgrade(&mut self, head: &ResponseHead, cx: &Cx<'_>) -> Result<(), RespondError> {
        self.may_respond(head)?;
        if head.status() != 101 || self.receiving != Receiving::Done || !self.request.offers_upgrade {
            return Err(RespondError::NotOffered);
        }
        self.queue_head(head, Framing::Nothing, ConnectionField::Upgrade, cx);
        self.upgraded = true;
        self.request.due = None;
        self.last = Some(CloseReason::UpgradeEnded);
        self.decoder = Decoder::raw();
        self.encoder = Encoder::Raw;
        self.enter(Input::Upgrade);
        Ok(())
    }

    /// Queues a part of the response body and says how much of it was taken; 0 means later.
    ///
    /// # Errors
    ///
    /// See [`RespondError`].
    pub fn write(&mut self, bytes: &[u8], now: Time) -> Result<usize, RespondError> {
        let room = HIGH_WATER.saturating_sub(self.tx.len());
        let taken = self.admit(bytes.len(), bytes.len().min(room))?;
        if taken > 0 && self.encoder != Encoder::Swallow {
            self.begin_queueing(now);
            self.queue_chunk(taken, |tx| tx.push(&bytes[..taken]));
        }
        Ok(taken)
    }

    /// Queues all of `bytes` without copying them if they are large. They are the application's memory already,
    /// so they may exceed the high-water mark.
    ///
    /// # Errors
    ///
    /// See [`RespondError`].
    pub fn write_shared(&mut self, bytes: Bytes, now: Time) -> Result<(), RespondError> {
        let taken = self.admit(bytes.len(), bytes.len())?;
        if taken > 0 && self.encoder != Encoder::Swallow {
            self.begin_queueing(now);
            self.queue_chunk(taken, |tx| tx.push_shared(bytes));
        }
        Ok(())
    }

    /// Ends the response.
    ///
    /// # Errors
    ///
    /// `TooShort` if bytes are missing: the connection then ends without them.
    pub fn finish(&mut self, now: Time) -> Result<(), RespondError> {
        if self.fate != Fate::Open {
            return Err(RespondError::Closed);
        }
        if self.sending != Sending::Body {
            return Err(RespondError::NoRequest);
        }
        match self.encoder {
            Encoder::Length(missing) if missing > 0 => {
                self.abort(CloseReason::ApplicationFailed);
                return Err(RespondError::TooShort { missing });
            }
            Encoder::Chunked => {
                self.begin_queueing(now);
                self.tx.push(LAST_CHUNK);
            }
            _ => {}
        }
        self.served += 1;
        if let Some(reason) = self.last {
            self.fate = Fate::Flushing(reason);
            return Ok(());
        }
        self.enter(Input::ResponseEnd);
        self.idle_since = now;
        self.body_since = now;
        self.body_read = 0;
        self.body_wanted = false;
        self.begin_head(now);
        self.rx.shrink();
        Ok(())
    }

    /// Ends the connection without the rest of the response: what is queued is sent, a final chunk is not.
    pub fn abort(&mut self, reason: CloseReason) {
        if self.fate == Fate::Open {
            self.fate = Fate::Flushing(reason);
        }
    }

    /// At the drain's deadline, tells a client whose response has not begun that there will be none (D10).
    pub fn give_up(&mut self, cx: &Cx<'_>) {
        if self.awaits_response() {
            self.decline("the server is stopping\n", CloseReason::DeadlineCut, cx);
        }
    }

    /// [Times out](Self::time_out) what is due by now.
    pub(crate) fn expire(&mut self, cx: &Cx<'_>) {
        if self.due().is_some_and(|due| due <= cx.now) {
            self.time_out(cx);
        }
    }

    /// The handler has had its time: tells a client whose response has not begun that there will be none, or cuts the
    /// response. Nothing that the handler still does is of any effect.
    pub(crate) fn time_out(&mut self, cx: &Cx<'_>) {
        const REASON: CloseReason = CloseReason::TimedOut(Timer::Request);
        if self.awaits_response() {
            self.request.overdue = Some(Overdue::Told);
            self.decline("the request has taken too long\n", REASON, cx);
        } else if self.sending == Sending::Body && self.fate == Fate::Open {
            self.request.overdue = Some(Overdue::Cut);
            self.abort(REASON);
        }
    }

    /// Answers 503, and ends the connection.
    fn decline(&mut self, text: &'static str, reason: CloseReason, cx: &Cx<'_>) {
        let head = ResponseHead::new(503).field("Content-Type", "text/plain");
        self.queue_head(&head, Framing::Length(text.len() as u64), ConnectionField::Close, cx);
        if !self.request.is_head {
            self.tx.push(text.as_bytes());
            self.account_for(text.len());
        }
        self.fate = Fate::Flushing(reason);
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

    /// Answers a peer's fault and ends the connection (RFC 9112 §9.6). Once a response has begun, it is cut.
    pub fn refuse(&mut self, refusal: Refusal, cx: &Cx<'_>) {
        if self.fate != Fate::Open {
            return;
        }
        if let Some(record) = &mut self.record
            && self.sending == Sending::Quiet
        {
            record.begin(self.head_since.unwrap_or(cx.now));
            record.refused = Some(Box::new(RequestHead::of_refused(self.rx.filled())));
        }
        if self.sending != Sending::Body {
            let head = ResponseHead::new(refusal.status()).field("Content-Type", "text/plain");
            let text = format!("{refusal}\n");
            let body = if self.request.is_head && self.sending == Sending::Awaiting { "" } else { &text };
            self.queue_head(&head, Framing::Length(text.len() as u64), ConnectionField::Close, cx);
            self.tx.push(body.as_bytes());
            self.account_for(body.len());
        }
        self.rx.clear();
        self.fate = Fate::Flushing(match refusal {
            Refusal::HeadTimeout => CloseReason::TimedOut(Timer::Head),
            Refusal::BodyTimeout => CloseReason::TimedOut(Timer::Body),
            _ => CloseReason::Refused,
        });
    }

    /// Takes the storage of an answered head back.
    pub fn recycle(&mut self, mut head: Box<RequestHead>) {
        self.rx.return_storage(&mut head.buf);
        if head.buf.len() > READ_BUFFER {
            head.buf = Vec::new();
        }
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

    /// Whether a response head is still to be sent.
    pub fn awaits_response(&self) -> bool {
        self.sending == Sending::Awaiting && self.fate == Fate::Open
    }

    /// Whether the request has a body that has not been read to its end.
    pub(crate) fn expects_body(&self) -> bool {
        self.receiving == Receiving::Body
    }

    /// Whether nothing that is written of the response under way is sent.
    pub(crate) fn swallows_body(&self) -> bool {
        self.encoder == Encoder::Swallow
    }

    /// How much of the request body is still to come, if that is known.
    pub(crate) fn body_len(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    /// Whether the request under way offers to change the protocol (RFC 9110 §7.8).
    pub fn offers_upgrade(&self) -> bool {
        self.request.offers_upgrade
    }

    /// Why the request body cannot be read any further, if so.
    pub fn body_fault(&self) -> Option<BodyError> {
        self.fault
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

    /// What has become of the request under way if its handler takes longer than it may.
    pub(crate) fn overdue(&self) -> Option<Overdue> {
        self.request.overdue
    }

    /// When the handler of the request under way has had its time, if it has a limit.
    pub(crate) fn due(&self) -> Option<Time> {
        self.request.due.filter(|_| self.sending != Sending::Quiet)
    }

    /// The status of the last response, and how long its request took until `now`.
    pub(crate) fn answered(&self, now: Time) -> (u16, Duration) {
        (self.request.status, now - self.request.since)
    }

    /// Bytes queued and not sent.
    pub fn unsent(&self) -> usize {
        self.tx.len()
    }

    /// Bytes of storage for what was read.
    #[cfg(test)]
    pub(crate) fn storage(&self) -> usize {
        self.rx.storage() + self.spare.as_ref().map_or(0, |head| head.buf.len())
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
        self.body_since = cx.now;
        self.body_read = 0;
        self.fault = None;
        self.last = None;
        self.rx.split_storage(len, &mut head.buf);
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

    fn may_respond(&self, head: &ResponseHead) -> Result<(), RespondError> {
        if self.fate != Fate::Open {
            return Err(RespondError::Closed);
        }
        if self.sending != Sending::Awaiting {
            return Err(RespondError::NoRequest);
        }
        Ok(head.check()?)
    }

    /// Whether the response announces close, and why (D5, D6).
    fn decide_close(&self, head: &ResponseHead, framing: Framing, cx: &Cx<'_>) -> Option<CloseReason> {
        let finished = !self.request.keep_alive
            || head.wants_close()
            || framing == Framing::UntilClose
            || cx.limits.keep_alive.is_zero()
            // RFC 9110 §10.1.1: without a 100 the client may or may not send the body, so nothing can follow it.
            || (self.request.expects_continue && self.receiving != Receiving::Done)
            || self.fault.is_some()
            || self.discards_too_much();
        if finished {
            return Some(CloseReason::Finished);
        }
        let drain = cx.draining_now()?;
        if drain.is_over(cx.now) {
            return Some(CloseReason::Drained);
        }
        // What has been read is answered, so the last one of it announces (D6).
        if self.next_is_buffered() {
            return None;
        }
        match cx.policy.announce(drain, &self.view(), cx.now) {
            Announce::Close => Some(CloseReason::Drained),
            Announce::KeepAlive => None,
        }
    }

    /// Whether part of another request has been read already; empty lines are not part of one (RFC 9112 §2.2).
    fn next_is_buffered(&self) -> bool {
        let rest = self.rx.filled();
        let end = match self.receiving {
            Receiving::Done | Receiving::Head => Some(0),
            Receiving::Body | Receiving::Discard => self.decoder.end_within(rest),
        };
        end.is_some_and(|end| rest[end..].iter().any(|byte| !b"\r\n".contains(byte)))
    }

    /// Whether the rest of a body that nobody wants is known to be more than is worth reading.
    fn discards_too_much(&self) -> bool {
        self.receiving == Receiving::Discard
            && self.decoder.remaining().is_some_and(|left| left > DISCARD_MAX)
    }

    /// Throws away what has arrived of a body that nobody reads, up to a bound.
    fn discard(&mut self, now: Time) {
        loop {
            match self.decoder.decode(self.rx.filled(), usize::MAX) {
                Ok(Decoded { skip, data }) if skip + data > 0 => {
                    self.rx.consume(skip + data);
                    self.body_read += (skip + data) as u64;
                }
                Ok(_) => break,
                Err(_) => return self.abort(CloseReason::Refused),
            }
        }
        if self.decoder.is_done() {
            self.enter(Input::BodyEnd);
            self.idle_since = now;
            self.begin_head(now);
        } else if self.eof {
            self.abort(CloseReason::PeerAborted);
        } else if self.body_read > DISCARD_MAX || self.discards_too_much() {
            self.abort(CloseReason::Finished);
        }
    }

    /// Notes when the head began whose first bytes are here already.
    fn begin_head(&mut self, now: Time) {
        self.head_since = (!self.rx.is_empty()).then_some(now);
    }

    /// RFC 9112 §2.2: empty lines before a request line are ignored.
    fn skip_empty_lines(&mut self) {
        while self.rx.filled().starts_with(b"\r\n") {
            self.rx.consume(2);
            if self.rx.is_empty() {
                self.head_since = None;
            }
        }
    }

    fn want_body(&mut self, cx: &Cx<'_>) {
        if self.request.expects_continue && self.sending == Sending::Awaiting {
            self.begin_queueing(cx.now);
            self.tx.push(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.request.expects_continue = false;
        }
        if !self.body_wanted {
            self.body_wanted = true;
            self.body_since = cx.now;
        }
    }

    fn fail_body(&mut self, error: BodyError) -> BodyRead {
        self.fault = Some(error);
        self.body_wanted = false;
        BodyRead::Aborted(error)
    }

    /// How much of `offered` bytes the response may take, if `fit` fit.
    fn admit(&mut self, offered: usize, fit: usize) -> Result<usize, RespondError> {
        if self.fate != Fate::Open {
            return Err(RespondError::Closed);
        }
        if self.sending != Sending::Body {
            return Err(RespondError::NoRequest);
        }
        match &mut self.encoder {
            Encoder::Swallow => Ok(offered),
            Encoder::Length(left) if offered as u64 > *left => {
                self.abort(CloseReason::ApplicationFailed);
                Err(RespondError::TooLong)
            }
            Encoder::Length(left) => {
                *left -= fit as u64;
                Ok(fit)
            }
            Encoder::Chunked | Encoder::Raw => Ok(fit),
        }
    }

    fn queue_chunk(&mut self, len: usize, queue: impl FnOnce(&mut OutQueue)) {
        let chunked = self.encoder == Encoder::Chunked;
        if chunked {
            self.tx.push(ChunkHeader::new(len).as_bytes());
        }
        queue(&mut self.tx);
        if chunked {
            self.tx.push(b"\r\n");
        }
        self.account_for(len);
    }

    /// So many bytes of content are queued.
    fn account_for(&mut self, len: usize) {
        if let Some(record) = &mut self.record {
            record.sent += len as u64;
        }
    }

    fn queue_head(
        &mut self,
        head: &ResponseHead,
        framing: Framing,
        connection: ConnectionField,
        cx: &Cx<'_>,
    ) {
        self.request.status = head.status();
        self.begin_queueing(cx.now);
        let Self { tx, record, .. } = self;
        tx.push_with(|out| {
            let start = out.len();
            encode_head(out, head, framing, connection, cx.date);
            if let Some(record) = record {
                record.respond(head.status(), &out[start..]);
            }
        });
    }

    /// The write deadline counts from when there was something to write.
    fn begin_queueing(&mut self, now: Time) {
        if self.tx.is_empty() {
            self.write_since = now;
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
    }

    fn handle_eof(&mut self, _: Time) {
        self.eof = true;
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
        if self.tx.is_empty() {
            self.idle_since = now;
        }
    }
}

#[cfg(test)]
mod tests;
