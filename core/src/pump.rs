//! Moves bytes between a machine and a transport: the drive loop, which exists once.
//!
//! Readiness is remembered as two bits. A wait sets them. A call that would block, or that moved
//! less than possible, clears them. I/O is tried only while a bit is set, so edge- and
//! level-triggered waits behave alike, and a request costs one read and one write. The exception is
//! a deadline that has passed: before it ends anything, both directions are tried once more
//! ([`Step::Look`]), because a wait may not have reported yet what has arrived.

use std::{io, mem};

use crate::conn::Connection;
use crate::machine::{
    CloseReason, Cx, Deadline, Interest, IoSlices, Machine, Move, Step, Transport, Wants, Wire,
};
use crate::rescue::{Entry, OwnEntry};
use crate::time::Time;

/// A transport and its known readiness.
#[derive(Debug)]
pub struct Io<T> {
    /// Dropped before the transport: an entry is cleared before its descriptor is closed.
    entry: OwnEntry,
    transport: T,
    readable: bool,
    writable: bool,
    /// The end of the peer's side was reported, so an end that no wait reports again may follow a
    /// short read.
    read_closed: bool,
    /// No bytes will move again: the peer is gone in both directions.
    broken: bool,
    /// The directions that the machine waited for when it was last driven.
    awaited: Interest,
}

impl<T: Transport> Io<T> {
    /// A transport of unknown readiness: both directions are tried. Bytes are read before the
    /// machine's first step, so that a drain does not treat a connection as silent whose request
    /// has already arrived.
    pub fn new(transport: T) -> Self {
        Self {
            entry: OwnEntry::default(),
            transport,
            readable: true,
            writable: true,
            read_closed: false,
            broken: false,
            awaited: Interest { read: true, write: false },
        }
    }

    /// The same, with an entry in which the standing of the connection is published.
    #[must_use]
    pub fn published(self, entry: Entry) -> Self {
        Self { entry: OwnEntry(entry), ..self }
    }

    /// Where the standing of the connection is published.
    pub fn entry(&self) -> Entry {
        self.entry.0
    }

    /// Adds the report of a wait.
    pub fn ready(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable;
        self.writable |= readiness.writable;
        self.read_closed |= readiness.read_closed;
        self.broken |= readiness.broken;
    }

    /// Whether the end of the peer's side is known.
    pub fn is_read_closed(&self) -> bool {
        self.read_closed
    }

    /// The transport.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// Returns the transport.
    pub fn into_transport(self) -> T {
        self.transport
    }

    /// The same with another view of the transport.
    pub fn map<U>(self, view: impl FnOnce(T) -> U) -> Io<U> {
        let Self { entry, transport, readable, writable, read_closed, broken, awaited } = self;
        Io { entry, transport: view(transport), readable, writable, read_closed, broken, awaited }
    }

    /// Ends the sending side, in whatever state the machine is.
    ///
    /// # Errors
    ///
    /// As [`Transport::close_write`].
    pub fn close_write(&mut self) -> io::Result<()> {
        self.transport.close_write()
    }

    /// Moves bytes in the directions of `interest`, regardless of reported readiness, until a call
    /// moves less than it could.
    fn look(&mut self, wire: &mut impl Wire, interest: Interest, now: Time) -> io::Result<bool> {
        self.transport.look();
        self.readable |= interest.read;
        self.writable |= interest.write;
        let mut moved = false;
        for _ in 0..TURNS {
            if !pump(wire, self, interest, now)? {
                break;
            }
            moved = true;
        }
        Ok(moved)
    }

    fn write(&mut self, wire: &mut impl Wire, now: Time) -> io::Result<bool> {
        let mut slices = IoSlices::new();
        wire.transmit(&mut slices);
        if slices.bytes() == 0 {
            return Ok(false);
        }
        let offered = slices.bytes();
        self.entry.0.before_write(offered, || wire.standing_once_sent(offered));
        let result = retry(|| self.transport.try_write(slices.as_slices()));
        self.writable = matches!(result, Ok(n) if n == offered);
        let n = would_block_is_none(result)?;
        n.inspect(|n| wire.handle_written(*n, now));
        self.entry.0.after_write(n.unwrap_or_default(), || wire.standing());
        Ok(n.is_some())
    }

    fn read(&mut self, wire: &mut impl Wire, now: Time) -> io::Result<bool> {
        let buffer = wire.read_buf();
        let offered = buffer.len();
        if offered == 0 {
            return Ok(false);
        }
        self.entry.0.before_read();
        let result = retry(|| self.transport.try_read(buffer));
        self.readable = match result {
            Ok(n) => n == offered || self.read_closed,
            Err(_) => false,
        };
        match would_block_is_none(result)? {
            Some(0) => wire.handle_eof(now),
            Some(n) => {
                self.entry.0.after_read(n);
                wire.handle_read(n, now);
            }
            None => return Ok(false),
        }
        Ok(true)
    }
}

/// The report of a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "what epoll_wait(2) can say of a stream")]
pub struct Readiness {
    /// There are bytes, an end or an error to read.
    pub readable: bool,
    /// There is room to write, or an error.
    pub writable: bool,
    /// The peer has ended its side: its running handler is told.
    pub read_closed: bool,
    /// The peer is gone in both directions, or the transport has failed: the running handler is
    /// cancelled.
    pub broken: bool,
}

