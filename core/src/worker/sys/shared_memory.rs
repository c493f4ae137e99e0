//! Memory that all processes of a server share: its layout, and how it is mapped.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use nix::libc;

use super::EXIT_MARGIN;
use crate::app::{Activity, Counter, Counts};
use crate::rescue::EntryMemory;
use crate::time::Time;

/// A seat: the fields that each turn writes in the first cache line, then the counters. Zeros: the
/// seat is empty.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(in crate::worker) struct SeatMemory {
    pub(in crate::worker) version: AtomicU32,
    pub(in crate::worker) pid: AtomicU32,
    pub(in crate::worker) generation: AtomicU32,
    pub(in crate::worker) phase: AtomicU32,
    /// The reason's number plus 1; 0: no reason.
    pub(in crate::worker) reason: AtomicU32,
    pub(in crate::worker) born: AtomicU64,
    pub(in crate::worker) beat: AtomicU64,
    pub(in crate::worker) open: AtomicU64,
    /// How many handlers wait.
    pub(in crate::worker) handlers: AtomicU64,
    /// The pid of its keeper, as long as that was not reaped; 0: it has none.
    pub(in crate::worker) keeper: AtomicU32,
    /// 1 once the worker is gone and its keeper goes on.
    pub(in crate::worker) rescue: AtomicU32,
    pub(in crate::worker) counts: Counts,
}

/// The ledger. Zeros: the server has just started.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(in crate::worker) struct LedgerMemory {
    /// Odd while the counters of a dead worker are moved here.
    pub(in crate::worker) version: AtomicU64,
    pub(in crate::worker) started: AtomicU64,
    pub(in crate::worker) stage: AtomicU32,
    /// 1 while workers of another arbiter serve as well.
    pub(in crate::worker) elsewhere: AtomicU32,
    /// The deadline of a stop; 0: no stop.
    pub(in crate::worker) deadline: AtomicU64,
    pub(in crate::worker) workers: AtomicU32,
    /// The number of the highest seat ever taken, plus 1: readers skip the rest.
    pub(in crate::worker) seats: AtomicU32,
    pub(in crate::worker) gone: Counts,
    pub(in crate::worker) replaced: [Counter; 16],
    pub(in crate::worker) lost: [Counter; LOSS_COUNT],
    /// Drains that ended cleanly, and drains that were cut off.
    pub(in crate::worker) drains: [Counter; 2],
    pub(in crate::worker) delayed: Counter,
    pub(in crate::worker) foreign_handoffs: AtomicI64,
}

/// What a worker publishes for its keeper besides the entries of its connections.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(in crate::worker) struct RescueMemory {
    /// The number of entries that were ever used.
    used: AtomicU32,
    /// 1 once a descriptor had no entry.
    beyond: AtomicU32,
    /// When the kernel ends a draining worker; 0: it does not drain.
    deadline: AtomicU64,
    /// Not 0 while connections may be accepted that have no entry yet: an [`Arrivals`], plus 1.
    arrivals: AtomicU32,
}

/// How far a worker is with connections that it accepts and has not published yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::worker) enum Arrivals {
    /// They are not counted as accepted.
    Uncounted,
    /// They are.
    Counted,
}

impl RescueMemory {
    pub(in crate::worker) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire) as usize
    }

    /// At least so many entries are used. Called by the loop only.
    pub(in crate::worker) fn raise(&self, used: usize) {
        if self.used() < used {
            // An accept thread raises it as well.
            self.used.fetch_max(used as u32, Ordering::Release);
        }
    }

    /// Notes that a descriptor has no entry. Returns whether it is the first one.
    pub(in crate::worker) fn mark_beyond(&self) -> bool {
        self.beyond.swap(1, Ordering::Relaxed) == 0
    }

    pub(in crate::worker) fn arrivals(&self) -> Option<Arrivals> {
        match self.arrivals.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Arrivals::Uncounted),
            _ => Some(Arrivals::Counted),
        }
    }

    pub(in crate::worker) fn set_arrivals(&self, arrivals: Option<Arrivals>) {
        self.arrivals.store(arrivals.map_or(0, |arrivals| arrivals as u32 + 1), Ordering::Release);
    }

    pub(in crate::worker) fn deadline(&self) -> &AtomicU64 {
        &self.deadline
    }

    /// Whether a drain's deadline had passed at `now`.
    pub(in crate::worker) fn has_passed_deadline(&self, now: Time) -> bool {
        match self.deadline.load(Ordering::Relaxed) {
            0 => false,
            ends => now + EXIT_MARGIN >= Time::from_nanos(ends),
        }
    }
}

/// The number of variants of [`Loss`](crate::worker::Loss).
pub(in crate::worker) const LOSS_COUNT: usize = 4;

/// Whether the gate of a listener was ever shut by hops.
#[derive(Debug, Default)]
#[repr(C)]
pub(in crate::worker) struct GateMark(pub(in crate::worker) AtomicBool);

/// A type for memory that several processes read and write at the same time.
///
/// # Safety
///
/// The type consists of atomics and padding, zeros are a valid value, and dropping it does nothing.
pub(in crate::worker) unsafe trait SharedMemory: Sync + 'static {}

// SAFETY: atomic integers in a C layout.
unsafe impl SharedMemory for SeatMemory {}
// SAFETY: atomic integers in a C layout.
unsafe impl SharedMemory for LedgerMemory {}
// SAFETY: atomic integers in a C layout.
unsafe impl SharedMemory for RescueMemory {}
// SAFETY: atomic integers in a C layout.
unsafe impl SharedMemory for EntryMemory {}
// SAFETY: an atomic bool, which is only written as a bool, in a C layout.
unsafe impl SharedMemory for GateMark {}
// SAFETY: an atomic integer.
unsafe impl SharedMemory for AtomicU64 {}
// SAFETY: atomic integers and an atomic bool, which is only written as a bool, in a C layout.
unsafe impl SharedMemory for Activity {}

/// Maps `count` values, initially zero, which this process shares with all processes it forks from
/// now on. Untouched pages cost only address space. Never unmapped: other threads may write until
/// the process ends.
///
/// # Errors
///
/// As mmap(2).
pub(in crate::worker) fn map<T: SharedMemory>(count: usize) -> io::Result<&'static [T]> {
    let len = count.checked_mul(size_of::<T>()).filter(|&len| len > 0).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping has room for `count` values, is aligned to a page and so to `T`, is never
    // unmapped, and holds zeros, which are valid values; all access through the reference is atomic
    // (`SharedMemory`).
    Ok(unsafe { std::slice::from_raw_parts(memory.cast(), count) })
}
