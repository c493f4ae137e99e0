//! The mio backend: one epoll loop for all connections, and a bounded pool for blocking handlers.
//!
//! Good for:
//!
//! - many connections, most of them idle
//! - short handlers, which run inline at the lowest cost a request
//!
//! Not for:
//!
//! - more blocking handlers at a time than `--threads`
//!
//! This crate only waits for descriptors. `remuda_core::worker::poll_loop` runs the loop, and the
//! rest of `remuda-core` decides on HTTP, the end of connections and the drain.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use remuda_core::app::AppFactory;
use remuda_core::machine;
use remuda_core::pump::Readiness;
use remuda_core::worker::handlers::{HandlerPool, run_blocking};
use remuda_core::worker::poll_loop::{build, serve};
use remuda_core::worker::waiter::Waiter;
use remuda_core::worker::{Exit, Worker, WorkerCx, sys};

/// The mio backend.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for a backend")]
pub struct Mio;

impl Worker for Mio {
    fn name(&self) -> &'static str {
        "mio"
    }

    fn run(&self, cx: WorkerCx, boot: AppFactory) -> Exit {
        let (context, service) = match build(&cx, self.name(), &boot) {
            Ok(built) => built,
            Err(exit) => return exit,
        };
        let _entered = context.enter();
        serve(cx, service, Poll::new().map(MioPoll), |config, shared, waker| {
            let context = context.clone();
            let work = move |lease: &_| {
                let _entered = context.enter();
                run_blocking(lease, &shared);
            };
            HandlerPool::new(config, work, move || waker.wake_by_ref())
        })
    }
}

/// The poll of the worker's loop.
struct MioPoll(Poll);

/// The events of one turn of the loop.
struct MioEvents(Events);

impl Default for MioEvents {
    fn default() -> Self {
        Self(Events::with_capacity(1024))
    }
}

impl Waiter for MioPoll {
    type Events = MioEvents;

    fn register(&self, source: BorrowedFd<'_>, number: u64, interest: machine::Interest) -> io::Result<()> {
        let directions = match interest.write {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        self.0.registry().register(&mut SourceFd(&source.as_raw_fd()), Token(number as usize), directions)
    }

    fn waker(&self, number: u64) -> io::Result<Waker> {
        let waker = mio::Waker::new(self.0.registry(), Token(number as usize))?;
        Ok(Waker::from(Arc::new(MioWaker(waker))))
    }

    fn epoll(&self) -> io::Result<OwnedFd> {
        sys::duplicate(&self.0)
    }

    fn wait(&mut self, events: &mut MioEvents, timeout: Duration) -> io::Result<()> {
        let mut timeout = timeout;
        loop {
            match self.0.poll(&mut events.0, Some(timeout)) {
                // A signal, or a SIGCONT after a stop (signal(7)), interrupts the wait. Looks once
                // more without waiting, because events that are there come before deadlines.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => timeout = Duration::ZERO,
                result => return result,
            }
        }
    }

    fn reported(events: &MioEvents) -> impl Iterator<Item = (u64, Readiness)> {
        events.0.iter().map(|event| (event.token().0 as u64, readiness(event)))
    }
}

/// Interrupts the wait of the loop.
struct MioWaker(mio::Waker);

impl Wake for MioWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Err(error) = self.0.wake() {
            tracing::error!("cannot wake the loop: {error}");
        }
    }
}

fn readiness(event: &Event) -> Readiness {
    let broken = event.is_error() || event.is_write_closed();
    Readiness {
        readable: event.is_readable() || event.is_read_closed() || broken,
        writable: event.is_writable() || broken,
        read_closed: event.is_read_closed(),
        broken,
    }
}
