//! The arbiter on a real system: the loop that turns descriptors and signals into events, and the
//! state that actions change.
//!
//! The [`plan`](crate::plan) decides, and the [`Supervisor`] performs its actions on [`Host`],
//! whose methods are in [`system`]. The loop waits in one place, [`Supervisor::wait`], for signals,
//! workers, operators and the plan's deadline, so that no worker and no order can block it. A child
//! leaves the loop the same way as the end of the server ([`Leave`]); [`Supervisor::become_child`]
//! drops the parts that it must not hold.

use std::io::{self, IsTerminal as _, Write as _};
use std::iter;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;

use remuda_core::app::Tally;
use remuda_core::handoff::Records;
use remuda_core::order::Report;
use remuda_core::worker::sys::now;
use remuda_core::worker::{Gates, Ledger, Logs, Scoreboard};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Pid;
use tracing::{debug, info, warn};

use self::background_job::RunningJob;
use self::children::Children;
use self::handoff_queue::HandoffQueue;
use self::hook_caller::HookCaller;
use self::identity::Identity;
use self::open::{Opened, open};
use self::operators::Operators;
use self::signals::CHILD;
use self::sockets::Sockets;
use self::spawn::Child;
use crate::backlog::Backlog;
use crate::control::server::ControlSocket;
use crate::gate::ListenerEnd;
use crate::generation::{Generation, Load, Loaded};
use crate::hooks::Hooks;
use crate::listener::Listeners;
use crate::listener::per_slot::PerSlotListeners;
use crate::outcome::Outcome;
use crate::plan::Event;
use crate::plan::words::Signal;
use crate::supervisor::Supervisor;
use crate::sys::{self, Signals, timespec};
use crate::upgrade::{Upgrade, Word};

mod background_job;
mod change;
mod children;
mod handoff_queue;
mod hook_caller;
mod identity;
mod log;
mod open;
mod operators;
mod signals;
mod sockets;
mod spawn;
mod system;

/// The state of the arbiter besides its plan. Each part defines what a child keeps of it.
pub(crate) struct Host {
    /// The current generation.
    current: Generation,
    /// The generation loaded last, until one of its workers is ready.
    next: Option<Generation>,
    load: Box<Load>,
    /// The job that a requested reload needs first.
    job: Option<RunningJob>,
    hooks: HookCaller,
    signals: Signals,
    children: Children,
    sockets: Sockets,
    operators: Operators,
    queue: HandoffQueue,
    identity: Identity,
}

/// Why the loop is left.
pub(crate) enum Leave {
    /// In the arbiter: the server has ended.
    Finish(Outcome),
    /// In a child, which takes its role.
    Child(Child),
}

/// The smallest number of handler threads for which the scoreboard has room: a reload may raise the
/// number, and unwritten memory costs nothing.
const THREADS: usize = 64;

/// The smallest number of concurrent replacements for which the scoreboard has room, likewise.
const REPLACED: u16 = 128;

/// Performs all steps that may fail before the first fork.
pub(crate) fn prepare(
    mut loaded: Loaded,
    load: Box<Load>,
    hooks: Arc<dyn Hooks>,
    records: Records,
) -> Result<Supervisor<Host>, Outcome> {
    sys::only_thread()?;
    let _ = io::stdout().flush(); // or each child would write the buffer again
    let (upgrade, inheritance) =
        Upgrade::of_process(records).map_err(|message| Outcome::Internal { message })?;
    loaded.config.process.enter().map_err(|message| Outcome::Internal { message })?;
    let hooks = HookCaller::starting(hooks, &loaded.config, upgrade.has_old_arbiter());
    sys::only_thread().map_err(|error| error.because_of("the hook on_starting"))?;
    loaded.preload()?; // while a signal still ends the process
    let inheritance = inheritance.unwrap_or_default();
    let queue = HandoffQueue::new(inheritance.queue, upgrade.written())
        .map_err(|error| Outcome::internal("create the hand-off queue", &error))?;
    let signals = Signals::block().map_err(|error| Outcome::internal("block signals", &error))?;
    let mut listeners = Listeners::among(inheritance.listeners).with_gates(Gates::map().ok());
    let config = &loaded.config;
    let mut per_slot = PerSlotListeners::new(config.reuse_port, config.workers, config.backlog);
    let old_for_operators = upgrade.has_old_arbiter().then_some(inheritance.for_operators);
    let Opened { pidfile, chosen, control, admin } =
        match open(config, &mut listeners, &mut per_slot, old_for_operators) {
            Ok(opened) => opened,
            Err(outcome) => {
                signals.restore(outcome.status());
                return Err(outcome);
            }
        };
    let replaced = REPLACED.max(config.replaced());
    let board = Scoreboard::map(config.workers, replaced, config.worker.threads.max(THREADS));
    let (board, ledger) = match board.and_then(|board| Ok((board, Ledger::map()?))) {
        Ok(pages) => pages,
        Err(error) => {
            let outcome = Outcome::internal("map the scoreboard", &error);
            signals.restore(outcome.status());
            return Err(outcome);
        }
    };
    if listeners.tcp().next().is_some() {
        ListenerEnd::of_this_system().into_iter().for_each(ListenerEnd::tell);
    }
    let (config, seats, has_old_arbiter) = (config.clone(), board.seats(), upgrade.has_old_arbiter());
    let host = Host {
        identity: Identity::new(upgrade, pidfile, &config.process),
        current: Generation { number: 1, loaded, chosen },
        next: None,
        load,
        job: None,
        hooks,
        signals,
        children: Children::new(board, ledger),
        sockets: Sockets::new(listeners, per_slot),
        operators: Operators::new(control, admin),
        queue,
    };
    Ok(Supervisor::new(&config, seats, has_old_arbiter, host))
}

