//! The entries of open connections, from which another process goes on with them when their worker
//! has ended suddenly (D20).
//!
//! The owner of a descriptor publishes in an [`Entry`] what can be done for its connection: move it
//! to another worker, answer the client in place of the handler, or end it. The entries are memory
//! shared with the keeper of the worker, which reads them once the worker is gone. The worker
//! writes them with plain stores, the standing last.
//!
//! A worker may end between any two instructions. So `Fresh` and `Idle` are left **before** a read
//! and entered again after the last byte of a response was given to the kernel, and a connection
//! counts as begun from before a write until after it. What was moved at that moment TCP's own
//! counts show: [`Entry`] keeps the number of bytes read and written, and where the current
//! response begins.
//!
//! ```
//! use remuda_core::rescue::{Entry, EntryMemory, Standing};
//!
//! let memory: &'static EntryMemory = Box::leak(Box::default());
//! let entry = Entry::new(memory);
//! entry.publish(Standing::Fresh);
//! entry.before_read();
//! entry.after_read(120);
//! assert_eq!(memory.found().standing, Some(Standing::Unanswered));
//! assert_eq!(memory.found().read, 120);
//! ```

use core::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;

use crate::handoff::ConnectionRecord;
use crate::peer::{Origin, Peer};
use crate::time::Time;

/// How many bytes of a connection were read from the kernel and written to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "both directions of a connection")]
pub struct ByteCounts {
    /// Bytes read, by whichever process.
    pub read: u64,
    /// Bytes written, by whichever process.
    pub written: u64,
}

/// What can be done for a connection whose worker has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "the keeper handles every standing")]
pub enum Standing {
    /// Nothing was read of it: another worker can serve it.
    Fresh,
    /// It is between requests: another worker can serve it.
    Idle {
        /// Requests answered so far.
        served: u32,
        /// When its last response was flushed.
        since: Time,
    },
    /// Part of a request head was read: its sending side is ended.
    Head,
    /// A request was read. Every byte of earlier responses was given to the kernel, and none of the
    /// final response to this one: the client can be answered.
    Unanswered,
    /// A response was begun and not completed, or the protocol was changed: it is cut.
    Begun,
    /// Everything was sent, and the sending side is ended.
    Closing,
}

/// The memory of one entry. Zeros: there is no connection.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct EntryMemory {
    state: AtomicU32,
    listener: AtomicU32,
    draw: AtomicU32,
    served: AtomicU32,
    accepted: AtomicU64,
    since: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    /// Where a response begins of which nothing was sent, in bytes written.
    response: AtomicU64,
    /// The connection is between requests once so many bytes are written; with [`UNANSWERED_THEN`],
    /// its next request can be answered. [`u64::MAX`]: neither.
    rest: AtomicU64,
    peer: PeerMemory,
    proxied: PeerMemory,
}

/// The states of an entry, of which [`Standing`] shows those that a machine may publish.
mod state {
    pub(super) const NONE: u32 = 0;
    pub(super) const FRESH: u32 = 1;
    pub(super) const IDLE: u32 = 2;
    pub(super) const HEAD: u32 = 3;
    pub(super) const UNANSWERED: u32 = 4;
    pub(super) const BEGUN: u32 = 5;
    pub(super) const CLOSING: u32 = 6;
    /// Fresh or idle, and about to be read.
    pub(super) const READING: u32 = 7;
    /// The highest state before a read that may be the end of being between requests.
    pub(super) const LAST_AT_REST: u32 = IDLE;
}

/// The counts of bytes of an entry are those of the whole connection, as TCP counts them. This bit
/// marks those of a connection of which it is not known what another worker has read and written.
const COUNTS_UNKNOWN: u64 = 1 << 63;

/// Marks a place in the response bytes at which the next request was read, and can be answered.
const UNANSWERED_THEN: u64 = 1 << 63;

/// The entry of one connection, or none, on which all methods do nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry(Option<&'static EntryMemory>);

impl Entry {
    /// No entry.
    pub const NONE: Self = Self(None);

    /// The entry in `memory`.
    pub fn new(memory: &'static EntryMemory) -> Self {
        Self(Some(memory))
    }

