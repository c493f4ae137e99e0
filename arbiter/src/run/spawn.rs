//! Forks children, and defines what each keeps of the arbiter.

use std::cell::OnceCell;
use std::io::{self, PipeReader, PipeWriter, Write as _};
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::libc;
use nix::unistd::Uid;
use remuda_core::worker::handoff::Outbox;
use remuda_core::worker::{
    ArbiterLink, Entries, Exit, KeeperCx, Ledger, Listener, Seat, WorkerCx, WorkerLogs, answer_last,
    limits_of_tasks, start_keeper, without_keeper,
};
use rustix::process::{self, Pid};
use tracing::{error, warn};

use super::hook_caller::WorkerHooks;
use super::{Host, Leave};
use crate::admin::{self, View};
use crate::background_job::Work;
use crate::config::ArbiterConfig;
use crate::generation::{Generation, Loaded};
use crate::supervisor::Supervisor;
use crate::symbolizer::Stacks;
use crate::sys::{self, Fork, Title};
use crate::worker_link::WorkerLink;
use crate::{activation, notify, upgrade};

/// The role of a child, with the data of its fork.
pub(crate) enum Child {
    /// A worker, which serves clients.
    Worker(ForkedChild),
    /// The helper, which serves the admin listener until it is killed, or retired by the end of its
    /// `leash`.
    Helper { parent: Pid, leash: PipeReader },
    /// The symbolizer, which logs these stack traces, and ends.
    Symbolizer(Vec<Stacks>),
    /// A background job, which runs `work`, writes its result, and ends.
    BackgroundJob { parent: Pid, work: Work, answer: PipeWriter },
}

/// A worker that was just forked.
pub(crate) struct ForkedChild {
    slot: u16,
    generation: u32,
    seat: Seat,
    orders: OwnedFd,
    parent: Pid,
}

impl Host {
    pub(super) fn fork_worker(
        &mut self,
        slot: u16,
        number: u16,
        generation: u32,
    ) -> ControlFlow<Leave, Result<Pid, String>> {
        let failed = |error: String| Continue(Err(error));
        let (mut link, orders) = match WorkerLink::pair() {
            Ok(pair) => pair,
            Err(error) => return failed(format!("cannot create its order socket: {error}")),
        };
        let Some(seat) = self.children.board.seat(number) else {
            return failed("no seat is free in the scoreboard".to_owned());
        };
        // The arbiter opens and keeps the listeners of the slot: the end of a worker must not reset
        // the connections in their queues.
        if let Err(error) = self.sockets.per_slot.open(slot, &mut self.sockets.listeners) {
            return failed(error.to_string());
        }
        self.children.ledger.take(number);
        // After all checks: `pre_fork` is called only if a fork is tried.
        self.hooks.forking(slot, generation);
        match sys::fork() {
            Ok(Fork::Parent { child }) => {
                self.hooks.forked(child, slot, generation);
                link.user = self.user_at(generation);
                self.children.links.push((child, link));
                Continue(Ok(child))
            }
            Ok(Fork::Child { parent }) => {
                let child = ForkedChild { slot, generation, seat, orders, parent };
                Break(Leave::Child(Child::Worker(child)))
            }
            Err(error) => failed(error.to_string()),
        }
    }

    /// The user of this generation's workers. None: the arbiter's.
    fn user_at(&self, generation: u32) -> Option<Uid> {
        let all = self.next.iter().chain([&self.current]);
        let forked_of = all.into_iter().find(|one| one.number == generation).unwrap_or(&self.current);
        forked_of.loaded.config.process.owner().0
    }

    pub(super) fn fork_helper(&mut self) -> ControlFlow<Leave, Result<Pid, String>> {
        let (leash, held) = match io::pipe() {
            Ok(pair) => pair,
            Err(error) => return Continue(Err(format!("cannot create a pipe: {error}"))),
        };
        match sys::fork() {
            Ok(Fork::Parent { child }) => {
                self.children.helpers.push((child, held));
                Continue(Ok(child))
            }
            Ok(Fork::Child { parent }) => Break(Leave::Child(Child::Helper { parent, leash })),
            Err(error) => Continue(Err(error.to_string())),
        }
    }

