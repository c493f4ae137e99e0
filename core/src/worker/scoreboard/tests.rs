use super::*;
use crate::app::{InFlight, SHOWN};

#[test]
fn a_seat_shows_what_its_worker_has_written() {
    let board = Scoreboard::map(2, 1, 3).unwrap();
    let seat = board.seat(1).unwrap();
    assert_eq!(seat.read(), None, "the seat is empty");
    seat.occupy(5);
    let entry = seat.read().unwrap();
    assert_eq!((entry.pid, entry.generation, entry.phase), (std::process::id(), 5, Phase::Booting));

    seat.enter(Phase::Draining, Some(Reason::ArbiterDied));
    seat.beat(Time::from_nanos(77), 4, None);
    seat.counters().requests.increment();
    let _serving = seat.activities().on_thread(b"GET /", Time::from_nanos(70));
    let entry = board.seat(1).unwrap().read().unwrap();
    assert_eq!((entry.phase, entry.reason), (Phase::Draining, Some(Reason::ArbiterDied)));
    assert_eq!((entry.beat, entry.open, entry.counts.requests), (Time::from_nanos(77), 4, 1));
    assert_eq!(entry.busy.len(), 1);
    assert_eq!(board.seat(0).unwrap().read(), None, "the other seat is unchanged");
}

#[test]
fn an_exchange_that_is_called_again_is_seen_once_and_counted_once() {
    let board = Scoreboard::map(1, 1, 2).unwrap();
    let seat = board.seat(0).unwrap();
    seat.occupy(1);
    let in_flight = InFlight::new(seat.board());
    let at = Time::from_nanos;
    let waits = in_flight.enter(b"GET /waits", at(20), Doing::Waiting).unwrap();
    in_flight.enter(b"POST /body", at(30), Doing::Receiving);
    let _thread = seat.activities().on_thread(b"GET /thread", at(40));
    let busy = || {
        let entry = seat.read().unwrap();
        let seen =
            |busy: Busy| (busy.request.unwrap(), busy.since.as_nanos(), busy.running.map(Time::as_nanos));
        (entry.handlers, entry.unseen(), entry.busy.into_iter().map(seen).collect::<Vec<_>>())
    };
    let thread = ("GET /thread".to_owned(), 40, Some(40));
    let body = ("POST /body".to_owned(), 30, None);
    assert_eq!(busy(), (2, 0, vec![thread.clone(), ("GET /waits".to_owned(), 20, None), body.clone()]));
    let again = seat.activities().on_loop_again(b"GET /waits", at(50), waits.since, waits.number);
    assert_eq!(busy(), (2, 0, vec![("GET /waits".to_owned(), 20, Some(50)), thread.clone(), body.clone()]));
    drop(again);
    for n in 0..100 {
        in_flight.enter(b"GET /more", at(60 + n), Doing::Waiting);
    }
    let (handlers, unseen, seen) = busy();
    assert_eq!((handlers, unseen, seen.len()), (102, 102 - 1 - 31, 1 + SHOWN));
}

#[test]
fn the_next_worker_finds_its_seat_empty() {
    let board = Scoreboard::map(1, 1, 1).unwrap();
    let seat = board.seat(0).unwrap();
    seat.occupy(1);
    seat.enter(Phase::Running, Some(Reason::Stop));
    seat.beat(Time::from_nanos(9), 1, None);
    seat.counters().closed(crate::machine::CloseReason::DeadlineCut);
    let _left_in_the_middle =
        (seat.activities().on_loop(b"GET /", Time::ZERO), seat.activities().on_thread(b"GET /", Time::ZERO));
    InFlight::new(seat.board()).enter(b"GET /", Time::ZERO, Doing::Waiting);
    seat.clear();
    assert_eq!(seat.read(), None);
    seat.occupy(1);
    let entry = seat.read().unwrap();
    assert_eq!((entry.phase, entry.reason, entry.beat, entry.open), (Phase::Booting, None, Time::ZERO, 0));
    assert_eq!((entry.counts, entry.handlers, entry.busy), (Tally::default(), 0, vec![]));
    assert!(seat.activities().on_thread(b"GET /", Time::ZERO).is_some(), "its activities are free");
}

#[test]
fn there_are_seats_for_later_workers_and_none_beyond() {
    let board = Scoreboard::map(1, 1, 4).unwrap();
    assert!(board.seat(ROOM as u16).is_some() && board.seat(ROOM as u16 + 1).is_none());
    let large = Scoreboard::map(2000, 8, 0).unwrap();
    assert!(large.seat(2007).is_some() && large.seat(2008).is_none());
}

#[test]
fn a_beat_after_the_deadline_shows_that_the_worker_closes() {
    let board = Scoreboard::map(1, 1, 1).unwrap();
    let seat = board.seat(0).unwrap();
    seat.occupy(1);
    let drain = Drain::new(Reason::Stop, Time::ZERO, Time::from_nanos(50));
    seat.enter(Phase::Draining, Some(Reason::Stop));
    let phase_at = |nanos| {
        seat.beat(Time::from_nanos(nanos), 1, Some(drain));
        seat.read().unwrap().phase
    };
    assert_eq!((phase_at(49), phase_at(50)), (Phase::Draining, Phase::Closing));
}
