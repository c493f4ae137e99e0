//! One request and its response as an application sees them, on any protocol and thread.
//!
//! A protocol implements [`Exchange`] for a view that borrows the connection, as HTTP/1 does
//! ([`Connection::exchange`](crate::conn::Connection::exchange)). In a protocol with streams the
//! view also has the number of a stream. A view has the time and the drain of the step or call that
//! made it. Nothing here waits: a method that cannot continue now says so.

use bytes::Bytes;
use http::HeaderMap;
use thiserror::Error;

use crate::config::HIGH_WATER;
use crate::http1::{BodyError, BodyLen, FieldError, Refusal, ResponseHead};
use crate::peer::ConnectionInfo;
use crate::time::Time;

/// The operations of an application on its request and response.
///
/// ```
/// use remuda_core::exchange::{Exchange, RespondError};
/// use remuda_core::http1::{BodyLen, ResponseHead};
///
/// /// Answers with a text, on any protocol.
/// fn answer(exchange: &mut impl Exchange, text: &'static str) -> Result<(), RespondError> {
///     exchange.discard_body();
///     exchange.respond(&ResponseHead::new(200), BodyLen::Exact(text.len() as u64))?;
///     exchange.write_shared(text.into())?;
///     exchange.finish(None)
/// }
/// ```
pub trait Exchange {
    /// Facts about the connection of the request.
    fn info(&self) -> ConnectionInfo;

    /// The present state of the exchange.
    fn state(&self) -> ExchangeState;

    /// Reads arrived bytes of the request body into `buffer`, which must not be empty.
    fn read_body(&mut self, buffer: &mut [u8]) -> BodyRead;

    /// Returns the trailer fields of a request body that was read to its end. A second call returns
    /// none. Fields that must not be trailers are left out (RFC 9110 §6.5.1), and trailer fields
    /// are never added to the head (RFC 9112 §7.1.2).
    fn trailers(&mut self) -> HeaderMap;

    /// Discards the rest of the request body, which will not be read.
    fn discard_body(&mut self);

    /// Queues an interim response. There may be any number before the final one (RFC 9110 §15.2).
    /// Clients of HTTP/1.0 get none, and all others only if
    /// [`interim_responses`](crate::config::Limits::interim_responses) is set.
    ///
    /// # Errors
    ///
    /// See [`RespondError`]. Then nothing has been queued. The statuses 100 and 101 are errors: 100
    /// is sent when the body is read, and 101 by [`upgrade`](Self::upgrade).
    fn interim(&mut self, head: &ResponseHead) -> Result<(), RespondError>;

    /// Begins the response: decides whether the connection stays open after it, then queues the
    /// head (D5).
    ///
    /// # Errors
    ///
    /// See [`RespondError`]. Then nothing has been queued.
    fn respond(&mut self, head: &ResponseHead, len: BodyLen) -> Result<(), RespondError>;

    /// Answers 101 and hands the connection to the application: raw bytes in both directions from
    /// then on.
    ///
    /// # Errors
    ///
    /// See [`RespondError`]. A request with an unread body cannot be upgraded (`NotOffered`).
    fn upgrade(&mut self, head: &ResponseHead) -> Result<(), RespondError>;

    /// Queues a part of the response body and returns how many bytes were queued. 0 means that
    /// there is no room now.
    ///
    /// # Errors
    ///
    /// See [`RespondError`].
    fn write(&mut self, bytes: &[u8]) -> Result<usize, RespondError>;

    /// Queues all of `bytes`, without a copy if they are large. They are already in memory, so they
    /// may exceed the high-water mark.
    ///
    /// # Errors
    ///
    /// See [`RespondError`].
    fn write_shared(&mut self, bytes: Bytes) -> Result<(), RespondError>;

    /// Queues the end of the response, with trailer fields. They are dropped if the response has no
    /// place for them (HTTP/1.0, HEAD, a known length, no content), and so are fields that must not
    /// be trailers (RFC 9110 §6.5.1). The exchange continues until its handler returns. Bytes
    /// written meanwhile are not sent.
    ///
    /// # Errors
    ///
    /// `TooShort` if bytes are missing. Then the exchange ends without them.
    fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), RespondError>;

    /// Ends the exchange without a response, or without the rest of it.
    fn abort(&mut self, why: Abort);
}

