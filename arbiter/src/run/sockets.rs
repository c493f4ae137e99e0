//! Listeners for clients, and the connections that the arbiter accepts from them for workers.

use remuda_core::worker::Listener;
use remuda_core::worker::handoff::Outbox;
use remuda_core::worker::sys::now;

use crate::backlog::Backlog;
use crate::listener::per_slot::PerSlotListeners;
use crate::listener::{self, ListenerSet, Listeners};
use crate::unattended::UnattendedListeners;

/// Listeners for clients. A worker keeps those of its slot and generation; the helper keeps those
/// whose queues it reports; every other child closes all.
pub(super) struct Sockets {
    pub(super) listeners: Listeners,
    /// Listeners of single slots.
    pub(super) per_slot: PerSlotListeners,
    pub(super) unattended: UnattendedListeners,
    /// Connections that the arbiter accepts and passes on. None if there are none.
    pub(super) backlog: Option<Backlog>,
}

impl Sockets {
    pub(super) fn new(listeners: Listeners, per_slot: PerSlotListeners) -> Self {
        Self { listeners, per_slot, unattended: UnattendedListeners::default(), backlog: None }
    }

    /// Accepts from unattended listeners, unless a backlog is being passed on already.
    pub(super) fn accept_unattended(&mut self) {
        if self.backlog.is_none() {
            self.backlog = self.unattended.accept(&self.per_slot, &self.listeners, now());
        }
    }

    /// Continues to pass on the backlog. Returns the number of lost connections once nothing is
    /// left.
    pub(super) fn pass_backlog(&mut self, outbox: &Outbox) -> Option<usize> {
        let lost = self.backlog.as_mut()?.advance(outbox, now())?;
        self.backlog = None;
        Some(lost)
    }

    /// Ends all listeners, and passes on the connections in their queues.
    pub(super) fn save_backlog(&mut self) {
        self.unattended = UnattendedListeners::default();
        let mut listeners = self.listeners.release();
        listeners.append(&mut self.per_slot.release_all());
        self.backlog_of(listeners);
    }

    /// Ends the listeners of a slot, likewise.
    pub(super) fn end_slot(&mut self, slot: u16) {
        let listeners = self.per_slot.release(slot);
        self.end_some(listeners);
    }

    /// Ends the listeners that are not `kept`, likewise.
    pub(super) fn end_others(&mut self, kept: &[u16]) {
        let mut others = self.listeners.release_others(kept);
        others.append(&mut self.per_slot.release_others(kept));
        self.unattended.all_agree();
        self.end_some(others);
    }

    /// Ends the listeners that were bound for a generation that has failed.
    pub(super) fn drop_new(&mut self, set: &ListenerSet) {
        self.listeners.drop_new(set);
        self.per_slot.drop_new(set);
    }

    /// Ends all listeners at the end of the server, without passing connections on.
    pub(super) fn end(&mut self) {
        self.listeners.end();
        self.per_slot.release_all().iter().for_each(listener::end);
    }

    /// Returns the listeners of a worker in `slot`. Called in the worker.
    pub(super) fn in_worker(self, slot: u16, set: &ListenerSet) -> Vec<Listener> {
        let Self { listeners, per_slot, unattended: _, backlog } = self;
        drop(backlog);
        per_slot.into_set(slot, listeners, set)
    }

    /// Returns the listeners of a generation in all slots. Called in the helper.
    pub(super) fn in_helper(self, set: &ListenerSet) -> Vec<Listener> {
        let Self { listeners, per_slot, unattended: _, backlog } = self;
        drop(backlog);
        per_slot.into_all(listeners, set)
    }

    fn end_some(&mut self, listeners: Vec<Listener>) {
        if !listeners.is_empty() {
            self.backlog_of(listeners);
        }
    }

    fn backlog_of(&mut self, listeners: Vec<Listener>) {
        self.backlog.get_or_insert_with(|| Backlog::new(now())).end(listeners, now());
    }
}
