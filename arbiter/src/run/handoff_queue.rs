//! The hand-off queue in the arbiter, and its watchdog: a connection that waits for long is logged
//! (D19).

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use remuda_core::time::Time;
use remuda_core::worker::handoff::{self, Outbox};
use remuda_core::worker::sys::now;
use tracing::{debug, info, warn};

use super::Host;
use crate::supervisor::Supervisor;

/// Both ends of the queue. They stay open in the arbiter, so that queued connections outlive any
/// worker. A worker keeps them, every other child closes them.
pub(super) struct HandoffQueue {
    pub(super) outbox: Outbox,
    pub(super) inbox: OwnedFd,
    pub(super) watchdog: QueueWatchdog,
}

impl HandoffQueue {
    /// Takes the queue that another arbiter shares, or creates one, for records of this version.
    pub(super) fn new(inherited: Option<(Outbox, OwnedFd)>, version: u16) -> io::Result<Self> {
        let (outbox, inbox) = match inherited {
            Some(queue) => queue,
            None => handoff::queue()?,
        };
        Ok(Self { outbox: outbox.writing(version), inbox, watchdog: QueueWatchdog::default() })
    }

    pub(super) fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.outbox.as_fd(), self.inbox.as_fd()]
    }

    /// Returns both ends. Called in a worker.
    pub(super) fn in_worker(self) -> (Outbox, OwnedFd) {
        (self.outbox, self.inbox)
    }
}

/// How long a connection may wait in the queue. A serving worker receives it much sooner.
const PATIENCE: Duration = Duration::from_secs(1);

/// Watches the queue for connections that wait.
#[derive(Debug, Default)]
pub(super) struct QueueWatchdog {
    /// When to check again, if nothing happens before.
    look_at: Option<Time>,
    /// Whether a waiting connection was logged.
    told: bool,
    /// Whether workers of another arbiter used the queue, so that its accounting is not exact.
    was_shared: bool,
    /// Since when the queue has been empty, with no worker leaving and no other arbiter sharing it.
    /// None otherwise.
    quiet_since: Option<Time>,
}

impl QueueWatchdog {
    pub(super) fn deadline(&self) -> Option<Time> {
        self.look_at
    }
}

impl Supervisor<Host> {
    /// Checks whether a connection waits that no worker receives, because all are full or stuck, or
    /// there are none.
    pub(super) fn look_at_queue(&mut self) {
        let Host { queue, children, identity, .. } = &mut self.system;
        let now = now();
        let waits = handoff::waiting_since(queue.inbox.as_fd()).map(|since| now - since);
        let late = waits.filter(|waits| *waits >= PATIENCE);
        match late {
            Some(waits) if !queue.watchdog.told => {
                children.ledger.delayed();
                warn!(
                    "a connection has waited in the hand-off queue for {waits:.1?}, and no worker takes it"
                );
            }
            None if queue.watchdog.told => info!("the hand-off queue is empty again"),
            _ => {}
        }
        let may_come = waits.is_some() || self.plan.lives().any(|alive| alive.is_leaving);
        let is_alone = identity.upgrade.is_alone();
        let quiet_since = (is_alone && !may_come).then(|| queue.watchdog.quiet_since.unwrap_or(now));
        let mut was_shared = queue.watchdog.was_shared || !is_alone;
        if was_shared && quiet_since.is_some_and(|since| now - since >= PATIENCE) {
            children.ledger.balance_queue(&children.board);
            was_shared = false;
            debug!("hand-off queue accounting is exact again after the upgrade");
        }
        let look_at = (may_come || was_shared).then(|| now + PATIENCE);
        queue.watchdog = QueueWatchdog { look_at, told: late.is_some(), was_shared, quiet_since };
    }
}
