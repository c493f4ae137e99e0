//! Orders from the arbiter and signals from people, on descriptors, and the drain that they lead to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::scoreboard::Seat;
use super::sys::{self, QUICK_STOP};
use super::watch::Watch;
use crate::order::{MESSAGE_MAX, Order, PolicyId, Report};
use crate::shutdown::{Drain, Phase, Reason};
use crate::time::Time;

/// A worker's ear: its end of the control socket, its signals, and what they have asked for so far.
#[derive(Debug)]
pub struct Control {
    orders: Arc<OwnedFd>,
    signals: OwnedFd,
    watch: Arc<Watch>,
    graceful_timeout: Duration,
    /// Where phases are noted, once the worker has a seat.
    seat: Option<Seat>,
    /// The arbiter has gone (D18).
    orphaned: bool,
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
        let signals = sys::install_signals()?;
        let watch = Arc::new(Watch::new()?);
        sys::unblock_signals()?;
        let graceful_timeout = Duration::from_secs(30);
        Ok(Self { orders: Arc::new(orders), signals, watch, graceful_timeout, seat: None, orphaned: false })
    }

    /// Notes the worker's phases in `seat`.
    pub(super) fn set_seat(&mut self, seat: Seat) {
        self.seat = Some(seat);
    }

    /// How long a drain may take that no order gives a deadline. Default 30 s.
    pub(super) fn set_graceful_timeout(&mut self, timeout: Duration) {
        self.graceful_timeout = timeout;
        sys::set_grace(timeout);
    }

    /// Tells the arbiter that this worker accepts.
    ///
    /// # Errors
    ///
    /// As send(2); an arbiter that has gone is found by [`handle`](Self::handle).
    pub fn report_ready(&self) -> io::Result<()> {
        if let Some(seat) = &self.seat {
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
        Reporter(self.orders.clone())
    }

    /// The descriptors to wait on for reading. After a wake-up call [`handle`](Self::handle).
    pub fn sources(&self) -> [BorrowedFd<'_>; 2] {
        [self.orders.as_fd(), self.signals.as_fd()]
    }

    /// Whether the order socket is still worth waiting on; false once the arbiter has gone.
    pub fn has_arbiter(&self) -> bool {
        !self.orphaned
    }

    /// The drain, for whoever else needs to see it.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Takes in all that has arrived, without blocking, and says whether a drain began or was hurried. A lame duck's has
    /// not begun: there is nothing to do about it but to serve.
    pub fn handle(&mut self, now: Time) -> bool {
        let mut changed = false;
        while let Some(signal) = self.next_signal() {
            changed |= self.obey_signal(signal, now);
        }
        while let Some(order) = self.next_order() {
            changed |= match order {
                Order::Drain { drain, policy } => {
                    if drain.reason.is_stop() && drain.phase >= Phase::Draining {
                        self.watch.backlog_comes();
                    }
                    self.drain(drain, policy)
                }
                Order::BacklogEnd => {
                    self.watch.backlog_ends();
                    false
                }
            };
        }
        if self.orphaned {
            self.watch.backlog_ends();
        }
        if self.orphaned && self.watch.current().is_none() {
            tracing::warn!("the arbiter has gone: draining");
            changed |=
                self.drain(Drain::new(Reason::ArbiterDied, now, now + self.graceful_timeout), PolicyId::Stop);
        }
        changed
    }

    fn report(&self, report: &Report) -> io::Result<()> {
        self.reporter().report(report)
    }

    fn drain(&self, drain: Drain, policy: PolicyId) -> bool {
        let Some(drain) = self.watch.enter(drain, policy) else { return false };
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

    fn obey_signal(&self, signal: Signal, now: Time) -> bool {
        let (reason, grace) = match signal {
            Signal::SIGTERM => (Reason::Stop, self.graceful_timeout),
            Signal::SIGINT => (Reason::QuickStop, self.graceful_timeout.min(QUICK_STOP)),
            other => {
                tracing::info!("{other} is not supported yet, ignored");
                return false;
            }
        };
        self.drain(Drain::new(reason, now, now + grace), PolicyId::Stop)
    }

    fn next_signal(&self) -> Option<Signal> {
        let mut byte = [0];
        match rustix::io::read(&self.signals, &mut byte) {
            Ok(1) => Signal::try_from(i32::from(byte[0])).ok(),
            _ => None,
        }
    }

    fn next_order(&mut self) -> Option<Order> {
        let mut message = [0; MESSAGE_MAX];
        loop {
            match rustix::net::recv(&*self.orders, &mut message, RecvFlags::empty()) {
                Ok((0, _)) => self.orphaned = true,
                Ok((n, _)) => match Order::decode(&message[..n]) {
                    Ok(order) => return Some(order),
                    Err(error) => {
                        tracing::warn!("an order was not understood: {error}");
                        continue;
                    }
                },
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(_) => self.orphaned = true,
            }
            return None;
        }
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

#[cfg(test)]
mod tests;
