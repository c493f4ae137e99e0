//! Listeners of a slot (`--reuse-port`), which is without a worker that accepts while that boots, drains, or is dead.
//!
//! The kernel goes on sending them their share of the connections. As long as other workers accept, these are given what
//! arrives there; if none does, it is as well off in the kernel's queue.

use super::member::Member;
use super::{Action, Plan};

impl Plan {
    pub(super) fn look_for_orphans(&mut self, todo: &mut Vec<Action>) {
        let stopping = self.is_stopping();
        let Some(known) = self.orphans.as_mut().filter(|_| !stopping) else { return };
        let (accepting, others): (Vec<_>, Vec<_>) =
            self.members.iter().filter(|member| member.is_holder()).partition(|member| member.accepts());
        let mut slots: Vec<_> = others.into_iter().map(|member: &Member| member.slot).collect();
        slots.sort_unstable();
        if accepting.is_empty() {
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
