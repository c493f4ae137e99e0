//! A worker's link to its arbiter: orders and signals come in, reports go out.
//!
//! The loop waits for [`sources`](ArbiterLink::sources) and then calls
//! [`handle`](ArbiterLink::handle), which reads orders and signals and applies them to the
//! [`DrainState`](super::drain::DrainState). Every other thread sees the drain through the
//! [`Watch`].

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use self::orders::OrderReader;
use self::reports::ReportWriter;
pub use self::watch::Watch;
use super::logs::WorkerLogs;
use super::scoreboard::Seat;
use super::sys;
use crate::order::Report;
use crate::shutdown::Phase;
use crate::time::Time;

mod orders;
mod reports;
mod watch;

/// The worker's end of the order socket, with its signals and the drain that both lead to.
#[derive(Debug)]
pub struct ArbiterLink {
    reader: Arc<OrderReader>,
    watch: Arc<Watch>,
}

impl ArbiterLink {
    /// Takes over the worker's end of its order socket (`SOCK_SEQPACKET`), installs the worker's
    /// signal handlers and then unblocks all signals. Called once, in the child, before anything
    /// that may take time: a signal that arrived since the fork is still pending and reaches the
    /// worker, not the arbiter.
    ///
    /// # Errors
    ///
    /// A system call failed; the process should exit with 3.
    pub fn install(orders: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&orders, true)?;
        let signals = sys::install_signals(&orders)?;
        let watch = Arc::new(Watch::new()?);
        sys::unblock_signals()?;
        Ok(Self { reader: Arc::new(OrderReader::new(Arc::new(orders), signals)), watch })
    }

    /// Sets the seat in which the worker's phases are recorded.
    pub(super) fn set_seat(&self, seat: Seat) {
        self.reader.set_seat(seat);
    }

    /// Sets the logs that continue in new files when the arbiter sends their descriptors.
    pub(super) fn set_logs(&self, logs: WorkerLogs) {
        self.reader.set_logs(logs);
    }

    /// How long a drain may take if no order names a deadline. Default 30 s.
    pub(super) fn set_graceful_timeout(&self, timeout: Duration) {
        self.reader.set_graceful_timeout(timeout);
        sys::set_grace(timeout);
    }

    /// For workers with a single thread (sync): from now on every call that asks the [`Watch`]
    /// about the drain also reads orders and signals, because the loop cannot read them while a
    /// handler runs.
    ///
    /// # Errors
    ///
    /// As epoll_create1(2) and epoll_ctl(2).
    pub fn share_thread(&self) -> io::Result<()> {
        self.watch.read_from(self.reader.clone())
    }

    /// Tells the arbiter that this worker accepts connections. Until then TERM, INT and an order to
    /// drain end the process at once, with status 0: it has nothing to finish.
    ///
    /// # Errors
    ///
    /// As send(2). The end of the arbiter is detected by [`handle`](Self::handle).
    pub fn report_ready(&self) -> io::Result<()> {
        if let Some(seat) = self.reader.seat() {
            seat.enter(Phase::Running, None);
        }
        sys::set_decided();
        self.reports().report(&Report::Ready)
    }

    /// Tells the arbiter why this worker cannot serve. The process should then exit with `status`.
    pub fn report_boot_failure(&self, status: u8, message: String) {
        self.reports().report_boot_failure(status, message);
    }

    /// A writer of reports that any thread of the worker may use.
    pub(super) fn reports(&self) -> ReportWriter {
        self.reader.reports()
    }

    /// The descriptors to wait on for reading. After a wake-up call [`handle`](Self::handle).
    pub fn sources(&self) -> [BorrowedFd<'_>; 2] {
        self.reader.sources()
    }

    /// The drain, for the other parts of the worker.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Reads and applies all orders and signals that have arrived, without blocking. Returns
    /// whether the loop has to react: a drain has begun, its deadline is nearer, or its backlog is
    /// complete (D4). A lame duck's drain has not begun: the worker serves as before.
    pub fn handle(&mut self, now: Time) -> bool {
        self.reader.read(self.watch.state(), now);
        self.reader.take_changed()
    }

    /// Whether another call that [reads orders](Self::share_thread) has found a change since the
    /// last [`handle`](Self::handle).
    pub fn has_changed(&self) -> bool {
        self.reader.has_changed()
    }

    /// Writes log lines that had no room before, if their retry is due, and asks the arbiter again
    /// for log files that did not arrive.
    pub(super) fn tend_logs(&self, now: Time) {
        self.reader.tend_logs(now);
    }

    /// When [`tend_logs`](Self::tend_logs) has something to do, if nothing happens before.
    pub(super) fn logs_deadline(&self) -> Option<Time> {
        self.reader.logs_deadline()
    }
}

#[cfg(test)]
mod tests;
