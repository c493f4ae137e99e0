//! The response's half of an exchange: its content, its framing (RFC 9112 §6), and whether the
//! connection stays open after it.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use super::buffer::OutQueue;
use super::{Connection, End, Input, Receiving, Sending};
use crate::config::HIGH_WATER;
use crate::exchange::{RespondError, check_interim};
use crate::http1::{
    BodyLen, ChunkHeader, ConnectionField, Decoder, Framing, Refusal, RequestHead, ResponseHead, Version,
    encode_head, encode_interim, frame, push_end,
};
use crate::machine::{CloseReason, Cx, Timer};
use crate::shutdown::Announce;
use crate::time::Time;

/// How long a part of a response waits at most before it is sent, if its handler writes on.
const PUSH: Duration = Duration::from_millis(20);

/// The outcome of a request whose handler exceeds its timeout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Overdue {
    /// Its client got 503.
    Told,
    /// Its response had begun, and is cut.
    Cut,
    /// Its response was complete, and its handler ran on.
    Answered,
}

/// Why a request was answered without its application.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Declined {
    /// The bytes after its head were malformed.
    Refused,
    /// Its handler exceeded its timeout.
    Late,
    /// The drain's deadline has passed (D10).
    Stopped,
}

/// The framing of the current response body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Encoder {
    /// So many bytes more, `of` so many.
    Length {
        left: u64,
        of: u64,
    },
    Chunked,
    /// Unframed, until the connection ends.
    Raw,
    /// Dropped: the response has no content, whatever the application writes (RFC 9110 §6.4.1).
    Swallow,
}

impl Connection {
    pub(super) fn respond(
        &mut self,
        head: &ResponseHead,
        len: BodyLen,
        cx: &Cx<'_>,
    ) -> Result<(), RespondError> {
        self.may_respond(head)?;
        if (100..200).contains(&head.status()) {
            return Err(RespondError::Interim(head.status()));
        }
        if let Err(fault) = self.exchange.body.decoder.find_end(self.reader.buffer.filled()) {
            // The application will not read this body, but a proxy on the path may parse the
            // malformed chunk differently (request smuggling, RFC 9112 §11.2). It is refused before
            // the response head is sent.
            self.exchange.body.fault = Some(fault);
            fault.refusal().into_iter().for_each(|refusal| self.refuse(refusal, cx));
            return Err(RespondError::Closed);
        }
        let framing = frame(head, len, self.exchange.request.is_head, self.exchange.request.version);
        self.exchange.response.close_after = self.decide_close(head, framing, cx);
        let connection = match (self.exchange.response.close_after, self.exchange.request.version) {
            (Some(_), _) => ConnectionField::Close,
            (None, Version::Http10) => ConnectionField::KeepAlive,
            (None, Version::Http11) => ConnectionField::Default,
        };
        self.exchange.response.encoder = match framing {
            Framing::Nothing => Encoder::Swallow,
            _ if self.exchange.request.is_head || head.status() == 304 || head.status() == 205 => {
                Encoder::Swallow
            }
            Framing::Length(n) => Encoder::Length { left: n, of: n },
            Framing::Chunked => Encoder::Chunked,
            Framing::UntilClose => Encoder::Raw,
        };
        self.queue_head(head, framing, connection, cx);
        self.state.enter(Input::ResponseHead);
        Ok(())
    }

    pub(super) fn interim(&mut self, head: &ResponseHead, cx: &Cx<'_>) -> Result<(), RespondError> {
        self.may_respond(head)?;
        check_interim(head)?;
        if cx.limits.interim_responses && self.exchange.request.version == Version::Http11 {
            self.writer.begin(cx.now);
            self.writer.queue.push_with(|out| encode_interim(out, head));
            self.exchange.response.start = self.writer.queued();
            cx.entry.begin_response_at(self.exchange.response.start);
        }
        Ok(())
    }

