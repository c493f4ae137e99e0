//! The rules that hold after every step, and at the end.

use std::collections::BTreeSet;

use remuda_core::shutdown::Reason;
use remuda_core::worker::sys::EXIT_MARGIN;

use super::monitor::{START, ms};
use super::process::Process;
use super::system::{KILL_MARGIN, SLACK};
use super::world::World;

impl World {
    /// Checks the rules that hold after every step.
    pub(super) fn check(&self) {
        let now = self.now();
        let (monitor, records) = (&self.monitor, &self.records);
        for process in self.processes.values() {
            let (pid, own) = (process.pid, &self.arbiters[process.parent]);
            let tally = process.service.counters.tally();
            let (settled, all) = (tally.answered() + tally.aborted, process.open() == 0);
            monitor.hold(
                "counts_are_exact",
                settled <= tally.requests && (!all || settled == tally.requests),
                || format!("worker {pid} has {} connections and counts {tally:?}", process.open()),
            );
            let (served, quota) = (tally.requests, process.quota);
            let spent = process.spent.is_some();
            monitor.hold("d15_recycle", quota == 0 || served < quota || spent, || {
                format!("worker {pid} has served {served} of {quota} requests and reports nothing")
            });
            if let Some(drain) = process.drain() {
                let late = drain.deadline.max(records.thawed) + KILL_MARGIN + SLACK;
                monitor.hold("d10_deadline", now <= late, || {
                    format!("worker {pid} lives past its deadline {:?}", drain.deadline)
                });
                let idle = process.open() == 0 && now >= process.hangs_until && process.is_serving();
                let inbox = &self.inboxes[own.inbox];
                let awaited = own.is_passing || !inbox.is_empty() || !own.passing.is_empty();
                let since = process.alive_at.max(process.hangs_until).max(drain.since).max(records.thawed);
                let patience = ms(500) + records.beat_interval + SLACK;
                monitor.hold("d9_exit_when_empty", !idle || awaited || now <= since + patience, || {
                    format!("worker {pid} lives on with nothing open")
                });
            }
            let bound = if process.ready_at.is_some() { records.timeout } else { records.boot_timeout };
            let watched =
                own.is_alive && !records.aborted.contains_key(&pid) && !records.killed.contains(&pid);
            let silent = now.since(process.alive_at.max(records.thawed));
            monitor.hold("d1_heartbeat", !watched || silent <= 2 * bound + SLACK, || {
                format!("worker {pid} has been silent for {silent:?} and lives")
            });
        }
        for arbiter in 0..self.arbiters.len() {
            self.check_stop(arbiter);
            self.check_number(arbiter);
            self.check_recycling(arbiter);
            self.check_reload(arbiter);
            self.check_unattended(arbiter);
        }
    }

    /// Checks that an arbiter has acted on all of its input.
    pub(super) fn check_done(&self, arbiter: usize) {
        let (monitor, own) = (&self.monitor, &self.arbiters[arbiter]);
        monitor.hold("logs_are_reopened", own.logs >= own.reopens, || "the logs are the old ones".to_owned());
        let gate = own.hurried.filter(|_| own.is_passing).is_none_or(|by| own.gate <= by);
        monitor.hold("d11_hurry", gate, || "the gate stays shut in a hurry".to_owned());
        let shares = own.new_arbiter.is_some() && (own.new_is_ready.is_none() || own.new_is_signalled);
        monitor.hold("d3_close_the_listener", !own.stopping || own.is_saved || shares, || {
            "a stop has begun, and the listeners are open".to_owned()
        });
        let waits = own.reload_requested && own.is_calm() && own.open.is_empty() && own.candidate.is_none();
        monitor.hold("d16_reload", !waits, || "a requested reload does not begin".to_owned());
        let exhausted = self.records.no_forks_until > START;
        monitor.hold("upgrade", !own.upgrade_requested || !own.is_calm() || exhausted, || {
            "a requested upgrade does not begin".to_owned()
        });
        let alone = |other: Option<usize>| other.is_none_or(|other| self.arbiters[other].is_alive);
        let heard = own.unreaped.is_empty() && own.inputs.is_empty();
        monitor.hold("upgrade", !heard || alone(own.old_arbiter) && alone(own.new_arbiter), || {
            "what was another arbiter's is not taken".to_owned()
        });
        let helped = !self.script.has_helper || own.helper.is_some() || exhausted;
        monitor.hold("one_helper", helped || !own.is_calm(), || "there is no helper".to_owned());
    }

