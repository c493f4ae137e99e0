//! The queue of interim responses from an async application to its connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

use crate::config::HIGH_WATER;
use crate::exchange::{RespondError, check_interim};
use crate::http1::ResponseHead;

/// The queued heads are valid, and their size is bounded like that of the send queue.
///
/// Wakers are woken and dropped outside the lock, because they may run any code.
#[derive(Debug, Default)]
pub(super) struct Interim {
    /// Whether the queue was used.
    is_used: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The heads, in the order in which they are sent.
    heads: Vec<ResponseHead>,
    /// Their approximate size in bytes.
    size: usize,
    /// The waker of the connection's own task, once it waits.
    machine: Option<Waker>,
    /// The final response has begun, or the exchange is over.
    closed: bool,
}

impl Interim {
    /// Adds a response, and wakes the connection.
    ///
    /// # Errors
    ///
    /// It is no interim response, there is no room for it, or it is late.
    pub(super) fn push(&self, head: &ResponseHead) -> Result<(), RespondError> {
        let machine = self.with(|state| {
            if state.closed {
                return Err(RespondError::NoRequest);
            }
            if state.size >= HIGH_WATER {
                return Err(RespondError::Full { waiting: state.size });
            }
            check_interim(head)?;
            state.heads.push(head.clone());
            state.size += head.size();
            self.is_used.store(true, Ordering::Release);
            Ok(state.machine.clone())
        })?;
        machine.inspect(Waker::wake_by_ref);
        Ok(())
    }

    /// Registers `machine` as the waker of the connection's task. Earlier responses have to be
    /// [taken](Self::take) after this call.
    pub(super) fn wait(&self, machine: &Waker) {
        let former = self.with(|state| {
            let is_known = state.machine.as_ref().is_some_and(|known| known.will_wake(machine));
            (!is_known).then(|| state.machine.replace(machine.clone()))
        });
        drop(former);
    }

    /// Takes the queued responses.
    #[inline]
    pub(super) fn take(&self) -> Option<Vec<ResponseHead>> {
        self.is_used.swap(false, Ordering::Acquire).then(|| {
            self.with(|state| {
                state.size = 0;
                std::mem::take(&mut state.heads)
            })
        })
    }

    /// Closes the queue: later responses are refused.
    #[inline]
    pub(super) fn close(&self) {
        let machine = self.with(|state| {
            state.closed = true;
            state.machine.take()
        });
        drop(machine);
    }

    fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
