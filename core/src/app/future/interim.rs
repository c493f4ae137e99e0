//! Interim responses on their way from an async application to its connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

use crate::config::HIGH_WATER;
use crate::conn::{RespondError, push_interim};
use crate::http1::ResponseHead;

/// What waits there is encoded already, and bounded as what waits to be sent is.
///
/// Wakers are woken and dropped while the lock is free, because they may be anybody's.
#[derive(Debug, Default)]
pub(super) struct Interim {
    /// Something waits.
    is_used: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    heads: Vec<u8>,
    /// The connection's own task, once it waits.
    machine: Option<Waker>,
    /// The final response has begun, or the exchange is over.
    closed: bool,
}

impl Interim {
    /// Adds a response, and has the connection look.
    ///
    /// # Errors
    ///
    /// It is none, there is no room for it, or it comes too late.
    pub(super) fn push(&self, head: &ResponseHead) -> Result<(), RespondError> {
        let machine = self.with(|state| {
            if state.closed {
                return Err(RespondError::NoRequest);
            }
            if state.heads.len() >= HIGH_WATER {
                return Err(RespondError::Full { waiting: state.heads.len() });
            }
            push_interim(&mut state.heads, head)?;
            self.is_used.store(true, Ordering::Release);
            Ok(state.machine.clone())
        })?;
        machine.inspect(Waker::wake_by_ref);
        Ok(())
    }

    /// Tells that `machine` wakes the connection's task from here on. What came before has to be [taken](Self::take) after it.
    pub(super) fn wait(&self, machine: &Waker) {
        let former = self.with(|state| {
            let is_known = state.machine.as_ref().is_some_and(|known| known.will_wake(machine));
            (!is_known).then(|| state.machine.replace(machine.clone()))
        });
        drop(former);
    }

    /// What is to be sent.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        self.is_used
            .swap(false, Ordering::Acquire)
            .then(|| self.with(|state| std::mem::take(&mut state.heads)))
    }

    /// Whatever comes now comes too late.
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
