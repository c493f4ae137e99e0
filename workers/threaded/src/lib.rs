//! The threaded backend: one loop that collects requests without blocking, and a bounded pool of
//! threads that answer them.
//!
//! Good for:
//!
//! - blocking handlers, `--threads` at a time: databases, files, other services
//! - clients of any speed: heads, bodies of up to 64 KiB and any number of idle connections do not
//!   occupy a thread
//! - async applications that sometimes block: that holds up one thread, not the worker
//!
//! Not for:
//!
//! - masses of short handlers: each costs two thread switches, unless it is declared as short
//! - more slow responses, large uploads or event streams than there are threads: each occupies a
//!   thread while it lasts, and a worker whose threads are all busy for longer than `timeout`
//!   counts as hung
//! - thousands of async handlers, which mio and tokio run on one thread
//! - background tasks of handlers, which progress only while a handler of the same thread waits,
//!   and at the worker's end if they hold the worker
//!
//! This crate only decides where handlers run. `remuda_core::worker::poll_loop` runs the loop, and
//! the rest of `remuda-core` decides on HTTP, the end of connections and the drain.

#![forbid(unsafe_code)]

use remuda_core::app::{AppFactory, Placement};
use remuda_core::worker::handlers::{HandlerPool, future};
use remuda_core::worker::poll_loop::{build, serve};
use remuda_core::worker::waiter::Epoll;
use remuda_core::worker::{Exit, Worker, WorkerCx};

/// The threaded backend.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for a backend")]
pub struct Threaded;

impl Worker for Threaded {
    fn name(&self) -> &'static str {
        "threaded"
    }

    fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit {
        // Objects that the application creates while it is built, such as a connection pool, belong
        // to no single handler. Their runtime runs on a thread of its own, and handlers of all
        // threads may use them. Blocking handlers find that runtime, too.
        let (context, service) = match build(&cx, self.name(), &boot) {
            Ok(built) => built,
            Err(exit) => return exit,
        };
        let _entered = context.enter();
        let service = service.placed(Placement::OnThread);
        let is_async = service.app.is_future();
        serve(cx, service, Epoll::new(), |config, shared, waker| {
            let (watch, context) = (shared.watch.clone(), context.clone());
            let work = move |lease: &_| {
                let _entered = context.enter();
                future::run(lease, &shared);
            };
            let pool = HandlerPool::new(config, work, move || waker.wake_by_ref())?;
            if !is_async {
                return Ok(pool);
            }
            let last = watch.clone();
            pool.on_each(move || future::prepare(&watch))?;
            Ok(pool.doing_last(move || future::linger(&last)))
        })
    }
}
