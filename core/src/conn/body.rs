//! The request's half of an exchange: its body is read by the application (RFC 9112 §6, §7.1), or
//! discarded.

use http::HeaderMap;

use super::{Connection, Fate, Input, Receiving, Sending};
use crate::config::READ_BUFFER_MAX;
use crate::exchange::BodyRead;
use crate::http1::{BodyError, BufferedBody, Decoded, Decoder};
use crate::machine::{CloseReason, Cx};
use crate::time::Time;

/// Whether all of a request body has arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "there is no fourth case")]
pub enum Buffered {
    /// All of it has arrived, or no more of it will.
    Complete,
    /// Not yet, but it fits into the read buffer.
    Partial,
    /// The application has to read it as it arrives: it is larger than the read buffer, or its
    /// client waits for a 100.
    Unbuffered,
}

impl Connection {
    /// Reads arrived bytes of the request body into `buffer`, which must not be empty.
    pub(super) fn read_body(&mut self, buffer: &mut [u8], cx: &Cx<'_>) -> BodyRead {
        self.resume_work(cx.now);
        if let Some(fault) = self.exchange.body.fault {
            return BodyRead::Aborted(fault);
        }
        match (self.state.fate(), self.state.receiving()) {
            (Fate::Open, Receiving::Done) => return BodyRead::End,
            (Fate::Open, Receiving::Body) => {}
            _ => return BodyRead::Aborted(BodyError::Closed),
        }
        self.exchange.body.buffered = None;
        match self.exchange.body.decoder.decode(self.reader.buffer.filled(), buffer.len()) {
            Err(error) => return self.fail_body(error),
            Ok(Decoded { skip, data }) => {
                buffer[..data].copy_from_slice(&self.reader.buffer.filled()[skip..skip + data]);
                self.reader.buffer.consume(skip + data);
                self.exchange.body.read += data as u64;
                if self.is_too_large(self.exchange.body.read, cx) {
                    return self.fail_body(BodyError::TooLarge { limit: cx.limits.body });
                }
                if self.exchange.body.decoder.is_done() {
                    self.state.enter(Input::BodyEnd);
                }
                if data > 0 {
                    self.exchange.body.is_wanted = false;
                    return BodyRead::Data(data);
                }
            }
        }
        // After an upgrade no framing says where the input ends: the end of the peer's side is the
        // end, and nothing is truncated.
        if self.state.receiving() == Receiving::Done || (self.reader.has_ended() && self.exchange.is_upgraded)
        {
            return BodyRead::End;
        }
        if self.reader.has_ended() {
            return self.fail_body(BodyError::Truncated);
        }
        self.want_body(cx);
        BodyRead::NeedInput
    }

    /// Returns the trailer fields of a request body that was read to its end. A second call returns
    /// none. Fields that must not be trailers are left out (RFC 9110 §6.5.1), and trailer fields
    /// are never added to the head (RFC 9112 §7.1.2).
    pub(super) fn take_trailers(&mut self) -> HeaderMap {
        match self.state.receiving() {
            Receiving::Done => self.exchange.body.decoder.take_trailers(),
            _ => HeaderMap::new(),
        }
    }

    /// Whether all of the request body is in the read buffer. If not, and if it fits, more of it is
    /// read.
    pub fn collect_body(&mut self, cx: &Cx<'_>) -> Buffered {
        let mut ahead = self
            .exchange
            .body
            .buffered
            .take()
            .unwrap_or_else(|| BufferedBody::of(&self.exchange.body.decoder));
        let may_come =
            self.state.is_open() && self.state.receiving() == Receiving::Body && !self.reader.has_ended();
        let goes_on = may_come
            && matches!(ahead.find_end(self.reader.buffer.filled()), Ok(None))
            && !self.is_too_large(ahead.len() as u64, cx);
        if !goes_on || self.exchange.body.fault.is_some() {
            // Nothing more of the body is awaited here.
            self.exchange.body.is_wanted = false;
            return Buffered::Complete;
        }
        let fits = !self.reader.buffer.is_full()
            && self.exchange.body.decoder.remaining().is_none_or(|left| left <= READ_BUFFER_MAX as u64);
        if !fits || self.is_to_ask() {
            self.exchange.body.is_wanted = false;
            return Buffered::Unbuffered;
        }
        self.want_body(cx);
        self.exchange.body.buffered = Some(ahead);
        Buffered::Partial
    }

    /// Discards the rest of the request body, which will not be read.
    pub(super) fn discard_body(&mut self) {
        if self.state.receiving() == Receiving::Body && !self.exchange.is_upgraded {
            self.state.enter(Input::Discard);
            self.exchange.body.is_wanted = false;
        }
    }

    /// Why no more of the request body can be read, if so.
    pub(crate) fn body_fault(&self) -> Option<BodyError> {
        self.exchange.body.fault
    }

    // Transitions.

    /// Whether the rest of an unread body is known to exceed the limit for discarding.
    pub(super) fn discards_too_much(&self, cx: &Cx<'_>) -> bool {
        self.state.receiving() == Receiving::Discard
            && self.exchange.body.decoder.remaining().is_some_and(|left| left > cx.limits.unread_body)
    }

    /// Discards arrived bytes of an unread body, up to its limit.
    pub(super) fn discard(&mut self, cx: &Cx<'_>) {
        loop {
            match self.exchange.body.decoder.decode(self.reader.buffer.filled(), usize::MAX) {
                Ok(Decoded { skip, data }) if skip + data > 0 => {
                    self.reader.buffer.consume(skip + data);
                    self.exchange.body.read += (skip + data) as u64;
                }
                Ok(_) => break,
                Err(_) => return self.abort(CloseReason::Refused),
            }
        }
        if self.exchange.body.decoder.is_done() {
            self.state.enter(Input::BodyEnd);
            self.exchange.body.decoder = Decoder::none();
            self.usage.idle_since = cx.now;
            self.reader.begin_head(cx.now);
        } else if self.reader.has_ended() {
            self.abort(CloseReason::PeerAborted);
        } else if self.exchange.body.read > cx.limits.unread_body || self.discards_too_much(cx) {
            self.abort(CloseReason::Finished);
        }
    }

    /// The application runs, so the peer is not waited for until the application reads again.
    pub(super) fn resume_work(&mut self, now: Time) {
        self.exchange.body.pace.pause(now);
        self.writer.pace.pause(now);
    }

    /// Whether a body of so many bytes is over the limit.
    fn is_too_large(&self, len: u64, cx: &Cx<'_>) -> bool {
        cx.limits.body > 0 && len > cx.limits.body && !self.exchange.is_upgraded
    }

    /// Whether a 100 has to be sent for a body that is read (RFC 9110 §10.1.1).
    fn is_to_ask(&self) -> bool {
        self.exchange.request.expects_continue && self.state.sending() == Sending::Awaiting
    }

    fn want_body(&mut self, cx: &Cx<'_>) {
        if self.is_to_ask() {
            self.writer.begin(cx.now);
            self.writer.queue.push(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.exchange.response.start = self.writer.queued();
            cx.entry.begin_response_at(self.exchange.response.start);
            self.exchange.request.expects_continue = false;
        }
        if !self.exchange.body.is_wanted {
            self.exchange.body.is_wanted = true;
            self.exchange.body.since = cx.now;
        }
    }

    fn fail_body(&mut self, error: BodyError) -> BodyRead {
        self.exchange.body.fault = Some(error);
        self.exchange.body.is_wanted = false;
        BodyRead::Aborted(error)
    }
}
