//! Finds workers that are too old or too large (D15). [`replace`](super::replace) replaces them.
//!
//! A worker's age counts from its readiness, so that a worker with a long boot still serves. Its
//! memory is read every [`WEIGH_EVERY`], and only if there is a limit. A worker that is too large
//! as soon as it is ready would be followed by another like it: it is not replaced for that, and a
//! warning is logged instead.

use std::time::Duration;

use remuda_core::shutdown::Reason;
use remuda_core::time::Time;
use rustix::process::Pid;

use super::notice::Notice;
use super::worker_entry::{Process, WorkerEntry};
use super::{Action, Phase, Plan};

/// The interval between readings of a worker's memory.
pub(super) const WEIGH_EVERY: Duration = Duration::from_secs(1);

impl Plan {
    /// Marks workers that are too old, and requests readings of memory that are due.
    pub(super) fn expire(&mut self, now: Time, todo: &mut Vec<Action>) {
        if !self.lets_expire() {
            return;
        }
        for entry in &mut self.entries {
            let (slot, is_old) = (entry.slot, entry.expires_at().is_some_and(|at| at <= now));
            let is_due = entry.weighed_at().is_some_and(|at| at <= now);
            let Some(process) = entry.process_mut() else { continue };
            if is_old && let (Some(ready), Some(limit)) = (process.ready, process.bounds.lifetime) {
                process.spent = Some((now, Reason::RecycleLifetime));
                todo.push(Action::Log(Notice::Old { slot, pid: process.pid, age: now - ready, limit }));
            } else if is_due {
                process.weigh_at = Some(now + WEIGH_EVERY);
                todo.push(Action::Weigh { pid: process.pid });
            }
        }
    }

    /// Handles a reading of a worker's memory.
    pub(super) fn weighed(&mut self, pid: Pid, rss: u64, now: Time, todo: &mut Vec<Action>) {
        let Some(index) = self.find(pid) else { return };
        let slot = self.entries[index].slot;
        let Some(process) = self.entries[index].process_mut() else { return };
        let Some(limit) = process.bounds.rss else { return };
        let is_first = process.weight.replace(rss).is_none();
        if rss < limit || process.spent.is_some() {
            return;
        }
        if is_first {
            process.weigh_at = None;
            todo.push(Action::Log(Notice::BornLarge { slot, pid, rss, limit }));
        } else {
            process.spent = Some((now, Reason::RecycleMemory));
            todo.push(Action::Log(Notice::Large { slot, pid, rss, limit }));
        }
    }

    /// When [`expire`](Self::expire) has work.
    pub(super) fn expiry(&self) -> Option<Time> {
        let of_each = self.entries.iter().flat_map(|entry| [entry.expires_at(), entry.weighed_at()]);
        of_each.flatten().min().filter(|_| self.lets_expire())
    }

    /// No worker is replaced in a stop.
    fn lets_expire(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Serving)
    }
}

impl WorkerEntry {
    fn expires_at(&self) -> Option<Time> {
        self.unspent().and_then(|process| Some(process.ready? + process.bounds.lifetime?))
    }

    fn weighed_at(&self) -> Option<Time> {
        self.unspent().and_then(|process| process.weigh_at)
    }

    /// The process, if no reason to replace it was found yet.
    fn unspent(&self) -> Option<&Process> {
        self.process().filter(|process| self.is_holder() && process.spent.is_none())
    }
}
