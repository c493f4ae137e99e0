//! The interface between protocol machines and the code that moves their bytes.
//!
//! A [`Machine`] receives bytes and time and returns what it waits for. A [`Transport`] carries the
//! bytes. [`pump`](crate::pump) joins the two, and a backend adds only the waiting. Nothing here
//! performs I/O by itself.

use std::fmt;
use std::io::{self, IoSlice};
use std::task::Waker;

use crate::config::Limits;
use crate::http1::HttpDate;
use crate::rescue::{Entry, Standing};
use crate::shutdown::{Drain, ShutdownPolicy};
use crate::time::Time;

/// The context of a step.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Cx<'a> {
    /// The time of this step.
    pub now: Time,
    /// The wall clock's second of this step, as the `Date` field spells it (RFC 9110 §6.6.1).
    pub date: &'a HttpDate,
    /// Woken when an application's future can continue.
    pub waker: &'a Waker,
    /// The limits of the connection.
    pub limits: &'a Limits,
    /// The drain that the worker is in, if any.
    pub drain: Option<&'a Drain>,
    /// The policy that decides about connections during the drain.
    pub policy: &'a dyn ShutdownPolicy,
    /// Where the connection's standing is published, for other processes (D20).
    pub entry: Entry,
    /// Reads the time, if time passes within a step.
    clock: Option<fn() -> Time>,
}

impl<'a> Cx<'a> {
    /// A step at `now` outside any drain.
    pub fn new(
        now: Time,
        date: &'a HttpDate,
        waker: &'a Waker,
        limits: &'a Limits,
        policy: &'a dyn ShutdownPolicy,
    ) -> Self {
        Self { now, date, waker, limits, drain: None, policy, entry: Entry::NONE, clock: None }
    }

    /// The same step for a machine whose futures wake `waker`.
    #[must_use]
    pub fn waking(self, waker: &'a Waker) -> Self {
        Self { waker, ..self }
    }

    /// The same step of the connection in `entry`.
    #[must_use]
    pub fn published(self, entry: Entry) -> Self {
        Self { entry, ..self }
    }

    /// The same step within a drain.
    #[must_use]
    pub fn draining(self, drain: Option<&'a Drain>) -> Self {
        Self { drain, ..self }
    }

    /// The same step with a clock, for durations that have to be more exact than [`now`](Self::now)
    /// allows: how long a handler has run within the step. Default: none, so the time stands still.
    #[must_use]
    pub fn reading(self, clock: fn() -> Time) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// The present time, which costs a reading of the clock. Never before [`now`](Self::now).
    pub(crate) fn present(&self) -> Time {
        self.clock.map_or(self.now, |clock| clock().max(self.now))
    }
}

/// The byte side of a machine, which pump calls to move bytes.
///
/// ```
/// use remuda_core::machine::{IoSlices, Wire};
/// use remuda_core::time::Time;
///
/// /// Sends back whatever arrives.
/// struct Echo {
///     buffer: [u8; 1024],
///     filled: usize,
/// }
///
/// impl Wire for Echo {
///     fn read_buf(&mut self) -> &mut [u8] {
///         &mut self.buffer[self.filled..]
///     }
///
///     fn handle_read(&mut self, n: usize, _: Time) {
///         self.filled += n;
///     }
///
///     fn handle_eof(&mut self, _: Time) {}
///
///     fn transmit<'a>(&'a self, out: &mut IoSlices<'a>) {
///         out.push(&self.buffer[..self.filled]);
///     }
///
///     fn handle_written(&mut self, n: usize, _: Time) {
///         self.buffer.copy_within(n..self.filled, 0);
///         self.filled -= n;
///     }
/// }
///
/// let mut echo = Echo { buffer: [0; 1024], filled: 0 };
/// echo.read_buf()[..5].copy_from_slice(b"hello");
/// echo.handle_read(5, Time::ZERO);
/// let mut out = IoSlices::new();
/// echo.transmit(&mut out);
/// assert_eq!(&*out.as_slices()[0], b"hello");
/// ```
pub trait Wire {
    /// Space for incoming bytes. Empty when the machine wants none. Otherwise initialised, with any
    /// content.
    fn read_buf(&mut self) -> &mut [u8];

    /// The first `n` bytes of [`read_buf`](Self::read_buf) have been filled.
    fn handle_read(&mut self, n: usize, now: Time);

    /// The peer has ended its side.
    fn handle_eof(&mut self, now: Time);

