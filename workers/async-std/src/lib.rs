//! The async-std backend: its executor and reactor for all connections, a task for each, and a bounded pool for
//! handlers that block.
//!
//! async-std is discontinued: nobody mends it any more (RUSTSEC-2025-0052), and its authors send people to smol. This
//! backend is here for the applications that still run on it, and so that they can change runtime and server one after
//! the other. It is built with the feature `async-std` only; what is new belongs on `smol` or `tokio`.
//!
//! | good for | not for |
//! |---|---|
//! | applications that live in async-std, on their way to another runtime | anything new |
//! | async handlers in any number; blocking ones up to `--threads` at a time | an async handler that computes or blocks: it holds up every connection of its worker, so run it blocking, or on `spawn_blocking` |
//! | | speed: async-std keeps a pool of threads (`ASYNC_STD_THREAD_COUNT`), one of which may be the one that waits, and then wakes the one that serves |
//!
//! An application that wants tokio finds it on a thread of its own.
//!
//! This crate waits; the worker's life is [`task_loop`]'s. What HTTP says, when a connection closes and how a drain goes
//! on is decided in `remuda-core`; nothing here knows.

#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use async_io::Async;
use async_std::task::{block_on, spawn_local};
use remuda_core::app::AppFactory;
use remuda_core::worker::task_loop::{self, Lookout, Runtime, Watched};
use remuda_core::worker::{Exit, TokioContext, Worker, WorkerCx};

/// The async-std backend.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for a backend")]
pub struct AsyncStd;

impl Worker for AsyncStd {
    fn name(&self) -> &'static str {
        "async-std"
    }

    fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit {
        let context = match TokioContext::new(boot.wants_tokio()) {
            Ok(context) => context,
            Err(error) => return cx.cannot_start(&error),
        };
        let _entered = context.enter();
        block_on(task_loop::run(Here(context.clone()), self.name(), cx, boot))
    }
}

/// The runtime that this thread is in, beside that of tokio.
struct Here(TokioContext);

impl Runtime for Here {
    type Stream = Watched;

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        drop(spawn_local(task));
    }

    fn watch(&self, socket: OwnedFd, lookout: &Lookout) -> io::Result<Watched> {
        Watched::new(socket, lookout)
    }

    /// By async-io, which is async-std's reactor, and of which there is one for a process.
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
