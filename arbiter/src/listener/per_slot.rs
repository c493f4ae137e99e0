//! A TCP listener for each slot beside the first (`--reuse-port`; socket(7), `SO_REUSEPORT`).
//!
//! The kernel spreads connects over the listeners of an address, each of which has a queue of its own. All are bound and kept
//! here, so that the end of a worker resets nobody who waits in one, and the next worker of the slot goes on with it. Slot 0,
//! which is never given up, has the listener that was bound before any other: without `SO_REUSEPORT`, which it gets
//! afterwards, so that a server does not join another one by mistake.

use std::collections::BTreeMap;
use std::mem;
use std::os::fd::{AsFd as _, BorrowedFd, RawFd};

use remuda_core::worker::{Bound, Listener, Ownership};
use rustix::net::sockopt;

use super::{BindError, Chosen, Listeners, end, inet, length, lengthen, system, take};
use crate::Bind;

/// The listeners of the slots from 1 on.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    listeners: BTreeMap<u16, Vec<Listener>>,
    backlog: u32,
    /// Whether there are any; otherwise all slots share those of slot 0.
    on: bool,
}

impl Slots {
    /// None yet, of so many slots, the first included.
    pub(crate) fn new(on: bool, slots: u16, backlog: u32) -> Self {
        Self { listeners: (1..slots).map(|slot| (slot, Vec::new())).collect(), backlog, on }
    }

    /// Gives `slot` what it lacks: a listener beside each of `shared` that is to have one, or one that another arbiter shares.
    pub(crate) fn open(&mut self, slot: u16, shared: &mut Listeners) -> Result<(), BindError> {
        if !self.on || slot == 0 {
            return Ok(());
        }
        let own = self.listeners.entry(slot).or_default();
        let mut heirlooms = mem::take(&mut shared.heirlooms);
        let opened = shared.tcp().try_for_each(|first| {
            let Bound::Inet(addr) = first.bound else { return Ok(()) };
            if own.iter().any(|own| own.bound == first.bound) {
                return Ok(());
            }
            let bind = Bind::Inet(addr);
            let (socket, ownership) = match take(&mut heirlooms, &bind) {
                Some((heirloom, _)) => (heirloom.socket, Ownership::Shared),
                None => {
                    let socket = sockopt::set_socket_reuseport(first, true)
                        .and_then(|()| inet(addr, length(self.backlog), true));
                    (socket.map_err(|errno| system(&bind, errno))?.0, Ownership::Sole)
                }
            };
            own.push(Listener::new(first.index, socket, first.bound.clone(), ownership));
            Ok(())
        });
        shared.heirlooms = heirlooms;
        opened
    }

    /// How many listeners there are.
    pub(crate) fn count(&self) -> usize {
        self.listeners.values().map(Vec::len).sum()
    }

    /// Gives each slot that there is what it lacks.
    pub(crate) fn open_all(&mut self, shared: &mut Listeners) -> Result<(), BindError> {
        let slots: Vec<_> = self.listeners.keys().copied().collect();
        slots.into_iter().try_for_each(|slot| self.open(slot, shared))
    }

    /// Lets the kernel queue so many connections on each of them, from now on.
    pub(crate) fn listen_again(&mut self, backlog: u32) {
        self.backlog = backlog;
        self.listeners.values().flatten().for_each(|listener| lengthen(listener, backlog));
    }

    /// What another arbiter would need to have, too.
    pub(crate) fn to_pass_on(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.values().flatten().map(|listener| listener.as_fd())
    }

    /// From now on another arbiter has them, too.
    pub(crate) fn share(&mut self) {
        super::share(self.listeners.values_mut().flatten());
    }

    /// The descriptors of those that are shared.
    pub(crate) fn shared(&self) -> Vec<RawFd> {
        super::shared(self.listeners.values().flatten())
    }

    /// The other arbiter has kept these `shared` ones alone; none: it is gone.
    pub(crate) fn unshare_others(&mut self, shared: &[RawFd]) {
        super::unshare_others(self.listeners.values_mut().flatten(), shared);
    }

    /// Gives up those of `slot`: those that are this server's own are for the caller to end, the others are closed.
    pub(crate) fn release(&mut self, slot: u16) -> Vec<Listener> {
        own(self.listeners.remove(&slot).into_iter().flatten())
    }

    /// Gives up all of them, likewise.
    pub(crate) fn release_all(&mut self) -> Vec<Listener> {
        own(mem::take(&mut self.listeners).into_values().flatten())
    }

    /// Gives up those of all slots whose numbers are not `kept`, likewise.
    pub(crate) fn release_others(&mut self, kept: &[u16]) -> Vec<Listener> {
        self.release_if(|index| !kept.contains(&index))
    }

    /// Ends what was opened beside listeners that were bound for a generation that is not to be.
    pub(crate) fn drop_new(&mut self, chosen: &Chosen) {
        self.release_if(|index| chosen.new.contains(&index)).iter().for_each(end);
    }

    /// Those that only workers in `slot` accept from.
    pub(crate) fn of<'a>(&'a self, slot: u16, shared: &'a Listeners) -> impl Iterator<Item = &'a Listener> {
        let first = (slot == 0).then(|| shared.tcp()).into_iter().flatten();
        first.chain(self.listeners.get(&slot).into_iter().flatten())
    }

    /// Those of any slot, the first included, that have one of these numbers. None where all slots share theirs.
    pub(crate) fn at<'a>(
        &'a self,
        indices: &'a [u16],
        shared: &'a Listeners,
    ) -> impl Iterator<Item = &'a Listener> {
        let all = shared.tcp().filter(|_| self.on).chain(self.listeners.values().flatten());
        all.filter(|listener| indices.contains(&listener.index))
    }

    /// All that a worker in `slot` accepts from, in the worker.
    pub(crate) fn into_chosen(mut self, slot: u16, shared: Listeners, chosen: &Chosen) -> Vec<Listener> {
        let mut own = self.listeners.remove(&slot).unwrap_or_default();
        own.retain(|listener| chosen.all.contains(&listener.index));
        let mut all = shared.into_chosen(chosen);
        all.retain(|listener| own.iter().all(|own| own.index != listener.index));
        all.extend(own);
        all
    }

    /// Those of a generation in all slots that there are, in a child.
    pub(crate) fn into_all(self, shared: Listeners, chosen: &Chosen) -> Vec<Listener> {
        let own = self.listeners.into_values().flatten();
        let own = own.filter(|listener| chosen.all.contains(&listener.index));
        shared.into_chosen(chosen).into_iter().chain(own).collect()
    }

    fn release_if(&mut self, is_over: impl Fn(u16) -> bool) -> Vec<Listener> {
        let all = self.listeners.values_mut();
        own(all.flat_map(|own| own.extract_if(.., |listener| is_over(listener.index))))
    }
}

/// Those that no other arbiter has.
fn own(listeners: impl Iterator<Item = Listener>) -> Vec<Listener> {
    listeners.filter(|listener| listener.ownership == Ownership::Sole).collect()
}

#[cfg(test)]
#[path = "per_slot/tests.rs"]
mod tests;
