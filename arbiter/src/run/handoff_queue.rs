//! The hand-off queue, as the arbiter sees it: nobody waits there for long without people being told (D19).

use std::os::fd::AsFd as _;
use std::time::Duration;

use remuda_core::time::Time;
use remuda_core::worker::handoff;
use remuda_core::worker::sys::now;
use tracing::{debug, info, warn};

use super::Run;

/// How long a connection may wait there: whoever serves takes it in far less.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the queue.
#[derive(Debug, Default)]
pub(super) struct Vigil {
    /// When to look again, if nothing happens before.
    look_at: Option<Time>,
    /// People were told.
    told: bool,
    /// Workers of another arbiter have used it as well, so the account of it is not in order.
    was_shared: bool,
    /// Since when nobody has used it, and nobody else is there who could.
    quiet_since: Option<Time>,
}

impl Vigil {
    pub(super) fn deadline(&self) -> Option<Time> {
        self.look_at
    }
}

impl Run {
    /// Looks whether a connection waits for nobody: all workers are full or stuck, or there are none.
    pub(super) fn look_at_queue(&mut self) {
        let now = now();
        let waits = handoff::waiting_since(self.inbox.as_fd()).map(|since| now - since);
        let late = waits.filter(|waits| *waits >= PATIENCE);
        match late {
            Some(waits) if !self.vigil.told => {
                self.ledger.delayed();
                warn!("a connection waits in the hand-off queue for {waits:.1?}, and no worker takes it");
            }
            None if self.vigil.told => info!("no connection waits in the hand-off queue any more"),
            _ => {}
        }
        let may_come = waits.is_some() || self.plan.lives().any(|alive| alive.is_leaving);
        let is_alone = self.upgrade.is_alone();
        let quiet_since = (is_alone && !may_come).then(|| self.vigil.quiet_since.unwrap_or(now));
        let mut was_shared = self.vigil.was_shared || !is_alone;
        if was_shared && quiet_since.is_some_and(|since| now - since >= PATIENCE) {
            self.ledger.settle(&self.board);
            was_shared = false;
            debug!("the account of the hand-off queue is in order again");
        }
        let look_at = (may_come || was_shared).then(|| now + PATIENCE);
        self.vigil = Vigil { look_at, told: late.is_some(), was_shared, quiet_since };
    }
}
