//! The states of a connection and every transition between them: the only place where they change.
//!
//! The two halves run at once. A response may begin before the request's body has ended, and an early final
//! response leads to reading the rest away or to a close.
//!
//! ```text
//! receiving   Head ──▶ Body ──▶ Done ─────▶ (next)     what the peer sends
//!                        └────▶ Discard ──▶ (next)     nobody wants the rest of the body
//! sending     Quiet ─▶ Awaiting ─▶ Body ──▶ (next)     what the application answers
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
    /// The rest of a body that nobody reads.
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

/// Whether the connection goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It does.
    Open,
    /// No: what is queued is sent, then our side is ended.
    Flushing(CloseReason),
    /// Our side has been ended by the transport; the peer's is read from and discarded.
    Lingering { reason: CloseReason, until: Time, left: u64 },
    /// It is over.
    Ended(CloseReason),
}

/// What happens to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Input {
    /// A head is complete; whether a body follows.
    Request { body: bool },
    /// The request's body has ended.
    BodyEnd,
    /// The head of a final response is queued.
    ResponseHead,
    /// The last byte of a response is queued.
    ResponseEnd,
    /// A 101 is queued: what follows both ways is the application's own.
    Upgrade,
}

/// The transition table. `None`: the input is a mistake of the caller in this state.
pub(super) fn next(state: (Receiving, Sending), input: Input) -> Option<(Receiving, Sending)> {
    use Receiving as R;
    use Sending as S;
    Some(match (state, input) {
        ((R::Head, S::Quiet), Input::Request { body: true }) => (R::Body, S::Awaiting),
        ((R::Head, S::Quiet), Input::Request { body: false }) => (R::Done, S::Awaiting),
        ((R::Body, sending), Input::BodyEnd) => (R::Done, sending),
        ((R::Discard, S::Quiet), Input::BodyEnd) => (R::Head, S::Quiet),
        ((R::Discard, sending), Input::BodyEnd) => (R::Done, sending),
        ((receiving, S::Awaiting), Input::ResponseHead) => (receiving, S::Body),
        ((R::Done, S::Awaiting), Input::Upgrade) => (R::Body, S::Body),
        ((R::Done, S::Body), Input::ResponseEnd) => (R::Head, S::Quiet),
        ((R::Body | R::Discard, S::Body), Input::ResponseEnd) => (R::Discard, S::Quiet),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
