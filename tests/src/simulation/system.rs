//! The [`System`] of the simulation: performs the actions of a plan on the models, and checks each
//! against the rules.

use std::collections::BTreeSet;
use std::ops::ControlFlow::{self, Continue};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use remuda_arbiter::simulated::{
    self, Command, Done, Notice, PlanConfig, Refused, ReloadEnd, Scale, Signal, Supervisor, System, Ticket,
};
use remuda_arbiter::{ArbiterConfig, Outcome};
use remuda_core::handoff::ConnectionRecord;
use remuda_core::order::{Order, Report};
use remuda_core::peer::{Origin, Peer};
use remuda_core::shutdown::{Drain, Phase, Reason};
use remuda_core::time::Time;
use remuda_core::worker::sys::QUICK_STOP;
use rustix::process::Pid;

use super::monitor::ms;
use super::process::{Boot, Process};
use super::records::Arbiter;
use super::script::{LoadResult, signals};
use super::world::{Event, Input, SEATS, World};

/// The time from a worker's deadline to its kill (D10).
pub(super) const KILL_MARGIN: Duration = Duration::from_millis(1500);

/// The tolerance for latencies of wake-ups.
pub(super) const SLACK: Duration = Duration::from_millis(100);

/// A worker that served for this time is replaced at once (D17).
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// The number of workers reloaded at a time.
const RELOADING: usize = 1;

/// The longest time that the gate stays shut in a hurried stop.
const HURRIED: Duration = Duration::from_millis(5);

/// The actions of the plan. The simulation performs them all.
pub const ACTIONS: [&str; 29] = [
    "Spawn",
    "SpawnHelper",
    "Retire",
    "Answer",
    "Send",
    "Look",
    "Weigh",
    "Describe",
    "FreeSeat",
    "Abort",
    "Kill",
    "SaveBacklog",
    "HurryBacklog",
    "AcceptFor",
    "EndSlot",
    "DropBacklog",
    "ReopenLogs",
    "Load",
    "Adopt",
    "Abandon",
    "EndListeners",
    "Reloaded",
    "Launch",
    "Signal",
    "HandOver",
    "Reclaim",
    "AnnounceReady",
    "Log",
    "Finish",
];

/// The world, from the side of one arbiter.
pub(super) struct ArbiterSystem<'w> {
    world: &'w mut World,
    arbiter: usize,
}

impl World {
    /// Feeds an arbiter its input, and performs what is due.
    pub(super) fn arbitrate(&mut self, arbiter: usize) {
        let Some(supervisor) = self.arbiters[arbiter].supervisor.take() else { return };
        let now = self.now();
        let mut supervisor = supervisor.on(ArbiterSystem { world: self, arbiter });
        let mut ended = supervisor.feed(simulated::Event::Tick).is_break();
        let mut inputs: Vec<Input> = std::mem::take(&mut supervisor.system.own().inputs).into();
        // The order is that of its loop: signals, then reports, then deaths.
        inputs.sort_by_key(|input| match input {
            Input::Signal(_) => 0,
            Input::BacklogOver(_) | Input::Loaded(_) => 1,
            Input::Report(..) => 2,
            Input::Command(..) => 3,
            Input::NewArbiterReady { .. } | Input::OldArbiterGone => 4,
            Input::Kept(..) | Input::Exited(..) | Input::KeeperGone(_) => 5,
        });
        for input in inputs {
            if ended {
                break;
            }
            ended = pass_on(&mut supervisor, input).is_break();
        }
        let deadline = supervisor.deadline();
        let supervisor = supervisor.on(());
        if ended {
            let has_outcome = self.arbiters[arbiter].outcome.is_some();
            self.monitor.hold("ends", has_outcome, || format!("arbiter {arbiter} ends without an outcome"));
            let status = self.arbiters[arbiter].outcome.as_ref().map_or(1, Outcome::status);
            return self.end_arbiter(arbiter, ExitStatus::from_raw(i32::from(status) << 8));
        }
        self.arbiters[arbiter].supervisor = Some(supervisor);
        self.accept_unattended(arbiter);
        let logs = self.arbiters[arbiter].logs;
        let stale = self.of(arbiter).find(|process| process.logs != logs).map(|process| process.pid);
        self.monitor.hold("logs_are_reopened", stale.is_none(), || format!("worker {stale:?} has old logs"));
        self.check_done(arbiter);
        if let Some(at) = deadline {
            self.at(at.max(now + Duration::from_micros(1)), Event::Arbiter(arbiter));
        }
    }

    /// Starts an arbiter.
    pub(super) fn start(&mut self, arbiter: usize) {
        let own = &self.arbiters[arbiter];
        if !own.is_alive || own.has_started {
            return;
        }
        let (setup, has_old_arbiter) = (own.setup(), own.old_arbiter.is_some());
        if setup.fails {
            return self.end_arbiter(arbiter, ExitStatus::from_raw(2 << 8));
        }
        if setup.hangs {
            return;
        }
        let config = self.config(arbiter);
        let now = self.now();
        let own = &mut self.arbiters[arbiter];
        (own.has_started, own.emptied) = (true, now);
        own.supervisor = Some(Supervisor::new(&config, SEATS, has_old_arbiter, ()));
        own.slots = (0..setup.workers).collect();
        // Inherited sockets that its settings do not name stay with the other arbiter.
        for socket in &mut self.sockets {
            let is_chosen = setup.binds & (1 << socket.address) != 0;
            if !is_chosen || socket.slot.is_some_and(|slot| slot >= setup.workers) {
                socket.holders.remove(&arbiter);
            }
        }
        let kept = self.sockets_of(arbiter);
        self.bind(arbiter, setup.binds);
        self.arbiters[arbiter].shared = kept;
        self.at(self.now(), Event::Arbiter(arbiter));
    }

    /// The configuration of the candidate, or of the adopted generation.
    fn config(&self, arbiter: usize) -> ArbiterConfig {
        let (script, own) = (&self.script, &self.arbiters[arbiter]);
        let setup = own.setups[&own.candidate.unwrap_or(own.generation)];
        let mut config = script.config();
        config.workers = setup.workers;
        config
    }

