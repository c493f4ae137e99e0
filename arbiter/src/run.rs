//! The arbiter's loop: descriptors and signals become events, actions become system calls.
//!
//! It decides nothing; that is [`plan`](crate::plan)'s. It waits in one place, [`Run::wait`], for signals, for
//! workers and for the plan's deadline, so no worker and no order can make it deaf. A child leaves the loop by
//! the same door as the end of the server does ([`Leave`]): what it must not hold is owned, and dropped, in
//! [`Run::become_worker`].

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use remuda_core::app::{AppFactory, Tally};
use remuda_core::order::Order;
use remuda_core::shutdown::Phase;
use remuda_core::time::Time;
use remuda_core::worker::handoff::{self, Outbox};
use remuda_core::worker::sys::{QUICK_STOP, now};
use remuda_core::worker::{Control, Entry, Exit, Scoreboard, Seat, Worker, WorkerCx};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{self, Pid, WaitOptions, WaitStatus, getpid, kill_process, wait};
use tracing::{debug, error, info, warn};

use crate::activation::{self, Passed};
use crate::backlog::{Backlog, abandon};
use crate::link::Link;
use crate::listener::Listeners;
use crate::notice::Notice;
use crate::notify::{self, Manager};
use crate::pidfile::Pidfile;
use crate::plan::{Action, Death, Event, Patience, Plan, Signal};
use crate::sys::{self, Fork, Signals, Title};
use crate::{ArbiterConfig, Outcome};

/// Everything that the arbiter holds.
pub(crate) struct Run {
    config: ArbiterConfig,
    worker: Arc<dyn Worker>,
    app: AppFactory,
    plan: Plan,
    signals: Signals,
    listeners: Listeners,
    board: Scoreboard,
    /// What workers have counted that are gone.
    tally: Tally,
    /// One for each child that was not reaped yet.
    links: Vec<(Pid, Link)>,
    /// The hand-off queue. Both ends stay open here, so that what is in it outlives any worker.
    outbox: Outbox,
    inbox: OwnedFd,
    /// In a stop, until it has been passed on.
    backlog: Option<Backlog>,
    manager: Manager,
    /// None where it cannot be changed.
    title: Option<Title>,
    /// The file is there while this is.
    pidfile: Option<Pidfile>,
}

/// Why the loop is left.
enum Leave {
    /// In the arbiter: the server has ended.
    Finish(Outcome),
    /// In a child: it is a worker from now on.
    Born(Newborn),
}

/// A child just forked.
struct Newborn {
    slot: u16,
    seat: Seat,
    orders: OwnedFd,
    parent: Pid,
}

/// Configurations are not replaced yet, so there is one.
const GENERATION: u32 = 1;

