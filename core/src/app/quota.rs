//! The number of requests after which a worker is replaced (D15).

use std::fmt;
use std::sync::Arc;

/// A number of requests, and the action when the last of them begins. The action must not block,
/// and may run on any thread. The worker serves on.
#[derive(Clone)]
pub struct Quota {
    requests: u64,
    spent: Arc<dyn Fn() + Send + Sync>,
}

impl Quota {
    /// Calls `spent` when the `requests`-th request has begun. 0: never.
    pub fn new(requests: u64, spent: impl Fn() + Send + Sync + 'static) -> Self {
        Self { requests, spent: Arc::new(spent) }
    }

    /// Counts the `number`-th request, which has begun.
    pub(crate) fn count(&self, number: u64) {
        if number == self.requests {
            (self.spent)();
        }
    }
}

/// No quota.
impl Default for Quota {
    fn default() -> Self {
        Self::new(0, || ())
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Quota").field(&self.requests).finish()
    }
}
