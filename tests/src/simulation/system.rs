//! The arbiter's hands in this world, and the rules that hold for processes.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use remuda_arbiter::Outcome;
use remuda_arbiter::rehearsal::{Rehearsal, Stage};
use remuda_core::order::{Order, Report};
use remuda_core::shutdown::{Drain, Phase};
use remuda_core::time::Time;
use remuda_core::worker::sys::{EXIT_MARGIN, QUICK_STOP};

use super::ground::{START, ms};
use super::process::{Boot, Process};
use super::script::signals;
use super::world::{Event, Told, World};

/// How long after its deadline a worker may be killed (D10).
const KILL_MARGIN: Duration = Duration::from_millis(1500);

/// What anything may take in addition: latencies of wake-ups.
pub(super) const SLACK: Duration = Duration::from_millis(100);

/// A worker that served for this long is replaced at once (D17).
const LONG_ENOUGH: Duration = Duration::from_secs(1);

impl World {
    /// The arbiter takes in what it was told, and does what is due.
    pub(super) fn arbitrate(&mut self) {
        let Some(mut arbiter) = self.arbiter.take() else { return };
        let now = self.now();
        arbiter.tick(now, self);
        // As in its loop: signals before reports, and those before deaths.
        let mut told: Vec<Told> = std::mem::take(&mut self.told).into();
        told.sort_by_key(|told| match told {
            Told::Signal(_) => 0,
            Told::BacklogOver(_) => 1,
            Told::Report(..) => 2,
            Told::Exited(..) => 3,
        });
        for told in told {
            self.pass_on(&mut arbiter, told);
        }
        if self.fates.outcome.is_none()
            && let Some(at) = arbiter.deadline()
        {
            self.at(at.max(now + Duration::from_micros(1)), Event::Arbiter);
        }
        self.arbiter = Some(arbiter);
    }

    fn pass_on(&mut self, arbiter: &mut Rehearsal, told: Told) {
        let now = self.now();
        if self.fates.outcome.is_some() {
            return;
        }
        self.ground.trace(|| format!("arbiter  hears {told:?}"));
        match told {
            Told::Signal(signal) => {
                self.expect(signal);
                arbiter.signal(signal, now, self);
            }
            Told::Report(pid, report) => {
                if report == Report::Ready {
                    self.fates.forget_others(pid);
                    self.fates.succeeded = Some(self.fates.places[&pid].0);
                }
                arbiter.report(pid, report, now, self);
                self.fates.succeeded = None;
            }
            Told::Exited(pid, status) => {
                if let Some(&(since, told)) = self.fates.lives.get(&pid) {
                    let long = told || since.is_some_and(|at| now.since(at) + SLACK >= LONG_ENOUGH);
                    let place = self.fates.places[&pid];
                    let before = self.fates.short.get(&place).map_or(0, |(count, _)| *count);
                    if !told {
                        // Who was to come in its place does not wait for longer than its slot does.
                        self.fates.forget_others(pid);
                    }
                    self.fates.short.insert(place, (if long { 0 } else { before + 1 }, now));
                }
                arbiter.exited(pid, status, now, self);
            }
            Told::BacklogOver(lost) => arbiter.backlog_over(lost, now, self),
        }
    }

    /// What a signal means for how many workers there may be.
    fn expect(&mut self, signal: i32) {
        let now = self.ground.now();
        let fates = &mut self.fates;
        let asked = fates.stopping || fates.lame.is_some();
        match signal {
            signals::TTIN if !asked => {
                fates.target += 1;
                // A slot that is given up and asked for again begins anew.
                let living = |slot| self.processes.values().any(|process| process.slot == slot);
                fates.short.retain(|(slot, _), _| living(*slot));
            }
            signals::TTOU if !asked => fates.target = 1.max(fates.target - 1),
            signals::TERM if !asked && fates.serving => fates.lame = Some(now + fates.lameduck),
            signals::QUIT => fates.quit = true,
            _ => {}
        }
        let is_lame = fates.lame.is_some_and(|until| until > now);
        let grace = match signal {
            signals::TERM if !asked && is_lame => fates.lameduck + fates.graceful,
            signals::TERM if !fates.stopping => fates.graceful,
            signals::TERM | signals::INT => fates.graceful.min(QUICK_STOP),
            signals::QUIT => Duration::ZERO,
            _ => return,
        };
        if asked || signal != signals::TERM {
            fates.lame = Some(now);
        }
        let deadline = now + grace;
        let before = fates.stop_deadline.unwrap_or(Time::MAX);
        fates.stop_deadline = Some(before.min(deadline));
    }