    /// Ends the process of an arbiter, which has finished or was killed.
    pub(super) fn end_arbiter(&mut self, arbiter: usize, status: ExitStatus) {
        let now = self.now();
        let own = &mut self.arbiters[arbiter];
        if !own.is_alive {
            return;
        }
        own.is_alive = false;
        own.supervisor = None;
        let (pid, old_arbiter, new_arbiter) = (own.pid, own.old_arbiter, own.new_arbiter);
        let is_clean = own.outcome.is_some();
        self.monitor.trace(|| format!("arbiter  {pid} ends: {status}"));
        if !is_clean && self.arbiters[arbiter].has_started {
            self.arbiters[arbiter].orphaned = Some(now);
        }
        for socket in &mut self.sockets {
            socket.holders.remove(&arbiter);
        }
        if let Some(old_arbiter) = old_arbiter.filter(|old_arbiter| self.arbiters[*old_arbiter].is_alive) {
            self.notify(old_arbiter, Input::Exited(pid, status));
        }
        if let Some(new_arbiter) = new_arbiter.filter(|new_arbiter| self.arbiters[*new_arbiter].is_alive) {
            self.notify(new_arbiter, Input::OldArbiterGone);
        }
        if !is_clean {
            self.arbiters[arbiter].is_passing = false;
            let lost: Vec<u32> = self.arbiters[arbiter].passing.drain(..).collect();
            self.lose(&lost);
            let pids: Vec<i32> = self.of(arbiter).map(|process| process.pid).collect();
            for pid in pids {
                self.processes.get_mut(&pid).expect("it lives").orphaned = true;
                self.signal(pid, signals::TERM);
            }
        }
        self.close_sockets();
    }

    /// Accepts connections for slots without a worker.
    fn accept_unattended(&mut self, arbiter: usize) {
        let own = &self.arbiters[arbiter];
        if own.accepted_for.is_empty() || own.is_saved {
            return;
        }
        let mut taken = Vec::new();
        for socket in &mut self.sockets {
            let is_own = socket.holders.contains(&arbiter) && socket.is_open;
            if is_own && socket.slot.is_some_and(|slot| own.accepted_for.contains(&slot)) {
                taken.extend(socket.queue.drain(..));
            }
        }
        self.records.count.unattended += taken.len() as u64;
        for conn in taken {
            self.pass(arbiter, conn);
        }
    }

    /// Puts a connection that the arbiter has accepted into the hand-off queue.
    pub(super) fn pass(&mut self, arbiter: usize, conn: u32) {
        let record = ConnectionRecord::fresh(Origin::new(0, Peer::Unix, self.rng.u32(..)), self.now());
        let inbox = self.arbiters[arbiter].inbox;
        self.inboxes[inbox].push_back((conn, record));
        self.wake_inbox(inbox);
    }

    /// Begins to pass on the connections of an ended listener.
    fn save(&mut self, arbiter: usize, conns: Vec<u32>) {
        let now = self.now();
        let gate = ms(if self.rng.u8(0..4) == 0 { self.rng.u64(5..500) } else { 2 });
        let own = &mut self.arbiters[arbiter];
        own.passing.extend(conns);
        own.gate = own.gate.max(now + gate);
        if !std::mem::replace(&mut own.is_passing, true) {
            self.soon(Event::Passed(arbiter));
        }
    }

    /// Closes sockets of an arbiter. Sockets that no other arbiter holds end, and their connections
    /// are passed on. Returns whether any has ended.
    fn release(&mut self, arbiter: usize, is_over: impl Fn(&super::world::Listening) -> bool) -> bool {
        let mut ended = None;
        for (id, socket) in self.sockets.iter_mut().enumerate() {
            if !socket.holders.contains(&arbiter) || !is_over(socket) {
                continue;
            }
            socket.holders.remove(&arbiter);
            if !self.arbiters[arbiter].shared.contains(&id) {
                socket.is_open = false;
                ended.get_or_insert_with(Vec::new).extend(socket.queue.drain(..));
            }
        }
        let is_some = ended.is_some();
        if let Some(conns) = ended {
            self.save(arbiter, conns);
        }
        self.close_sockets();
        is_some
    }

    /// Records what the rules expect after a signal.
    fn record_signal(&mut self, arbiter: usize, signal: i32) {
        let now = self.now();
        let (graceful, lameduck) = (self.records.graceful, self.records.lameduck);
        let own = &mut self.arbiters[arbiter];
        let asked = own.stopping || own.lame.is_some();
        match signal {
            signals::TTIN => drop(own.requested.insert(own.target + 1)),
            signals::TTOU => drop(own.requested.insert(1.max(own.target - 1))),
            signals::TERM if !asked && own.serving => own.lame = Some(now + lameduck),
            signals::QUIT => own.quit = true,
            signals::USR1 => own.reopens += 1,
            signals::HUP if own.is_calm() && !own.is_loading() => own.reload_requested = true,
            signals::USR2 if own.is_calm() && !own.is_reloading() => own.upgrade_requested = true,
            _ => {}
        }
        if matches!(signal, signals::TERM | signals::INT | signals::QUIT) && own.is_saved && own.is_passing {
            own.hurried = Some(now + HURRIED);
        }
        let is_lame = own.lame.is_some_and(|until| until > now);
        let grace = match signal {
            signals::TERM if !asked && is_lame => lameduck + graceful,
            signals::TERM if !own.stopping => graceful,
            signals::TERM | signals::INT => graceful.min(QUICK_STOP),
            signals::QUIT => Duration::ZERO,
            _ => return,
        };
        if asked || signal != signals::TERM {
            own.lame = Some(now);
        }
        let deadline = now + grace;
        let before = own.stop_deadline.unwrap_or(Time::MAX);
        own.stop_deadline = Some(before.min(deadline));
    }

    /// The workers of an arbiter.
    pub(super) fn of(&self, arbiter: usize) -> impl Iterator<Item = &Process> {
        self.processes.values().filter(move |process| process.parent == arbiter)
    }

    /// The number of workers that stay, and of those that leave because they are replaced.
    fn staying(&self, arbiter: usize) -> usize {
        let is_replaced = |reason: Reason| reason.is_recycle() || reason == Reason::Reload;
        let comes_or_stays = |process: &&Process| {
            !process.is_leaving() || process.drain_order.is_some_and(|drain| is_replaced(drain.reason))
        };
        self.of(arbiter).filter(comes_or_stays).count()
    }

