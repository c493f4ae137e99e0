//! The tokio backend: one current-thread runtime, a task for each connection, and a bounded pool
//! for blocking handlers.
//!
//! Good for:
//!
//! - applications that use tokio: axum, clients and connection pools
//! - any number of async handlers
//! - many connections, most of them idle
//! - blocking handlers beside async clients, up to `--threads` at a time
//!
//! Not for:
//!
//! - async handlers that compute or block, because they hold up every connection of their worker:
//!   make them blocking handlers, or use `spawn_blocking`
//! - masses of short connections: each accept wakes a thread, which mio avoids
//! - more than one processor for one worker: tasks do not leave their thread; use more `--workers`
//!
//! This crate spawns tasks, waits for descriptors and moves bytes. [`task_loop`] runs the worker,
//! and the rest of `remuda-core` decides on HTTP, the end of connections and the drain.

#![forbid(unsafe_code)]

mod stream;

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use remuda_core::app::AppFactory;
use remuda_core::worker::task_loop::{self, Reactor, Runtime};
use remuda_core::worker::{Exit, TokioContext, Worker, WorkerCx};
use tokio::net::unix::pipe::Receiver;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

use self::stream::Stream;

/// The tokio backend.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for a backend")]
pub struct Tokio;

impl Worker for Tokio {
    fn name(&self) -> &'static str {
        "tokio"
    }

    fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit {
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return cx.cannot_start(&error),
        };
        let exit = runtime.block_on(task_loop::run(TokioRuntime, self.name(), cx, boot));
        // Does not wait for blocking work that the application left on threads of the runtime.
        runtime.shutdown_background();
        exit
    }
}

/// The tokio runtime of this thread.
struct TokioRuntime;

impl Runtime for TokioRuntime {
    type Stream = Stream;

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        drop(spawn_local(task));
    }

    fn watch(&self, socket: OwnedFd, _: &Reactor) -> io::Result<Stream> {
        Stream::new(socket)
    }

    fn readable(
        &self,
        descriptor: OwnedFd,
    ) -> io::Result<impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>> + 'static> {
        // tokio's type for the end of a pipe works for any descriptor here: it only reports
        // readiness, and never reads.
        let descriptor = Receiver::from_owned_fd_unchecked(descriptor)?;
        Ok(move |task: &mut Context<'_>| {
            ready!(descriptor.poll_read_ready(task))?;
            // The caller takes everything that is there now. Clears the readiness, so that only
            // later arrivals are reported.
            let _ = descriptor.try_io(|| io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
            Poll::Ready(Ok(()))
        })
    }

    fn context(&self) -> TokioContext {
        TokioContext::current()
    }
}
