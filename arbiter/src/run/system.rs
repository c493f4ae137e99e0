//! The plan's actions as system calls.

use std::mem;
use std::ops::ControlFlow::{self, Continue};
use std::os::fd::AsFd as _;

use remuda_core::order::Order;
use remuda_core::time::Time;
use remuda_core::worker::sys::now;
use rustix::process::{self, Pid, kill_process};
use tracing::info;

use super::signals::send_signal;
use super::{Host, Leave, background_job};
use crate::backlog::abandon;
use crate::config::UpgradeDrain;
use crate::control;
use crate::generation::Generation;
use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::plan::notice::Notice;
use crate::plan::words::{Done, PlanConfig, Refused, ReloadEnd, Signal, Ticket, counted};
use crate::supervisor::System;
use crate::sys::resident;

impl System for Host {
    type Leave = Leave;

    fn now(&self) -> Time {
        now()
    }

    fn planned(&mut self, plan: &Plan) {
        self.children.ledger.set_elsewhere(plan.ready_new_arbiter().is_some());
        self.children.ledger.set_deadline(plan.stop_deadline());
        self.children.ledger.enter(plan.stage(), plan.workers());
    }

    fn has_new_listeners(&mut self) -> bool {
        mem::take(&mut self.operators.has_new_listeners)
    }

    fn spawn(&mut self, slot: u16, seat: u16, generation: u32) -> ControlFlow<Leave, Result<Pid, String>> {
        let listeners = self.sockets.per_slot.count();
        let spawned = self.fork_worker(slot, seat, generation)?;
        self.operators.has_new_listeners |= self.sockets.per_slot.count() > listeners;
        Continue(spawned)
    }

    fn spawn_helper(&mut self) -> ControlFlow<Leave, Result<Pid, String>> {
        self.fork_helper()
    }

    fn retire(&mut self, pid: Pid) {
        self.children.retire(pid);
    }

    fn answer(&mut self, ticket: Ticket, answer: Result<Done, Refused>) {
        self.operators.answer(ticket, [control::answer(answer)]);
    }

    fn send(&mut self, pid: Pid, order: Order) {
        self.hooks.ordered(pid, &order);
        let descriptors = match order {
            Order::ReopenLogs => self.logs().to_continue_in(),
            _ => Vec::new(),
        };
        if let Some(link) = self.children.link(pid) {
            link.send_with(&order, descriptors);
        }
        send_signal(pid, self.children.user_of(pid), &order);
    }

    fn last_beat(&mut self, seat: u16) -> Time {
        self.children.board.seat(seat).map_or(Time::ZERO, |seat| seat.last_beat())
    }

    fn weigh(&mut self, pid: Pid) -> Option<u64> {
        resident(pid.as_raw_nonzero().get())
    }

    fn describe(&mut self, slot: u16, seat: u16) {
        self.children.describe(slot, seat);
    }

    fn free_seat(&mut self, seat: u16, clean: bool) {
        self.children.report_rescue(seat);
        self.children.ledger.retire(&self.children.board, seat, clean);
    }

    fn abort(&mut self, pid: Pid) {
        self.children.signal(pid, process::Signal::ABORT);
    }

    fn kill(&mut self, pid: Pid) {
        self.children.signal(pid, process::Signal::KILL);
    }

    fn save_backlog(&mut self) {
        self.sockets.save_backlog();
    }

    fn hurry_backlog(&mut self) {
        if let Some(backlog) = &mut self.sockets.backlog {
            backlog.hurry(now());
        }
    }

    fn accept_for(&mut self, slots: Vec<u16>) {
        self.sockets.unattended.become_these(slots);
    }

    fn end_slot(&mut self, slot: u16) {
        self.sockets.end_slot(slot);
    }

    fn drop_backlog(&mut self) -> usize {
        // Workers of another arbiter also receive from the queue.
        let queue = self.identity.upgrade.is_alone().then(|| self.queue.inbox.as_fd());
        abandon(self.sockets.backlog.take(), queue, now())
    }

