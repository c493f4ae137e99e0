//! The drain as user code sees it (D14): a flag to poll, and a wait that ends when it is set. A blocking handler sees in
//! the same way that it has had its time.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::overtime::Limit;
use crate::shutdown::{Drain, Phase};
use crate::time::Time;

/// What tells a [`DrainSignal`] about the drain; the worker implements it over a descriptor.
pub trait DrainWatch: Send + Sync + 'static {
    /// The drain that the worker is in, if any; also that of a lame duck, which has not begun.
    fn drain(&self) -> Option<Drain>;

    /// Blocks until there is a drain or `timeout` has passed, and says whether there is one.
    fn wait(&self, timeout: Duration) -> bool;

    /// Has `waker` woken when a drain begins, in the `place` that an earlier call gave, or in a new one.
    fn register(&self, waker: &Waker, place: Option<usize>) -> usize;

    /// Forgets the waker in `place`.
    fn deregister(&self, place: usize);

    /// The time.
    fn now(&self) -> Time;
}

/// Tells any thread of a worker whether that worker drains. Cheap to clone.
///
/// The one that [`Responder::drain`](super::Responder::drain) gives to a handler with a limit
/// ([`request_timeout`](crate::config::Limits::request_timeout)) is set as well once that handler has had its time.
#[derive(Clone)]
pub struct DrainSignal {
    pub(super) watch: Arc<dyn DrainWatch>,
    limit: Option<Arc<Limit>>,
}

impl DrainSignal {
    /// A signal that `watch` feeds.
    pub fn new(watch: Arc<dyn DrainWatch>) -> Self {
        Self { watch, limit: None }
    }

    /// The same signal for a handler that has until `limit`.
    pub(crate) fn until(self, limit: Arc<Limit>) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Whether the worker drains, or the handler that this signal was given to has had its time: a response without end
    /// should end itself now.
    ///
    /// A lame duck does not drain yet: it goes on as usual.
    pub fn is_set(&self) -> bool {
        self.watch.drain().is_some_and(|drain| drain.phase >= Phase::Draining)
            || self.limit().is_some_and(|at| self.watch.now() >= at)
    }

    /// The drain, with its phase, reason and deadline. A lame duck has one, of the phase [`Phase::Lameduck`].
    pub fn drain(&self) -> Option<Drain> {
        self.watch.drain()
    }

    /// Blocks until the signal [is set](Self::is_set), at most for `timeout`, and says whether it is. What a handler that
    /// sends something now and then calls instead of sleeping.
    pub fn wait(&self, timeout: Duration) -> bool {
        match self.limit() {
            None => self.watch.wait(timeout),
            Some(at) => self.watch.wait(timeout.min(at - self.watch.now())) || self.is_set(),
        }
    }

    /// Resolves when the worker drains: what a response without end selects on.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and awaited anew at any time.
    pub async fn drained(&self) {
        let mut waiting = Waiting { watch: &*self.watch, place: None };
        poll_fn(|cx| {
            waiting.place = Some(waiting.watch.register(cx.waker(), waiting.place));
            if self.is_set() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn limit(&self) -> Option<Time> {
        self.limit.as_ref()?.at()
    }
}

/// A future's place among those that wait for the drain.
struct Waiting<'a> {
    watch: &'a dyn DrainWatch,
    place: Option<usize>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.watch.deregister(place);
        }
    }
}

impl fmt::Debug for DrainSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DrainSignal").field(&self.drain()).finish()
    }
}
