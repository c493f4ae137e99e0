//! The children of the arbiter, and the memory that they share with it: orders to workers, and
//! reports about lost ones.

use std::io::PipeWriter;

use nix::unistd::Uid;
use remuda_core::app::Tally;
use remuda_core::order::Order;
use remuda_core::worker::sys::now;
use remuda_core::worker::{Ledger, Scoreboard, SeatSnapshot};
use rustix::process::{self, Pid, WaitOptions, kill_process};
use tracing::{info, warn};

use super::signals;
use crate::crash_report::CrashReports;
use crate::plan::Alive;
use crate::plan::notice::Notice;
use crate::plan::words::Death;
use crate::symbolizer::Stacks;
use crate::worker_link::WorkerLink;

/// The arbiter's ends of order sockets and pipes. Every child drops all of them: a worker that held
/// an end of a sibling's order socket would keep the sibling from noticing the arbiter's death
/// (D18). The shared memory stays mapped.
pub(super) struct Children {
    /// One link for each worker that was not reaped yet.
    pub(super) links: Vec<(Pid, WorkerLink)>,
    /// Keepers of workers that were reaped, each with the user of both.
    keepers: Vec<(Pid, Option<Uid>)>,
    /// Pipes to helpers. Closing the pipe retires the helper.
    pub(super) helpers: Vec<(Pid, PipeWriter)>,
    pub(super) board: Scoreboard,
    pub(super) ledger: Ledger,
    /// Aborted workers, which are already counted as lost.
    aborted: Vec<Pid>,
    pub(super) crash_reports: CrashReports,
}

