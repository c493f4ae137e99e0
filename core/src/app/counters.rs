//! What a worker counts (D10): numbers of its own, or a place in memory that outlives it.

use std::array;
use std::ops::{AddAssign, Deref};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::conn::Overdue;
use crate::machine::CloseReason;

/// What a worker counts, readable from any of its threads. In a server it is in memory that the worker shares with
/// the arbiter, which knows the numbers also when the worker has ended without a word.
#[derive(Debug)]
pub struct Counters(Place);

#[derive(Debug)]
enum Place {
    Own(Box<Counts>),
    Shared(&'static Counts),
    /// Those of a worker, once this process is one; its own until then.
    Later(Box<Counts>, OnceLock<Arc<Counters>>),
}

impl Counters {
    /// Counts in `counts`.
    pub fn shared(counts: &'static Counts) -> Self {
        Self(Place::Shared(counts))
    }

    /// Those of the worker that this process becomes, which [`become_those_of`](Self::become_those_of) says.
    pub(super) fn later() -> Self {
        Self(Place::Later(Box::default(), OnceLock::new()))
    }

    pub(super) fn become_those_of(&self, worker: Arc<Self>) {
        if let Place::Later(_, of_worker) = &self.0 {
            of_worker.get_or_init(|| worker);
        }
    }
}

/// Numbers that nobody else sees.
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
        /// The numbers.
        #[derive(Debug, Default)]
        #[repr(C)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[$doc])+ pub $name: Counter,)+
            $($(#[$list_doc])+ pub $list: [Counter; $len],)+
        }

        /// How far the numbers have come.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct Tally {
            $($(#[$doc])+ pub $name: u64,)+
            $($(#[$list_doc])+ pub $list: [u64; $len],)+
        }

        impl Counts {
            /// How far all of them have come.
            pub fn tally(&self) -> Tally {
                Tally {
                    $($name: self.$name.get(),)+
                    $($list: array::from_fn(|i| self.$list[i].get()),)+
                }
            }

            /// Counts on from what others have counted.
            #[cfg(feature = "worker")]
            pub(crate) fn add(&self, tally: &Tally) {
                $(self.$name.add(tally.$name);)+
                $(self.$list.iter().zip(tally.$list).for_each(|(counter, n)| counter.add(n));)+
            }

            /// Begins anew.
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
    /// Connections accepted, or passed on by who accepts for others.
    accepted,
    /// Connections that came from another worker.
    adopted,
    /// Connections that have ended here, in whatever way but by moving.
    ended,
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
    /// Those of `requests` whose handler took longer than it may: answered 503, or cut.
    timed_out,
    /// Connections that ended because a request was refused, with a response that says why.
    refused,
    /// Those of `requests` that were refused: the head was complete, and what came after it was not right.
    rejected,
    /// Nanoseconds that all of the finished ones took together.
    took,
    /// Messages of the hand-off queue that were no connection, or none that this program knows how to go on with.
    unusable,
    /// Nanoseconds that the adopted ones spent in the hand-off queue together.
    queued,
    ;
    /// Hand-offs that did not come about, by [`Held`].
    held: HELD.len(),
    /// Finished and rejected requests, and those answered 503 because they took too long, by the class of their status:
    /// 1xx first, 5xx last.
    statuses: 5,
    /// Finished requests by the time that they took: each is counted in the first bucket of [`BUCKETS`] that it is not
    /// longer than, or behind them all.
    times: BUCKETS.len() + 1,
}

/// Why a connection was not handed off when it was to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(clippy::exhaustive_enums, reason = "what sendmsg(2) may say, and for how long")]
pub enum Held {
    /// The queue was full, and was tried again.
    Full = 0,
    /// Too many descriptors were on their way, or memory was short; it was tried again.
    Exhausted = 1,
    /// One of these for so long that the connection has stayed.
    Late = 2,
    /// It could not be sent at all, and has stayed.
    Failed = 3,
}

/// All of them.
pub const HELD: [Held; 4] = [Held::Full, Held::Exhausted, Held::Late, Held::Failed];

/// The upper bounds of the buckets that requests are counted in by the time they took. That is the time from the end of
/// the head to the end of the response being queued, as the clock of the loop has it, which is read once a turn.
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
    /// Connections that have left workers through the hand-off queue, less those that have come out of it: those that are on
    /// their way, as long as only these workers use it.
    pub fn in_queue(&self) -> i64 {
        self.handed.wrapping_sub(self.adopted + self.unusable).cast_signed()
    }

    /// Connections that workers have taken on, and that have neither ended nor left: those that are open.
    pub fn in_hand(&self) -> i64 {
        (self.accepted + self.adopted).wrapping_sub(self.ended + self.handed).cast_signed()
    }

    /// The worker has been ended: what it had neither finished nor aborted was aborted by that, or cut if it was
    /// draining.
    pub fn end(&mut self, draining: bool) {
        let lost = self.requests.saturating_sub(self.finished + self.aborted);
        self.aborted += lost;
        self.cut += if draining { lost } else { 0 };
        self.ended = (self.accepted + self.adopted).saturating_sub(self.handed);
    }
}

impl Counts {
    /// Counts a request that was answered to the last byte.
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

    /// Counts a request whose handler took longer than it may.
    pub(crate) fn timed_out(&self, how: Overdue) {
        self.timed_out.increment();
        if how == Overdue::Told {
            self.answered(503);
        }
    }

    fn answered(&self, status: u16) {
        if let Some(counter) =
            usize::from(status / 100).checked_sub(1).and_then(|class| self.statuses.get(class))
        {
            counter.increment();
        }
    }

    /// Counts a hand-off that did not come about.
    #[cfg(feature = "worker")]
    pub(crate) fn held(&self, why: Held) {
        self.held[why as usize].increment();
    }

    /// Counts a connection that has ended, or moved.
    pub fn closed(&self, reason: CloseReason) {
        match reason {
            CloseReason::HandedOff => return self.handed.increment(),
            CloseReason::Drained => self.announced.increment(),
            CloseReason::Refused => self.refused.increment(),
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
        self.ended.increment();
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

    /// Adds `n`.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// How far it has come.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