    /// Describes the connection that the entry is for. It was accepted at `accepted`. `counts`: what
    /// was read and written before, if that is known. Nothing is published yet.
    pub fn describe(self, origin: Origin, accepted: Time, proxied: Option<Peer>, counts: Option<ByteCounts>) {
        let Some(memory) = self.0 else { return };
        let unknown = ByteCounts { read: COUNTS_UNKNOWN, written: COUNTS_UNKNOWN };
        let ByteCounts { read, written } = counts.unwrap_or(unknown);
        memory.listener.store(origin.listener.into(), Ordering::Relaxed);
        memory.draw.store(origin.draw, Ordering::Relaxed);
        memory.served.store(0, Ordering::Relaxed);
        memory.accepted.store(accepted.as_nanos(), Ordering::Relaxed);
        memory.read.store(read, Ordering::Relaxed);
        memory.written.store(written, Ordering::Relaxed);
        memory.response.store(0, Ordering::Relaxed);
        memory.rest.store(u64::MAX, Ordering::Relaxed);
        memory.peer.store(Some(origin.peer));
        memory.proxied.store(proxied);
    }

    /// A PROXY header has named the client.
    pub fn name_client(self, client: Peer) {
        if let Some(memory) = self.0 {
            memory.proxied.store(Some(client));
        }
    }

    /// Publishes the standing of the connection.
    #[inline]
    pub fn publish(self, standing: Standing) {
        let Some(memory) = self.0 else { return };
        memory.enter(match standing {
            Standing::Fresh => state::FRESH,
            Standing::Idle { served, since } => {
                memory.served.store(served, Ordering::Relaxed);
                memory.since.store(since.as_nanos(), Ordering::Relaxed);
                state::IDLE
            }
            Standing::Head => state::HEAD,
            Standing::Unanswered => state::UNANSWERED,
            Standing::Begun => state::BEGUN,
            Standing::Closing => state::CLOSING,
        });
    }

    /// A handler is about to be called, on bytes that may have been read long before. Its response
    /// begins after `start` bytes. `is_answerable`: all of these were written, see
    /// [`Standing::Unanswered`]. While nothing was written of an earlier response either, that one
    /// remains the next.
    #[inline]
    pub fn call(self, start: u64, is_answerable: bool) {
        let Some(memory) = self.0 else { return };
        if !is_answerable && memory.state() == state::UNANSWERED {
            return;
        }
        memory.response.store(start, Ordering::Relaxed);
        memory.rest.store(u64::MAX, Ordering::Relaxed);
        self.publish(if is_answerable { Standing::Unanswered } else { Standing::Begun });
    }

    /// The final response to the current request begins after so many bytes.
    #[inline]
    pub fn begin_response_at(self, start: u64) {
        if let Some(memory) = self.0 {
            memory.response.store(start, Ordering::Relaxed);
        }
    }

    /// The connection is about to be read from.
    #[inline]
    pub fn before_read(self) {
        if let Some(memory) = self.0
            && memory.state() <= state::LAST_AT_REST
        {
            memory.enter(state::READING);
        }
    }

    /// So many bytes were read. They may complete a request.
    #[inline]
    pub fn after_read(self, n: usize) {
        let Some(memory) = self.0 else { return };
        // In this order: while the count is that of the kernel, nothing counts as read.
        if let state::READING | state::HEAD = memory.state() {
            memory.enter(state::UNANSWERED);
        }
        memory.count(&memory.read, n);
    }

    /// So many bytes are about to be written, all that are queued. `then`: the standing once that
    /// is done, if the connection is between requests then or its next request can be answered.
    #[inline]
    pub fn before_write(self, n: usize, then: impl FnOnce() -> Option<Standing>) {
        let Some(memory) = self.0.filter(|memory| memory.state() != state::CLOSING) else { return };
        let written = memory.written.load(Ordering::Relaxed);
        let rest = match then() {
            Some(Standing::Idle { served, since }) => {
                memory.served.store(served, Ordering::Relaxed);
                memory.since.store(since.as_nanos(), Ordering::Relaxed);
                written + n as u64
            }
            Some(Standing::Unanswered) => (written + n as u64) | UNANSWERED_THEN,
            _ => u64::MAX,
        };
        memory.rest.store(rest, Ordering::Relaxed);
        if memory.state() == state::UNANSWERED {
            memory.response.store(written, Ordering::Relaxed);
        }
        memory.enter(state::BEGUN);
    }

