//! The state of one request and its response. The next request replaces it as a whole.

use super::pace::Pace;
use super::response::{Declined, Encoder, Overdue};
use crate::exchange::RespondError;
use crate::http1::{BodyError, BufferedBody, Decoder, RequestHead, Version};
use crate::machine::CloseReason;
use crate::time::Time;

/// The current exchange, or the last one.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) request: Request,
    pub(super) body: RequestBody,
    pub(super) response: Response,
    /// When the timeout of its handler ends, if it has one.
    pub(super) due: Option<Time>,
    /// The outcome of the request if its handler exceeded its timeout.
    pub(super) overdue: Option<Overdue>,
    /// Why the server answered in place of the application, if it did.
    pub(super) declined: Option<Declined>,
    /// The connection uses the application's own protocol.
    pub(super) is_upgraded: bool,
}

/// The facts in the head of a request about the connection and the response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) version: Version,
    pub(super) is_head: bool,
    pub(super) keep_alive: bool,
    /// The client waits for a 100 that was not sent yet.
    pub(super) expects_continue: bool,
    pub(super) offers_upgrade: bool,
    /// When the head was complete.
    pub(super) since: Time,
}

/// The body of a request.
#[derive(Debug)]
pub(super) struct RequestBody {
    pub(super) decoder: Decoder,
    /// The progress of a body that is waited for as a whole.
    pub(super) buffered: Option<BufferedBody>,
    /// How many bytes of it were read.
    pub(super) read: u64,
    /// The application waits for more.
    pub(super) is_wanted: bool,
    /// Why no more of it can be read.
    pub(super) fault: Option<BodyError>,
    /// When it last made progress.
    pub(super) since: Time,
    /// The pace at which it arrives.
    pub(super) pace: Pace,
}

/// The response to a request.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    /// Where its final response begins, in bytes of the connection: all before it are earlier
    /// responses and interim ones.
    pub(super) start: u64,
    pub(super) encoder: Encoder,
    /// The response announces close, or cannot be followed by another, for this reason.
    pub(super) close_after: Option<CloseReason>,
    /// How its content differs from its own Content-Length.
    pub(super) length_error: Option<RespondError>,
}

impl Exchange {
    /// No request yet.
    pub(super) fn none(now: Time) -> Self {
        let request = Request {
            version: Version::Http11,
            is_head: false,
            keep_alive: false,
            expects_continue: false,
            offers_upgrade: false,
            since: now,
        };
        Self::of(request, 0, RequestBody::of(Decoder::none(), Pace::default(), now))
    }

    /// The exchange that `head` begins. `buffered` bytes after the head have arrived; its response
    /// begins at `start`.
    #[inline]
    pub(super) fn begin(head: &mut RequestHead, buffered: usize, start: u64, now: Time) -> Self {
        let request = Request {
            version: head.version(),
            is_head: head.is_head,
            keep_alive: head.keep_alive,
            expects_continue: head.expects_continue,
            offers_upgrade: head.offers_upgrade,
            since: now,
        };
        let decoder = std::mem::replace(&mut head.framing, Decoder::none());
        Self::of(request, start, RequestBody::of(decoder, Pace::with(buffered), now))
    }

    #[inline]
    fn of(request: Request, start: u64, body: RequestBody) -> Self {
        let response =
            Response { status: 0, start, encoder: Encoder::Swallow, close_after: None, length_error: None };
        Self { request, body, response, due: None, overdue: None, declined: None, is_upgraded: false }
    }
}

impl Request {
    /// Whether a response of unknown length can end with trailers.
    #[inline]
    pub(super) fn takes_trailers(&self) -> bool {
        self.version == Version::Http11 && !self.is_head
    }
}

impl Response {
    /// Whether written content is sent.
    #[inline]
    pub(super) fn sends_content(&self) -> bool {
        self.encoder != Encoder::Swallow
    }
}

impl RequestBody {
    #[inline]
    fn of(decoder: Decoder, pace: Pace, now: Time) -> Self {
        Self { decoder, buffered: None, read: 0, is_wanted: false, fault: None, since: now, pace }
    }

    /// Reduces the body to what discarding the rest needs once the response is queued: its framing
    /// and its pace. Unread trailers of a complete body are dropped.
    #[inline]
    pub(super) fn leave_rest(&mut self, now: Time) {
        *self = match std::mem::replace(&mut self.decoder, Decoder::none()) {
            done if done.is_done() => Self::of(Decoder::none(), Pace::default(), now),
            rest => Self::of(rest, std::mem::take(&mut self.pace), now),
        };
    }
}
