//! Every scenario of the drain contract against this backend.

use remuda_conformance::conformance;

conformance!(per_request => "per-request", "blocking", fixture: "per-request", deviations: [
    ("a_thread_shortage_is_status_3_and_names_the_limit", "no thread is started before the first request"),
    ("d10_a_request_queued_for_a_thread_ends_at_the_deadline", "each request has a thread at once"),
    ("each_exchange_in_flight_is_shown_with_request_and_age", "the third request is to wait for a handler thread, and no request waits here"),
    ("requests_wait_for_a_handler_thread", "each request has a thread at once"),
    ("the_oldest_exchanges_are_shown_and_the_others_counted", "all but two requests are to wait for a handler thread, and no request waits here"),
    ("a_stalled_reader_ends_its_connection", "the scenario shows it by a wait for a handler thread, and no request waits here"),
]);
conformance!(per_request_async => "per-request", "async", fixture: "per-request", deviations: [
    ("a_thread_shortage_is_status_3_and_names_the_limit", "no thread is started before the first request"),
    ("requests_wait_for_a_handler_thread", "futures do not run on handler threads"),
    ("a_stalled_reader_ends_its_connection", "the scenario shows it by a held handler thread, and futures hold none"),
]);
