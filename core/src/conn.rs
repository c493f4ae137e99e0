//! One HTTP/1.1 connection as a state machine (RFC 9112). Its input is bytes and time. Its output
//! is bytes, events, interest, a named deadline, and one reason for its end.
//!
//! It holds no socket, waker, channel or clock, and does not know the application. Its methods are
//! of four kinds:
//!
//! - inputs, which report what happened: [`Wire::handle_read`], [`Wire::handle_eof`],
//!   [`Wire::handle_written`], [`handle_time`](Connection::handle_time);
//! - outputs, which say what to do next: [`poll_event`](Connection::poll_event),
//!   [`interest`](Connection::interest), [`deadline`](Connection::deadline),
//!   [`ending`](Connection::ending), [`Wire::transmit`];
//! - commands of an application, through the [`Exchange`](crate::exchange::Exchange) that
//!   [`exchange`](Connection::exchange) borrows;
//! - queries, such as [`state`](Connection::state).
//!
//! Only [`Exchange::respond`](crate::exchange::Exchange::respond) decides `Connection: close`, when
//! the head is encoded (D5).

use bytes::Bytes;

use self::deadline::Checked;
use self::exchange::Exchange;
use self::reader::{PeerEnd, Reader};
use self::state::{End, Fate, Input, Receiving, Sending, State};
use self::writer::Writer;
use crate::config::Limits;
use crate::handoff::ConnectionRecord;
use crate::http1::{HeadLimits, Parsed, Refusal, RequestHead, parse_head};
use crate::machine::{CloseReason, Cx, Interest, IoSlices, Step, Wire};
use crate::peer::ConnectionInfo;
use crate::peer::{Origin, Peer};
use crate::rescue::{ByteCounts, Entry, Standing};
use crate::shutdown::{ConnState, ConnView};
use crate::time::Time;

pub use self::body::Buffered;
pub(crate) use self::deadline::sooner;
pub(crate) use self::record::Record;
pub use self::record::{Answered, Cut};
pub(crate) use self::response::{Declined, Overdue};
pub use self::view::Http1Exchange;
pub use crate::exchange::RespondError;

mod body;
mod buffer;
mod deadline;
mod exchange;
mod foreign_protocol;
mod pace;
mod proxy_fault;
mod proxy_trust;
mod reader;
mod record;
mod response;
mod state;
mod view;
mod writer;

/// One connection. See the [module](self) for how its methods fit together.
#[derive(Debug)]
pub struct Connection {
    origin: Origin,
    /// The client that a PROXY header has named, or the peer if the header named none.
    proxied: Option<Peer>,
    usage: Usage,
    reader: Reader,
    writer: Writer,
    /// Replaced as a whole when a head is complete.
    exchange: Exchange,
    state: State,
    checked: Checked,
    handoff: Handoff,
    /// The record of the current exchange, if there is an observer.
    record: Option<Box<Record>>,
}

/// The use of a connection so far.
#[derive(Clone, Copy, Debug)]
struct Usage {
    accepted: Time,
    /// Heads completed.
    requests: u32,
    /// Responses queued completely.
    served: u32,
    /// When the last response was flushed, or the connection was accepted (D8).
    idle_since: Time,
}

/// Whether a connection may ask for a hand-off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Handoff {
    /// From this time on.
    From(Time),
    /// No longer: a hand-off was refused, and the fallback policy decides.
    Refused,
}

/// An event of a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A request's head is complete. Return it with [`Connection::reuse`] once the request is
    /// answered.
    Request(Box<RequestHead>),
}

impl Connection {
    /// A connection accepted at `now`.
    pub fn new(from: Origin, now: Time) -> Self {
        Self {
            origin: from,
            proxied: None,
            usage: Usage { accepted: now, requests: 0, served: 0, idle_since: now },
            reader: Reader::holding(&[], None),
            writer: Writer::new(now),
            exchange: Exchange::none(now),
            state: State::new(),
            checked: Checked::new(),
            handoff: Handoff::From(Time::ZERO),
            record: None,
        }
    }

