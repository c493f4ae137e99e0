//! The smol backend: async-io and one executor for all connections, a task for each, and a bounded pool for handlers
//! that block.
//!
//! | good for | not for |
//! |---|---|
//! | applications that live in smol: async-io, async-net and what is built on them; async handlers in any number | an async handler that computes or blocks: it holds up every connection of its worker, so run it blocking, or on `smol::unblock` |
//! | many connections, most of them idle | short connections in masses: accepting costs a thread's wake-up each, which mio does without |
//! | blocking handlers beside async clients, up to `--threads` at a time | more than one processor in one worker: tasks do not leave their thread, more `--workers` do that |
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

use async_executor::LocalExecutor;
use async_io::Async;
use remuda_core::app::AppFactory;
use remuda_core::worker::task_loop::{self, Lookout, Runtime, Watched};
use remuda_core::worker::{Exit, TokioContext, Worker, WorkerCx};

/// The smol backend.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for a backend")]
pub struct Smol;

impl Worker for Smol {
    fn name(&self) -> &'static str {
        "smol"
    }

    fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit {
        let context = match TokioContext::new(boot.wants_tokio()) {
            Ok(context) => context,
            Err(error) => return cx.cannot_start(&error),
        };
        let _entered = context.enter();
        let executor = LocalExecutor::new();
        let here = Here { executor: &executor, context: context.clone() };
        async_io::block_on(executor.run(task_loop::run(here, self.name(), cx, boot)))
    }
}

/// The executor that this thread runs.
struct Here<'a> {
    executor: &'a LocalExecutor<'static>,
    context: TokioContext,
}

impl Runtime for Here<'_> {
    type Stream = Watched;

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(task).detach();
    }

    fn watch(&self, socket: OwnedFd, lookout: &Lookout) -> io::Result<Watched> {
        Watched::new(socket, lookout)
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
