use remuda_core::worker::Scoreboard;

use super::*;

#[test]
fn the_requests_of_a_worker_are_named_in_a_bounded_line() {
    let board = Scoreboard::map(1, 1, 40).unwrap();
    let seat = board.seat(0).unwrap();
    seat.occupy(1);
    let at = Time::from_nanos(9_000_000_000);
    let told = || {
        let entry = seat.read().unwrap();
        all_served(&entry.busy, entry.unseen(), at)
    };
    assert_eq!(told(), "nothing");
    let hands = seat.activities();
    let begin = |n: u64| Time::from_nanos(n * 1_000_000_000);
    let _loop = hands.on_loop(b"GET /report", begin(1));
    assert_eq!(told(), "GET /report for 8.0s on its loop");
    let _threads: Vec<_> = (0..20).map(|_| hands.on_thread(b"GET /t", begin(7))).collect();
    let line = told();
    assert_eq!(line.matches("GET /t for 2.0s on a thread").count(), 15, "{line}");
    assert!(line.ends_with(", and 5 more"), "{line}");
}
