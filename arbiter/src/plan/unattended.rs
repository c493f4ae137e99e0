//! Listeners of a slot (`--reuse-port`), which is without a worker that accepts while that boots, drains, or is dead.
//!
//! The kernel goes on sending them their share of the connections. As long as other workers accept, these are given what
//! arrives there; if none does, it is as well off in the kernel's queue. An arbiter that is to take over from another one leaves
//! that to it as long as it may fail.

use super::member::Member;
use super::{Action, Phase, Plan};

impl Plan {
    pub(super) fn look_for_orphans(&mut self, todo: &mut Vec<Action>) {
        let stopping = self.is_stopping();
        let waits = self.has_elder() && matches!(self.phase, Phase::Starting);
        let Some(known) = self.orphans.as_mut().filter(|_| !stopping) else { return };
        let (accepting, others): (Vec<_>, Vec<_>) =
            self.members.iter().filter(|member| member.is_holder()).partition(|member| member.accepts());
        let mut slots: Vec<_> = others.into_iter().map(|member: &Member| member.slot).collect();
        slots.sort_unstable();
        if accepting.is_empty() || waits {
            slots.clear();
        }
        if *known != slots {
            known.clone_from(&slots);
            todo.push(Action::Relieve { slots });
        }
    }

    /// Nobody comes any more to accept in `slot`.
    pub(super) fn end_slot(&self, slot: u16, todo: &mut Vec<Action>) {
        if self.orphans.is_some() {
            todo.push(Action::EndSlot { slot });
        }
    }
}
