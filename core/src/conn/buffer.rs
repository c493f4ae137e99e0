//! The two buffers of a connection: bytes read and not processed, and bytes to be sent.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;

use crate::config::{READ_BUFFER, READ_BUFFER_MAX};
use crate::machine::IoSlices;

/// Bytes read and not processed. The storage stays initialised, and the filled part is remembered:
/// zeroing it before each read would cost more than parsing.
#[derive(Debug, Default)]
pub(super) struct ReadBuffer {
    storage: Vec<u8>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    /// A buffer that already has `bytes`.
    pub(super) fn holding(bytes: &[u8]) -> Self {
        let mut buffer = Self::default();
        buffer.fill(bytes);
        buffer
    }

    pub(super) fn filled(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether it has reached its maximum size.
    pub(super) fn is_full(&self) -> bool {
        self.end - self.start >= READ_BUFFER_MAX
    }

    /// Free space, made by moving or growing if there is none.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.end == self.storage.len() {
            self.align();
            if self.storage.is_empty() {
                self.storage = borrowed();
            } else if self.end == self.storage.len() && self.end < READ_BUFFER_MAX {
                self.storage.resize((self.end * 2).min(READ_BUFFER_MAX), 0);
            }
        }
        &mut self.storage[self.end..]
    }

    /// `n` bytes of [`space`](Self::space) have been filled.
    pub(super) fn filled_up(&mut self, n: usize) {
        self.end += n;
        debug_assert!(self.end <= self.storage.len());
    }

    /// `n` bytes have been processed.
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Moves the filled part to the beginning of the storage.
    pub(super) fn align(&mut self) {
        if self.start > 0 {
            self.storage.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Gives the storage away, with its first `used` filled bytes. The filled bytes after them move
    /// into `spare`, which becomes the new storage.
    pub(super) fn split_storage(&mut self, used: usize, spare: &mut Vec<u8>) {
        debug_assert_eq!(self.start, 0, "aligned first");
        let rest = used..self.end;
        mem::swap(&mut self.storage, spare);
        self.clear();
        if !rest.is_empty() {
            self.fill(&spare[rest]);
        }
    }

    /// Takes back storage that was given away, unless there is new storage by now.
    pub(super) fn return_storage(&mut self, storage: &mut Vec<u8>) {
        if self.storage.is_empty() && storage.len() <= READ_BUFFER {
            mem::swap(&mut self.storage, storage);
        }
    }

    /// Leaves empty storage to the next connection that reads on this thread.
    pub(super) fn rest(&mut self) {
        if self.is_empty() && self.storage.len() == READ_BUFFER {
            lend(mem::take(&mut self.storage));
        }
    }

    /// Frees memory that only a large head or body needed.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() && self.storage.len() > READ_BUFFER {
            self.storage = Vec::new();
        }
    }

    #[cfg(test)]
    pub(super) fn storage(&self) -> usize {
        self.storage.len()
    }

    fn fill(&mut self, bytes: &[u8]) {
        if self.storage.is_empty() {
            self.storage = borrowed();
        }
        if self.storage.len() < bytes.len() {
            self.storage.resize(bytes.len(), 0);
        }
        self.storage[..bytes.len()].copy_from_slice(bytes);
        (self.start, self.end) = (0, bytes.len());
    }
}

thread_local! {
    /// Storage for all connections of a thread: most of them wait, and few need any at a time.
    static LENT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The maximum number of storages that a thread keeps.
const LENT_MAX: usize = 32;

/// Storage for a read buffer: initialised, with any content.
fn borrowed() -> Vec<u8> {
    let lent = LENT.try_with(|lent| lent.borrow_mut().pop()).ok().flatten();
    lent.unwrap_or_else(|| vec![0; READ_BUFFER])
}

fn lend(storage: Vec<u8>) {
    // The thread may be ending.
    let _ = LENT.try_with(|lent| {
        let mut lent = lent.borrow_mut();
        if lent.len() < LENT_MAX {
            lent.push(storage);
        }
    });
}

/// The size in bytes from which pieces are shared. Below it a copy is cheaper.
const SHARE_FROM: usize = 4 * 1024;

/// How many bytes of storage an empty queue keeps for the next response.
const KEEP: usize = 4 * 1024;

/// How many sent bytes at the front of a queue may remain stored.
const COMPACT_FROM: usize = 32 * 1024;

/// Bytes to be sent, in order: small pieces copied, and large pieces shared.
#[derive(Debug, Default)]
pub(super) struct OutQueue {
    /// The copies. Emptied only when the whole queue is sent.
    copied: Vec<u8>,
    /// How many bytes of `copied` are sent.
    sent: usize,
    /// Shared pieces, each with the offset in `copied` that it precedes.
    shared: VecDeque<(usize, Bytes)>,
    len: usize,
}

impl OutQueue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(super) fn push_shared(&mut self, bytes: Bytes) {
        if bytes.len() < SHARE_FROM {
            return self.push(&bytes);
        }
        self.len += bytes.len();
        self.shared.push_back((self.copied.len(), bytes));
    }

    /// Appends the bytes that `write` appends to its vector.
    pub(super) fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.copied.len();
        write(&mut self.copied);
        self.len += self.copied.len() - before;
    }

    pub(super) fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
        let mut at = self.sent;
        for (before, bytes) in &self.shared {
            if !out.push(&self.copied[at..*before]) || !out.push(bytes) {
                return;
            }
            at = *before;
        }
        out.push(&self.copied[at..]);
    }

    /// The first `n` bytes of the queue have been sent.
    pub(super) fn consume(&mut self, mut n: usize) {
        self.len -= n;
        while n > 0 {
            let until = self.shared.front().map_or(self.copied.len(), |(before, _)| *before);
            let copied = n.min(until - self.sent);
            self.sent += copied;
            n -= copied;
            if self.sent == until
                && let Some((_, bytes)) = self.shared.front_mut()
            {
                let shared = n.min(bytes.len());
                bytes::Buf::advance(bytes, shared);
                n -= shared;
                if bytes.is_empty() {
                    self.shared.pop_front();
                } else {
                    break;
                }
            }
        }
        if self.len == 0 {
            self.clear();
        } else if self.sent >= COMPACT_FROM {
            // A stream whose queue is never empty would otherwise grow without end.
            self.copied.drain(..self.sent);
            self.shared.iter_mut().for_each(|(before, _)| *before -= self.sent);
            self.sent = 0;
        }
    }

    /// Drops the queued bytes.
    pub(super) fn clear(&mut self) {
        self.copied.clear();
        self.copied.shrink_to(KEEP);
        self.shared.clear();
        self.sent = 0;
        self.len = 0;
    }
}

#[cfg(test)]
mod tests;