    fn check_stop(&self, arbiter: usize) {
        let (now, monitor, records, own) =
            (self.now(), &self.monitor, &self.records, &self.arbiters[arbiter]);
        let lame = own.lame.filter(|_| !own.stopping && own.is_alive);
        monitor.hold("lameduck", lame.is_none_or(|until| now <= until.max(records.thawed) + SLACK), || {
            format!("a lame duck serves on, and should have until {lame:?}")
        });
        if let Some(deadline) = own.stop_deadline.filter(|_| own.is_alive && own.has_started) {
            // A new arbiter that is not ready has to end first.
            let new_arbiter =
                if own.had_new { records.graceful + records.lameduck + 4 * KILL_MARGIN } else { ms(0) };
            let late = deadline.max(records.thawed) + KILL_MARGIN + SLACK + new_arbiter;
            monitor.hold("d10_deadline", now <= late, || "the server outlives its stop".to_owned());
        }
        if let Some(since) = own.orphaned {
            let hung = self.of(arbiter).map(|process| process.hangs_until).max().unwrap_or(since);
            let booting = self.of(arbiter).any(|process| !process.is_serving());
            let late =
                since.max(records.thawed).max(hung) + ms(1000) + records.graceful + EXIT_MARGIN + SLACK;
            let gone = self.of(arbiter).next().is_none();
            monitor.hold("d18_arbiters_death", booting || gone || now <= late, || {
                "workers live on without an arbiter".to_owned()
            });
            // They notice within 1 s.
            let deaf = self.of(arbiter).find(|process| {
                let from = since.max(records.thawed).max(process.hangs_until);
                process.is_serving() && process.drain().is_none() && now > from + ms(1000) + SLACK
            });
            monitor.hold("d18_arbiters_death", deaf.is_none(), || {
                format!("worker {:?} serves on without an arbiter", deaf.map(|process| process.pid))
            });
        }
    }

    /// Every slot has a worker, unless the next one waits for its back-off (D17).
    fn check_number(&self, arbiter: usize) {
        let (now, records, own) = (self.now(), &self.records, &self.arbiters[arbiter]);
        let serves = own.is_alive && own.has_started && own.lame.is_none() && !own.stopping;
        if !serves || !own.inputs.is_empty() || !own.unreaped.is_empty() {
            return;
        }
        let slots: BTreeSet<u16> =
            self.of(arbiter).filter(|process| !process.is_leaving()).map(|process| process.slot).collect();
        let due = latest(own.tries_at, records.thawed, own.emptied) + SLACK;
        self.monitor.hold("d17_crash_loop", slots.len() >= own.target || now <= due, || {
            format!("arbiter {arbiter}: slots {slots:?} have workers, and {} are wanted", own.target)
        });
    }

    /// A worker that is due for recycling is being replaced, unless the limit of concurrent
    /// recycles is reached (D15).
    fn check_recycling(&self, arbiter: usize) {
        let (now, records, own) = (self.now(), &self.records, &self.arbiters[arbiter]);
        let late = |at| now > latest(at, records.thawed, own.emptied).max(own.tries_at) + SLACK;
        let calm = own.serving && own.lame.is_none() && !own.stopping && own.is_alive;
        // An entry that waits for its back-off is not visible here, and a reload replaces workers
        // itself.
        let waits = own.short.values().any(|(count, _)| *count > 0) || records.no_forks_until > START;
        let reloads =
            !own.open.is_empty() || self.of(arbiter).any(|process| process.generation != own.generation);
        if !calm || waits || reloads {
            return;
        }
        let sibling = |of: &Process| {
            self.of(arbiter).any(|other| other.slot == of.slot && other.pid != of.pid && !other.is_leaving())
        };
        let replaced = self.of(arbiter).filter(|process| process.is_leaving() || sibling(process)).count();
        for process in self.of(arbiter) {
            // A worker that was too large at its first reading is not replaced.
            let limit = self.script.max_rss;
            let since =
                latest(process.ready_at.unwrap_or(now), records.thawed, own.changed) + ms(2100) + SLACK;
            let is_weighed = limit > 0 && process.ready_at.is_some() && !process.is_leaving() && now > since;
            let then = START + now.since(START).saturating_sub(ms(1100) + SLACK);
            let is_large = is_weighed && !process.was_large && process.rss(then) > limit + limit.div_ceil(10);
            let noticed = process.spent.is_some() || process.is_requested || !self.holds(process);
            self.monitor.hold("d15_recycle", !is_large || noticed, || {
                format!("worker {} is too large, and that is not noticed", process.pid)
            });
            let waits = !process.is_leaving() && process.spent.is_some_and(late) && !sibling(process);
            self.monitor.hold("d15_recycle", !waits || replaced >= records.recycling, || {
                format!("worker {} is due for recycling, and has no successor", process.pid)
            });
        }
    }

