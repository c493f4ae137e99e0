//! Everything a worker starts with.

use std::error::Error;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::accept::Listener;
use super::alarm;
use super::arbiter_link::ArbiterLink;
use super::config::{Policies, WorkerConfig};
use super::draws::Draws;
use super::exit::Exit;
use super::handoff::{Inbox, Outbox};
use super::keeper::Entries;
use super::logs::{AccessLog, WorkerLogs};
use super::scoreboard::Seat;
use crate::app::{AppError, AppFactory, Boot, DrainSignal, Observer, Overtime, Quota, Service};
use crate::shutdown::Reason;

/// What the arbiter passes to a worker: its place, sockets, settings and policies.
#[derive(Debug)]
#[non_exhaustive]
pub struct WorkerCx {
    /// The worker's slot, from 0; a replacement takes over its predecessor's.
    pub slot: u16,
    /// The configuration that the worker runs, counted from 1.
    pub generation: u32,
    /// The listeners to accept from, shared with the other workers.
    pub listeners: Vec<Listener>,
    /// Orders and signals.
    pub link: ArbiterLink,
    /// Receives connections that other processes hand off.
    pub inbox: Inbox,
    /// Sends connections to other processes. None: connections cannot be handed off.
    pub outbox: Option<Outbox>,
    /// The worker's seat on the scoreboard.
    pub seat: Seat,
    /// The settings.
    pub config: WorkerConfig,
    /// The policies that decide about connections during a drain.
    pub policies: Policies,
    /// Records each request. Default: none.
    pub access_log: Option<Arc<AccessLog>>,
    /// Where the worker publishes its connections for its keeper (D20). Default: it has none.
    pub entries: Option<Entries>,
}

impl WorkerCx {
    /// The context of worker `slot` in `generation`, without a hand-off queue and without logs.
    pub fn new(
        slot: u16,
        generation: u32,
        listeners: Vec<Listener>,
        link: ArbiterLink,
        seat: Seat,
        config: WorkerConfig,
        policies: Policies,
    ) -> Self {
        link.set_graceful_timeout(config.graceful_timeout);
        link.set_seat(seat);
        seat.occupy(generation);
        let inbox = Inbox::none(link.watch().clone());
        Self {
            slot,
            generation,
            listeners,
            link,
            inbox,
            outbox: None,
            seat,
            config,
            policies,
            access_log: None,
            entries: None,
        }
    }

    /// Adds both ends of the hand-off queue.
    #[must_use]
    pub fn with_queue(self, outbox: Outbox, inbox: OwnedFd) -> Self {
        let inbox = Inbox::new(inbox, self.link.watch().clone(), self.seat.counters());
        Self { inbox, outbox: Some(outbox), ..self }
    }

    /// Adds the entries of a keeper.
    #[must_use]
    pub fn with_keeper(self, entries: Option<Entries>) -> Self {
        Self { entries, ..self }
    }

    /// Adds logs, which are also reopened.
    #[must_use]
    pub fn with_logs(self, logs: &WorkerLogs) -> Self {
        self.link.set_logs(logs.clone());
        Self { access_log: logs.access().cloned(), ..self }
    }

    /// Builds the application for `backend`. The backend's loop has to be running meanwhile.
    ///
    /// # Errors
    ///
    /// The exit of the process if the application cannot be built; the reason was reported to the
    /// arbiter.
    pub async fn build(&self, backend: &'static str, factory: &AppFactory) -> Result<Arc<Service>, Exit> {
        let drain = DrainSignal::new(self.link.watch().clone());
        let counters = self.seat.counters();
        let boot = Boot::new(self.slot, self.generation, backend, drain.clone(), counters.clone());
        alarm::attend();
        let mut building = pin!(async { factory.build(&boot).await });
        let app = poll_fn(|task| {
            catch_unwind(AssertUnwindSafe(|| building.as_mut().poll(task)))
                .unwrap_or_else(|panic| Poll::Ready(Err(AppError::panicked(&*panic))))
        });
        match app.await {
            Ok(app) => {
                let reports = self.link.reports();
                let spent = move || reports.report_recycle(Reason::RecycleRequests);
                let quota = Quota::new(self.config.quota(Draws::new().draw()), spent);
                let reports = self.link.reports();
                let overtime = Overtime::new(move || reports.report_recycle(Reason::RecycleTimeout));
                let observer = self.access_log.clone().map(|log| log as Arc<dyn Observer>);
                let service = Service::new(app, drain, counters).noting(self.seat.activities());
                let service = service.showing(self.seat.board());
                Ok(Arc::new(service.limited_to(quota).reporting(overtime).observed_by(observer)))
            }
            Err(error) => {
                let message = format!("the application failed to load: {error}");
                self.link.report_boot_failure(Exit::AppFailed.status(), message);
                Err(Exit::AppFailed)
            }
        }
    }

    /// Tells the arbiter that the backend itself cannot start. Returns the exit of the process.
    pub fn cannot_start(&self, error: &(dyn Error + 'static)) -> Exit {
        self.link.reports().cannot_start(error)
    }
}