    /// Adds the queued bytes, in order, to `out`.
    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>);

    /// The first `n` bytes of [`transmit`](Self::transmit) have been sent.
    fn handle_written(&mut self, n: usize, now: Time);

    /// What can be done for the connection by another process, if this one ends now (D20). Default:
    /// it is cut.
    fn standing(&self) -> Standing {
        Standing::Begun
    }

    /// The same once the next `n` bytes are sent, if nothing else is queued, and the connection is
    /// between requests then or its next request can be answered. Default: neither.
    fn standing_once_sent(&self, n: usize) -> Option<Standing> {
        let _ = n;
        None
    }
}

/// The machine of a protocol.
///
/// ```
/// use remuda_core::machine::{CloseReason, Cx, Interest, IoSlices, Machine, Step, Wire};
/// use remuda_core::time::Time;
///
/// /// Reads everything, answers nothing, and closes when its peer does.
/// #[derive(Default)]
/// struct Discard {
///     buffer: Vec<u8>,
///     ended: bool,
/// }
///
/// impl Wire for Discard {
///     fn read_buf(&mut self) -> &mut [u8] {
///         self.buffer.resize(4096, 0);
///         &mut self.buffer
///     }
///     fn handle_read(&mut self, _: usize, _: Time) {}
///     fn handle_eof(&mut self, _: Time) {
///         self.ended = true;
///     }
///     fn transmit<'a>(&'a self, _: &mut IoSlices<'a>) {}
///     fn handle_written(&mut self, _: usize, _: Time) {}
/// }
///
/// impl Machine for Discard {
///     fn step(&mut self, _: &Cx<'_>) -> Step {
///         if self.ended {
///             return Step::Close(CloseReason::PeerClosed);
///         }
///         Step::Wait { interest: Interest { read: true, write: false }, deadline: None }
///     }
///
///     // Nothing moves: the buffer can go.
///     fn rest(&mut self) {
///         self.buffer = Vec::new();
///     }
/// }
/// ```
pub trait Machine: Wire {
    /// Does all that is possible without I/O or the passage of time, within a budget, and returns
    /// what is needed next.
    fn step(&mut self, cx: &Cx<'_>) -> Step;

    /// The transport reports the end of the peer's side. Earlier bytes may be unread, so this is
    /// not the end of the input. It may be called any number of times. Default: does nothing.
    fn handle_peer_end(&mut self) {}

    /// No bytes move for now: memory that is needed only to move them can be freed. Default: frees
    /// none.
    fn rest(&mut self) {}
}

/// What a machine needs next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "the drive loop handles every step")]
pub enum Step {
    /// Wait until bytes can move in the directions of `interest`, or `deadline` passes.
    Wait {
        /// The directions.
        interest: Interest,
        /// The nearest deadline, if any.
        deadline: Option<Deadline>,
    },
    /// A deadline has passed: move bytes in the directions of `interest`, even if no wait has
    /// reported them, then step again. Bytes found now have arrived in time. Only then does the
    /// deadline count (D21).
    Look {
        /// The directions.
        interest: Interest,
    },
    /// More can be done without I/O, but other connections should have a turn first.
    Yield,
    /// The machine continues elsewhere, as a whole.
    Move(Move),
    /// Handlers are to run elsewhere, each on one exchange, while the machine stays: take their
    /// [calls](crate::session::Protocol::next_call), then step again.
    Spawn,
    /// Everything is sent: end the sending side (shutdown(2) with `SHUT_WR`), then step again.
    HalfClose,
    /// The end: close the socket.
    Close(CloseReason),
}

/// Where a machine continues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "every loop handles every move")]
pub enum Move {
    /// In a place where its handler may block, or has a runtime of its own. The exchange is
    /// [leased](crate::session::Protocol::lease) there, and the machine returns when the lease
    /// ends.
    Lease,
    /// In another worker. If the hand-off fails, the machine is told.
    Handoff,
}

/// The directions that a machine waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a socket has two directions")]
pub struct Interest {
    /// It can receive bytes.
    pub read: bool,
    /// It has bytes to send.
    pub write: bool,
}

impl Interest {
    /// Neither direction.
    pub const NONE: Self = Self { read: false, write: false };

