//! The clock of a loop: the time of a turn, and the date of a second.

use std::time::Duration;

use super::sys;
use crate::http1::HttpDate;
use crate::time::Time;

/// Reads `CLOCK_MONOTONIC` once a turn, and formats the wall clock once a second.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    now: Time,
    date: HttpDate,
    /// When the wall clock's next second begins.
    stale: Time,
}

impl Clock {
    /// A clock that shows the present.
    pub fn new() -> Self {
        let mut clock = Self { now: Time::ZERO, date: HttpDate::from_unix(0), stale: Time::ZERO };
        clock.tick();
        clock
    }

    /// Reads the time again.
    pub fn tick(&mut self) -> Time {
        self.now = sys::now();
        if self.now >= self.stale {
            let wall = sys::wall_clock();
            self.date = HttpDate::from_unix(wall.as_secs());
            self.stale =
                self.now + (Duration::from_secs(1) - Duration::from_nanos(wall.subsec_nanos().into()));
        }
        self.now
    }

    /// The time of the last [`tick`](Self::tick).
    pub fn now(&self) -> Time {
        self.now
    }

    /// The date at that time.
    pub fn date(&self) -> &HttpDate {
        &self.date
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
