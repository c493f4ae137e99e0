//! How long the gate of a TCP listener stays shut (D4): until every handshake that was open when it
//! was shut is over.
//!
//! Pure: open handshakes and the time are arguments.

use std::io;
use std::time::Duration;

use remuda_core::time::Time;

use crate::handshakes::Handshake;

/// The wait at the gate of one address.
#[derive(Debug)]
pub(super) struct Wait {
    shut_at: Time,
    /// When to list open handshakes next.
    look_at: Time,
    /// The latest end.
    until: Time,
    /// Handshakes that were open at every look so far. None before the first look.
    open: Option<Vec<Handshake>>,
    /// The end, if no handshake is open or they cannot be listed.
    over_at: Option<Time>,
}

/// The time before the first look. A SYN that the kernel was processing when the gate was shut is
/// visible by then. Handshakes answered by a SYN cookie, which are not stored, have this time to
/// complete.
const FLOOR: Duration = Duration::from_millis(2);

/// The time between a look that found no open handshake and the last accept: the kernel may be
/// about to queue a connection.
const LAST: Duration = Duration::from_millis(1);

/// The longest wait. A client whose SYN was dropped sends it again after 1 s, and is refused then.
const CAP: Duration = Duration::from_millis(500);

/// The longest wait of a hurried stop or without a gate, and the whole wait if open handshakes
/// cannot be listed. D3 allows 50 ms.
pub(super) const BRIEF: Duration = Duration::from_millis(40);

impl Wait {
    /// Begins the wait: the gate was just shut.
    pub(super) fn new(now: Time) -> Self {
        Self { shut_at: now, look_at: now + FLOOR, until: now + CAP, open: None, over_at: None }
    }

    /// Lists open handshakes by `look`, if that is due.
    pub(super) fn look(&mut self, now: Time, look: impl FnOnce() -> io::Result<Vec<Handshake>>) {
        if now < self.look_at || self.over_at.is_some() {
            return;
        }
        self.look_now(now, look);
        let pace = (now - self.shut_at) / 8;
        let pace = pace.clamp(Duration::from_millis(2), Duration::from_millis(10));
        self.look_at = self.until.min(now + pace).max(now);
    }

    /// Lists open handshakes at any time. Returns how many are left, as far as that is known.
    pub(super) fn look_now(&mut self, now: Time, look: impl FnOnce() -> io::Result<Vec<Handshake>>) -> usize {
        match look() {
            Ok(mut now_open) => {
                now_open.sort_unstable();
                let open = match self.open.take() {
                    None => now_open,
                    Some(mut open) => {
                        open.retain(|open| now_open.binary_search(open).is_ok());
                        open
                    }
                };
                self.over_at = open.is_empty().then(|| now + LAST);
                self.open.insert(open).len()
            }
            Err(error) => {
                tracing::debug!("cannot list open handshakes: {error}");
                self.open = None;
                self.over_at = Some(now.max(self.shut_at + BRIEF));
                0
            }
        }
    }

    /// Limits the wait to [`BRIEF`] after the gate was shut: for a hurried stop, and without a
    /// gate.
    pub(super) fn shorten(&mut self) {
        self.until = self.until.min(self.shut_at + BRIEF);
        self.look_at = self.look_at.min(self.until);
    }

    /// Whether the listener may end, once its queue is empty.
    pub(super) fn is_over(&self, now: Time) -> bool {
        self.until <= now || self.over_at.is_some_and(|at| at <= now)
    }

    /// Whether the listener may end even if its queue is not empty.
    pub(super) fn is_late(&self, now: Time) -> bool {
        self.until <= now
    }

    /// When the next change is due. In the past once the wait is over.
    pub(super) fn deadline(&self) -> Time {
        self.over_at.unwrap_or(self.look_at).min(self.until)
    }

    /// Handshakes that were open at the last look.
    pub(super) fn left(&self) -> usize {
        self.open.as_ref().map_or(0, Vec::len)
    }

    /// How long the gate has been shut.
    pub(super) fn lasted(&self, now: Time) -> Duration {
        now - self.shut_at
    }
}

#[cfg(test)]
mod tests;
