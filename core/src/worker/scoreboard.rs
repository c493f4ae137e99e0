//! The scoreboard: the state that each worker publishes about itself, in memory that the arbiter
//! reads.
//!
//! The arbiter maps the scoreboard before the first fork. Each worker has one [`Seat`] and is its
//! only writer, with plain stores: a heartbeat is two of them. The arbiter reads it to detect hung
//! workers (D1), to keep the counters of a worker however it ended (D10), and to report what a
//! worker was serving when it hung or died. The arbiter clears a seat once the worker's process is
//! gone, so that the former worker cannot write any more.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use self::ledger::{Account, Ledger, Loss, ServerStage};
use super::sys;
use super::sys::shared_memory::{self, SeatMemory};
use crate::app::{Activities, Activity, Board, Busy, Counters, Doing, Tally};
use crate::shutdown::{Drain, Phase, Reason};
use crate::time::Time;

mod ledger;

/// The version of the layout of a seat.
const VERSION: u32 = 1;

/// The least number of seats: a server may grow while it runs, and empty seats cost nothing.
const ROOM: usize = 1024;

/// The seats of all workers.
pub struct Scoreboard {
    memory: &'static [SeatMemory],
    /// For each seat, the activities of its loop and of its threads.
    activities: &'static [Activity],
    /// For each seat, exchanges that wait.
    waiting: &'static [Activity],
}

impl Scoreboard {
    /// Maps seats for `workers` processes, with a reserve, and for the workers `replaced` at a
    /// time. Each seat has room for the activities of its loop and of `threads` threads, and for
    /// exchanges that wait. Shared with all processes forked from now on, and never unmapped.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn map(workers: u16, replaced: u16, threads: usize) -> io::Result<Self> {
        let seats = ROOM.max(workers.into()) + usize::from(replaced);
        let (activities, waiting) =
            (shared_memory::map(seats * (1 + threads))?, shared_memory::map(seats * Board::ENTRIES)?);
        Ok(Self { memory: shared_memory::map(seats)?, activities, waiting })
    }

    /// The number of seats.
    pub fn seats(&self) -> usize {
        self.memory.len()
    }

    /// The number of handler threads for which each seat has room.
    pub fn threads(&self) -> usize {
        self.activities.len() / self.memory.len() - 1
    }

    /// The seat with `number`, from 0, if it exists. A worker's seat is independent of its slot.
    pub fn seat(&self, number: u16) -> Option<Seat> {
        let index = usize::from(number);
        let each = self.activities.len() / self.memory.len();
        let memory = self.memory.get(index)?;
        let activities = Activities::new(&self.activities[index * each..][..each]);
        let waiting = &self.waiting[index * Board::ENTRIES..][..Board::ENTRIES];
        Some(Seat { memory, activities, board: Board::new(waiting, &memory.handlers) })
    }
}

impl fmt::Debug for Scoreboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoreboard").field("seats", &self.seats()).finish_non_exhaustive()
    }
}

/// The place where one worker writes and the arbiter reads.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    memory: &'static SeatMemory,
    activities: Activities,
    board: Board,
}

impl Seat {
    /// The worker takes the seat.
    pub fn occupy(&self, generation: u32) {
        self.memory.pid.store(std::process::id(), Ordering::Relaxed);
        self.memory.generation.store(generation, Ordering::Relaxed);
        self.memory.born.store(sys::now().as_nanos(), Ordering::Relaxed);
        self.memory.version.store(VERSION, Ordering::Release);
    }

    /// Records that the loop is alive at `now`, with `open` connections, in `drain` if there is
    /// one. Called in every turn, only by the loop that serves, and at least every
    /// [`beat_interval`](super::WorkerConfig::beat_interval).
    pub fn beat(&self, now: Time, open: usize, drain: Option<Drain>) {
        self.beat_since(now, now, open, drain);
    }

