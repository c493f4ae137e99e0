use super::*;

#[test]
fn shared_counters_count_in_their_own_memory() {
    let counts: &'static Counts = Box::leak(Box::default());
    let counters = Counters::shared(counts);
    counters.requests.increment();
    counters.aborted(true);
    counters.closed(CloseReason::DeadlineCut);
    let expected = Tally { requests: 1, ended: 1, aborted: 1, cut: 1, ..Tally::default() };
    assert_eq!((counts.tally(), counters.tally()), (expected, expected));
    assert_eq!(Counters::default().tally(), Tally::default());
}

#[test]
fn requests_of_an_ended_worker_count_as_aborted_or_cut() {
    // Three were finished, one refused, and one got 503 for its timeout.
    let (finished, statuses) = (3, [0, 3, 0, 1, 1, 0]);
    let left = Tally { requests: 9, finished, statuses, aborted: 1, ..Tally::default() };
    assert_eq!((left.answered(), left.in_flight()), (5, 3));
    let [mut killed, mut drained] = [left; 2];
    killed.end(false);
    assert_eq!(killed, Tally { aborted: 4, ..left });
    drained.end(true);
    assert_eq!(drained, Tally { aborted: 4, cut: 3, ..left });
}

#[test]
fn d19_a_sent_connection_counts_as_queued_until_it_is_received() {
    let counters = Counters::default();
    (0..5).for_each(|_| counters.accepted.increment());
    counters.closed(CloseReason::PeerClosed);
    (0..3).for_each(|_| counters.closed(CloseReason::HandedOff));
    let tally = counters.tally();
    assert_eq!((tally.ended, tally.handed, tally.in_queue(), tally.in_hand()), (1, 3, 3, 1));
    counters.adopted.increment();
    counters.unusable.increment();
    let mut tally = counters.tally();
    assert_eq!((tally.in_queue(), tally.in_hand()), (1, 2));
    tally.end(false);
    assert_eq!((tally.in_queue(), tally.in_hand()), (1, 0), "its connections ended with it");
    tally.adopted += 3;
    assert_eq!((tally.in_queue(), tally.in_hand()), (-2, 3), "they came from other workers");
}

#[test]
fn a_finished_request_is_counted_by_its_status_and_its_time() {
    let counts = Counts::default();
    for (status, micros) in [(200, 0), (204, 1_000), (404, 1_001), (500, 10_000_001), (999, 2_000)] {
        counts.finished(status, Duration::from_micros(micros));
    }
    let tally = counts.tally();
    assert_eq!((tally.finished, tally.statuses), (5, [0, 2, 0, 1, 1, 1]));
    assert_eq!(tally.answered(), 5, "also with a status of no class");
    assert_eq!(tally.times, [2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(tally.took, 10_004_002_000);
}

#[test]
fn tallies_add_up() {
    let one = Tally { requests: 1, panics: 2, ..Tally::default() };
    let mut sum = one;
    sum += one;
    assert_eq!(sum, Tally { requests: 2, panics: 4, ..Tally::default() });
    let counts = Counts::default();
    counts.finished(200, Duration::ZERO);
    sum += counts.tally();
    sum += counts.tally();
    assert_eq!((sum.statuses[1], sum.times[0]), (2, 2));
}
