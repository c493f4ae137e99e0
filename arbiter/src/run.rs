//! The arbiter's loop: descriptors and signals become events, actions become system calls.
//!
//! It decides nothing; that is [`plan`](crate::plan)'s. It waits in one place, [`Run::wait`], for signals, for
//! workers and for the plan's deadline, so no worker and no order can make it deaf. A child leaves the loop by
//! the same door as the end of the server does ([`Leave`]): what it must not hold is owned, and dropped, in
//! [`Run::become_worker`].

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write as _};
use std::iter;
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use remuda_core::app::Tally;
use remuda_core::order::{Level, Order};
use remuda_core::shutdown::Phase;
use remuda_core::time::Time;
use remuda_core::worker::handoff::{self, Outbox};
use remuda_core::worker::sys::{QUICK_STOP, now};
use remuda_core::worker::{Control, Exit, Ledger, Listener, Scoreboard, Seat, WorkerCx, log_level};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use rustix::process::{self, Pid, WaitOptions, WaitStatus, getpid, kill_process, wait};
use serde_json::Value;
use tracing::{debug, error, info, warn};

use crate::activation::{self, Passed};
use crate::admin::{self, View};
use crate::backlog::{Backlog, abandon};
use crate::control::server::ControlSocket;
use crate::control::{self, Request};
use crate::link::Link;
use crate::listener::slots::Slots;
use crate::listener::{self, BindError, Chosen, Heirloom, Listeners};
use crate::notice::Notice;
use crate::notify::{self, Manager};
use crate::orphans::Orphans;
use crate::pidfile::Pidfile;
use crate::plan::{Action, Death, Event, Patience, Plan, Shape, Signal, Ticket};
use crate::sys::{self, Fork, Signals, Title};
use crate::upgrade::{self, Upgrade, Word};
use crate::{ArbiterConfig, Load, Loaded, Outcome, UpgradeDrain, status};

/// Everything that the arbiter holds.
pub(crate) struct Run {
    /// What counts.
    current: Generation,
    /// What was loaded, and has to prove itself.
    next: Option<Generation>,
    load: Box<Load>,
    plan: Plan,
    signals: Signals,
    listeners: Listeners,
    /// Those that single slots have.
    slots: Slots,
    orphans: Orphans,
    board: Scoreboard,
    ledger: Ledger,
    /// Workers that were aborted, and so are counted as lost already.
    aborted: Vec<Pid>,
    /// Where operators ask for something.
    control: Option<ControlSocket>,
    /// Where the helper serves.
    admin: Listeners,
    /// One for each child that was not reaped yet.
    links: Vec<(Pid, Link)>,
    upgrade: Upgrade,
    /// The hand-off queue. Both ends stay open here, so that what is in it outlives any worker.
    outbox: Outbox,
    inbox: OwnedFd,
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
    Helper { parent: Pid },
}

/// A child just forked.
struct Newborn {
    slot: u16,
    generation: u32,
    seat: Seat,
    orders: OwnedFd,
    parent: Pid,
}

/// Handler threads that the scoreboard has room for at least, and workers that are replaced at a time: a reload may ask for
/// more than there were, and memory that nobody writes costs nothing.
const THREADS: usize = 64;
const REPLACED: u16 = 128;