    pub(super) fn upgrade(&mut self, head: &ResponseHead, cx: &Cx<'_>) -> Result<(), RespondError> {
        self.may_respond(head)?;
        if head.status() != 101
            || self.state.receiving() != Receiving::Done
            || !self.exchange.request.offers_upgrade
        {
            return Err(RespondError::NotOffered);
        }
        self.queue_head(head, Framing::Nothing, ConnectionField::Upgrade, cx);
        self.exchange.is_upgraded = true;
        self.exchange.due = None;
        self.exchange.response.close_after = Some(CloseReason::UpgradeEnded);
        self.exchange.body.decoder = Decoder::raw();
        self.exchange.response.encoder = Encoder::Raw;
        self.state.enter(Input::Upgrade);
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8], now: Time) -> Result<usize, RespondError> {
        self.resume_work(now);
        let room = HIGH_WATER.saturating_sub(self.writer.unsent());
        let taken = self.admit(bytes.len(), bytes.len().min(room))?;
        if taken > 0 && self.exchange.response.encoder != Encoder::Swallow {
            self.writer.begin(now);
            self.queue_chunk(taken, |tx| tx.push(&bytes[..taken]));
        }
        Ok(taken)
    }

    pub(super) fn write_shared(&mut self, bytes: Bytes, now: Time) -> Result<(), RespondError> {
        self.resume_work(now);
        let taken = self.admit(bytes.len(), bytes.len())?;
        if taken > 0 && self.exchange.response.encoder != Encoder::Swallow {
            self.writer.begin(now);
            self.queue_chunk(taken, |tx| tx.push_shared(bytes));
        }
        Ok(())
    }

    /// Ends the exchange. Its response has to be queued completely.
    ///
    /// # Errors
    ///
    /// There is no response, or bytes of it are missing (`TooShort`): then the connection ends
    /// without them.
    pub fn finish(&mut self, now: Time) -> Result<(), RespondError> {
        self.end_response(None, now)?;
        self.usage.served += 1;
        if let Some(reason) = self.exchange.response.close_after {
            self.state.end(End::Flush(reason));
            return Ok(());
        }
        self.state.enter(Input::ResponseEnd);
        self.resume_work(now);
        self.checked.forget();
        self.usage.idle_since = now;
        self.exchange.body.leave_rest(now);
        self.reader.begin_head(now);
        self.reader.buffer.shrink();
        Ok(())
    }

    /// Queues the end of the response. The exchange continues until [`finish`](Self::finish).
    pub(super) fn end_response(
        &mut self,
        trailers: Option<&HeaderMap>,
        now: Time,
    ) -> Result<(), RespondError> {
        if !self.state.is_open() {
            return Err(RespondError::Closed);
        }
        if self.state.sending() != Sending::Body {
            return Err(RespondError::NoRequest);
        }
        match self.exchange.response.encoder {
            Encoder::Length { left, of } if left > 0 => {
                return Err(self.breaks_off(RespondError::TooShort { length: of, written: of - left }));
            }
            Encoder::Chunked => {
                self.writer.begin(now);
                self.writer.queue.push_with(|out| push_end(out, trailers));
                self.exchange.response.encoder = Encoder::Swallow;
            }
            Encoder::Raw => self.exchange.response.encoder = Encoder::Swallow,
            Encoder::Length { .. } | Encoder::Swallow => {}
        }
        Ok(())
    }

    /// Whether queued bytes should be sent while the handler runs: the response is complete, or its
    /// bytes have waited.
    pub(crate) fn is_to_push(&self, now: Time) -> bool {
        !self.writer.is_empty() && (self.has_all() || now - self.writer.since >= PUSH)
    }

    /// Whether the current response is queued completely and matches its Content-Length, while its
    /// exchange continues.
    pub(crate) fn is_complete(&self) -> bool {
        self.state.sending() == Sending::Body
            && self.has_all()
            && self.exchange.response.length_error.is_none()
    }

    /// Whether no more bytes of the response will follow the queued ones.
    fn has_all(&self) -> bool {
        matches!(self.exchange.response.encoder, Encoder::Length { left: 0, .. } | Encoder::Swallow)
    }

    /// At the drain's deadline, answers 503 if the response has not begun, and cuts it if it has
    /// (D10).
    pub fn give_up(&mut self, cx: &Cx<'_>) {
        if self.awaits_response() {
            self.exchange.declined = Some(Declined::Stopped);
            self.decline("the server is stopping\n", CloseReason::DeadlineCut, cx);
        } else if self.state.sending() == Sending::Body && self.state.is_open() {
            self.end(CloseReason::DeadlineCut);
        }
    }

    /// The handler exceeded its timeout: answers 503 if the response has not begun, or cuts the
    /// response unless it is complete. The connection ends with the queued bytes. Further calls of
    /// the handler have no effect.
    pub(crate) fn time_out(&mut self, cx: &Cx<'_>) {
        const REASON: CloseReason = CloseReason::TimedOut(Timer::Request);
        if self.awaits_response() {
            self.exchange.overdue = Some(Overdue::Told);
            self.exchange.declined = Some(Declined::Late);
            self.decline("the request has taken too long\n", REASON, cx);
        } else if self.state.sending() == Sending::Body && self.state.is_open() {
            self.exchange.overdue = Some(if self.is_complete() { Overdue::Answered } else { Overdue::Cut });
            self.abort(REASON);
        }
    }

    /// Answers a peer's fault and ends the connection (RFC 9112 §9.6). Once a response has begun,
    /// it is cut.
    pub(crate) fn refuse(&mut self, refusal: Refusal, cx: &Cx<'_>) {
        if !self.state.is_open() {
            return;
        }
        let unread = (self.state.sending() == Sending::Quiet)
            .then(|| RequestHead::of_refused(self.reader.buffer.filled()));
        let is_head = unread.as_ref().map_or(self.exchange.request.is_head, |head| head.is_head);
        if let (Some(record), Some(mut head)) = (&mut self.record, unread) {
            record.begin(self.reader.head_since.unwrap_or(cx.now));
            head.client = self.proxied.unwrap_or(self.origin.peer).into();
            record.refused = Some(Box::new(head));
        }
        if self.state.sending() != Sending::Body {
            let head = ResponseHead::new(refusal.status()).field("Content-Type", "text/plain");
            let text = format!("{refusal}\n");
            let body = if is_head { "" } else { &text };
            self.queue_head(&head, Framing::Length(text.len() as u64), ConnectionField::Close, cx);
            self.writer.queue.push(body.as_bytes());
            self.account_for(body.len());
        }
        if self.state.sending() == Sending::Awaiting {
            self.exchange.declined = Some(Declined::Refused);
        }
        self.reader.buffer.clear();
        self.state.end(End::Flush(match refusal {
            Refusal::HeadTimeout => CloseReason::TimedOut(Timer::Head),
            Refusal::BodyTimeout => CloseReason::TimedOut(Timer::Body),
            _ => CloseReason::Refused,
        }));
    }

    /// Whether a response head is still to be sent.
    pub(crate) fn awaits_response(&self) -> bool {
        self.state.sending() == Sending::Awaiting && self.state.is_open()
    }

    /// How the content of the current response differs from its Content-Length, if it does.
    pub(crate) fn length_error(&self) -> Option<&RespondError> {
        self.exchange.response.length_error.as_ref()
    }

    /// The outcome of the current request if its handler exceeded its timeout.
    pub(crate) fn overdue(&self) -> Option<Overdue> {
        self.exchange.overdue
    }

    /// Why the current request was answered without its application, if it was.
    pub(crate) fn declined(&self) -> Option<Declined> {
        self.exchange.declined
    }

    /// When the head of the current or last request was complete.
    pub(crate) fn asked_at(&self) -> Time {
        self.exchange.request.since
    }

    /// The status of the last response.
    pub(crate) fn status(&self) -> u16 {
        self.exchange.response.status
    }

    /// When the timeout of the current handler ends, if it has one.
    pub(crate) fn due(&self) -> Option<Time> {
        self.exchange.due.filter(|_| self.state.sending() != Sending::Quiet)
    }

    // Transitions.

    /// Answers 503, and ends the connection.
    fn decline(&mut self, text: &'static str, reason: CloseReason, cx: &Cx<'_>) {
        let head = ResponseHead::new(503).field("Content-Type", "text/plain");
        self.queue_head(&head, Framing::Length(text.len() as u64), ConnectionField::Close, cx);
        if !self.exchange.request.is_head {
            self.writer.queue.push(text.as_bytes());
            self.account_for(text.len());
        }
        self.state.end(End::Flush(reason));
    }

    fn may_respond(&self, head: &ResponseHead) -> Result<(), RespondError> {
        if !self.state.is_open() {
            return Err(RespondError::Closed);
        }
        if self.state.sending() != Sending::Awaiting {
            return Err(RespondError::NoRequest);
        }
        Ok(head.check()?)
    }

    /// Whether the response announces close, and why (D5, D6).
    fn decide_close(&self, head: &ResponseHead, framing: Framing, cx: &Cx<'_>) -> Option<CloseReason> {
        let finished = !self.exchange.request.keep_alive
            || head.wants_close()
            || framing == Framing::UntilClose
            || cx.limits.keep_alive.is_zero()
            // RFC 9110 §10.1.1: without a 100 the client may send the body or not, so no request
            // can follow.
            || (self.exchange.request.expects_continue && self.state.receiving() != Receiving::Done)
            || self.exchange.body.fault.is_some()
            || self.discards_too_much(cx);
        if finished {
            return Some(CloseReason::Finished);
        }
        let drain = cx.draining_now()?;
        if drain.is_over(cx.now) {
            return Some(CloseReason::Drained);
        }
        // Requests that were read are answered, so the last of them announces close (D6).
        if self.next_is_buffered() {
            return None;
        }
        match cx.policy.announce(drain, &self.view(), cx.now) {
            Announce::Close => Some(CloseReason::Drained),
            Announce::KeepAlive => None,
        }
    }

    /// Whether part of another request was read already. Empty lines are not part of one (RFC 9112
    /// §2.2).
    fn next_is_buffered(&self) -> bool {
        let rest = self.reader.buffer.filled();
        let end = match self.state.receiving() {
            Receiving::Done | Receiving::Head => Some(0),
            Receiving::Body | Receiving::Discard => self.exchange.body.decoder.end_within(rest),
        };
        end.is_some_and(|end| rest[end..].iter().any(|byte| !b"\r\n".contains(byte)))
    }

    /// How many of `offered` bytes the response accepts, if `fit` of them fit.
    fn admit(&mut self, offered: usize, fit: usize) -> Result<usize, RespondError> {
        if !self.state.is_open() {
            return Err(RespondError::Closed);
        }
        if self.state.sending() != Sending::Body {
            return Err(RespondError::NoRequest);
        }
        match &mut self.exchange.response.encoder {
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

    /// The application's content differs from the announced length. Its client sees that by the end
    /// of the connection.
    fn breaks_off(&mut self, error: RespondError) -> RespondError {
        self.abort(CloseReason::ApplicationFailed);
        self.exchange.response.length_error = Some(error.clone());
        error
    }

    fn queue_chunk(&mut self, len: usize, queue: impl FnOnce(&mut OutQueue)) {
        let chunked = self.exchange.response.encoder == Encoder::Chunked;
        if chunked {
            self.writer.queue.push(ChunkHeader::new(len).as_bytes());
        }
        queue(&mut self.writer.queue);
        if chunked {
            self.writer.queue.push(b"\r\n");
        }
        self.account_for(len);
    }

    /// Counts `len` queued bytes of content.
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
        self.exchange.response.status = head.status();
        self.writer.begin_response(cx.now);
        let Self { writer, record, .. } = self;
        writer.queue.push_with(|out| {
            let start = out.len();
            encode_head(out, head, framing, connection, cx.date);
            if let Some(record) = record {
                record.respond(head.status(), &out[start..]);
            }
        });
    }
}