    /// Whether a worker is the only one of its slot.
    fn holds(&self, process: &Process) -> bool {
        self.of(process.parent).filter(|other| other.slot == process.slot && !other.is_leaving()).count() == 1
    }

    /// Once a generation is adopted, workers of older ones are replaced one by one (D16).
    fn check_reload(&self, arbiter: usize) {
        let (now, records, own) = (self.now(), &self.records, &self.arbiters[arbiter]);
        let calm = own.serving && own.lame.is_none() && !own.stopping && own.is_alive;
        let waits = own.short.values().any(|(count, _)| *count > 0) || records.no_forks_until > START;
        if !calm || waits || own.candidate.is_some() || !own.inputs.is_empty() {
            return;
        }
        let old =
            self.of(arbiter).find(|process| process.generation < own.generation && !process.is_leaving());
        let Some(old) = old else { return };
        // The next one waits while a successor boots or a worker leaves.
        let waited_for = self.of(arbiter).any(|process| {
            let leaves = process
                .drain_order
                .is_some_and(|drain| drain.reason == Reason::Reload || drain.reason.is_recycle());
            process.is_leaving() && leaves || !process.is_leaving() && process.ready_at.is_none()
        });
        let sibling = self
            .of(arbiter)
            .any(|other| other.slot == old.slot && other.pid != old.pid && !other.is_leaving());
        let late = now > latest(old.ready_at.unwrap_or(now), records.thawed, own.emptied) + SLACK;
        self.monitor.hold(
            "d16_reload",
            waited_for || sibling || !late || now <= own.changed.max(own.tries_at) + SLACK,
            || format!("worker {} is of generation {}, and has no successor", old.pid, old.generation),
        );
    }

    /// A connection at the listener of a slot without a worker does not wait while other workers
    /// accept.
    fn check_unattended(&self, arbiter: usize) {
        let (now, records, own) = (self.now(), &self.records, &self.arbiters[arbiter]);
        let calm = own.serving
            && !own.stopping
            && own.is_alive
            && own.old_arbiter.is_none()
            && own.new_arbiter.is_none();
        if !self.script.per_slot || !calm {
            return;
        }
        let well = |process: &&Process| {
            let since = process.ready_at.map(|at| at.max(process.hangs_until).max(records.thawed));
            !process.is_leaving()
                && process.drain().is_none()
                && since.is_some_and(|since| now > since + SLACK)
        };
        let attended: Vec<u16> =
            self.of(arbiter).filter(|process| !process.is_leaving()).map(|process| process.slot).collect();
        if self.of(arbiter).find(well).is_none() {
            return;
        }
        for socket in self.sockets.iter().filter(|socket| socket.is_open && socket.holders.contains(&arbiter))
        {
            let Some(slot) = socket.slot.filter(|slot| !attended.contains(slot)) else { continue };
            let since = latest(socket.waits_since.unwrap_or(now), records.thawed, own.emptied);
            self.monitor.hold("reuse_port", socket.queue.is_empty() || now <= since + SLACK, || {
                format!("connections wait at slot {slot}, which has no worker")
            });
        }
    }

    /// Checks the rules that hold once no event is left.
    pub(super) fn check_end(&mut self) {
        let over = self.processes.is_empty() && self.arbiters.iter().all(|arbiter| !arbiter.is_alive);
        self.monitor.hold("ends", over, || {
            format!("{} workers are left and nothing happens any more", self.processes.len())
        });
        for client in &mut self.clients {
            // Bytes under way still arrive.
            while !client.gone
                && !client.wire.borrow().sent.is_empty()
                && client.behaviour.slow_reads.is_none()
            {
                client.read(&self.monitor);
            }
            client.read(&self.monitor);
            self.answered += client.check(&self.script, &self.monitor);
        }
    }
}

fn latest<T: Ord>(a: T, b: T, c: T) -> T {
    a.max(b).max(c)
}