    /// Records that a stop is under way. It begins no earlier than the lame duck phase ends.
    fn begin_stop(&mut self, arbiter: usize) {
        let (now, own) = (self.now(), &mut self.arbiters[arbiter]);
        let early = !own.stopping && own.lame.is_some_and(|until| now < until);
        let until = own.lame;
        own.stopping = true;
        self.monitor.hold("lameduck", !early, || format!("it should have served until {until:?}"));
    }

    /// Whether any worker receives connections of leaving workers.
    pub(super) fn has_receiver(&self, arbiter: usize) -> bool {
        let own = &self.arbiters[arbiter];
        // Deaths that the arbiter has not reaped are excused.
        let accepts = |process: &Process| process.ready_at.is_some() && !process.is_leaving();
        own.new_is_ready == Some(true) || self.of(arbiter).any(accepts) || !own.unreaped.is_empty()
    }

    /// Records an order to drain.
    fn record_drain(&mut self, arbiter: usize, pid: i32, drain: Drain) {
        let has_receiver = self.has_receiver(arbiter);
        self.monitor.hold("d19_hand_off", !drain.receiver || has_receiver, || {
            format!("worker {pid} is ordered to hand off, and there is no receiver")
        });
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let before = process.drain_order;
        let closer = before.is_none_or(|before| drain.deadline <= before.deadline);
        self.monitor
            .hold("d11_hurry", closer, || format!("worker {pid} is ordered {drain:?} after {before:?}"));
        let is_first = !process.is_leaving();
        let (slot, generation) = (process.slot, process.generation);
        let recycles = drain.reason.is_recycle() && is_first;
        process.drain_order = Some(drain);
        process.ordered_stop |=
            drain.phase >= Phase::Draining && (drain.reason.is_stop() || drain.reason == Reason::Upgrade);
        let own = &self.arbiters[arbiter];
        let succeeded = own.succeeded == Some(slot);
        self.monitor.hold("d15_recycle", !recycles || succeeded, || {
            format!("worker {pid} has to leave, and no worker is ready in slot {slot}")
        });
        self.records.count.recycles += u64::from(recycles);
        let reloads = drain.reason == Reason::Reload && is_first;
        let is_older = generation < own.generation && succeeded;
        let is_given_up = generation > own.generation;
        self.monitor.hold("d16_reload", !reloads || is_older || is_given_up, || {
            format!(
                "worker {pid} of generation {generation} has to leave for {}, not ready in slot {slot}",
                own.generation
            )
        });
    }
}

/// Feeds one input to an arbiter.
fn pass_on(supervisor: &mut Supervisor<ArbiterSystem<'_>>, input: Input) -> ControlFlow<()> {
    let ArbiterSystem { world, arbiter } = &mut supervisor.system;
    let (now, arbiter) = (world.now(), *arbiter);
    world.monitor.trace(|| format!("arbiter  {arbiter} receives {input:?}"));
    match input {
        Input::Signal(signal) => {
            world.record_signal(arbiter, signal);
            let Some(signal) = Signal::of(signal) else { return Continue(()) };
            supervisor.feed(simulated::Event::Signal(signal))
        }
        Input::Report(pid, report) => {
            if report == Report::Ready {
                let place = world.records.places[&pid];
                let generation = world.records.generations[&pid];
                world.processes.entry(pid).and_modify(|process| process.is_known = true);
                let own = supervisor.system.own();
                own.forget_others(place);
                own.proven.insert(generation);
                own.succeeded = Some(place.0);
            }
            let fed = supervisor.feed(simulated::Event::Report { pid: name(pid), report });
            supervisor.system.own().succeeded = None;
            fed
        }
        Input::Kept(pid, keeper) => {
            supervisor.feed(simulated::Event::Kept { pid: name(pid), keeper: name(keeper) })
        }
        Input::KeeperGone(seat) => {
            let fed = supervisor.feed(simulated::Event::KeeperGone { seat });
            let left = supervisor.system.own().unfreed.contains_key(&seat);
            let monitor = &supervisor.system.world.monitor;
            monitor.hold("counts_are_kept", !left, || format!("seat {seat} was not freed"));
            fed
        }
        Input::Exited(pid, status) => {
            let place = world.records.places.get(&pid).copied();
            if let Some(&(since, leaving)) = world.records.lives.get(&pid)
                && let Some(place) = place
            {
                // A generation that fails before it is adopted is not tried again.
                let own = &world.arbiters[arbiter];
                let is_given_up =
                    own.candidate.is_some() || world.records.generations[&pid] != own.generation;
                let long =
                    leaving || is_given_up || since.is_some_and(|at| now.since(at) + SLACK >= LONG_ENOUGH);
                let candidate = own.candidate;
                let is_followed = world.of(arbiter).any(|process| {
                    let succeeds = process.slot == place.0 && process.pid > pid;
                    succeeds && !process.is_leaving() && Some(process.generation) != candidate
                });
                let own = supervisor.system.own();
                let before = own.short.get(&place).map_or(0, |(count, _)| *count);
                if !leaving {
                    // A successor waits no longer than its slot.
                    own.forget_others(place);
                }
                // Its successor has the slot: the next worker in this seat begins anew.
                match is_followed {
                    true => drop(own.short.remove(&place)),
                    false => drop(own.short.insert(place, (if long { 0 } else { before + 1 }, now))),
                }
                own.unfreed.insert(place.1, pid);
            }
            let own = supervisor.system.own();
            own.unreaped.remove(&pid);
            own.retired.remove(&pid);
            if own.helper == Some(pid) {
                own.helper = None;
            }
            let fed = supervisor.feed(simulated::Event::Exited { pid: name(pid), death: status.into() });
            let ArbiterSystem { world, arbiter } = &mut supervisor.system;
            let own = &world.arbiters[*arbiter];
            // Its keeper may have ended already, and not be reaped yet.
            let left = !world.script.rescue && own.unfreed.values().any(|unfreed| *unfreed == pid);
            world.monitor.hold("counts_are_kept", !left, || format!("worker {pid} was not freed"));
            fed
        }
        Input::BacklogOver(lost) => supervisor.feed(simulated::Event::BacklogOver { lost }),
        Input::Loaded(generation) => match supervisor.system.load_result(generation) {
            Ok(config) => supervisor.feed(simulated::Event::Loaded { config }),
            Err(why) => supervisor.feed(simulated::Event::NotLoaded { why }),
        },
        Input::NewArbiterReady { receives, kept } => {
            let own = supervisor.system.own();
            own.new_is_ready = Some(receives);
            own.shared.retain(|socket| kept.contains(socket));
            supervisor.system.world.records.count.upgrades += 1;
            supervisor.feed(simulated::Event::NewArbiterReady { receives })
        }
        Input::OldArbiterGone => supervisor.feed(simulated::Event::OldArbiterGone),
        Input::Command(ticket, command) => {
            let own = &mut world.arbiters[arbiter];
            own.tickets.insert(ticket);
            match command {
                Command::Reload if own.is_calm() && !own.is_loading() => own.reload_requested = true,
                Command::Upgrade if own.is_calm() && !own.is_reloading() => own.upgrade_requested = true,
                Command::Scale(Scale::To(workers)) => drop(own.requested.insert(workers.into())),
                Command::Recycle(which) => {
                    let asked = |pid: i32| which.is_none_or(|which| raw(which) == pid);
                    let workers = world.processes.values_mut().filter(|process| process.parent == arbiter);
                    workers
                        .filter(|process| asked(process.pid))
                        .for_each(|process| process.is_requested = true);
                }
                Command::Stop { quick } => {
                    world.record_signal(arbiter, if quick { signals::INT } else { signals::TERM })
                }
                _ => {}
            }
            supervisor.feed(simulated::Event::Asked { ticket: Ticket(ticket), command, wait: true })
        }
    }
}

