//! Ownership of a connection while a blocking handler runs: it expires when the handler's time is
//! over.
//!
//! A thread cannot be stopped. When the time of its handler is over, the connection can be taken
//! away from it: the loop then answers the client, and every further read or write of the handler
//! fails. So a thread holds its job in a [`Lease`], and locks it only for the duration of a read or
//! a write, which ends by itself when the time is over.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use crate::machine::Transport;
use crate::session::Session;
use crate::time::Time;
use crate::worker::connections::Active;

/// How soon an expired lease that is locked by a read or a write is looked at again.
const AGAIN: Duration = Duration::from_millis(2);

/// A connection whose exchange can be leased, with its transport.
///
/// ```
/// use std::os::fd::{AsFd, AsRawFd, RawFd};
///
/// use remuda_core::worker::handlers::Leased;
///
/// /// The number of the socket, for a log line.
/// fn descriptor(leased: &mut impl Leased) -> RawFd {
///     leased.active().io.transport().as_fd().as_raw_fd()
/// }
/// ```
pub trait Leased: Send {
    /// The transport of the connection.
    type Transport: Transport + AsFd;

    /// The connection.
    fn active(&mut self) -> &mut Active<Session, Self::Transport>;
}

/// The place of one job, from which it can be taken away.
pub struct Lease<J> {
    job: Mutex<Option<J>>,
    /// When the running handler's time is over, in nanoseconds of [`Time`].
    due: AtomicU64,
}

impl<J> Lease<J> {
    /// An empty lease.
    pub fn new() -> Self {
        Self { job: Mutex::new(None), due: AtomicU64::new(u64::MAX) }
    }

    /// Stores `job`. It does not expire before the thread that runs the handler has set when it is
    /// due.
    pub fn put(&self, job: J) {
        let mut place = self.lock();
        self.set_due(None);
        *place = Some(job);
    }

    /// Takes the job back, unless it has been taken away.
    pub fn take(&self) -> Option<J> {
        let mut place = self.lock();
        self.set_due(None);
        place.take()
    }

    /// Runs `work` on the job, if it has not been taken away. It is not taken away meanwhile.
    pub fn work<R>(&self, work: impl FnOnce(&mut J) -> R) -> Option<R> {
        self.lock().as_mut().map(work)
    }

    /// Sets when the lease expires. Called by the thread that runs the handler.
    pub(in crate::worker) fn set_due(&self, due: Option<Time>) {
        self.due.store(due.unwrap_or(Time::MAX).as_nanos(), Ordering::Relaxed);
    }

    /// Takes the job away, if the lease has expired by `now`.
    pub(in crate::worker) fn take_overdue(&self, now: Time) -> Option<J> {
        if self.due() > now {
            return None;
        }
        let mut job = match self.job.try_lock() {
            Ok(job) => job,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        // Meanwhile another job may have been stored, or the limit lifted.
        if self.due() > now {
            return None;
        }
        self.set_due(None);
        job.take()
    }

    /// When to look at the lease again: no job stored from now on can expire within `limit`.
    pub(in crate::worker) fn next_look(&self, now: Time, limit: Duration) -> Time {
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

impl<J> Default for Lease<J> {
    fn default() -> Self {
        Self::new()
    }
}

impl<J> fmt::Debug for Lease<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("due", &self.due()).finish_non_exhaustive()
    }
}

/// The leases of all threads of a worker.
#[derive(Debug)]
pub struct Leases<J> {
    all: Vec<Arc<Lease<J>>>,
    /// How long a handler may take; zero: no limit.
    limit: Duration,
}

impl<J> Leases<J> {
    /// No leases yet. A handler may take as long as `limit`; zero: no limit.
    pub fn new(limit: Duration) -> Self {
        Self { all: Vec::new(), limit }
    }

    /// A lease with `job` in it. A lease without another owner is reused.
    pub fn lease(&mut self, job: J) -> Arc<Lease<J>> {
        let free = self.all.iter().find(|lease| Arc::strong_count(lease) == 1);
        let lease = free.cloned().unwrap_or_else(|| {
            let lease = Arc::new(Lease::new());
            self.all.push(lease.clone());
            lease
        });
        lease.put(job);
        lease
    }

    /// Takes away a job whose lease has expired by `now`, if there is one.
    pub fn take_overdue(&self, now: Time) -> Option<J> {
        if self.limit.is_zero() {
            return None;
        }
        self.all.iter().find_map(|lease| lease.take_overdue(now))
    }

    /// When to call [`take_overdue`](Self::take_overdue) again; none: never.
    pub fn next_look(&self, now: Time) -> Option<Time> {
        if self.limit.is_zero() {
            return None;
        }
        let looks = self.all.iter().map(|lease| lease.next_look(now, self.limit));
        Some(looks.min().unwrap_or(now + self.limit))
    }
}

#[cfg(test)]
mod tests;