    /// What holds after every step.
    pub(super) fn check(&self) {
        let now = self.now();
        let (ground, fates) = (&self.ground, &self.fates);
        for process in self.processes.values() {
            let pid = process.pid;
            let (served, quota) = (process.service.counters.requests.get(), process.quota);
            ground.hold("d15_recycle", quota == 0 || served < quota || process.spent.is_some(), || {
                format!("worker {pid} has served {served} of {quota} requests and says nothing")
            });
            if let Some(drain) = process.drain() {
                let late = drain.deadline.max(fates.thawed) + KILL_MARGIN + SLACK;
                ground.hold("d10_deadline", now <= late, || {
                    format!("worker {pid} lives past its deadline {:?}", drain.deadline)
                });
                let idle = process.open() == 0 && now >= process.hangs_until && process.is_serving();
                let awaited = fates.passing || !self.inbox.is_empty() || !self.passing.is_empty();
                let since = process.well.max(drain.since).max(fates.thawed);
                let patience = ms(500) + fates.beat_interval + SLACK;
                ground.hold("d9_exit_when_empty", !idle || awaited || now <= since + patience, || {
                    format!("worker {pid} lives on with nothing open")
                });
            }
            let bound = if process.ready_at.is_some() { fates.timeout } else { fates.boot_timeout };
            let watched =
                fates.orphaned.is_none() && !fates.aborted.contains_key(&pid) && !fates.killed.contains(&pid);
            let silent = now.since(process.well.max(fates.thawed));
            ground.hold("d1_heartbeat", !watched || silent <= 2 * bound + SLACK, || {
                format!("worker {pid} has been silent for {silent:?} and lives")
            });
        }
        self.check_recycling(now);
        let lame = fates.lame.filter(|_| !fates.stopping && fates.orphaned.is_none());
        ground.hold("lameduck", lame.is_none_or(|until| now <= until.max(fates.thawed) + SLACK), || {
            format!("a lame duck serves on, and should have until {lame:?}")
        });
        if let Some(deadline) = fates.stop_deadline
            && fates.outcome.is_none()
            && fates.orphaned.is_none()
        {
            let late = deadline.max(fates.thawed) + KILL_MARGIN + SLACK;
            ground.hold("d10_deadline", now <= late, || "the server outlives its stop".to_owned());
        }
        if let Some(since) = fates.orphaned {
            let hung = self.processes.values().map(|process| process.hangs_until).max().unwrap_or(since);
            let booting = self.processes.values().any(|process| !process.is_serving());
            let late = since.max(fates.thawed).max(hung) + ms(1000) + fates.graceful + EXIT_MARGIN + SLACK;
            ground.hold("d18_arbiters_death", booting || self.processes.is_empty() || now <= late, || {
                "workers live on without an arbiter".to_owned()
            });
        }
    }

    /// Whoever has served its share is being replaced, unless as many are as may be at a time.
    fn check_recycling(&self, now: Time) {
        let fates = &self.fates;
        let late = |at: Time| now > at.max(fates.thawed).max(fates.emptied) + SLACK;
        let calm = fates.serving && fates.lame.is_none() && !fates.stopping && fates.orphaned.is_none();
        // What waits to be tried again is not seen here.
        if !calm || fates.short.values().any(|(count, _)| *count > 0) || fates.no_forks_until > START {
            return;
        }
        let sibling = |of: &Process| {
            self.processes
                .values()
                .any(|other| other.slot == of.slot && other.pid != of.pid && !other.is_leaving())
        };
        let replaced =
            self.processes.values().filter(|process| process.is_leaving() || sibling(process)).count();
        for process in self.processes.values() {
            let waits = !process.is_leaving() && process.spent.is_some_and(late) && !sibling(process);
            self.ground.hold("d15_recycle", !waits || replaced >= fates.recycling, || {
                format!("worker {} has served its share, and nobody is to replace it", process.pid)
            });
        }
    }

