//! The arbiter's loop: descriptors and signals become events, actions become system calls.
//!
//! It decides nothing; that is [`plan`](crate::plan)'s. It waits in one place, [`Run::wait`], for signals, for
//! workers and for the plan's deadline, so no worker and no order can make it deaf. A child leaves the loop by
//! the same door as the end of the server does ([`Leave`]): what it must not hold is owned, and dropped, in
//! [`Run::become_worker`].

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, PipeReader, PipeWriter, Write as _};
use std::iter;
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use remuda_core::app::Tally;
use remuda_core::handoff::Records;
use remuda_core::order::Report;
use remuda_core::time::Time;
use remuda_core::worker::handoff::{self, Outbox};
use remuda_core::worker::sys::now;
use remuda_core::worker::{Ledger, Listener, Scoreboard};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{self, Pid, kill_process};
use tracing::{debug, info, warn};

use self::birth::Newborn;
use self::hooked::Hooked;
use self::open::{Opened, for_operators, open};
use self::queue::Vigil;
use self::signals::{CHILD, send_signal};
use crate::backlog::{Backlog, abandon};
use crate::control;
use crate::control::server::ControlSocket;
use crate::hooks::Hooks;
use crate::link::Link;
use crate::listener::slots::Slots;
use crate::listener::{self, Chosen, Listeners};
use crate::notice::Notice;
use crate::notify::Manager;
use crate::obituary::{Obituaries, Stacks};
use crate::orphans::Orphans;
use crate::pidfile::Pidfile;
use crate::plan::{Action, Alive, Event, Plan, Signal};
use crate::status::resident;
use crate::sys::{self, Fork, Signals, Title};
use crate::upgrade::{Upgrade, Word};
use crate::{Load, Loaded, Outcome};

#[path = "run/spawn.rs"]
mod birth;
mod change;
#[path = "run/hook_caller.rs"]
mod hooked;
mod open;
mod operators;
#[path = "run/handoff_queue.rs"]
mod queue;
mod signals;

pub(crate) use self::open::shape;
pub(crate) use self::signals::{signal, timespec};

/// Everything that the arbiter holds.
pub(crate) struct Run {
    /// What counts.
    current: Generation,
    /// What was loaded, and has to prove itself.
    next: Option<Generation>,
    load: Box<Load>,
    plan: Plan,
    hooked: Hooked,
    signals: Signals,
    listeners: Listeners,
    /// Those that single slots have.
    slots: Slots,
    orphans: Orphans,
    board: Scoreboard,
    ledger: Ledger,
    /// Workers that were aborted, and so are counted as lost already.
    aborted: Vec<Pid>,
    obituaries: Obituaries,
    /// Where operators ask for something.
    control: Option<ControlSocket>,
    /// Where the helper serves.
    admin: Listeners,
    /// Whose other ends helpers have, which are retired when these are closed.
    helpers: Vec<(Pid, PipeWriter)>,
    /// One for each child that was not reaped yet.
    links: Vec<(Pid, Link)>,
    upgrade: Upgrade,
    /// The hand-off queue. Both ends stay open here, so that what is in it outlives any worker.
    outbox: Outbox,
    inbox: OwnedFd,
    vigil: Vigil,
    /// Connections that were accepted here or will be, until they have been passed on.
    backlog: Option<Backlog>,
    manager: Manager,
    /// None where it cannot be changed.
    title: Option<Title>,
    /// The file is there while this is.
    pidfile: Option<Pidfile>,
    /// Whether people find this arbiter where they look for the server's; otherwise an old one.
    named: bool,
}

/// A configuration, and what its workers listen on.
struct Generation {
    number: u32,
    loaded: Loaded,
    chosen: Chosen,
}

/// Why the loop is left.
enum Leave {
    /// In the arbiter: the server has ended.
    Finish(Outcome),
    /// In a child: it is a worker from now on.
    Born(Newborn),
    /// In a child: it is the helper from now on.
    Helper { parent: Pid, leash: PipeReader },
    /// In a child: it writes this, and nothing else.
    Scribe(Vec<Stacks>),
}

/// Handler threads that the scoreboard has room for at least, and workers that are replaced at a time: a reload may ask for
/// more than there were, and memory that nobody writes costs nothing.
const THREADS: usize = 64;
const REPLACED: u16 = 128;

