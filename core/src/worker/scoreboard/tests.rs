use super::*;
use crate::order::PolicyId;
use crate::shutdown::Drain;

#[test]
fn a_seat_says_what_its_worker_wrote() {
    let board = Scoreboard::map(2, 1, 3).unwrap();
    let seat = board.seat(1).unwrap();
    assert_eq!(seat.read(), None, "nobody sits there");
    seat.sit(5);
    let entry = seat.read().unwrap();
    assert_eq!((entry.pid, entry.generation, entry.phase), (std::process::id(), 5, Phase::Booting));

    seat.enter(Phase::Draining, Some(Reason::ArbiterDied));
    seat.beat(Time::from_nanos(77), 4, &Watch::new().unwrap());
    seat.counters().requests.increment();
    let _serving = seat.hands().on_thread(b"GET /", Time::from_nanos(70));
    let entry = board.seat(1).unwrap().read().unwrap();
    assert_eq!((entry.phase, entry.reason), (Phase::Draining, Some(Reason::ArbiterDied)));
    assert_eq!((entry.beat, entry.open, entry.counts.requests), (Time::from_nanos(77), 4, 1));
    assert_eq!(entry.busy.len(), 1);
    assert_eq!(board.seat(0).unwrap().read(), None, "a neighbour is not disturbed");
}

#[test]
fn a_successor_finds_its_seat_empty() {
    let board = Scoreboard::map(1, 1, 1).unwrap();
    let seat = board.seat(0).unwrap();
    seat.sit(1);
    seat.enter(Phase::Running, Some(Reason::Stop));
    seat.beat(Time::from_nanos(9), 1, &Watch::new().unwrap());
    seat.counters().closed(crate::machine::CloseReason::DeadlineCut);
    let _left_in_the_middle =
        (seat.hands().on_loop(b"GET /", Time::ZERO), seat.hands().on_thread(b"GET /", Time::ZERO));
    seat.clear();
    assert_eq!(seat.read(), None);
    seat.sit(1);
    let entry = seat.read().unwrap();
    assert_eq!((entry.phase, entry.reason, entry.beat, entry.open), (Phase::Booting, None, Time::ZERO, 0));
    assert_eq!((entry.counts, entry.busy), (Tally::default(), vec![]));
    assert!(seat.hands().on_thread(b"GET /", Time::ZERO).is_some(), "its hands are free");
}

#[test]
fn there_is_room_for_more_workers_than_at_the_start_and_no_seat_beyond() {
    let board = Scoreboard::map(1, 1, 4).unwrap();
    assert!(board.seat(ROOM as u16).is_some() && board.seat(ROOM as u16 + 1).is_none());
    let large = Scoreboard::map(2000, 8, 0).unwrap();
    assert!(large.seat(2007).is_some() && large.seat(2008).is_none());
}

#[test]
fn a_beat_after_the_deadline_shows_that_the_worker_closes() {
    let board = Scoreboard::map(1, 1, 1).unwrap();
    let (seat, watch) = (board.seat(0).unwrap(), Watch::new().unwrap());
    seat.sit(1);
    watch.enter(Drain::new(Reason::Stop, Time::ZERO, Time::from_nanos(50)), PolicyId::Stop);
    seat.enter(Phase::Draining, Some(Reason::Stop));
    let phase_at = |nanos| {
        seat.beat(Time::from_nanos(nanos), 1, &watch);
        seat.read().unwrap().phase
    };
    assert_eq!((phase_at(49), phase_at(50)), (Phase::Draining, Phase::Closing));
}
