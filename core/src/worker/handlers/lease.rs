//! Where a connection lies while a blocking handler works at it on a thread, and may be taken away from it.
//!
//! A thread cannot be stopped. When its handler has had its time, what can be done is to take the connection: its client is
//! answered by others, and whatever the handler still does with it fails. So a thread has its job on a [`Desk`], and takes
//! hold of it for as long as a read or a write lasts, which ends by itself when the time is over.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::intake::Active;
use crate::machine::Transport;
use crate::session::Session;
use crate::time::Time;

/// Who is found in the middle of a read or a write when its time is over is looked at again after this.
const AGAIN: Duration = Duration::from_millis(2);

/// What lies on a desk: a connection, with what else belongs to it.
pub trait Piece: Send {
    /// What its bytes travel through.
    type Transport: Transport + AsFd;

    /// The connection.
    fn active(&mut self) -> &mut Active<Session, Self::Transport>;
}

/// A place for one job.
pub struct Desk<J> {
    job: Mutex<Option<J>>,
    /// When the handler at work has had its time, in nanoseconds of [`Time`].
    due: AtomicU64,
}

impl<J> Desk<J> {
    /// An empty one.
    pub fn new() -> Self {
        Self { job: Mutex::new(None), due: AtomicU64::new(u64::MAX) }
    }

    /// Puts `job` on it. Nobody takes it away before whoever works at it has said when it is due.
    pub fn put(&self, job: J) {
        let mut place = self.lock();
        self.set_due(None);
        *place = Some(job);
    }

    /// Takes the job back, if nobody has taken it away.
    pub fn take(&self) -> Option<J> {
        let mut place = self.lock();
        self.set_due(None);
        place.take()
    }

    /// Works at the job, if it is there. Nobody takes it away meanwhile.
    pub fn work<R>(&self, work: impl FnOnce(&mut J) -> R) -> Option<R> {
        self.lock().as_mut().map(work)
    }

    /// The job may be taken away from `due` on. Said by who works at it.
    pub(super) fn set_due(&self, due: Option<Time>) {
        self.due.store(due.unwrap_or(Time::MAX).as_nanos(), Ordering::Relaxed);
    }

    /// Takes the job away, if its handler has had its time by `now`.
    pub(super) fn take_overdue(&self, now: Time) -> Option<J> {
        if self.due() > now {
            return None;
        }
        let mut job = match self.job.try_lock() {
            Ok(job) => job,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        // Another job may have come, or the limit been lifted.
        if self.due() > now {
            return None;
        }
        self.set_due(None);
        job.take()
    }

    /// When to look at it again: no job that is put there from now on can be overdue within `limit`.
    pub(super) fn next_look(&self, now: Time, limit: Duration) -> Time {
        match self.due() {
            due if due > now => due.min(now + limit),
            _ => now + AGAIN,
        }
    }

    fn due(&self) -> Time {
        Time::from_nanos(self.due.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Option<J>> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> Default for Desk<J> {
    fn default() -> Self {
        Self::new()
    }
}

impl<J> fmt::Debug for Desk<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("due", &self.due()).finish_non_exhaustive()
    }
}

/// The desks of all threads of a worker.
#[derive(Debug)]
pub struct Desks<J> {
    all: Vec<Arc<Desk<J>>>,
    /// What handlers may take; zero: no limit.
    limit: Duration,
}

impl<J> Desks<J> {
    /// None so far, for handlers that may take as long as `limit`; zero: no limit.
    pub fn new(limit: Duration) -> Self {
        Self { all: Vec::new(), limit }
    }

    /// A desk with `job` on it. It is used again when nobody else holds it.
    pub fn lay(&mut self, job: J) -> Arc<Desk<J>> {
        let free = self.all.iter().find(|desk| Arc::strong_count(desk) == 1);
        let desk = free.cloned().unwrap_or_else(|| {
            let desk = Arc::new(Desk::new());
            self.all.push(desk.clone());
            desk
        });
        desk.put(job);
        desk
    }

    /// Takes a job away whose handler has had its time by `now`, if there is one.
    pub fn take_overdue(&self, now: Time) -> Option<J> {
        if self.limit.is_zero() {
            return None;
        }
        self.all.iter().find_map(|desk| desk.take_overdue(now))
    }

    /// When to look for one again; none: never.
    pub fn next_look(&self, now: Time) -> Option<Time> {
        if self.limit.is_zero() {
            return None;
        }
        let looks = self.all.iter().map(|desk| desk.next_look(now, self.limit));
        Some(looks.min().unwrap_or(now + self.limit))
    }
}

#[cfg(test)]
#[path = "lease/tests.rs"]
mod tests;