impl ArbiterSystem<'_> {
    fn own(&mut self) -> &mut Arbiter {
        &mut self.world.arbiters[self.arbiter]
    }

    /// Counts an action. Returns whether it is performed: a schedule can be played without one.
    fn performs(&mut self, action: &str) -> bool {
        let at = ACTIONS.iter().position(|known| *known == action).expect("it is one of them");
        self.world.records.count.actions[at] += 1;
        self.world.without != Some(action)
    }

    fn hold(&self, rule: &'static str, kept: bool, what: impl FnOnce() -> String) {
        self.world.monitor.hold(rule, kept, || format!("arbiter {}: {}", self.arbiter, what()));
    }

    /// Returns the result of a load, and binds new addresses.
    fn load_result(&mut self, generation: u32) -> Result<PlanConfig, String> {
        let (world, arbiter) = (&mut *self.world, self.arbiter);
        let current = world.arbiters[arbiter].setup();
        let setup = match world.script.loads.pop() {
            Some(LoadResult::Broken) => return Err("as drawn".to_owned()),
            Some(LoadResult::Setup(setup)) => setup,
            None => current,
        };
        if setup.fails {
            world.records.bad_boots.push(Some(4));
        } else if setup.hangs {
            world.records.bad_boots.push(None);
        }
        world.monitor.trace(|| format!("arbiter  {arbiter} loads generation {generation}: {setup:?}"));
        world.arbiters[arbiter].setups.insert(generation, setup);
        world.arbiters[arbiter].candidate = Some(generation);
        world.arbiters[arbiter].has_loaded = true;
        // Back-offs of earlier attempts end.
        world.arbiters[arbiter].short.clear();
        world.bind(arbiter, setup.binds);
        let config = world.config(arbiter);
        Ok(PlanConfig::of(&config, SEATS))
    }
}

