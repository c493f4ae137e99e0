//! What follows when a blocking handler takes longer than it may: it cannot be cancelled, so that its worker has to go.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::time::Time;

/// What is done when a blocking handler has had its time: anything that does not block, on whichever thread that is. The
/// worker serves on.
#[derive(Clone)]
pub struct Overtime(Arc<dyn Fn() + Send + Sync>);

impl Overtime {
    /// `found` is called for each such handler.
    pub fn new(found: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(found))
    }

    pub(crate) fn found(&self) {
        (self.0)();
    }
}

/// Nothing.
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

/// When a handler has had its time, as the handler itself can see it.
#[derive(Debug)]
pub(crate) struct Limit {
    at: Time,
    lifted: AtomicBool,
}

impl Limit {
    pub(crate) fn new(at: Time) -> Self {
        Self { at, lifted: AtomicBool::new(false) }
    }

    /// When that is, unless it does not count any more.
    pub(crate) fn at(&self) -> Option<Time> {
        (!self.lifted.load(Ordering::Relaxed)).then_some(self.at)
    }

    /// It was done in time, or has none any more.
    pub(crate) fn lift(&self) {
        self.lifted.store(true, Ordering::Relaxed);
    }
}
