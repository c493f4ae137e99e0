//! The drain contract, rule by rule.

use std::time::Duration;

use super::*;
use crate::machine::{CloseReason, Machine, Move, Step, Wire};
use crate::shutdown::{Announce, ConnState, ConnView, Drain, Idle, Phase, Reason, ShutdownPolicy};
use crate::testing::{Event, START, ms};
use crate::time::Time;

/// A policy with two fixed answers.
#[derive(Clone, Copy, Debug)]
struct Says(Idle, Announce);

impl ShutdownPolicy for Says {
    fn idle(&self, _: &Drain, _: &ConnView, _: Time) -> Idle {
        self.0
    }

    fn announce(&self, _: &Drain, _: &ConnView, _: Time) -> Announce {
        self.1
    }
}

const CLOSE_AT_ONCE: Says = Says(Idle::Close, Announce::Close);
const LEAVE_OPEN: Says = Says(Idle::Keep { until: Time::MAX }, Announce::KeepAlive);
const MOVE: Says = Says(Idle::Handoff, Announce::KeepAlive);

/// Closes connections that have been idle for this long.
#[derive(Debug)]
struct Grace(Duration);

impl ShutdownPolicy for Grace {
    fn idle(&self, _: &Drain, connection: &ConnView, now: Time) -> Idle {
        match connection.idle_for(now) >= self.0 {
            true => Idle::Close,
            false => Idle::Keep { until: connection.idle_since + self.0 },
        }
    }

    fn announce(&self, _: &Drain, _: &ConnView, _: Time) -> Announce {
        Announce::KeepAlive
    }
}

const LATER: &str = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab";

#[test]
fn d5_close_is_decided_when_the_head_is_encoded() {
    for short in [false, true] {
        let mut bench = bench_of(short).bytes(0, LATER).drain(1000, 60_000).bytes(2000, "cd");
        let transcript = bench.run();
        assert_eq!(count(&transcript.out, CLOSE), 1);
        assert!(transcript.out.ends_with("abcd"));
        assert_eq!(transcript.reason, Some(CloseReason::Drained));
    }
}

#[test]
fn d5_a_head_that_was_sent_before_keeps_its_word() {
    let mut bench = bench()
        .bytes(0, LATER.replace("/echo", "/pipe"))
        .drain(1000, 60_000)
        .bytes(2000, "cd")
        .bytes(3000, get("/"));
    bench.until(2500);
    assert_eq!((count(&bench.out(), CLOSE), bench.connection().state()), (0, ConnState::Idle));
    let transcript = bench.run();
    assert!(transcript.out.ends_with("Connection: close\r\n\r\nhello"), "{}", transcript.out);
    assert_eq!((transcript.reason, bench.now()), (Some(CloseReason::Drained), 5000));
}

#[test]
fn d5_a_begun_head_is_finished_under_every_policy() {
    let (begun, rest) = (&get("/")[..9], &get("/")[9..]);
    let mut bench = bench().policy(CLOSE_AT_ONCE).bytes(0, begun).drain(1000, 60_000).bytes(5000, rest);
    let transcript = bench.run();
    assert!(transcript.out.ends_with("Connection: close\r\n\r\nhello"));
    assert_eq!(transcript.reason, Some(CloseReason::Drained));
}

#[test]
fn d4_a_request_of_a_fresh_connection_is_served_in_a_drain() {
    let mut bench = bench().policy(CLOSE_AT_ONCE);
    bench.pipe.0.borrow_mut().incoming.extend(get("/").bytes());
    bench.world.drain = Some(Drain::new(Reason::Stop, START, START + ms(60_000)));
    let transcript = bench.run();
    assert!(transcript.out.ends_with("Connection: close\r\n\r\nhello"), "{}", transcript.out);
}

