//! The ledger: what the arbiter publishes about the whole server, in memory that other processes
//! read.
//!
//! Mapped before the first fork, like the [`Scoreboard`]. The scoreboard has the live workers; the
//! ledger has the stage of the server and the totals of workers that have ended. Only the arbiter
//! writes it. When a worker has ended, its counters move from the scoreboard to the ledger under a
//! sequence lock, so that no reader counts a worker twice or not at all.

use std::fmt;
use std::io;
use std::sync::atomic::{Ordering, fence};

use super::{Scoreboard, SeatSnapshot};
use crate::app::Tally;
use crate::shutdown::{Phase, Reason};
use crate::time::Time;
use crate::worker::sys;
use crate::worker::sys::shared_memory::{self, LOSS_COUNT, LedgerMemory};

/// The arbiter's published state of the server.
#[derive(Clone, Copy)]
pub struct Ledger(&'static LedgerMemory);

/// The stage of the server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "a server has no other stages")]
pub enum ServerStage {
    /// Not all workers have been ready yet.
    Starting = 0,
    /// All workers have been ready.
    Serving = 1,
    /// All workers were ordered to drain, and none starts before a resume.
    Resting = 2,
    /// About to stop; serves until then.
    Lameduck = 3,
    /// Stopping.
    Stopping = 4,
}

/// Why a worker was replaced without an order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "a worker leaves without an order in no other way")]
pub enum Loss {
    /// Its process ended, for whatever reason.
    Died = 0,
    /// Its heartbeat was overdue, and the arbiter ended it.
    Hung = 1,
    /// It was not ready in time, and the arbiter ended it.
    Late = 2,
    /// It could not be started.
    NotStarted = 3,
}

impl Ledger {
    /// Maps an empty ledger. Shared with all processes forked from now on, and never unmapped.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn map() -> io::Result<Self> {
        let page = &shared_memory::map::<LedgerMemory>(1)?[0];
        page.started.store(sys::now().as_nanos(), Ordering::Relaxed);
        Ok(Self(page))
    }

    /// Records the stage, and how many workers are configured.
    pub fn enter(&self, stage: ServerStage, workers: usize) {
        self.0.stage.store(stage as u32, Ordering::Release);
        self.0.workers.store(u32::try_from(workers).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Records the deadline of the stop under way, if there is one. Workers that end at once (QUIT)
    /// have one in the past.
    pub fn set_deadline(&self, deadline: Option<Time>) {
        self.0.deadline.store(deadline.map_or(0, Time::as_nanos), Ordering::Relaxed);
    }

    /// The deadline of the stop under way.
    pub(in crate::worker) fn deadline(&self) -> Option<Time> {
        Some(self.0.deadline.load(Ordering::Relaxed)).filter(|at| *at != 0).map(Time::from_nanos)
    }

    /// Whether another arbiter's workers serve as well.
    pub(in crate::worker) fn is_elsewhere(&self) -> bool {
        self.0.elsewhere.load(Ordering::Acquire) != 0
    }

    /// Records whether another arbiter's workers serve as well, so that the server is ready
    /// independently of this one's workers.
    pub fn set_elsewhere(&self, elsewhere: bool) {
        self.0.elsewhere.store(elsewhere.into(), Ordering::Release);
    }

    /// Records that a worker is about to take `seat`.
    pub fn take(&self, seat: u16) {
        self.0.seats.fetch_max(1 + u32::from(seat), Ordering::Relaxed);
    }

    /// The number of seats that were ever taken: the others are empty.
    pub fn seats(&self) -> u16 {
        self.0.seats.load(Ordering::Relaxed) as u16
    }

    /// Counts a worker that is replaced as ordered.
    pub fn replaced(&self, reason: Reason) {
        if let Some(counter) = self.0.replaced.get(reason as usize) {
            counter.increment();
        }
    }

    /// Counts a connection that has waited in the hand-off queue for too long.
    pub fn delayed(&self) {
        self.0.delayed.increment();
    }

    /// Balances the count of the hand-off queue. Called while the queue is empty and only this
    /// server's workers use it: any difference between connections put in and taken out then comes
    /// from another server's workers, in an upgrade.
    pub fn balance_queue(&self, board: &Scoreboard) {
        self.0.foreign_handoffs.store(self.read(board).total().in_queue(), Ordering::Relaxed);
    }

    /// Counts a worker that was lost and has to be replaced.
    pub fn lost(&self, loss: Loss) {
        self.0.lost[loss as usize].increment();
    }

    /// Adds the counters of the dead worker in `seat` to the totals, and clears the seat for the
    /// next worker. `clean`: the worker ended by itself with nothing left to do.
    pub fn retire(&self, board: &Scoreboard, seat: u16, clean: bool) {
        let Some(seat) = board.seat(seat) else { return };
        let version = self.0.version.load(Ordering::Relaxed);
        self.0.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        if let Some(SeatSnapshot { mut counts, phase, .. }) = seat.read() {
            let drained = phase >= Phase::Draining;
            match clean {
                true => counts.aborted += counts.in_flight(),
                false => counts.end(drained),
            }
            if drained {
                self.0.drains[usize::from(!clean)].increment();
            }
            self.0.gone.add(&counts);
        }
        seat.clear();
        self.0.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// When the arbiter started.
    pub fn started(&self) -> Time {
        Time::from_nanos(self.0.started.load(Ordering::Relaxed))
    }

    /// The stage of the server.
    pub fn stage(&self) -> ServerStage {
        match self.0.stage.load(Ordering::Acquire) {
            0 => ServerStage::Starting,
            1 => ServerStage::Serving,
            2 => ServerStage::Resting,
            3 => ServerStage::Lameduck,
            _ => ServerStage::Stopping,
        }
    }

    /// The state of the server now, including the live workers.
    pub fn read(&self, board: &Scoreboard) -> Account {
        let mut account = self.account(board);
        for _ in 0..ATTEMPTS {
            let before = self.0.version.load(Ordering::Acquire);
            account = self.account(board);
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.0.version.load(Ordering::Relaxed) == before {
                break;
            }
        }
        account
    }

    fn account(&self, board: &Scoreboard) -> Account {
        let seats = self.0.seats.load(Ordering::Relaxed) as u16;
        Account {
            stage: self.stage(),
            elsewhere: self.0.elsewhere.load(Ordering::Acquire) != 0,
            started: self.started(),
            workers: self.0.workers.load(Ordering::Relaxed),
            living: (0..seats)
                .filter_map(|seat| board.seat(seat)?.read())
                .map(SeatSnapshot::with_its_end)
                .collect(),
            gone: self.0.gone.tally(),
            replaced: REASONS.map(|reason| (reason, self.0.replaced[reason as usize].get())).into(),
            lost: LOSSES.map(|loss| (loss, self.0.lost[loss as usize].get())).into(),
            drained: self.0.drains[0].get(),
            cut: self.0.drains[1].get(),
            delayed: self.0.delayed.get(),
            foreign_handoffs: self.0.foreign_handoffs.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("stage", &self.stage()).finish_non_exhaustive()
    }
}

/// The state of a server at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Account {
    /// The stage of the server.
    pub stage: ServerStage,
    /// Whether another arbiter's workers serve as well.
    pub elsewhere: bool,
    /// When its arbiter started.
    pub started: Time,
    /// The configured number of workers.
    pub workers: u32,
    /// What its live workers have published.
    pub living: Vec<SeatSnapshot>,
    /// The counters of workers that have ended.
    pub gone: Tally,
    /// Workers replaced as ordered, by reason.
    pub replaced: Vec<(Reason, u64)>,
    /// Workers lost, by kind.
    pub lost: Vec<(Loss, u64)>,
    /// Workers whose drain ended with nothing left to do.
    pub drained: u64,
    /// Workers whose drain was cut off.
    pub cut: u64,
    /// How often a connection has waited in the hand-off queue for too long.
    pub delayed: u64,
    /// Connections that went to another server's workers in upgrades, less those that came from
    /// there. Those of an upgrade under way are not counted yet.
    pub foreign_handoffs: i64,
}

impl Account {
    /// The counters of all workers of all generations.
    pub fn total(&self) -> Tally {
        let mut total = self.gone;
        self.living.iter().for_each(|entry| total += entry.counts);
        total
    }

    /// Connections in the hand-off queue.
    pub fn in_queue(&self) -> u64 {
        u64::try_from(self.total().in_queue() - self.foreign_handoffs).unwrap_or_default()
    }

    /// Whether the server accepts new connections: it serves, is not about to stop, and has a
    /// running worker, here or under another arbiter.
    pub fn is_ready(&self) -> bool {
        self.elsewhere
            || self.stage == ServerStage::Serving
                && self.living.iter().any(|entry| entry.phase == Phase::Running && !entry.is_gone)
    }
}

/// How often a read that meets a write is repeated before its result is used as it is.
const ATTEMPTS: usize = 8;

/// The reasons for which workers are replaced one by one.
const REASONS: [Reason; 7] = [
    Reason::Reload,
    Reason::Upgrade,
    Reason::RecycleRequests,
    Reason::RecycleLifetime,
    Reason::RecycleMemory,
    Reason::RecycleAsked,
    Reason::RecycleTimeout,
];

const LOSSES: [Loss; LOSS_COUNT] = [Loss::Died, Loss::Hung, Loss::Late, Loss::NotStarted];

#[cfg(test)]
mod tests;
