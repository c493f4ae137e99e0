//! Reading orders and signals.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::reports::ReportWriter;
use crate::order::{MESSAGE_MAX, Order, PolicyId, Report};
use crate::shutdown::{Drain, Phase, Reason};
use crate::time::Time;
use crate::worker::drain::DrainState;
use crate::worker::logs::{WorkerLogs, level};
use crate::worker::scoreboard::Seat;
use crate::worker::sys::{self, QUICK_STOP};

/// Reads orders and signals, and applies them to the worker: to its drain, its seat and its logs.
#[derive(Debug)]
pub(super) struct OrderReader {
    orders: Arc<OwnedFd>,
    signals: OwnedFd,
    /// Locked during a read.
    state: Mutex<OrderState>,
    /// Empty until the worker has started its logs.
    logs: OnceLock<WorkerLogs>,
    /// When the arbiter is asked again for the new log files, because their descriptors did not
    /// arrive; [`Time::MAX`] if they did. In nanoseconds of [`Time`].
    logs_due: AtomicU64,
    /// A read has found a change that the loop has not reacted to yet.
    changed: AtomicBool,
}

#[derive(Debug)]
struct OrderState {
    graceful_timeout: Duration,
    /// Where the worker's phases are recorded, once it has a seat.
    seat: Option<Seat>,
    /// The arbiter has ended (D18).
    orphaned: bool,
}

impl OrderReader {
    /// Reads the worker's end of the order socket, and the pipe that signals arrive on.
    pub(super) fn new(orders: Arc<OwnedFd>, signals: OwnedFd) -> Self {
        let state = OrderState { graceful_timeout: Duration::from_secs(30), seat: None, orphaned: false };
        let (state, changed) = (Mutex::new(state), AtomicBool::new(false));
        Self {
            orders,
            signals,
            state,
            logs: OnceLock::new(),
            logs_due: AtomicU64::new(Time::MAX.as_nanos()),
            changed,
        }
    }

    pub(super) fn set_seat(&self, seat: Seat) {
        self.state().seat = Some(seat);
    }

    pub(super) fn set_logs(&self, logs: WorkerLogs) {
        // Set once, when the worker starts.
        let _ = self.logs.set(logs);
    }

    pub(super) fn set_graceful_timeout(&self, timeout: Duration) {
        self.state().graceful_timeout = timeout;
    }

    pub(super) fn seat(&self) -> Option<Seat> {
        self.state().seat
    }

    /// Writes log lines that had no room before, if their retry is due, and asks again for log files
    /// that did not arrive.
    pub(super) fn tend_logs(&self, now: Time) {
        self.logs.get().into_iter().for_each(|logs| logs.tend(now));
        if self.logs_due() <= now {
            self.set_logs_due(now + ASK_AGAIN);
            self.ask_for_logs();
        }
    }

    /// When [`tend_logs`](Self::tend_logs) has something to do, if nothing happens before.
    pub(super) fn logs_deadline(&self) -> Option<Time> {
        let lines = self.logs.get().and_then(WorkerLogs::deadline);
        lines.into_iter().chain(Some(self.logs_due()).filter(|at| *at < Time::MAX)).min()
    }

    pub(super) fn reports(&self) -> ReportWriter {
        ReportWriter::new(self.orders.clone())
    }