impl Children {
    pub(super) fn new(board: Scoreboard, ledger: Ledger) -> Self {
        let (links, keepers, helpers, aborted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { links, keepers, helpers, board, ledger, aborted, crash_reports: CrashReports::new() }
    }

    pub(super) fn link(&mut self, pid: Pid) -> Option<&mut WorkerLink> {
        self.links.iter_mut().find(|(of, _)| *of == pid).map(|(_, link)| link)
    }

    /// Sends an order to all workers.
    pub(super) fn send_all(&mut self, order: &Order) {
        self.links.iter_mut().for_each(|(_, link)| link.send(order));
    }

    /// The user of a worker or of its keeper. None: the arbiter's.
    pub(super) fn user_of(&self, pid: Pid) -> Option<Uid> {
        let mut users =
            self.links.iter().map(|(of, link)| (*of, link.user)).chain(self.keepers.iter().copied());
        users.find(|(of, _)| *of == pid).and_then(|(_, user)| user)
    }

    pub(super) fn signal(&self, pid: Pid, signal: process::Signal) {
        signals::send(pid, self.user_of(pid), signal);
    }

    /// Closes the pipe of a helper, which ends once its clients have been answered.
    pub(super) fn retire(&mut self, pid: Pid) {
        self.helpers.retain(|(of, _)| *of != pid);
    }

    /// Returns the keeper of a worker in `seat` that was reaped, if one goes on for it.
    pub(super) fn outlived(&mut self, pid: Pid, seat: u16) -> Option<Pid> {
        let keeper = self.keeper_of(seat)?;
        self.keepers.push((keeper, self.user_of(pid)));
        Some(keeper)
    }

    /// Handles a reaped child. `peak` is its largest resident memory in bytes.
    pub(super) fn reaped(&mut self, pid: Pid, death: Death, peak: u64) {
        self.links.retain(|(of, _)| *of != pid);
        self.helpers.retain(|(of, _)| *of != pid);
        self.crash_reports.died(pid, death, peak);
    }

    /// The keeper of the worker in `seat`, if it lives.
    pub(super) fn keeper_of(&self, seat: u16) -> Option<Pid> {
        let pid = self.board.seat(seat)?.keeper()?;
        Pid::from_raw(pid.try_into().ok()?)
    }

    /// Notes that a child was reaped, if it was a keeper, and returns the seat of its worker.
    pub(super) fn keeper_reaped(&mut self, pid: Pid, death: Death) -> Option<u16> {
        self.keepers.retain(|(of, _)| *of != pid);
        let number = (0..self.ledger.seats()).find(|seat| self.keeper_of(*seat) == Some(pid))?;
        self.board.seat(number)?.loses_keeper();
        // It ends by itself only after its worker.
        if death != Death::Status(0) {
            let pid = pid.as_raw_nonzero().get();
            warn!(
                pid,
                "the keeper of a worker ended with {death}: the connections of that worker end with it"
            );
        }
        Some(number)
    }

    /// Logs what the keeper of the worker in `seat` has done, if it had anything to do.
    pub(super) fn report_rescue(&self, seat: u16) {
        let Some(SeatSnapshot { pid, counts, is_gone: true, .. }) =
            self.board.seat(seat).and_then(|seat| seat.read())
        else {
            return;
        };
        let Tally { rescued, rescue_answered: answered, rescue_cut: cut, rescue_lost: lost, .. } = counts;
        if rescued + answered + cut + lost > 0 {
            info!(
                pid,
                rescued,
                answered,
                cut,
                lost,
                "connections of the worker that is gone: {rescued} handed to other workers, {answered} requests answered in its place, {cut} cut"
            );
        }
    }

    /// Counts a notice that reports a loss. An aborted worker counts once.
    pub(super) fn count(&mut self, notice: &Notice) {
        let aborted = |all: &mut Vec<Pid>, pid: &Pid| {
            let before = all.len();
            all.retain(|one| one != pid);
            all.len() < before
        };
        match (notice, notice.loss()) {
            (Notice::Recycling { reason, .. }, _) => self.ledger.replaced(*reason),
            (Notice::Died { pid, .. }, _) if aborted(&mut self.aborted, pid) => {}
            (Notice::Silent { pid, .. } | Notice::BootTimedOut { pid, .. }, Some(loss)) => {
                self.aborted.push(*pid);
                self.ledger.lost(loss);
            }
            (_, Some(loss)) => self.ledger.lost(loss),
            _ => {}
        }
    }

    /// Logs the requests of the worker in `seat`. Nothing is logged for an idle worker that ended
    /// as expected.
    pub(super) fn describe(&self, slot: u16, seat: u16) {
        let Some(entry) = self.board.seat(seat).and_then(|seat| seat.read()) else { return };
        let Some(pid) = i32::try_from(entry.pid).ok().and_then(Pid::from_raw) else { return };
        if !entry.busy.is_empty() || self.crash_reports.is_strange(pid) {
            let memory = self.crash_reports.memory(pid);
            let more = entry.unseen();
            Notice::Serving { slot, pid, busy: entry.busy, more, at: now(), memory }.log();
        }
    }

    /// Keeps the stack traces that an ended worker has reported. Those of a worker that aborted by
    /// itself before it was ready are dropped: it would do so again and again.
    pub(super) fn keep_stacks(&mut self, pid: Pid, mut workers: impl Iterator<Item = Alive>) {
        let stacks = self.crash_reports.take_stacks(pid);
        let is_told = |worker: &Alive| worker.ready.is_some() || self.aborted.contains(&pid);
        let worker = workers.find(|worker| worker.pid == pid).filter(is_told);
        let Some(worker) = worker.filter(|_| !stacks.is_empty()) else { return };
        let entry = self.board.seat(worker.seat).and_then(|seat| seat.read());
        let busy = entry.map(|entry| entry.busy).unwrap_or_default();
        if !self.crash_reports.keep(Stacks { slot: worker.slot, pid, stacks, busy }) {
            warn!(
                pid = pid.as_raw_nonzero().get(),
                "worker stack trace dropped: too many wait for the symbolizer"
            );
        }
    }

    /// Returns the shared memory. Called in the helper.
    pub(super) fn in_helper(self) -> (Scoreboard, Ledger) {
        (self.board, self.ledger)
    }
}

/// Kills and reaps helpers, which have nothing to finish.
pub(super) fn end(helpers: impl Iterator<Item = Pid>) {
    for pid in helpers {
        let _ = kill_process(pid, process::Signal::KILL);
        let _ = process::waitpid(Some(pid), WaitOptions::empty());
    }
}
