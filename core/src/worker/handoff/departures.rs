//! Sending connections to other workers (D19), as long as the hand-off queue has room; while it is
//! full, they are tried again a little later.
//!
//! A connection that waits for room is still this worker's, and is served if its client sends a
//! request.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use super::queue::{Outbox, SendError};
use crate::app::{Counters, Held};
use crate::machine::CloseReason;
use crate::rescue::Entry;
use crate::session::Protocol;
use crate::time::Time;

/// How long a full queue is left alone.
const PAUSE: Duration = Duration::from_millis(2);

/// How long the queue may stay full before waiting connections stay here, and the fallback policy
/// decides about them.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many connections try again after a pause. Further ones wait for another pause, so that a
/// queue that stays full costs little.
const TRY_AGAIN: u32 = 256;

/// Sends a worker's connections to the hand-off queue.
pub(in crate::worker) struct Departures {
    outbox: Option<Outbox>,
    counters: Arc<Counters>,
    /// The queue was full; it is tried again at this time.
    full_until: Time,
    /// Since when the queue has been full, if it is.
    full_since: Option<Time>,
    /// How many connections have been delayed since then.
    waiting: u32,
}

impl Departures {
    /// Sends through `outbox`; without one, every connection stays.
    pub(in crate::worker) fn new(outbox: Option<Outbox>, counters: Arc<Counters>) -> Self {
        Self { outbox, counters, full_until: Time::ZERO, full_since: None, waiting: 0 }
    }

    /// Sends `session` with its `socket`, and returns whether it was sent. If it was, the caller
    /// deregisters the socket **before** closing it, and never shuts it down. If not, the session
    /// knows when it may try again, or that it stays.
    pub(in crate::worker) fn send(
        &mut self,
        session: &mut impl Protocol,
        socket: BorrowedFd<'_>,
        entry: Entry,
        now: Time,
    ) -> bool {
        let Some((outbox, record)) = self.outbox.as_ref().zip(session.hand_off(now)) else {
            session.refuse_handoff();
            return false;
        };
        // A full queue is not tried for each connection: that would cost a call each.
        if now < self.full_until {
            self.hold_back(session, now);
            return false;
        }
        // From here on the connection is the receiver's: a keeper must not send it again.
        entry.clear();
        match outbox.send(socket, &record) {
            Ok(()) => {
                session.end(CloseReason::HandedOff);
                self.full_since = None;
                return true;
            }
            // Room returns as receivers take connections, so only time can end this pause.
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
                session.refuse_handoff();
            }
        }
        false
    }

    fn hold_back(&mut self, session: &mut impl Protocol, now: Time) {
        if self.full_since.is_some_and(|since| now - since >= PATIENCE) {
            self.counters.held(Held::Late);
            return session.refuse_handoff();
        }
        session.delay_handoff(self.full_until + PAUSE * (self.waiting / TRY_AGAIN));
        self.waiting += 1;
    }
}

impl fmt::Debug for Departures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Departures").field("full_until", &self.full_until).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
