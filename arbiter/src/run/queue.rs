//! The hand-off queue, as the arbiter sees it: nobody waits there for long without people being told (D19).

use std::os::fd::AsFd as _;
use std::time::Duration;

use remuda_core::time::Time;
use remuda_core::worker::handoff;
use remuda_core::worker::sys::now;
use tracing::{info, warn};

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
        self.vigil = Vigil { look_at: may_come.then(|| now + PATIENCE), told: late.is_some() };
    }
}
