//! Listeners without an accepting worker at the moment: those of a slot whose worker is away
//! (`--reuse-port`), and, in a reload that changes addresses, listeners that only one generation
//! has. The arbiter accepts from them, for the workers of other slots.

use std::time::Duration;

use remuda_core::time::Time;
use remuda_core::worker::{AcceptError, Listener};
use rustix::event::{PollFd, PollFlags};
use tracing::warn;

use crate::backlog::Backlog;
use crate::listener::per_slot::PerSlotListeners;
use crate::listener::{ListenerSet, Listeners};

/// The unattended listeners.
#[derive(Debug, Default)]
pub(crate) struct UnattendedListeners {
    slots: Vec<u16>,
    /// Numbers of listeners that not every worker has, depending on its generation.
    changed: Vec<u16>,
    /// End of the pause after descriptors or memory ran out.
    paused_until: Option<Time>,
}

/// Length of that pause.
const PAUSE: Duration = Duration::from_millis(100);

impl UnattendedListeners {
    /// Sets the slots without an accepting worker.
    pub(crate) fn become_these(&mut self, slots: Vec<u16>) {
        self.slots = slots;
    }

    /// Begins the change from one generation to another. Until [`all_agree`](Self::all_agree)
    /// workers may be of either.
    pub(crate) fn disagree(&mut self, before: &ListenerSet, after: &ListenerSet) {
        let only = |these: &ListenerSet, those: &ListenerSet| {
            let all = these.all.iter().copied();
            all.filter(|index| !those.all.contains(index)).collect::<Vec<_>>()
        };
        self.changed.extend([only(before, after), only(after, before)].concat());
    }

    /// Ends the change: all workers that stay have the same listeners.
    pub(crate) fn all_agree(&mut self) {
        self.changed.clear();
    }

    /// The descriptors to wait for.
    pub(crate) fn interest<'a>(
        &'a self,
        slots: &'a PerSlotListeners,
        shared: &'a Listeners,
    ) -> impl Iterator<Item = PollFd<'a>> {
        let waiting = self.listeners(slots, shared).filter(|_| self.paused_until.is_none());
        waiting.map(|listener| PollFd::new(listener, PollFlags::IN))
    }

    /// When to try again, if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.paused_until.filter(|_| !self.is_empty())
    }

    /// Accepts the waiting connections. None if there are none.
    pub(crate) fn accept(
        &mut self,
        slots: &PerSlotListeners,
        shared: &Listeners,
        now: Time,
    ) -> Option<Backlog> {
        if self.is_empty() || self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        let mut backlog = Backlog::new(now);
        let mut exhausted = false;
        for listener in self.listeners(slots, shared) {
            if let Err(error @ AcceptError::Exhausted(_)) = backlog.take(listener, now) {
                warn!("cannot accept on {}, whose worker is away: {error}", listener.bound);
                exhausted = true;
            }
        }
        self.paused_until = exhausted.then(|| now + PAUSE);
        Some(backlog).filter(|backlog| !backlog.is_empty())
    }

    fn listeners<'a>(
        &'a self,
        slots: &'a PerSlotListeners,
        shared: &'a Listeners,
    ) -> impl Iterator<Item = &'a Listener> {
        let of_slots = self.slots.iter().flat_map(|slot| slots.of(*slot, shared));
        of_slots.chain(slots.at(&self.changed, shared))
    }

    fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.changed.is_empty()
    }
}
