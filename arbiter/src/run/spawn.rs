//! Children: how one is made, and what it is from then on.

use std::io::{self, PipeReader};
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use remuda_core::worker::{Control, Exit, Seat, WorkerCx};
use rustix::process::{self, Pid, WaitOptions, kill_process};
use tracing::error;

use super::{Generation, Leave, Run};
use crate::admin::{self, View};
use crate::link::Link;
use crate::obituary::Stacks;
use crate::plan::Event;
use crate::sys::{self, Fork};
use crate::{ArbiterConfig, Loaded, activation, notify, upgrade};

/// A child just forked.
pub(super) struct Newborn {
    slot: u16,
    generation: u32,
    seat: Seat,
    orders: OwnedFd,
    parent: Pid,
}

impl Run {
    pub(super) fn spawn(&mut self, slot: u16, number: u16, generation: u32) -> ControlFlow<Leave, Event> {
        let failed = |error: String| Continue(Event::SpawnFailed { seat: number, error });
        let (link, orders) = match Link::pair() {
            Ok(pair) => pair,
            Err(error) => return failed(format!("cannot make its control socket: {error}")),
        };
        let Some(seat) = self.board.seat(number) else {
            return failed("the scoreboard has no room for it".to_owned());
        };
        if let Err(error) = self.slots.open(slot, &mut self.listeners) {
            return failed(error.to_string());
        }
        self.ledger.take(number);
        self.hooked.forking(slot, generation);
        match sys::fork() {
            Ok(Fork::Parent { child }) => {
                self.hooked.forked(child, slot, generation);
                self.links.push((child, link));
                Continue(Event::Spawned { seat: number, pid: child })
            }
            Ok(Fork::Child { parent }) => {
                Break(Leave::Born(Newborn { slot, generation, seat, orders, parent }))
            }
            Err(error) => failed(error.to_string()),
        }
    }

    pub(super) fn spawn_helper(&mut self) -> ControlFlow<Leave, Event> {
        let failed = |error: String| Continue(Event::HelperSpawned(Err(error)));
        let (leash, held) = match io::pipe() {
            Ok(pair) => pair,
            Err(error) => return failed(format!("cannot make a pipe: {error}")),
        };
        match sys::fork() {
            Ok(Fork::Parent { child }) => {
                self.helpers.push((child, held));
                Continue(Event::HelperSpawned(Ok(child)))
            }
            Ok(Fork::Child { parent }) => Break(Leave::Helper { parent, leash }),
            Err(error) => failed(error.to_string()),
        }
    }

    /// They have nothing to finish, and they are this process's children until they are reaped.
    pub(super) fn end_helpers(&self) {
        for pid in self.plan.helpers() {
            let _ = kill_process(pid, process::Signal::KILL);
            let _ = process::waitpid(Some(pid), WaitOptions::empty());
        }
    }