#[test]
fn a_policy_can_close_idle_and_fresh_connections_at_once() {
    for script in [String::new(), get("/")] {
        let mut bench = bench().policy(CLOSE_AT_ONCE).bytes(0, script).drain(1000, 60_000);
        assert_eq!((bench.run().reason, bench.now()), (Some(CloseReason::DrainIdle), 1000));
    }
}

#[test]
fn a_policy_is_asked_again_when_it_said() {
    let until = START + ms(3000);
    let policy = Says(Idle::Keep { until }, Announce::KeepAlive);
    let mut bench = bench().policy(policy).bytes(0, get("/")).drain(1000, 60_000);
    assert_eq!((bench.run().reason, bench.now()), (Some(CloseReason::DrainIdle), 3000));
}

#[test]
fn finish_keeps_an_idle_connection_until_its_keep_alive_is_over() {
    let mut bench = bench().bytes(0, get("/")).drain(1000, 60_000);
    assert_eq!((bench.run().reason, bench.now()), (Some(CloseReason::IdleTimeout), 5000));
}

#[test]
fn d6_the_last_of_pipelined_requests_announces() {
    for short in [false, true] {
        let mut bench = bench_of(short).drain(0, 60_000).bytes(100, get("/").repeat(3));
        let transcript = bench.run();
        assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (3, 1));
        assert!(transcript.out.ends_with("Connection: close\r\n\r\nhello"));
        assert_eq!(transcript.reason, Some(CloseReason::Drained));
    }
}

#[test]
fn d6_part_of_a_head_counts_as_a_request() {
    let three = get("/").repeat(3);
    let (read, rest) = three.split_at(three.len() - 20);
    let mut bench = bench().drain(0, 60_000).bytes(100, read).bytes(500, rest);
    bench.until(400);
    assert_eq!((count(&bench.out(), "200 OK"), count(&bench.out(), CLOSE)), (2, 0));
    let transcript = bench.run();
    assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (3, 1));
}

#[test]
fn d6_an_empty_line_after_a_request_is_no_next_request() {
    for request in [get("/"), post("/", "unread"), post("/echo", "read")] {
        let mut bench = bench().drain(0, 60_000).bytes(100, request + "\r\n");
        assert_eq!(bench.run().reason, Some(CloseReason::Drained));
    }
}

#[test]
fn d6_a_request_after_an_unread_body_counts() {
    let mut bench = bench().drain(0, 60_000).bytes(100, post("/", "unread") + &get("/"));
    let transcript = bench.run();
    assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (2, 1));
}

#[test]
fn d6_nothing_more_is_read_while_a_complete_head_is_buffered() {
    for short in [false, true] {
        let mut bench = bench_of(short).drain(0, 60_000).bytes(100, get("/").repeat(4));
        bench.pipe.0.borrow_mut().read_most = 2 * get("/").len();
        let transcript = bench.run();
        assert_eq!(
            (count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)),
            (2, 1),
            "{transcript:?}"
        );
        assert_eq!(transcript.log.len(), 2, "no request after an announced close is read");
    }
}

#[test]
fn d6_a_kept_connection_is_served_until_the_deadline() {
    let mut bench = bench()
        .policy(LEAVE_OPEN)
        .drain(0, 10_000)
        .bytes(1000, get("/"))
        .bytes(5000, get("/"))
        .bytes(9999, LATER)
        .bytes(10_000, "cd");
    let transcript = bench.run();
    assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (2, 1));
    assert!(transcript.out.contains("HTTP/1.1 503 "), "of the third: {}", transcript.out);
    assert_eq!((transcript.reason, bench.now()), (Some(CloseReason::DeadlineCut), 10_400));
}

#[test]
fn d8_idle_age_counts_from_the_last_flushed_byte() {
    let mut bench = short_bench()
        .policy(Grace(ms(1000)))
        .drain(0, 60_000)
        .bytes(100, get("/"))
        .at(3000, Event::Room(1000));
    bench.pipe.0.borrow_mut().room = 10;
    bench.until(2999);
    assert_eq!(bench.connection().state(), ConnState::Busy);
    assert_eq!((bench.run().reason, bench.now()), (Some(CloseReason::DrainIdle), 4000));
}