    /// Forks a symbolizer for the kept stack traces, if there are any.
    pub(super) fn write_stacks(&mut self) -> ControlFlow<Leave> {
        let stacks = self.children.crash_reports.take_unwritten();
        if stacks.is_empty() {
            return Continue(());
        }
        match sys::fork() {
            Ok(Fork::Parent { child }) => self.children.crash_reports.written_by(child),
            Ok(Fork::Child { .. }) => return Break(Leave::Child(Child::Symbolizer(stacks))),
            Err(error) => warn!("cannot start the symbolizer, worker stack traces are lost: {error}"),
        }
        Continue(())
    }
}

impl Supervisor<Host> {
    /// Takes the role of a child, and ends with the process. Called in the child.
    ///
    /// D18 depends on this function. It names every part of the arbiter, and drops the parts that a
    /// role does not need before the role begins: above all sockets by which a child would keep a
    /// sibling from noticing the arbiter's death, and listeners whose end a client would not
    /// notice. The program's hooks are not dropped in a child that does not use
    /// them, because a destructor of the program would run there.
    pub(super) fn become_child(self, child: Child) -> ! {
        let Self { plan, system } = self;
        let Host { current, next, load, job, hooks, signals, children, sockets, operators, queue, identity } =
            system;
        drop((plan, load, job, signals));
        match child {
            Child::Worker(child) => {
                let ledger = children.ledger;
                drop((children, operators));
                // The worker was forked for one of the two generations.
                let (Generation { number, loaded, chosen }, other) = match next {
                    Some(next) if next.number == child.generation => (next, Some(current)),
                    other => (current, other),
                };
                drop(other);
                // Its keeper, a copy, has its title from the beginning, and the worker takes its own
                // afterwards: neither is ever taken for the other.
                let role = if loaded.config.worker.rescue { "keeper" } else { "worker" };
                let title = identity.in_child(&loaded.config.process, &format!("{role} {}", child.slot));
                let listeners = sockets.in_worker(child.slot, &chosen);
                let hooks = hooks.in_worker(child.slot, number);
                become_worker(child, title, ledger, loaded, listeners, hooks, queue.in_worker())
            }
            Child::Helper { parent, leash } => {
                drop((next, queue));
                let Generation { loaded: Loaded { config, .. }, chosen, .. } = current;
                identity.in_child(&config.process, "admin");
                let ((board, ledger), watched) = (children.in_helper(), sockets.in_helper(&chosen));
                let view = View::new(board, ledger, watched, config.version.clone(), parent);
                become_helper(parent, leash, &config, operators.in_helper().into_vec(), view)
            }
            Child::Symbolizer(stacks) => {
                drop((next, children, sockets, operators, queue));
                let config = &current.loaded.config;
                identity.in_child(&config.process, "symbolizer");
                let _ = catch_unwind(AssertUnwindSafe(|| stacks.into_iter().for_each(Stacks::write)));
                config.logs.flush();
                sys::exit(Exit::Clean.status())
            }
            Child::BackgroundJob { parent, work, mut answer } => {
                drop((next, children, sockets, operators, queue));
                let config = &current.loaded.config;
                identity.in_child(&config.process, "lookup");
                if matches!(sys::follow(parent, process::Signal::KILL), Ok(true)) {
                    let _ = catch_unwind(AssertUnwindSafe(|| answer.write_all(&work())));
                }
                config.logs.flush();
                sys::exit(Exit::Clean.status())
            }
        }
    }
}