    fn reopen_logs(&mut self) {
        self.logs().reopen();
    }

    fn load(&mut self, generation: u32) -> ControlFlow<Leave, Option<Result<PlanConfig, String>>> {
        self.identity.manager.reloading(now());
        self.load_generation(generation, now() + background_job::LIMIT)
    }

    fn adopt(&mut self) {
        let Some(next) = self.next.take() else { return };
        let is_elsewhere = next.chosen.all != self.current.chosen.all;
        if is_elsewhere {
            let addresses = self.sockets.listeners.describe(&next.chosen);
            info!(%addresses, "listening on {addresses}");
        }
        self.sockets.unattended.disagree(&self.current.chosen, &next.chosen);
        self.hooks.adopted(next.number);
        self.current = next;
        let backlog = self.current.loaded.config.backlog;
        self.sockets.listeners.listen_again(backlog);
        self.sockets.per_slot.listen_again(backlog);
        self.current.loaded.apply();
        self.operators.has_new_listeners |= is_elsewhere;
    }

    fn abandon(&mut self) {
        if let Some(next) = self.next.take() {
            self.sockets.drop_new(&next.chosen);
        }
    }

    fn end_listeners(&mut self) {
        let next = self.next.iter().flat_map(|next| &next.chosen.all);
        let kept: Vec<_> = self.current.chosen.all.iter().chain(next).copied().collect();
        self.sockets.end_others(&kept);
    }

    fn reloaded(&mut self, generation: u32, end: ReloadEnd) {
        let notice = Notice::Reloaded { generation, end };
        notice.log();
        self.identity.manager.hear(&notice);
    }

    fn launch(&mut self) -> Result<Pid, String> {
        self.hooks.upgrading();
        let (sockets, queue) = (&mut self.sockets, self.queue.ends());
        self.identity.upgrade.launch(
            &mut sockets.listeners,
            &mut sockets.per_slot,
            self.operators.listeners_mut(),
            queue,
            &self.signals,
        )
    }

    fn signal(&mut self, pid: Pid, signal: Signal) {
        let _ = kill_process(pid, signal.number());
    }

    fn hand_over(&mut self, pid: Pid) {
        self.identity.manager.hand_over(pid);
    }

    fn reclaim(&mut self, serves: Option<usize>) {
        self.identity.upgrade.forget();
        self.hooks.alone();
        self.all_listeners().for_each(|listeners| listeners.reclaim());
        self.sockets.per_slot.unshare_others(&[]);
        if let Some(workers) = serves {
            self.identity.take_the_name(workers, &self.current.loaded.config.process);
        }
    }

    fn announce_ready(&mut self, workers: usize) {
        let config = &self.current.loaded.config;
        // With manual drain, a new arbiter takes the server's paths only after the end of the old
        // one.
        if !self.identity.upgrade.has_old_arbiter() || config.upgrade_drain == UpgradeDrain::Automatic {
            self.identity.take_the_name(workers, &config.process);
        }
        let mut kept: Vec<_> = self.all_listeners().flat_map(|listeners| listeners.shared()).collect();
        kept.extend(self.sockets.per_slot.shared());
        self.identity.upgrade.tell_ready(&kept);
        let Generation { loaded, chosen, .. } = &self.current;
        let backend = loaded.worker.name();
        let addresses = self.sockets.listeners.describe(chosen);
        let all = counted(workers, &format!("{backend} worker"));
        info!(%addresses, backend, workers, "ready: {addresses}, {all}; stop with TERM or Ctrl-C");
        for admin in self.operators.admin.iter() {
            info!("admin listener: {}/healthz, /readyz, /metrics", admin.bound);
        }
        self.hooks.ready();
    }

    fn log(&mut self, notice: Notice) {
        self.children.count(&notice);
        notice.log();
        self.identity.manager.hear(&notice);
        self.hooks.hear(&notice);
    }

    fn finish(&mut self, outcome: Outcome) -> Leave {
        Leave::Finish(outcome)
    }
}
