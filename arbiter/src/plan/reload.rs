//! A new configuration takes over from the one before (D16).
//!
//! Every configuration that is loaded is a generation of its own. The new one has to prove itself: its first workers are
//! successors of old ones, and as long as none of them was ready they count for nothing. With the first that is ready the
//! generation is adopted. From then on every worker is spawned with it, those of older ones are replaced, and a worker of it
//! that fails is tried again like any other (D17). If one fails before that, the reload is given up and the old generation
//! serves on.
//!
//! ```text
//! HUP ─▶ Loading ──▶ Proving ── one is ready ──▶ adopted: the others are replaced
//!           └─ refused   └─ one fails: given up
//! ```
//!
//! Who asks while a generation is being loaded or proved waits for the end of that, and then all who wait get one reload. Who
//! asks while older workers are still being replaced gets it at once: the newest configuration wins.

use std::mem;

use remuda_core::shutdown::Reason;
use remuda_core::time::Time;

use super::member::{Member, State};
use super::{Action, Phase, Plan, ReloadEnd, Shape};
use crate::notice::Notice;

/// Where reloads are.
#[derive(Debug)]
pub(super) struct Reload {
    /// The last generation that was loaded, whatever became of it.
    newest: u32,
    /// A reload was asked for and has not begun.
    wanted: bool,
    candidate: Candidate,
    /// Workers of older generations than the one that was adopted have not all been told to drain.
    replacing: bool,
}

/// A generation that is to take over.
#[derive(Debug)]
enum Candidate {
    /// There is none.
    None,
    /// An [`Action::Load`] was not answered yet.
    Loading,
    /// The newest; none of its workers was ready yet.
    Proving(Shape),
}

impl Reload {
    pub(super) fn new(generation: u32) -> Self {
        Self { newest: generation, wanted: false, candidate: Candidate::None, replacing: false }
    }
}

impl Plan {
    /// There is to be a reload, as soon as there can be one.
    pub(super) fn ask_for_reload(&mut self, todo: &mut Vec<Action>) {
        if self.is_ending() {
            self.reloaded(self.reload.newest + 1, ReloadEnd::TooLate, todo);
            return;
        }
        self.reload.wanted = true;
        if matches!(self.phase, Phase::Starting) || !matches!(self.reload.candidate, Candidate::None) {
            todo.push(Action::Log(Notice::ReloadWaits));
        }
    }

    /// What a reload that is asked for now will be at least.
    pub(super) fn next_generation(&self) -> u32 {
        self.reload.newest + 1
    }

    /// Loads a configuration, if that was asked for and no other is on its way.
    pub(super) fn begin_reload(&mut self, todo: &mut Vec<Action>) {
        if self.reload.wanted && matches!(self.reload.candidate, Candidate::None) {
            self.reload.wanted = false;
            self.reload.candidate = Candidate::Loading;
            todo.push(Action::Load { generation: self.reload.newest + 1 });
        }
    }

    pub(super) fn loaded(&mut self, shape: Shape, todo: &mut Vec<Action>) {
        if !matches!(self.reload.candidate, Candidate::Loading) {
            todo.push(Action::Abandon); // a stop was quicker
            return;
        }
        self.reload.newest += 1;
        self.reload.candidate = Candidate::Proving(shape);
        // What would be tried again is overtaken.
        self.members.retain(|member| !(member.is_reloaded() && matches!(member.state, State::Due { .. })));
        todo.push(Action::Log(Notice::Reloading { generation: self.reload.newest }));
    }

    pub(super) fn not_loaded(&mut self, why: String, todo: &mut Vec<Action>) {
        if matches!(self.reload.candidate, Candidate::Loading) {
            self.reload.candidate = Candidate::None;
            self.reloaded(self.reload.newest + 1, ReloadEnd::Failed(why), todo);
        }
    }

    /// A worker of the new generation is ready. Whether that asks for another number of workers than the one before: TTIN and
    /// TTOU count until the settings change.
    pub(super) fn adopt(&mut self, todo: &mut Vec<Action>) -> bool {
        let Candidate::Proving(shape) = mem::replace(&mut self.reload.candidate, Candidate::None) else {
            return false;
        };
        if mem::replace(&mut self.reload.replacing, true) {
            self.reloaded(self.generation, ReloadEnd::Overtaken, todo);
        }
        self.generation = self.reload.newest;
        todo.push(Action::Adopt);
        mem::replace(&mut self.shape, shape).workers != shape.workers
    }