impl Run {
    /// Everything that must be done, and may fail, before the first fork.
    pub(crate) fn prepare(
        mut loaded: Loaded,
        load: Box<Load>,
        hooks: Arc<dyn Hooks>,
        records: Records,
    ) -> Result<Self, Outcome> {
        sys::only_thread()?;
        let _ = io::stdout().flush(); // or each child would write what is in it again
        let (upgrade, legacy) =
            Upgrade::of_process(records).map_err(|message| Outcome::Internal { message })?;
        loaded.config.process.enter()?;
        let hooked = Hooked::starting(hooks, &loaded.config, upgrade.has_elder());
        sys::only_thread().map_err(|error| error.because_of("the hook on_starting"))?;
        loaded.preload()?; // while a signal still ends the process
        let legacy = legacy.unwrap_or_default();
        let (outbox, inbox) = match legacy.queue {
            Some(queue) => queue,
            None => handoff::queue().map_err(|error| Outcome::internal("make the hand-off queue", &error))?,
        };
        let outbox = outbox.writing(upgrade.written());
        let signals = Signals::block().map_err(|error| Outcome::internal("block signals", &error))?;
        let mut listeners = Listeners::among(legacy.listeners);
        let config = &loaded.config;
        let mut slots = Slots::new(config.reuse_port, config.workers, config.backlog);
        let Opened { pidfile, chosen, control, admin } = match open(
            config,
            &mut listeners,
            &mut slots,
            upgrade.has_elder().then_some(legacy.for_operators),
        ) {
            Ok(opened) => opened,
            Err(outcome) => {
                signals.restore();
                return Err(outcome);
            }
        };
        let replaced = REPLACED.max(config.replaced());
        let board = Scoreboard::map(config.workers, replaced, config.worker.threads.max(THREADS));
        let (board, ledger) = match board.and_then(|board| Ok((board, Ledger::map()?))) {
            Ok(pages) => pages,
            Err(error) => {
                signals.restore();
                return Err(Outcome::internal("map the scoreboard", &error));
            }
        };
        let plan = Plan::new(shape(config, board.seats()));
        let plan = if config.admin.is_some() { plan.with_helper() } else { plan };
        let (aborted, links, backlog) = (Vec::new(), Vec::new(), None);
        let named = !upgrade.has_elder();
        let plan = if named { plan } else { plan.with_elder() };
        let mut title = Title::claim();
        title.iter_mut().for_each(|title| title.set(&config.process.title("arbiter")));
        let (current, next) = (Generation { number: 1, loaded, chosen }, None);
        Ok(Self {
            current,
            next,
            load,
            plan,
            hooked,
            signals,
            listeners,
            slots,
            orphans: Orphans::default(),
            board,
            ledger,
            aborted,
            obituaries: Obituaries::new(),
            control,
            admin,
            helpers: Vec::new(),
            links,
            upgrade,
            outbox,
            inbox,
            vigil: Vigil::default(),
            backlog,
            manager: Manager::of_process(),
            title,
            pidfile,
            named,
        })
    }

    /// Looks after the workers until the server has ended. Returns in the arbiter only.
    pub(crate) fn supervise(mut self) -> Outcome {
        let leave = loop {
            if let Break(leave) = self.turn() {
                break leave;
            }
        };
        match leave {
            Leave::Born(newborn) => self.become_worker(newborn),
            Leave::Helper { parent, leash } => self.become_helper(parent, leash),
            Leave::Scribe(stacks) => self.become_scribe(stacks),
            Leave::Finish(outcome) => {
                if let Break(Leave::Scribe(stacks)) = self.write_stacks() {
                    self.become_scribe(stacks);
                }
                // Before a new arbiter can know that this one is gone, and moves its own file there.
                self.pidfile = None;
                self.listeners.end();
                self.slots.release_all().iter().for_each(listener::end);
                self.end_helpers();
                self.obituaries.end();
                self.admin.end();
                self.control.iter_mut().for_each(ControlSocket::end);
                self.signals.restore();
                report(&self.ledger.read(&self.board).total());
                self.hooked.ended(&outcome);
                outcome
            }
        }
    }

