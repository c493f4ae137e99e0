//! The two directions of one connection, as the kernels of client and server hold them.
//!
//! A write may move less than it could, or nothing; readiness is then reported a little later.
//! Everything else is as with a socket: data in order, an end behind it, a reset ahead of
//! everything.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;

use remuda_core::machine::{CloseReason, Interest, Transport, Wants};
use remuda_core::pump::Readiness;
use remuda_core::rescue::{ByteCounts, Entry};
use remuda_core::time::Time;

use super::monitor::Monitor;

#[derive(Debug)]
pub(super) struct Wire {
    /// Bytes that have arrived at the server and were not read.
    pub(super) arrived: VecDeque<u8>,
    /// The end of the client's sending side has arrived.
    pub(super) ended: bool,
    /// The server has read that end.
    pub(super) end_read: bool,
    /// The connection was reset by the client.
    pub(super) reset: bool,
    /// Bytes that the server has written and the client has not read.
    pub(super) sent: VecDeque<u8>,
    /// How many bytes the server has read and written in all.
    pub(super) counts: ByteCounts,
    /// The capacity of `sent`.
    pub(super) window: usize,
    /// When the server has ended its sending side.
    pub(super) half_closed: Option<Time>,
    /// When the server has closed its socket.
    pub(super) closed: Option<Time>,
    /// It was closed with unread bytes, or bytes arrived later: the client sees a reset.
    pub(super) refused: bool,
    /// It moves to another worker: this process closes its descriptor, and the connection stays
    /// open.
    pub(super) moves: bool,
    /// Why the server closed it; none while it is open, or if its process died.
    pub(super) reason: Option<CloseReason>,
    /// Whether the drain's deadline had passed then.
    pub(super) was_over: bool,
    /// Readiness that is still to be reported, because the last call moved less than it could.
    pub(super) owed: Readiness,
    /// The number of writes, of 256, that move less than they could, and of sent pieces that arrive
    /// in parts.
    pub(super) partial_rate: u8,
    pub(super) rng: fastrand::Rng,
}

impl Wire {
    pub(super) fn new(window: usize, partial_rate: u8, rng: fastrand::Rng) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            arrived: VecDeque::new(),
            ended: false,
            end_read: false,
            reset: false,
            sent: VecDeque::new(),
            counts: ByteCounts::default(),
            window,
            half_closed: None,
            closed: None,
            refused: false,
            moves: false,
            reason: None,
            was_over: false,
            owed: Readiness::default(),
            partial_rate,
            rng,
        }))
    }

    /// When the server has ended its sending side or closed, if it has.
    pub(super) fn over_since(&self) -> Option<Time> {
        match (self.half_closed, self.closed) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The readiness that a level-triggered wait reports.
    pub(super) fn level(&self) -> Readiness {
        Readiness {
            readable: self.reset || self.ended || !self.arrived.is_empty(),
            writable: self.reset || self.sent.len() < self.window,
            read_closed: self.ended || self.reset,
            broken: self.reset,
        }
    }

    /// The number of bytes, of `n`, that a call moves.
    fn some_of(&mut self, n: usize) -> usize {
        if n == 0 || self.rng.u8(..) >= self.partial_rate {
            return n;
        }
        self.rng.usize(0..n)
    }
}

/// The server's end.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) conn: u32,
    pub(super) wire: Rc<RefCell<Wire>>,
    pub(super) monitor: Arc<Monitor>,
    /// What the worker publishes for its keeper.
    pub(super) entry: Entry,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl Transport for Socket {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.wire.borrow_mut();
        if wire.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let n = buffer.len().min(wire.arrived.len());
        for (place, byte) in buffer.iter_mut().zip(wire.arrived.drain(..n)) {
            *place = byte;
        }
        wire.counts.read += n as u64;
        self.monitor.has_read(self.conn, n);
        if n > 0 {
            return Ok(n);
        }
        if wire.ended {
            wire.end_read = true;
            return Ok(0);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut wire = self.wire.borrow_mut();
        if wire.reset {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.monitor.hold("d7_closing", wire.half_closed.is_none(), || {
            format!("connection {}: a write after the end of the sending side", self.conn)
        });
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let fits = offered.min(wire.window - wire.sent.len().min(wire.window));
        let mut n = wire.some_of(fits);
        if n < fits {
            wire.owed.writable = true;
        }
        self.monitor.touch(self.conn);
        let moved = n;
        for slice in slices {
            let part = n.min(slice.len());
            wire.sent.extend(&slice[..part]);
            n -= part;
        }
        wire.counts.written += moved as u64;
        if moved == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(moved) }
    }

    fn close_write(&mut self) -> io::Result<()> {
        let mut wire = self.wire.borrow_mut();
        let now = self.monitor.now();
        let again = wire.half_closed.replace(now).is_some();
        self.monitor.touch(self.conn);
        self.monitor.hold("d7_closing", !again, || format!("connection {}: half-closed twice", self.conn));
        Ok(())
    }

    fn wants(&self, interest: Interest) -> Wants {
        Wants::Io(interest)
    }
}

/// As close(2): unread bytes cause a reset.
impl Drop for Socket {
    fn drop(&mut self) {
        let mut wire = self.wire.borrow_mut();
        if std::mem::take(&mut wire.moves) {
            return;
        }
        wire.closed = Some(self.monitor.now());
        wire.refused |= !wire.arrived.is_empty();
        self.monitor.touch(self.conn);
    }
}
