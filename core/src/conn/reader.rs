//! The receiving side: bytes that were read and not processed, and the progress of the next head.

use super::buffer::ReadBuffer;
use crate::http1::{HeadLimits, RequestHead};
use crate::time::Time;

/// The reading side of a connection.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) buffer: ReadBuffer,
    peer_end: PeerEnd,
    /// When the first byte of the current head arrived.
    pub(super) head_since: Option<Time>,
    /// Storage of the last head, reused for the next one.
    spare_head: Option<Box<RequestHead>>,
    /// A line has ended since the last time that the head was found incomplete.
    line_ended: bool,
    /// Bytes of empty lines before the current head.
    skipped: usize,
}

/// The end of the peer's side, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum PeerEnd {
    /// No end.
    Open,
    /// It has ended. Earlier bytes may be unread.
    Reported,
    /// It has ended, and all bytes are read.
    Read,
}

impl Reader {
    /// A reader with `unread` bytes, which belong to a head that began at `head_since`.
    pub(super) fn holding(unread: &[u8], head_since: Option<Time>) -> Self {
        Self {
            buffer: if unread.is_empty() { ReadBuffer::default() } else { ReadBuffer::holding(unread) },
            peer_end: PeerEnd::Open,
            head_since,
            spare_head: None,
            line_ended: true,
            skipped: 0,
        }
    }

    /// Whether no further byte will arrive.
    #[inline]
    pub(super) fn has_ended(&self) -> bool {
        self.peer_end == PeerEnd::Read
    }

    /// Whether the peer is known to have ended its side.
    #[inline]
    pub(super) fn is_peer_end_known(&self) -> bool {
        self.peer_end != PeerEnd::Open
    }

    /// Records the end of the peer's side.
    pub(super) fn end(&mut self, end: PeerEnd) {
        self.peer_end = self.peer_end.max(end);
        // No further line will end: a fault in the head shows now, however the head arrived.
        self.line_ended |= end == PeerEnd::Read;
    }

    /// `n` bytes of a head have arrived in the buffer's space.
    #[inline]
    pub(super) fn note_head(&mut self, n: usize, since: Time) {
        self.line_ended |= memchr::memchr(b'\n', &self.buffer.space()[..n]).is_some();
        self.head_since.get_or_insert(since);
    }

    /// Records when the head began whose first bytes are already in the buffer.
    pub(super) fn begin_head(&mut self, now: Time) {
        self.head_since = (!self.buffer.is_empty()).then_some(now);
    }

    /// Skips empty lines before a request line (RFC 9112 §2.2), up to `limit` bytes. Returns
    /// whether there were no more.
    pub(super) fn skip_empty_lines(&mut self, limit: usize) -> bool {
        while self.buffer.filled().starts_with(b"\r\n") {
            self.consume(2);
            self.skipped += 2;
        }
        self.skipped <= limit
    }

    /// Consumes `n` bytes before the current head.
    pub(super) fn consume(&mut self, n: usize) {
        self.buffer.consume(n);
        if self.buffer.is_empty() {
            self.head_since = None;
        }
    }

    /// The `limit` of a head, less the empty lines before it.
    pub(super) fn left_of(&self, limit: usize) -> usize {
        limit.saturating_sub(self.skipped)
    }

    /// Whether parsing may have another result than the last time: a line has ended since, or
    /// exceeds its limit.
    pub(super) fn is_worth_parsing(&self, limits: HeadLimits) -> bool {
        let head = self.buffer.filled();
        if self.line_ended || self.buffer.is_full() || head.len() > limits.head {
            return true;
        }
        let (line, limit) = match memchr::memrchr(b'\n', head) {
            None => (head.len(), limits.request_line),
            Some(end) => (head.len() - end - 1, limits.field_size),
        };
        line > limit.saturating_add(1)
    }

    /// Storage for a head.
    #[inline]
    pub(super) fn take_head(&mut self) -> Box<RequestHead> {
        self.spare_head.take().unwrap_or_default()
    }

    /// Keeps the storage of a head that is incomplete, or that was refused.
    #[inline]
    pub(super) fn keep_head(&mut self, head: Box<RequestHead>) {
        self.spare_head = Some(head);
    }

    /// The current head is incomplete. It is parsed again when a line has ended.
    pub(super) fn await_line(&mut self) {
        self.line_ended = false;
    }

    /// The head is complete in the first `len` bytes, which move into `head`.
    #[inline]
    pub(super) fn complete(&mut self, head: &mut RequestHead, len: usize) {
        self.buffer.split_storage(len, &mut head.buf);
        (self.head_since, self.line_ended, self.skipped) = (None, true, 0);
    }

    /// Takes back the storage of an answered head.
    #[inline]
    pub(super) fn reuse(&mut self, mut head: Box<RequestHead>) {
        self.buffer.return_storage(&mut head.buf);
        head.shrink();
        self.spare_head = Some(head);
    }

    /// How many bytes of storage it has for unprocessed bytes and heads.
    #[cfg(test)]
    pub(super) fn storage(&self) -> usize {
        self.buffer.storage() + self.spare_head.as_ref().map_or(0, |head| head.storage())
    }
}