    /// Signals before deaths, because a signal to the whole group (Ctrl-C) explains them; reports before deaths,
    /// because they were sent before.
    fn turn(&mut self) -> ControlFlow<Leave> {
        self.feed(Event::Tick)?;
        self.manager.reassure(now());
        self.look_at_queue();
        let Ready { talking, operators } = self.wait()?;
        while let Some(number) = self.signals.next() {
            match signal(number) {
                Some(Signal::Winch) if io::stdin().is_terminal() => {} // every resize sends it
                Some(signal) => self.feed(Event::Signal(signal))?,
                None if number == CHILD => {} // said by wait(2) in more detail
                None => debug!(number, "signal without a meaning here, ignored"),
            }
        }
        if self.backlog.is_none() {
            self.backlog = self.orphans.accept(&self.slots, &self.listeners, now());
        }
        self.pass_backlog()?;
        for pid in talking {
            self.listen_to(pid)?;
        }
        if operators {
            self.serve_operators()?;
        }
        self.listen_to_other()?;
        self.reap()
    }

    /// Waits for anything to happen.
    fn wait(&self) -> ControlFlow<Leave, Ready> {
        let (pids, mut fds): (Vec<_>, Vec<_>) =
            self.links.iter().filter_map(|(pid, link)| Some((*pid, link.interest()?))).unzip();
        fds.push(PollFd::new(&self.signals, PollFlags::IN));
        fds.extend(self.upgrade.interests());
        let backlog = self.backlog.as_ref();
        match backlog {
            Some(backlog) if backlog.is_blocked() => fds.push(PollFd::new(&self.outbox, PollFlags::OUT)),
            Some(_) => {}
            None => fds.extend(self.orphans.interest(&self.slots, &self.listeners)),
        }
        let before = fds.len();
        let control = self.control.as_ref().filter(|_| self.named);
        fds.extend(control.into_iter().flat_map(ControlSocket::interest));
        let patience = control.and_then(ControlSocket::deadline);
        let backlog = backlog.and_then(Backlog::deadline);
        let orphans = self.orphans.deadline().filter(|_| self.backlog.is_none()); // they wait for it
        let deadlines = [
            self.plan.deadline(),
            backlog,
            orphans,
            self.manager.deadline(),
            patience,
            self.vigil.deadline(),
        ];
        let timeout = deadlines.into_iter().flatten().min().map(|at| timespec(at, now()));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Without it the arbiter is deaf. The workers notice that it is gone, and drain.
            Err(errno) => return Break(Leave::Finish(Outcome::internal("wait for events", &errno.into()))),
        }
        let operators =
            fds[before..].iter().any(|fd| !fd.revents().is_empty()) || patience.is_some_and(|at| at <= now());
        let ready = pids.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Continue(Ready { talking: ready.map(|(pid, _)| pid).collect(), operators })
    }

    fn pass_backlog(&mut self) -> ControlFlow<Leave> {
        let Some(backlog) = &mut self.backlog else { return Continue(()) };
        match backlog.advance(&self.outbox, now()) {
            Some(lost) => {
                self.backlog = None;
                self.feed(Event::BacklogOver { lost })
            }
            None => Continue(()),
        }
    }

    fn listen_to(&mut self, pid: Pid) -> ControlFlow<Leave> {
        let Some(link) = self.link(pid) else { return Continue(()) };
        link.flush();
        for report in link.receive() {
            match report {
                Report::Stack(stack) => self.obituaries.hear(pid, stack),
                report => self.feed(Event::Report { pid, report })?,
            }
        }
        Continue(())
    }

    /// To the other arbiter of an upgrade.
    fn listen_to_other(&mut self) -> ControlFlow<Leave> {
        while let Some(word) = self.upgrade.hear() {
            let event = match word {
                Word::Ready { receives, kept } => {
                    self.all_listeners().for_each(|listeners| listeners.unshare_others(&kept));
                    self.slots.unshare_others(&kept);
                    Event::HeirReady { receives }
                }
                Word::ElderGone => Event::ElderGone,
            };
            self.feed(event)?;
            if self.plan.is_ending() {
                self.control.iter_mut().for_each(ControlSocket::give_way);
            }
        }
        Continue(())
    }

    /// Collects all children that have ended: one SIGCHLD may stand for several. As process 1 of a container that
    /// includes orphans that never were ours.
    fn reap(&mut self) -> ControlFlow<Leave> {
        loop {
            match sys::reap() {
                Ok(Some((pid, status, peak))) => {
                    let death = status.into();
                    self.listen_to(pid)?;
                    self.listen_to_other()?;
                    self.links.retain(|(of, _)| *of != pid);
                    self.helpers.retain(|(of, _)| *of != pid);
                    self.obituaries.died(pid, death, peak);
                    self.keep_stacks(pid);
                    self.feed(Event::Exited { pid, death })?;
                    self.write_stacks()?;
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

    /// Tells the plan, and does what it says.
    fn feed(&mut self, event: Event) -> ControlFlow<Leave> {
        let mut todo = VecDeque::from(self.tell(event));
        while let Some(action) = todo.pop_front() {
            match action {
                Action::Spawn { slot, seat, generation } => {
                    let listeners = self.slots.count();
                    let event = self.spawn(slot, seat, generation)?;
                    todo.extend(self.tell(event));
                    if self.slots.count() > listeners {
                        todo.extend(self.tell(Event::Listening));
                    }
                }
                Action::SpawnHelper => {
                    let event = self.spawn_helper()?;
                    todo.extend(self.tell(event));
                }
                Action::Retire { pid } => self.helpers.retain(|(of, _)| *of != pid),
                Action::Answer { ticket, answer } => self.answer(ticket, [control::answer(answer)]),
                Action::Send { pid, order } => {
                    self.hooked.ordered(pid, &order);
                    if let Some(link) = self.link(pid) {
                        link.send(&order);
                    }
                    send_signal(pid, &order);
                }
                Action::Look { seat } => {
                    let at = self.board.seat(seat).map_or(Time::ZERO, |seat| seat.last_beat());
                    todo.extend(self.tell(Event::Beat { seat, at }));
                }
                Action::Weigh { pid } => {
                    if let Some(rss) = resident(pid.as_raw_nonzero().get()) {
                        todo.extend(self.tell(Event::Weighed { pid, rss }));
                    }
                }
                Action::SaveBacklog => {
                    self.orphans = Orphans::default();
                    let mut listeners = self.listeners.release();
                    listeners.append(&mut self.slots.release_all());
                    self.save_backlog(listeners);
                }
                Action::Relieve { slots } => self.orphans.become_these(slots),
                Action::EndSlot { slot } => {
                    let listeners = self.slots.release(slot);
                    if !listeners.is_empty() {
                        self.save_backlog(listeners);
                    }
                }
                Action::DropBacklog => {
                    let queue = self.upgrade.is_alone().then(|| self.inbox.as_fd());
                    let lost = abandon(self.backlog.take(), queue);
                    todo.extend(self.tell(Event::BacklogOver { lost }));
                }
                Action::Load { generation } => {
                    self.manager.reloading(now());
                    let event = self.load(generation);
                    todo.extend(self.tell(event));
                }
                Action::Adopt => {
                    if self.adopt() {
                        todo.extend(self.tell(Event::Listening));
                    }
                }
                Action::Abandon => {
                    if let Some(next) = self.next.take() {
                        self.listeners.drop_new(&next.chosen);
                        self.slots.drop_new(&next.chosen);
                    }
                }
                Action::EndListeners => {
                    let next = self.next.iter().flat_map(|next| &next.chosen.all);
                    let kept: Vec<_> = self.current.chosen.all.iter().chain(next).copied().collect();
                    let mut others = self.listeners.release_others(&kept);
                    others.append(&mut self.slots.release_others(&kept));
                    self.orphans.all_agree();
                    if !others.is_empty() {
                        self.save_backlog(others);
                    }
                }
                Action::Reloaded { generation, end } => {
                    let notice = Notice::Reloaded { generation, end };
                    notice.log();
                    self.manager.hear(&notice);
                }
                Action::Describe { slot, seat } => self.describe(slot, seat),
                Action::Bury { seat, clean } => self.ledger.bury(&self.board, seat, clean),
                // Not reaped yet, so the pid is still its own; if it is dead, nothing is lost.
                Action::Abort { pid } => drop(kill_process(pid, process::Signal::ABORT)),
                Action::Kill { pid } => drop(kill_process(pid, process::Signal::KILL)),
                Action::ReopenLogs => self.current.loaded.config.logs.reopen(),
                Action::AnnounceReady { workers } => self.announce_ready(workers),
                Action::Log(notice) => {
                    self.keep(&notice);
                    notice.log();
                    self.manager.hear(&notice);
                    self.hooked.hear(&notice);
                }
                Action::Launch => {
                    self.hooked.upgrading();
                    let queue = [self.outbox.as_fd(), self.inbox.as_fd()];
                    let operators = for_operators(&mut self.control, &mut self.admin);
                    let (listeners, slots) = (&mut self.listeners, &mut self.slots);
                    let launched = self.upgrade.launch(listeners, slots, operators, queue, &self.signals);
                    let event = match launched {
                        Ok(pid) => Event::Launched { pid },
                        Err(error) => Event::NotLaunched { error },
                    };
                    todo.extend(self.plan.handle(event, now()));
                }
                Action::Signal { pid, signal } => drop(kill_process(pid, signal.number())),
                Action::HandOver { pid } => self.manager.hand_over(pid),
                Action::Reclaim => self.reclaim(),
                Action::Finish(outcome) => return Break(Leave::Finish(outcome)),
            }
        }
        Continue(())
    }

    /// Ends `listeners`, and passes on what they hold.
    fn save_backlog(&mut self, listeners: Vec<Listener>) {
        self.backlog.get_or_insert_with(|| Backlog::new(now())).end(listeners, now());
    }

    /// Tells the plan. How far the server is gets known before anything is done about it.
    fn tell(&mut self, event: Event) -> Vec<Action> {
        let todo = self.plan.handle(event, now());
        self.ledger.go_on(self.plan.ready_heir().is_some());
        self.ledger.enter(self.plan.stage(), self.plan.workers());
        todo
    }

    /// Counts what people are told of, if it is of a kind that is counted. Who was aborted dies of that.
    fn keep(&mut self, notice: &Notice) {
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

    /// Says what the worker in `seat` is, or was, serving; nothing if that is nothing, and it has ended as workers do.
    fn describe(&self, slot: u16, seat: u16) {
        let Some(entry) = self.board.seat(seat).and_then(|seat| seat.read()) else { return };
        let Some(pid) = i32::try_from(entry.pid).ok().and_then(Pid::from_raw) else { return };
        if !entry.busy.is_empty() || self.obituaries.is_strange(pid) {
            let memory = self.obituaries.memory(pid);
            Notice::Serving { slot, pid, busy: entry.busy, at: now(), memory }.log();
        }
    }

    /// Keeps where the threads of a worker stood that is gone, if that has said so. What aborts by itself before it was ever
    /// ready does so again, and is not looked into over and over.
    fn keep_stacks(&mut self, pid: Pid) {
        let stacks = self.obituaries.take_stacks(pid);
        let is_told = |worker: &Alive| worker.ready.is_some() || self.aborted.contains(&pid);
        let worker = self.plan.lives().find(|worker| worker.pid == pid).filter(is_told);
        let Some(worker) = worker.filter(|_| !stacks.is_empty()) else { return };
        let entry = self.board.seat(worker.seat).and_then(|seat| seat.read());
        let busy = entry.map(|entry| entry.busy).unwrap_or_default();
        if !self.obituaries.keep(Stacks { slot: worker.slot, pid, stacks, busy }) {
            warn!(%pid, "where the worker stood is not said: too much is still to be said of others");
        }
    }

    /// Has a process of its own write what was kept, if there is anything.
    fn write_stacks(&mut self) -> ControlFlow<Leave> {
        let stacks = self.obituaries.take_unwritten();
        if stacks.is_empty() {
            return Continue(());
        }
        match sys::fork() {
            Ok(Fork::Parent { child }) => self.obituaries.written_by(child),
            Ok(Fork::Child { .. }) => return Break(Leave::Scribe(stacks)),
            Err(error) => warn!("where workers stood cannot be said: {error}"),
        }
        Continue(())
    }

    /// Also those that operators connect to.
    fn all_listeners(&mut self) -> impl Iterator<Item = &mut Listeners> {
        iter::once(&mut self.listeners).chain(for_operators(&mut self.control, &mut self.admin))
    }

    fn link(&mut self, pid: Pid) -> Option<&mut Link> {
        self.links.iter_mut().find(|(of, _)| *of == pid).map(|(_, link)| link)
    }
}

/// What a wait has found.
struct Ready {
    /// Workers whose sockets are ready.
    talking: Vec<Pid>,
    /// Somebody is there on the control socket, or has been waited for long enough.
    operators: bool,
}

/// What all workers have counted, of all generations.
fn report(tally: &Tally) {
    let Tally { requests, finished, announced, idle_closed, handed, aborted, cut, panics, .. } = *tally;
    info!(
        requests,
        finished,
        announced,
        idle_closed,
        handed,
        aborted,
        cut,
        panics,
        "{finished} of {requests} requests were finished"
    );
}
