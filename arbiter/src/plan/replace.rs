//! Scaling and replacement of workers.
//!
//! Every replacement works the same way: a successor is spawned beside the worker and, once it is
//! ready, takes the slot, while the worker drains. The reason decides how many are replaced at a
//! time.

use remuda_core::shutdown::Reason;
use remuda_core::time::Time;

use super::notice::Notice;
use super::words::Refused;
use super::worker_entry::{Role, State, WorkerEntry};
use super::{Action, Plan};

impl Plan {
    /// Sets the number of workers: adds workers in the first free slots, or removes those in the
    /// last slots.
    pub(super) fn scale_to(
        &mut self,
        wanted: usize,
        now: Time,
        todo: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        let workers = self.workers();
        if wanted == 0 {
            return Err(Refused::TooFew);
        }
        if wanted > workers && self.lasting() + wanted - workers > self.config.room {
            return Err(Refused::TooMany { room: self.config.room });
        }
        if wanted != workers {
            self.reach(wanted, now, todo);
        }
        Ok(())
    }

    /// Sets the number of workers to that of the settings, limited by the room.
    pub(super) fn resize(&mut self, now: Time, todo: &mut Vec<Action>) {
        self.reach(self.config.workers.into(), now, todo);
    }

    /// Spawns successors for workers due for recycling, the longest waiting first, up to the number
    /// recycled at a time. Workers with an older configuration wait: the reload replaces them.
    pub(super) fn recycle(&mut self, now: Time, todo: &mut Vec<Action>) {
        let is_recycle = Reason::is_recycle;
        while self.replaced(is_recycle) < self.config.recycle_concurrency && self.entries.len() < self.seats()
        {
            let spent =
                (0..self.entries.len()).filter_map(|index| Some((self.entries[index].spent()?, index)));
            let waiting = spent.filter(|(_, index)| {
                let entry = &self.entries[*index];
                entry.is_holder() && !self.is_old(entry) && self.successor_of(*index).is_none()
            });
            let Some(((_, reason), index)) = waiting.min_by_key(|((since, _), _)| *since) else { return };
            let slot = self.entries[index].slot;
            todo.push(Action::Log(Notice::Recycling { slot, reason }));
            self.add(slot, Role::Successor { reason }, now);
        }
    }

    /// Spawns successors for workers with an older configuration, the oldest first, up to the
    /// number reloaded at a time.
    pub(super) fn renew(&mut self, now: Time, todo: &mut Vec<Action>) {
        let is_reload = |reason| reason == Reason::Reload;
        while self.replaced(is_reload) < self.config.reload_concurrency && self.entries.len() < self.seats() {
            let holders = (0..self.entries.len()).filter(|index| self.entries[*index].is_holder());
            let old = holders
                .filter(|index| self.is_old(&self.entries[*index]) && self.successor_of(*index).is_none());
            let oldest = old.min_by_key(|index| {
                let entry = &self.entries[*index];
                (entry.generation().unwrap_or(self.generation), entry.slot)
            });
            let Some(index) = oldest else { break };
            let (slot, reason) = (self.entries[index].slot, Reason::Reload);
            todo.push(Action::Log(Notice::Recycling { slot, reason }));
            self.add(slot, Role::Successor { reason }, now);
        }
        self.finish_reload(todo);
    }

    /// Gives the slot to its ready successor; the worker that had it drains.
    pub(super) fn take_over(&mut self, index: usize, now: Time, todo: &mut Vec<Action>) {
        let Role::Successor { reason } = self.entries[index].role else { return };
        let resized = self.is_unproven(index) && self.adopt(todo);
        let slot = self.entries[index].slot;
        let before = self.entries.iter().position(|entry| entry.is_holder() && entry.slot == slot);
        self.entries[index].role = Role::Holder;
        if let Some(before) = before {
            self.dismiss(before, reason, now, todo);
        }
        if resized {
            self.resize(now, todo);
        }
    }

    /// The successor of a holder.
    pub(super) fn successor_of(&self, index: usize) -> Option<usize> {
        let WorkerEntry { slot, role, .. } = &self.entries[index];
        let succeeds =
            |entry: &WorkerEntry| matches!(entry.role, Role::Successor { .. }) && entry.slot == *slot;
        (*role == Role::Holder).then(|| self.entries.iter().position(succeeds)).flatten()
    }

    /// Adds a worker in the first free slot, if there is room.
    pub(super) fn enlarge(&mut self, now: Time) -> bool {
        let has_room = self.lasting() < self.config.room;
        if has_room {
            let slot = self.first_without(|entry, slot| entry.is_holder() && entry.slot == slot);
            self.add(slot, Role::Holder, now);
        }
        has_room
    }

