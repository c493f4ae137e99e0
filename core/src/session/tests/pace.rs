//! Peers that make progress, but too slowly.

use std::time::Duration;

use super::*;
use crate::config::Limits;
use crate::machine::{CloseReason, Timer};
use crate::pump::Readiness;
use crate::testing::{Event, START, ms};

/// Five seconds, and a second for every hundred bytes.
fn slow(limits: &mut Limits) {
    (limits.body_timeout, limits.write_timeout) = (ms(5000), ms(5000));
    (limits.body_rate, limits.write_rate) = (100, 100);
}

/// `bytes`, and then `more` of them each second, `times` times.
fn trickle(bench: Bench, times: u64, more: usize) -> Bench {
    (1..=times).fold(bench, |bench, n| bench.bytes(n * 1000, "x".repeat(more)))
}

/// Room for `more` bytes each second, `times` times.
fn taken(bench: Bench, times: u64, more: usize) -> Bench {
    bench.pipe.0.borrow_mut().room = 0;
    (1..=times).fold(bench, |bench, n| bench.at(n * 1000, Event::Room(more)))
}

fn announced(target: &str, len: usize) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n")
}

#[test]
fn a_trickling_body_ends_as_a_stalled_one() {
    for short in [false, true] {
        let mut bench = trickle(bench_of(short).limits(slow).bytes(0, announced("/echo", 1000)), 60, 10);
        let transcript = bench.run();
        assert!(transcript.out.starts_with("HTTP/1.1 408 "), "short: {short}: {}", transcript.out);
        assert_eq!(transcript.reason, Some(CloseReason::TimedOut(Timer::Body)));
        assert!(transcript.log[1].ends_with("Err(TimedOut)"), "the handler learns why: {:?}", transcript.log);
        assert_eq!(bench.now(), 5500 + 2000, "50 bytes have bought half a second, and it lingers");
    }
}

#[test]
fn a_body_at_the_least_rate_may_take_as_long_as_it_is() {
    for short in [false, true] {
        let mut bench = trickle(bench_of(short).limits(slow).bytes(0, announced("/echo", 6000)), 60, 100);
        assert_eq!(count(&bench.until(60_000).out(), "200 OK"), 1, "{short}");
    }
}

#[test]
fn bytes_that_arrive_with_the_head_count_for_the_body() {
    let begun = announced("/echo", 1000) + &"x".repeat(500);
    let mut bench = trickle(bench().limits(slow).bytes(0, begun), 60, 1);
    assert_eq!(bench.run().reason, Some(CloseReason::TimedOut(Timer::Body)));
    assert_eq!(bench.now(), 5000 + 5100 + 2000);
}

#[test]
fn a_body_is_not_waited_for_while_its_application_does_not_read() {
    // The application writes a byte for each that it reads, and waits until the peer reads it.
    let mut bench = taken(bench().limits(slow).bytes(0, announced("/pipe", 20_000)), 100, 2000);
    bench = bench.limits(|limits| limits.body_rate = 1_000_000).bytes(1, "x".repeat(19_900));
    bench = bench.bytes(30_000, "x".repeat(100));
    assert_eq!(count(&bench.until(70_000).out(), "\r\n0\r\n"), 1, "{:?}", bench.reason);
}

/// Bytes that arrived before a frozen worker continues are read, and extend the time. The time
/// before the freeze was used up.
#[test]
fn the_time_of_a_freeze_ends_no_body_or_response() {
    for (next, status) in [(1900, "200 OK"), (2100, "408 ")] {
        let mut bench = short_bench().limits(slow).bytes(0, announced("/echo", 400));
        bench = bench.bytes(1000, "x".repeat(100)).bytes(60_000 + next, "x".repeat(200));
        bench.until(1000);
        bench.pipe.0.borrow_mut().incoming.extend("x".repeat(100).into_bytes());
        bench.world.now = START + ms(61_000);
        bench.io.ready(Readiness { readable: true, ..Readiness::default() });
        assert_eq!(count(&bench.until(70_000).out(), status), 1, "{next}: {:?}", bench.reason);
    }
}

#[test]
fn an_unread_body_has_the_same_minimum_rate() {
    let mut bench = trickle(bench().limits(slow).bytes(0, announced("/", 1000)), 60, 10);
    assert_eq!(bench.run().reason, Some(CloseReason::TimedOut(Timer::Body)));
    assert_eq!((bench.now(), count(&bench.out(), "200 OK")), (5500 + 2000, 1));
}

#[test]
fn a_response_that_is_read_too_slowly_is_cut() {
    for (short, target) in [(false, "/flood?200"), (true, "/sized?200000")] {
        let mut bench = taken(bench_of(short).limits(slow).bytes(0, get(target)), 60, 10);
        assert_eq!(bench.run().reason, Some(CloseReason::TimedOut(Timer::Write)));
        assert_eq!((bench.now(), bench.out().len()), (5500, 50), "short: {short}");
    }
}

#[test]
fn a_response_read_at_the_minimum_rate_is_not_cut() {
    let mut bench = taken(short_bench().limits(slow).bytes(0, get("/sized?6000")), 70, 100);
    assert!(bench.until(63_000).out().len() > 6000);
    assert_eq!(bench.reason, None);
}

#[test]
fn the_pace_of_a_response_starts_anew_after_the_last_one() {
    let mut bench = (0..4).fold(short_bench().limits(slow), |bench, n| {
        bench.bytes(n * 4000, get("/")).at(n * 4000 + 3900, Event::Room(1000))
    });
    bench.pipe.0.borrow_mut().room = 0;
    assert_eq!(count(&bench.until(16_000).out(), "200 OK"), 4);
}

#[test]
fn pipelining_gains_no_time_for_unread_responses() {
    let requests = get("/").repeat(1000);
    let mut bench = short_bench().limits(slow).bytes(0, requests);
    bench.pipe.0.borrow_mut().room = 0;
    bench = (1..=25).fold(bench, |bench, n| bench.at(n * 4000, Event::Room(200)));
    assert_eq!(bench.run().reason, Some(CloseReason::TimedOut(Timer::Write)));
    assert_eq!(bench.now(), 7000, "it has taken 200 bytes by then");
}

#[test]
fn a_connection_that_has_changed_the_protocol_may_be_quiet() {
    let mut bench = trickle(bench().limits(slow).bytes(0, upgrade()), 100, 1).at(101_000, Event::Eof);
    assert_eq!(bench.run().reason, Some(CloseReason::UpgradeEnded));
    assert_eq!((bench.now(), bench.out().matches('x').count()), (101_000, 100));
}

#[test]
fn a_mostly_quiet_stream_is_not_cut() {
    // The handler writes a line for each byte of its body, as slowly as it wants.
    let bench = bench().limits(slow).limits(|limits| limits.body_timeout = Duration::ZERO);
    let mut bench = trickle(bench.bytes(0, announced("/events", 1000)), 100, 1);
    assert_eq!(count(&bench.until(100_500).out(), "event\n"), 100);
    assert_eq!(bench.reason, None);
}

#[test]
fn zero_turns_a_rate_off() {
    let off = |limits: &mut Limits| (limits.body_rate, limits.write_rate) = (0, 0);
    let mut body = trickle(bench().limits(slow).limits(off).bytes(0, announced("/echo", 100)), 100, 1);
    assert_eq!(count(&body.until(100_000).out(), "200 OK"), 1);
    let mut response = taken(short_bench().limits(slow).limits(off).bytes(0, get("/sized?1000")), 100, 5);
    assert_eq!((response.until(100_500).out().len(), response.reason), (500, None));
}
