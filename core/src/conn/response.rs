//! The response's half of an exchange: what is sent, how it is framed (RFC 9112 §6), and whether the connection goes on after it.

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::buffer::OutQueue;
use super::pace::Pace;
use super::{Connection, Fate, Input, Receiving, Sending};
use crate::config::HIGH_WATER;
use crate::http1::{
    BodyLen, ChunkHeader, ConnectionField, Decoder, FieldError, Framing, LAST_CHUNK, Refusal, RequestHead,
    ResponseHead, Version, encode_head, frame,
};
use crate::machine::{CloseReason, Cx, Timer};
use crate::shutdown::Announce;
use crate::time::Time;

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
pub(super) enum Encoder {
    /// This many bytes more.
    Length(u64),
    Chunked,
    /// As it comes, until the connection ends.
    Raw,
    /// Not at all: the response has no content, whatever the application writes (RFC 9110 §6.4.1).
    Swallow,
}

impl Connection {
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
        if let Err(fault) = self.decoder.find_end(self.rx.filled()) {
            // Nobody would read it, but whoever else reads this connection may take it for something.
            self.fault = Some(fault);
            fault.refusal().into_iter().for_each(|refusal| self.refuse(refusal, cx));
            return Err(RespondError::Closed);
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
        self.resume_work(now);
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
        self.resume_work(now);
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
        self.resume_work(now);
        self.idle_since = now;
        self.body_since = now;
        self.body_read = 0;
        self.body_wanted = false;
        self.begin_head(now);
        self.rx.shrink();
        Ok(())
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

    /// Answers a peer's fault and ends the connection (RFC 9112 §9.6). Once a response has begun, it is cut.
    pub fn refuse(&mut self, refusal: Refusal, cx: &Cx<'_>) {
        if self.fate != Fate::Open {
            return;
        }
        let unread = (self.sending == Sending::Quiet).then(|| RequestHead::of_refused(self.rx.filled()));
        let is_head = unread.as_ref().map_or(self.request.is_head, |head| head.is_head);
        if let (Some(record), Some(head)) = (&mut self.record, unread) {
            record.begin(self.head_since.unwrap_or(cx.now));
            record.refused = Some(Box::new(head));
        }
        if self.sending != Sending::Body {
            let head = ResponseHead::new(refusal.status()).field("Content-Type", "text/plain");
            let text = format!("{refusal}\n");
            let body = if is_head { "" } else { &text };
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

    /// Whether a response head is still to be sent.
    pub fn awaits_response(&self) -> bool {
        self.sending == Sending::Awaiting && self.fate == Fate::Open
    }

    /// Whether nothing that is written of the response under way is sent.
    pub(crate) fn swallows_body(&self) -> bool {
        self.encoder == Encoder::Swallow
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

    // Transitions.

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

    pub(super) fn queue_head(
        &mut self,
        head: &ResponseHead,
        framing: Framing,
        connection: ConnectionField,
        cx: &Cx<'_>,
    ) {
        self.request.status = head.status();
        if self.tx.is_empty() {
            self.write_pace = Pace::default();
        }
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
    pub(super) fn begin_queueing(&mut self, now: Time) {
        if self.tx.is_empty() {
            self.write_since = now;
        }
    }
}