impl Readiness {
    /// Adds the report of another wait.
    pub fn merge(&mut self, other: Self) {
        self.readable |= other.readable;
        self.writable |= other.writable;
        self.read_closed |= other.read_closed;
        self.broken |= other.broken;
    }
}

/// Moves bytes in the directions of `interest`, once each, and returns whether any were moved.
///
/// # Errors
///
/// The transport failed, and the connection is over.
pub fn pump<T: Transport>(
    wire: &mut impl Wire,
    io: &mut Io<T>,
    interest: Interest,
    now: Time,
) -> io::Result<bool> {
    let mut moved = false;
    if interest.write && io.writable {
        moved |= io.write(wire, now)?;
    }
    if interest.read && io.readable {
        moved |= io.read(wire, now)?;
    }
    Ok(moved)
}

/// Advances a connection for a blocking handler that waits for its bytes. Returns what to wait for
/// if nothing could be moved. As in [`drive`], a deadline that has passed counts only after a last
/// look at the transport (D21).
///
/// # Errors
///
/// The connection has ended.
pub fn advance<T: Transport>(
    connection: &mut Connection,
    io: &mut Io<T>,
    cx: &Cx<'_>,
) -> io::Result<Option<Interest>> {
    let interest = connection.interest();
    let mut moved = pump(connection, io, interest, cx.now)
        .inspect_err(|_| connection.end(CloseReason::TransportFailed))?;
    let deadline = connection.handle_time(cx);
    if let Step::Look { interest } = connection.wait(deadline, cx) {
        moved |= io
            .look(connection, interest, cx.now)
            .inspect_err(|_| connection.end(CloseReason::TransportFailed))?;
        connection.handle_time(cx);
    }
    if connection.is_ending() {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    Ok(Some(connection.interest()).filter(|interest| !moved && !interest.is_none()))
}

/// Sends the part of a response that can be sent at once, when a blocking handler has completed it
/// or when it has waited. The rest, and errors, are left to [`advance`] and [`drive`]: the handler
/// does not wait for the result.
pub fn push<T: Transport>(connection: &mut Connection, io: &mut Io<T>, now: Time) {
    if !connection.is_to_push(now) {
        return;
    }
    let only_write = Interest { read: false, write: true };
    io.writable |= pump(connection, io, only_write, now).is_err();
}

/// The next action of a backend for a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "every backend handles every outcome")]
pub enum Next {
    /// Wait for the descriptor, and for the deadline.
    Wait {
        /// The directions of the descriptor.
        interest: Interest,
        /// The deadline.
        deadline: Option<Deadline>,
    },
    /// Drive it again, after other connections had a turn.
    Again,
    /// Move it there.
    Move(Move),
    /// Take the calls of its handlers, which run elsewhere, then drive it again.
    Spawn,
    /// Close the transport.
    Close(CloseReason),
}

/// Iterations of the drive loop before other connections get a turn.
const TURNS: u32 = 16;

/// Drives a machine as far as possible without waiting.
///
/// Bytes that it waited for are moved before its first step. So a machine that waited for a request
/// needs one step for it, and bytes that arrived before a deadline are in time.
#[inline]
pub fn drive<T: Transport>(machine: &mut impl Machine, io: &mut Io<T>, cx: &Cx<'_>) -> Next {
    let entry = io.entry();
    let cx = &cx.published(entry);
    if io.read_closed {
        machine.handle_peer_end();
    }
    let awaited = mem::replace(&mut io.awaited, Interest::NONE);
    let mut moved = pump(machine, io, awaited, cx.now);
    for _ in 0..TURNS {
        if moved.is_err() {
            // A failure counts as an end of the input, and the machine gives the reason.
            machine.handle_eof(cx.now);
            return match machine.step(cx) {
                Step::Close(reason) => Next::Close(reason),
                _ => Next::Close(CloseReason::TransportFailed),
            };
        }
        moved = match machine.step(cx) {
            Step::Wait { interest, deadline } => match pump(machine, io, interest, cx.now) {
                Ok(false) if io.broken => return Next::Close(CloseReason::TransportFailed),
                Ok(false) => match io.transport.wants(interest) {
                    Wants::Io(interest) => {
                        machine.rest();
                        entry.rest(|| machine.standing());
                        io.awaited = interest;
                        return Next::Wait { interest, deadline };
                    }
                    Wants::Ready => {
                        io.readable = true;
                        Ok(true)
                    }
                },
                moved => moved,
            },
            Step::Look { interest } => io.look(machine, interest, cx.now),
            Step::Yield => match pump(machine, io, Interest { read: false, write: true }, cx.now) {
                Ok(_) => return Next::Again,
                Err(error) => Err(error),
            },
            Step::HalfClose => io.transport.close_write().map(|()| true),
            Step::Move(to) => {
                // Responses that are queued leave before a handler runs, which may take long.
                match pump(machine, io, Interest { read: false, write: true }, cx.now) {
                    Err(error) => Err(error),
                    Ok(_) => {
                        if to == Move::Lease {
                            // Bytes that arrive while a handler runs, and bytes that it queues,
                            // move before the next step, as after a wait.
                            io.awaited = Interest { read: true, write: true };
                        }
                        entry.rest(|| machine.standing());
                        return Next::Move(to);
                    }
                }
            }
            Step::Spawn => {
                io.awaited = Interest { read: true, write: true };
                return Next::Spawn;
            }
            Step::Close(reason) => return Next::Close(reason),
        };
    }
    Next::Again
}

fn retry<R>(mut call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn would_block_is_none(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(n) => Ok(Some(n)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
