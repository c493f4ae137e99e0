//! Responses that are queued completely and not sent. A request is counted and reported once the
//! last byte of its response was given to the kernel, or once that can no longer happen. So each is
//! counted once, by what its client receives.

use std::collections::VecDeque;

use crate::app::{Answered, ConnectionInfo, Counts, Cut, Observer};
use crate::conn::Record;
use crate::http1::RequestHead;
use crate::machine::{CloseReason, Timer};
use crate::time::Time;

/// The maximum of unreported requests of a connection. If a client sends more without reading the
/// responses, the oldest is reported as answered.
const UNTOLD: usize = 16;

/// The unsent responses of one connection, in order.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Outside the queue, because there is rarely more than one.
    first: Option<Response>,
    more: VecDeque<Response>,
}

/// A response that is queued completely.
#[derive(Debug)]
pub(super) struct Response {
    /// How many bytes the connection has sent in all once this response is sent.
    pub(super) end: u64,
    /// When the head of its request was complete.
    pub(super) since: Time,
    /// When it was queued completely.
    pub(super) queued: Time,
    pub(super) status: u16,
    pub(super) kind: Kind,
    /// The report about it, if there is an observer.
    pub(super) story: Option<Box<Story>>,
}

/// The origin of a response: the application or the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The application.
    Finished,
    /// The bytes after the head were malformed.
    Rejected,
    /// The handler exceeded its timeout.
    Late,
    /// The drain's deadline has passed: the request counts as aborted, even if the 503 is sent.
    Stopped,
}

/// The report about a request to an observer.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) head: Box<RequestHead>,
    pub(super) record: Record,
    pub(super) connection: ConnectionInfo,
    /// Whether the connection ends with it.
    pub(super) closes: bool,
}

impl Leaving {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether the first is sent, given that `sent` bytes were sent.
    #[inline]
    pub(super) fn has_left(&self, sent: u64) -> bool {
        self.first.as_ref().is_some_and(|first| first.end <= sent)
    }

    /// Adds `response`. Returns one that has waited for too long, to be reported now.
    pub(super) fn push(&mut self, response: Response) -> Option<&mut Response> {
        if self.first.is_none() {
            self.first = Some(response);
            return None;
        }
        self.more.push_back(response);
        match self.more.len().checked_sub(UNTOLD)? {
            0 => self.first.as_mut(),
            n => self.more.get_mut(n - 1),
        }
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Response> {
        let first = self.first.take();
        if !self.more.is_empty() {
            self.move_up();
        }
        first
    }

    #[cold]
    fn move_up(&mut self) {
        self.first = self.more.pop_front();
        if self.more.is_empty() {
            self.more = VecDeque::new();
        }
    }
}

impl Response {
    /// Counts it as sent by `now`.
    pub(super) fn count(&self, counts: &Counts, now: Time) {
        match self.kind {
            Kind::Finished => counts.finished(self.status, self.queued.max(now) - self.since),
            Kind::Rejected => counts.rejected(self.status),
            Kind::Late => counts.answered(self.status),
            Kind::Stopped => {}
        }
    }

    /// Counts it as never sent completely.
    pub(super) fn count_lost(&self, counts: &Counts, cut: Cut) {
        if self.kind != Kind::Stopped {
            counts.aborted(cut == Cut::Drain);
        }
    }
}

impl Story {
    /// Reports it to `observer`: the exchange was over at `now`, and cut by `cut` if it was.
    pub(super) fn tell(&self, observer: &dyn Observer, now: Time, cut: Option<Cut>) {
        let Record { since, status, sent, head: fields, .. } = &self.record;
        observer.answered(&Answered {
            head: self.head.view(),
            connection: self.connection,
            status: *status,
            sent: *sent,
            since: *since,
            took: now - *since,
            cut,
            closes: self.closes || cut.is_some(),
            fields,
        });
    }
}

/// The reason why a response was not sent, on a connection that has ended for `reason`.
pub(super) fn cut_by(reason: Option<CloseReason>) -> Cut {
    match reason {
        Some(CloseReason::DeadlineCut | CloseReason::DeadlineIdle | CloseReason::DrainIdle) => Cut::Drain,
        Some(CloseReason::TimedOut(Timer::Request)) => Cut::RequestTimeout,
        Some(CloseReason::TimedOut(_)) => Cut::Slow,
        Some(CloseReason::PeerAborted | CloseReason::PeerClosed | CloseReason::TransportFailed) => {
            Cut::Client
        }
        Some(CloseReason::Refused) => Cut::Refused,
        _ => Cut::Application,
    }
}