impl System for ArbiterSystem<'_> {
    type Leave = ();

    fn now(&self) -> Time {
        self.world.now()
    }

    fn has_new_listeners(&mut self) -> bool {
        std::mem::take(&mut self.own().has_new_listeners)
    }

    fn spawn(&mut self, slot: u16, seat: u16, generation: u32) -> ControlFlow<(), Result<Pid, String>> {
        if !self.performs("Spawn") {
            return Continue(Err("left undone".to_owned()));
        }
        let now = self.now();
        self.hold("d3_nothing_is_spawned_in_a_stop", !self.world.arbiters[self.arbiter].stopping, || {
            format!("slot {slot}")
        });
        let is_free = self.world.of(self.arbiter).all(|process| process.seat != seat);
        self.hold("one_worker_a_seat", is_free, || format!("seat {seat}"));
        let is_kept = self.world.arbiters[self.arbiter].keepers.values().any(|kept| *kept == seat);
        self.hold("d20_a_seat_outlives_its_keeper", !is_kept, || format!("seat {seat}"));
        let own = &self.world.arbiters[self.arbiter];
        let counts = generation == own.generation || Some(generation) == own.candidate;
        self.hold("d16_reload", counts, || format!("a worker of generation {generation} is spawned"));
        let newest = own.candidate.unwrap_or(own.generation);
        let of_slot = |process: &&Process| process.slot == slot && !process.is_leaving();
        let before: Vec<_> = self.world.of(self.arbiter).filter(of_slot).collect();
        let replaced = |process: &&Process| {
            process.spent.is_some()
                || process.is_requested
                || process.generation < newest
                // A worker that proves its generation keeps that role after the end of its
                // predecessor.
                || Some(process.generation) == own.candidate
        };
        let succeeds = before.len() < 2 && before.iter().all(replaced);
        self.hold("d15_recycle", succeeds, || format!("slot {slot} has a worker that is not to be replaced"));
        if let Some((count, since)) = own.short.get(&(slot, seat)).filter(|(count, _)| *count > 0) {
            let least = ms(100).saturating_mul(1 << (count - 1).min(8)).min(Duration::from_secs(30));
            let waited = now.since(*since);
            self.hold("d17_crash_loop", waited >= least, || {
                format!("slot {slot} is filled {waited:?} after short life {count}, not {least:?}")
            });
        }
        if before.is_empty() && Some(generation) != own.candidate {
            // This worker has the slot: an earlier one in another seat is not respawned.
            self.own().forget_others((slot, seat));
        }
        let own = &self.world.arbiters[self.arbiter];
        let binds = own.setups[&generation].binds;
        let logs = own.logs;
        self.own().slots.insert(slot);
        let before = self.world.sockets.len();
        self.world.bind(self.arbiter, binds);
        let has_new = self.world.sockets.len() > before;
        self.own().has_new_listeners |= has_new;
        let world = &mut *self.world;
        if now < world.records.no_forks_until {
            return Continue(Err("no memory".to_owned()));
        }
        let pid = world.records.next_pid();
        let took = if world.rng.u8(..) < 16 { world.rng.u64(0..4000) } else { world.rng.u64(0..50) };
        let boot = match world.records.bad_boots.pop() {
            Some(Some(status)) => Boot::Fails(now + ms(took), status),
            Some(None) => Boot::Hangs,
            None => Boot::Ready(now + ms(took)),
        };
        let (least, more) = world.script.max_requests;
        let quota = if least > 0 { least + world.rng.u64(0..=more) } else { 0 };
        let sockets = world.sockets_for(self.arbiter, slot, binds);
        let size = (world.rng.u64(0..30), world.rng.u64(0..60));
        let monitor = world.monitor.clone();
        monitor.trace(|| {
            format!(
                "arbiter  {} forks {pid} for slot {slot}, generation {generation}: {boot:?}",
                self.arbiter
            )
        });
        let mut process = Process::new(
            pid,
            (slot, seat),
            boot,
            &world.script,
            quota,
            &monitor,
            world.records.beat_interval,
        );
        (process.parent, process.generation, process.sockets, process.logs) =
            (self.arbiter, generation, sockets, logs);
        process.size = size;
        world.processes.insert(pid, process);
        world.records.places.insert(pid, (slot, seat));
        world.records.generations.insert(pid, generation);
        let staying = world.staying(self.arbiter);
        let own = &world.arbiters[self.arbiter];
        let most = own.target + world.records.recycling + if own.has_loaded { RELOADING } else { 0 };
        let target = own.target;
        world.soon(Event::Turn(pid));
        self.hold("d15_never_more_than_asked_for", staying <= most, || {
            format!("{staying} workers, {target} are wanted")
        });
        Continue(Ok(name(pid)))
    }

    fn spawn_helper(&mut self) -> ControlFlow<(), Result<Pid, String>> {
        if !self.performs("SpawnHelper") {
            return Continue(Err("left undone".to_owned()));
        }
        let there = self.own().helper;
        self.hold("one_helper", there.is_none(), || format!("there is {there:?}"));
        if self.now() < self.world.records.no_forks_until {
            return Continue(Err("no memory".to_owned()));
        }
        let pid = self.world.records.next_pid();
        self.own().helper = Some(pid);
        Continue(Ok(name(pid)))
    }

    fn retire(&mut self, pid: Pid) {
        if !self.performs("Retire") {
            return;
        }
        let (pid, arbiter) = (raw(pid), self.arbiter);
        let there = self.own().helper.take();
        self.hold("one_helper", there == Some(pid), || format!("{pid} is retired, and there is {there:?}"));
        self.own().retired.insert(pid);
        // Its clients may be slow, or may not read at all.
        let length = ms(self.world.rng.u64(0..8000));
        let at = self.now() + length;
        self.world.at(at, Event::HelperEnds(arbiter, pid));
    }

    fn answer(&mut self, ticket: Ticket, answer: Result<Done, Refused>) {
        if !self.performs("Answer") {
            return;
        }
        let waited = self.own().tickets.remove(&ticket.0);
        self.hold("operators_are_answered", waited, || format!("{ticket:?} is answered again: {answer:?}"));
    }

    fn send(&mut self, pid: Pid, order: Order) {
        if !self.performs("Send") {
            return;
        }
        let (pid, arbiter, now) = (raw(pid), self.arbiter, self.now());
        let world = &mut *self.world;
        world.monitor.trace(|| format!("arbiter  {arbiter} sends {pid} {order:?}"));
        let leaves_by = match &order {
            Order::Drain { drain, .. } if drain.phase >= Phase::Draining => Some(drain.deadline),
            _ => None,
        };
        let signal = match &order {
            Order::Drain { drain, .. } => {
                let is_stop = drain.reason.is_stop() && drain.phase >= Phase::Draining;
                if is_stop || drain.reason == Reason::Upgrade {
                    world.begin_stop(arbiter);
                    world.arbiters[arbiter].ordered_deadline = Some(drain.deadline);
                }
                world.record_drain(arbiter, pid, *drain);
                let hurried = drain.deadline <= now + QUICK_STOP;
                let signal = if hurried { signals::INT } else { signals::TERM };
                is_stop.then_some(signal)
            }
            Order::ReopenLogs => {
                let logs = world.arbiters[arbiter].logs;
                world.processes.entry(pid).and_modify(|process| process.logs = logs);
                None
            }
            _ => None,
        };
        let Some(process) = world.processes.get_mut(&pid) else { return };
        process.orders.push_back(order);
        world.soon(Event::Turn(pid));
        if let Some(signal) = signal {
            world.signal(pid, signal);
        }
        if let Some(deadline) = leaves_by {
            world.leave_by(pid, deadline);
        }
    }

    fn last_beat(&mut self, seat: u16) -> Time {
        if !self.performs("Look") {
            return Time::ZERO;
        }
        let process = self.world.of(self.arbiter).find(|process| process.seat == seat);
        process.and_then(|process| process.beat).unwrap_or(Time::ZERO)
    }

    fn weigh(&mut self, pid: Pid) -> Option<u64> {
        if !self.performs("Weigh") {
            return None;
        }
        let now = self.now();
        let process = self.world.processes.get_mut(&raw(pid))?;
        let rss = process.rss(now);
        process.was_large |=
            !std::mem::replace(&mut process.was_weighed, true) && rss >= self.world.script.max_rss;
        Some(rss)
    }

    fn describe(&mut self, _: u16, seat: u16) {
        if !self.performs("Describe") {
            return;
        }
        self.own().described.insert(seat);
    }

    fn free_seat(&mut self, seat: u16, clean: bool) {
        if !self.performs("FreeSeat") {
            return;
        }
        let living = self.world.of(self.arbiter).any(|process| process.seat == seat);
        let dead = self.own().unfreed.remove(&seat);
        let is_described = self.own().described.remove(&seat);
        self.hold("lost_workers_are_described", clean || is_described, || format!("seat {seat}"));
        self.hold("counts_are_kept", !living && dead.is_some(), || {
            format!("seat {seat} is emptied: {dead:?}")
        });
    }

    fn abort(&mut self, pid: Pid) {
        if !self.performs("Abort") {
            return;
        }
        let (pid, now) = (raw(pid), self.now());
        self.world.monitor.trace(|| format!("arbiter  aborts {pid}"));
        let again = self.world.records.aborted.insert(pid, now).is_some();
        self.hold("d1_heartbeat", !again, || format!("worker {pid} is aborted twice"));
        if let Some(process) = self.world.processes.get(&pid) {
            let silent = now.since(process.alive_at.max(self.world.records.forgiven));
            let bound = match process.ready_at {
                Some(_) => self.world.records.timeout,
                None => self.world.records.boot_timeout,
            };
            self.hold("d1_heartbeat", silent + SLACK >= bound, || {
                format!("worker {pid} is aborted after {silent:?}")
            });
        }
        if self.world.rng.u8(0..4) > 0 {
            self.world.end(pid, ExitStatus::from_raw(signals::ABRT));
        }
    }

    fn kill(&mut self, pid: Pid) {
        if !self.performs("Kill") {
            return;
        }
        let (pid, now, arbiter) = (raw(pid), self.now(), self.arbiter);
        self.world.monitor.trace(|| format!("arbiter  kills {pid}"));
        let again = !self.world.records.killed.insert(pid);
        self.hold("d10_deadline", !again, || format!("process {pid} is killed twice"));
        let killed = ExitStatus::from_raw(signals::KILL);
        if let Some(new_arbiter) = self.world.arbiters.iter().position(|arbiter| arbiter.pid == pid) {
            // A new arbiter that was signalled before it was ready may be killed after it has
            // become ready.
            let is_ours = self.own().new_arbiter == Some(new_arbiter) && self.own().new_is_signalled;
            self.hold("upgrade", is_ours, || {
                format!("{pid} is killed, which is not its own, or was not signalled")
            });
            return self.world.end_arbiter(new_arbiter, killed);
        }
        if self.own().keepers.contains_key(&pid) {
            let deadlines = [self.own().stop_deadline, self.own().ordered_deadline];
            let over = deadlines.into_iter().flatten().any(|deadline| now >= deadline + KILL_MARGIN);
            let quit = self.own().quit;
            self.hold("d10_deadline", over || quit, || format!("keeper {pid} is killed early"));
            return self.world.at(now, Event::KeeperEnds(arbiter, pid));
        }
        if self.own().retired.contains(&pid) {
            return self.world.at(now, Event::HelperEnds(arbiter, pid));
        }
        if let Some(process) = self.world.processes.get(&pid) {
            let aborted = self.world.records.aborted.contains_key(&pid);
            let over = process.drain_order.is_some_and(|drain| now >= drain.deadline + KILL_MARGIN);
            let unready = process.ready_at.is_none() && process.ordered_stop;
            let quit = self.world.arbiters[arbiter].quit;
            self.hold("d10_deadline", aborted || over || unready || quit, || {
                format!("worker {pid} is killed early: {:?}", process.drain_order)
            });
        }
        self.world.end(pid, killed);
    }

    fn save_backlog(&mut self) {
        if !self.performs("SaveBacklog") {
            return;
        }
        let arbiter = self.arbiter;
        let again = std::mem::replace(&mut self.own().is_saved, true);
        self.hold("d3_close_the_listener", !again, || "ended twice".to_owned());
        let unordered = self.world.of(arbiter).any(|process| !process.ordered_stop);
        self.hold("d4_backlog", !unordered, || "the workers have to be ordered first".to_owned());
        self.world.begin_stop(arbiter);
        if !self.world.release(arbiter, |_| true) {
            // All are another arbiter's as well.
            self.world.save(arbiter, Vec::new());
        }
    }

    fn hurry_backlog(&mut self) {
        if !self.performs("HurryBacklog") {
            return;
        }
        let until = self.now() + HURRIED;
        let own = self.own();
        own.gate = own.gate.min(until);
    }

    fn accept_for(&mut self, slots: Vec<u16>) {
        if !self.performs("AcceptFor") {
            return;
        }
        let accepts = |process: &&Process| process.is_known && !process.is_leaving();
        let attended = self.world.of(self.arbiter).filter(accepts);
        let attended: Vec<_> =
            attended.filter(|process| slots.contains(&process.slot)).map(|process| process.pid).collect();
        // A worker that a signal has reached directly reports that it drains.
        let quiet =
            self.world.of(self.arbiter).all(|process| process.drain().is_none() || process.is_leaving());
        self.hold("reuse_port", attended.is_empty() || !quiet, || {
            format!("{attended:?} accept, and the arbiter accepts for them too")
        });
        self.own().accepted_for = slots;
    }

    fn end_slot(&mut self, slot: u16) {
        if !self.performs("EndSlot") {
            return;
        }
        let there = self.world.of(self.arbiter).any(|process| process.slot == slot && !process.is_leaving());
        self.hold("reuse_port", !there, || format!("slot {slot} ends, and has a worker"));
        self.own().slots.remove(&slot);
        self.world.release(self.arbiter, |socket| socket.slot == Some(slot) && slot > 0);
    }

    fn drop_backlog(&mut self) -> usize {
        if !self.performs("DropBacklog") {
            return 0;
        }
        let own = self.own();
        own.is_passing = false;
        let mut lost: Vec<u32> = own.passing.drain(..).collect();
        let (inbox, is_alone) = (own.inbox, own.old_arbiter.is_none() && own.new_arbiter.is_none());
        if is_alone {
            lost.extend(self.world.inboxes[inbox].drain(..).map(|(conn, _)| conn));
        }
        self.world.lose(&lost);
        lost.len()
    }

    fn reopen_logs(&mut self) {
        if !self.performs("ReopenLogs") {
            return;
        }
        self.own().logs += 1;
    }

    fn load(&mut self, generation: u32) -> ControlFlow<(), Option<Result<PlanConfig, String>>> {
        if !self.performs("Load") {
            return Continue(None);
        }
        let (arbiter, own) = (self.arbiter, self.own());
        own.reload_requested = false;
        let is_next = own.setups.last_key_value().is_none_or(|(last, _)| generation > *last);
        let is_free = own.candidate.is_none() && own.open.iter().all(|open| *open <= own.generation);
        own.open.insert(generation);
        self.hold("d16_reload", is_next && is_free, || {
            format!("generation {generation} is loaded beside another")
        });
        if self.world.rng.u8(0..4) == 0 {
            // A child process resolves names first.
            let at = self.now() + ms(self.world.rng.u64(1..3000));
            self.world.at(at, Event::LoadEnds(arbiter, generation));
            return Continue(None);
        }
        Continue(Some(self.load_result(generation)))
    }

    fn adopt(&mut self) {
        if !self.performs("Adopt") {
            return;
        }
        let now = self.now();
        let own = self.own();
        let (before, candidate) = (own.setup(), own.candidate.take());
        let Some(candidate) = candidate else {
            return self.hold("d16_reload", false, || "nothing is there to adopt".to_owned());
        };
        let is_proven = own.proven.contains(&candidate);
        own.generation = candidate;
        own.changed = now;
        own.requested.insert(own.setup().workers.into());
        own.has_new_listeners |= own.setup().binds != before.binds;
        own.short.clear();
        self.hold("d16_reload", is_proven, || {
            format!("generation {candidate} counts, and no worker of it was ready")
        });
    }

    fn abandon(&mut self) {
        if !self.performs("Abandon") {
            return;
        }
        let own = self.own();
        own.candidate = None;
        own.short.clear();
        let binds = own.setup().binds;
        // Its own listeners end at once: their addresses were never in use.
        let (arbiter, mut lost) = (self.arbiter, Vec::new());
        // Another arbiter may have chosen them.
        let others = |(other, of): (usize, &Arbiter)| {
            if other == arbiter || !of.is_alive { 0 } else { of.setup().binds }
        };
        let others = self.world.arbiters.iter().enumerate().map(others).fold(0, |all, one| all | one);
        for socket in self.world.sockets.iter_mut().filter(|socket| socket.holders.contains(&arbiter)) {
            if binds & (1 << socket.address) == 0 && others & (1 << socket.address) == 0 {
                socket.holders.clear();
                socket.is_open = false;
                lost.extend(socket.queue.drain(..));
            }
        }
        self.world.lose(&lost);
    }

    fn end_listeners(&mut self) {
        if !self.performs("EndListeners") {
            return;
        }
        let own = self.own();
        let (generation, candidate) = (own.generation, own.candidate);
        let kept = own.setup().binds | candidate.map_or(0, |candidate| own.setups[&candidate].binds);
        let older = |process: &&Process| !process.is_leaving() && process.generation < generation;
        let older = self.world.of(self.arbiter).find(older).map(|process| process.pid);
        self.hold("d16_reload", older.is_none(), || format!("listeners end, and worker {older:?} stays"));
        self.world.release(self.arbiter, |socket| kept & (1 << socket.address) == 0);
    }

    fn reloaded(&mut self, generation: u32, end: ReloadEnd) {
        if !self.performs("Reloaded") {
            return;
        }
        let own = self.own();
        let was_open = own.open.remove(&generation);
        let (counts, is_late) = (own.generation, own.stopping || own.lame.is_some());
        self.hold("d16_reload", was_open || end == ReloadEnd::TooLate, || {
            format!("generation {generation} ends again")
        });
        let stays = |process: &&Process| !process.is_leaving();
        let of: Vec<_> =
            self.world.of(self.arbiter).filter(stays).map(|process| process.generation).collect();
        let kept = match end {
            ReloadEnd::Done => counts >= generation && of.iter().all(|n| *n >= generation),
            ReloadEnd::Overtaken => counts >= generation,
            ReloadEnd::Failed(_) => counts < generation && of.iter().all(|n| *n < generation),
            ReloadEnd::TooLate => is_late,
        };
        let binds = own_binds(&self.world.arbiters[self.arbiter]);
        let others = |id: &usize| binds & (1 << self.world.sockets[*id].address) == 0;
        let left = self.world.sockets_of(self.arbiter).into_iter().find(others);
        self.hold("d16_reload", end != ReloadEnd::Done || left.is_none(), || {
            format!("socket {left:?} is still listened on")
        });
        self.hold("d16_reload", kept, || format!("{end:?} of generation {generation}, and {counts} counts"));
        self.world.records.count.reloads += u64::from(end == ReloadEnd::Done);
    }

    fn launch(&mut self) -> Result<Pid, String> {
        if !self.performs("Launch") {
            return Err("left undone".to_owned());
        }
        let is_free = self.own().new_arbiter.is_none() && self.own().old_arbiter.is_none();
        self.own().upgrade_requested = false;
        self.hold("upgrade", is_free, || "there is another arbiter already".to_owned());
        if self.now() < self.world.records.no_forks_until {
            return Err("no memory".to_owned());
        }
        let held = self.world.sockets_of(self.arbiter);
        let (world, arbiter) = (&mut *self.world, self.arbiter);
        let pid = world.records.next_pid();
        let setup = world.script.new_arbiters.pop().unwrap_or_else(|| world.arbiters[arbiter].setup());
        let receives = world.rng.u8(0..4) > 0;
        let inbox = if receives { world.arbiters[arbiter].inbox } else { world.inboxes.len() };
        if !receives {
            world.inboxes.push(Default::default());
        }
        let new_arbiter = world.arbiters.len();
        let mut new = Arbiter::new(pid, setup, inbox);
        new.old_arbiter = Some(arbiter);
        world.arbiters.push(new);
        let own = &mut world.arbiters[arbiter];
        own.shared = held;
        (own.new_arbiter, own.had_new, own.new_is_ready, own.new_is_signalled) =
            (Some(new_arbiter), true, None, false);
        for socket in world.sockets.iter_mut().filter(|socket| socket.holders.contains(&arbiter)) {
            socket.holders.insert(new_arbiter);
        }
        let at = world.now() + ms(world.rng.u64(1..100));
        world.at(at, Event::Start(new_arbiter));
        Ok(name(pid))
    }

    fn signal(&mut self, pid: Pid, signal: Signal) {
        if !self.performs("Signal") {
            return;
        }
        let (pid, number) = (raw(pid), signal.number().as_raw());
        let new_arbiter =
            self.own().new_arbiter.filter(|new_arbiter| self.world.arbiters[*new_arbiter].pid == pid);
        let unready = self.own().new_is_signalled || self.own().new_is_ready.is_none();
        self.hold("upgrade", new_arbiter.is_some() && unready, || format!("{signal} is sent to {pid}"));
        self.own().new_is_signalled = true;
        if let Some(new_arbiter) = new_arbiter {
            self.world.signal_arbiter(new_arbiter, number);
        }
    }

    fn hand_over(&mut self, pid: Pid) {
        if !self.performs("HandOver") {
            return;
        }
        let again = std::mem::replace(&mut self.own().has_handed_over, true);
        let is_ready = self.own().new_is_ready.is_some();
        self.hold("upgrade", is_ready && !again, || format!("{pid:?} is named as the server"));
    }

    fn reclaim(&mut self, _: Option<usize>) {
        if !self.performs("Reclaim") {
            return;
        }
        let own = self.own();
        own.shared.clear();
        let other = own.old_arbiter.take().or_else(|| own.new_arbiter.take());
        own.new_is_ready = None;
        let alive = other.is_some_and(|other| self.world.arbiters[other].is_alive);
        self.hold("upgrade", !alive, || "what is another arbiter's is taken".to_owned());
    }

    fn announce_ready(&mut self, workers: usize) {
        if !self.performs("AnnounceReady") {
            return;
        }
        self.world.monitor.trace(|| format!("arbiter  {} is ready", self.arbiter));
        let ready =
            self.world.of(self.arbiter).filter(|process| process.ready_at.is_some() && !process.is_leaving());
        let ready = ready.count();
        // A ready worker may have died since, and may not have been reaped.
        let unreaped = self.own().inputs.len() + self.world.arbiters[self.arbiter].unfreed.len() + 1;
        self.hold("ready", ready + unreaped >= workers, || format!("{ready} workers of {workers} are ready"));
        self.own().serving = true;
        let Some(old_arbiter) =
            self.own().old_arbiter.filter(|old_arbiter| self.world.arbiters[*old_arbiter].is_alive)
        else {
            return;
        };
        let receives = self.own().inbox == self.world.arbiters[old_arbiter].inbox;
        let kept = self.own().shared.clone();
        self.world.notify(old_arbiter, Input::NewArbiterReady { receives, kept });
    }

    fn log(&mut self, notice: Notice) {
        if !self.performs("Log") {
            return;
        }
        let (now, arbiter) = (self.now(), self.arbiter);
        self.world.monitor.trace(|| format!("arbiter  {arbiter} logs {notice:?}"));
        let is_spawn = matches!(notice, Notice::NotStarted { .. });
        match notice {
            Notice::Scaled { workers } => {
                let is_requested = self.own().requested.contains(&workers) || self.own().target == workers;
                self.hold("scale", is_requested, || format!("{workers} workers were not requested"));
                if workers < self.own().target {
                    // A slot without a worker is given up first, and its short lives with it.
                    let filled: BTreeSet<u16> = self.world.of(arbiter).map(|process| process.slot).collect();
                    self.own().short.retain(|(slot, _), _| filled.contains(slot));
                }
                self.own().target = workers;
            }
            Notice::Old { pid, .. } => self.check_expiry(pid, |process, script| {
                process.ready_at.is_some_and(|at| now.since(at) >= script.max_lifetime)
            }),
            Notice::Large { pid, .. } => {
                self.check_expiry(pid, |process, script| process.rss(now) >= script.max_rss);
            }
            Notice::Died { again_in: Some(delay), .. } | Notice::NotStarted { again_in: Some(delay), .. } => {
                let has_failed = !is_spawn || now < self.world.records.no_forks_until;
                self.hold("d17_crash_loop", has_failed, || "a worker is not started, and may be".to_owned());
                let own = self.own();
                own.tries_at = own.tries_at.max(now + delay);
            }
            Notice::Stopping { .. } => {
                self.world.begin_stop(arbiter);
                let graceful = self.world.records.graceful;
                let own = self.own();
                // An upgrade stops the old arbiter without any signal.
                own.stop_deadline.get_or_insert(now + graceful);
            }
            _ => {}
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        if !self.performs("Finish") {
            return;
        }
        let arbiter = self.arbiter;
        self.world.monitor.trace(|| format!("arbiter  {arbiter} has finished: {outcome}"));
        let living = self.world.of(arbiter).count();
        let again = self.own().outcome.is_some();
        self.hold("ends", living == 0 && !again, || "finished while workers live".to_owned());
        let keepers = self.own().keepers.clone();
        self.hold("d20_nothing_outlives_the_server", keepers.is_empty(), || {
            format!("keepers {keepers:?} live")
        });
        let (open, tickets) = (self.own().open.clone(), self.own().tickets.clone());
        self.hold("d16_reload", open.is_empty(), || format!("loads of {open:?} have not come to an end"));
        self.hold("operators_are_answered", tickets.is_empty(), || format!("{tickets:?} wait for ever"));
        let serves =
            self.own().new_arbiter.is_some_and(|new_arbiter| self.world.arbiters[new_arbiter].is_alive)
                && self.own().new_is_ready.is_some();
        let is_named = self.own().has_handed_over;
        self.hold("upgrade", !serves || is_named, || "the new arbiter is not announced".to_owned());
        let unready = self.own().new_arbiter.is_some() && self.own().new_is_ready.is_none();
        self.hold("upgrade", !unready, || "it leaves a new arbiter behind that is not ready".to_owned());
        self.own().outcome = Some(outcome);
    }
}

impl ArbiterSystem<'_> {
    /// Checks a notice that a worker is too old or too large.
    fn check_expiry(&mut self, pid: Pid, is_so: impl FnOnce(&Process, &super::script::Script) -> bool) {
        let (now, pid) = (self.now(), raw(pid));
        let World { processes, script, monitor, .. } = &mut *self.world;
        let Some(process) = processes.get_mut(&pid) else { return };
        monitor.hold("d15_recycle", is_so(process, script), || format!("worker {pid} is replaced too soon"));
        process.spent.get_or_insert(now);
    }
}

/// The addresses of the adopted generation and of the candidate.
fn own_binds(own: &Arbiter) -> u8 {
    own.setup().binds | own.candidate.map_or(0, |candidate| own.setups[&candidate].binds)
}

/// A process id, as the plan has it.
pub(super) fn name(pid: i32) -> Pid {
    Pid::from_raw(pid).expect("a pid is above zero")
}

/// A process id, as this world has it.
fn raw(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}