impl Supervisor<Host> {
    /// Supervises the workers until the server has ended, and calls `last` before a signal can end
    /// the process again. Returns in the arbiter only.
    pub(crate) fn supervise(mut self, last: impl FnOnce(&Outcome)) -> Outcome {
        let leave = loop {
            if let Break(leave) = self.turn() {
                break leave;
            }
        };
        match leave {
            Leave::Child(child) => self.become_child(child),
            Leave::Finish(outcome) => self.finish(outcome, last),
        }
    }

    /// Ends the server, in the order on which other processes rely.
    fn finish(mut self, outcome: Outcome, last: impl FnOnce(&Outcome)) -> Outcome {
        if let Break(Leave::Child(child)) = self.system.write_stacks() {
            self.become_child(child);
        }
        let Self { plan, system } = &mut self;
        // Before a new arbiter notices the end of this one and moves its own file there.
        system.identity.pidfile = None;
        system.sockets.end();
        children::end(plan.helpers());
        system.end_last_job();
        system.children.crash_reports.end();
        system.operators.end();
        system.identity.manager.end();
        report(&system.children.ledger.read(&system.children.board).total());
        system.hooks.ended(&outcome);
        last(&outcome);
        self.into_signals().restore(outcome.status());
        outcome
    }

    /// Closes all other state of the arbiter.
    fn into_signals(self) -> Signals {
        self.system.signals
    }

    /// Runs one turn of the loop. Signals are handled before deaths, because a signal to the whole
    /// process group (Ctrl-C) explains them; reports before deaths, because they were sent earlier.
    fn turn(&mut self) -> ControlFlow<Leave> {
        self.feed(Event::Tick)?;
        self.system.identity.manager.advance(now());
        self.system.logs().tend(now());
        self.look_at_queue();
        let Ready { talking, operators } = self.wait()?;
        while let Some(number) = self.system.signals.next() {
            match Signal::of(number) {
                Some(Signal::Winch) if io::stdin().is_terminal() => {} // every resize sends it
                Some(signal) => self.feed(Event::Signal(signal))?,
                None if number == CHILD => {} // wait(2) has the details
                None => debug!(number, "signal without a meaning for the arbiter, ignored"),
            }
        }
        self.poll_job()?;
        self.system.sockets.accept_unattended();
        if let Some(lost) = self.system.sockets.pass_backlog(&self.system.queue.outbox) {
            self.feed(Event::BacklogOver { lost })?;
        }
        for pid in talking {
            self.listen_to(pid)?;
        }
        if operators {
            self.serve_operators()?;
        }
        self.listen_to_other()?;
        self.reap()
    }

