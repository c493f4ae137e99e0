//! How many requests a worker is meant to serve (D15): whoever counts them says once that it has.

use std::fmt;
use std::sync::Arc;

/// A number of requests, and what is done when the last of them begins: anything that does not block, on whichever thread
/// that is. The worker serves on.
#[derive(Clone)]
pub struct Quota {
    requests: u64,
    spent: Arc<dyn Fn() + Send + Sync>,
}

impl Quota {
    /// `spent` is called when the `requests`-th request has begun. 0: never.
    pub fn new(requests: u64, spent: impl Fn() + Send + Sync + 'static) -> Self {
        Self { requests, spent: Arc::new(spent) }
    }

    /// The `number`-th request has begun.
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
