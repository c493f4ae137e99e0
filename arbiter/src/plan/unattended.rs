//! Listeners of slots without an accepting worker (`--reuse-port`): it boots, drains, or is dead.
//!
//! The kernel keeps assigning connections to these listeners. While other workers accept, the
//! arbiter accepts and passes the connections to them; otherwise they wait in the kernel's queue. A
//! new arbiter leaves this to the old one until it is ready.

use super::worker_entry::WorkerEntry;
use super::{Action, Phase, Plan};

impl Plan {
    pub(super) fn look_for_unattended_listeners(&mut self, todo: &mut Vec<Action>) {
        let stopping = self.is_stopping();
        let waits = self.has_old_arbiter() && matches!(self.phase, Phase::Starting);
        let Some(known) = self.unattended.as_mut().filter(|_| !stopping) else { return };
        let (accepting, others): (Vec<_>, Vec<_>) =
            self.entries.iter().filter(|entry| entry.is_holder()).partition(|entry| entry.accepts());
        let mut slots: Vec<_> = others.into_iter().map(|entry: &WorkerEntry| entry.slot).collect();
        slots.sort_unstable();
        if accepting.is_empty() || waits {
            slots.clear();
        }
        if *known != slots {
            known.clone_from(&slots);
            todo.push(Action::AcceptFor { slots });
        }
    }

    /// Ends the listeners of `slot`, which gets no worker any more.
    pub(super) fn end_slot(&self, slot: u16, todo: &mut Vec<Action>) {
        if self.unattended.is_some() {
            todo.push(Action::EndSlot { slot });
        }
    }
}
