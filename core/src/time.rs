//! Points in time, shared by all processes of one server.
//!
//! A [`Time`] is a reading of `CLOCK_MONOTONIC`, which all processes of a machine share, so a
//! deadline can be sent to another process. This module reads no clock: the caller of a machine
//! passes `now`, and a test may run a day in a millisecond.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time: nanoseconds of `CLOCK_MONOTONIC` (clock_gettime(2)).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// The machine's boot, before anything that this program observes.
    pub const ZERO: Self = Self(0);

    /// The latest point: a deadline of `MAX` never passes.
    pub const MAX: Self = Self(u64::MAX);

    /// The point `nanos` nanoseconds after the clock's zero.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's zero.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is. Zero if it is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Later by a duration; saturates at [`Time::MAX`].
impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, length: Duration) -> Self {
        let nanos =
            length.as_secs().saturating_mul(1_000_000_000).saturating_add(length.subsec_nanos().into());
        Self(self.0.saturating_add(nanos))
    }
}

/// The duration between two points. Zero if the right one is later.
impl Sub for Time {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}
