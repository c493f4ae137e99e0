//! The keepers of workers that are gone: each goes on with the connections of its worker, in whose
//! seat it counts (D20).

use remuda_core::time::Time;
use rustix::process::Pid;

use super::{Action, Plan};

/// The keeper of a worker that is gone.
#[derive(Debug)]
pub(super) struct Keeper {
    pid: Pid,
    /// The seat of the worker.
    pub(super) seat: u16,
    /// Whether the worker ended by itself with nothing left to do.
    clean: bool,
    killed: bool,
}

impl Plan {
    /// The worker in `seat` is gone. Its seat is freed once `keeper`, if it has one, is gone as
    /// well.
    pub(super) fn vacate(&mut self, seat: u16, clean: bool, keeper: Option<Pid>, todo: &mut Vec<Action>) {
        match keeper {
            Some(pid) => self.keepers.push(Keeper { pid, seat, clean, killed: false }),
            None => todo.push(Action::FreeSeat { seat, clean }),
        }
    }

    /// The keeper of the worker in `seat` is gone.
    pub(super) fn keeper_gone(&mut self, seat: u16, todo: &mut Vec<Action>) {
        let Some(index) = self.keepers.iter().position(|keeper| keeper.seat == seat) else { return };
        let Keeper { seat, clean, .. } = self.keepers.remove(index);
        todo.push(Action::FreeSeat { seat, clean });
    }

    /// Kills keepers that are left after a stop, like workers.
    pub(super) fn watch_keepers(&mut self, now: Time, todo: &mut Vec<Action>) {
        if self.keepers_killed_at().is_none_or(|at| now < at) {
            return;
        }
        for keeper in self.keepers.iter_mut().filter(|keeper| !keeper.killed) {
            keeper.killed = true;
            todo.push(Action::Kill { pid: keeper.pid });
        }
    }

    /// When keepers are killed, if there are any.
    pub(super) fn keepers_killed_at(&self) -> Option<Time> {
        let is_alive = self.keepers.iter().any(|keeper| !keeper.killed);
        self.under_way().filter(|_| is_alive).map(|stop| stop.kill_at)
    }
}
