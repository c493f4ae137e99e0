//! Every scenario against every backend: real processes, sockets and signals.

use remuda_conformance::conformance;

mod seams;

conformance!(mio => "mio", "blocking");
conformance!(mio_async => "mio", "async", deviations: [
    ("requests_wait_for_a_handler_thread", "futures do not run on handler threads"),
    ("a_stalled_reader_ends_its_connection", "futures do not hold the handler thread that shows it"),
]);
conformance!(smol => "smol", "blocking");
conformance!(smol_async => "smol", "async", deviations: [
    ("an_upgraded_connection_carries_bytes_both_ways", "async applications cannot take a connection over yet"),
    ("d13_upgraded_connection_is_told_of_the_drain", "async applications cannot take a connection over yet"),
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
    ("an_upgraded_connection_carries_bytes_both_ways", "async applications cannot take a connection over yet"),
    ("d13_upgraded_connection_is_told_of_the_drain", "async applications cannot take a connection over yet"),
    ("requests_wait_for_a_handler_thread", "futures do not run on handler threads"),
    ("a_stalled_reader_ends_its_connection", "futures do not hold the handler thread that shows it"),
]);
