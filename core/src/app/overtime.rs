//! Blocking handlers that exceed their timeout. They cannot be cancelled, so their worker has to be
//! replaced.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::time::Time;

/// The action when a blocking handler has exceeded its timeout. It must not block, and may run on
/// any thread. The worker serves on.
#[derive(Clone)]
pub struct Overtime(Arc<dyn Fn() + Send + Sync>);

impl Overtime {
    /// Calls `found` for each such handler.
    pub fn new(found: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(found))
    }

    pub(crate) fn found(&self) {
        (self.0)();
    }
}

/// No action.
impl Default for Overtime {
    fn default() -> Self {
        Self::new(|| ())
    }
}

impl fmt::Debug for Overtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Overtime")
    }
}

/// The timeout of a handler, as the handler itself can see it.
#[derive(Debug)]
pub(crate) struct Limit {
    at: Time,
    lifted: AtomicBool,
}

impl Limit {
    pub(crate) fn new(at: Time) -> Self {
        Self { at, lifted: AtomicBool::new(false) }
    }

    /// When it ends, unless it was lifted.
    pub(crate) fn at(&self) -> Option<Time> {
        (!self.lifted.load(Ordering::Relaxed)).then_some(self.at)
    }

    /// Lifts it: the handler was done in time, or has no timeout any more.
    pub(crate) fn lift(&self) {
        self.lifted.store(true, Ordering::Relaxed);
    }
}
