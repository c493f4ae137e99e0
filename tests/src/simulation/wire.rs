//! One connection's two directions as the kernels of client and server hold them.
//!
//! A write may move less than it could, or nothing; readiness is then reported a little later. Everything else is as with
//! a socket: data in order, an end behind it, a reset ahead of everything.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;

use remuda_core::machine::{CloseReason, Interest, Transport, Wants};
use remuda_core::pump::Readiness;
use remuda_core::time::Time;

use super::ground::Ground;

#[derive(Debug)]
pub(super) struct Wire {
    /// Arrived at the server and not read.
    pub(super) arrived: VecDeque<u8>,
    /// The client has ended its side, and that has arrived.
    pub(super) ended: bool,
    /// The server has read that end.
    pub(super) end_read: bool,
    /// The connection was reset by the client.
    pub(super) reset: bool,
    /// Written by the server and not taken by the client.
    pub(super) sent: VecDeque<u8>,
    /// How much may be in `sent`.
    pub(super) window: usize,
    /// The server has ended its side.
    pub(super) half_closed: Option<Time>,
    /// The server has closed its socket.
    pub(super) closed: Option<Time>,
    /// It did so with bytes unread, or got some later: the client sees a reset.
    pub(super) refused: bool,
    /// Why the server closed it; none while it is open, or if its process died.
    pub(super) reason: Option<CloseReason>,
    /// Whether the drain's deadline had passed then.
    pub(super) was_over: bool,
    /// The last call moved less than it could, so readiness is still to be reported.
    pub(super) owed: Readiness,
    /// Of 256 writes, so many move less than they could; as many pieces that are sent arrive in parts.
    pub(super) mood: u8,
    pub(super) rng: fastrand::Rng,
}

impl Wire {
    pub(super) fn new(window: usize, mood: u8, rng: fastrand::Rng) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            arrived: VecDeque::new(),
            ended: false,
            end_read: false,
            reset: false,
            sent: VecDeque::new(),
            window,
            half_closed: None,
            closed: None,
            refused: false,
            reason: None,
            was_over: false,
            owed: Readiness::default(),
            mood,
            rng,
        }))
    }

    /// When the server ended its side, if it has.
    pub(super) fn over_since(&self) -> Option<Time> {
        match (self.half_closed, self.closed) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// What a level-triggered wait would report.
    pub(super) fn level(&self) -> Readiness {
        Readiness {
            readable: self.reset || self.ended || !self.arrived.is_empty(),
            writable: self.reset || self.sent.len() < self.window,
            read_closed: self.ended || self.reset,
            broken: self.reset,
        }
    }

    /// How much of `n` bytes a call moves.
    fn some_of(&mut self, n: usize) -> usize {
        if n == 0 || self.rng.u8(..) >= self.mood {
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
    pub(super) ground: Arc<Ground>,
}

impl std::fmt::Debug for Ground {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ground").field("now", &self.now()).finish_non_exhaustive()
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
        self.ground.has_read(self.conn, n);
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
        self.ground.hold("d7_closing", wire.half_closed.is_none(), || {
            format!("connection {}: a write after the end of the sending side", self.conn)
        });
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let fits = offered.min(wire.window - wire.sent.len().min(wire.window));
        let mut n = wire.some_of(fits);
        if n < fits {
            wire.owed.writable = true;
        }
        self.ground.touch(self.conn);
        let moved = n;
        for slice in slices {
            let part = n.min(slice.len());
            wire.sent.extend(&slice[..part]);
            n -= part;
        }
        if moved == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(moved) }
    }

    fn close_write(&mut self) -> io::Result<()> {
        let mut wire = self.wire.borrow_mut();
        let now = self.ground.now();
        let again = wire.half_closed.replace(now).is_some();
        self.ground.touch(self.conn);
        self.ground.hold("d7_closing", !again, || format!("connection {}: half-closed twice", self.conn));
        Ok(())
    }

    fn wants(&self, interest: Interest) -> Wants {
        Wants::Io(interest)
    }
}

/// As close(2): what was not read makes it a reset.
impl Drop for Socket {
    fn drop(&mut self) {
        let mut wire = self.wire.borrow_mut();
        wire.closed = Some(self.ground.now());
        wire.refused |= !wire.arrived.is_empty();
        self.ground.touch(self.conn);
    }
}
