//! Reload: a new configuration replaces the current one (D16).
//!
//! Every loaded configuration is a generation. The new generation has to prove itself: its first
//! workers are successors of old ones. With the first ready worker the generation is adopted: from
//! then on every worker is spawned with it, workers of older generations are replaced, and a failed
//! worker is tried again like any other (D17). If a worker fails before that, the reload is given
//! up and the old generation serves on.
//!
//! ```text
//! HUP ─▶ Loading ──▶ Proving ── one is ready ──▶ adopted: the others are replaced
//!           └─ refused   └─ one fails: given up
//! ```
//!
//! Loading may take a while, in which everything else goes on. It reads the latest files, so it
//! answers all requests that arrive meanwhile. Requests that arrive while a generation is being
//! proved wait for its end, and then get one reload together. A request that arrives while older
//! workers are still being replaced is served at once: the newest configuration wins.

use std::mem;

use remuda_core::shutdown::Reason;
use remuda_core::time::Time;

use super::notice::Notice;
use super::words::{PlanConfig, ReloadEnd};
use super::worker_entry::{State, WorkerEntry};
use super::{Action, Phase, Plan};

/// The state of reloads.
#[derive(Debug)]
pub(super) struct Reload {
    /// The last loaded generation, whatever its result.
    newest: u32,
    /// Whether a reload was requested and has not begun.
    wanted: bool,
    candidate: Candidate,
    /// Whether workers of older generations than the adopted one still have to be told to drain.
    replacing: bool,
}

/// The generation that may take over.
#[derive(Debug)]
enum Candidate {
    /// No generation.
    None,
    /// An [`Action::Load`] is unanswered.
    Loading,
    /// The newest generation; none of its workers was ready yet.
    Proving(PlanConfig),
}

impl Reload {
    pub(super) fn new(generation: u32) -> Self {
        Self { newest: generation, wanted: false, candidate: Candidate::None, replacing: false }
    }
}

impl Plan {
    /// Requests a reload, which begins as soon as possible.
    pub(super) fn ask_for_reload(&mut self, todo: &mut Vec<Action>) {
        if self.is_ending() {
            self.reloaded(self.reload.newest + 1, ReloadEnd::TooLate, todo);
            return;
        }
        self.reload.wanted = !self.is_loading();
        if matches!(self.phase, Phase::Starting) || !matches!(self.reload.candidate, Candidate::None) {
            todo.push(Action::Log(Notice::ReloadWaits));
        }
    }

    /// The lowest generation of a reload requested now.
    pub(super) fn next_generation(&self) -> u32 {
        self.reload.newest + 1
    }

    /// Loads a configuration, if one was requested and no reload is under way.
    pub(super) fn begin_reload(&mut self, todo: &mut Vec<Action>) {
        if self.reload.wanted && matches!(self.reload.candidate, Candidate::None) {
            self.reload.wanted = false;
            self.reload.candidate = Candidate::Loading;
            todo.push(Action::Load { generation: self.reload.newest + 1 });
        }
    }

    pub(super) fn loaded(&mut self, config: PlanConfig, todo: &mut Vec<Action>) {
        if !matches!(self.reload.candidate, Candidate::Loading) {
            todo.push(Action::Abandon); // a stop came first
            return;
        }
        self.reload.newest += 1;
        self.reload.candidate = Candidate::Proving(config);
        // Successors of an earlier generation that wait for another try are obsolete.
        self.entries.retain(|entry| !(entry.is_reloaded() && matches!(entry.state, State::Due { .. })));
        todo.push(Action::Log(Notice::Reloading { generation: self.reload.newest }));
    }

    pub(super) fn not_loaded(&mut self, why: String, todo: &mut Vec<Action>) {
        if matches!(self.reload.candidate, Candidate::Loading) {
            self.reload.candidate = Candidate::None;
            self.reloaded(self.reload.newest + 1, ReloadEnd::Failed(why), todo);
        }
    }