/// The state of an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ExchangeState {
    /// The time of the step or the call.
    pub now: Time,
    /// The state of the response.
    pub answer: Answer,
    /// The state of the request body.
    pub body: BodyState,
    /// Bytes of responses that are queued and not sent. At [`HIGH_WATER`], the application waits.
    pub unsent: usize,
    /// Whether written content is sent. Otherwise it is accepted and dropped.
    pub sends_content: bool,
    /// Whether trailer fields can follow a response of unknown length.
    pub sends_trailers: bool,
    /// Whether the request offers an upgrade (RFC 9110 §7.8), and whether it was made.
    pub upgrade: Upgrade,
    /// Whether the peer is known to have ended its side, or the connection has ended.
    pub has_peer_ended: bool,
    /// Whether the end of the peer's side cancels the handler.
    pub cancels_on_end: bool,
    /// Whether the worker drains, or is about to.
    pub is_draining: bool,
    /// When the timeout of the handler ends, if it has one.
    pub due: Option<Time>,
    /// Whether the exchange was ended because of that timeout.
    pub is_overdue: bool,
}

impl ExchangeState {
    /// At `now`, with this response and request body: nothing is queued, the response has content
    /// and no trailer fields, and the request offers no upgrade and has no time limit.
    pub fn new(now: Time, answer: Answer, body: BodyState) -> Self {
        Self {
            now,
            answer,
            body,
            unsent: 0,
            sends_content: true,
            sends_trailers: false,
            upgrade: Upgrade::None,
            has_peer_ended: false,
            cancels_on_end: false,
            is_draining: false,
            due: None,
            is_overdue: false,
        }
    }
}

/// The state of a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "there is no fourth case")]
pub enum Answer {
    /// The head of the response is awaited.
    Awaited,
    /// The head of the response is queued, or all of it.
    Begun,
    /// The exchange has ended, and further calls have no effect.
    Over,
}

/// The state of a request body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "there is no fourth case")]
pub enum BodyState {
    /// More is to come: so many bytes, if that is known.
    Coming(Option<u64>),
    /// It was read to its end, or is not read any more.
    Ended,
    /// No more, because of an error.
    Failed(BodyError),
}

/// The upgrade of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "there is no fourth case")]
pub enum Upgrade {
    /// It offers none.
    None,
    /// It offers one.
    Offered,
    /// It was made: the connection uses the application's own protocol.
    Done,
}

/// Why an exchange ends early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Abort {
    /// The peer is at fault, and gets a refusal if no response has begun (RFC 9112 §9.6).
    Refused(Refusal),
    /// The peer is gone, or has ended its side and that cancels its handlers.
    Peer,
    /// The transport has failed: nothing more is sent.
    Transport,
    /// The application failed after its response had begun.
    Application,
    /// The handler exceeded its timeout. A client without a response gets 503, an incomplete
    /// response is cut.
    Overdue,
}

/// The result of reading a request body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "a read has these outcomes")]
pub enum BodyRead {
    /// This many bytes.
    Data(usize),
    /// Its end.
    End,
    /// Bytes have to arrive first.
    NeedInput,
    /// No more, because of an error.
    Aborted(BodyError),
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
    /// A final status, 100 or 101 is no interim response that an application may send.
    #[error("status {0} is not an interim response that applications send; allowed: 102 to 199")]
    NotInterim(u16),
    /// Earlier interim responses fill the queue.
    #[error("{waiting} bytes of interim responses wait to be sent, limit {HIGH_WATER}")]
    Full {
        /// How many bytes are queued.
        waiting: usize,
    },
    /// The client did not offer an upgrade, or its request has not been read completely.
    #[error("the client has not offered to change the protocol")]
    NotOffered,
    /// More was written than Content-Length announced.
    #[error("the response body is at least {written} bytes long, its content-length is {length}")]
    TooLong {
        /// How many bytes were announced.
        length: u64,
        /// How many bytes the application has written, including those that were not accepted.
        written: u64,
    },
    /// The response ended before Content-Length bytes.
    #[error("the response body has ended after {written} bytes, its content-length is {length}")]
    TooShort {
        /// How many bytes were announced.
        length: u64,
        /// How many bytes the application has written.
        written: u64,
    },
    /// The connection has ended.
    #[error("the connection has ended")]
    Closed,
}

/// Checks that `head` is that of an interim response that applications may send.
pub(crate) fn check_interim(head: &ResponseHead) -> Result<(), RespondError> {
    head.check()?;
    match head.status() {
        102..200 => Ok(()),
        status => Err(RespondError::NotInterim(status)),
    }
}
