//! Connections that leave for another worker (D19): sent as long as the hand-off queue has room, and tried again a little
//! later while it has none.
//!
//! Whoever waits for room is still this worker's, and is served if its client speaks.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use super::handoff::{Outbox, SendError};
use crate::app::{Counters, Held};
use crate::machine::CloseReason;
use crate::session::Session;
use crate::time::Time;

/// How long a queue that was full is left alone.
const PAUSE: Duration = Duration::from_millis(2);

/// How long the queue may take nothing before those that wait for it stay, and the fallback policy decides about them.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many try again after a pause. The others wait for a further one, so that a queue that stays full costs little.
const TRY_AGAIN: u32 = 256;

/// A worker's way to the hand-off queue.
pub(super) struct Departures {
    outbox: Option<Outbox>,
    counters: Arc<Counters>,
    /// The queue had no room; it is tried again then.
    full_until: Time,
    /// Since when it has taken nothing, if so.
    full_since: Option<Time>,
    /// How many have been told to wait since.
    waiting: u32,
}

impl Departures {
    /// Through `outbox`; without one, nobody leaves.
    pub(super) fn new(outbox: Option<Outbox>, counters: Arc<Counters>) -> Self {
        Self { outbox, counters, full_until: Time::ZERO, full_since: None, waiting: 0 }
    }

    /// Hands `session` over with its `socket`; whether that was done. If it was, all that is left to do here is to let go of
    /// the socket: to stop watching it, **then** to close it, and never to shut it down. If not, the session knows when it may
    /// ask again, or that it stays.
    pub(super) fn send(&mut self, session: &mut Session, socket: BorrowedFd<'_>, now: Time) -> bool {
        let Some((outbox, record)) = self.outbox.as_ref().zip(session.hand_off(now)) else {
            session.stay();
            return false;
        };
        if now < self.full_until {
            self.hold_back(session, now);
            return false;
        }
        match outbox.send(socket, &record) {
            Ok(()) => {
                session.end(CloseReason::HandedOff);
                self.full_since = None;
                return true;
            }
            Err(error @ (SendError::Full | SendError::Exhausted)) => {
                let why = if matches!(error, SendError::Full) { Held::Full } else { Held::Exhausted };
                self.counters.held(why);
                (self.full_until, self.waiting) = (now + PAUSE, 0);
                self.full_since.get_or_insert(now);
                self.hold_back(session, now);
            }
            Err(error) => {
                tracing::warn!("{error}");
                self.counters.held(Held::Failed);
                session.stay();
            }
        }
        false
    }

    fn hold_back(&mut self, session: &mut Session, now: Time) {
        if self.full_since.is_some_and(|since| now - since >= PATIENCE) {
            self.counters.held(Held::Late);
            return session.stay();
        }
        session.hold_back(self.full_until + PAUSE * (self.waiting / TRY_AGAIN));
        self.waiting += 1;
    }
}

impl fmt::Debug for Departures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Departures").field("full_until", &self.full_until).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "departures/tests.rs"]
mod tests;
