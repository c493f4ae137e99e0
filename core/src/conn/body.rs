//! The request's half of an exchange: its body on the way to the application (RFC 9112 §6, §7.1), or away if nobody reads it.

use http::HeaderMap;

use super::{Connection, Fate, Input, Receiving, Sending};
use crate::config::READ_BUFFER_MAX;
use crate::http1::{Ahead, BodyError, Decoded, Decoder};
use crate::machine::{CloseReason, Cx};
use crate::time::Time;

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
    /// The application has to read it as it comes: it is larger than a read buffer may be, or its client waits to be asked
    /// for it.
    Unbuffered,
}

impl Connection {
    /// Reads what has arrived of the request body into `buffer`, which must not be empty.
    pub fn read_body(&mut self, buffer: &mut [u8], cx: &Cx<'_>) -> BodyRead {
        self.resume_work(cx.now);
        if let Some(fault) = self.fault {
            return BodyRead::Aborted(fault);
        }
        match (self.fate, self.receiving) {
            (Fate::Open, Receiving::Done) => return BodyRead::End,
            (Fate::Open, Receiving::Body) => {}
            _ => return BodyRead::Aborted(BodyError::Closed),
        }
        self.ahead = None;
        match self.decoder.decode(self.rx.filled(), buffer.len()) {
            Err(error) => return self.fail_body(error),
            Ok(Decoded { skip, data }) => {
                buffer[..data].copy_from_slice(&self.rx.filled()[skip..skip + data]);
                self.rx.consume(skip + data);
                self.body_read += data as u64;
                if self.is_too_large(self.body_read, cx) {
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

    /// Gives the trailer fields of a request body that was read to its end, once: without those that must not be trailers
    /// (RFC 9110 §6.5.1), and never among the fields of the head (RFC 9112 §7.1.2).
    pub fn take_trailers(&mut self) -> HeaderMap {
        match self.receiving {
            Receiving::Done => self.decoder.take_trailers(),
            _ => HeaderMap::new(),
        }
    }

    /// Whether all of the request body is in the read buffer; asks for more of it if it is not and would fit.
    pub fn collect_body(&mut self, cx: &Cx<'_>) -> Buffered {
        let mut ahead = self.ahead.take().unwrap_or_else(|| Ahead::of(&self.decoder));
        let may_come = self.fate == Fate::Open && self.receiving == Receiving::Body && !self.eof;
        let goes_on = may_come
            && matches!(ahead.find_end(self.rx.filled()), Ok(None))
            && !self.is_too_large(ahead.len() as u64, cx);
        if !goes_on || self.fault.is_some() {
            // Nobody waits for the peer any more, whoever is waited for next.
            self.body_wanted = false;
            return Buffered::Complete;
        }
        let fits =
            !self.rx.is_full() && self.decoder.remaining().is_none_or(|left| left <= READ_BUFFER_MAX as u64);
        if !fits || self.is_to_ask() {
            self.body_wanted = false;
            return Buffered::Unbuffered;
        }
        self.want_body(cx);
        self.ahead = Some(ahead);
        Buffered::Partial
    }

    /// Tells that nobody will read the rest of the request body.
    pub fn discard_body(&mut self) {
        if self.receiving == Receiving::Body && !self.upgraded {
            self.receiving = Receiving::Discard;
            self.body_wanted = false;
        }
    }

    /// Whether the request has a body that has not been read to its end.
    pub(crate) fn expects_body(&self) -> bool {
        self.receiving == Receiving::Body
    }

    /// How much of the request body is still to come, if that is known.
    pub(crate) fn body_len(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    /// Why the request body cannot be read any further, if so.
    pub fn body_fault(&self) -> Option<BodyError> {
        self.fault
    }

    // Transitions.

    /// Whether the rest of a body that nobody wants is known to be more than is worth reading.
    pub(super) fn discards_too_much(&self, cx: &Cx<'_>) -> bool {
        self.receiving == Receiving::Discard
            && self.decoder.remaining().is_some_and(|left| left > cx.limits.unread_body)
    }

    /// Throws away what has arrived of a body that nobody reads, up to a bound.
    pub(super) fn discard(&mut self, cx: &Cx<'_>) {
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
            self.decoder = Decoder::none();
            self.idle_since = cx.now;
            self.begin_head(cx.now);
        } else if self.eof {
            self.abort(CloseReason::PeerAborted);
        } else if self.body_read > cx.limits.unread_body || self.discards_too_much(cx) {
            self.abort(CloseReason::Finished);
        }
    }

    /// The application is at work, so that nobody waits for the peer until it asks for more.
    pub(super) fn resume_work(&mut self, now: Time) {
        self.body_pace.pause(now);
        self.write_pace.pause(now);
    }

    /// Whether a body of so many bytes is over the limit.
    fn is_too_large(&self, len: u64, cx: &Cx<'_>) -> bool {
        cx.limits.body > 0 && len > cx.limits.body && !self.upgraded
    }

    /// Whether a body that is wanted has to be asked for with a 100 (RFC 9110 §10.1.1).
    fn is_to_ask(&self) -> bool {
        self.request.expects_continue && self.sending == Sending::Awaiting
    }

    fn want_body(&mut self, cx: &Cx<'_>) {
        if self.is_to_ask() {
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
}
