//! What a poll loop waits with: the trait, and the implementation on plain epoll(7).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::Waker;
use std::time::Duration;

pub use self::epoll::{Epoll, Events};
use crate::machine::Interest;
use crate::pump::Readiness;

mod epoll;

/// An epoll(7) instance, plain or wrapped by a library.
///
/// ```no_run
/// use std::io;
/// use std::os::fd::AsFd;
/// use std::time::Duration;
///
/// use remuda_core::machine::Interest;
/// use remuda_core::worker::waiter::{Epoll, Waiter};
///
/// /// Waits for a byte on standard input, for a second at most.
/// fn has_input() -> io::Result<bool> {
///     let mut epoll = Epoll::new()?;
///     epoll.register(io::stdin().as_fd(), 1, Interest { read: true, write: false })?;
///     let mut events = Default::default();
///     epoll.wait(&mut events, Duration::from_secs(1))?;
///     Ok(Epoll::reported(&events).any(|(number, readiness)| number == 1 && readiness.readable))
/// }
/// ```
pub trait Waiter {
    /// The reports of one wait.
    type Events: Default;

    /// From now on reports each change of `source` in the directions of `interest` (`EPOLLET`),
    /// under `number`, until the last descriptor of the source is closed.
    ///
    /// # Errors
    ///
    /// As epoll_ctl(2).
    fn register(&self, source: BorrowedFd<'_>, number: u64, interest: Interest) -> io::Result<()>;

    /// A waker that ends a wait from any thread, reported under `number`. Called once.
    ///
    /// # Errors
    ///
    /// As eventfd(2) and epoll_ctl(2).
    fn waker(&self, number: u64) -> io::Result<Waker>;

    /// A descriptor of the epoll instance, for the [`Acceptor`](super::Acceptor).
    ///
    /// # Errors
    ///
    /// As dup(2).
    fn epoll(&self) -> io::Result<OwnedFd>;

    /// Waits for reports, at most for `timeout` or until a signal arrives. Reports that are present
    /// are returned in any case.
    ///
    /// # Errors
    ///
    /// As epoll_wait(2), except for `EINTR`: then looks once more, without waiting.
    fn wait(&mut self, events: &mut Self::Events, timeout: Duration) -> io::Result<()>;

    /// The reports of a wait: the number of each source, and its readiness.
    fn reported(events: &Self::Events) -> impl Iterator<Item = (u64, Readiness)>;
}
