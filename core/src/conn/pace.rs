//! How fast a transfer is, measured while its peer is waited for and at no other time.
//!
//! Whoever sends or takes a byte every now and then makes progress, and could hold a connection and a handler for as
//! long as it likes. So each transfer has the timeout of its kind and what its bytes have bought it at the least rate that
//! is accepted: one of `n` bytes is waited for no longer than timeout + `n` / rate in all.
//!
//! A wait is never charged with more than was left to it. A worker that was frozen, or is busy, finds bytes later than they came,
//! and nobody knows when that was: these and what they have bought count, whatever the time.

use std::time::Duration;

use crate::time::Time;

/// One transfer.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// What the peer has sent or taken.
    bytes: u64,
    /// How long it was waited for, up to the wait under way.
    waited: Duration,
    /// When that began, if there is one.
    since: Option<Time>,
    /// When it has used up what the transfer has, if that is limited.
    until: Option<Time>,
}

impl Pace {
    /// A transfer of which so many bytes have arrived already.
    pub(super) fn with(bytes: usize) -> Self {
        Self { bytes: bytes as u64, ..Self::default() }
    }

    /// There is nothing to do but wait for the peer: for `timeout`, and a second for each `rate` bytes that there were. If
    /// either is zero there is no limit.
    pub(super) fn wait(&mut self, now: Time, timeout: Duration, rate: u64) {
        if self.since.is_none() {
            self.since = Some(now);
            self.until = self.left(timeout, rate).map(|left| now + left);
        }
    }

    /// The wait is over, or is ours from here on.
    pub(super) fn pause(&mut self, now: Time) {
        if let Some(since) = self.since.take() {
            self.waited += self.until.take().map_or(now, |until| now.min(until)) - since;
        }
    }

    /// The peer has sent or taken `n` bytes.
    pub(super) fn advance(&mut self, n: usize, now: Time) {
        self.pause(now);
        self.bytes += n as u64;
    }

    /// When the wait under way has used up what the transfer has, if there is such a time.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.until
    }

    /// How long it may still be waited for: `timeout`, and a second for each `rate` bytes, less what it took.
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

    /// A handler that waits by itself may ask again before anybody has looked at the time.
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
