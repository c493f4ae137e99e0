//! The pace of a transfer, measured only while its peer is waited for.
//!
//! A peer that sends or reads single bytes at intervals makes progress, and could hold a connection
//! and a handler without end. So each transfer has the timeout of its kind, plus the time that its
//! bytes need at the minimum rate: a transfer of `n` bytes is waited for no longer than timeout +
//! `n` / rate in all.
//!
//! A wait never counts for more than its remaining time. A worker that was frozen or busy finds
//! bytes later than they arrived, and the time of arrival is unknown: these bytes count, and so
//! does the time they bring, whatever the clock says.

use std::time::Duration;

use crate::time::Time;

/// The pace of one transfer.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// How many bytes the peer has sent or read.
    bytes: u64,
    /// How long the peer was waited for, up to the current wait.
    waited: Duration,
    /// When the current wait began, if there is one.
    since: Option<Time>,
    /// When the current wait has used up the transfer's time, if that is limited.
    until: Option<Time>,
}

impl Pace {
    /// A transfer whose first `bytes` have arrived already.
    pub(super) fn with(bytes: usize) -> Self {
        Self { bytes: bytes as u64, ..Self::default() }
    }

    /// Begins a wait for the peer: for `timeout`, and a second for each `rate` bytes so far. If
    /// either is zero there is no limit.
    pub(super) fn wait(&mut self, now: Time, timeout: Duration, rate: u64) {
        if self.since.is_none() {
            self.since = Some(now);
            self.until = self.left(timeout, rate).map(|left| now + left);
        }
    }

    /// Ends the wait, or continues it at the server's cost.
    pub(super) fn pause(&mut self, now: Time) {
        if let Some(since) = self.since.take() {
            self.waited += self.until.take().map_or(now, |until| now.min(until)) - since;
        }
    }

    /// The peer has sent or read `n` bytes.
    pub(super) fn advance(&mut self, n: usize, now: Time) {
        self.pause(now);
        self.bytes += n as u64;
    }

    /// When the current wait has used up the transfer's time, if it is limited.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.until
    }

    /// How long the peer may still be waited for: `timeout`, and a second for each `rate` bytes,
    /// less the time waited so far.
    fn left(&self, timeout: Duration, rate: u64) -> Option<Duration> {
        if rate == 0 || timeout.is_zero() {
            return None;
        }
        let bought = Duration::from_micros(self.bytes.saturating_mul(1_000_000) / rate);
        Some(timeout.saturating_add(bought).saturating_sub(self.waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{START, ms};

    /// A handler that waits by itself may ask again before the time is checked.
    #[test]
    fn asking_again_begins_no_other_wait() {
        let mut pace = Pace::with(0);
        let at = |seconds: u64| START + ms(1000 * seconds);
        pace.wait(at(0), ms(5000), 100);
        pace.pause(at(5));
        pace.wait(at(5), ms(5000), 100);
        assert_eq!(pace.deadline(), Some(at(5)));
        pace.pause(at(6));
        pace.advance(100, at(6));
        pace.wait(at(6), ms(5000), 100);
        assert_eq!(pace.deadline(), Some(at(7)));
    }
}
