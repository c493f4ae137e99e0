//! TCP listeners of each slot from 1 on (`--reuse-port`; socket(7), `SO_REUSEPORT`).
//!
//! The kernel spreads connects over the listeners of an address, each with a queue of its own. The
//! arbiter binds and keeps all of them, so that the end of a worker resets no waiting connection,
//! and the next worker of the slot continues with its queue. Slot 0, which always exists, uses the
//! listener that is bound first, without `SO_REUSEPORT`; the option is set afterwards, so that a
//! server does not join another one by mistake.

use std::collections::BTreeMap;
use std::mem;
use std::os::fd::{AsFd as _, BorrowedFd, RawFd};

use remuda_core::worker::{Bound, Listener, Ownership};
use rustix::net::sockopt;

use super::{BindError, ListenerSet, Listeners, end, inet, length, lengthen, system, take};
use crate::config::Bind;

/// The listeners of the slots from 1 on.
#[derive(Debug, Default)]
pub(crate) struct PerSlotListeners {
    listeners: BTreeMap<u16, Vec<Listener>>,
    backlog: u32,
    /// Whether slots have their own listeners; otherwise all share those of slot 0.
    on: bool,
}

impl PerSlotListeners {
    /// Creates an empty set for `slots` slots, including slot 0.
    pub(crate) fn new(on: bool, slots: u16, backlog: u32) -> Self {
        Self { listeners: (1..slots).map(|slot| (slot, Vec::new())).collect(), backlog, on }
    }

    /// Opens the missing listeners of `slot`: one beside each TCP listener of `shared`, inherited
    /// or newly bound.
    pub(crate) fn open(&mut self, slot: u16, shared: &mut Listeners) -> Result<(), BindError> {
        if !self.on || slot == 0 {
            return Ok(());
        }
        let own = self.listeners.entry(slot).or_default();
        let mut inherited = mem::take(&mut shared.inherited);
        let opened = shared.tcp().try_for_each(|first| {
            let Bound::Inet(addr) = first.bound else { return Ok(()) };
            if own.iter().any(|own| own.bound == first.bound) {
                return Ok(());
            }
            let bind = Bind::Inet(addr);
            let (socket, ownership) = match take(&mut inherited, &bind) {
                Some((listener, _)) => (listener.socket, Ownership::Shared),
                None => {
                    let socket = sockopt::set_socket_reuseport(first, true)
                        .and_then(|()| inet(addr, length(self.backlog), true));
                    (socket.map_err(|errno| system(&bind, errno))?.0, Ownership::Sole)
                }
            };
            own.push(shared.listener(first.index, socket, first.bound.clone(), ownership));
            Ok(())
        });
        shared.inherited = inherited;
        opened
    }

    /// The number of listeners.
    pub(crate) fn count(&self) -> usize {
        self.listeners.values().map(Vec::len).sum()
    }

    /// Opens the missing listeners of all slots.
    pub(crate) fn open_all(&mut self, shared: &mut Listeners) -> Result<(), BindError> {
        let slots: Vec<_> = self.listeners.keys().copied().collect();
        slots.into_iter().try_for_each(|slot| self.open(slot, shared))
    }

    /// Changes the backlog of all listeners.
    pub(crate) fn listen_again(&mut self, backlog: u32) {
        self.backlog = backlog;
        self.listeners.values().flatten().for_each(|listener| lengthen(listener, backlog));
    }

    /// The listeners for a new arbiter.
    pub(crate) fn to_pass_on(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.values().flatten().map(|listener| listener.as_fd())
    }

    /// Marks all listeners as shared with another arbiter.
    pub(crate) fn share(&mut self) {
        super::share(self.listeners.values_mut().flatten());
    }

    /// The descriptors of shared listeners.
    pub(crate) fn shared(&self) -> Vec<RawFd> {
        super::shared(self.listeners.values().flatten())
    }

    /// Marks listeners as sole again, except `shared`, which the other arbiter has kept. Empty: it
    /// has ended.
    pub(crate) fn unshare_others(&mut self, shared: &[RawFd]) {
        super::unshare_others(self.listeners.values_mut().flatten(), shared);
    }

    /// Releases the listeners of `slot`. Those that no other arbiter shares are returned, for the
    /// caller to end; the others are closed.
    pub(crate) fn release(&mut self, slot: u16) -> Vec<Listener> {
        own(self.listeners.remove(&slot).into_iter().flatten())
    }

    /// Releases all listeners, likewise.
    pub(crate) fn release_all(&mut self) -> Vec<Listener> {
        own(mem::take(&mut self.listeners).into_values().flatten())
    }

    /// Releases listeners of all slots whose indices are not `kept`, likewise.
    pub(crate) fn release_others(&mut self, kept: &[u16]) -> Vec<Listener> {
        self.release_if(|index| !kept.contains(&index))
    }

    /// Ends the listeners that were opened for a generation that has failed.
    pub(crate) fn drop_new(&mut self, chosen: &ListenerSet) {
        self.release_if(|index| chosen.new.contains(&index)).iter().for_each(end);
    }

    /// The listeners from which only workers in `slot` accept.
    pub(crate) fn of<'a>(&'a self, slot: u16, shared: &'a Listeners) -> impl Iterator<Item = &'a Listener> {
        let first = (slot == 0).then(|| shared.tcp()).into_iter().flatten();
        first.chain(self.listeners.get(&slot).into_iter().flatten())
    }

    /// The listeners of all slots, including slot 0, with these indices. Empty if all slots share
    /// their listeners.
    pub(crate) fn at<'a>(
        &'a self,
        indices: &'a [u16],
        shared: &'a Listeners,
    ) -> impl Iterator<Item = &'a Listener> {
        let all = shared.tcp().filter(|_| self.on).chain(self.listeners.values().flatten());
        all.filter(|listener| indices.contains(&listener.index))
    }

    /// Returns the listeners of a worker in `slot`. Called in the worker.
    pub(crate) fn into_set(mut self, slot: u16, shared: Listeners, chosen: &ListenerSet) -> Vec<Listener> {
        let mut own = self.listeners.remove(&slot).unwrap_or_default();
        own.retain(|listener| chosen.all.contains(&listener.index));
        let mut all = shared.into_set(chosen);
        all.retain(|listener| own.iter().all(|own| own.index != listener.index));
        all.extend(own);
        all
    }

    /// Returns the listeners of a generation in all slots. Called in a child.
    pub(crate) fn into_all(self, shared: Listeners, chosen: &ListenerSet) -> Vec<Listener> {
        let own = self.listeners.into_values().flatten();
        let own = own.filter(|listener| chosen.all.contains(&listener.index));
        shared.into_set(chosen).into_iter().chain(own).collect()
    }

    fn release_if(&mut self, is_over: impl Fn(u16) -> bool) -> Vec<Listener> {
        let all = self.listeners.values_mut();
        own(all.flat_map(|own| own.extract_if(.., |listener| is_over(listener.index))))
    }
}

/// Keeps the listeners that no other arbiter shares.
fn own(listeners: impl Iterator<Item = Listener>) -> Vec<Listener> {
    listeners.filter(|listener| listener.ownership == Ownership::Sole).collect()
}

#[cfg(test)]
mod tests;
