//! The sync backend: one thread in a process, which collects requests without blocking and answers them one at a time.
//!
//! | good for | not for |
//! |---|---|
//! | handlers that compute, a process for each processor; code that must not meet a second thread | handlers that wait for others: while one does, nobody else is answered, so use threaded or an async backend |
//! | clients of any speed: heads, and bodies of up to 64 KiB, are waited for without holding the handler, and so are 1,000 idle connections | responses that take as long as their client likes, uploads of more than 64 KiB from slow clients, and streams of events: each holds the worker while it lasts, and is taken for a hang after `timeout` |
//! | async applications of which one request at a time is enough | what async handlers leave to tasks in the background: those go on only while a handler waits |
//!
//! This crate says where handlers run. How the loop goes on is `remuda_core::worker::poll_loop`'s; what HTTP says, when a
//! connection closes and how a drain goes on is decided in the rest of `remuda-core`, and nothing here knows.

#![forbid(unsafe_code)]

use remuda_core::app::{AppFactory, Turns};
use remuda_core::worker::epoll::Epoll;
use remuda_core::worker::poll_loop::{InPlace, serve};
use remuda_core::worker::{Exit, Worker, WorkerCx, block_on, future_turn};

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
        // What a handler wants to know of the drain, no other thread would hear.
        if let Err(error) = cx.control.share_thread() {
            return cx.cannot_start(&error);
        }
        let watch = cx.control.watch().clone();
        let building = cx.build(self.name(), &boot);
        let built = match boot.wants_tokio() {
            true => future_turn::block_on(building, &watch),
            false => Ok(block_on(building)),
        };
        let service = match built {
            Ok(Ok(service)) => service.in_turns(Turns::OnLoop),
            Ok(Err(exit)) => return exit,
            Err(error) => return cx.cannot_start(&error),
        };
        let is_async = service.app.is_future();
        serve(cx, service, Epoll::new(), |_, shared, waker| {
            let shares = shared.clone();
            let handlers = InPlace::new(move |desk: &_| future_turn::run(desk, &shares));
            if is_async {
                future_turn::prepare(&shared.watch)?;
                return Ok(handlers);
            }
            handlers.watched(shared, waker)
        })
    }
}
