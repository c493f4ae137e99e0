//! Holds: work of an application that continues after its responses, and should finish before its
//! worker ends.

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// The number of [holds](Hold) of a worker, and the task that waits for the last of them.
#[derive(Debug, Default)]
pub struct Holds {
    held: AtomicUsize,
    waiting: Mutex<Option<Waker>>,
}

impl Holds {
    /// No holds.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes a hold.
    pub(crate) fn take(self: Arc<Self>) -> Hold {
        self.held.fetch_add(1, Ordering::Relaxed);
        Hold(Some(self))
    }

    /// The number of holds.
    pub fn count(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// Ready while there are none. Otherwise `waker` is woken when the last is dropped.
    pub fn poll_none(&self, waker: &Waker) -> Poll<()> {
        let former = self.waiting().replace(waker.clone());
        drop(former);
        if self.count() == 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    fn release(&self) {
        if self.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Woken outside the lock, because a waker may run any code.
            let waiting = self.waiting().take();
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a worker that drains from ending, until it is dropped or the drain's deadline passes. For
/// a task that outlives its handler. [`DrainSignal::hold`](super::DrainSignal::hold) returns it. It
/// may be dropped on any thread.
///
/// ```
/// use remuda_core::app::RequestInfo;
///
/// /// Work after the response, to be spawned on any runtime.
/// fn afterwards(
///     info: &RequestInfo,
///     send_mail: impl Future<Output = ()>,
/// ) -> impl Future<Output = ()> {
///     let hold = info.drain.hold();
///     async move {
///         send_mail.await;
///         drop(hold);
///     }
/// }
/// ```
#[must_use = "it holds the worker until it is dropped"]
pub struct Hold(Option<Arc<Holds>>);

impl Hold {
    /// A hold without effect, because there is no worker.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        mem::take(&mut self.0).inspect(|holds| holds.release());
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
