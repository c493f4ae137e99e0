//! The tokio backend: one current-thread runtime for all connections, a task for each, and a bounded pool for
//! handlers that block.
//!
//! | good for | not for |
//! |---|---|
//! | applications that live in tokio: axum, clients and pools of connections; async handlers in any number | an async handler that computes or blocks: it holds up every connection of its worker, so run it blocking, or on `spawn_blocking` |
//! | many connections, most of them idle | short connections in masses: accepting costs a thread's wake-up each, which mio does without |
//! | blocking handlers beside async clients, up to `--threads` at a time | more than one processor in one worker: tasks do not leave their thread, more `--workers` do that |
//!
//! This crate waits and moves bytes; the worker's life is [`task_loop`]'s. What HTTP says, when a connection closes and
//! how a drain goes on is decided in `remuda-core`; nothing here knows.

#![forbid(unsafe_code)]

mod stream;

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use remuda_core::app::AppFactory;
use remuda_core::worker::task_loop::{self, Lookout, Runtime};
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
        let exit = runtime.block_on(task_loop::run(Here, self.name(), cx, boot));
        // What an application still runs on threads of the runtime does not hold up the exit.
        runtime.shutdown_background();
        exit
    }
}

/// The runtime that this thread is in.
struct Here;

impl Runtime for Here {
    type Stream = Stream;

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        drop(spawn_local(task));
    }

    fn watch(&self, socket: OwnedFd, _: &Lookout) -> io::Result<Stream> {
        Stream::new(socket)
    }

    fn readable(
        &self,
        descriptor: OwnedFd,
    ) -> io::Result<impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>> + 'static> {
        // The runtime's type for a pipe's end stands for any descriptor: it is asked when to look, and never reads.
        let descriptor = Receiver::from_owned_fd_unchecked(descriptor)?;
        Ok(move |task: &mut Context<'_>| {
            ready!(descriptor.poll_read_ready(task))?;
            // All that is there now is taken next; only what comes after that is to be reported.
            let _ = descriptor.try_io(|| io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
            Poll::Ready(Ok(()))
        })
    }

    fn context(&self) -> TokioContext {
        TokioContext::current()
    }
}