    /// Adopts the new generation once one of its workers is ready. Returns whether its number of
    /// workers differs from that of the previous configuration: otherwise the number set by TTIN
    /// and TTOU stays.
    pub(super) fn adopt(&mut self, todo: &mut Vec<Action>) -> bool {
        let Candidate::Proving(config) = mem::replace(&mut self.reload.candidate, Candidate::None) else {
            return false;
        };
        if mem::replace(&mut self.reload.replacing, true) {
            self.reloaded(self.generation, ReloadEnd::Overtaken, todo);
        }
        self.generation = self.reload.newest;
        todo.push(Action::Adopt);
        mem::replace(&mut self.config, config).workers != config.workers
    }

    /// Gives up the new generation, which failed to boot. Its workers are told to leave.
    pub(super) fn give_up_reload(&mut self, why: String, now: Time, todo: &mut Vec<Action>) {
        self.abandon_reload(ReloadEnd::Failed(why), now, todo);
    }

    fn abandon_reload(&mut self, end: ReloadEnd, now: Time, todo: &mut Vec<Action>) {
        for index in (0..self.entries.len()).rev() {
            if self.is_unproven(index) {
                self.dismiss(index, Reason::Reload, now, todo);
            }
        }
        self.reload.candidate = Candidate::None;
        todo.push(Action::Abandon);
        self.reloaded(self.reload.newest, end, todo);
    }

    /// Finishes the reload once all workers that stay are of the adopted generation, and ends
    /// listeners that only others used.
    pub(super) fn finish_reload(&mut self, todo: &mut Vec<Action>) {
        let is_older = |entry: &WorkerEntry| entry.generation().is_some_and(|n| n < self.generation);
        let is_done = !self.entries.iter().any(|entry| entry.leaves_by().is_none() && is_older(entry));
        if self.reload.replacing && is_done {
            self.reload.replacing = false;
            todo.push(Action::EndListeners);
            self.reloaded(self.generation, ReloadEnd::Done, todo);
        }
    }

    /// Ends reloads because the server is ending. Workers stay as they are.
    pub(super) fn end_reload(&mut self, now: Time, todo: &mut Vec<Action>) {
        match self.reload.candidate {
            Candidate::Proving(_) if self.is_stopping() => {
                // The stop tells all workers to leave, and ends all listeners.
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

    /// The configuration with which an entry without process is spawned.
    pub(super) fn made_of(&self, index: usize) -> (u32, PlanConfig) {
        match &self.reload.candidate {
            Candidate::Proving(config) if self.entries[index].is_reloaded() => (self.reload.newest, *config),
            _ => (self.generation, self.config),
        }
    }

    /// Whether an entry is one of those that prove the new generation.
    pub(super) fn is_unproven(&self, index: usize) -> bool {
        let entry = &self.entries[index];
        let newest = self.reload.newest;
        matches!(self.reload.candidate, Candidate::Proving(_))
            && entry.is_reloaded()
            && entry.generation().is_none_or(|n| n == newest)
    }

    /// Whether an entry is a successor in a reload that is obsolete or fails to prove itself: it is
    /// not tried again.
    pub(super) fn is_overtaken(&self, index: usize) -> bool {
        matches!(self.reload.candidate, Candidate::Proving(_)) && self.entries[index].is_reloaded()
    }

    /// Whether a newer configuration exists than an entry has, or would get.
    pub(super) fn is_old(&self, entry: &WorkerEntry) -> bool {
        let newest = match self.reload.candidate {
            Candidate::Proving(_) => self.reload.newest,
            Candidate::Loading | Candidate::None => self.generation,
        };
        entry.generation().unwrap_or(self.generation) < newest
    }

    /// Whether a load is still awaited.
    pub(crate) fn is_loading(&self) -> bool {
        matches!(self.reload.candidate, Candidate::Loading)
    }

    /// Whether a reload is requested or under way.
    pub(super) fn is_reloading(&self) -> bool {
        let Reload { wanted, candidate, replacing, .. } = &self.reload;
        *wanted || *replacing || !matches!(candidate, Candidate::None)
    }

    fn reloaded(&self, generation: u32, end: ReloadEnd, todo: &mut Vec<Action>) {
        todo.push(Action::Reloaded { generation, end });
    }
}
