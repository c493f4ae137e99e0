//! What is kept of the exchange under way for an [`Observer`](crate::app::Observer); nothing where there is none.

use crate::http1::RequestHead;
use crate::time::Time;

/// The account of one exchange.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) since: Time,
    /// None until the head of the response is queued.
    pub(super) status: Option<u16>,
    /// Bytes of content.
    pub(super) sent: u64,
    /// The head of the response as it was queued.
    pub(super) head: Vec<u8>,
    /// Whether to keep that.
    keeps_head: bool,
    /// A request that was refused before the application could see it.
    pub(super) refused: Option<Box<RequestHead>>,
}

impl Record {
    pub(super) fn new(keeps_head: bool) -> Self {
        Self { keeps_head, ..Self::default() }
    }

    /// Another exchange has begun.
    pub(super) fn begin(&mut self, since: Time) {
        (self.since, self.status, self.sent) = (since, None, 0);
        self.head.clear();
    }

    /// A response with this head is queued.
    pub(super) fn respond(&mut self, status: u16, head: &[u8]) {
        self.status = Some(status);
        if self.keeps_head {
            self.head.extend_from_slice(head);
        }
    }
}
