//! The counters of a worker (D10): in its own memory, or in memory that outlives it.

use std::array;
use std::ops::{AddAssign, Deref};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::machine::CloseReason;

/// The counters of a worker, readable from any of its threads. In a server they are in memory
/// shared with the arbiter, which can read them after any end of the worker.
#[derive(Debug)]
pub struct Counters(Place);

#[derive(Debug)]
enum Place {
    Own(Box<Counts>),
    Shared(&'static Counts),
    /// Those of the worker that this process becomes, and its own until then.
    Later(Box<Counts>, OnceLock<Arc<Counters>>),
}

impl Counters {
    /// Counters in `counts`.
    pub fn shared(counts: &'static Counts) -> Self {
        Self(Place::Shared(counts))
    }

    /// Counters of the worker that this process will become, see
    /// [`become_those_of`](Self::become_those_of).
    pub(super) fn later() -> Self {
        Self(Place::Later(Box::default(), OnceLock::new()))
    }

    pub(super) fn become_those_of(&self, worker: Arc<Self>) {
        if let Place::Later(_, of_worker) = &self.0 {
            of_worker.get_or_init(|| worker);
        }
    }
}

/// Counters in memory of this process only.
impl Default for Counters {
    fn default() -> Self {
        Self(Place::Own(Box::default()))
    }
}

impl Deref for Counters {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        match &self.0 {
            Place::Own(counts) => counts,
            Place::Shared(counts) => counts,
            Place::Later(own, of_worker) => of_worker.get().map_or(own, |counters| counters),
        }
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])+ $name:ident,)+; $($(#[$list_doc:meta])+ $list:ident: $len:expr,)+) => {
        /// The counters.
        #[derive(Debug, Default)]
        #[repr(C)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[$doc])+ pub $name: Counter,)+
            $($(#[$list_doc])+ pub $list: [Counter; $len],)+
        }

        /// A snapshot of the counters.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct Tally {
            $($(#[$doc])+ pub $name: u64,)+
            $($(#[$list_doc])+ pub $list: [u64; $len],)+
        }

        impl Counts {
            /// A snapshot of all counters.
            pub fn tally(&self) -> Tally {
                let tally = Tally {
                    $($name: self.$name.get(),)+
                    $($list: array::from_fn(|i| self.$list[i].get()),)+
                };
                // Read last, so that a concurrent count never shows more answered requests than
                // requests.
                fence(Ordering::Acquire);
                Tally { requests: self.requests.get(), ..tally }
            }

            /// Adds the counts of another worker.
            #[cfg(feature = "worker")]
            pub(crate) fn add(&self, tally: &Tally) {
                $(self.$name.add(tally.$name);)+
                $(self.$list.iter().zip(tally.$list).for_each(|(counter, n)| counter.add(n));)+
            }

            /// Resets all counters.
            #[cfg(feature = "worker")]
            pub(crate) fn clear(&self) {
                $(self.$name.0.store(0, Ordering::Relaxed);)+
                $(self.$list.iter().for_each(|counter| counter.0.store(0, Ordering::Relaxed));)+
            }
        }

        impl AddAssign for Tally {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)+
                $(self.$list.iter_mut().zip(other.$list).for_each(|(n, more)| *n += more);)+
            }
        }
    };
}

counts! {
    /// Connections accepted, or passed on by the arbiter, which accepted them.
    accepted,
    /// Connections received from another worker.
    adopted,
    /// Connections that ended here, except by moving.
    ended,
    /// Requests with a complete, valid head. Each is in flight until it is one of the
    /// [answered](Tally::answered) ones, or one of `aborted`.
    requests,
    /// Requests that the application has answered, and whose response was sent completely.
    finished,
    /// Responses that announced close because of a drain.
    announced,
    /// Connections closed while idle because of a drain.
    idle_closed,
    /// Connections that moved to another worker.
    handed,
    /// Requests without a complete response, for any reason, or with only the 503 of a drain's
    /// deadline.
    aborted,
    /// Those of `aborted` that a drain's deadline has cut, or answered.
    cut,
    /// Handlers that panicked.
    panics,
    /// Requests whose handler exceeded its timeout: answered with 503, or cut.
    timed_out,
    /// Connections that ended because a request was refused, with a response that gives the reason.
    refused,
    /// Requests that were refused after a valid head, with a response that gives the reason.
    rejected,
    /// The sum of the durations of finished requests, in nanoseconds.
    took,
    /// Messages of the hand-off queue without a connection, or with one that this program cannot
    /// resume.
    unusable,
    /// The sum of the times that adopted connections spent in the hand-off queue, in nanoseconds.
    queued,
    /// Connections that the worker's keeper has handed to other workers, after the worker's sudden
    /// end.
    rescued,
    /// Those of `aborted` whose client the keeper has answered, with 500 or 503.
    rescue_answered,
    /// Those of `aborted` whose response had begun, and which the keeper has cut.
    rescue_cut,
    /// Connections that the keeper has not found.
    rescue_lost,
    ;
    /// Hand-offs that failed, by [`Held`].
    held: HELD.len(),
    /// Answered requests by the class of their status: 1xx first, 5xx, then all others. Answered
    /// are `finished` and `rejected` ones, and those with 503 for a timeout.
    statuses: 6,
    /// Finished requests by their duration: each is counted in the first bucket of [`BUCKETS`] that
    /// is not shorter, or after the last.
    times: BUCKETS.len() + 1,
}

/// Why a connection was not handed off when the policy wanted it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "what sendmsg(2) may say, and for how long")]
pub enum Held {
    /// The queue was full. The hand-off is tried again.
    Full = 0,
    /// Too many descriptors were in flight, or memory was short. The hand-off is tried again.
    Exhausted = 1,
    /// One of these lasted so long that the connection stays.
    Late = 2,
    /// It could not be sent at all, and stays.
    Failed = 3,
}

/// All reasons.
pub const HELD: [Held; 4] = [Held::Full, Held::Exhausted, Held::Late, Held::Failed];

/// The upper bounds of the buckets of request durations: from the end of the head, by the clock of
/// the loop, which is read once a turn, until the last byte of the response was given to the
/// kernel.
pub const BUCKETS: [Duration; 13] = [
    Duration::from_micros(1_000),
    Duration::from_micros(2_500),
    Duration::from_micros(5_000),
    Duration::from_micros(10_000),
    Duration::from_micros(25_000),
    Duration::from_micros(50_000),
    Duration::from_micros(100_000),
    Duration::from_micros(250_000),
    Duration::from_micros(500_000),
    Duration::from_micros(1_000_000),
    Duration::from_micros(2_500_000),
    Duration::from_micros(5_000_000),
    Duration::from_micros(10_000_000),
];

impl Tally {
    /// Connections that workers have put into the hand-off queue, less those received from it: the
    /// connections in the queue, as long as only these workers use it.
    pub fn in_queue(&self) -> i64 {
        self.handed.wrapping_sub(self.adopted + self.unusable).cast_signed()
    }

    /// Open connections: accepted or received by workers, and neither ended nor moved.
    pub fn in_hand(&self) -> i64 {
        (self.accepted + self.adopted).wrapping_sub(self.ended + self.handed).cast_signed()
    }

    /// Requests that were answered, and whose response was sent completely.
    pub fn answered(&self) -> u64 {
        self.statuses.iter().sum()
    }

    /// Requests in flight: neither answered nor aborted.
    pub fn in_flight(&self) -> u64 {
        self.requests.saturating_sub(self.answered() + self.aborted)
    }

    /// Accounts for the worker's end: its requests in flight count as aborted, and as cut if it was
    /// draining.
    pub fn end(&mut self, draining: bool) {
        let lost = self.in_flight();
        self.aborted += lost;
        self.cut += if draining { lost } else { 0 };
        self.ended = (self.accepted + self.adopted).saturating_sub(self.handed);
    }
}

impl Counts {
    /// Counts a request that the application has answered.
    #[inline]
    pub(crate) fn finished(&self, status: u16, took: Duration) {
        self.finished.increment();
        self.took.add(took.as_nanos() as u64);
        self.times[BUCKETS.iter().take_while(|bound| took > **bound).count()].increment();
        self.answered(status);
    }

    /// Counts a request that was refused after its head was complete.
    pub(crate) fn rejected(&self, status: u16) {
        self.rejected.increment();
        self.answered(status);
    }

    /// Counts a request without a complete response, and whether a drain's deadline is the reason.
    pub(crate) fn aborted(&self, by_drain: bool) {
        // A reader that sees this count also sees the request's.
        fence(Ordering::Release);
        self.aborted.increment();
        if by_drain {
            self.cut.increment();
        }
    }

    /// Counts a request by the status of its response.
    pub(crate) fn answered(&self, status: u16) {
        let others = self.statuses.len() - 1;
        let class = usize::from(status / 100).checked_sub(1).filter(|class| *class < others);
        fence(Ordering::Release);
        self.statuses[class.unwrap_or(others)].increment();
    }

    /// Counts a hand-off that failed.
    #[cfg(feature = "worker")]
    pub(crate) fn held(&self, why: Held) {
        self.held[why as usize].increment();
    }

    /// Counts a connection that has ended, or moved. The session counts its requests.
    pub fn closed(&self, reason: CloseReason) {
        match reason {
            CloseReason::HandedOff => return self.handed.increment(),
            CloseReason::Drained => self.announced.increment(),
            CloseReason::Refused => self.refused.increment(),
            CloseReason::DrainIdle | CloseReason::DeadlineIdle => self.idle_closed.increment(),
            _ => {}
        }
        self.ended.increment();
    }
}

/// A counter that only grows.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.next();
    }

    /// Adds one, and returns the new value. Each value is returned once.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Adds `n`.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