impl Run {
    /// Everything that must be done, and may fail, before the first fork.
    pub(crate) fn prepare(
        config: ArbiterConfig,
        worker: Arc<dyn Worker>,
        app: AppFactory,
    ) -> Result<Self, Outcome> {
        sys::only_thread()?;
        let _ = io::stdout().flush(); // or each child would write what is in it again
        let (outbox, inbox) =
            handoff::queue().map_err(|error| Outcome::internal("make the hand-off queue", &error))?;
        let signals = Signals::block().map_err(|error| Outcome::internal("block signals", &error))?;
        let (pidfile, listeners) = match open(&config) {
            Ok(opened) => opened,
            Err(outcome) => {
                signals.restore();
                return Err(outcome);
            }
        };
        let (workers, recycled) = (config.workers.max(1), config.recycle_concurrency.max(1));
        let board = match Scoreboard::map(workers, recycled, config.worker.threads) {
            Ok(board) => board,
            Err(error) => {
                signals.restore();
                return Err(Outcome::internal("map the scoreboard", &error));
            }
        };
        let plan = plan(&config, board.seats());
        let (tally, links, backlog) = (Tally::default(), Vec::new(), None);
        let mut title = Title::claim();
        title.iter_mut().for_each(|title| title.set(&config.process.title("arbiter")));
        Ok(Self {
            config,
            worker,
            app,
            plan,
            signals,
            listeners,
            board,
            tally,
            links,
            outbox,
            inbox,
            backlog,
            manager: Manager::of_process(),
            title,
            pidfile,
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
            Leave::Finish(outcome) => {
                self.listeners.end();
                self.signals.restore();
                report(&self.tally);
                outcome
            }
        }
    }

    /// Signals before deaths, because a signal to the whole group (Ctrl-C) explains them; reports before deaths,
    /// because they were sent before.
    fn turn(&mut self) -> ControlFlow<Leave> {
        self.feed(Event::Tick)?;
        self.manager.reassure(now());
        let talking = self.wait()?;
        while let Some(number) = self.signals.next() {
            match signal(number) {
                Some(signal) => self.feed(Event::Signal(signal))?,
                None if number == CHILD => {} // said by wait(2) in more detail
                None => debug!(number, "signal without a meaning here, ignored"),
            }
        }
        self.pass_backlog()?;
        for pid in talking {
            self.listen_to(pid)?;
        }
        self.reap()
    }

    /// Waits for anything to happen; names the workers whose sockets are ready.
    fn wait(&self) -> ControlFlow<Leave, Vec<Pid>> {
        let (pids, mut fds): (Vec<_>, Vec<_>) =
            self.links.iter().filter_map(|(pid, link)| Some((*pid, link.interest()?))).unzip();
        fds.push(PollFd::new(&self.signals, PollFlags::IN));
        let backlog = self.backlog.as_ref();
        if backlog.is_some_and(Backlog::is_blocked) {
            fds.push(PollFd::new(&self.outbox, PollFlags::OUT));
        }
        let deadlines = [self.plan.deadline(), backlog.and_then(Backlog::deadline), self.manager.deadline()];
        let timeout = deadlines.into_iter().flatten().min().map(|at| timespec(at, now()));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Without it the arbiter is deaf. The workers notice that it is gone, and drain.
            Err(errno) => return Break(Leave::Finish(Outcome::internal("wait for events", &errno.into()))),
        }
        let ready = pids.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Continue(ready.map(|(pid, _)| pid).collect())
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

    /// Collects all children that have ended: one SIGCHLD may stand for several. As process 1 of a container that
    /// includes orphans that never were ours.
    fn reap(&mut self) -> ControlFlow<Leave> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    self.listen_to(pid)?;
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
        let mut todo = VecDeque::from(self.plan.handle(event, now()));
        while let Some(action) = todo.pop_front() {
            match action {
                Action::Spawn { slot, seat } => {
                    let event = self.spawn(slot, seat)?;
                    todo.extend(self.plan.handle(event, now()));
                }
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
                    todo.extend(self.plan.handle(Event::Beat { seat, at }, now()));
                }
                Action::SaveBacklog => self.backlog = Some(Backlog::new(self.listeners.release(), now())),
                Action::DropBacklog => {
                    let lost = abandon(self.backlog.take(), self.inbox.as_fd());
                    todo.extend(self.plan.handle(Event::BacklogOver { lost }, now()));
                }
                Action::Describe { slot, seat } => self.describe(slot, seat),
                Action::Bury { seat, clean } => self.bury(seat, clean),
                // Not reaped yet, so the pid is still its own; if it is dead, nothing is lost.
                Action::Abort { pid } => drop(kill_process(pid, process::Signal::ABORT)),
                Action::Kill { pid } => drop(kill_process(pid, process::Signal::KILL)),
                Action::ReopenLogs => self.config.logs.reopen(),
                Action::AnnounceReady { workers } => self.announce_ready(workers),
                Action::Log(notice) => {
                    notice.log();
                    self.manager.hear(&notice);
                }
                Action::Finish(outcome) => return Break(Leave::Finish(outcome)),
            }
        }
        Continue(())
    }

    fn spawn(&mut self, slot: u16, number: u16) -> ControlFlow<Leave, Event> {
        let failed = |error: String| Continue(Event::SpawnFailed { seat: number, error });
        let (link, orders) = match Link::pair() {
            Ok(pair) => pair,
            Err(error) => return failed(format!("cannot make its control socket: {error}")),
        };
        let Some(seat) = self.board.seat(number) else {
            return failed("the scoreboard has no room for it".to_owned());
        };
        match sys::fork() {
            Ok(Fork::Parent { child }) => {
                self.links.push((child, link));
                Continue(Event::Spawned { seat: number, pid: child })
            }
            Ok(Fork::Child { parent }) => Break(Leave::Born(Newborn { slot, seat, orders, parent })),
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

    /// Keeps what the dead worker of `seat` has counted, and empties it for the next one.
    fn bury(&mut self, seat: u16, clean: bool) {
        let Some(seat) = self.board.seat(seat) else { return };
        if let Some(Entry { mut counts, phase, .. }) = seat.read() {
            if !clean {
                counts.end(phase >= Phase::Draining);
            }
            self.tally += counts;
        }
        seat.clear();
    }

    /// In a child: serves, and ends with the process. Nothing of the arbiter's survives in it but the listeners,
    /// and above all no socket by which it would keep a sibling from seeing the arbiter die (D18).
    fn become_worker(self, newborn: Newborn) -> ! {
        let Self { config, worker, app, plan, signals, listeners, links, outbox, inbox, backlog, .. } = self;
        drop((links, signals, plan, backlog, self.manager, self.pidfile));
        let Newborn { slot, seat, orders, parent } = newborn;
        let life = catch_unwind(AssertUnwindSafe(|| {
            self.title.into_iter().for_each(|mut title| {
                title.set(&config.process.title(&format!("worker {slot}")));
            });
            sys::remove_variables(&[activation::VARIABLES, notify::VARIABLES].concat());
            if let Err(error) = config.process.assume() {
                error!(slot, "worker could not change its user or group: {error}");
                return Exit::BootFailed;
            }
            // After the change of user, which makes the kernel forget it.
            let control = match sys::follow(parent).and_then(|alive| Ok((alive, Control::install(orders)?))) {
                Ok((true, control)) => control,
                Ok((false, _)) => return Exit::Clean, // the arbiter died before it could be watched
                Err(error) => {
                    error!(slot, "worker could not take orders: {error}");
                    return Exit::BootFailed;
                }
            };
            let ArbiterConfig { worker: settings, policies, logs, .. } = config;
            let cx = WorkerCx::new(slot, GENERATION, listeners.into_vec(), control, seat, settings, policies)
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

    fn link(&mut self, pid: Pid) -> Option<&mut Link> {
        self.links.iter_mut().find(|(of, _)| *of == pid).map(|(_, link)| link)
    }

    fn announce_ready(&self, workers: usize) {
        self.manager.ready(workers);
        let (backend, pid) = (self.worker.name(), getpid());
        let addresses = &self.listeners;
        let plural = if workers == 1 { "" } else { "s" };
        info!(
            %addresses, backend, workers, %pid,
            "ready: {addresses}, {workers} {backend} worker{plural}, pid {pid}; stop with TERM or Ctrl-C"
        );
    }
}

/// The plan of a server with room for `seats` workers.
pub(crate) fn plan(config: &ArbiterConfig, seats: usize) -> Plan {
    let patience = Patience {
        timeout: config.worker.timeout,
        boot_timeout: config.boot_timeout,
        nap: config.worker.beat_interval(),
    };
    let recycled = usize::from(config.recycle_concurrency.max(1));
    Plan::new(config.workers.max(1), config.worker.graceful_timeout)
        .with_room(seats - recycled, recycled)
        .with_lameduck(config.lameduck)
        .watching(patience)
}

/// Goes where the server is to be, and makes what others may find there.
fn open(config: &ArbiterConfig) -> Result<(Option<Pidfile>, Listeners), Outcome> {
    let ArbiterConfig { process, binds, backlog, .. } = config;
    process.enter()?;
    let pidfile = process.pidfile.as_deref().map(Pidfile::claim).transpose()?;
    let passed = Passed::of_process();
    passed.close_on_exec();
    Ok((pidfile, Listeners::bind(&passed.resolve(binds)?, *backlog, process.owner())?))
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