impl Run {
    /// Everything that must be done, and may fail, before the first fork.
    pub(crate) fn prepare(loaded: Loaded, load: Box<Load>) -> Result<Self, Outcome> {
        sys::only_thread()?;
        let _ = io::stdout().flush(); // or each child would write what is in it again
        let (upgrade, legacy) = Upgrade::of_process().map_err(|message| Outcome::Internal { message })?;
        if upgrade.has_elder() && loaded.config.reuse_port {
            return Err(Outcome::Internal {
                message: "reuse-port cannot come with an upgrade; that takes a new start".to_owned(),
            });
        }
        let (outbox, inbox, heirlooms, for_operators) = match legacy {
            Some(legacy) => (legacy.outbox, legacy.inbox, legacy.listeners, legacy.for_operators),
            None => {
                let queue = handoff::queue();
                let (outbox, inbox) =
                    queue.map_err(|error| Outcome::internal("make the hand-off queue", &error))?;
                (outbox, inbox, Vec::new(), Vec::new())
            }
        };
        let signals = Signals::block().map_err(|error| Outcome::internal("block signals", &error))?;
        let mut listeners = Listeners::among(heirlooms);
        let config = &loaded.config;
        let mut slots = Slots::new(config.reuse_port, config.workers, config.backlog);
        let Opened { pidfile, chosen, control, admin } =
            match open(config, &mut listeners, &mut slots, upgrade.has_elder().then_some(for_operators)) {
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
            signals,
            listeners,
            slots,
            orphans: Orphans::default(),
            board,
            ledger,
            aborted,
            control,
            admin,
            links,
            upgrade,
            outbox,
            inbox,
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
            Leave::Helper { parent } => self.become_helper(parent),
            Leave::Finish(outcome) => {
                // Before a new arbiter can know that this one is gone, and moves its own file there.
                self.pidfile = None;
                self.listeners.end();
                self.slots.release_all().iter().for_each(listener::end);
                self.end_helper();
                self.admin.end();
                self.control.iter_mut().for_each(ControlSocket::end);
                self.signals.restore();
                report(&self.ledger.read(&self.board).total());
                outcome
            }
        }
    }

    /// Signals before deaths, because a signal to the whole group (Ctrl-C) explains them; reports before deaths,
    /// because they were sent before.
    fn turn(&mut self) -> ControlFlow<Leave> {
        self.feed(Event::Tick)?;
        self.manager.reassure(now());
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
        let deadlines = [self.plan.deadline(), backlog, orphans, self.manager.deadline(), patience];
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

    fn serve_operators(&mut self) -> ControlFlow<Leave> {
        let Some(control) = &mut self.control else { return Continue(()) };
        for (ticket, request) in control.advance(now()) {
            match request {
                Request::Status => self.answer(ticket, self.status()),
                Request::Plan { command, wait } => self.feed(Event::Asked { ticket, command, wait })?,
                Request::LogLevel(level) => {
                    let answer = self.log_from(level);
                    self.answer(ticket, [answer]);
                }
                Request::Unbuilt(name) => {
                    self.answer(ticket, [control::refusal(&format!("{name} is not built in yet"))]);
                }
            }
        }
        Continue(())
    }

    fn answer(&mut self, ticket: Ticket, lines: impl IntoIterator<Item = Value>) {
        if let Some(control) = &mut self.control {
            control.answer(ticket, lines, now());
        }
    }

    fn status(&self) -> Vec<Value> {
        let server = status::Server {
            version: &self.current.loaded.config.version,
            backend: self.current.loaded.worker.name(),
            generation: self.current.number,
            started: self.ledger.started(),
            listeners: &self.listeners,
        };
        status::lines(server, &self.plan, &self.board, now())
    }

    /// Changes the level of the log, here and in all workers.
    fn log_from(&mut self, level: Level) -> Value {
        if !log_level::set(level) {
            return control::refusal("the program's own log has a level of its own");
        }
        self.links.iter_mut().for_each(|(_, link)| link.send(&Order::LogLevel(level)));
        info!("logging from level {} on", level.name());
        control::done()
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
            self.feed(Event::Report { pid, report })?;
        }
        Continue(())
    }

