//! Slots of which nobody accepts what their own listeners are sent (`--reuse-port`): the arbiter does, for the workers of
//! other slots. In a reload that changes addresses it is the same with listeners that workers of one generation alone have.

use std::time::Duration;

use remuda_core::time::Time;
use remuda_core::worker::{AcceptError, Listener};
use rustix::event::{PollFd, PollFlags};
use tracing::warn;

use crate::backlog::Backlog;
use crate::listener::slots::Slots;
use crate::listener::{Chosen, Listeners};

/// Which they are.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    slots: Vec<u16>,
    /// Numbers of listeners that a worker may have or not, depending on its generation.
    changed: Vec<u16>,
    /// Descriptors or memory had run out.
    paused_until: Option<Time>,
}

/// How long accepting pauses then.
const PAUSE: Duration = Duration::from_millis(100);

impl Orphans {
    /// From now on it is these.
    pub(crate) fn become_these(&mut self, slots: Vec<u16>) {
        self.slots = slots;
    }

    /// A generation takes over from another, and until that is [over](Self::all_agree) workers may be of either.
    pub(crate) fn disagree(&mut self, before: &Chosen, after: &Chosen) {
        let only = |these: &Chosen, those: &Chosen| {
            let all = these.all.iter().copied();
            all.filter(|index| !those.all.contains(index)).collect::<Vec<_>>()
        };
        self.changed.extend([only(before, after), only(after, before)].concat());
    }

    /// All workers that stay have the same listeners.
    pub(crate) fn all_agree(&mut self) {
        self.changed.clear();
    }

    /// What to wait for.
    pub(crate) fn interest<'a>(
        &'a self,
        slots: &'a Slots,
        shared: &'a Listeners,
    ) -> impl Iterator<Item = PollFd<'a>> {
        let waiting = self.listeners(slots, shared).filter(|_| self.paused_until.is_none());
        waiting.map(|listener| PollFd::new(listener, PollFlags::IN))
    }

    /// When to look again, if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.paused_until.filter(|_| !self.is_empty())
    }

    /// Accepts for others what has come; none if nothing has.
    pub(crate) fn accept(&mut self, slots: &Slots, shared: &Listeners, now: Time) -> Option<Backlog> {
        if self.is_empty() || self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        let mut backlog = Backlog::new(now);
        let mut exhausted = false;
        for listener in self.listeners(slots, shared) {
            if let Err(error @ AcceptError::Exhausted(_)) = backlog.take(listener, now) {
                warn!("connections to {} wait: {error}", listener.bound);
                exhausted = true;
            }
        }
        self.paused_until = exhausted.then(|| now + PAUSE);
        Some(backlog).filter(|backlog| !backlog.is_empty())
    }

    fn listeners<'a>(
        &'a self,
        slots: &'a Slots,
        shared: &'a Listeners,
    ) -> impl Iterator<Item = &'a Listener> {
        let of_slots = self.slots.iter().flat_map(|slot| slots.of(*slot, shared));
        of_slots.chain(slots.at(&self.changed, shared))
    }

    fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.changed.is_empty()
    }
}