    /// Sets the number of workers, limited by the room.
    fn reach(&mut self, wanted: usize, now: Time, todo: &mut Vec<Action>) {
        let workers = self.workers();
        let wanted = wanted.min(workers + self.config.room.saturating_sub(self.lasting()));
        todo.push(Action::Log(Notice::Scaled { workers: wanted }));
        for _ in workers..wanted {
            let slot = self.first_without(|entry, slot| entry.is_holder() && entry.slot == slot);
            self.add(slot, Role::Holder, now);
        }
        for _ in wanted..workers {
            self.reduce(now, todo);
        }
        self.become_ready(todo);
    }

    /// Removes the worker in the last slot, with its successor.
    fn reduce(&mut self, now: Time, todo: &mut Vec<Action>) {
        let holders = self.entries.iter().filter(|entry| entry.is_holder());
        let Some(slot) = holders.map(|entry| entry.slot).max() else { return };
        for index in (0..self.entries.len()).rev() {
            if self.entries[index].slot == slot && self.entries[index].leaves_by().is_none() {
                self.dismiss(index, Reason::ScaleDown, now, todo);
            }
        }
        self.end_slot(slot, todo);
    }

    /// Tells a worker to leave, if there is one.
    pub(super) fn dismiss(&mut self, index: usize, reason: Reason, now: Time, todo: &mut Vec<Action>) {
        if let State::Due { .. } = self.entries[index].state {
            self.entries.remove(index);
            return;
        }
        let deadline = now + self.config.graceful_timeout;
        self.entries[index].role = Role::Leaver { reason, deadline, receiver: false };
        let receiver = self.has_receiver();
        let entry = &mut self.entries[index];
        entry.role = Role::Leaver { reason, deadline, receiver };
        todo.extend(entry.leave_order(now));
    }

    /// Tells leaving workers once no worker is left to receive their connections: the fallback
    /// policy decides from then on (D19). Connections in the queue wait for the next worker.
    pub(super) fn look_for_receivers(&mut self, now: Time, todo: &mut Vec<Action>) {
        if !self.is_stopping() && !self.has_receiver() {
            let left = self.entries.iter_mut().filter_map(|entry| entry.loses_receiver().then_some(entry));
            todo.extend(left.filter_map(|entry| entry.leave_order(now)));
        }
    }

    /// Whether any worker receives connections: every accepting worker does, here or of a new
    /// arbiter.
    fn has_receiver(&self) -> bool {
        let accepts = |entry: &WorkerEntry| entry.is_holder() && entry.accepts();
        self.new_arbiter_receives() || (!self.is_at_rest() && self.entries.iter().any(accepts))
    }

    fn add(&mut self, slot: u16, role: Role, now: Time) {
        let seat = self.free_seat();
        self.entries.push(WorkerEntry::due(slot, seat, role, now));
    }

    /// A seat for the entry at `index`: its own, unless a keeper has it.
    pub(super) fn free_seat_for(&self, index: usize) -> u16 {
        let own = self.entries[index].seat;
        let is_kept = self.keepers.iter().any(|keeper| keeper.seat == own);
        if is_kept { self.free_seat() } else { own }
    }

    /// The first seat that neither a worker nor a keeper has.
    fn free_seat(&self) -> u16 {
        let taken = self.entries.iter().map(|entry| entry.seat);
        let taken: Vec<_> = taken.chain(self.keepers.iter().map(|keeper| keeper.seat)).collect();
        (0..=u16::MAX)
            .find(|seat| !taken.contains(seat))
            .expect("there is room for fewer workers than there are numbers")
    }

    /// The first number that no entry has.
    fn first_without(&self, has: impl Fn(&WorkerEntry, u16) -> bool) -> u16 {
        let is_free = |number: &u16| self.entries.iter().all(|entry| !has(entry, *number));
        (0..=u16::MAX).find(is_free).expect("there is room for fewer entries than there are numbers")
    }

    /// The number of entries that exist only because of replacements for one of `these` reasons.
    fn replaced(&self, these: fn(Reason) -> bool) -> usize {
        self.entries.iter().filter(|entry| entry.is_replaced(these)).count()
    }

    /// The number of entries that exist for other reasons than replacements.
    fn lasting(&self) -> usize {
        self.entries.len() - self.replaced(|reason| reason != Reason::ScaleDown)
    }

    /// The largest number of entries.
    fn seats(&self) -> usize {
        self.config.room + self.config.recycle_concurrency + self.config.reload_concurrency
    }
}
