//! What a look at the transport saves when a deadline has passed while the worker was frozen or
//! busy (D21).

use std::time::Duration;

use super::futures::{served, tester};
use super::*;
use crate::machine::{CloseReason, Step, Timer};
use crate::proxy::ProxyProtocol;
use crate::shutdown::{CloseIdle, ConnState, Drain, Grace, Reason};
use crate::testing::{Event, START, ms};

const IDLE: Option<CloseReason> = Some(CloseReason::IdleTimeout);
const LATE_HEAD: Option<CloseReason> = Some(CloseReason::TimedOut(Timer::Head));

fn halves(request: &str) -> (&str, &str) {
    request.split_at(12)
}

#[test]
fn d21_a_request_on_an_idle_or_fresh_connection_is_served() {
    let mut idle = bench().bytes(0, get("/")).frozen(100, 6000, get("/"));
    assert_eq!(count(&idle.run().out, "200 OK"), 2);
    let mut fresh = bench().frozen(100, 11_000, get("/"));
    assert_eq!(count(&fresh.run().out, "200 OK"), 1);
}

#[test]
fn d21_silence_ends_at_its_deadline_frozen_or_not() {
    let mut idle = bench().bytes(0, get("/")).frozen(100, 6000, "");
    assert_eq!((idle.run().reason, idle.now()), (IDLE, 6000));
    let mut fresh = bench().frozen(100, 11_000, "\r\n");
    assert_eq!((fresh.run().reason, fresh.now()), (IDLE, 11_000), "empty lines are silence");
}

/// The time of the head begins with the missed deadline, so a freeze gains no time.
#[test]
fn d21_a_head_begun_in_time_counts_from_the_missed_deadline() {
    let request = get("/");
    let (begun, rest) = halves(&request);
    for (rest_at, served) in [(14_999, true), (15_001, false)] {
        let mut bench = bench().bytes(0, get("/")).frozen(100, 6000, begun).bytes(rest_at, rest);
        let transcript = bench.run();
        assert_eq!(count(&transcript.out, "200 OK"), if served { 2 } else { 1 }, "{rest_at}");
        assert_eq!(transcript.reason == LATE_HEAD, !served, "{rest_at}");
    }
    let mut fresh = bench().frozen(100, 11_000, begun);
    assert_eq!((fresh.run().reason, fresh.now()), (LATE_HEAD, 22_000), "20 s, and the linger");
    let mut long = bench().bytes(0, get("/")).frozen(100, 16_000, begun);
    assert_eq!((long.run().reason, long.now()), (LATE_HEAD, 18_000), "the head's time is over as well");
}

#[test]
fn d21_a_head_is_saved_only_if_it_is_complete_now() {
    let request = get("/");
    let (begun, rest) = halves(&request);
    let mut whole = bench().bytes(0, begun).frozen(100, 11_000, rest);
    assert_eq!(count(&whole.run().out, "200 OK"), 1);
    let mut drip = bench().bytes(0, begun).frozen(100, 11_000, &rest[..3]);
    assert_eq!((drip.run().reason, drip.now()), (LATE_HEAD, 13_000));
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(8000));
    let mut large = bench().bytes(0, &large[..12]).frozen(100, 11_000, &large[12..]);
    assert_eq!(count(&large.run().out, "200 OK"), 1, "a look goes on until there is nothing more");
}

#[test]
fn d21_a_proxy_header_needs_a_complete_head_after_it() {
    let request = "PROXY UNKNOWN\r\n".to_owned() + &get("/");
    let (begun, rest) = halves(&request);
    let proxied =
        || bench().limits(|limits| limits.proxies.proxy_protocol = ProxyProtocol::V1).bytes(0, begun);
    let mut whole = proxied().frozen(100, 11_000, rest);
    assert_eq!(count(&whole.run().out, "200 OK"), 1, "{}", whole.out());
    let mut half = proxied().frozen(100, 11_000, &rest[..8]);
    assert_eq!((half.run().reason, half.now()), (LATE_HEAD, 13_000));
}

#[test]
fn d21_a_body_that_went_on_is_waited_for_again() {
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab";
    let quick = |bench: Bench| {
        bench.limits(|limits| (limits.body_timeout, limits.body_rate) = (ms(5000), 0)).bytes(0, head)
    };
    for (kind, make) in KINDS {
        let mut whole = quick(make()).frozen(100, 6000, "cd");
        assert!(whole.until(6001).out().ends_with("abcd"), "{kind}: {}", whole.out());
        let mut more = quick(make()).frozen(100, 6000, "c").bytes(10_999, "d");
        assert!(more.until(11_000).out().ends_with("abcd"), "{kind}: a pause has ended: {}", more.out());
        let mut stalled = quick(make()).frozen(100, 6000, "");
        let out = stalled.until(6001).out();
        assert!(out.contains("408 ") || out.ends_with("ignored"), "{kind}: {out}");
    }
}

