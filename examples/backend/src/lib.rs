//! A backend that remuda does not bring: a thread for each request that a blocking handler answers, made for it.
//!
//! | good for | not for |
//! |---|---|
//! | a model of what a backend is; blocking handlers that wait for long, as many as there are connections | short handlers: a thread is made for each; machines that have to be protected from their clients: `--threads` is no limit, only `--worker-connections` is |
//!
//! ```no_run
//! use per_request::PerRequest;
//! use remuda::{App, Server, demo};
//!
//! // `-k per-request` selects it.
//! Server::new(|boot| Ok(App::blocking(demo::handler(boot)))).backend(PerRequest).run();
//! ```
//!
//! What this crate says is how handlers run. The loop, what HTTP says and the drain are `remuda-core`'s; it waits with
//! core's epoll instance, because [`Waiter`](remuda_core::worker::poll_loop::Waiter) promises what poll(2) cannot keep:
//! changes once each, and an accept that wakes one worker of all those that wait.

#![forbid(unsafe_code)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Waker;
use std::thread;

use remuda_core::app::AppFactory;
use remuda_core::worker::epoll::Epoll;
use remuda_core::worker::poll_loop::{Handlers, Job, build, serve};
use remuda_core::worker::{Desks, Exit, Shared, TokioContext, Worker, WorkerCx, run_blocking};

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
            let desks = Desks::new(config.limits.request_timeout);
            Ok(Threads { shared, context: context.clone(), waker, desks, give, done })
        })
    }
}

/// What a thread needs for its one job.
struct Threads {
    shared: Shared,
    context: TokioContext,
    /// Wakes the loop.
    waker: Waker,
    /// Where jobs lie while handlers work at them.
    desks: Desks<Job>,
    give: Sender<Job>,
    done: Receiver<Job>,
}

impl Handlers for Threads {
    const IN_PLACE: bool = false;

    fn run(&mut self, job: Job) -> Option<Job> {
        let desk = self.desks.lay(job);
        let (at, shared, context) = (desk.clone(), self.shared.clone(), self.context.clone());
        let (give, waker) = (self.give.clone(), self.waker.clone());
        let thread = thread::Builder::new().name("handler".to_owned()).spawn(move || {
            let _entered = context.enter();
            run_blocking(&at, &shared);
            // The loop may have taken the job away. Without a receiver the worker is ending, and the job with it.
            if at.take().is_some_and(|job| give.send(job).is_ok()) {
                waker.wake();
            }
        });
        let Err(error) = thread else { return None };
        tracing::error!("there is no thread for a handler, which holds up the loop: {error}");
        run_blocking(&desk, &self.shared);
        desk.take()
    }

    fn take_done(&mut self) -> Option<Job> {
        self.done.try_recv().ok()
    }

    /// None waits: each has its thread at once.
    fn take_waiting(&mut self) -> Option<Job> {
        None
    }

    fn desks(&self) -> Option<&Desks<Job>> {
        Some(&self.desks)
    }
}