    /// In a child: serves, and ends with the process. Nothing of the arbiter's survives in it but the listeners,
    /// and above all no socket by which it would keep a sibling from seeing the arbiter die (D18).
    pub(super) fn become_worker(self, newborn: Newborn) -> ! {
        let Self {
            current, next, load, plan, signals, listeners, slots, links, outbox, inbox, backlog, ..
        } = self;
        let Newborn { slot, generation, seat, orders, parent } = newborn;
        // It was forked for one of the two.
        let (born_of, other) = match next {
            Some(next) if next.number == generation => (next, Some(current)),
            other => (current, other),
        };
        let Generation { number, loaded, chosen } = born_of;
        let hooked = self.hooked.in_worker(slot, number);
        let listeners = slots.into_chosen(slot, listeners, &chosen);
        drop((links, signals, plan, backlog, load, other, self.upgrade, self.manager, self.pidfile));
        drop((self.control, self.admin, self.helpers));
        let life = catch_unwind(AssertUnwindSafe(|| {
            self.title.into_iter().for_each(|mut title| {
                title.set(&loaded.config.process.title(&format!("worker {slot}")));
            });
            sys::remove_variables(
                &[&activation::VARIABLES[..], &notify::VARIABLES, &[upgrade::VARIABLE]].concat(),
            );
            if let Err(error) = loaded.config.process.assume() {
                error!(slot, "worker could not change its user or group: {error}");
                return Exit::BootFailed;
            }
            // After the change of user, which makes the kernel forget it.
            let control = match sys::follow(parent, process::Signal::TERM)
                .and_then(|alive| Ok((alive, Control::install(orders)?)))
            {
                Ok((true, control)) => control,
                Ok((false, _)) => return Exit::Clean, // the arbiter died before it could be watched
                Err(error) => {
                    error!(slot, "worker could not take orders: {error}");
                    return Exit::BootFailed;
                }
            };
            loaded.apply();
            let Loaded { config, worker, app, .. } = loaded;
            let ArbiterConfig { worker: settings, policies, logs, .. } = config;
            let cx = WorkerCx::new(slot, number, listeners, control, seat, settings, policies)
                .with_queue(outbox, inbox);
            match logs.start() {
                Ok(logs) => {
                    let cx = cx.with_logs(&logs);
                    let watch = cx.control.watch().clone();
                    let exit = match hooked.forked() {
                        Ok(()) => worker.run(cx, hooked.around(app)),
                        Err(panicked) => cx.cannot_start(&panicked),
                    };
                    hooked.exiting(exit, watch.current().map(|(drain, _)| drain.reason));
                    logs.flush();
                    exit
                }
                Err(error) => cx.cannot_start(&error),
            }
        }));
        let exit = *life.as_ref().unwrap_or_else(|_| {
            error!(slot, "worker panicked; this is a bug");
            &Exit::BootFailed
        });
        sys::exit(exit.status())
    }

    /// In a child: writes `stacks`, and ends. It keeps nothing by which a worker could miss the arbiter's death (D18), or a
    /// client the end of a listener.
    pub(super) fn become_scribe(self, stacks: Vec<Stacks>) -> ! {
        let Self { current, title, .. } = self;
        drop((self.links, self.signals, self.plan, self.outbox, self.inbox, self.backlog));
        drop((self.upgrade, self.manager, self.pidfile, self.control, self.load, self.next));
        drop((self.listeners, self.slots, self.admin, self.helpers));
        let config = &current.loaded.config;
        title.into_iter().for_each(|mut title| title.set(&config.process.title("obituary")));
        let _ = catch_unwind(AssertUnwindSafe(|| stacks.into_iter().for_each(Stacks::write)));
        sys::exit(Exit::Clean.status())
    }

    /// In a child: serves the admin listener until it is killed, or retired by the end of its `leash`. It keeps nothing by which
    /// a worker could miss the arbiter's death (D18).
    pub(super) fn become_helper(self, parent: Pid, leash: PipeReader) -> ! {
        let Self { current, listeners, slots, board, ledger, admin, .. } = self;
        let Generation { loaded: Loaded { config, .. }, chosen, .. } = current;
        drop((self.links, self.signals, self.plan, self.outbox, self.inbox, self.backlog));
        drop((self.upgrade, self.manager, self.pidfile, self.control, self.load, self.next, self.helpers));
        self.title.into_iter().for_each(|mut title| title.set(&config.process.title("admin")));
        // The change of user makes the kernel forget what is to follow.
        let follows = config.process.assume().and_then(|()| sys::follow(parent, process::Signal::KILL));
        match follows {
            Ok(true) => {
                let view = View { board, ledger, listeners: slots.into_all(listeners, &chosen) };
                match admin::serve(admin.into_vec(), leash.into(), view) {
                    Ok(()) => sys::exit(Exit::Clean.status()),
                    Err(error) => error!("the admin helper cannot go on: {error}"),
                }
            }
            Ok(false) => {} // the arbiter died before it could be watched
            Err(error) => error!("the admin helper could not change its user or group: {error}"),
        }
        sys::exit(Exit::BootFailed.status())
    }
}
