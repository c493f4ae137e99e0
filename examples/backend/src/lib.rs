//! A backend outside remuda: a new thread for each request that a blocking handler answers.
//!
//! Good for:
//!
//! - a model of a backend
//! - blocking handlers that wait for long, as many as there are connections
//!
//! Not for:
//!
//! - short handlers: each starts a thread
//! - machines that need protection from their clients: `--threads` is no limit, only
//!   `--worker-connections` is
//!
//! ```no_run
//! use per_request::PerRequest;
//! use remuda::{App, Server, demo};
//!
//! // `-k per-request` selects it.
//! Server::new(|boot| Ok(App::blocking(demo::handler(boot)))).backend(PerRequest).run();
//! ```
//!
//! This crate defines how handlers run. The loop, HTTP and the drain are `remuda-core`'s. It waits
//! with core's epoll instance, because [`Waiter`](remuda_core::worker::waiter::Waiter) makes
//! promises that poll(2) cannot keep: each change is reported once, and an accept wakes only one of
//! the workers that wait.

#![forbid(unsafe_code)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Waker;
use std::thread;

use remuda_core::app::AppFactory;
use remuda_core::worker::handlers::{Handlers, Job, Leases, WorkerShared, run_blocking};
use remuda_core::worker::poll_loop::{build, serve};
use remuda_core::worker::waiter::Epoll;
use remuda_core::worker::{Exit, TokioContext, Worker, WorkerCx};

/// The backend.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for a backend")]
pub struct PerRequest;

impl Worker for PerRequest {
    fn name(&self) -> &'static str {
        "per-request"
    }

    fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit {
        let (context, service) = match build(&cx, self.name(), &boot) {
            Ok(built) => built,
            Err(exit) => return exit,
        };
        let _entered = context.enter();
        serve(cx, service, Epoll::new(), |config, shared, waker| {
            let (give, done) = channel();
            let leases = Leases::new(config.limits.request_timeout);
            Ok(Threads { shared, context: context.clone(), waker, leases, give, done })
        })
    }
}

/// What a thread needs to run its one handler.
struct Threads {
    shared: WorkerShared,
    context: TokioContext,
    /// Wakes the loop.
    waker: Waker,
    /// Holds the jobs of running handlers.
    leases: Leases<Job>,
    give: Sender<Job>,
    done: Receiver<Job>,
}

impl Handlers for Threads {
    const IN_PLACE: bool = false;

    fn run(&mut self, job: Job) -> Option<Job> {
        let lease = self.leases.lease(job);
        let (at, shared, context) = (lease.clone(), self.shared.clone(), self.context.clone());
        let (give, waker) = (self.give.clone(), self.waker.clone());
        let thread = thread::Builder::new().name("handler".to_owned()).spawn(move || {
            let _entered = context.enter();
            run_blocking(&at, &shared);
            // The loop may have taken the connection back. Without a receiver the worker is ending,
            // and the connection with it.
            if at.take().is_some_and(|job| give.send(job).is_ok()) {
                waker.wake();
            }
        });
        let Err(error) = thread else { return None };
        tracing::error!("there is no thread for a handler, which holds up the loop: {error}");
        // A handler without its connection may wait for the loop: it is not called, and the machine
        // of its connection answers.
        if lease.work(|job| matches!(job, Job::Exchange(_))) == Some(true) {
            return lease.take();
        }
        run_blocking(&lease, &self.shared);
        lease.take()
    }

    fn take_done(&mut self) -> Option<Job> {
        self.done.try_recv().ok()
    }

    /// No request waits: each gets its thread at once.
    fn take_waiting(&mut self) -> Option<Job> {
        None
    }

    fn leases(&self) -> Option<&Leases<Job>> {
        Some(&self.leases)
    }
}
