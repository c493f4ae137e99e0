//! Every scenario of the drain contract against this backend.

use remuda_conformance::conformance;

conformance!(per_request => "per-request", "blocking", fixture: "per-request", deviations: [
    ("requests_wait_for_a_handler_thread", "each has a thread at once"),
    ("a_stalled_reader_ends_its_connection", "nobody waits for the handler thread that shows it"),
]);
conformance!(per_request_async => "per-request", "async", fixture: "per-request", deviations: [
    ("requests_wait_for_a_handler_thread", "futures do not run on handler threads"),
    ("a_stalled_reader_ends_its_connection", "futures do not hold the handler thread that shows it"),
]);