#[test]
fn d8_the_age_of_a_silent_connection_counts_from_accept() {
    let mut bench = bench().policy(Grace(ms(1500))).drain(1000, 60_000);
    assert_eq!((bench.run().reason, bench.now()), (Some(CloseReason::DrainIdle), 1500));
}

#[test]
fn d10_the_deadline_ends_connections_without_a_request() {
    let keep = |bench: Bench| {
        bench.limits(|limits| limits.keep_alive = ms(60_000)).policy(LEAVE_OPEN).drain(1000, 8000)
    };
    for script in [String::new(), "GET / HT".to_owned(), get("/")] {
        let mut bench = keep(bench()).bytes(0, &script);
        let transcript = bench.run();
        assert_eq!((transcript.reason, bench.now()), (Some(CloseReason::DeadlineIdle), 8000), "{script:?}");
        assert!(!transcript.out.contains("408"), "no response is sent");
    }
}

#[test]
fn d10_the_deadline_cuts_a_response_that_has_begun() {
    let mut bench = bench().bytes(0, LATER.replace("/echo", "/pipe")).drain(1000, 8000);
    let transcript = bench.run();
    assert_eq!((transcript.reason, bench.now()), (Some(CloseReason::DeadlineCut), 8000));
    assert!(transcript.out.ends_with("1\r\na\r\n1\r\nb\r\n"), "no final chunk: {}", transcript.out);
    assert!(!bench.pipe.0.borrow().half_closed, "cut");
}

#[test]
fn d10_a_handler_that_has_not_begun_by_the_deadline_is_not_begun() {
    let mut bench = bench().drain(0, 1000);
    bench.until(500);
    let session = bench.session.as_mut().expect("it is there");
    let request = get("/");
    Wire::read_buf(session)[..request.len()].copy_from_slice(request.as_bytes());
    Wire::handle_read(session, request.len(), bench.world.now);
    assert_eq!(Machine::step(session, &bench.world.cx()), Step::Move(Move::Lease));
    bench.world.now = START + ms(1000);
    let transcript = bench.run();
    assert_eq!((transcript.reason, transcript.log.len()), (Some(CloseReason::DeadlineCut), 0));
    assert_is_told(&transcript.out);
    assert!(bench.pipe.0.borrow().half_closed);
    let tally = bench.service.counters.tally();
    assert_eq!((tally.requests, tally.finished, tally.aborted, tally.cut), (1, 0, 1, 1));
}

#[test]
fn d10_an_unanswered_request_gets_503_at_the_deadline() {
    // A running handler, a short one that collects its body, and one that waits for its body.
    for (bench, called) in [(bench(), 1), (bench_of(true), 0), (Bench::new(Tester::default()).placed(), 0)] {
        let mut bench = bench.bytes(0, LATER).drain(1000, 4000);
        let transcript = bench.run();
        assert_is_told(&transcript.out);
        assert_eq!(transcript.reason, Some(CloseReason::DeadlineCut));
        assert_eq!(transcript.log.iter().filter(|line| line.starts_with("POST")).count(), called);
        let tally = bench.service.counters.tally();
        assert_eq!((tally.finished, tally.aborted, tally.cut), (0, 1, 1));
    }
}

#[track_caller]
fn assert_is_told(out: &str) {
    assert!(out.starts_with("HTTP/1.1 503 ") && count(out, CLOSE) == 1, "{out}");
}

#[test]
fn d10_after_the_deadline_lingering_lasts_400_ms_at_most() {
    let mut bench = bench().bytes(3900, get("/close")).drain(1000, 4000);
    assert_eq!((bench.run().reason, bench.now()), (Some(CloseReason::Finished), 4400));
    let mut sooner = super::bench().bytes(1000, get("/close")).drain(1000, 8000);
    assert_eq!((sooner.run().reason, sooner.now()), (Some(CloseReason::Finished), 3000));
}