/// Runs a worker.
fn become_worker(
    child: ForkedChild,
    title: Option<Title>,
    ledger: Ledger,
    loaded: Loaded,
    listeners: Vec<Listener>,
    hooks: WorkerHooks,
    (outbox, inbox): (Outbox, OwnedFd),
) -> ! {
    let slot = child.slot;
    let logs = loaded.config.logs.clone();
    let started = OnceCell::new();
    let served = catch_unwind(AssertUnwindSafe(|| {
        sys::remove_variables(
            &[&activation::VARIABLES[..], &notify::VARIABLES, &[upgrade::VARIABLE]].concat(),
        );
        if let Err(error) = loaded.config.process.assume() {
            error!(
                slot,
                "worker cannot change its user or group: {error}; that needs CAP_SETUID and CAP_SETGID"
            );
            return Exit::BootFailed;
        }
        // After the change of user, which the keeper shares, and before anything else exists that
        // it would copy.
        let entries = start_keeper_of(&child, title, ledger, &loaded.config, &listeners, &outbox);
        let ForkedChild { generation, seat, orders, parent, .. } = child;
        // After the change of user, which clears the setting in the kernel.
        let link = match sys::follow(parent, process::Signal::TERM)
            .and_then(|alive| Ok((alive, ArbiterLink::install(orders)?)))
        {
            Ok((true, link)) => link,
            Ok((false, _)) => return Exit::Clean, // the arbiter died before it could be watched
            Err(error) => {
                error!(slot, "worker cannot read orders: {error}");
                return Exit::BootFailed;
            }
        };
        loaded.apply();
        let Loaded { config, worker, app, .. } = loaded;
        let ArbiterConfig { worker: settings, policies, logs, .. } = config;
        let cx = WorkerCx::new(slot, generation, listeners, link, seat, settings, policies)
            .with_queue(outbox, inbox)
            .with_keeper(entries);
        match logs.start() {
            Ok(logs) => {
                let cx = cx.with_logs(started.get_or_init(|| logs));
                let watch = cx.link.watch().clone();
                let exit = match hooks.forked() {
                    Ok(()) => worker.run(cx, hooks.around(app)),
                    Err(panicked) => cx.cannot_start(&panicked),
                };
                hooks.exiting(exit, watch.current().map(|(drain, _)| drain.reason));
                exit
            }
            Err(error) => cx.cannot_start(&error),
        }
    }));
    let exit = *served.as_ref().unwrap_or_else(|_| {
        error!(slot, "worker panicked; this is a bug");
        &Exit::BootFailed
    });
    match started.get() {
        Some(logs) => WorkerLogs::flush(logs),
        None => logs.flush(),
    }
    if exit == Exit::CutOff {
        answer_last();
    }
    sys::exit(exit.status())
}

/// Starts the keeper of a worker, if it is to have one (D20).
fn start_keeper_of(
    child: &ForkedChild,
    mut title: Option<Title>,
    ledger: Ledger,
    config: &ArbiterConfig,
    listeners: &[Listener],
    outbox: &Outbox,
) -> Option<Entries> {
    if !config.worker.rescue {
        return without_keeper().ok();
    }
    let ForkedChild { slot, seat, parent, .. } = child;
    let limits = &config.worker.limits;
    let cx = KeeperCx { seat: *seat, ledger, arbiter: *parent, listeners, outbox, limits };
    let started = start_keeper(&cx);
    title.iter_mut().for_each(|title| title.set(&config.process.title(&format!("worker {slot}"))));
    match started {
        Ok(entries) => Some(entries),
        Err(error) => {
            let limits =
                if error.raw_os_error() == Some(libc::EAGAIN) { limits_of_tasks() } else { String::new() };
            warn!(
                slot,
                "worker serves without a keeper, so its connections end with it if it dies: {error}{limits}"
            );
            without_keeper().ok()
        }
    }
}

/// Runs the helper.
fn become_helper(
    parent: Pid,
    leash: PipeReader,
    config: &ArbiterConfig,
    listeners: Vec<Listener>,
    view: View,
) -> ! {
    // In this order: the change of user clears the death signal.
    let follows = config.process.assume().and_then(|()| sys::follow(parent, process::Signal::KILL));
    match follows {
        Ok(true) => match admin::serve(listeners, leash.into(), view, config.logs.clone()) {
            Ok(()) => {
                config.logs.flush();
                sys::exit(Exit::Clean.status())
            }
            Err(error) => error!("admin helper failed: {error}"),
        },
        Ok(false) => {} // the arbiter died before it could be watched
        Err(error) => error!("admin helper cannot change its user or group: {error}"),
    }
    config.logs.flush();
    sys::exit(Exit::BootFailed.status())
}
