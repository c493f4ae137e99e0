//! Observers of requests: an access log, or another account of them.

use std::fmt;

use crate::conn::Answered;

/// Called once for every request: when the last byte of its response was given to the kernel, or
/// when no more of it will be sent. For a client that sends many requests without reading the
/// responses, calls for older requests come earlier.
///
/// 1. A refused request is reported too, as far as it was parsed.
/// 2. A request that changed the protocol is reported when the application is done with the
///    connection.
/// 3. The call is made where the request was answered, on the loop or on a handler's thread, and
///    blocks that, so it must not block itself. Only the request of a handler that still runs when
///    its worker ends is not reported.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::time::Duration;
///
/// use remuda_core::app::{Answered, Observer};
///
/// /// Counts requests that took longer than a second.
/// #[derive(Debug, Default)]
/// struct Slow(AtomicU64);
///
/// impl Observer for Slow {
///     fn answered(&self, answered: &Answered<'_>) {
///         if answered.took > Duration::from_secs(1) {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
/// ```
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// A request is over.
    fn answered(&self, answered: &Answered<'_>);

    /// Whether it uses the fields of responses, which are kept only then.
    fn wants_fields(&self) -> bool {
        false
    }
}
