//! Every scenario against every backend: real processes, sockets and signals.

use std::sync::{Mutex, MutexGuard, PoisonError};

use remuda_conformance::conformance;

mod alike;
mod crowd;
mod documents;
mod endurance;
mod handlers;
mod handoff;
mod preload;
mod seams;
mod silent;
mod supervision;

conformance!(sync => "sync", "blocking", deviations: [
    ("requests_wait_for_a_handler_thread", "there is one handler at a time, and no handler thread"),
    ("d1_a_drain_longer_than_the_timeout_is_not_a_hang", "its handler blocks the only loop for longer, which is a hang"),
    ("streams_are_answered_in_the_order_in_which_their_handlers_end", "its one thread runs one handler at a time, and moves the bytes of all streams while that waits"),
]);
conformance!(sync_async => "sync", "async", deviations: [
    ("requests_wait_for_a_handler_thread", "there is one handler at a time, and no handler thread"),
    ("d1_a_drain_longer_than_the_timeout_is_not_a_hang", "its handler blocks the only loop for longer, which is a hang"),
]);
conformance!(threaded => "threaded", "blocking");
conformance!(threaded_async => "threaded", "async");
conformance!(mio => "mio", "blocking");
conformance!(mio_async => "mio", "async", deviations: [
    ("requests_wait_for_a_handler_thread", "futures do not run on handler threads"),
    ("a_stalled_reader_ends_its_connection", "futures do not hold the handler thread that shows it"),
]);
conformance!(smol => "smol", "blocking");
conformance!(smol_async => "smol", "async", deviations: [
    ("requests_wait_for_a_handler_thread", "futures do not run on handler threads"),
    ("a_stalled_reader_ends_its_connection", "futures do not hold the handler thread that shows it"),
]);
conformance!(tokio => "tokio", "blocking");
conformance!(tokio_async => "tokio", "async", deviations: [
    ("requests_wait_for_a_handler_thread", "futures do not run on handler threads"),
    ("a_stalled_reader_ends_its_connection", "futures do not hold the handler thread that shows it"),
]);
#[cfg(feature = "async-std")]
conformance!(async_std => "async-std", "blocking");
#[cfg(feature = "async-std")]
conformance!(async_std_async => "async-std", "async", deviations: [
    ("requests_wait_for_a_handler_thread", "futures do not run on handler threads"),
    ("a_stalled_reader_ends_its_connection", "futures do not hold the handler thread that shows it"),
]);

/// Waits until no other test of this process has ten thousand connections open: two of them would
/// exceed the limit on descriptors of many systems.
fn crowd_alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