    /// Workers but for those that leave because fewer are asked for.
    fn staying(&self) -> usize {
        let comes_or_stays = |process: &&Process| {
            !process.is_leaving() || process.told.is_some_and(|drain| drain.reason.is_recycle())
        };
        self.processes.values().filter(comes_or_stays).count()
    }
}

impl Stage for World {
    fn spawn(&mut self, slot: u16, seat: u16) -> Result<i32, String> {
        let now = self.now();
        let ground = self.ground.clone();
        ground.hold("d3_nothing_is_spawned_in_a_stop", !self.fates.stopping, || format!("slot {slot}"));
        ground.hold("one_worker_a_seat", self.processes.values().all(|process| process.seat != seat), || {
            format!("seat {seat}")
        });
        let of_slot = |process: &&Process| process.slot == slot && !process.is_leaving();
        let before: Vec<_> = self.processes.values().filter(of_slot).collect();
        let succeeds = before.len() < 2 && before.iter().all(|process| process.spent.is_some());
        ground
            .hold("d15_recycle", succeeds, || format!("slot {slot} has a worker that nobody has to replace"));
        if let Some((count, since)) = self.fates.short.get(&(slot, seat)).filter(|(count, _)| *count > 0) {
            let least = ms(100).saturating_mul(1 << (count - 1).min(8)).min(Duration::from_secs(30));
            let waited = now.since(*since);
            ground.hold("d17_crash_loop", waited >= least, || {
                format!("slot {slot} is filled {waited:?} after short life {count}, not {least:?}")
            });
        }
        if now < self.fates.no_forks_until {
            return Err("no memory".to_owned());
        }
        self.fates.next_pid += 1;
        let pid = self.fates.next_pid;
        let took = if self.rng.u8(..) < 16 { self.rng.u64(0..4000) } else { self.rng.u64(0..50) };
        let boot = match self.fates.bad_boots.pop() {
            Some(Some(status)) => Boot::Fails(now + ms(took), status),
            Some(None) => Boot::Hangs,
            None => Boot::Ready(now + ms(took)),
        };
        ground.trace(|| format!("arbiter  forks {pid} for slot {slot}: {boot:?}"));
        let (least, more) = self.script.max_requests;
        let quota = if least > 0 { least + self.rng.u64(0..=more) } else { 0 };
        let process =
            Process::new(pid, (slot, seat), boot, &self.script, quota, &ground, self.fates.beat_interval);
        self.processes.insert(pid, process);
        self.fates.places.insert(pid, (slot, seat));
        let staying = self.staying();
        let (target, recycling) = (self.fates.target, self.fates.recycling);
        ground.hold("d15_never_more_than_asked_for", staying <= target + recycling, || {
            format!("{staying} workers, {target} are asked for")
        });
        self.soon(Event::Turn(pid));
        Ok(pid)
    }

    fn send(&mut self, pid: i32, order: Order) {
        let now = self.now();
        self.ground.trace(|| format!("arbiter  tells {pid} {order:?}"));
        let leaves_by = match &order {
            Order::Drain { drain, .. } if drain.phase >= Phase::Draining => Some(drain.deadline),
            _ => None,
        };
        let signal = match &order {
            Order::Drain { drain, .. } => {
                let is_stop = drain.reason.is_stop() && drain.phase >= Phase::Draining;
                if is_stop {
                    self.begin_stop();
                }
                self.note(pid, *drain);
                let hurried = drain.deadline <= now + QUICK_STOP;
                let signal = if hurried { signals::INT } else { signals::TERM };
                is_stop.then_some(signal)
            }
            _ => None,
        };
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.orders.push_back(order);
        self.soon(Event::Turn(pid));
        if let Some(signal) = signal {
            self.signal(pid, signal);
        }
        if let Some(deadline) = leaves_by {
            self.leave_by(pid, deadline);
        }
    }

