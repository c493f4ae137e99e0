//! The scoreboard: what every worker writes about itself as it goes, in memory that the arbiter reads.
//!
//! The arbiter maps it before the first fork. A worker has one [`Seat`] and writes there alone, with plain stores: a
//! beat is two of them. The arbiter reads it to see who is alive (D1), what was counted whoever ended the worker
//! (D10), and what a worker was serving when it hung or died. It empties a seat once its worker is gone, so that
//! nobody is left who could write for the one before.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::sys;
use super::watch::Watch;
use crate::app::{Busy, Counters, Counts, Hand, Hands, Tally};
use crate::shutdown::{Phase, Reason};
use crate::time::Time;

/// Says which layout a seat was written in.
const VERSION: u32 = 1;

/// Seats that there are at least: a server may grow while it runs, and seats that nobody takes cost nothing.
const ROOM: usize = 1024;

/// The seats of all workers.
pub struct Scoreboard {
    slots: &'static [Slot],
    hands: &'static [Hand],
}

impl Scoreboard {
    /// Seats for `workers` processes and some more, and for those `replaced` at a time, with room for what the loop and
    /// `threads` threads of each are busy with. Shared with all processes forked from now on, and never unmapped.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn map(workers: u16, replaced: u16, threads: usize) -> io::Result<Self> {
        let seats = ROOM.max(workers.into()) + usize::from(replaced);
        Ok(Self { slots: sys::share(seats)?, hands: sys::share(seats * (1 + threads))? })
    }

    /// How many seats there are.
    pub fn seats(&self) -> usize {
        self.slots.len()
    }

    /// How many handler threads of a worker there is room for.
    pub fn threads(&self) -> usize {
        self.hands.len() / self.slots.len() - 1
    }

    /// The seat with that number, from 0, if there is one. It says nothing of the slot that its worker has.
    pub fn seat(&self, number: u16) -> Option<Seat> {
        let index = usize::from(number);
        let each = self.hands.len() / self.slots.len();
        let slot = self.slots.get(index)?;
        Some(Seat { slot, hands: Hands::new(&self.hands[index * each..][..each]) })
    }
}

impl fmt::Debug for Scoreboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoreboard").field("seats", &self.seats()).finish_non_exhaustive()
    }
}

/// Where one worker writes, and the arbiter reads.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    slot: &'static Slot,
    hands: Hands,
}

impl Seat {
    /// The worker takes its place.
    pub fn sit(&self, generation: u32) {
        self.slot.pid.store(std::process::id(), Ordering::Relaxed);
        self.slot.generation.store(generation, Ordering::Relaxed);
        self.slot.born.store(sys::now().as_nanos(), Ordering::Relaxed);
        self.slot.version.store(VERSION, Ordering::Release);
    }

    /// The loop is alive at `now`, with so many connections `open`, in the drain of `watch` if there is one. Called in
    /// every turn, by the loop that serves and nobody else, and at least every
    /// [`beat_interval`](super::WorkerConfig::beat_interval).
    pub fn beat(&self, now: Time, open: usize, watch: &Watch) {
        self.beat_since(now, now, open, watch);
    }

    /// The same of a worker that has done nothing new `since` then, although its loop is alive: all of its threads are
    /// busy.
    pub fn beat_since(&self, since: Time, now: Time, open: usize, watch: &Watch) {
        self.slot.beat.store(since.as_nanos(), Ordering::Relaxed);
        self.slot.open.store(open as u64, Ordering::Relaxed);
        if let Some((drain, _)) = watch.current().filter(|(drain, _)| drain.is_over(now)) {
            self.enter(Phase::Closing, Some(drain.reason));
        }
    }

    /// The worker enters `phase`, for `reason` if it drains.
    pub fn enter(&self, phase: Phase, reason: Option<Reason>) {
        self.slot.reason.store(reason.map_or(0, |reason| 1 + reason as u32), Ordering::Relaxed);
        self.slot.phase.store(phase as u32, Ordering::Relaxed);
    }

    /// Counters in this seat.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::new(Counters::shared(&self.slot.counts))
    }

    /// Where the worker notes what its handlers are busy with.
    pub fn hands(&self) -> Hands {
        self.hands
    }

    /// When the loop last was alive; [`Time::ZERO`] before that.
    pub fn last_beat(&self) -> Time {
        Time::from_nanos(self.slot.beat.load(Ordering::Relaxed))
    }

    /// What is known of the worker; none while nobody has sat down.
    pub fn read(&self) -> Option<Entry> {
        if self.slot.version.load(Ordering::Acquire) != VERSION {
            return None;
        }
        let phase = self.slot.phase.load(Ordering::Relaxed) as usize;
        let reason = self.slot.reason.load(Ordering::Relaxed).checked_sub(1);
        Some(Entry {
            pid: self.slot.pid.load(Ordering::Relaxed),
            generation: self.slot.generation.load(Ordering::Relaxed),
            born: Time::from_nanos(self.slot.born.load(Ordering::Relaxed)),
            beat: self.last_beat(),
            phase: PHASES.get(phase).copied().unwrap_or(Phase::Exited),
            reason: reason.and_then(|reason| Reason::from_u8(reason.try_into().ok()?)),
            open: self.slot.open.load(Ordering::Relaxed),
            counts: self.slot.counts.tally(),
            busy: self.hands.busy().collect(),
        })
    }

    /// Empties the seat for the next worker, once this one is dead.
    pub fn clear(&self) {
        let Slot { version, pid, generation, phase, reason, born, beat, open, counts } = self.slot;
        [version, pid, generation, phase, reason].into_iter().for_each(|n| n.store(0, Ordering::Relaxed));
        [born, beat, open].into_iter().for_each(|n| n.store(0, Ordering::Relaxed));
        counts.clear();
        self.hands.clear();
    }
}

/// What a worker has written about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// Its process.
    pub pid: u32,
    /// Counts the configurations this server has had, from 1.
    pub generation: u32,
    /// When its process took its seat.
    pub born: Time,
    /// When its loop last was alive; [`Time::ZERO`] before it served.
    pub beat: Time,
    /// Where it is in its life.
    pub phase: Phase,
    /// Why it drains, if it does.
    pub reason: Option<Reason>,
    /// Connections.
    pub open: u64,
    /// What it has counted.
    pub counts: Tally,
    /// The handlers that run.
    pub busy: Vec<Busy>,
}

const PHASES: [Phase; 6] =
    [Phase::Booting, Phase::Running, Phase::Lameduck, Phase::Draining, Phase::Closing, Phase::Exited];

/// A seat in memory: what a turn writes in the first line, the numbers after it. Zeros mean that nobody sits there.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Slot {
    version: AtomicU32,
    pid: AtomicU32,
    generation: AtomicU32,
    phase: AtomicU32,
    /// 1 more than the reason's number; 0: there is none.
    reason: AtomicU32,
    born: AtomicU64,
    beat: AtomicU64,
    open: AtomicU64,
    counts: Counts,
}

#[cfg(test)]
mod tests;
