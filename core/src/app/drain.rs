//! The drain as user code sees it (D14): a flag to poll, and a wait that ends when it is set.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::shutdown::Drain;

/// What tells a [`DrainSignal`] about the drain; the worker implements it over a descriptor.
pub trait DrainWatch: Send + Sync + 'static {
    /// The drain that the worker is in, if any.
    fn drain(&self) -> Option<Drain>;

    /// Blocks until there is a drain or `timeout` has passed, and says whether there is one.
    fn wait(&self, timeout: Duration) -> bool;
}

/// Tells any thread of a worker whether that worker drains. Cheap to clone.
#[derive(Clone)]
pub struct DrainSignal(Arc<dyn DrainWatch>);

impl DrainSignal {
    /// A signal that `watch` feeds.
    pub fn new(watch: Arc<dyn DrainWatch>) -> Self {
        Self(watch)
    }

    /// Whether the worker drains: a response without end should end itself now.
    pub fn is_set(&self) -> bool {
        self.0.drain().is_some()
    }

    /// The drain, with its reason and deadline.
    pub fn drain(&self) -> Option<Drain> {
        self.0.drain()
    }

    /// Blocks until the worker drains, at most for `timeout`, and says whether it does. What a handler that
    /// sends something now and then calls instead of sleeping.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.0.wait(timeout)
    }
}

impl fmt::Debug for DrainSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DrainSignal").field(&self.drain()).finish()
    }
}
