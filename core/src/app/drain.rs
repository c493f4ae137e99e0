//! The drain as user code sees it (D14): a flag to poll, and a wait for it. For a blocking handler
//! the flag is also set when its timeout has passed.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::hold::{Hold, Holds};
use super::overtime::Limit;
use crate::shutdown::{Drain, Phase};
use crate::time::Time;

/// The source of a [`DrainSignal`], which the worker implements.
///
/// ```
/// use std::sync::Arc;
/// use std::task::Waker;
/// use std::time::Duration;
///
/// use remuda_core::app::{DrainSignal, DrainWatch};
/// use remuda_core::shutdown::Drain;
/// use remuda_core::time::Time;
///
/// /// A worker that never drains, for tests of a handler.
/// struct Never;
///
/// impl DrainWatch for Never {
///     fn drain(&self) -> Option<Drain> { None }
///     fn wait(&self, _: Duration) -> bool { false }
///     fn register(&self, _: &Waker, _: Option<usize>) -> usize { 0 }
///     fn deregister(&self, _: usize) {}
///     fn now(&self) -> Time { Time::ZERO }
/// }
///
/// assert!(!DrainSignal::new(Arc::new(Never)).is_set());
/// ```
pub trait DrainWatch: Send + Sync + 'static {
    /// The drain that the worker is in, if any, including that of a lame duck, which has not begun.
    fn drain(&self) -> Option<Drain>;

    /// Blocks until there is a drain or `timeout` has passed, and returns whether there is one.
    fn wait(&self, timeout: Duration) -> bool;

    /// Registers `waker` to be woken when a drain begins, in the `place` that an earlier call
    /// returned, or in a new one.
    fn register(&self, waker: &Waker, place: Option<usize>) -> usize;

    /// Removes the waker in `place`.
    fn deregister(&self, place: usize);

    /// The holds that keep the worker from ending in a drain. Default: none.
    fn holds(&self) -> Option<Arc<Holds>> {
        None
    }

    /// The time.
    fn now(&self) -> Time;
}

/// Signals to any thread of a worker that the worker drains. Cheap to clone.
///
/// The signal that [`Responder::drain`](super::Responder::drain) gives to a handler with a timeout
/// ([`request_timeout`](crate::config::Limits::request_timeout)) is also set once that timeout has
/// passed.
#[derive(Clone)]
pub struct DrainSignal {
    pub(super) watch: Arc<dyn DrainWatch>,
    limit: Option<Arc<Limit>>,
}

impl DrainSignal {
    /// A signal with `watch` as its source.
    pub fn new(watch: Arc<dyn DrainWatch>) -> Self {
        Self { watch, limit: None }
    }

    /// The same signal for a handler whose timeout ends at `limit`.
    pub(crate) fn until(self, limit: Arc<Limit>) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Whether the worker drains, or the timeout of the handler that got this signal has passed: an
    /// endless response should end now.
    ///
    /// A lame duck does not drain yet, and serves as usual.
    pub fn is_set(&self) -> bool {
        self.watch.drain().is_some_and(|drain| drain.phase >= Phase::Draining)
            || self.limit().is_some_and(|at| self.watch.now() >= at)
    }

    /// The drain, with its phase, reason and deadline. A lame duck has one, in the phase
    /// [`Phase::Lameduck`].
    pub fn drain(&self) -> Option<Drain> {
        self.watch.drain()
    }

    /// Blocks until the signal [is set](Self::is_set), at most for `timeout`, and returns whether
    /// it is. A handler that sends something at intervals calls this instead of sleeping.
    pub fn wait(&self, timeout: Duration) -> bool {
        match self.limit() {
            None => self.watch.wait(timeout),
            Some(at) => self.watch.wait(timeout.min(at - self.watch.now())) || self.is_set(),
        }
    }

    /// Resolves when the worker drains. An endless response selects on it.
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

    /// Keeps the worker from ending in a drain until the returned hold is dropped, or the drain's
    /// deadline passes: for work that continues after the response, such as a task that writes a
    /// record. Neither the connection nor its next request waits for it. Without a hold, such work
    /// ends with the process, as soon as the last connection is gone. While an application is being
    /// preloaded there is no worker, and nothing is held.
    ///
    /// On `sync` and `threaded`, tasks spawned on the tokio runtime of a handler's thread also run
    /// during the application's end. A deadline that passes first is logged, and the worker exits
    /// with status 6.
    pub fn hold(&self) -> Hold {
        self.watch.holds().map_or_else(Hold::nothing, Holds::take)
    }

    fn limit(&self) -> Option<Time> {
        self.limit.as_ref()?.at()
    }
}

/// The registration of a future that waits for the drain.
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