    /// The new generation has failed to boot: nothing of it is left but who has to be told to leave.
    pub(super) fn give_up_reload(&mut self, why: String, now: Time, todo: &mut Vec<Action>) {
        self.abandon_reload(ReloadEnd::Failed(why), now, todo);
    }

    fn abandon_reload(&mut self, end: ReloadEnd, now: Time, todo: &mut Vec<Action>) {
        for index in (0..self.members.len()).rev() {
            if self.is_unproven(index) {
                self.dismiss(index, Reason::Reload, now, todo);
            }
        }
        self.reload.candidate = Candidate::None;
        todo.push(Action::Abandon);
        self.reloaded(self.reload.newest, end, todo);
    }

    /// All workers that stay are of the generation that was adopted: what only others needed can go.
    pub(super) fn finish_reload(&mut self, todo: &mut Vec<Action>) {
        let is_older = |member: &Member| member.generation().is_some_and(|n| n < self.generation);
        let is_done = !self.members.iter().any(|member| member.leaves_by().is_none() && is_older(member));
        if self.reload.replacing && is_done {
            self.reload.replacing = false;
            todo.push(Action::EndListeners);
            self.reloaded(self.generation, ReloadEnd::Done, todo);
        }
    }

    /// The server is to end, and no reload any more. Who stays, stays as it is.
    pub(super) fn end_reload(&mut self, now: Time, todo: &mut Vec<Action>) {
        match self.reload.candidate {
            Candidate::Proving(_) if self.is_stopping() => {
                // Everybody is told to leave, and all listeners are ended.
                self.reload.candidate = Candidate::None;
                self.reloaded(self.reload.newest, ReloadEnd::TooLate, todo);
            }
            Candidate::Proving(_) => self.abandon_reload(ReloadEnd::TooLate, now, todo),
            Candidate::Loading | Candidate::None => {}
        }
        if mem::take(&mut self.reload.replacing) {
            self.reloaded(self.generation, ReloadEnd::TooLate, todo);
        }
        let was_loading =
            matches!(mem::replace(&mut self.reload.candidate, Candidate::None), Candidate::Loading);
        if mem::take(&mut self.reload.wanted) || was_loading {
            self.reloaded(self.reload.newest + 1, ReloadEnd::TooLate, todo);
        }
    }

    /// The configuration that a member without a process is spawned with.
    pub(super) fn made_of(&self, index: usize) -> (u32, Shape) {
        match &self.reload.candidate {
            Candidate::Proving(shape) if self.members[index].is_reloaded() => (self.reload.newest, *shape),
            _ => (self.generation, self.shape),
        }
    }

    /// Whether a member is one of those that have to prove the new generation.
    pub(super) fn is_unproven(&self, index: usize) -> bool {
        let member = &self.members[index];
        let newest = self.reload.newest;
        matches!(self.reload.candidate, Candidate::Proving(_))
            && member.is_reloaded()
            && member.generation().is_none_or(|n| n == newest)
    }

    /// Whether a member came to replace an old worker by one that is not the newest any more, or fails to prove that: it is
    /// not tried again.
    pub(super) fn is_overtaken(&self, index: usize) -> bool {
        matches!(self.reload.candidate, Candidate::Proving(_)) && self.members[index].is_reloaded()
    }

    /// Whether there is a newer configuration than a member has, or would have.
    pub(super) fn is_old(&self, member: &Member) -> bool {
        let newest = match self.reload.candidate {
            Candidate::Proving(_) => self.reload.newest,
            Candidate::Loading | Candidate::None => self.generation,
        };
        member.generation().unwrap_or(self.generation) < newest
    }

    /// Whether a reload was asked for and is not over.
    pub(super) fn is_reloading(&self) -> bool {
        let Reload { wanted, candidate, replacing, .. } = &self.reload;
        *wanted || *replacing || !matches!(candidate, Candidate::None)
    }

    fn reloaded(&self, generation: u32, end: ReloadEnd, todo: &mut Vec<Action>) {
        todo.push(Action::Reloaded { generation, end });
    }
}
