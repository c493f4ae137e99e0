//! Each deadline by its name: what it ends, what restarts it, and that zero turns it off.

use std::time::Duration;

use super::*;
use crate::machine::{CloseReason, Timer};
use crate::testing::{Event, ms};

#[test]
fn d12_a_connection_without_a_byte_ends_at_the_header_timeout() {
    let mut bench = bench();
    assert_eq!(bench.run().reason, Some(CloseReason::IdleTimeout));
    assert_eq!((bench.now(), bench.out()), (10_000, String::new()));
}

#[test]
fn d12_progress_does_not_restart_the_time_of_a_head() {
    let mut bench = bench()
        .bytes(1000, "\r\n")
        .bytes(2000, "GET /")
        .bytes(6000, " HTTP/1.1\r\n")
        .bytes(11_000, "Host: a\r\n");
    assert_eq!(bench.until(11_999).out(), "");
    assert!(bench.until(12_000).out().starts_with("HTTP/1.1 408 "));
    assert!(bench.out().contains(CLOSE));
    assert_eq!(bench.run().reason, Some(CloseReason::TimedOut(Timer::Head)));
    assert_eq!(bench.now(), 14_000, "it lingers");
}

#[test]
fn d12_empty_lines_keep_no_connection_open() {
    let mut bench = (0..30).fold(bench(), |bench, n| bench.bytes(n * 500, "\r\n"));
    assert_eq!(bench.run().reason, Some(CloseReason::IdleTimeout));
    assert_eq!(bench.now(), 10_000);
}

#[test]
fn d12_the_next_head_has_the_header_timeout_too() {
    let mut bench = bench().bytes(0, get("/")).bytes(4000, "G");
    assert_eq!(bench.run().reason, Some(CloseReason::TimedOut(Timer::Head)));
    assert_eq!(bench.now(), 16_000);
}

#[test]
fn a_complete_request_is_answered_after_a_slow_reader() {
    let (first, second) = (get("/sized?70000"), get("/"));
    for cut in [second.len(), 20] {
        let (read, later) = second.split_at(cut);
        let mut bench = short_bench()
            .limits(|limits| limits.write_timeout = Duration::from_secs(60))
            .bytes(0, first.clone() + read)
            .bytes(100, later)
            .at(15_000, Event::Room(1_000_000));
        bench.pipe.0.borrow_mut().room = 0;
        bench.until(15_001);
        assert_eq!(count(&bench.out(), "200 OK"), 2, "{cut}");
    }
}

#[test]
fn d8_keep_alive_counts_from_the_last_flushed_byte() {
    let mut bench = bench().bytes(0, get("/")).bytes(4000, get("/"));
    assert_eq!(bench.run().reason, Some(CloseReason::IdleTimeout));
    assert_eq!(bench.now(), 9000);

    let mut slow = short_bench().bytes(0, get("/")).at(3000, Event::Room(1000));
    slow.pipe.0.borrow_mut().room = 10;
    assert_eq!(slow.run().reason, Some(CloseReason::IdleTimeout));
    assert_eq!(slow.now(), 8000);
}

#[test]
fn a_body_has_its_time_for_each_step_it_makes() {
    for short in [false, true] {
        let mut bench = bench_of(short)
            .limits(|limits| limits.body_rate = 0)
            .bytes(0, post("/echo", "1234567890").trim_end_matches("234567890"))
            .bytes(25_000, "2")
            .bytes(50_000, "3");
        let transcript = bench.run();
        assert!(transcript.out.starts_with("HTTP/1.1 408 "), "short: {short}: {}", transcript.out);
        assert_eq!(transcript.reason, Some(CloseReason::TimedOut(Timer::Body)));
        assert!(transcript.log[1].ends_with("Err(TimedOut)"), "the handler learns why: {:?}", transcript.log);
        assert_eq!(bench.now(), 82_000, "30 s after its last step, and the linger");
    }
}

