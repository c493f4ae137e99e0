//! The smol backend: async-io and one executor, a task for each connection, and a bounded pool for
//! blocking handlers.
//!
//! Good for:
//!
//! - applications that use smol: async-io, async-net and libraries on top of them
//! - any number of async handlers
//! - many connections, most of them idle
//! - blocking handlers beside async clients, up to `--threads` at a time
//!
//! Not for:
//!
//! - async handlers that compute or block, because they hold up every connection of their worker:
//!   make them blocking handlers, or use `smol::unblock`
//! - masses of short connections: each accept wakes a thread, which mio avoids
//! - more than one processor for one worker: tasks do not leave their thread; use more `--workers`
//!
//! For an application that needs tokio, a separate thread drives a tokio runtime.
//!
//! This crate spawns tasks and waits for descriptors. [`task_loop`] runs the worker, and the rest
//! of `remuda-core` decides on HTTP, the end of connections and the drain.

#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use async_executor::LocalExecutor;
use async_io::Async;
use remuda_core::app::AppFactory;
use remuda_core::worker::task_loop::{self, Reactor, Registered, Runtime};
use remuda_core::worker::{Exit, TokioContext, Worker, WorkerCx, probe_thread};

/// The smol backend.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for a backend")]
pub struct Smol;

impl Worker for Smol {
    fn name(&self) -> &'static str {
        "smol"
    }

    fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit {
        // The reactor starts a thread of its own, and panics if it cannot.
        if let Err(error) = probe_thread() {
            return cx.cannot_start(&error);
        }
        let context = match TokioContext::new(boot.wants_tokio()) {
            Ok(context) => context,
            Err(error) => return cx.cannot_start(&error),
        };
        let _entered = context.enter();
        let executor = LocalExecutor::new();
        let runtime = SmolRuntime { executor: &executor, context: context.clone() };
        async_io::block_on(executor.run(task_loop::run(runtime, self.name(), cx, boot)))
    }
}

/// The executor of this thread, and the tokio runtime beside it.
struct SmolRuntime<'a> {
    executor: &'a LocalExecutor<'static>,
    context: TokioContext,
}

impl Runtime for SmolRuntime<'_> {
    type Stream = Registered;

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(task).detach();
    }

    fn watch(&self, socket: OwnedFd, reactor: &Reactor) -> io::Result<Registered> {
        Registered::new(socket, reactor)
    }

    fn readable(
        &self,
        descriptor: OwnedFd,
    ) -> io::Result<impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>> + 'static> {
        let descriptor = Async::new_nonblocking(descriptor)?;
        Ok(move |task: &mut Context<'_>| descriptor.poll_readable(task))
    }

    fn context(&self) -> TokioContext {
        self.context.clone()
    }
}