    /// A connection that another worker owned before, resumed as if it had always been here (D19).
    pub fn resume(record: ConnectionRecord, now: Time) -> Self {
        let origin = Origin::new(record.listener, record.peer, record.draw);
        Self {
            proxied: record.proxied,
            usage: Usage {
                accepted: record.accepted,
                requests: record.served,
                served: record.served,
                idle_since: record.idle_since.unwrap_or(record.accepted),
            },
            reader: Reader::holding(
                &record.unread,
                record.head_since.or_else(|| (!record.unread.is_empty()).then_some(now)),
            ),
            ..Self::new(origin, now)
        }
    }

    /// The record with which another worker resumes this connection, handed over at `now`. `None`
    /// if the connection cannot move: it can move only between requests, with nothing queued.
    pub fn hand_off(&self, now: Time) -> Option<ConnectionRecord> {
        (self.is_between_requests() && self.is_movable()).then(|| ConnectionRecord {
            version: ConnectionRecord::VERSION,
            listener: self.origin.listener,
            served: self.usage.served,
            accepted: self.usage.accepted,
            handed: Some(now),
            idle_since: (self.usage.served > 0).then_some(self.usage.idle_since),
            head_since: self.reader.head_since,
            draw: self.origin.draw,
            peer: self.origin.peer,
            proxied: self.proxied,
            unread: Bytes::copy_from_slice(self.reader.buffer.filled()),
        })
    }

    /// Describes the connection in `entry`, and publishes its standing (D20). `counts`: what was read
    /// and written before this process had the connection, if that is known.
    pub fn publish(&mut self, entry: Entry, counts: Option<ByteCounts>) {
        self.writer.count_from(counts.unwrap_or_default().written);
        entry.describe(self.origin, self.usage.accepted, self.proxied, counts);
        entry.publish(self.standing());
    }

    /// Keeps a record of each exchange from now on. `of_heads`: with the head of its response.
    pub(crate) fn keep_account(&mut self, of_heads: bool) {
        self.record = Some(Box::new(Record::new(of_heads)));
    }

    // Outputs.

    /// The first bytes of the connection, after a PROXY header. None while the header is
    /// incomplete, and once the connection is ending.
    pub(crate) fn first_bytes(&mut self, cx: &Cx<'_>) -> Option<&[u8]> {
        if !self.state.is_open() || (self.awaits_proxy_header(cx) && !self.take_proxy_header(cx)) {
            return None;
        }
        Some(self.reader.buffer.filled())
    }

    /// The next event, if there is one.
    pub fn poll_event(&mut self, cx: &Cx<'_>) -> Option<Event> {
        if !self.state.is_open() {
            return None;
        }
        if (self.state.receiving(), self.state.sending()) == (Receiving::Discard, Sending::Quiet) {
            self.discard(cx);
        }
        // While the peer does not read its responses no further request is begun: the memory for
        // queued responses stays bounded.
        if !self.is_idle() || self.writer.is_full() {
            return None;
        }
        if self.awaits_proxy_header(cx) && !self.take_proxy_header(cx) {
            return None;
        }
        if !self.reader.skip_empty_lines(cx.limits.head) {
            self.refuse(Refusal::FieldsTooLarge, cx);
            return None;
        }
        if self.reader.buffer.is_empty() {
            if self.reader.has_ended() {
                self.state.end(End::Flush(CloseReason::PeerClosed));
            }
            return None;
        }
        let limits = HeadLimits {
            head: self.reader.left_of(cx.limits.head),
            request_line: cx.limits.request_line,
            fields: cx.limits.fields,
            field_size: cx.limits.field_size,
            framing: cx.limits.framing,
        };
        // Parsing again after each byte of a slow head would take quadratic time.
        if !self.reader.is_worth_parsing(limits) {
            return self.wait_for_head();
        }
        self.reader.buffer.align();
        let mut head = self.reader.take_head();
        let parsed = parse_head(self.reader.buffer.filled(), limits, &mut head);
        match parsed {
            Parsed::Complete(len) => match self.vet(&mut head, len, cx) {
                Ok(()) => return self.begin(head, len, cx),
                Err(refusal) => self.refuse(refusal, cx),
            },
            Parsed::Partial if self.reader.buffer.is_full() => self.refuse(Refusal::FieldsTooLarge, cx),
            Parsed::Partial => {
                self.reader.keep_head(head);
                self.reader.await_line();
                return self.wait_for_head();
            }
            Parsed::Refused(refusal) => {
                foreign_protocol::detect(self.reader.buffer.filled(), self.origin.peer);
                self.refuse(refusal, cx);
            }
        }
        self.reader.keep_head(head);
        None
    }