#[test]
fn d12_a_silent_connection_in_a_drain_counts_as_idle() {
    let at = |keep_alive: u64, header: u64, drain: u64| {
        let mut bench = bench()
            .limits(|limits| (limits.keep_alive, limits.header_timeout) = (ms(keep_alive), ms(header)))
            .drain(drain, 60_000);
        assert_eq!(bench.run().reason, Some(CloseReason::IdleTimeout));
        bench.now()
    };
    assert_eq!(at(3000, 10_000, 1000), 3000);
    assert_eq!(at(3000, 10_000, 4000), 4000, "its idle time is over already");
    assert_eq!(at(5000, 2000, 1000), 2000);
}

#[test]
fn d13_an_upgraded_connection_sees_the_drain_and_its_deadline() {
    let mut bench =
        bench().bytes(0, upgrade()).bytes(500, "before ").drain(1000, 8000).bytes(2000, " and after");
    let transcript = bench.run();
    assert!(transcript.out.starts_with("HTTP/1.1 101 "), "{}", transcript.out);
    assert!(transcript.out.ends_with("\r\n\r\nbefore goodbye and after"), "{}", transcript.out);
    assert_eq!(transcript.log[1..], ["interrupted", "ConnectionAborted"]);
    assert_eq!((transcript.reason, bench.now()), (Some(CloseReason::DeadlineCut), 8000));
}

#[test]
fn d14_a_stream_without_end_sees_the_drain_and_ends_itself() {
    let request = "POST /events HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    let mut bench =
        bench().bytes(0, request).bytes(500, "x").drain(1000, 8000).bytes(2000, "y").at(3000, Event::Eof);
    let transcript = bench.run();
    assert!(transcript.out.ends_with("6\r\nevent\n\r\n6\r\nevent\n\r\n0\r\n\r\n"), "{}", transcript.out);
}

#[test]
fn d19_connections_without_a_request_in_flight_move() {
    let drain = Drain::new(Reason::Reload, START + ms(1000), START + ms(8000)).with_receiver();
    for script in [String::new(), "GET / HT".to_owned(), get("/")] {
        let mut bench = bench().policy(MOVE).bytes(0, &script).at(1000, Event::Drain(drain));
        bench.run();
        assert_eq!((bench.leaving, bench.now(), bench.reason), (true, 1000, None), "{script:?}");
    }
    let mut busy = bench().policy(MOVE).bytes(0, LATER).at(1000, Event::Drain(drain)).bytes(2000, "cd");
    let transcript = busy.run();
    assert_eq!((busy.leaving, busy.now(), count(&transcript.out, CLOSE)), (true, 2000, 0));
    assert!(transcript.out.ends_with("abcd"), "it is flushed first");
}

#[test]
fn d19_without_a_receiver_nothing_moves() {
    let mut bench = bench()
        .policy(MOVE)
        .limits(|limits| limits.keep_alive = ms(60_000))
        .bytes(0, get("/"))
        .drain(1000, 8000);
    assert_eq!(
        (bench.run().reason, bench.now(), bench.leaving),
        (Some(CloseReason::DeadlineIdle), 8000, false)
    );
}

#[test]
fn a_lame_duck_serves_as_before() {
    let mut drain = Drain::new(Reason::Stop, START, START + ms(8000));
    drain.phase = Phase::Lameduck;
    let mut bench =
        bench().policy(CLOSE_AT_ONCE).at(0, Event::Drain(drain)).bytes(1000, get("/")).bytes(4000, get("/"));
    let transcript = bench.run();
    assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (2, 0));
    assert_eq!((transcript.reason, bench.now()), (Some(CloseReason::IdleTimeout), 9000));
}
