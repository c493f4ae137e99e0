//! Limits on what one connection may use: memory, and the time of others.

use super::*;
use crate::config::{HIGH_WATER, READ_BUFFER, READ_BUFFER_MAX};
use crate::machine::{Machine, Step, Wire};
use crate::testing::{Event, START};

#[test]
fn a_thousand_pipelined_requests_leave_others_their_turn() {
    let mut bench = short_bench().bytes(0, get("/").repeat(1000)).at(1, Event::Eof);
    let transcript = bench.run();
    assert_eq!(count(&transcript.out, "200 OK"), 1000);
    assert!(bench.yields >= 50, "{} times", bench.yields);
}

#[test]
fn one_step_answers_no_more_than_its_budget() {
    let mut bench = short_bench().limits(|limits| limits.pipeline_budget = 3);
    let session = bench.session.as_mut().expect("it is there");
    let requests = get("/").repeat(100);
    session.read_buf()[..requests.len()].copy_from_slice(requests.as_bytes());
    session.handle_read(requests.len(), START);
    assert_eq!(session.step(&bench.world.cx()), Step::Yield);
    assert_eq!(bench.connection().served(), 3);
}

#[test]
fn a_handler_that_writes_without_end_has_one_high_water_mark_unsent() {
    for room in [0, 1, 1000] {
        let mut bench = bench().bytes(0, get("/flood?2000"));
        bench.pipe.0.borrow_mut().room = room;
        for n in 0..4000 {
            bench.schedule(START + crate::testing::ms(n), Event::Room(777));
        }
        let transcript = bench.run();
        assert!(transcript.out.ends_with("0\r\n\r\n"), "all of it arrives");
        let frame = "10000\r\n\r\n".len();
        assert!(bench.peak_unsent <= HIGH_WATER + frame, "{} bytes unsent", bench.peak_unsent);
        assert!(bench.peak_unsent >= HIGH_WATER / 2, "the mark is used");
    }
}

#[test]
fn requests_wait_while_responses_are_not_read() {
    let mut bench = short_bench().bytes(0, get("/sized?30000").repeat(100));
    bench.pipe.0.borrow_mut().room = 0;
    bench.until(1000);
    assert!(bench.connection().unsent() < HIGH_WATER + 31_000, "{}", bench.connection().unsent());
    assert!(!bench.connection().interest().read, "and nothing more is read");
}