    /// The same for a worker whose threads are all busy: its loop is alive, but it has begun
    /// nothing new `since` then.
    pub fn beat_since(&self, since: Time, now: Time, open: usize, drain: Option<Drain>) {
        self.memory.beat.store(since.as_nanos(), Ordering::Relaxed);
        self.memory.open.store(open as u64, Ordering::Relaxed);
        if let Some(drain) = drain.filter(|drain| drain.is_over(now)) {
            self.enter(Phase::Closing, Some(drain.reason));
        }
    }

    /// Records that the worker enters `phase`, for `reason` if it drains.
    pub fn enter(&self, phase: Phase, reason: Option<Reason>) {
        self.memory.reason.store(reason.map_or(0, |reason| 1 + reason as u32), Ordering::Relaxed);
        self.memory.phase.store(phase as u32, Ordering::Relaxed);
    }

    /// The counters in this seat.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::new(Counters::shared(&self.memory.counts))
    }

    /// Where the worker records the exchanges that occupy its loop and its threads.
    pub fn activities(&self) -> Activities {
        self.activities
    }

    /// Where the worker records exchanges that wait.
    pub fn board(&self) -> Board {
        self.board
    }

    /// The time of the last heartbeat; [`Time::ZERO`] before the first.
    pub fn last_beat(&self) -> Time {
        Time::from_nanos(self.memory.beat.load(Ordering::Relaxed))
    }

    /// What the worker has published; none while the seat is empty.
    pub fn read(&self) -> Option<SeatSnapshot> {
        if self.memory.version.load(Ordering::Acquire) != VERSION {
            return None;
        }
        let phase = self.memory.phase.load(Ordering::Relaxed) as usize;
        let reason = self.memory.reason.load(Ordering::Relaxed).checked_sub(1);
        let (handlers, busy) = self.busy();
        Some(SeatSnapshot {
            pid: self.memory.pid.load(Ordering::Relaxed),
            generation: self.memory.generation.load(Ordering::Relaxed),
            born: Time::from_nanos(self.memory.born.load(Ordering::Relaxed)),
            beat: self.last_beat(),
            phase: PHASES.get(phase).copied().unwrap_or(Phase::Exited),
            reason: reason.and_then(|reason| Reason::from_u8(reason.try_into().ok()?)),
            open: self.memory.open.load(Ordering::Relaxed),
            is_gone: self.memory.rescue.load(Ordering::Acquire) != 0,
            keeper: self.keeper(),
            counts: self.memory.counts.tally(),
            handlers,
            busy,
        })
    }

    /// The number of handlers that have not ended, and the visible exchanges: first those that
    /// block the loop, then those on threads, then those that wait, the oldest first.
    fn busy(&self) -> (u64, Vec<Busy>) {
        let mut waiting = self.board.seen();
        let mut handlers = self.board.handlers();
        let mut busy = Vec::new();
        for (number, activity) in self.activities.seen() {
            // A waiting exchange whose handler has been called again is listed once.
            match number {
                0 => handlers += 1,
                _ => waiting.retain(|(other, _)| *other != number),
            }
            busy.push(activity);
        }
        busy.extend(waiting.into_iter().map(|(_, waiting)| waiting));
        (handlers, busy)
    }

    /// The pid of the worker's keeper, which was not reaped yet. None: it has no keeper.
    pub fn keeper(&self) -> Option<u32> {
        Some(self.memory.keeper.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    /// The keeper was reaped.
    pub fn loses_keeper(&self) {
        self.memory.keeper.store(0, Ordering::Relaxed);
    }

    /// Where the kernel stores the pid of a keeper.
    pub(super) fn keeper_memory(&self) -> &'static AtomicU32 {
        &self.memory.keeper
    }

    /// The worker is gone, and its keeper goes on with so many connections.
    pub(super) fn rescue_begins(&self, open: usize) {
        self.memory.open.store(open as u64, Ordering::Relaxed);
        self.memory.rescue.store(1, Ordering::Release);
    }

    /// The keeper has so many connections left.
    pub(super) fn rescue_holds(&self, open: usize) {
        self.memory.open.store(open as u64, Ordering::Relaxed);
    }

    /// The keeper has found a connection that was not counted as accepted.
    pub(super) fn rescue_accepts(&self) {
        self.memory.counts.accepted.increment();
    }

    /// The keeper has handed a connection to another worker.
    pub(super) fn rescue_moved(&self) {
        self.memory.counts.rescued.increment();
        self.memory.counts.handed.increment();
    }

    /// The keeper has answered a request in flight.
    pub(super) fn rescue_answered(&self) {
        self.memory.counts.rescue_answered.increment();
    }

    /// The keeper has cut a response that had begun.
    pub(super) fn rescue_cut(&self) {
        self.memory.counts.rescue_cut.increment();
    }

    /// The keeper has found another descriptor in the place of a connection, or none.
    pub(super) fn rescue_lost(&self) {
        self.memory.counts.rescue_lost.increment();
    }

    /// Clears the seat for the next worker, after the death of this one.
    pub fn clear(&self) {
        let SeatMemory {
            version,
            pid,
            generation,
            phase,
            reason,
            born,
            beat,
            open,
            handlers: _,
            keeper,
            rescue,
            counts,
        } = self.memory;
        [version, pid, generation, phase, reason, keeper, rescue]
            .into_iter()
            .for_each(|n| n.store(0, Ordering::Relaxed));
        [born, beat, open].into_iter().for_each(|n| n.store(0, Ordering::Relaxed));
        counts.clear();
        self.activities.clear();
        self.board.clear();
    }
}

