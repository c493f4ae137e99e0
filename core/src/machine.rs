//! The seam between protocol machines and whatever moves bytes for them.
//!
//! A [`Machine`] takes bytes and time and says what it waits for. A [`Transport`] is what bytes travel through.
//! [`pump`](crate::pump) joins the two; a backend adds only the waiting. Nothing here performs I/O by itself.

use std::fmt;
use std::io::{self, IoSlice};
use std::task::Waker;

use crate::config::Limits;
use crate::http1::HttpDate;
use crate::shutdown::{Drain, ShutdownPolicy};
use crate::time::Time;

/// What a step may know of the world.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Cx<'a> {
    /// The time of this step.
    pub now: Time,
    /// The wall clock's second of this step, as the `Date` field spells it (RFC 9110 §6.6.1).
    pub date: &'a HttpDate,
    /// Woken when an application's future can go on.
    pub waker: &'a Waker,
    /// What a connection may take.
    pub limits: &'a Limits,
    /// The drain that the worker is in, if any.
    pub drain: Option<&'a Drain>,
    /// Who decides about connections during it.
    pub policy: &'a dyn ShutdownPolicy,
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
        Self { now, date, waker, limits, drain: None, policy }
    }

    /// The same step for a machine whose futures wake `waker`.
    #[must_use]
    pub fn waking(self, waker: &'a Waker) -> Self {
        Self { waker, ..self }
    }

    /// The same step within a drain.
    #[must_use]
    pub fn draining(self, drain: Option<&'a Drain>) -> Self {
        Self { drain, ..self }
    }
}

/// The byte side of a machine: what pump calls to move bytes.
pub trait Wire {
    /// Where incoming bytes go. Empty when the machine wants none; otherwise initialised, of any content.
    fn read_buf(&mut self) -> &mut [u8];

    /// The first `n` bytes of [`read_buf`](Self::read_buf) have been filled.
    fn handle_read(&mut self, n: usize, now: Time);

    /// The peer has ended its side.
    fn handle_eof(&mut self, now: Time);

    /// Adds what waits to be sent, in order, to `out`.
    fn transmit<'a>(&'a self, out: &mut IoSlices<'a>);

    /// The first `n` bytes of what [`transmit`](Self::transmit) gave have been sent.
    fn handle_written(&mut self, n: usize, now: Time);
}

/// A protocol: HTTP/1.1 here, others beside it.
pub trait Machine: Wire {
    /// Does all that can be done without I/O or the passage of time, within a budget, and says what is next.
    fn step(&mut self, cx: &Cx<'_>) -> Step;

    /// Nothing moves for now: the memory that only moving takes can be given back. Gives none by default.
    fn rest(&mut self) {}
}

/// What a machine needs next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "the drive loop handles every step")]
pub enum Step {
    /// Nothing until bytes move as `interest` says, or `deadline` passes.
    Wait {
        /// Which directions.
        interest: Interest,
        /// The nearest deadline, if any.
        deadline: Option<Deadline>,
    },
    /// More can be done without I/O, but others should have their turn first.
    Yield,
    /// A blocking handler is to be run; the machine moves to where it may block, as a whole.
    Run,
    /// Everything is sent: end the sending side (shutdown(2) with `SHUT_WR`), then step again.
    HalfClose,
    /// Move the connection to another worker; if that fails, say so to the machine.
    HandOff,
    /// The end: close the socket.
    Close(CloseReason),
}

/// Which directions a machine waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a socket has two directions")]
pub struct Interest {
    /// It can take bytes.
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
    /// When.
    pub at: Time,
    /// What ends then.
    pub why: Timer,
}

/// The deadlines a connection can have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Timer {
    /// The request head must be complete (D12). Set by its first byte, or by accept; never restarted.
    Head,
    /// The request body must make progress while the application wants it.
    Body,
    /// The response must make progress while bytes of it are queued.
    Write,
    /// The next request must begin.
    KeepAlive,
    /// The drain policy wants to be asked again, or the drain's deadline passes (D10).
    Drain,
    /// The peer must close its side (D7).
    Linger,
    /// The handler must be done, however much progress it makes. Set when it is called; none once the protocol has
    /// changed.
    Request,
}

/// Why a connection ended. Every connection ends with exactly one reason; none of them is an error of ours.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended it between requests, or before the first.
    PeerClosed,
    /// The peer ended it within a request.
    PeerAborted,
    /// The transport failed; the peer may have reset it.
    TransportFailed,
    /// The last response announced close, because peer or application asked for that; or it did not, and more of its request's
    /// body was left than is worth reading.
    Finished,
    /// The last response announced close, because the worker drains.
    Drained,
    /// Nothing was sent for the keep-alive time, or nothing at all after accept.
    IdleTimeout,
    /// A head, body or response made no progress for its time.
    TimedOut(Timer),
    /// The policy closed it while it was idle.
    DrainIdle,
    /// The drain's deadline ended it without a request in flight.
    DeadlineIdle,
    /// The drain's deadline cut a request in flight (D10).
    DeadlineCut,
    /// The request was refused; a response said why, unless the fault was found in what an answered one had left.
    Refused,
    /// The application failed or broke its own framing after the head was sent.
    ApplicationFailed,
    /// It was handed to another worker.
    HandedOff,
    /// The application that had taken it over ended it.
    UpgradeEnded,
}

/// What bytes travel through, without blocking.
///
/// A plain socket here; TLS beside it, which may hold bytes that its descriptor no longer shows. Readiness is
/// therefore asked of the transport ([`wants`](Self::wants)), not of the descriptor.
pub trait Transport {
    /// Reads into `buffer`; 0 means that the peer has ended its side.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is nothing yet; anything else ends the connection.
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes from `slices`, in order, and says how many bytes it took.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing fits now; anything else ends the connection.
    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ends the sending side. Never called on a connection that has been handed off.
    ///
    /// # Errors
    ///
    /// As shutdown(2); a peer that is gone already is not an error.
    fn close_write(&mut self) -> io::Result<()>;

    /// What the descriptor has to be waited for so that `interest` can be served.
    fn wants(&self, interest: Interest) -> Wants;
}

/// What a transport waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::exhaustive_enums, reason = "either there is something to wait for or there is not")]
pub enum Wants {
    /// Nothing: it holds bytes already, try now.
    Ready,
    /// The descriptor, in these directions; TLS may want to write in order to read.
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