#[test]
fn a_body_is_not_read_before_the_application_asks() {
    let mut bench =
        bench().bytes(0, "POST /flood?200 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    bench.pipe.0.borrow_mut().room = 1000;
    bench = bench.bytes(5, vec![b'b'; 1_000_000]);
    bench.run();
    assert_eq!(bench.pipe.0.borrow().incoming.len(), 1_000_000);
}

#[test]
fn a_read_buffer_is_never_larger_than_it_may_be() {
    let endless = format!("GET / HTTP/1.1\r\n{}", format!("A: {}\r\n", "a".repeat(1000)).repeat(200));
    let mut bench = short_bench()
        .limits(|limits| (limits.head, limits.fields, limits.field_size) = (usize::MAX, 10_000, 1 << 20))
        .bytes(0, endless);
    bench.until(1);
    assert!(bench.out().starts_with("HTTP/1.1 431 "), "{}", bench.out());

    let (head, body) =
        ("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n", vec![b'b'; READ_BUFFER_MAX]);
    let mut whole = short_bench().bytes(0, head).bytes(1, body).at(2, Event::Eof);
    assert_eq!(count(&whole.run().out, "200 OK"), 1, "a body that just fits");
}

#[test]
fn large_answers_are_sent_from_where_they_are() {
    let large = Bytes::from(vec![b'l'; 1 << 20]);
    let answer = large.clone();
    let handler = move |_: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>| {
        Ok(out.send(ResponseHead::new(200), answer.clone())?)
    };
    let mut bench = Bench::new(crate::app::Short(handler)).bytes(0, get("/"));
    bench.pipe.0.borrow_mut().room = 0;
    bench.until(1);
    let mut out = crate::machine::IoSlices::new();
    bench.connection().transmit(&mut out);
    assert_eq!(out.as_slices()[1].as_ptr(), large.as_ptr());
}

#[test]
fn an_idle_connection_frees_the_memory_of_a_large_head() {
    let large =
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", format!("A: {}\r\n", "a".repeat(6000)).repeat(9));
    let mut bench = short_bench().limits(|limits| limits.head = READ_BUFFER_MAX).bytes(0, large);
    bench.until(1);
    assert!(bench.out().starts_with("HTTP/1.1 200 "));
    assert!(bench.connection().storage() <= 2 * READ_BUFFER, "{} bytes", bench.connection().storage());
}

#[test]
fn an_idle_or_fresh_connection_has_no_read_buffer() {
    for short in [false, true] {
        let mut bench = bench_of(short).bytes(1000, get("/")).bytes(2000, "GET / HT");
        for (time, reads) in [(500, false), (1500, false), (2500, true)] {
            bench.until(time);
            assert_eq!(bench.connection().storage() >= READ_BUFFER, reads, "short: {short}, at {time} ms");
        }
        assert_eq!(count(&bench.bytes(3000, "TP/1.1\r\nHost: a\r\n\r\n").until(3500).out(), "200 OK"), 2);
    }
}

/// A request whose head has `len` bytes.
fn head_of(len: usize) -> String {
    let most = 4000;
    let mut text = "GET / HTTP/1.1\r\nHost: a\r\n".to_owned();
    while len - text.len() > most {
        text += &format!("A: {}\r\n", "a".repeat(most - 100));
    }
    let rest = len - text.len() - "A: \r\n\r\n".len();
    text + &format!("A: {}\r\n\r\n", "a".repeat(rest))
}

#[test]
fn a_head_may_have_32_kib_and_the_empty_lines_before_it_count() {
    let default = crate::config::Limits::default().head;
    assert_eq!(default, 32 * 1024);
    for (most, read_most) in [(300, 1), (default, 1000), (default, usize::MAX)] {
        let bench = || short_bench().limits(|limits| limits.head = most);
        let answer = |script: String| {
            let mut bench = bench().bytes(0, script);
            bench.pipe.0.borrow_mut().read_most = read_most;
            bench.until(1).out()[.."HTTP/1.1 200".len()].to_owned()
        };
        for before in ["", "\r\n", "\r\n\r\n\r\n"] {
            assert_eq!(answer(before.to_owned() + &head_of(most - before.len())), "HTTP/1.1 200");
            assert_eq!(answer(before.to_owned() + &head_of(most - before.len() + 1)), "HTTP/1.1 431");
        }
        assert_eq!(answer("\r\n".repeat(most / 2 + 1)), "HTTP/1.1 431");
        assert_eq!(answer("\n".repeat(most + 1)), "HTTP/1.1 431");
        // The next request has the whole limit again.
        let mut bench = bench().bytes(0, head_of(most).repeat(3));
        bench.pipe.0.borrow_mut().read_most = read_most;
        assert_eq!(count(&bench.until(1).out(), "200 OK"), 3);
    }
}

#[test]
fn a_line_without_end_is_refused_as_soon_as_it_is_too_long() {
    let limit = |bench: Bench| bench.limits(|limits| (limits.request_line, limits.field_size) = (100, 200));
    let line = |bench: Bench, before: &str, len: u64| {
        (0..len).fold(limit(bench).bytes(0, before), |bench, n| bench.bytes(n + 1, "a"))
    };
    let mut bench = line(short_bench(), "GET /", 97);
    assert_eq!(bench.until(96).out(), "");
    assert!(bench.until(97).out().starts_with("HTTP/1.1 414 "), "{}", bench.out());
    let mut bench = line(short_bench(), "GET / HTTP/1.1\r\nA: ", 199);
    assert_eq!(bench.until(198).out(), "");
    assert!(bench.until(199).out().starts_with("HTTP/1.1 431 "), "{}", bench.out());
}

#[test]
fn many_fields_are_not_remembered() {
    let fields = "a:\r\n".repeat(8000);
    let many = |limits: &mut crate::config::Limits| (limits.head, limits.fields) = (64 * 1024, 10_000);
    let mut bench = short_bench().limits(many).bytes(0, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    assert_eq!(count(&bench.until(1).out(), "200 OK"), 1);
    assert!(bench.connection().storage() <= 2 * READ_BUFFER, "{} bytes", bench.connection().storage());
}

#[test]
fn as_much_of_an_unread_body_is_read_away_as_is_said() {
    for (limit, len, kept) in [(10, 10, true), (10, 11, false), (0, 1, false), (1 << 20, 1 << 20, true)] {
        let mut bench = short_bench()
            .limits(|limits| limits.unread_body = limit)
            .bytes(0, post("/", &"b".repeat(len)))
            .bytes(1, get("/"));
        assert_eq!(count(&bench.until(2).out(), "200 OK"), if kept { 2 } else { 1 }, "{limit} for {len}");
    }
    // The length of a chunked body is unknown before it has arrived.
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (limit, kept) in [(8, true), (7, false)] {
        let mut bench = bench()
            .limits(|limits| limits.unread_body = limit)
            .bytes(0, chunked)
            .bytes(1, "3\r\nabc\r\n")
            .bytes(2, "0\r\n\r\n")
            .bytes(3, get("/"));
        assert_eq!(count(&bench.until(4).out(), "200 OK"), if kept { 2 } else { 1 }, "{limit}");
    }
}

#[test]
fn a_lingering_connection_discards_as_much_as_is_said() {
    for (limit, len, lingers) in [(1000, 999, true), (1000, 1000, false), (0, 10 << 20, true)] {
        let mut bench = bench()
            .limits(|limits| limits.linger_size = limit)
            .bytes(0, get("/close"))
            .bytes(100, vec![0; len])
            .at(200, Event::Eof);
        let transcript = bench.run();
        assert_eq!(transcript.reason, Some(crate::machine::CloseReason::Finished));
        assert_eq!(bench.now(), if lingers { 200 } else { 100 }, "{limit}");
    }
}

#[test]
fn a_trailer_section_is_limited() {
    for (trailer, status) in [(16 * 1024 - 1, "200 "), (16 * 1024, "400 ")] {
        let body = format!("0\r\nA:{}\r\n\r\n", "a".repeat(trailer));
        let request = format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        for bench in [bench(), short_bench()] {
            let mut bench = bench.bytes(0, &request);
            assert!(bench.until(1).out().starts_with(&format!("HTTP/1.1 {status}")), "{}", bench.out());
        }
    }
    let request = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0;abc\r\n\r\n";
    let mut bench = short_bench().limits(|limits| limits.framing = 2).bytes(0, request);
    assert!(bench.until(1).out().starts_with("HTTP/1.1 400 "), "{}", bench.out());
}

#[test]
fn a_body_over_its_limit_is_refused_before_its_end() {
    let expect = "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n";
    let chunked = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (script, bytes) in [(expect, ""), (chunked, "5\r\nabcde\r\nff\r\nabcdef")] {
        for bench in [bench(), short_bench(), bench().placed()] {
            let mut bench = bench.limits(|limits| limits.body = 10).bytes(0, script).bytes(10, bytes);
            assert!(bench.until(10).out().starts_with("HTTP/1.1 413 "), "{}", bench.out());
            assert!(bench.pipe.0.borrow().half_closed, "and it lingers");
            // Further bytes are read, so that no reset costs the client the response.
            bench.schedule(START + crate::testing::ms(500), Event::Bytes(vec![b'x'; 1_000_000]));
            bench.until(600);
            assert!(bench.pipe.0.borrow().incoming.is_empty());
        }
    }
}
