//! The states of a connection and every transition between them: they change in this file only.
//!
//! A connection holds one [`State`], whose parts are private to this file. [`State::enter`] moves
//! the two halves of the exchange, [`State::end`] moves the fate of the connection.
//!
//! The two halves run at the same time. A response may begin before the request's body has ended.
//! An early final response leads to discarding the rest of the body, or to a close.
//!
//! ```text
//! receiving   Head ──▶ Body ──▶ Done ─────▶ (next)     the peer sends
//!                        └────▶ Discard ──▶ (next)     the rest of the body is unread
//! sending     Quiet ─▶ Awaiting ─▶ Body ──▶ (next)     the application answers
//!                            │
//! fate        Open ─▶ Flushing ─▶ Lingering ─▶ Ended
//! ```

use crate::machine::CloseReason;
use crate::time::Time;

/// What is expected of the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receiving {
    /// A head, or its rest.
    Head,
    /// A body that the application may read.
    Body,
    /// The rest of an unread body.
    Discard,
    /// Nothing until the response has ended.
    Done,
}

/// What is expected of the application.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sending {
    /// Nothing: there is no request.
    Quiet,
    /// The head of a response.
    Awaiting,
    /// The body of a response, or its rest.
    Body,
}

/// The fate of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It is open.
    Open,
    /// Queued bytes are sent, then our side is ended.
    Flushing(CloseReason),
    /// The transport has ended our side. Up to `left` bytes of the peer are read and discarded.
    Lingering { reason: CloseReason, until: Time, left: u64 },
    /// It has ended.
    Ended(CloseReason),
}

/// The state of a connection: the two halves of its exchange, and its fate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State {
    receiving: Receiving,
    sending: Sending,
    fate: Fate,
}

impl State {
    /// A connection that waits for its first head.
    pub(super) fn new() -> Self {
        Self { receiving: Receiving::Head, sending: Sending::Quiet, fate: Fate::Open }
    }

    #[inline]
    pub(super) fn receiving(&self) -> Receiving {
        self.receiving
    }

    #[inline]
    pub(super) fn sending(&self) -> Sending {
        self.sending
    }

    #[inline]
    pub(super) fn fate(&self) -> Fate {
        self.fate
    }

    /// Whether the connection is open.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.fate == Fate::Open
    }

    /// Whether it has ended.
    #[inline]
    pub(super) fn is_ended(&self) -> bool {
        matches!(self.fate, Fate::Ended(_))
    }

    /// Moves the halves of the exchange.
    #[inline]
    pub(super) fn enter(&mut self, input: Input) {
        let from = (self.receiving, self.sending);
        debug_assert!(next(from, input).is_some(), "{input:?} in {from:?}");
        (self.receiving, self.sending) = next(from, input).unwrap_or(from);
    }

    /// Moves the fate, and returns whether that was possible. Only [`End::Cut`] replaces the reason
    /// of a connection that is already ending.
    #[inline]
    pub(super) fn end(&mut self, input: End) -> bool {
        let next = fate(self.fate, input);
        self.fate = next.unwrap_or(self.fate);
        next.is_some()
    }
}

/// An input of the exchange's state machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Input {
    /// A head is complete. `body`: whether a body follows.
    Request { body: bool },
    /// The request's body has ended.
    BodyEnd,
    /// The application will not read the rest of the request's body.
    Discard,
    /// The head of a final response is queued.
    ResponseHead,
    /// The last byte of a response is queued.
    ResponseEnd,
    /// A 101 is queued: further bytes in both directions are the application's.
    Upgrade,
}

/// The transition table of the exchange. `None`: the caller made a mistake.
pub(super) fn next(state: (Receiving, Sending), input: Input) -> Option<(Receiving, Sending)> {
    use Receiving as R;
    use Sending as S;
    Some(match (state, input) {
        ((R::Head, S::Quiet), Input::Request { body: true }) => (R::Body, S::Awaiting),
        ((R::Head, S::Quiet), Input::Request { body: false }) => (R::Done, S::Awaiting),
        ((R::Body, sending), Input::BodyEnd) => (R::Done, sending),
        ((R::Body, sending), Input::Discard) => (R::Discard, sending),
        ((R::Discard, S::Quiet), Input::BodyEnd) => (R::Head, S::Quiet),
        ((R::Discard, sending), Input::BodyEnd) => (R::Done, sending),
        ((receiving, S::Awaiting), Input::ResponseHead) => (receiving, S::Body),
        ((R::Done, S::Awaiting), Input::Upgrade) => (R::Body, S::Body),
        ((R::Done, S::Body), Input::ResponseEnd) => (R::Head, S::Quiet),
        ((R::Body | R::Discard, S::Body), Input::ResponseEnd) => (R::Discard, S::Quiet),
        _ => return None,
    })
}

/// An input of the fate's state machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Nothing follows the queued bytes.
    Flush(CloseReason),
    /// Our side is ended. The peer may send until `until`, and up to `left` bytes, before it ends
    /// its own.
    HalfClose { until: Time, left: u64 },
    /// So many bytes were read and discarded.
    Discarded(u64),
    /// Everything is sent, and the peer's side need not be waited for.
    Close,
    /// The peer's side has ended, or is not waited for any more.
    PeerClosed,
    /// At once, without the queued bytes.
    Cut(CloseReason),
}

/// The transition table of the fate. `None`: the input changes nothing in this state.
pub(super) fn fate(from: Fate, input: End) -> Option<Fate> {
    Some(match (from, input) {
        (Fate::Open, End::Flush(reason)) => Fate::Flushing(reason),
        (Fate::Flushing(reason), End::HalfClose { until, left }) => Fate::Lingering { reason, until, left },
        (Fate::Lingering { reason, until, left }, End::Discarded(n)) if n < left => {
            Fate::Lingering { reason, until, left: left - n }
        }
        (Fate::Lingering { reason, .. }, End::Discarded(_) | End::PeerClosed) => Fate::Ended(reason),
        (Fate::Flushing(reason), End::Close) => Fate::Ended(reason),
        (Fate::Open | Fate::Flushing(_) | Fate::Lingering { .. }, End::Cut(reason)) => Fate::Ended(reason),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