    /// The directions to wait for.
    pub fn interest(&self) -> Interest {
        let read = !self.reader.has_ended()
            && match (self.state.fate(), self.state.receiving(), self.state.sending()) {
                (Fate::Lingering { .. }, ..) => true,
                (Fate::Open, Receiving::Head, Sending::Quiet) => !self.writer.is_full(),
                (Fate::Open, Receiving::Discard, Sending::Quiet) => true,
                (Fate::Open, Receiving::Body, _) => {
                    self.exchange.body.is_wanted && !self.reader.buffer.is_full()
                }
                _ => false,
            };
        Interest { read, write: !self.writer.is_empty() && !self.state.is_ended() }
    }

    /// The next step towards the end of the connection, if it is due: a half-close, then the close.
    pub fn ending(&mut self, cx: &Cx<'_>) -> Option<Step> {
        match self.state.fate() {
            Fate::Flushing(reason) if self.writer.is_empty() => {
                if self.reader.has_ended() || cx.limits.linger.is_zero() {
                    self.state.end(End::Close);
                    return Some(Step::Close(reason));
                }
                self.reader.buffer.clear();
                let Limits { linger, linger_size, .. } = *cx.limits;
                let left = if linger_size == 0 { u64::MAX } else { linger_size };
                self.state.end(End::HalfClose { until: cx.now + linger, left });
                Some(Step::HalfClose)
            }
            Fate::Ended(reason) => Some(Step::Close(reason)),
            _ => None,
        }
    }

    /// Takes the record of the current exchange, if one is kept.
    pub(crate) fn take_record(&mut self) -> Option<Record> {
        self.record.as_mut().map(|record| record.take())
    }

    /// Takes back the storage of a record.
    pub(crate) fn return_record(&mut self, record: Record) {
        if let Some(current) = &mut self.record {
            current.reuse(record);
        }
    }

    /// The known part of a request that was refused before the application could see it, if records
    /// are kept.
    pub(crate) fn take_refused(&mut self) -> Option<Box<RequestHead>> {
        self.record.as_mut()?.refused.take()
    }

    // Commands.

    /// Notes that the peer has ended its side. Earlier bytes may be unread.
    pub fn note_peer_end(&mut self) {
        self.reader.end(PeerEnd::Reported);
    }

    /// The handler of the request is called: its timeout begins.
    pub(crate) fn call(&mut self, cx: &Cx<'_>) {
        let limit = cx.limits.request_timeout;
        self.exchange.due = (!limit.is_zero()).then(|| cx.now + limit);
    }

    /// Ends the connection without the rest of the response: queued bytes are sent, a final chunk
    /// is not.
    pub(crate) fn abort(&mut self, reason: CloseReason) {
        self.state.end(End::Flush(reason));
    }

    /// The hand-off failed for now. The connection asks for none before `until`.
    pub fn delay_handoff(&mut self, until: Time) {
        if self.handoff != Handoff::Refused {
            self.handoff = Handoff::From(until);
        }
    }

    /// The connection cannot be handed off. The policy is told so from now on.
    pub fn refuse_handoff(&mut self) {
        self.handoff = Handoff::Refused;
    }

    /// Ends the connection at once, without sending anything more.
    pub fn end(&mut self, reason: CloseReason) {
        if self.state.end(End::Cut(reason)) {
            let dropped = self.writer.drop_queue();
            if let Some(record) = &mut self.record {
                record.sent = record.sent.saturating_sub(dropped as u64);
            }
        }
    }

    /// Frees memory that is not needed before bytes arrive.
    pub fn rest(&mut self) {
        self.reader.buffer.rest();
    }

    /// Takes back the storage of an answered head.
    pub fn reuse(&mut self, head: Box<RequestHead>) {
        self.reader.reuse(head);
    }

    // Queries.