    /// Waits for events and deadlines.
    fn wait(&self) -> ControlFlow<Leave, Ready> {
        let Host { children, sockets, operators, queue, identity, signals, job, .. } = &self.system;
        let (pids, mut fds): (Vec<_>, Vec<_>) =
            children.links.iter().filter_map(|(pid, link)| Some((*pid, link.interest()?))).unzip();
        fds.push(PollFd::new(signals, PollFlags::IN));
        fds.extend(identity.upgrade.interests());
        fds.extend(job.as_ref().map(RunningJob::interest));
        match &sockets.backlog {
            Some(backlog) if backlog.is_blocked() => fds.push(PollFd::new(&queue.outbox, PollFlags::OUT)),
            Some(_) => {}
            None => fds.extend(sockets.unattended.interest(&sockets.per_slot, &sockets.listeners)),
        }
        let before = fds.len();
        let control = operators.control.as_ref().filter(|_| identity.is_named);
        fds.extend(control.into_iter().flat_map(ControlSocket::interest));
        let patience = control.and_then(ControlSocket::deadline);
        let backlog = sockets.backlog.as_ref();
        // Connections of listeners without a worker wait until the backlog is passed on.
        let unattended = sockets.unattended.deadline().filter(|_| backlog.is_none());
        let deadlines = [
            self.deadline(),
            backlog.and_then(Backlog::deadline),
            unattended,
            identity.manager.deadline(),
            self.system.logs().deadline(),
            patience,
            queue.watchdog.deadline(),
            job.as_ref().map(RunningJob::deadline),
        ];
        let mut timeout = deadlines.into_iter().flatten().min().map(|at| timespec(at, now()));
        loop {
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) => break,
                // EINTR after a stop by SIGSTOP (signal(7)) says nothing about descriptors, which
                // have to be checked before deadlines.
                Err(Errno::INTR) => timeout = Some(Timespec::default()),
                // The arbiter cannot work without poll. The workers notice its end, and drain.
                Err(errno) => {
                    return Break(Leave::Finish(Outcome::internal("wait for events", &errno.into())));
                }
            }
        }
        let operators =
            fds[before..].iter().any(|fd| !fd.revents().is_empty()) || patience.is_some_and(|at| at <= now());
        let ready = pids.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Continue(Ready { talking: ready.map(|(pid, _)| pid).collect(), operators })
    }

    /// Reads the reports of a worker.
    fn listen_to(&mut self, pid: Pid) -> ControlFlow<Leave> {
        let Some(link) = self.system.children.link(pid) else { return Continue(()) };
        link.flush();
        for report in link.receive() {
            match report {
                Report::Stack(stack) => self.system.children.crash_reports.hear(pid, stack),
                report => self.feed(Event::Report { pid, report })?,
            }
        }
        Continue(())
    }

    /// Reads messages of the other arbiter of an upgrade.
    fn listen_to_other(&mut self) -> ControlFlow<Leave> {
        while let Some(word) = self.system.identity.upgrade.hear() {
            let event = match word {
                Word::Ready { receives, kept } => {
                    self.system.all_listeners().for_each(|listeners| listeners.unshare_others(&kept));
                    self.system.sockets.per_slot.unshare_others(&kept);
                    Event::NewArbiterReady { receives }
                }
                Word::OldArbiterGone => Event::OldArbiterGone,
            };
            self.feed(event)?;
            if self.plan.is_ending() {
                self.system.operators.give_way();
            }
        }
        Continue(())
    }

    /// Reaps all ended children: one SIGCHLD may stand for several. As process 1 of a container
    /// this includes orphans that this process did not fork.
    fn reap(&mut self) -> ControlFlow<Leave> {
        loop {
            match sys::reap() {
                Ok(Some((pid, status, peak))) => {
                    if self.system.job.as_mut().is_some_and(|job| job.reaped(pid)) {
                        continue;
                    }
                    let death = status.into();
                    if let Some(seat) = self.system.children.keeper_reaped(pid, death) {
                        self.feed(Event::KeeperGone { seat })?;
                        continue;
                    }
                    self.listen_to(pid)?;
                    self.listen_to_other()?;
                    let seat = self.plan.lives().find(|worker| worker.pid == pid).map(|worker| worker.seat);
                    let keeper = seat.and_then(|seat| self.system.children.outlived(pid, seat));
                    self.system.children.reaped(pid, death, peak);
                    self.system.children.keep_stacks(pid, self.plan.lives());
                    if let Some(keeper) = keeper {
                        self.feed(Event::Kept { pid, keeper })?;
                    }
                    self.feed(Event::Exited { pid, death })?;
                    self.system.write_stacks()?;
                }
                Ok(None) | Err(nix::Error::ECHILD) => return Continue(()),
                Err(nix::Error::EINTR) => {}
                Err(errno) => {
                    warn!("cannot reap children: {errno}");
                    return Continue(());
                }
            }
        }
    }
}

impl Host {
    /// The listeners for clients and for operators.
    fn all_listeners(&mut self) -> impl Iterator<Item = &mut Listeners> {
        iter::once(&mut self.sockets.listeners).chain(self.operators.listeners_mut())
    }

    fn logs(&self) -> &Logs {
        &self.current.loaded.config.logs
    }
}

/// The result of a wait.
struct Ready {
    /// Workers whose order sockets are ready.
    talking: Vec<Pid>,
    /// The control socket is ready, or one of its deadlines has passed.
    operators: bool,
}

/// Logs the counts of all workers of all generations.
fn report(tally: &Tally) {
    let Tally { requests, announced, idle_closed, handed, aborted, cut, panics, .. } = *tally;
    let answered = tally.answered();
    info!(
        requests,
        answered,
        announced,
        idle_closed,
        handed,
        aborted,
        cut,
        panics,
        "{answered} of {requests} requests were answered"
    );
}