    /// To the other arbiter of an upgrade.
    fn listen_to_other(&mut self) -> ControlFlow<Leave> {
        while let Some(word) = self.upgrade.hear() {
            let event = match word {
                Word::Ready { kept } => {
                    self.all_listeners().for_each(|listeners| listeners.unshare_others(&kept));
                    Event::HeirReady
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
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    self.listen_to(pid)?;
                    self.listen_to_other()?;
                    self.links.retain(|(of, _)| *of != pid);
                    self.feed(Event::Exited { pid, death: death(status) })?;
                }
                Ok(None) | Err(Errno::CHILD) => return Continue(()),
                Err(Errno::INTR) => {}
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
                    let event = self.spawn(slot, seat, generation)?;
                    todo.extend(self.tell(event));
                }
                Action::SpawnHelper => {
                    let event = self.spawn_helper()?;
                    todo.extend(self.tell(event));
                }
                Action::Answer { ticket, answer } => self.answer(ticket, [control::answer(answer)]),
                Action::Send { pid, order } => {
                    if let Some(link) = self.link(pid) {
                        link.send(&order);
                    }
                    // A loop that is stuck reads no orders, but the handler of the signal arms its timer (D10). The
                    // order and the signal of one stop count once (D11).
                    if let Some(signal) = signal_of(&order) {
                        let _ = kill_process(pid, signal);
                    }
                }
                Action::Look { seat } => {
                    let at = self.board.seat(seat).map_or(Time::ZERO, |seat| seat.last_beat());
                    todo.extend(self.tell(Event::Beat { seat, at }));
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
                Action::Adopt => self.adopt(),
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
                }
                Action::Launch => {
                    let queue = [self.outbox.as_fd(), self.inbox.as_fd()];
                    let operators = for_operators(&mut self.control, &mut self.admin);
                    let launched = self.upgrade.launch(&mut self.listeners, operators, queue, &self.signals);
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

    /// The server is this arbiter's alone.
    fn reclaim(&mut self) {
        self.upgrade.forget();
        self.all_listeners().for_each(Listeners::reclaim);
        if !self.plan.is_ending() {
            self.take_the_name();
        }
    }

    /// Programs and people find this arbiter from now on where they look for the server's.
    fn take_the_name(&mut self) {
        self.named = true;
        if let (Some(file), Some(path)) = (&mut self.pidfile, &self.current.loaded.config.process.pidfile)
            && let Err(errno) = file.rename(path, RenameFlags::empty())
        {
            warn!("the pidfile {} names another process: {errno}", path.display());
        }
        self.manager.ready(self.plan.workers());
    }

    /// Loads and binds what is to be a generation of that number. Nothing changes if that fails.
    fn load(&mut self, number: u32) -> Event {
        let prepared = (self.load)(&self.current.loaded).and_then(|loaded| {
            has_room(&loaded.config, &self.board)?;
            let chosen = listen(&loaded.config, &mut self.listeners, &mut self.slots)
                .map_err(|error| error.to_string())?;
            Ok(Generation { number, loaded, chosen })
        });
        match prepared {
            Ok(next) => {
                let shape = shape(&next.loaded.config, self.board.seats());
                self.next = Some(next);
                Event::Loaded { shape }
            }
            Err(why) => Event::NotLoaded { why },
        }
    }

    /// Makes what was loaded last what counts.
    fn adopt(&mut self) {
        let Some(next) = self.next.take() else { return };
        if next.chosen.all != self.current.chosen.all {
            let addresses = self.listeners.describe(&next.chosen);
            info!(%addresses, "listening on {addresses}");
            // It tells of those that it has: the next one has these.
            if let Some(pid) = self.plan.helper() {
                let _ = kill_process(pid, process::Signal::KILL);
            }
        }
        self.orphans.disagree(&self.current.chosen, &next.chosen);
        self.current = next;
        let backlog = self.current.loaded.config.backlog;
        self.listeners.listen_again(backlog);
        self.slots.listen_again(backlog);
        self.current.loaded.apply();
    }

    /// Ends `listeners`, and passes on what they hold.
    fn save_backlog(&mut self, listeners: Vec<Listener>) {
        self.backlog.get_or_insert_with(|| Backlog::new(now())).end(listeners, now());
    }

    /// Tells the plan. How far the server is gets known before anything is done about it.
    fn tell(&mut self, event: Event) -> Vec<Action> {
        let todo = self.plan.handle(event, now());
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

    fn spawn_helper(&self) -> ControlFlow<Leave, Event> {
        match sys::fork() {
            Ok(Fork::Parent { child }) => Continue(Event::HelperSpawned(Ok(child))),
            Ok(Fork::Child { parent }) => Break(Leave::Helper { parent }),
            Err(error) => Continue(Event::HelperSpawned(Err(error.to_string()))),
        }
    }

    /// It has nothing to finish, and it is this process's child until it is reaped.
    fn end_helper(&self) {
        if let Some(pid) = self.plan.helper() {
            let _ = kill_process(pid, process::Signal::KILL);
            let _ = process::waitpid(Some(pid), WaitOptions::empty());
        }
    }

    fn spawn(&mut self, slot: u16, number: u16, generation: u32) -> ControlFlow<Leave, Event> {
        let failed = |error: String| Continue(Event::SpawnFailed { seat: number, error });
        let (link, orders) = match Link::pair() {
            Ok(pair) => pair,
            Err(error) => return failed(format!("cannot make its control socket: {error}")),
        };
        let Some(seat) = self.board.seat(number) else {
            return failed("the scoreboard has no room for it".to_owned());
        };
        if let Err(error) = self.slots.open(slot, &self.listeners) {
            return failed(error.to_string());
        }
        self.ledger.take(number);
        match sys::fork() {
            Ok(Fork::Parent { child }) => {
                self.links.push((child, link));
                Continue(Event::Spawned { seat: number, pid: child })
            }
            Ok(Fork::Child { parent }) => {
                Break(Leave::Born(Newborn { slot, generation, seat, orders, parent }))
            }
            Err(error) => failed(error.to_string()),
        }
    }

    /// Says what the worker in `seat` is, or was, serving; nothing if that is nothing.
    fn describe(&self, slot: u16, seat: u16) {
        if let Some(entry) = self.board.seat(seat).and_then(|seat| seat.read())
            && !entry.busy.is_empty()
        {
            Notice::Serving { slot, pid: entry.pid, busy: entry.busy, at: now() }.log();
        }
    }

    /// In a child: serves, and ends with the process. Nothing of the arbiter's survives in it but the listeners,
    /// and above all no socket by which it would keep a sibling from seeing the arbiter die (D18).
    fn become_worker(self, newborn: Newborn) -> ! {
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
        let listeners = slots.into_chosen(slot, listeners, &chosen);
        drop((links, signals, plan, backlog, load, other, self.upgrade, self.manager, self.pidfile));
        drop((self.control, self.admin));
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
                    let exit = worker.run(cx.with_logs(&logs), app);
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

    /// In a child: serves the admin listener until it is killed. It keeps nothing by which a worker could miss the
    /// arbiter's death (D18).
    fn become_helper(self, parent: Pid) -> ! {
        let Self { current, listeners, slots, board, ledger, admin, .. } = self;
        let Generation { loaded: Loaded { config, .. }, chosen, .. } = current;
        drop((self.links, self.signals, self.plan, self.outbox, self.inbox, self.backlog));
        drop((self.upgrade, self.manager, self.pidfile, self.control, self.load, self.next));
        self.title.into_iter().for_each(|mut title| title.set(&config.process.title("admin")));
        // The change of user makes the kernel forget what is to follow.
        let follows = config.process.assume().and_then(|()| sys::follow(parent, process::Signal::KILL));
        match follows {
            Ok(true) => {
                let view = View { board, ledger, listeners: slots.into_all(listeners, &chosen) };
                let error = admin::serve(&admin.into_vec(), view);
                error!("the admin helper cannot go on: {error}");
            }
            Ok(false) => {} // the arbiter died before it could be watched
            Err(error) => error!("the admin helper could not change its user or group: {error}"),
        }
        sys::exit(Exit::BootFailed.status())
    }

    /// Also those that operators connect to.
    fn all_listeners(&mut self) -> impl Iterator<Item = &mut Listeners> {
        iter::once(&mut self.listeners).chain(for_operators(&mut self.control, &mut self.admin))
    }

    fn link(&mut self, pid: Pid) -> Option<&mut Link> {
        self.links.iter_mut().find(|(of, _)| *of == pid).map(|(_, link)| link)
    }

    fn announce_ready(&mut self, workers: usize) {
        // One that is to be compared with the old one has its name when that is gone.
        if !self.upgrade.has_elder() || self.current.loaded.config.upgrade_drain == UpgradeDrain::Automatic {
            self.take_the_name();
        }
        let kept: Vec<_> = self.all_listeners().flat_map(|listeners| listeners.shared()).collect();
        self.upgrade.tell_ready(&kept);
        let Generation { loaded, chosen, .. } = &self.current;
        let (backend, pid) = (loaded.worker.name(), getpid());
        let addresses = self.listeners.describe(chosen);
        let plural = if workers == 1 { "" } else { "s" };
        info!(
            %addresses, backend, workers, %pid,
            "ready: {addresses}, {workers} {backend} worker{plural}, pid {pid}; stop with TERM or Ctrl-C"
        );
        for admin in self.admin.iter() {
            info!("admin listener: {}/healthz, /readyz, /metrics", admin.bound);
        }
    }
}

/// The listeners that operators connect to.
fn for_operators<'a>(
    control: &'a mut Option<ControlSocket>,
    admin: &'a mut Listeners,
) -> Vec<&'a mut Listeners> {
    control.as_mut().map(ControlSocket::listeners_mut).into_iter().chain([admin]).collect()
}

/// What a wait has found.
struct Ready {
    /// Workers whose sockets are ready.
    talking: Vec<Pid>,
    /// Somebody is there on the control socket, or has been waited for long enough.
    operators: bool,
}

/// What others may find of the server.
struct Opened {
    pidfile: Option<Pidfile>,
    chosen: Chosen,
    control: Option<ControlSocket>,
    admin: Listeners,
}

/// Goes where the server is to be, and makes what others may find there: all of it, or nothing. If there is an old arbiter,
/// `elders` is what operators find there.
fn open(
    config: &ArbiterConfig,
    listeners: &mut Listeners,
    slots: &mut Slots,
    elders: Option<Vec<Heirloom>>,
) -> Result<Opened, Outcome> {
    let ArbiterConfig { process, control_socket, admin, .. } = config;
    process.enter()?;
    let path = process.pidfile.as_deref();
    let claimed = match elders {
        None => path.map(Pidfile::claim),
        Some(_) => path.map(|path| Pidfile::claim(&second(path))),
    };
    let pidfile = claimed.transpose()?;
    Passed::of_process().close_on_exec();
    let chosen = listen(config, listeners, slots)?;
    let mut heirlooms = elders.unwrap_or_default();
    let control = control_socket.as_deref().map(|path| ControlSocket::bind(path, &mut heirlooms)).transpose();
    let mut control = control.inspect_err(|_| listeners.end())?;
    let admin = admin.as_ref();
    let admin = admin.map(|bind| Listeners::bind(bind, ADMIN_BACKLOG, process.owner(), &mut heirlooms));
    let admin = admin.transpose();
    let admin = admin.inspect_err(|_| {
        listeners.end();
        control.iter_mut().for_each(ControlSocket::end);
    })?;
    Ok(Opened { pidfile, chosen, control, admin: admin.unwrap_or_default() })
}

/// Listens where `config` says, also for each slot that there is; on an error everything is as it was.
fn listen(config: &ArbiterConfig, listeners: &mut Listeners, slots: &mut Slots) -> Result<Chosen, BindError> {
    let ArbiterConfig { process, binds, backlog, .. } = config;
    let chosen = listeners.choose(&Passed::of_process().resolve(binds)?, *backlog, process.owner())?;
    slots.open_all(listeners).inspect_err(|_| {
        listeners.drop_new(&chosen);
        slots.drop_new(&chosen);
    })?;
    Ok(chosen)
}

/// What the plan has to know of `config`, for a server with room for `seats` workers.
pub(crate) fn shape(config: &ArbiterConfig, seats: usize) -> Shape {
    let (workers, replaced) = (config.workers.max(1), usize::from(config.replaced()));
    Shape {
        workers,
        room: seats.saturating_sub(replaced),
        recycle_concurrency: config.recycle_concurrency.max(1).into(),
        reload_concurrency: config.reload_concurrency.max(1).into(),
        graceful_timeout: config.worker.graceful_timeout,
        lameduck: config.lameduck,
        holds: config.upgrade_drain == UpgradeDrain::Manual,
        patience: Patience {
            timeout: config.worker.timeout,
            boot_timeout: config.boot_timeout,
            nap: config.worker.beat_interval(),
        },
        own_listeners: config.reuse_port,
    }
}

/// Whether workers as `config` has them fit on the scoreboard, which is as large as it was at the start.
fn has_room(config: &ArbiterConfig, board: &Scoreboard) -> Result<(), String> {
    let refuse = |what, n: usize, room| {
        Err(format!("{what} is {n}, and this server has room for {room}; that needs a new start"))
    };
    let replaced = usize::from(config.replaced());
    let (workers, threads) = (usize::from(config.workers), config.worker.threads);
    match board.seats().saturating_sub(replaced) {
        room if workers > room => refuse("workers", workers, room),
        _ if threads > board.threads() => refuse("threads", threads, board.threads()),
        _ => Ok(()),
    }
}

/// Connections that may wait for the helper.
const ADMIN_BACKLOG: u32 = 128;

/// The pidfile of an arbiter beside another one.
fn second(pidfile: &Path) -> PathBuf {
    let mut path = pidfile.to_owned().into_os_string();
    path.push(".2");
    path.into()
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

const CHILD: i32 = process::Signal::CHILD.as_raw();

pub(crate) fn signal(number: i32) -> Option<Signal> {
    use process::Signal as Number;
    Some(match Number::from_named_raw(number)? {
        Number::TERM => Signal::Term,
        Number::INT => Signal::Int,
        Number::QUIT => Signal::Quit,
        Number::HUP => Signal::Hup,
        Number::USR1 => Signal::Usr1,
        Number::USR2 => Signal::Usr2,
        Number::TTIN => Signal::Ttin,
        Number::TTOU => Signal::Ttou,
        Number::WINCH => Signal::Winch,
        _ => return None,
    })
}

impl Signal {
    fn number(self) -> process::Signal {
        use process::Signal as Number;
        match self {
            Self::Term => Number::TERM,
            Self::Int => Number::INT,
            Self::Quit => Number::QUIT,
            Self::Hup => Number::HUP,
            Self::Usr1 => Number::USR1,
            Self::Usr2 => Number::USR2,
            Self::Ttin => Number::TTIN,
            Self::Ttou => Number::TTOU,
            Self::Winch => Number::WINCH,
        }
    }
}

/// wait(2) was asked for ended children only, so what is no exit is a signal.
fn death(status: WaitStatus) -> Death {
    match status.exit_status() {
        Some(status) => Death::Status(status),
        None => Death::Signal(status.terminating_signal().unwrap_or_default()),
    }
}

fn timespec(at: Time, now: Time) -> Timespec {
    let left = at - now;
    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
}

/// The signal that says the same as an order, if one does.
fn signal_of(order: &Order) -> Option<process::Signal> {
    match order {
        Order::Drain { drain, .. } if drain.reason.is_stop() && drain.phase >= Phase::Draining => {
            let hurried = drain.deadline <= now() + QUICK_STOP;
            Some(if hurried { process::Signal::INT } else { process::Signal::TERM })
        }
        _ => None,
    }
}
