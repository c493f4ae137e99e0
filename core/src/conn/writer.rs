//! The sending side: the queued bytes, and the pace at which the peer reads them.

use super::buffer::OutQueue;
use super::pace::Pace;
use crate::config::HIGH_WATER;
use crate::time::Time;

/// The writing side of a connection.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) queue: OutQueue,
    /// The pace at which the queue is read, from the first response that was queued while it was
    /// empty.
    pub(super) pace: Pace,
    /// When the queue was last empty or made progress.
    pub(super) since: Time,
    /// How many bytes were sent, by this process and by those that had the connection before.
    sent: u64,
    /// Queued bytes were dropped.
    lost: bool,
}

impl Writer {
    /// An empty queue.
    pub(super) fn new(now: Time) -> Self {
        Self { queue: OutQueue::default(), pace: Pace::default(), since: now, sent: 0, lost: false }
    }

    /// Others have sent so many bytes before.
    pub(super) fn count_from(&mut self, sent: u64) {
        self.sent = sent;
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many bytes are queued and not sent.
    #[inline]
    pub(super) fn unsent(&self) -> usize {
        self.queue.len()
    }

    /// Whether the application has to wait before it queues more.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= HIGH_WATER
    }

    #[inline]
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// How many bytes were queued, sent or not.
    #[inline]
    pub(super) fn queued(&self) -> u64 {
        self.sent + self.queue.len() as u64
    }

    pub(super) fn has_lost(&self) -> bool {
        self.lost
    }

    /// Bytes are about to be queued: the write deadline counts from the first byte in the queue.
    #[inline]
    pub(super) fn begin(&mut self, now: Time) {
        if self.queue.is_empty() {
            self.since = now;
        }
    }

    /// The same for the head of a response. If the queue is empty, its pace is measured anew.
    #[inline]
    pub(super) fn begin_response(&mut self, now: Time) {
        if self.queue.is_empty() {
            self.pace = Pace::default();
            self.since = now;
        }
    }

    /// The peer has read `n` bytes.
    #[inline]
    pub(super) fn advance(&mut self, n: usize, now: Time) {
        self.queue.consume(n);
        self.sent += n as u64;
        self.since = now;
        self.pace.advance(n, now);
    }

    /// Drops the queue, and returns how many bytes it had.
    pub(super) fn drop_queue(&mut self) -> usize {
        let dropped = self.queue.len();
        self.lost |= dropped > 0;
        self.queue.clear();
        dropped
    }
}
