//! The response's half of an exchange: what is sent, how it is framed (RFC 9112 §6), and whether the connection goes on after it.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use thiserror::Error;

use super::buffer::OutQueue;
use super::pace::Pace;
use super::{Connection, Fate, Input, Receiving, Sending};
use crate::config::HIGH_WATER;
use crate::http1::{
    BodyLen, ChunkHeader, ConnectionField, Decoder, FieldError, Framing, Refusal, RequestHead, ResponseHead,
    Version, encode_head, encode_interim, frame, push_end,
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
    /// A final status, 100 or 101 is no interim response for an application to send.
    #[error("status {0} is not an interim response that applications send; allowed: 102 to 199")]
    NotInterim(u16),
    /// So much of earlier interim responses waits to be sent that this one has no room.
    #[error("{waiting} bytes of interim responses wait to be sent, limit {HIGH_WATER}")]
    Full {
        /// How many bytes wait.
        waiting: usize,
    },
    /// The client did not offer to change the protocol, or not before all of its request was read.
    #[error("the client has not offered to change the protocol")]
    NotOffered,
    /// More was written than Content-Length said.
    #[error("the response body is at least {written} bytes long, its content-length is {length}")]
    TooLong {
        /// How many bytes were announced.
        length: u64,
        /// How many the application has written, those that were not accepted included.
        written: u64,
    },
    /// The response ended before Content-Length bytes.
    #[error("the response body has ended after {written} bytes, its content-length is {length}")]
    TooShort {
        /// How many bytes were announced.
        length: u64,
        /// How many the application has written.
        written: u64,
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
    /// So many bytes more, `of` as many.
    Length {
        left: u64,
        of: u64,
    },
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
            Framing::Length(n) => Encoder::Length { left: n, of: n },
            Framing::Chunked => Encoder::Chunked,
            Framing::UntilClose => Encoder::Raw,
        };
        self.queue_head(head, framing, connection, cx);
        self.enter(Input::ResponseHead);
        Ok(())
    }

    /// Queues an interim response, of which there may be any number before the final one (RFC 9110 §15.2). A client of
    /// HTTP/1.0, which knows none, is sent nothing.
    ///
    /// # Errors
    ///
    /// See [`RespondError`]; nothing has been queued then. 100 is sent when the body is read, and 101 by
    /// [`upgrade`](Self::upgrade).
    pub fn interim(&mut self, head: &ResponseHead, cx: &Cx<'_>) -> Result<(), RespondError> {
        self.may_respond(head)?;
        let mut bytes = Vec::new();
        push_interim(&mut bytes, head)?;
        self.queue_interim(&bytes, cx.now);
        Ok(())
    }

    /// Queues interim responses that have been encoded, unless the client knows none or has its final response.
    pub(crate) fn queue_interim(&mut self, heads: &[u8], now: Time) {
        if self.awaits_response() && self.request.version == Version::Http11 {
            self.begin_queueing(now);
            self.tx.push(heads);
        }
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
        self.finish_with(&HeaderMap::new(), now)
    }

    /// Ends the response with trailer fields. They are dropped where the body is not chunked (HTTP/1.0, HEAD, a length that is
    /// known, no content), and so is one that must not be a trailer (RFC 9110 §6.5.1).
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish).
    pub fn finish_with(&mut self, trailers: &HeaderMap, now: Time) -> Result<(), RespondError> {
        if self.fate != Fate::Open {
            return Err(RespondError::Closed);
        }
        if self.sending != Sending::Body {
            return Err(RespondError::NoRequest);
        }
        match self.encoder {
            Encoder::Length { left, of } if left > 0 => {
                return Err(self.breaks_off(RespondError::TooShort { length: of, written: of - left }));
            }
            Encoder::Chunked => {
                self.begin_queueing(now);
                self.tx.push_with(|out| push_end(out, trailers));
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
        if self.receiving == Receiving::Head {
            // Trailers that nobody has asked for.
            self.decoder = Decoder::none();
        }
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
        if let (Some(record), Some(mut head)) = (&mut self.record, unread) {
            record.begin(self.head_since.unwrap_or(cx.now));
            head.client = self.proxied.unwrap_or(self.origin.peer).into();
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

    /// Whether a response of unknown length can end with trailers.
    pub(crate) fn sends_trailers(&self) -> bool {
        self.request.version == Version::Http11 && !self.request.is_head
    }

    /// Whether nothing that is written of the response under way is sent.
    pub(crate) fn swallows_body(&self) -> bool {
        self.encoder == Encoder::Swallow
    }

    /// How the response under way broke its own Content-Length, if it did.
    pub(crate) fn breach(&self) -> Option<&RespondError> {
        self.breach.as_ref()
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
            || self.discards_too_much(cx);
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
            &mut Encoder::Length { left, of } if offered as u64 > left => {
                let written = (of - left).saturating_add(offered as u64);
                Err(self.breaks_off(RespondError::TooLong { length: of, written }))
            }
            Encoder::Length { left, .. } => {
                *left -= fit as u64;
                Ok(fit)
            }
            Encoder::Chunked | Encoder::Raw => Ok(fit),
        }
    }

    /// The application has broken the length that it announced: its client sees that by the end of the connection.
    fn breaks_off(&mut self, error: RespondError) -> RespondError {
        self.abort(CloseReason::ApplicationFailed);
        self.breach = Some(error.clone());
        error
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

/// Appends the head of an interim response.
///
/// # Errors
///
/// `head` is invalid, or that of none.
pub(crate) fn push_interim(out: &mut Vec<u8>, head: &ResponseHead) -> Result<(), RespondError> {
    head.check()?;
    if !matches!(head.status(), 102..200) {
        return Err(RespondError::NotInterim(head.status()));
    }
    encode_interim(out, head);
    Ok(())
}
