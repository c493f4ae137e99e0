//! How fast a transfer is, measured while its peer is waited for and at no other time.
//!
//! Whoever sends or takes a byte every now and then makes progress, and could hold a connection and a handler for as
//! long as it likes. So each transfer has the timeout of its kind and what its bytes have bought it at the least rate that
//! is accepted: one of `n` bytes is waited for no longer than timeout + `n` / rate in all.

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
}

impl Pace {
    /// A transfer of which so many bytes have arrived already.
    pub(super) fn with(bytes: usize) -> Self {
        Self { bytes: bytes as u64, ..Self::default() }
    }

    /// There is nothing to do but wait for the peer.
    pub(super) fn wait(&mut self, now: Time) {
        self.since.get_or_insert(now);
    }

    /// The wait is over, or is ours from here on.
    pub(super) fn pause(&mut self, now: Time) {
        if let Some(since) = self.since.take() {
            self.waited += now - since;
        }
    }

    /// The peer has sent or taken `n` bytes.
    pub(super) fn advance(&mut self, n: usize, now: Time) {
        self.pause(now);
        self.bytes += n as u64;
    }

    /// When the wait under way has used up what the transfer has: `timeout`, and a second for each `rate` bytes. Without
    /// either of them there is no such time.
    pub(super) fn deadline(&self, timeout: Duration, rate: u64) -> Option<Time> {
        let since = self.since.filter(|_| rate > 0 && !timeout.is_zero())?;
        let bought = u128::from(self.bytes) * 1_000_000_000 / u128::from(rate);
        let bought = Duration::from_nanos(bought.try_into().unwrap_or(u64::MAX));
        Some(since + timeout.saturating_add(bought).saturating_sub(self.waited))
    }
}
