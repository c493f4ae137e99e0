//! The async-std backend: async-std's executor and reactor, a task for each connection, and a
//! bounded pool for blocking handlers.
//!
//! async-std is discontinued: it receives no more fixes (RUSTSEC-2025-0052), and its authors
//! recommend smol. This backend exists for applications that still run on async-std, so that they
//! can change runtime and server one after the other. It is built with the feature `async-std`
//! only; new applications belong on `smol` or `tokio`.
//!
//! Good for:
//!
//! - applications that use async-std, on their way to another runtime
//! - any number of async handlers
//! - up to `--threads` blocking handlers at a time
//!
//! Not for:
//!
//! - new applications
//! - async handlers that compute or block, because they hold up every connection of their worker:
//!   make them blocking handlers, or use `spawn_blocking`
//! - speed: async-std keeps a pool of threads (`ASYNC_STD_THREAD_COUNT`). One of them may do the
//!   waiting, and then has to wake the thread that serves
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

use async_io::Async;
use async_std::task::{block_on, spawn_local};
use remuda_core::app::AppFactory;
use remuda_core::worker::task_loop::{self, Reactor, Registered, Runtime};
use remuda_core::worker::{Exit, TokioContext, Worker, WorkerCx, probe_thread};

/// The async-std backend.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for a backend")]
pub struct AsyncStd;

impl Worker for AsyncStd {
    fn name(&self) -> &'static str {
        "async-std"
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
        block_on(task_loop::run(AsyncStdRuntime(context.clone()), self.name(), cx, boot))
    }
}

/// The async-std runtime of this thread, and the tokio runtime beside it.
struct AsyncStdRuntime(TokioContext);

impl Runtime for AsyncStdRuntime {
    type Stream = Registered;

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        drop(spawn_local(task));
    }

    fn watch(&self, socket: OwnedFd, reactor: &Reactor) -> io::Result<Registered> {
        Registered::new(socket, reactor)
    }

    /// Uses async-io directly: it is async-std's reactor, and a process has only one.
    fn readable(
        &self,
        descriptor: OwnedFd,
    ) -> io::Result<impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>> + 'static> {
        let descriptor = Async::new_nonblocking(descriptor)?;
        Ok(move |task: &mut Context<'_>| descriptor.poll_readable(task))
    }

    fn context(&self) -> TokioContext {
        self.0.clone()
    }
}