    fn last_beat(&mut self, seat: u16) -> Time {
        let process = self.processes.values().find(|process| process.seat == seat);
        process.and_then(|process| process.beat).unwrap_or(Time::ZERO)
    }

    fn abort(&mut self, pid: i32) {
        let now = self.now();
        self.ground.trace(|| format!("arbiter  aborts {pid}"));
        let again = self.fates.aborted.insert(pid, now).is_some();
        self.ground.hold("d1_heartbeat", !again, || format!("worker {pid} is aborted twice"));
        if let Some(process) = self.processes.get(&pid) {
            let silent = now.since(process.well.max(self.fates.forgiven));
            let bound = match process.ready_at {
                Some(_) => self.fates.timeout,
                None => self.fates.boot_timeout,
            };
            self.ground.hold("d1_heartbeat", silent + SLACK >= bound, || {
                format!("worker {pid} is aborted after {silent:?}")
            });
        }
        if self.rng.u8(0..4) > 0 {
            self.end(pid, ExitStatus::from_raw(signals::ABRT));
        }
    }

    fn kill(&mut self, pid: i32) {
        let now = self.now();
        self.ground.trace(|| format!("arbiter  kills {pid}"));
        let again = !self.fates.killed.insert(pid);
        self.ground.hold("d10_deadline", !again, || format!("worker {pid} is killed twice"));
        if let Some(process) = self.processes.get(&pid) {
            let aborted = self.fates.aborted.contains_key(&pid);
            let over = process.told.is_some_and(|drain| now >= drain.deadline + KILL_MARGIN);
            self.ground.hold("d10_deadline", aborted || over || self.fates.quit, || {
                format!("worker {pid} is killed early: {:?}", process.told)
            });
        }
        self.end(pid, ExitStatus::from_raw(signals::KILL));
    }

    fn save_backlog(&mut self) {
        self.ground.hold("d3_close_the_listener", self.listening, || "ended twice".to_owned());
        let untold = self.processes.values().any(|process| !process.told_stop);
        self.ground.hold("d4_backlog", !untold, || "workers are told first".to_owned());
        self.listening = false;
        self.begin_stop();
        self.passing = std::mem::take(&mut self.accept);
        self.fates.passing = true;
        self.soon(Event::Passed);
    }

    fn drop_backlog(&mut self) -> usize {
        let lost: Vec<u32> =
            self.passing.drain(..).chain(self.inbox.drain(..).map(|(conn, _)| conn)).collect();
        self.fates.passing = false;
        self.lose(&lost);
        lost.len()
    }

    fn ready(&mut self) {
        self.ground.trace(|| "arbiter  is ready".to_owned());
        self.fates.serving = true;
    }

    fn finish(&mut self, outcome: Outcome) {
        self.ground.trace(|| format!("arbiter  has finished: {outcome}"));
        self.ground.hold("ends", self.processes.is_empty() && self.fates.outcome.is_none(), || {
            "finished while workers live".to_owned()
        });
        self.fates.outcome = Some(outcome);
    }
}

impl World {
    /// A stop begins, or goes on: no sooner than a lame duck's time is over.
    fn begin_stop(&mut self) {
        let (now, lame) = (self.now(), self.fates.lame);
        let early = !self.fates.stopping && lame.is_some_and(|until| now < until);
        self.ground.hold("lameduck", !early, || format!("it should have served until {lame:?}"));
        self.fates.stopping = true;
    }

    /// A worker is told to drain.
    fn note(&mut self, pid: i32, drain: Drain) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let closer = process.told.is_none_or(|before| drain.deadline <= before.deadline);
        self.ground
            .hold("d11_hurry", closer, || format!("worker {pid} is told {drain:?} after {:?}", process.told));
        let (slot, recycles) = (process.slot, drain.reason.is_recycle() && !process.is_leaving());
        process.told = Some(drain);
        process.told_stop |= drain.reason.is_stop() && drain.phase >= Phase::Draining;
        let succeeded = self.fates.succeeded == Some(slot);
        self.ground.hold("d15_recycle", !recycles || succeeded, || {
            format!("worker {pid} has to go, and nobody is ready in slot {slot}")
        });
    }
}
