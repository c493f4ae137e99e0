use super::*;

fn in_flight() -> InFlight {
    let entries = Box::leak((0..Board::ENTRIES).map(|_| Activity::default()).collect());
    InFlight::new(Board::new(entries, Box::leak(Box::default())))
}

fn at(nanos: u64) -> Time {
    Time::from_nanos(nanos)
}

/// The visible exchanges: beginning, request and state.
fn seen(in_flight: &InFlight) -> Vec<(u64, String, Doing)> {
    let seen = in_flight.board.seen().into_iter();
    seen.map(|(_, busy)| (busy.since.as_nanos(), busy.request.expect("no write is in progress"), busy.doing))
        .collect()
}

#[test]
fn an_exchange_is_seen_from_when_it_waits_until_it_is_over() {
    let in_flight = in_flight();
    let first = in_flight.enter(b"GET /a", at(7), Doing::Waiting).unwrap();
    let second = in_flight.enter(b"GET /b", at(5), Doing::Receiving).unwrap();
    assert_eq!(
        seen(&in_flight),
        [(5, "GET /b".into(), Doing::Receiving), (7, "GET /a".into(), Doing::Waiting)]
    );
    assert_eq!(in_flight.board.handlers(), 1, "one handler was called");
    let first = in_flight.is_doing(first, Doing::Responding);
    in_flight.leave(second);
    assert_eq!(seen(&in_flight), [(7, "GET /a".into(), Doing::Responding)]);
    let first = in_flight.is_doing(first, Doing::Sending);
    assert_eq!(in_flight.board.handlers(), 0, "its handler is done");
    in_flight.leave(first);
    assert_eq!(seen(&in_flight), []);
}

#[test]
fn the_oldest_are_seen_and_all_are_counted() {
    let in_flight = in_flight();
    let all: Vec<_> = (0..1000)
        .map(|n| in_flight.enter(format!("GET /{n}").as_bytes(), at(1 + n), Doing::Waiting).unwrap())
        .collect();
    let is_oldest = |from: u64, len: usize| {
        let expected: Vec<_> =
            (from..).map(|n| (1 + n, format!("GET /{n}"), Doing::Waiting)).take(len).collect();
        assert_eq!(seen(&in_flight), expected);
    };
    is_oldest(0, SHOWN);
    assert_eq!(in_flight.board.handlers(), 1000);
    // From the end first, which readers do not see, and then from the beginning.
    all[900..].iter().rev().for_each(|entered| in_flight.leave(*entered));
    is_oldest(0, SHOWN);
    all[..890].iter().for_each(|entered| in_flight.leave(*entered));
    is_oldest(890, 10);
    assert_eq!(in_flight.board.handlers(), 10);
}

#[test]
fn streaming_exchanges_displace_no_unanswered_ones() {
    let in_flight = in_flight();
    for n in 0..200 {
        in_flight.enter(b"GET /events", at(1 + n), Doing::Responding);
    }
    in_flight.enter(b"GET /slow", at(500), Doing::Waiting);
    let seen = seen(&in_flight);
    assert_eq!(seen.len(), SHOWN + 1);
    assert_eq!(seen[SHOWN], (500, "GET /slow".into(), Doing::Waiting));
}

#[test]
fn an_older_exchange_displaces_the_youngest() {
    let in_flight = in_flight();
    let old = in_flight.enter(b"GET /old", at(1), Doing::Waiting).unwrap();
    for n in 0..=SHOWN as u64 {
        in_flight.enter(format!("GET /{n}").as_bytes(), at(10 + n), Doing::Responding);
    }
    let old = in_flight.is_doing(old, Doing::Responding);
    let all = seen(&in_flight);
    assert_eq!(all[0], (1, "GET /old".into(), Doing::Responding));
    assert_eq!((all.len(), all[SHOWN - 1].0), (SHOWN, 10 + SHOWN as u64 - 2));
    in_flight.leave(old);
    assert_eq!(seen(&in_flight)[SHOWN - 1].1, format!("GET /{}", SHOWN - 1), "it is visible again");
}

#[test]
fn an_exchange_cut_by_a_deadline_remains_visible() {
    let in_flight = in_flight();
    let waits = in_flight.enter(b"GET /a", at(1), Doing::Waiting);
    in_flight.cut(waits, b"GET /a", at(1));
    in_flight.cut(None, b"GET /b", at(2));
    assert_eq!(seen(&in_flight), [(1, "GET /a".into(), Doing::Cut), (2, "GET /b".into(), Doing::Cut)]);
    assert_eq!(in_flight.board.handlers(), 0);
}

#[test]
fn without_a_board_nothing_is_recorded() {
    let in_flight = InFlight::new(Board::default());
    assert_eq!(in_flight.enter(b"GET /", at(1), Doing::Waiting), None);
    in_flight.cut(None, b"GET /", at(1));
    assert_eq!((in_flight.board.seen().len(), in_flight.board.handlers()), (0, 0));
}
