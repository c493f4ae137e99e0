//! A connection that changes its owner goes on as if it had not (D19).

use super::*;
use crate::conn::Connection;
use crate::handoff::HandOff;
use crate::machine::CloseReason;
use crate::shutdown::ConnState;
use crate::testing::Event;

/// The record of `bench`'s connection, if it can move.
fn record(bench: &mut Bench) -> Option<HandOff> {
    bench.session.take().expect("it is there").into_hand_off().ok()
}

#[test]
fn a_connection_that_moves_between_any_two_bytes_answers_as_it_would_have() {
    let script = get("/?1") + &get("/?2");
    let whole = short_bench().bytes(0, &script).at(1, Event::Eof).run();
    for cut in 0..=script.len() {
        let mut first = short_bench().bytes(0, &script[..cut]);
        first.until(10);
        let before = first.transcript();
        let record = record(&mut first).expect("a short answer is never under way");

        let tester = Tester { log: Log::default(), short: true };
        let log = tester.log.clone();
        let mut second = Bench { log, ..Bench::resuming(tester, |now| Connection::resume(record, now)) }
            .bytes(20, &script[cut..])
            .at(30, Event::Eof);
        let after = second.run();
        assert_eq!(before.out + &after.out, whole.out, "moved at {cut}");
        assert_eq!([before.log, after.log].concat(), whole.log, "moved at {cut}");
        assert_eq!(after.reason, whole.reason, "moved at {cut}");
    }
}

#[test]
fn the_record_says_all_that_the_successor_needs() {
    let mut fresh = bench().bytes(0, "");
    fresh.until(100);
    let fresh = record(&mut fresh).expect("a fresh connection moves");
    assert_eq!((fresh.version, fresh.served, fresh.draw), (HandOff::VERSION, 0, 7));
    assert_eq!((fresh.idle_since, fresh.head_since, fresh.unread.len()), (None, None, 0));

    let mut head = bench().bytes(50, "GET / HT");
    head.until(100);
    let head = record(&mut head).expect("part of a head moves");
    assert_eq!(head.head_since, Some(crate::testing::START + crate::testing::ms(50)));
    assert_eq!(head.unread, "GET / HT");

    let mut idle = bench().bytes(50, get("/"));
    idle.until(100);
    let idle = record(&mut idle).expect("an idle connection moves");
    assert_eq!((idle.served, idle.unread.len()), (1, 0));
    assert_eq!(idle.idle_since, Some(crate::testing::START + crate::testing::ms(50)));
}

#[test]
fn a_resumed_connection_is_what_it_was_and_has_the_time_it_had() {
    let resumed = |script: &str, until: u64| {
        let mut first = bench().bytes(0, script);
        first.until(until);
        let (state, record) = (first.connection().state(), record(&mut first).expect("it moves"));
        let mut second = Bench::resuming(Tester::default(), |now| Connection::resume(record, now));
        second.world.now = first.world.now;
        assert_eq!(second.connection().state(), state);
        (state, second.run().reason, second.now())
    };
    assert_eq!(resumed("", 3000), (ConnState::Fresh, Some(CloseReason::IdleTimeout), 10_000));
    assert_eq!(resumed(&get("/"), 3000), (ConnState::Idle, Some(CloseReason::IdleTimeout), 5000));
    let (state, _, end) = resumed("GET", 3000);
    assert_eq!((state, end), (ConnState::Head, 12_000), "408 at 10 s, then the linger");
}

#[test]
fn what_is_under_way_or_over_cannot_move() {
    let full = |bench: Bench| {
        bench.pipe.0.borrow_mut().room = 0;
        bench
    };
    let half = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf";
    for mut bench in [
        short_bench().bytes(0, half),
        full(short_bench()).bytes(0, get("/")),
        short_bench().bytes(0, half.replace("/echo", "/")).bytes(1, "x"),
        bench().bytes(0, half.replace("/echo", "/")),
        bench().bytes(0, get("/close")),
        bench().at(0, Event::Eof),
    ] {
        bench.until(10);
        assert!(record(&mut bench).is_none(), "{:?}", bench.transcript());
    }
}