/// What a worker has published about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SeatSnapshot {
    /// The id of its process.
    pub pid: u32,
    /// The configuration it runs, counted from 1.
    pub generation: u32,
    /// When the process took its seat.
    pub born: Time,
    /// The time of its last heartbeat; [`Time::ZERO`] before it served.
    pub beat: Time,
    /// Its phase of life.
    pub phase: Phase,
    /// Why it drains, if it does.
    pub reason: Option<Reason>,
    /// Open connections.
    pub open: u64,
    /// Whether the worker is gone, and its keeper still goes on with its connections (D20).
    pub is_gone: bool,
    /// The pid of its keeper, if it has one.
    pub keeper: Option<u32>,
    /// Its counters.
    pub counts: Tally,
    /// How many handlers have not ended, including those that wait.
    pub handlers: u64,
    /// The visible exchanges in flight: those that block the loop, those on threads, and the oldest
    /// of those that wait. The book lists which.
    pub busy: Vec<Busy>,
}

impl SeatSnapshot {
    /// The same, with the end of the worker in its counts if it is gone: its requests in flight are
    /// aborted, whatever its keeper does for their clients.
    pub(super) fn with_its_end(mut self) -> Self {
        if self.is_gone {
            self.counts.aborted += self.counts.in_flight();
            let Tally { accepted, adopted, handed, .. } = self.counts;
            self.counts.ended = (accepted + adopted).saturating_sub(handed + self.open);
            self.handlers = 0;
            self.busy.clear();
        }
        self
    }

    /// How many exchanges are in flight, or were when a drain's deadline cut them off, without an
    /// entry in `busy`.
    pub fn unseen(&self) -> u64 {
        let seen = |is: fn(&Busy) -> bool| self.busy.iter().filter(|busy| is(busy)).count() as u64;
        let cut = self.counts.cut.saturating_sub(seen(|busy| busy.doing == Doing::Cut));
        cut + self.handlers.saturating_sub(seen(|busy| busy.doing.has_handler()))
    }
}

const PHASES: [Phase; 6] =
    [Phase::Booting, Phase::Running, Phase::Lameduck, Phase::Draining, Phase::Closing, Phase::Exited];

#[cfg(test)]
mod tests;