    /// So many bytes were written, which leaves the connection in this standing. Bytes that were
    /// read and not looked at yet may be a request.
    #[inline]
    pub fn after_write(self, n: usize, standing: impl FnOnce() -> Standing) {
        let Some(memory) = self.0 else { return };
        memory.count(&memory.written, n);
        self.publish(match standing() {
            Standing::Head => Standing::Unanswered,
            other => other,
        });
    }

    /// The connection waits, or moves, in this standing.
    #[inline]
    pub fn rest(self, standing: impl FnOnce() -> Standing) {
        if self.0.is_some() {
            self.publish(standing());
        }
    }

    /// The descriptor is about to be closed, or sent to another process.
    pub fn clear(self) {
        if let Some(memory) = self.0 {
            memory.enter(state::NONE);
        }
    }
}

/// An entry that is cleared when this is dropped: before the descriptor is closed.
#[derive(Debug, Default)]
pub(crate) struct OwnEntry(pub(crate) Entry);

impl Drop for OwnEntry {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// What was found in an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Found {
    /// The standing. None: there is no connection.
    pub standing: Option<Standing>,
    /// It was about to be read from, and the standing is that after the read. If the kernel counts
    /// so many bytes [read](Self::read), the read was never made, and this is the standing.
    pub before: Option<Standing>,
    /// Bytes that were read before.
    pub read: u64,
    /// Bytes that were written before.
    pub written: u64,
    /// Where a response begins of which nothing was sent. If the kernel counts so many bytes
    /// written, a connection that has [begun](Standing::Begun) is in fact unanswered.
    pub response: u64,
    /// If the kernel counts so many bytes written, the standing of a connection that has begun is in
    /// fact [`after`](Self::after).
    pub rest: u64,
    /// See [`rest`](Self::rest): idle or unanswered.
    pub after: Standing,
    /// Whether these numbers count from the beginning of the connection, and can be compared with
    /// those of the kernel.
    pub is_counted: bool,
}

impl Found {
    /// Whether [`resolve`](Self::resolve) may depend on the counts of the kernel.
    pub fn needs_counts(&self) -> bool {
        self.is_counted && (self.before.is_some() || self.standing == Some(Standing::Begun))
    }

    /// What can be done for the connection, with the counts of the kernel if they are known.
    pub fn resolve(&self, counts: Option<ByteCounts>) -> Option<Standing> {
        let standing = self.standing?;
        let Some(ByteCounts { read, written }) = counts.filter(|_| self.is_counted) else {
            return Some(standing);
        };
        Some(match self.before {
            Some(before) if read == self.read => before,
            None if standing == Standing::Begun && written == self.rest => self.after,
            None if standing == Standing::Begun && written == self.response => Standing::Unanswered,
            _ => standing,
        })
    }
}

impl EntryMemory {
    /// Whether there is a connection.
    pub fn is_taken(&self) -> bool {
        self.state.load(Ordering::Acquire) != state::NONE
    }