    /// Whether a read has found a change since the last [`take_changed`](Self::take_changed).
    pub(super) fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// The same; from here on only further changes count.
    pub(super) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }

    pub(super) fn sources(&self) -> [BorrowedFd<'_>; 2] {
        [self.orders.as_fd(), self.signals.as_fd()]
    }

    /// Applies all orders and signals that have arrived. Entering a drain wakes futures that may
    /// ask for the drain and so call this again: the second call finds the lock taken and returns.
    pub(super) fn read(&self, drains: &DrainState, now: Time) {
        let Ok(mut state) = self.state.try_lock() else { return };
        let (mut changed, was_orphaned) = (false, state.orphaned);
        while let Some(signal) = self.next_signal() {
            if signal == Signal::SIGUSR1 {
                self.ask_for_logs();
                continue;
            }
            let begun = state.obey_signal(signal, drains, now);
            // A signal may have reached this worker alone, so the arbiter may not be aware of the
            // drain.
            if begun && let Err(error) = self.reports().report(&Report::Draining) {
                tracing::debug!("cannot tell the arbiter that this worker drains: {error}");
            }
            changed |= begun;
        }
        while let Some((order, descriptors)) = self.next_order(&mut state) {
            changed |= match order {
                Order::Drain { drain, policy } => {
                    // In a stop of the server, the arbiter passes on the connections in its
                    // listeners' queues (D4).
                    if drain.reason.is_stop() && drain.phase >= Phase::Draining {
                        drains.backlog_comes();
                    }
                    state.drain(drain, policy, drains)
                }
                Order::BacklogEnd => {
                    drains.backlog_ends();
                    true
                }
                Order::ReopenLogs => {
                    self.reopen_logs(descriptors, now);
                    false
                }
                Order::LogLevel(level) => {
                    level::set(level);
                    false
                }
            };
        }
        if state.orphaned && !was_orphaned {
            if !drains.has_begun() {
                tracing::warn!("the arbiter has ended: draining");
            }
            // Also during a drain: all other workers drain from now on, and none of them takes
            // connections over.
            let drain = Drain::new(Reason::ArbiterDied, now, now + state.graceful_timeout);
            state.drain(drain, PolicyId::Stop, drains);
            drains.backlog_ends();
            changed = true;
        }
        if changed {
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    fn state(&self) -> MutexGuard<'_, OrderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_signal(&self) -> Option<Signal> {
        let mut byte = [0];
        match rustix::io::read(&self.signals, &mut byte) {
            Ok(1) => Signal::try_from(i32::from(byte[0])).ok(),
            _ => None,
        }
    }

    /// Continues in new log files. The kernel drops descriptors that come with an order if this
    /// process has no free ones (unix(7)): the old files are kept then, and the arbiter is asked
    /// again until they arrive. This is logged once.
    fn reopen_logs(&self, descriptors: Vec<OwnedFd>, now: Time) {
        let Some(logs) = self.logs.get() else { return };
        let has_failed = self.logs_due() < Time::MAX;
        match logs.continue_in(descriptors) {
            Ok(()) => {
                self.set_logs_due(Time::MAX);
                if has_failed {
                    tracing::info!("the logs are reopened now");
                }
            }
            Err(error) => {
                self.set_logs_due(now + ASK_AGAIN);
                if !has_failed {
                    tracing::error!(
                        "cannot reopen the logs, the old files are kept: {error}; next tries every {} s",
                        ASK_AGAIN.as_secs()
                    );
                }
            }
        }
    }

    fn logs_due(&self) -> Time {
        Time::from_nanos(self.logs_due.load(Ordering::Relaxed))
    }

    fn set_logs_due(&self, at: Time) {
        self.logs_due.store(at.as_nanos(), Ordering::Relaxed);
    }

    /// The arbiter opens the new log files: the user that workers run as may not be allowed to.
    fn ask_for_logs(&self) {
        if let Err(error) = self.reports().report(&Report::ReopenLogs) {
            tracing::warn!("cannot ask the arbiter to reopen the logs, the old files are kept: {error}");
        }
    }

    /// The next order, with the descriptors that came with it.
    fn next_order(&self, state: &mut OrderState) -> Option<(Order, Vec<OwnedFd>)> {
        let mut message = [0; MESSAGE_MAX];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut message)];
            match recvmsg(&*self.orders, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) if received.bytes == 0 => state.orphaned = true,
                Ok(received) => {
                    let rights = control.drain().filter_map(|message| match message {
                        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                        _ => None,
                    });
                    let descriptors = rights.flatten().collect();
                    match Order::decode(&message[..received.bytes]) {
                        Ok(order) => return Some((order, descriptors)),
                        Err(error) => {
                            tracing::warn!("malformed order from the arbiter: {error}");
                            continue;
                        }
                    }
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(_) => state.orphaned = true,
            }
            return None;
        }
    }
}

/// How soon the arbiter is asked again for log files whose descriptors did not arrive.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The most descriptors that come with one order.
const DESCRIPTORS_MAX: usize = 2;

impl OrderState {
    fn drain(&self, drain: Drain, policy: PolicyId, drains: &DrainState) -> bool {
        let Some(drain) = drains.enter(drain, policy) else { return false };
        if let Some(seat) = &self.seat {
            seat.enter(drain.phase, Some(drain.reason));
        }
        if drain.phase < Phase::Draining {
            tracing::debug!(reason = %drain.reason, "lame duck phase begins");
            return false;
        }
        sys::arm_exit(drain.deadline);
        tracing::debug!(reason = %drain.reason, "draining");
        true
    }

    fn obey_signal(&self, signal: Signal, drains: &DrainState, now: Time) -> bool {
        let (reason, grace) = match signal {
            Signal::SIGTERM => (Reason::Stop, self.graceful_timeout),
            Signal::SIGINT => (Reason::QuickStop, self.graceful_timeout.min(QUICK_STOP)),
            _ => return false,
        };
        self.drain(Drain::new(reason, now, now + grace), PolicyId::Stop, drains)
    }
}
