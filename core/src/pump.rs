//! Moves bytes between a machine and a transport: the drive loop, which exists once.
//!
//! Readiness is remembered as two bits. A wait sets them; a call that would block, or that moved less than it was
//! offered, clears them. I/O is tried only while a bit is set, so that edge- and level-triggered waits behave
//! alike and a request costs one read and one write.

use std::{io, mem};

use crate::conn::Connection;
use crate::machine::{CloseReason, Cx, Deadline, Interest, IoSlices, Machine, Step, Transport, Wants, Wire};
use crate::time::Time;

/// A transport and what is known of its readiness.
#[derive(Debug)]
pub struct Io<T> {
    transport: T,
    readable: bool,
    writable: bool,
    /// The peer's end has been reported, so a short read may be followed by an end that no wait reports again.
    read_closed: bool,
    /// Nothing will ever move again: the peer is gone, in both directions.
    broken: bool,
    /// What the machine waited for when it was last driven.
    awaited: Interest,
}

impl<T: Transport> Io<T> {
    /// A transport about which nothing is known: both directions are tried. What has arrived is read before the machine's
    /// first step, so that a drain does not take a connection for silent whose request is here already.
    pub fn new(transport: T) -> Self {
        Self {
            transport,
            readable: true,
            writable: true,
            read_closed: false,
            broken: false,
            awaited: Interest { read: true, write: false },
        }
    }

    /// A wait has reported this.
    pub fn ready(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable;
        self.writable |= readiness.writable;
        self.read_closed |= readiness.read_closed;
        self.broken |= readiness.broken;
    }

    /// The transport.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// Gives the transport back.
    pub fn into_transport(self) -> T {
        self.transport
    }

    /// The same with another view of the transport.
    pub fn map<U>(self, view: impl FnOnce(T) -> U) -> Io<U> {
        let Self { transport, readable, writable, read_closed, broken, awaited } = self;
        Io { transport: view(transport), readable, writable, read_closed, broken, awaited }
    }

    /// Ends the sending side, in whatever state the machine is.
    ///
    /// # Errors
    ///
    /// As [`Transport::close_write`].
    pub fn close_write(&mut self) -> io::Result<()> {
        self.transport.close_write()
    }

    fn write(&mut self, wire: &mut impl Wire, now: Time) -> io::Result<bool> {
        let mut slices = IoSlices::new();
        wire.transmit(&mut slices);
        if slices.bytes() == 0 {
            return Ok(false);
        }
        let (offered, result) = (slices.bytes(), retry(|| self.transport.try_write(slices.as_slices())));
        self.writable = matches!(result, Ok(n) if n == offered);
        let n = would_block_is_none(result)?;
        n.inspect(|n| wire.handle_written(*n, now));
        Ok(n.is_some())
    }

    fn read(&mut self, wire: &mut impl Wire, now: Time) -> io::Result<bool> {
        let buffer = wire.read_buf();
        let offered = buffer.len();
        if offered == 0 {
            return Ok(false);
        }
        let result = retry(|| self.transport.try_read(buffer));
        self.readable = match result {
            Ok(n) => n == offered || self.read_closed,
            Err(_) => false,
        };
        match would_block_is_none(result)? {
            Some(0) => wire.handle_eof(now),
            Some(n) => wire.handle_read(n, now),
            None => return Ok(false),
        }
        Ok(true)
    }
}

/// What a wait may report of a transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "what epoll_wait(2) can say of a stream")]
pub struct Readiness {
    /// There is something to read, an end or an error included.
    pub readable: bool,
    /// There is room to write, or an error.
    pub writable: bool,
    /// The peer has ended its side.
    pub read_closed: bool,
    /// The peer is gone in both directions, or the transport has failed: a handler that is still at work for it is
    /// told by being cancelled.
    pub broken: bool,
}

impl Readiness {
    /// What another wait reported as well.
    pub fn merge(&mut self, other: Self) {
        self.readable |= other.readable;
        self.writable |= other.writable;
        self.read_closed |= other.read_closed;
        self.broken |= other.broken;
    }
}

/// Moves what can be moved in the directions of `interest`, once each, and says whether anything was.
///
/// # Errors
///
/// The transport failed; the connection is over.
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

/// Goes on with a connection for whose bytes a blocking handler waits, and says what has to be waited for if nothing
/// could be moved. As in [`drive`], what has arrived by a deadline is in time.
///
/// # Errors
///
/// The connection has ended.
pub fn advance<T: Transport>(
    connection: &mut Connection,
    io: &mut Io<T>,
    cx: &Cx<'_>,
) -> io::Result<Option<Interest>> {
    let moved = pump(connection, io, connection.interest(), cx.now)
        .inspect_err(|_| connection.end(CloseReason::TransportFailed))?;
    connection.handle_time(cx);
    if connection.is_ending() {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    Ok(Some(connection.interest()).filter(|interest| !moved && !interest.is_none()))
}

/// What a backend has to do for a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "every backend handles every outcome")]
pub enum Outcome {
    /// Wait for the descriptor, and for the deadline.
    Wait {
        /// Which directions of the descriptor.
        interest: Interest,
        /// Until when.
        deadline: Option<Deadline>,
    },
    /// Go on, after others had their turn.
    Again,
    /// Run its blocking handler where that may block.
    Run,
    /// Move it to another worker.
    HandOff,
    /// Close the transport.
    Close(CloseReason),
}

/// Turns of the drive loop before other connections get theirs.
const TURNS: u32 = 16;

/// Drives a machine as far as it goes without waiting.
///
/// What it waited for is moved before its first step: so one that was waiting for a request takes one step for it, and
/// what has arrived by a deadline is in time.
pub fn drive<T: Transport>(machine: &mut impl Machine, io: &mut Io<T>, cx: &Cx<'_>) -> Outcome {
    let awaited = mem::replace(&mut io.awaited, Interest::NONE);
    let mut moved = pump(machine, io, awaited, cx.now);
    for _ in 0..TURNS {
        if moved.is_err() {
            // Where an end of input is an end, so is a failure, and the machine says which.
            machine.handle_eof(cx.now);
            return match machine.step(cx) {
                Step::Close(reason) => Outcome::Close(reason),
                _ => Outcome::Close(CloseReason::TransportFailed),
            };
        }
        moved = match machine.step(cx) {
            Step::Wait { interest, deadline } => match pump(machine, io, interest, cx.now) {
                Ok(false) if io.broken => return Outcome::Close(CloseReason::TransportFailed),
                Ok(false) => match io.transport.wants(interest) {
                    Wants::Io(interest) => {
                        machine.rest();
                        io.awaited = interest;
                        return Outcome::Wait { interest, deadline };
                    }
                    Wants::Ready => {
                        io.readable = true;
                        Ok(true)
                    }
                },
                moved => moved,
            },
            Step::Yield => match pump(machine, io, Interest { read: false, write: true }, cx.now) {
                Ok(_) => return Outcome::Again,
                Err(error) => Err(error),
            },
            Step::HalfClose => io.transport.close_write().map(|()| true),
            Step::Run => {
                // What arrives while a handler runs, and what it leaves to send, moves before the next step, as after a wait.
                io.awaited = Interest { read: true, write: true };
                return Outcome::Run;
            }
            Step::HandOff => return Outcome::HandOff,
            Step::Close(reason) => return Outcome::Close(reason),
        };
    }
    Outcome::Again
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