    /// The state of the connection.
    pub fn state(&self) -> ConnState {
        match (self.state.fate(), self.state.sending(), self.state.receiving()) {
            (Fate::Lingering { .. }, ..) => ConnState::Lingering,
            _ if self.exchange.is_upgraded => ConnState::Upgraded,
            (Fate::Open, Sending::Quiet, Receiving::Head) if self.writer.is_empty() => {
                match (self.reader.buffer.is_empty(), self.usage.served) {
                    (false, _) => ConnState::Head,
                    (true, 0) => ConnState::Fresh,
                    (true, _) => ConnState::Idle,
                }
            }
            _ => ConnState::Busy,
        }
    }

    /// Where the final response to the current request begins, in bytes sent.
    pub(crate) fn response_start(&self) -> u64 {
        self.exchange.response.start
    }

    /// Whether another process can answer the current request: every byte of earlier responses was
    /// sent, and none of the final response to this one (D20).
    pub fn is_answerable(&self) -> bool {
        self.writer.sent() == self.exchange.response.start && !self.exchange.is_upgraded
    }

    /// Whether a request is in flight: begun, and its response not flushed to the last byte.
    pub fn in_flight(&self) -> bool {
        matches!(self.state(), ConnState::Busy | ConnState::Upgraded)
    }

    /// Whether it has ended, or only flushing and lingering are left.
    pub fn is_ending(&self) -> bool {
        !self.state.is_open()
    }

    /// Whether the peer is known to have ended its side, or the connection has ended.
    pub fn has_peer_ended(&self) -> bool {
        self.reader.is_peer_end_known() || self.state.is_ended()
    }

    /// Whether the current handler is cancelled because its peer has ended its side. On a
    /// connection that has changed the protocol, the application decides.
    pub(crate) fn is_cancelled(&self, cx: &Cx<'_>) -> bool {
        cx.limits.cancel_on_half_close && self.reader.is_peer_end_known() && !self.exchange.is_upgraded
    }

    /// The listener, the other end of the socket and the random number of the connection.
    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// When it was accepted.
    pub(crate) fn accepted_at(&self) -> Time {
        self.usage.accepted
    }

    /// Whether no further byte will arrive.
    pub(crate) fn has_read_all(&self) -> bool {
        self.reader.has_ended()
    }

    /// How many responses were queued completely.
    pub fn served(&self) -> u32 {
        self.usage.served
    }

    /// How many bytes were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.writer.sent()
    }

    /// Whether queued bytes will never be sent.
    pub(crate) fn has_lost(&self) -> bool {
        self.writer.has_lost()
    }

    /// Why it has ended, or will once all queued bytes are sent. None while it is open.
    pub(crate) fn end_reason(&self) -> Option<CloseReason> {
        match self.state.fate() {
            Fate::Open => None,
            Fate::Flushing(reason) | Fate::Lingering { reason, .. } | Fate::Ended(reason) => Some(reason),
        }
    }

    /// How many bytes are queued and not sent.
    pub fn unsent(&self) -> usize {
        self.writer.unsent()
    }

    /// How many bytes of storage it has for unprocessed bytes and heads.
    #[cfg(test)]
    pub(crate) fn storage(&self) -> usize {
        self.reader.storage()
    }

    /// The connection as an application sees it.
    pub fn info(&self) -> ConnectionInfo {
        ConnectionInfo { peer: self.proxied.unwrap_or(self.origin.peer), requests: self.usage.requests }
    }

    /// The connection as a policy sees it.
    pub fn view(&self) -> ConnView {
        ConnView {
            state: self.state(),
            idle_since: self.usage.idle_since,
            served: self.usage.served,
            draw: self.origin.draw,
            movable: self.is_movable(),
        }
    }

    /// Whether it can move once it is between requests.
    fn is_movable(&self) -> bool {
        self.state.is_open()
            && !self.reader.has_ended()
            && !self.exchange.is_upgraded
            && self.handoff != Handoff::Refused
    }

    fn is_between_requests(&self) -> bool {
        matches!(self.state(), ConnState::Fresh | ConnState::Head | ConnState::Idle)
    }

    /// Whether the current exchange has only its handler to wait for: the request was read to its
    /// end, and the response is queued completely and lets another follow.
    fn is_over_but_for_its_handler(&self) -> bool {
        self.is_complete()
            && self.state.receiving() == Receiving::Done
            && self.exchange.response.close_after.is_none()
    }

    /// The standing once all responses are sent. Bytes behind the last request may be another one,
    /// which ends with the worker.
    fn standing_after(&self, served: u32, since: Time) -> Standing {
        if self.reader.buffer.is_empty() { Standing::Idle { served, since } } else { Standing::Unanswered }
    }

    /// Whether there is no current request, and nothing of one left to be read.
    fn is_idle(&self) -> bool {
        (self.state.receiving(), self.state.sending()) == (Receiving::Head, Sending::Quiet)
    }

    // Transitions.

    fn begin(&mut self, mut head: Box<RequestHead>, len: usize, cx: &Cx<'_>) -> Option<Event> {
        self.reader.complete(&mut head, len);
        let buffered = self.reader.buffer.filled().len();
        self.exchange = Exchange::begin(&mut head, buffered, self.writer.queued(), cx.now);
        self.state.enter(Input::Request { body: !self.exchange.body.decoder.is_done() });
        self.usage.requests += 1;
        self.checked.forget();
        if let Some(record) = &mut self.record {
            record.begin(cx.now);
        }
        let length = self.exchange.body.decoder.remaining();
        if cx.limits.body > 0 && length.is_some_and(|length| length > cx.limits.body) {
            self.refuse(Refusal::BodyTooLarge, cx);
            match &mut self.record {
                Some(record) => record.refused = Some(head),
                None => self.reuse(head),
            }
            return None;
        }
        Some(Event::Request(head))
    }

    fn wait_for_head(&mut self) -> Option<Event> {
        if self.reader.has_ended() {
            self.state.end(End::Flush(CloseReason::PeerAborted));
        }
        None
    }
}

