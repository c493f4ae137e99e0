//! The mio backend: one loop over epoll for all connections, and a bounded pool for handlers that block.
//!
//! | good for | not for |
//! |---|---|
//! | many connections, most of them idle; short handlers, which run inline at the lowest cost a request | more blocking handlers at a time than `--threads` |
//!
//! This crate waits. How the loop goes on is `remuda_core::worker::poll_loop`'s; what HTTP says, when a connection closes
//! and how a drain goes on is decided in the rest of `remuda-core`, and nothing here knows.

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
use remuda_core::worker::poll_loop::{Waiter, build, serve};
use remuda_core::worker::{Crew, Exit, Worker, WorkerCx, run_blocking, sys};

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
        serve(cx, service, Poll::new().map(Watched), |config, shared, waker| {
            let context = context.clone();
            let work = move |desk: &_| {
                let _entered = context.enter();
                run_blocking(desk, &shared);
            };
            Ok(Crew::new(config, work, move || waker.wake_by_ref()))
        })
    }
}

/// All that mio watches.
struct Watched(Poll);

/// What it has reported in one turn.
struct Reported(Events);

impl Default for Reported {
    fn default() -> Self {
        Self(Events::with_capacity(1024))
    }
}

impl Waiter for Watched {
    type Events = Reported;

    fn register(&self, source: BorrowedFd<'_>, number: u64, interest: machine::Interest) -> io::Result<()> {
        let directions = match interest.write {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        self.0.registry().register(&mut SourceFd(&source.as_raw_fd()), Token(number as usize), directions)
    }

    fn waker(&self, number: u64) -> io::Result<Waker> {
        let waker = mio::Waker::new(self.0.registry(), Token(number as usize))?;
        Ok(Waker::from(Arc::new(Alarm(waker))))
    }

    fn epoll(&self) -> io::Result<OwnedFd> {
        sys::duplicate(&self.0)
    }

    fn wait(&mut self, events: &mut Reported, timeout: Duration) -> io::Result<()> {
        match self.0.poll(&mut events.0, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    fn reported(events: &Reported) -> impl Iterator<Item = (u64, Readiness)> {
        events.0.iter().map(|event| (event.token().0 as u64, readiness(event)))
    }
}

/// Ends a wait.
struct Alarm(mio::Waker);

impl Wake for Alarm {
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
