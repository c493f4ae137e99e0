//! Orders from the arbiter and signals from people, on descriptors, and the drain that they lead to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::log_file::WorkerLogs;
use super::log_level;
use super::scoreboard::Seat;
use super::sys::{self, QUICK_STOP};
use super::watch::Watch;
use crate::order::{MESSAGE_MAX, Order, PolicyId, Report};
use crate::shutdown::{Drain, Phase, Reason};
use crate::time::Time;

/// A worker's ear: its end of the control socket, its signals, and what they have asked for so far.
#[derive(Debug)]
pub struct Control {
    ear: Arc<Ear>,
    watch: Arc<Watch>,
}

impl Control {
    /// Takes over the worker's end of its control socket (`SOCK_SEQPACKET`), installs the worker's signal handlers
    /// and then unblocks all signals. Called once, in the child, before anything else may take time: a signal that
    /// arrived since the fork is still pending and reaches the worker, not the arbiter.
    ///
    /// # Errors
    ///
    /// A system call failed; the process should exit with 3.
    pub fn install(orders: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&orders, true)?;
        let signals = sys::install_signals(&orders)?;
        let watch = Arc::new(Watch::new()?);
        sys::unblock_signals()?;
        let heard = Heard {
            graceful_timeout: Duration::from_secs(30),
            seat: None,
            logs: WorkerLogs::default(),
            orphaned: false,
        };
        let ear = Ear {
            orders: Arc::new(orders),
            signals,
            heard: Mutex::new(heard),
            changed: AtomicBool::new(false),
        };
        Ok(Self { ear: Arc::new(ear), watch })
    }

    /// Notes the worker's phases in `seat`.
    pub(super) fn set_seat(&self, seat: Seat) {
        self.ear.heard().seat = Some(seat);
    }

    /// Reopens `logs` when told to.
    pub(super) fn set_logs(&self, logs: WorkerLogs) {
        self.ear.heard().logs = logs;
    }

    /// How long a drain may take that no order gives a deadline. Default 30 s.
    pub(super) fn set_graceful_timeout(&self, timeout: Duration) {
        self.ear.heard().graceful_timeout = timeout;
        sys::set_grace(timeout);
    }

    /// Lets whoever asks about the drain take orders and signals in, because the worker's one thread is the loop's and
    /// handlers': what a handler wants to know, nobody else would hear.
    ///
    /// # Errors
    ///
    /// As epoll_create1(2) and epoll_ctl(2).
    pub fn share_thread(&self) -> io::Result<()> {
        self.watch.listen(self.ear.clone())
    }

    /// Tells the arbiter that this worker accepts.
    ///
    /// # Errors
    ///
    /// As send(2); an arbiter that has gone is found by [`handle`](Self::handle).
    pub fn report_ready(&self) -> io::Result<()> {
        if let Some(seat) = self.ear.heard().seat {
            seat.enter(Phase::Running, None);
        }
        self.report(&Report::Ready)
    }

    /// Tells the arbiter why this worker cannot serve. The process should then exit with `status`.
    pub fn report_boot_failure(&self, status: u8, message: String) {
        if let Err(error) = self.report(&Report::BootFailed { status, message }) {
            tracing::debug!("cannot tell the arbiter why the boot failed: {error}");
        }
    }

    /// Tells the arbiter what any thread of the worker may have to say.
    pub(super) fn reporter(&self) -> Reporter {
        Reporter(self.ear.orders.clone())
    }

    /// The descriptors to wait on for reading. After a wake-up call [`handle`](Self::handle).
    pub fn sources(&self) -> [BorrowedFd<'_>; 2] {
        self.ear.sources()
    }

    /// The drain, for whoever else needs to see it.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Takes in all that has arrived, without blocking, and says whether the world has changed since the last time: a drain
    /// began or was hurried, or nothing more comes for it (D4). A lame duck's has not begun: there is nothing to do about
    /// it but to serve.
    pub fn handle(&mut self, now: Time) -> bool {
        self.ear.listen(&self.watch, now);
        self.ear.changed.swap(false, Ordering::Relaxed)
    }

    /// Whether it has changed since [`handle`](Self::handle) was called last, because somebody else has
    /// [listened](Self::share_thread).
    pub fn has_changed(&self) -> bool {
        self.ear.changed.load(Ordering::Relaxed)
    }

    fn report(&self, report: &Report) -> io::Result<()> {
        self.reporter().report(report)
    }
}

/// The worker's mouth: a way to the arbiter for whoever needs no ear.
#[derive(Debug)]
pub(super) struct Reporter(Arc<OwnedFd>);

