//! The ledger: what the arbiter writes about the whole server, in memory that others read.
//!
//! Mapped before the first fork, like the [`Scoreboard`], which has the living; the ledger has how far the server is, and
//! what came of workers that have gone. The arbiter alone writes. A burial moves numbers from the one to the other under a
//! sequence lock, so that no reader counts a worker twice or not at all.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

use super::scoreboard::{Entry, Scoreboard};
use super::sys;
use crate::app::{Counter, Counts, Tally};
use crate::shutdown::{Phase, Reason};
use crate::time::Time;

/// What the arbiter writes, and others read.
#[derive(Clone, Copy)]
pub struct Ledger(&'static Page);

/// How far the server is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "a server has no other stages")]
pub enum Stage {
    /// The workers have not all been ready yet.
    Starting = 0,
    /// They have.
    Serving = 1,
    /// To stop, and serving on until then.
    Lameduck = 2,
    /// Stopping.
    Stopping = 3,
}

/// Why a worker was replaced that was not meant to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "a worker that nobody asked to leave goes in these ways")]
pub enum Loss {
    /// It ended, whatever it died of.
    Died = 0,
    /// Its loop was silent for too long, and the arbiter ended it.
    Hung = 1,
    /// It was not ready in time, and the arbiter ended it.
    Late = 2,
    /// It could not be started.
    NotStarted = 3,
}

impl Ledger {
    /// An empty one. Shared with all processes forked from now on, and never unmapped.
    ///
    /// # Errors
    ///
    /// As mmap(2).
    pub fn map() -> io::Result<Self> {
        let page = &sys::share::<Page>(1)?[0];
        page.started.store(sys::now().as_nanos(), Ordering::Relaxed);
        Ok(Self(page))
    }

    /// The server is in `stage`, and so many workers are asked for.
    pub fn enter(&self, stage: Stage, workers: usize) {
        self.0.stage.store(stage as u32, Ordering::Release);
        self.0.workers.store(u32::try_from(workers).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Whether another arbiter's workers serve as well, so that the server is ready whatever this one's do.
    pub fn go_on(&self, elsewhere: bool) {
        self.0.elsewhere.store(elsewhere.into(), Ordering::Release);
    }

    /// Somebody will sit in `seat`.
    pub fn take(&self, seat: u16) {
        self.0.seats.fetch_max(1 + u32::from(seat), Ordering::Relaxed);
    }

    /// A worker is replaced as it was meant to be.
    pub fn replaced(&self, reason: Reason) {
        if let Some(counter) = self.0.replaced.get(reason as usize) {
            counter.increment();
        }
    }

    /// A connection has waited in the hand-off queue for too long.
    pub fn delayed(&self) {
        self.0.delayed.increment();
    }

    /// The hand-off queue is empty, and this server's workers are the only ones that use it: whoever has come out of it and was
    /// not put there by one of them was another server's, in an upgrade, and the other way round.
    pub fn settle(&self, board: &Scoreboard) {
        self.0.strangers.store(self.read(board).total().in_queue(), Ordering::Relaxed);
    }

    /// A worker is to be replaced that was not meant to be.
    pub fn lost(&self, loss: Loss) {
        self.0.lost[loss as usize].increment();
    }

    /// Keeps what the dead worker in `seat` has counted, and empties it for the next one. It ended itself with nothing left
    /// to do (`clean`), or had to leave something.
    pub fn bury(&self, board: &Scoreboard, seat: u16, clean: bool) {
        let Some(seat) = board.seat(seat) else { return };
        let version = self.0.version.load(Ordering::Relaxed);
        self.0.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        if let Some(Entry { mut counts, phase, .. }) = seat.read() {
            let drained = phase >= Phase::Draining;
            if !clean {
                counts.end(drained);
            }
            if drained {
                self.0.drains[usize::from(!clean)].increment();
            }
            self.0.gone.add(&counts);
        }
        seat.clear();
        self.0.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// When the arbiter was started.
    pub fn started(&self) -> Time {
        Time::from_nanos(self.0.started.load(Ordering::Relaxed))
    }

    /// How far the server is.
    pub fn stage(&self) -> Stage {
        match self.0.stage.load(Ordering::Acquire) {
            0 => Stage::Starting,
            1 => Stage::Serving,
            2 => Stage::Lameduck,
            _ => Stage::Stopping,
        }
    }

    /// What is known of the server now, the living included.
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
            living: (0..seats).filter_map(|seat| board.seat(seat)?.read()).collect(),
            gone: self.0.gone.tally(),
            replaced: REASONS.map(|reason| (reason, self.0.replaced[reason as usize].get())).into(),
            lost: LOSSES.map(|loss| (loss, self.0.lost[loss as usize].get())).into(),
            drained: self.0.drains[0].get(),
            cut: self.0.drains[1].get(),
            delayed: self.0.delayed.get(),
            strangers: self.0.strangers.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("stage", &self.stage()).finish_non_exhaustive()
    }
}

/// What is known of a server at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Account {
    /// How far it is.
    pub stage: Stage,
    /// Whether another arbiter's workers serve as well.
    pub elsewhere: bool,
    /// When its arbiter was started.
    pub started: Time,
    /// Workers that are asked for.
    pub workers: u32,
    /// What its workers have written.
    pub living: Vec<Entry>,
    /// What those have counted that are gone.
    pub gone: Tally,
    /// Workers replaced as they were meant to be, by the reason.
    pub replaced: Vec<(Reason, u64)>,
    /// Workers lost.
    pub lost: Vec<(Loss, u64)>,
    /// Workers whose drain ended with nothing left to do.
    pub drained: u64,
    /// Workers whose drain was cut.
    pub cut: u64,
    /// How often a connection was found to have waited in the hand-off queue for too long.
    pub delayed: u64,
    /// Connections that have gone to another server's workers in upgrades, less those that have come from there. Those of an
    /// upgrade under way are not counted yet.
    pub strangers: i64,
}

impl Account {
    /// What all workers have counted, of all generations.
    pub fn total(&self) -> Tally {
        let mut total = self.gone;
        self.living.iter().for_each(|entry| total += entry.counts);
        total
    }

    /// Connections that are on their way from one worker to another.
    pub fn in_queue(&self) -> u64 {
        u64::try_from(self.total().in_queue() - self.strangers).unwrap_or_default()
    }

    /// Whether new connections are welcome: the server serves, is not about to stop, and has a worker, here or elsewhere.
    pub fn is_ready(&self) -> bool {
        self.elsewhere
            || self.stage == Stage::Serving && self.living.iter().any(|entry| entry.phase == Phase::Running)
    }
}

/// Reads that meet a burial before one is taken as it is.
const ATTEMPTS: usize = 8;

/// Why workers are replaced one by one.
const REASONS: [Reason; 7] = [
    Reason::Reload,
    Reason::Upgrade,
    Reason::RecycleRequests,
    Reason::RecycleLifetime,
    Reason::RecycleMemory,
    Reason::RecycleAsked,
    Reason::RecycleTimeout,
];

const LOSSES: [Loss; 4] = [Loss::Died, Loss::Hung, Loss::Late, Loss::NotStarted];

/// The ledger in memory. Zeros are a server that has just started.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Page {
    /// Odd while a worker is buried.
    version: AtomicU64,
    started: AtomicU64,
    stage: AtomicU32,
    /// 1 while another arbiter's workers serve as well.
    elsewhere: AtomicU32,
    workers: AtomicU32,
    /// Seats that somebody has had, so that the others need not be looked at.
    seats: AtomicU32,
    gone: Counts,
    replaced: [Counter; 16],
    lost: [Counter; LOSSES.len()],
    /// Clean, and cut.
    drains: [Counter; 2],
    delayed: Counter,
    strangers: AtomicI64,
}

#[cfg(test)]
#[path = "ledger/tests.rs"]
mod tests;
