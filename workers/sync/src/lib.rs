//! The sync backend: one thread in a process, which collects requests without blocking and answers
//! them one at a time.
//!
//! Good for:
//!
//! - handlers that compute, with one process for each processor
//! - code that must not see a second thread
//! - clients of any speed: heads, bodies of up to 64 KiB and 1,000 idle connections do not occupy
//!   the handler
//! - async applications that need only one request at a time
//!
//! Not for:
//!
//! - handlers that wait for other services: meanwhile no other request is answered, so use threaded
//!   or an async backend
//! - responses that last as long as their client likes, uploads of more than 64 KiB from slow
//!   clients, and event streams: each occupies the worker while it lasts, and counts as a hang
//!   after `timeout`
//! - background tasks of async handlers: they progress only while a handler waits, and at the
//!   worker's end if they hold the worker
//!
//! This crate only decides where handlers run. `remuda_core::worker::poll_loop` runs the loop, and
//! the rest of `remuda-core` decides on HTTP, the end of connections and the drain.

#![forbid(unsafe_code)]

use remuda_core::app::{AppFactory, Placement};
use remuda_core::worker::handlers::{InPlace, future};
use remuda_core::worker::poll_loop::serve;
use remuda_core::worker::waiter::Epoll;
use remuda_core::worker::{Exit, Worker, WorkerCx, block_on};

/// The sync backend.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for a backend")]
pub struct Sync;

impl Worker for Sync {
    fn name(&self) -> &'static str {
        "sync"
    }

    fn max_threads(&self) -> Option<usize> {
        Some(1)
    }

    fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit {
        // While a handler runs, no other thread reads orders and signals: the handler's own calls
        // about the drain read them.
        if let Err(error) = cx.link.share_thread() {
            return cx.cannot_start(&error);
        }
        let watch = cx.link.watch().clone();
        let building = cx.build(self.name(), &boot);
        let built = match boot.wants_tokio() {
            true => future::block_on(building, &watch),
            false => Ok(block_on(building)),
        };
        let service = match built {
            Ok(Ok(service)) => service.placed(Placement::OnLoop),
            Ok(Err(exit)) => return exit,
            Err(error) => return cx.cannot_start(&error),
        };
        let (is_async, has_end) = (service.app.is_future(), !service.app.hooks().is_empty());
        serve(cx, service, Epoll::new(), |_, shared, waker| {
            let shares = shared.clone();
            let handlers = InPlace::new(move |lease: &_| future::run(lease, &shares));
            let watch = shared.watch.clone();
            let handlers =
                handlers.attended(move |ending, epoll, until| future::attend(ending, epoll, until, &watch));
            if has_end {
                future::prepare(&shared.watch)?;
            }
            if is_async {
                future::prepare(&shared.watch)?;
                return Ok(handlers);
            }
            handlers.watched(shared, waker)
        })
    }
}