    /// Whether it is for neither direction.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// A point in time with a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a point in time and its name are all there is")]
pub struct Deadline {
    /// The time.
    pub at: Time,
    /// The reason.
    pub why: Timer,
}

/// The deadlines a connection can have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Timer {
    /// The request head must be complete (D12). Set by its first byte, or by accept; never
    /// restarted.
    Head,
    /// The request body must make progress while the application waits for it.
    Body,
    /// The response must make progress while bytes of it are queued.
    Write,
    /// The next request must begin.
    KeepAlive,
    /// The drain policy is to be called again, or the drain's deadline passes (D10).
    Drain,
    /// The peer must close its side (D7).
    Linger,
    /// The handler must return, whatever progress it makes. Set when it is called. None once the
    /// protocol has changed.
    Request,
}

/// Why a connection ended. Every connection ends with exactly one reason. None of them is an error
/// of the server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended it between requests, or before the first.
    PeerClosed,
    /// The peer ended it within a request.
    PeerAborted,
    /// The transport failed. The peer may have reset it.
    TransportFailed,
    /// The last response announced close, because the peer or the application asked for it. Or it
    /// did not announce close, and then the unread rest of the request's body turned out to exceed
    /// the limit for discarding.
    Finished,
    /// The last response announced close, because the worker drains.
    Drained,
    /// The client sent nothing for the keep-alive time, or nothing at all after accept.
    IdleTimeout,
    /// A head, body or response made no progress within its timeout.
    TimedOut(Timer),
    /// The policy closed it while it was idle.
    DrainIdle,
    /// The drain's deadline ended it without a request in flight.
    DeadlineIdle,
    /// The drain's deadline cut a request in flight (D10).
    DeadlineCut,
    /// The request was refused. A response gave the reason, unless the fault was found in the rest
    /// of an answered request.
    Refused,
    /// The application failed, or its content differed from its own framing, after the head was
    /// sent.
    ApplicationFailed,
    /// It was handed to another worker.
    HandedOff,
    /// The application ended it after an upgrade.
    UpgradeEnded,
}

/// Carries bytes, without blocking.
///
/// So far this is a plain socket. A TLS transport may hold bytes that its descriptor no longer
/// shows, so the transport is asked what to wait for ([`wants`](Self::wants)), not the descriptor.
///
/// ```
/// use std::io::{self, IoSlice, Write};
///
/// use remuda_core::machine::{Interest, Transport, Wants};
///
/// /// A peer in memory, for tests: `input` is what it has sent, `output` what it was sent.
/// #[derive(Default)]
/// struct Memory {
///     input: io::Cursor<Vec<u8>>,
///     output: Vec<u8>,
/// }
///
/// impl Transport for Memory {
///     fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
///         io::Read::read(&mut self.input, buffer)
///     }
///
///     fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
///         self.output.write_vectored(slices)
///     }
///
///     fn close_write(&mut self) -> io::Result<()> {
///         Ok(())
///     }
///
///     fn wants(&self, _: Interest) -> Wants {
///         Wants::Ready
///     }
/// }
/// ```
pub trait Transport {
    /// Reads into `buffer`. 0 means that the peer has ended its side.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is nothing to read yet. Any other error ends the connection.
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes from `slices`, in order, and returns how many bytes were written.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing can be written now. Any other error ends the connection.
    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ends the sending side. Never called on a connection that has been handed off.
    ///
    /// # Errors
    ///
    /// As shutdown(2). A peer that is already gone is not an error.
    fn close_write(&mut self) -> io::Result<()>;

    /// What to wait for so that `interest` can be served.
    fn wants(&self, interest: Interest) -> Wants;

    /// The next read and the next write reach the kernel, even if a runtime that watches the
    /// descriptor has not reported it ready. Default: does nothing, because a plain socket is
    /// always tried.
    fn look(&mut self) {}
}

/// What a transport waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "either there is something to wait for or there is not")]
pub enum Wants {
    /// Nothing: it already holds bytes.
    Ready,
    /// The descriptor, in these directions. TLS may have to write in order to read.
    Io(Interest),
}

/// How many slices one gathered write takes.
const SLICES: usize = 8;

/// A few slices for one gathered write. Fixed in size, so that building it allocates nothing.
pub struct IoSlices<'a> {
    slices: [IoSlice<'a>; SLICES],
    len: usize,
    bytes: usize,
}

impl<'a> IoSlices<'a> {
    /// No slices.
    pub fn new() -> Self {
        Self { slices: [IoSlice::new(&[]); SLICES], len: 0, bytes: 0 }
    }

    /// Adds `slice` unless it is empty; `false` if there is no room.
    pub fn push(&mut self, slice: &'a [u8]) -> bool {
        if slice.is_empty() {
            return true;
        }
        let Some(place) = self.slices.get_mut(self.len) else { return false };
        *place = IoSlice::new(slice);
        self.len += 1;
        self.bytes += slice.len();
        true
    }

    /// The slices.
    pub fn as_slices(&self) -> &[IoSlice<'a>] {
        &self.slices[..self.len]
    }

    /// Their bytes together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Default for IoSlices<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for IoSlices<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoSlices").field("slices", &self.len).field("bytes", &self.bytes).finish()
    }
}
