//! The record of an exchange: facts kept for an [`Observer`](crate::app::Observer) while the
//! exchange is in flight, and the report at its end. Without an observer nothing is kept.

use std::mem;
use std::time::Duration;

use crate::http1::{Head, RequestHead};
use crate::peer::ConnectionInfo;
use crate::time::Time;

/// The record of one exchange.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) since: Time,
    /// None until the head of the response is queued.
    pub(crate) status: Option<u16>,
    /// Bytes of content.
    pub(crate) sent: u64,
    /// The encoded head of the response.
    pub(crate) head: Vec<u8>,
    /// Whether `head` is kept.
    keeps_head: bool,
    /// A request that was refused before the application could see it.
    pub(super) refused: Option<Box<RequestHead>>,
}

impl Record {
    pub(super) fn new(keeps_head: bool) -> Self {
        Self { keeps_head, ..Self::default() }
    }

    /// Begins the record of another exchange.
    pub(super) fn begin(&mut self, since: Time) {
        (self.since, self.status, self.sent) = (since, None, 0);
        self.head.clear();
    }

    /// Takes the record, and leaves an empty one.
    pub(super) fn take(&mut self) -> Self {
        let next = Self { keeps_head: self.keeps_head, ..Self::default() };
        mem::replace(self, next)
    }

    /// Takes the storage of `other`, if this record has none.
    pub(super) fn reuse(&mut self, other: Self) {
        if self.head.capacity() == 0 {
            self.head = other.head;
            self.head.clear();
        }
    }

    /// Records a response whose head is queued.
    pub(super) fn respond(&mut self, status: u16, head: &[u8]) {
        self.status = Some(status);
        if self.keeps_head {
            self.head.extend_from_slice(head);
        }
    }
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Answered<'a> {
    /// The request. One that was refused before it was parsed has no fields, and its method and
    /// target may be empty.
    pub head: Head<'a>,
    /// The connection of the request.
    pub connection: ConnectionInfo,
    /// The status of the response. None if the connection ended before it.
    pub status: Option<u16>,
    /// Bytes of content that were sent or, for a complete response, queued.
    pub sent: u64,
    /// When the head was complete. For a refused request, when it began.
    pub since: Time,
    /// How long the exchange took from then on.
    pub took: Duration,
    /// Why the response was not sent completely. None if it was.
    pub cut: Option<Cut>,
    /// Whether the connection ends with this exchange.
    pub closes: bool,
    pub(crate) fields: &'a [u8],
}

/// The reason why a response was not sent completely.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Cut {
    /// The drain's deadline has passed (D10).
    Drain,
    /// The handler exceeded [`request_timeout`](crate::config::Limits::request_timeout).
    RequestTimeout,
    /// The client read the response too slowly, or not at all.
    Slow,
    /// The client is gone, or its network has failed.
    Client,
    /// The application failed, or its content differs from the announced length.
    Application,
    /// The request's body proved malformed after the response had begun.
    Refused,
}

impl Cut {
    /// Its name in the access log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::RequestTimeout => "request-timeout",
            Self::Slow => "slow",
            Self::Client => "client",
            Self::Application => "application",
            Self::Refused => "refused",
        }
    }
}

impl<'a> Answered<'a> {
    /// The value of the first response field called `name`. Case is ignored. None if fields are not
    /// [used](crate::app::Observer::wants_fields).
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        let lines = self.fields.split(|&byte| byte == b'\n').skip(1);
        let fields = lines.filter_map(|line| line.split_at_checked(line.iter().position(|&b| b == b':')?));
        let mut named = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes()));
        named.next().map(|(_, value)| value[1..].trim_ascii())
    }
}
