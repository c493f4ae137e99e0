//! Reports from a worker to its arbiter.

use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::SendFlags;

use crate::order::Report;
use crate::shutdown::Reason;
use crate::worker::exit::Exit;
use crate::worker::shortage::{is_shortage, limits_of_tasks};
use crate::worker::sys;

/// Sends reports to the arbiter, from any thread of the worker.
#[derive(Debug)]
pub(in crate::worker) struct ReportWriter(Arc<OwnedFd>);

impl ReportWriter {
    /// Sends through `orders`, the worker's end of the order socket.
    pub(super) fn new(orders: Arc<OwnedFd>) -> Self {
        Self(orders)
    }

    /// Tells the arbiter that this worker should be replaced.
    pub(in crate::worker) fn report_recycle(&self, reason: Reason) {
        if let Err(error) = self.report(&Report::Recycle { reason }) {
            tracing::debug!("cannot tell the arbiter that this worker should be replaced: {error}");
        }
    }

    /// Tells the arbiter why the boot failed. The process should then exit with `status`; an order
    /// to stop that the arbiter sends because of this report does not change that status.
    pub(super) fn report_boot_failure(&self, status: u8, message: String) {
        sys::set_decided();
        if let Err(error) = self.report(&Report::BootFailed { status, message }) {
            tracing::debug!("cannot tell the arbiter why the boot failed: {error}");
        }
    }

    /// Tells the arbiter that the backend itself cannot start. Returns the exit of the process.
    pub(in crate::worker) fn cannot_start(&self, error: &(dyn Error + 'static)) -> Exit {
        let is_shortage = error.downcast_ref::<io::Error>().is_some_and(is_shortage);
        let limits = if is_shortage { limits_of_tasks() } else { String::new() };
        let message = format!("the worker failed to start: {error}{limits}");
        self.report_boot_failure(Exit::BootFailed.status(), message);
        Exit::BootFailed
    }

    pub(super) fn report(&self, report: &Report) -> io::Result<()> {
        rustix::net::send(&*self.0, &report.encode(), SendFlags::NOSIGNAL)?;
        Ok(())
    }
}
