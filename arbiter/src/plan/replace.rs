//! Who comes and who goes: one worker more, one less, and one for another.
//!
//! A worker is replaced in one way, whatever the reason: a successor is spawned beside it and, once that is ready, has its
//! slot, while it drains itself. How many may be replaced at a time is a matter of the reason.

use remuda_core::shutdown::Reason;
use remuda_core::time::Time;

use super::command::Refused;
use super::member::{Member, Role, State};
use super::{Action, Plan};
use crate::notice::Notice;

impl Plan {
    /// So many workers from now on: more in the first slots that have none, or fewer, without those in the last slots.
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
        if wanted > workers && self.lasting() + wanted - workers > self.shape.room {
            return Err(Refused::TooMany { room: self.shape.room });
        }
        if wanted != workers {
            self.reach(wanted, now, todo);
        }
        Ok(())
    }

    /// As many workers as the settings say now, or as there is room for.
    pub(super) fn resize(&mut self, now: Time, todo: &mut Vec<Action>) {
        self.reach(self.shape.workers.into(), now, todo);
    }

    /// Spawns successors for those that have waited longest, as many as may be recycled at a time. Who has an older
    /// configuration than there is waits: a reload replaces it.
    pub(super) fn recycle(&mut self, now: Time, todo: &mut Vec<Action>) {
        let is_recycle = Reason::is_recycle;
        while self.replaced(is_recycle) < self.shape.recycle_concurrency && self.members.len() < self.seats()
        {
            let spent =
                (0..self.members.len()).filter_map(|index| Some((self.members[index].spent()?, index)));
            let waiting = spent.filter(|(_, index)| {
                let member = &self.members[*index];
                member.is_holder() && !self.is_old(member) && self.successor_of(*index).is_none()
            });
            let Some(((_, reason), index)) = waiting.min_by_key(|((since, _), _)| *since) else { return };
            let slot = self.members[index].slot;
            todo.push(Action::Log(Notice::Recycling { slot, reason }));
            self.add(slot, Role::Successor { reason }, now);
        }
    }

    /// Spawns successors for those whose configuration is older than the newest there is, the oldest first, as many as may
    /// be reloaded at a time.
    pub(super) fn renew(&mut self, now: Time, todo: &mut Vec<Action>) {
        let is_reload = |reason| reason == Reason::Reload;
        while self.replaced(is_reload) < self.shape.reload_concurrency && self.members.len() < self.seats() {
            let holders = (0..self.members.len()).filter(|index| self.members[*index].is_holder());
            let old = holders
                .filter(|index| self.is_old(&self.members[*index]) && self.successor_of(*index).is_none());
            let oldest = old.min_by_key(|index| {
                let member = &self.members[*index];
                (member.generation().unwrap_or(self.generation), member.slot)
            });
            let Some(index) = oldest else { break };
            let (slot, reason) = (self.members[index].slot, Reason::Reload);
            todo.push(Action::Log(Notice::Recycling { slot, reason }));
            self.add(slot, Role::Successor { reason }, now);
        }
        self.finish_reload(todo);
    }

    /// A successor that is ready has the slot from now on, and the worker that had it drains.
    pub(super) fn take_over(&mut self, index: usize, now: Time, todo: &mut Vec<Action>) {
        let Role::Successor { reason } = self.members[index].role else { return };
        let resized = self.is_unproven(index) && self.adopt(todo);
        let slot = self.members[index].slot;
        let before = self.members.iter().position(|member| member.is_holder() && member.slot == slot);
        self.members[index].role = Role::Holder;
        if let Some(before) = before {
            self.dismiss(before, reason, now, todo);
        }
        if resized {
            self.resize(now, todo);
        }
    }

    /// Who is to take the slot of a holder over.
    pub(super) fn successor_of(&self, index: usize) -> Option<usize> {
        let Member { slot, role, .. } = &self.members[index];
        let succeeds =
            |member: &Member| matches!(member.role, Role::Successor { .. }) && member.slot == *slot;
        (*role == Role::Holder).then(|| self.members.iter().position(succeeds)).flatten()
    }

    /// One worker more, in the first slot that has none, if there is room.
    pub(super) fn enlarge(&mut self, now: Time) -> bool {
        let has_room = self.lasting() < self.shape.room;
        if has_room {
            let slot = self.first_without(|member, slot| member.is_holder() && member.slot == slot);
            self.add(slot, Role::Holder, now);
        }
        has_room
    }

    /// So many workers, or as many as there is room for.
    fn reach(&mut self, wanted: usize, now: Time, todo: &mut Vec<Action>) {
        let workers = self.workers();
        let wanted = wanted.min(workers + self.shape.room.saturating_sub(self.lasting()));
        todo.push(Action::Log(Notice::Scaled { workers: wanted }));
        for _ in workers..wanted {
            let slot = self.first_without(|member, slot| member.is_holder() && member.slot == slot);
            self.add(slot, Role::Holder, now);
        }
        for _ in wanted..workers {
            self.reduce(now, todo);
        }
        self.become_ready(todo);
    }

    /// One worker less: the one in the last slot that has one, and who was to come in its place.
    fn reduce(&mut self, now: Time, todo: &mut Vec<Action>) {
        let holders = self.members.iter().filter(|member| member.is_holder());
        let Some(slot) = holders.map(|member| member.slot).max() else { return };
        for index in (0..self.members.len()).rev() {
            if self.members[index].slot == slot && self.members[index].leaves_by().is_none() {
                self.dismiss(index, Reason::ScaleDown, now, todo);
            }
        }
        self.end_slot(slot, todo);
    }

    /// Tells a worker to leave, if there is one.
    pub(super) fn dismiss(&mut self, index: usize, reason: Reason, now: Time, todo: &mut Vec<Action>) {
        if let State::Due { .. } = self.members[index].state {
            self.members.remove(index);
            return;
        }
        let deadline = now + self.shape.graceful_timeout;
        self.members[index].role = Role::Leaver { reason, deadline, receiver: false };
        let receiver = self.has_receiver();
        let member = &mut self.members[index];
        member.role = Role::Leaver { reason, deadline, receiver };
        todo.extend(member.leave_order(now));
    }

    /// Tells those that leave once nobody is there any more to hand connections over to: the fallback decides from then on
    /// (D19). Connections on their way wait for who comes next.
    pub(super) fn look_for_receivers(&mut self, now: Time, todo: &mut Vec<Action>) {
        if !self.is_stopping() && !self.has_receiver() {
            let left = self.members.iter_mut().filter_map(|member| member.loses_receiver().then_some(member));
            todo.extend(left.filter_map(|member| member.leave_order(now)));
        }
    }

    /// Whether anybody takes connections over from those that leave: who accepts does, here or beside a new arbiter.
    fn has_receiver(&self) -> bool {
        let accepts = |member: &Member| member.is_holder() && member.accepts();
        self.heir_receives() || (!self.is_at_rest() && self.members.iter().any(accepts))
    }

    fn add(&mut self, slot: u16, role: Role, now: Time) {
        let seat = self.first_without(|member, seat| member.seat == seat);
        self.members.push(Member::due(slot, seat, role, now));
    }

    /// The first number that no member has.
    fn first_without(&self, has: impl Fn(&Member, u16) -> bool) -> u16 {
        let is_free = |number: &u16| self.members.iter().all(|member| !has(member, *number));
        (0..=u16::MAX).find(is_free).expect("there is room for fewer members than there are numbers")
    }

    /// How many there are only because workers are replaced, for a reason that is one of `these`.
    fn replaced(&self, these: fn(Reason) -> bool) -> usize {
        self.members.iter().filter(|member| member.is_replaced(these)).count()
    }

    /// How many there are for another reason than that workers are replaced.
    fn lasting(&self) -> usize {
        self.members.len() - self.replaced(|reason| reason != Reason::ScaleDown)
    }

    /// As many as there ever are.
    fn seats(&self) -> usize {
        self.shape.room + self.shape.recycle_concurrency + self.shape.reload_concurrency
    }
}