    /// What was published of the connection.
    pub fn found(&self) -> Found {
        let served = self.served.load(Ordering::Relaxed);
        let since = Time::from_nanos(self.since.load(Ordering::Relaxed));
        let idle = Standing::Idle { served, since };
        let at_rest = if served == 0 { Standing::Fresh } else { idle };
        let (standing, before) = match self.state.load(Ordering::Acquire) {
            state::NONE => (None, None),
            state::FRESH => (Some(Standing::Fresh), None),
            state::IDLE => (Some(idle), None),
            state::HEAD => (Some(Standing::Head), None),
            state::UNANSWERED => (Some(Standing::Unanswered), None),
            state::CLOSING => (Some(Standing::Closing), None),
            state::READING => (Some(Standing::Unanswered), Some(at_rest)),
            _ => (Some(Standing::Begun), None),
        };
        let (read, written) = (self.read.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed));
        let (rest, after) = match self.rest.load(Ordering::Relaxed) {
            u64::MAX => (u64::MAX, idle),
            rest if rest & UNANSWERED_THEN == 0 => (rest, idle),
            rest => (rest & !UNANSWERED_THEN, Standing::Unanswered),
        };
        Found {
            standing,
            before,
            read: read & !COUNTS_UNKNOWN,
            written: written & !COUNTS_UNKNOWN,
            response: self.response.load(Ordering::Relaxed),
            rest,
            after,
            is_counted: read & COUNTS_UNKNOWN == 0,
        }
    }

    /// The other end of the socket.
    pub fn peer(&self) -> Peer {
        self.peer.load().unwrap_or(Peer::Unix)
    }

    /// When the connection was accepted.
    pub fn accepted(&self) -> Time {
        Time::from_nanos(self.accepted.load(Ordering::Relaxed))
    }

    /// The record with which another worker resumes the connection, handed over at `now`. It has to
    /// be `Fresh` or `Idle`.
    pub fn record(&self, now: Time) -> ConnectionRecord {
        let served = self.served.load(Ordering::Relaxed);
        let origin = Origin::new(
            self.listener.load(Ordering::Relaxed) as u16,
            self.peer(),
            self.draw.load(Ordering::Relaxed),
        );
        ConnectionRecord {
            served,
            handed: Some(now),
            idle_since: (served > 0).then(|| Time::from_nanos(self.since.load(Ordering::Relaxed))),
            proxied: self.proxied.load(),
            unread: Bytes::new(),
            ..ConnectionRecord::fresh(origin, self.accepted())
        }
    }

    /// What can be done for the connection was found out, or has changed. Called by the keeper.
    pub fn publish(&'static self, standing: Standing) {
        Entry::new(self).publish(standing);
    }

    /// The sending side of the connection was ended, and it lingers until this time.
    pub fn linger_until(&self, until: Time) {
        self.since.store(until.as_nanos(), Ordering::Relaxed);
        self.enter(state::CLOSING);
    }

    /// Until when it lingers.
    pub fn lingers_until(&self) -> Time {
        Time::from_nanos(self.since.load(Ordering::Relaxed))
    }

    /// The keeper has nothing more to do for the connection.
    pub fn free(&self) {
        self.enter(state::NONE);
    }

    #[inline]
    fn state(&self) -> u32 {
        self.state.load(Ordering::Relaxed)
    }

    #[inline]
    fn enter(&self, state: u32) {
        self.observe();
        self.state.store(state, Ordering::Release);
        self.observe();
    }

    /// Adds to a count, which this thread alone writes.
    #[inline]
    fn count(&self, counter: &AtomicU64, n: usize) {
        self.observe();
        counter.store(counter.load(Ordering::Relaxed) + n as u64, Ordering::Relaxed);
        self.observe();
    }

    /// A moment at which the worker may end. Tests look at the entry then.
    #[inline]
    fn observe(&self) {
        #[cfg(test)]
        tests::OBSERVER.with_borrow(|observe| observe.iter().for_each(|observe| observe(self)));
    }
}

/// An address: its kind and port, its 16 bytes, flow label and scope. Zeros: none.
#[derive(Debug, Default)]
#[repr(C)]
struct PeerMemory([AtomicU64; 4]);

const UNIX: u64 = 1;
const IPV4: u64 = 4;
const IPV6: u64 = 6;

impl PeerMemory {
    fn store(&self, peer: Option<Peer>) {
        let words = match peer {
            None => [0; 4],
            Some(Peer::Unix) => [UNIX, 0, 0, 0],
            Some(Peer::Inet(SocketAddr::V4(addr))) => {
                [IPV4 | u64::from(addr.port()) << 8, u32::from(*addr.ip()).into(), 0, 0]
            }
            Some(Peer::Inet(SocketAddr::V6(addr))) => {
                let ip = u128::from(*addr.ip());
                let flow_and_scope = u64::from(addr.flowinfo()) << 32 | u64::from(addr.scope_id());
                [IPV6 | u64::from(addr.port()) << 8, (ip >> 64) as u64, ip as u64, flow_and_scope]
            }
        };
        self.0.iter().zip(words).for_each(|(place, word)| place.store(word, Ordering::Relaxed));
    }

    fn load(&self) -> Option<Peer> {
        let [kind, high, low, rest] = [0, 1, 2, 3].map(|i: usize| self.0[i].load(Ordering::Relaxed));
        let port = (kind >> 8) as u16;
        match kind & 0xff {
            UNIX => Some(Peer::Unix),
            IPV4 => Some(Peer::Inet(SocketAddrV4::new((high as u32).into(), port).into())),
            IPV6 => {
                let ip = Ipv6Addr::from(u128::from(high) << 64 | u128::from(low));
                Some(Peer::Inet(SocketAddrV6::new(ip, port, (rest >> 32) as u32, rest as u32).into()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
