//! Every scenario against every backend: real processes, sockets and signals.

use remuda_conformance::conformance;

mod seams;

conformance!(mio => "mio", "blocking");
conformance!(mio_async => "mio", "async", deviations: [
    ("requests_wait_for_a_handler_thread", "futures do not run on handler threads"),
    ("a_stalled_reader_ends_its_connection", "futures do not hold the handler thread that shows it"),
]);
conformance!(tokio => "tokio", "blocking");
conformance!(tokio_async => "tokio", "async", deviations: [
    ("requests_wait_for_a_handler_thread", "futures do not run on handler threads"),
    ("a_stalled_reader_ends_its_connection", "futures do not hold the handler thread that shows it"),
]);