impl Reporter {
    /// Tells the arbiter that this worker should be replaced.
    pub(super) fn report_recycle(&self, reason: Reason) {
        if let Err(error) = self.report(&Report::Recycle { reason }) {
            tracing::debug!("cannot tell the arbiter that this worker should be replaced: {error}");
        }
    }

    fn report(&self, report: &Report) -> io::Result<()> {
        rustix::net::send(&*self.0, &report.encode(), SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// What orders and signals arrive on.
#[derive(Debug)]
pub(super) struct Ear {
    orders: Arc<OwnedFd>,
    signals: OwnedFd,
    /// Held while somebody listens.
    heard: Mutex<Heard>,
    /// The world has changed, and the loop does not know yet.
    changed: AtomicBool,
}

#[derive(Debug)]
struct Heard {
    graceful_timeout: Duration,
    /// Where phases are noted, once the worker has a seat.
    seat: Option<Seat>,
    logs: WorkerLogs,
    /// The arbiter has gone (D18).
    orphaned: bool,
}

impl Ear {
    pub(super) fn sources(&self) -> [BorrowedFd<'_>; 2] {
        [self.orders.as_fd(), self.signals.as_fd()]
    }

    /// Takes in all that has arrived. Whoever is woken by that and listens again hears nothing.
    pub(super) fn listen(&self, watch: &Watch, now: Time) {
        let Ok(mut heard) = self.heard.try_lock() else { return };
        let (mut changed, was_orphaned) = (false, heard.orphaned);
        while let Some(signal) = self.next_signal() {
            let drains = heard.obey_signal(signal, watch, now);
            if drains && let Err(error) = Reporter(self.orders.clone()).report(&Report::Draining) {
                tracing::debug!("cannot tell the arbiter that this worker drains: {error}");
            }
            changed |= drains;
        }
        while let Some(order) = self.next_order(&mut heard) {
            changed |= match order {
                Order::Drain { drain, policy } => {
                    if drain.reason.is_stop() && drain.phase >= Phase::Draining {
                        watch.backlog_comes();
                    }
                    heard.drain(drain, policy, watch)
                }
                Order::BacklogEnd => {
                    watch.backlog_ends();
                    true
                }
                Order::ReopenLogs => {
                    heard.logs.reopen();
                    false
                }
                Order::LogLevel(level) => {
                    log_level::set(level);
                    false
                }
            };
        }
        if heard.orphaned && !was_orphaned {
            if !watch.has_begun() {
                tracing::warn!("the arbiter has gone: draining");
            }
            // In a drain, too: all others drain from now on, and take nothing over.
            let drain = Drain::new(Reason::ArbiterDied, now, now + heard.graceful_timeout);
            heard.drain(drain, PolicyId::Stop, watch);
            watch.backlog_ends();
            changed = true;
        }
        if changed {
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_signal(&self) -> Option<Signal> {
        let mut byte = [0];
        match rustix::io::read(&self.signals, &mut byte) {
            Ok(1) => Signal::try_from(i32::from(byte[0])).ok(),
            _ => None,
        }
    }

    fn next_order(&self, heard: &mut Heard) -> Option<Order> {
        let mut message = [0; MESSAGE_MAX];
        loop {
            match rustix::net::recv(&*self.orders, &mut message, RecvFlags::empty()) {
                Ok((0, _)) => heard.orphaned = true,
                Ok((n, _)) => match Order::decode(&message[..n]) {
                    Ok(order) => return Some(order),
                    Err(error) => {
                        tracing::warn!("an order was not understood: {error}");
                        continue;
                    }
                },
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(_) => heard.orphaned = true,
            }
            return None;
        }
    }
}

impl Heard {
    fn drain(&self, drain: Drain, policy: PolicyId, watch: &Watch) -> bool {
        let Some(drain) = watch.enter(drain, policy) else { return false };
        if let Some(seat) = &self.seat {
            seat.enter(drain.phase, Some(drain.reason));
        }
        if drain.phase < Phase::Draining {
            tracing::debug!(reason = %drain.reason, "a lame duck from now on");
            return false;
        }
        sys::arm_exit(drain.deadline);
        tracing::debug!(reason = %drain.reason, "draining");
        true
    }

    fn obey_signal(&self, signal: Signal, watch: &Watch, now: Time) -> bool {
        let (reason, grace) = match signal {
            Signal::SIGTERM => (Reason::Stop, self.graceful_timeout),
            Signal::SIGINT => (Reason::QuickStop, self.graceful_timeout.min(QUICK_STOP)),
            // USR1, the one other signal that is heard here.
            _ => {
                self.logs.reopen();
                return false;
            }
        };
        self.drain(Drain::new(reason, now, now + grace), PolicyId::Stop, watch)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
