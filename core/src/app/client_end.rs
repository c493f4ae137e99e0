//! The end of the client's side as user code sees it (D14): a flag to read, and a future to await.

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Signals that the client of a request will send nothing more: it has ended its sending side or
/// closed its socket, or the connection has ended. On TCP the first two look alike (a FIN), so the
/// response is still sent, and the handler decides whether it is worthwhile.
///
/// The signal belongs to the connection: after the response it is set at the latest when the
/// connection ends. Cheap to clone, and usable from any thread.
///
/// ```
/// use remuda_core::app::RequestInfo;
///
/// /// Computes piece by piece, for as long as the client may be there.
/// async fn compute(info: &RequestInfo, pieces: impl IntoIterator<Item = u64>) -> Option<u64> {
///     let mut sum = 0;
///     for piece in pieces {
///         if info.client_end.is_set() {
///             return None;
///         }
///         sum += piece;
///     }
///     Some(sum)
/// }
/// ```
#[derive(Clone, Default)]
pub struct ClientEnd(Arc<Shared>);

#[derive(Default)]
struct Shared {
    is_set: AtomicBool,
    /// The wakers of waiting futures. A slot is free again once its future is gone.
    ///
    /// Wakers are woken and dropped outside the lock, because they may run any code.
    waiting: Mutex<Vec<Option<Waker>>>,
}

impl ClientEnd {
    /// Whether the client's side has ended.
    pub fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::Acquire)
    }

    /// Resolves when the client's side has ended, within milliseconds of its FIN or reset, also
    /// while nothing is read or written. For a client that vanishes without either (a lost
    /// network), when the kernel gives it up.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and awaited anew at any time.
    pub async fn ended(&self) {
        let mut waiting = Waiting { shared: &self.0, place: None };
        poll_fn(|cx| {
            waiting.register(cx.waker());
            if self.is_set() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Sets the signal: the client's side has ended.
    pub(crate) fn set(&self) {
        if !self.0.is_set.swap(true, Ordering::AcqRel) {
            let waiting = mem::take(&mut *self.0.waiting());
            waiting.into_iter().flatten().for_each(Waker::wake);
        }
    }
}

impl fmt::Debug for ClientEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientEnd").field(&self.is_set()).finish()
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Vec<Option<Waker>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of a waiting future.
struct Waiting<'a> {
    shared: &'a Shared,
    place: Option<usize>,
}

impl Waiting<'_> {
    /// Registers `waker` to be woken at the end. The flag has to be read after this call, because
    /// it may be set meanwhile.
    fn register(&mut self, waker: &Waker) {
        let mut waiting = self.shared.waiting();
        let place = self.place.or_else(|| waiting.iter().position(Option::is_none)).unwrap_or(waiting.len());
        if place >= waiting.len() {
            waiting.resize(place + 1, None);
        }
        let former = waiting[place].replace(waker.clone());
        drop(waiting);
        drop(former);
        self.place = Some(place);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let former = self.place.and_then(|place| self.shared.waiting().get_mut(place)?.take());
        drop(former);
    }
}

#[cfg(test)]
mod tests;