#[test]
fn a_body_has_no_timeout_while_the_application_does_not_read() {
    let mut bench = bench()
        .limits(|limits| limits.body_timeout = ms(5000))
        .bytes(0, "POST /flood?200 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    bench.pipe.0.borrow_mut().room = 1000;
    assert_eq!(bench.run().reason, Some(CloseReason::TimedOut(Timer::Write)));
    assert_eq!(bench.now(), 30_000);
}

#[test]
fn a_piece_of_a_body_that_has_arrived_by_its_deadline_is_in_time() {
    for short in [false, true] {
        let mut bench = bench_of(short)
            .limits(|limits| limits.body_timeout = ms(5000))
            .bytes(0, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
            .bytes(5000, "cd");
        assert!(bench.until(5001).out().ends_with("abcd"), "{short}");
    }
}

#[test]
fn an_unread_body_has_the_body_timeout() {
    let mut bench = bench()
        .limits(|limits| limits.body_rate = 0)
        .bytes(0, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        .bytes(20_000, "half");
    assert_eq!(bench.run().reason, Some(CloseReason::TimedOut(Timer::Body)));
    assert_eq!(bench.now(), 52_000, "30 s after its last step, and the linger");
}

#[test]
fn a_response_has_its_time_for_each_step_it_makes() {
    for (short, target) in [(false, "/flood?200"), (true, "/sized?200000")] {
        let mut bench = bench_of(short)
            .limits(|limits| limits.write_rate = 0)
            .bytes(0, get(target))
            .at(20_000, Event::Room(1000));
        bench.pipe.0.borrow_mut().room = 1000;
        assert_eq!(bench.run().reason, Some(CloseReason::TimedOut(Timer::Write)));
        assert_eq!((bench.now(), bench.out().len()), (50_000, 2000), "short: {short}");
    }
}

#[test]
fn d7_lingering_ends_after_its_time_despite_more_bytes() {
    let mut bench = bench().bytes(0, get("/close")).bytes(500, "more").bytes(1900, get("/"));
    bench.until(1999);
    assert_eq!(bench.reason, None);
    assert!(bench.pipe.0.borrow().half_closed);
    assert!(bench.pipe.0.borrow().incoming.is_empty(), "arriving bytes are read");
    assert_eq!(bench.run().reason, Some(CloseReason::Finished));
    assert_eq!((bench.now(), count(&bench.out(), "HTTP/1.1")), (2000, 1));
}

#[test]
fn d7_a_lingering_connection_ends_when_its_peer_does() {
    let mut bench = bench().bytes(0, get("/close")).at(700, Event::Eof);
    assert_eq!((bench.run().reason, bench.now()), (Some(CloseReason::Finished), 700));
}

#[test]
fn d7_lingering_discards_all_bytes_unless_limited() {
    for (limit, end) in [(0, 2000), (4 << 20, 700)] {
        let bench = bench().limits(|limits| {
            if limit > 0 {
                limits.linger_size = limit
            }
        });
        let mut bench = bench.bytes(0, get("/close")).bytes(700, vec![0; 5 << 20]);
        assert_eq!((bench.run().reason, bench.now()), (Some(CloseReason::Finished), end));
        assert_eq!(bench.pipe.0.borrow().incoming.len() > 1_000_000, limit > 0);
    }
}

#[test]
fn zero_turns_a_deadline_off() {
    let all_off = |bench: Bench| {
        bench.limits(|limits| {
            limits.header_timeout = Duration::ZERO;
            limits.body_timeout = Duration::ZERO;
            limits.write_timeout = Duration::ZERO;
        })
    };
    for script in ["", "GET", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"] {
        assert_eq!(all_off(short_bench()).bytes(0, script).run().reason, None, "{script:?}");
    }
    let mut full = all_off(short_bench()).bytes(0, get("/sized?100000"));
    full.pipe.0.borrow_mut().room = 0;
    assert_eq!(full.run().reason, None);
}

#[test]
fn a_keep_alive_of_zero_closes_after_each_response() {
    let mut bench = bench().limits(|limits| limits.keep_alive = Duration::ZERO).bytes(0, get("/").repeat(2));
    let transcript = bench.run();
    assert_eq!(transcript.reason, Some(CloseReason::Finished));
    assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (1, 1));
}

#[test]
fn a_linger_of_zero_closes_at_once() {
    let mut bench = bench().limits(|limits| limits.linger = Duration::ZERO).bytes(0, get("/close"));
    assert_eq!((bench.run().reason, bench.now()), (Some(CloseReason::Finished), 0));
    assert!(!bench.pipe.0.borrow().half_closed);
}