type Make = fn() -> Bench;
const KINDS: [(&str, Make); 3] = [("blocking", bench), ("short", short_bench), ("future", future_bench)];

fn future_bench() -> Bench {
    served(tester)
}

#[test]
fn d21_a_response_that_was_read_meanwhile_is_not_cut() {
    for ((kind, make), target) in KINDS.into_iter().zip(["/flood?100", "/sized?100000", "/stream?10000"]) {
        let tight = |room| {
            let bench = make().limits(|limits| limits.write_timeout = ms(5000)).bytes(0, get(target));
            bench.pipe.0.borrow_mut().room = 1000;
            bench.at(100, Event::Freeze { until: 6000, came: Vec::new(), room })
        };
        let mut taken = tight(1_000_000);
        assert!(taken.until(6001).out().len() > 100_000, "{kind}");
        assert_eq!(taken.reason, None, "{kind}");
        assert_eq!(tight(0).run().reason, Some(CloseReason::TimedOut(Timer::Write)), "{kind}");
    }
}

#[test]
fn d21_a_lingering_connection_is_read_before_it_closes() {
    let mut bench = bench().bytes(0, get("/close")).frozen(100, 3000, "more");
    assert_eq!((bench.run().reason, bench.now()), (Some(CloseReason::Finished), 3000));
    assert!(bench.pipe.0.borrow().incoming.is_empty(), "closing with bytes unread is a reset");
}

#[test]
fn d21_a_policys_deadline_looks_as_well() {
    let request = get("/");
    let grace = || bench().policy(Grace(ms(1000))).bytes(0, get("/")).drain(500, 60_000);
    let mut whole = grace().frozen(600, 1500, &request);
    assert_eq!(count(&whole.run().out, CLOSE), 1, "{}", whole.out());
    let mut half = grace().frozen(600, 1500, halves(&request).0);
    assert_eq!((half.run().reason, half.now()), (LATE_HEAD, 13_000), "from the missed deadline on");
    let mut silent = grace().frozen(600, 1500, "");
    assert_eq!((silent.run().reason, silent.now()), (Some(CloseReason::DrainIdle), 1500));

    let mut at_once = bench().policy(CloseIdle).bytes(0, get("/"));
    at_once.until(100);
    at_once.pipe.0.borrow_mut().incoming.extend(get("/").bytes());
    at_once.world.drain = Some(Drain::new(Reason::Stop, START + ms(100), START + ms(60_000)));
    assert_eq!(count(&at_once.run().out, "200 OK"), 2, "it came before the order");
}

#[test]
fn d21_a_future_gets_timely_bytes_before_its_timeout() {
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab";
    let limited = || future_bench().limits(|limits| limits.request_timeout = ms(1000)).bytes(0, head);
    let mut whole = limited().frozen(100, 1500, "cd");
    assert!(whole.until(1501).out().ends_with("abcd"), "{}", whole.out());
    let mut half = limited().frozen(100, 1500, "c");
    assert!(half.until(1501).out().starts_with("HTTP/1.1 503 "), "{}", half.out());
}

#[test]
fn d21_a_late_connection_is_read_before_its_deadline_counts() {
    let record = {
        let mut bench = bench().bytes(0, get("/"));
        bench.until(0);
        bench.connection().hand_off(START).expect("it may move")
    };
    let resumed = |came: &str| {
        let tester = Tester::default();
        let mut bench = Bench::resuming(tester, |_| crate::conn::Connection::resume(record.clone(), START));
        bench.world.now = START + ms(7000);
        bench.pipe.0.borrow_mut().incoming.extend(came.bytes());
        // A runtime that does not know the socket yet.
        bench.pipe.0.borrow_mut().untold = true;
        bench
    };
    assert_eq!(count(&resumed(&get("/")).run().out, "200 OK"), 1);
    assert_eq!(resumed("").run().reason, IDLE);
}

/// A wait whose deadline lies ahead asks for no look, however often it is stepped.
#[test]
fn a_look_is_asked_for_by_a_deadline_that_has_passed_alone() {
    let mut bench = bench().bytes(0, get("/"));
    bench.until(4999);
    let calls = bench.pipe.0.borrow().calls;
    bench.until(4999);
    assert_eq!(bench.pipe.0.borrow().calls, calls, "nothing is tried");
    bench.world.now = START + Duration::from_secs(5);
    let cx = bench.world.cx();
    let session = bench.session.as_mut().expect("it is here");
    let step = crate::machine::Machine::step(session, &cx);
    assert!(matches!(step, Step::Look { interest } if interest.read && !interest.write), "{step:?}");
    assert_eq!(session.connection().unwrap().state(), ConnState::Idle);
    assert_eq!(crate::machine::Machine::step(session, &cx), Step::Close(CloseReason::IdleTimeout));
    bench.until(5000);
}
