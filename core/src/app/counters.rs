//! What a worker counts (D10): numbers of its own, or a place in memory that outlives it.

use std::ops::{AddAssign, Deref};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::machine::CloseReason;

/// What a worker counts, readable from any of its threads. In a server it is in memory that the worker shares with
/// the arbiter, which knows the numbers also when the worker has ended without a word.
#[derive(Debug)]
pub struct Counters(Place);

#[derive(Debug)]
enum Place {
    Own(Counts),
    Shared(&'static Counts),
}

impl Counters {
    /// Counts in `counts`.
    pub fn shared(counts: &'static Counts) -> Self {
        Self(Place::Shared(counts))
    }
}

/// Numbers that nobody else sees.
impl Default for Counters {
    fn default() -> Self {
        Self(Place::Own(Counts::default()))
    }
}

impl Deref for Counters {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        match &self.0 {
            Place::Own(counts) => counts,
            Place::Shared(counts) => counts,
        }
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// The numbers.
        #[derive(Debug, Default)]
        #[repr(C)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[$doc])+ pub $name: Counter,)+
        }

        /// How far the numbers have come.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct Tally {
            $($(#[$doc])+ pub $name: u64,)+
        }

        impl Counts {
            /// How far all of them have come.
            pub fn tally(&self) -> Tally {
                Tally { $($name: self.$name.get(),)+ }
            }

            /// Begins anew.
            #[cfg(feature = "worker")]
            pub(crate) fn clear(&self) {
                $(self.$name.0.store(0, Ordering::Relaxed);)+
            }
        }

        impl AddAssign for Tally {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

counts! {
    /// Connections accepted.
    accepted,
    /// Requests whose head was complete.
    requests,
    /// Requests answered to the last byte.
    finished,
    /// Responses that announced close because of a drain.
    announced,
    /// Connections closed while idle because of a drain.
    idle_closed,
    /// Connections that moved to another worker.
    handed,
    /// Requests that got no complete answer, whoever was to blame.
    aborted,
    /// Those of them that a drain's deadline cut.
    cut,
    /// Handlers that panicked.
    panics,
}

impl Tally {
    /// The worker has been ended: what it had neither finished nor aborted was aborted by that, or cut if it was
    /// draining.
    pub fn end(&mut self, draining: bool) {
        let lost = self.requests.saturating_sub(self.finished + self.aborted);
        self.aborted += lost;
        self.cut += if draining { lost } else { 0 };
    }
}

impl Counts {
    /// Counts a connection that has ended.
    pub fn closed(&self, reason: CloseReason) {
        match reason {
            CloseReason::Drained => self.announced.increment(),
            CloseReason::DrainIdle | CloseReason::DeadlineIdle => self.idle_closed.increment(),
            CloseReason::DeadlineCut => {
                self.aborted.increment();
                self.cut.increment();
            }
            CloseReason::PeerAborted
            | CloseReason::TransportFailed
            | CloseReason::TimedOut(_)
            | CloseReason::ApplicationFailed => self.aborted.increment(),
            _ => {}
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.next();
    }

    /// Adds one, and says how far that has brought it: each number is said once.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How far it has come.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
