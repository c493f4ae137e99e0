//! A connection that changes its owner behaves as if it had not (D19).

use super::*;
use crate::conn::Connection;
use crate::handoff::ConnectionRecord;
use crate::machine::CloseReason;
use crate::session::Protocol;
use crate::shutdown::{ConnState, Drain, Handoff, Reason};
use crate::testing::{Event, START, ms};

/// The record of `bench`'s connection, if it can move.
fn record(bench: &Bench) -> Option<ConnectionRecord> {
    bench.session.as_ref().expect("it is there").hand_off(bench.world.now)
}

#[test]
fn a_connection_can_move_between_any_two_bytes() {
    let script = get("/?1") + &get("/?2");
    let whole = short_bench().bytes(0, &script).at(1, Event::Eof).run();
    for cut in 0..=script.len() {
        let mut first = short_bench().bytes(0, &script[..cut]);
        first.until(10);
        let before = first.transcript();
        let record = record(&first).expect("a short answer is never under way");

        let tester = Tester { short: true, ..Tester::default() };
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
fn the_record_is_complete() {
    let mut fresh = bench().bytes(0, "");
    fresh.until(100);
    let fresh = record(&fresh).expect("a fresh connection moves");
    assert_eq!((fresh.version, fresh.served, fresh.draw), (ConnectionRecord::VERSION, 0, 7));
    assert_eq!((fresh.idle_since, fresh.head_since, fresh.unread.len()), (None, None, 0));

    let mut head = bench().bytes(50, "GET / HT");
    head.until(100);
    let head = record(&head).expect("part of a head moves");
    assert_eq!(head.head_since, Some(START + ms(50)));
    assert_eq!(head.unread, "GET / HT");

    let mut idle = bench().bytes(50, get("/"));
    idle.until(100);
    let idle = record(&idle).expect("an idle connection moves");
    assert_eq!((idle.served, idle.unread.len()), (1, 0));
    assert_eq!(idle.idle_since, Some(START + ms(50)));
}

#[test]
fn a_resumed_connection_keeps_its_state_and_deadlines() {
    let resumed = |script: &str, until: u64| {
        let mut first = bench().bytes(0, script);
        first.until(until);
        let (state, record) = (first.connection().state(), record(&first).expect("it moves"));
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
fn busy_and_ended_connections_cannot_move() {
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
        assert!(record(&bench).is_none(), "{:?}", bench.transcript());
    }
}

fn moving(bench: Bench) -> Bench {
    let drain = Drain::new(Reason::RecycleAsked, START + ms(1000), START + ms(8000)).with_receiver();
    bench.policy(Handoff::default()).at(1000, Event::Drain(drain))
}

/// Runs `bench` to its end, and answers each attempt to move with no room for `pause`.
fn hold_back(bench: &mut Bench, pause: u64, until: u64) -> u32 {
    let mut attempts = 0;
    while bench.now() < until && bench.reason.is_none() {
        bench.go(START + ms(until));
        if !std::mem::take(&mut bench.leaving) {
            break;
        }
        attempts += 1;
        let now = bench.world.now;
        bench.session.as_mut().expect("it is there").delay_handoff(now + ms(pause));
    }
    attempts
}

#[test]
fn d19_a_busy_connection_moves_after_its_response() {
    let body = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab";
    for bench in [bench(), short_bench()] {
        let mut bench = moving(bench).bytes(0, body).bytes(2000, "cd");
        let transcript = bench.run();
        assert!(transcript.out.ends_with("abcd") && !transcript.out.contains(CLOSE), "{}", transcript.out);
        assert_eq!((bench.leaving, bench.now()), (true, 2000));
    }
}

#[test]
fn d19_complete_heads_are_answered_and_the_rest_moves() {
    let bench = moving(short_bench()).bytes(999, get("/") + &get("/") + &get("/")[..9]);
    bench.pipe.0.borrow_mut().room = 0;
    let mut bench = bench.at(2000, Event::Room(100_000));
    let transcript = bench.run();
    assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (2, 0));
    assert_eq!((bench.leaving, bench.now()), (true, 2000), "once that is flushed");
    let record = record(&bench).expect("it moves");
    assert_eq!((record.served, &record.unread[..]), (2, &b"GET / HTT"[..]));
}

#[test]
fn d19_while_there_is_no_room_a_connection_is_served_where_it_is() {
    let mut bench = moving(short_bench()).bytes(0, get("/")).bytes(1300, get("/")).bytes(1600, get("/"));
    assert!(hold_back(&mut bench, 100, 1900) >= 7);
    let transcript = bench.transcript();
    assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (3, 0));
    let record = record(&bench).expect("it may still move");
    assert_eq!(record.served, 3);
}

#[test]
fn d19_connections_that_stay_follow_the_fallback_policy() {
    let mut bench = moving(short_bench()).bytes(0, get("/")).bytes(2500, get("/"));
    hold_back(&mut bench, 100, 2000);
    bench.session.as_mut().expect("it is there").refuse_handoff();
    assert!(record(&bench).is_none());
    let transcript = bench.run();
    assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (2, 1));
    assert_eq!(transcript.reason, Some(CloseReason::Drained));
}

#[test]
fn d19_the_deadline_ends_connections_that_never_found_room() {
    let drain = Drain::new(Reason::RecycleAsked, START + ms(1000), START + ms(1500)).with_receiver();
    let mut bench = short_bench().policy(Handoff::default()).at(1000, Event::Drain(drain)).bytes(0, get("/"));
    hold_back(&mut bench, 100, 3000);
    assert_eq!((bench.reason, bench.now()), (Some(CloseReason::DeadlineIdle), 1500));
}
