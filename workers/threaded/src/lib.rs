//! The threaded backend: one loop that collects requests without blocking, and a bounded pool of threads that answer them.
//!
//! | good for | not for |
//! |---|---|
//! | blocking handlers, `--threads` at a time: databases, files, other services | short handlers in masses: each costs two changes of thread, unless it says that it is short |
//! | clients of any speed: heads, and bodies of up to 64 KiB, are waited for without holding a thread, and so are idle connections in any number | more slow responses, large uploads or streams of events than there are threads: each holds one while it lasts, and a worker all of whose threads are busy for longer than `timeout` is taken for hung |
//! | async applications that block now and then: a thread is held up, and not the worker | async handlers by the thousand, which mio and tokio wait for on one thread; what handlers leave to tasks in the background, which go on only while a handler of the same thread waits |
//!
//! This crate says where handlers run. How the loop goes on is `remuda_core::worker::poll_loop`'s; what HTTP says, when a
//! connection closes and how a drain goes on is decided in the rest of `remuda-core`, and nothing here knows.

#![forbid(unsafe_code)]

use remuda_core::app::{AppFactory, Turns};
use remuda_core::worker::epoll::Epoll;
use remuda_core::worker::poll_loop::{build, serve};
use remuda_core::worker::{Crew, Exit, Worker, WorkerCx, future_turn};

/// The threaded backend.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for a backend")]
pub struct Threaded;

impl Worker for Threaded {
    fn name(&self) -> &'static str {
        "threaded"
    }

    fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit {
        // What the application makes while it is built, such as a pool of connections, is no handler's: it lives on a
        // thread of its own, and handlers of all threads may use it. Blocking ones find its runtime.
        let (context, service) = match build(&cx, self.name(), &boot) {
            Ok(built) => built,
            Err(exit) => return exit,
        };
        let _entered = context.enter();
        let service = service.in_turns(Turns::OnThread);
        let is_async = service.app.is_future();
        serve(cx, service, Epoll::new(), |config, shared, waker| {
            let (watch, context) = (shared.watch.clone(), context.clone());
            let work = move |desk: &_| {
                let _entered = context.enter();
                future_turn::run(desk, &shared);
            };
            let crew = Crew::new(config, work, move || waker.wake_by_ref());
            if is_async {
                crew.on_each(move || future_turn::prepare(&watch))?;
            }
            Ok(crew)
        })
    }
}