impl Wire for Connection {
    fn read_buf(&mut self) -> &mut [u8] {
        if matches!(self.state.fate(), Fate::Lingering { .. }) {
            self.reader.buffer.clear();
        }
        self.reader.buffer.space()
    }

    fn handle_read(&mut self, n: usize, now: Time) {
        if matches!(self.state.fate(), Fate::Lingering { .. }) {
            self.state.end(End::Discarded(n as u64));
            return;
        }
        if self.state.receiving() == Receiving::Head {
            self.reader.note_head(n, now.min(self.checked.nearest));
        }
        self.reader.buffer.filled_up(n);
        self.exchange.body.since = now;
        self.exchange.body.pace.advance(n, now);
    }

    fn handle_eof(&mut self, _: Time) {
        self.reader.end(PeerEnd::Read);
        self.state.end(End::PeerClosed);
    }

    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
        self.writer.queue.transmit(out);
    }

    fn standing(&self) -> Standing {
        match self.state() {
            ConnState::Fresh => Standing::Fresh,
            ConnState::Idle => Standing::Idle { served: self.usage.served, since: self.usage.idle_since },
            ConnState::Head => Standing::Head,
            ConnState::Lingering => Standing::Closing,
            _ if !self.state.is_open() && self.writer.is_empty() => Standing::Closing,
            _ if self.is_answerable() => Standing::Unanswered,
            // Its handler ends with the worker, and has left nothing to do.
            _ if self.writer.is_empty() && self.is_over_but_for_its_handler() => {
                self.standing_after(self.usage.served + 1, self.usage.idle_since)
            }
            _ => Standing::Begun,
        }
    }

    fn standing_once_sent(&self, n: usize) -> Option<Standing> {
        if self.writer.unsent() != n || !self.state.is_open() {
            return None;
        }
        if self.is_idle() {
            return Some(self.standing_after(self.usage.served, self.usage.idle_since));
        }
        if self.writer.queued() == self.exchange.response.start && !self.exchange.is_upgraded {
            return Some(Standing::Unanswered);
        }
        self.is_over_but_for_its_handler()
            .then(|| self.standing_after(self.usage.served + 1, self.writer.since))
    }

    fn handle_written(&mut self, n: usize, now: Time) {
        let held_up = self.writer.is_full();
        self.writer.advance(n, now);
        if held_up && !self.writer.is_full() && self.state.receiving() == Receiving::Head {
            // The next head may have arrived before, but it is parsed only now.
            self.reader.begin_head(now);
        }
        if self.writer.is_empty() {
            self.usage.idle_since = now;
        }
    }
}

#[cfg(test)]
mod tests;
