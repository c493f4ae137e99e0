//! What one connection may take: of memory, and of its neighbours' time.

use super::*;
use crate::config::{HIGH_WATER, READ_BUFFER, READ_BUFFER_MAX, STEP_BUDGET};
use crate::machine::{Machine, Step, Wire};
use crate::testing::{Event, START};

#[test]
fn a_peer_that_pipelines_a_thousand_requests_lets_others_have_their_turn() {
    let mut bench = short_bench().bytes(0, get("/").repeat(1000)).at(1, Event::Eof);
    let transcript = bench.run();
    assert_eq!(count(&transcript.out, "200 OK"), 1000);
    assert!(bench.yields >= 50, "{} times", bench.yields);
}

#[test]
fn one_step_answers_no_more_than_its_budget() {
    let mut bench = short_bench();
    let session = bench.session.as_mut().expect("it is there");
    let requests = get("/").repeat(100);
    session.read_buf()[..requests.len()].copy_from_slice(requests.as_bytes());
    session.handle_read(requests.len(), START);
    assert_eq!(session.step(&bench.world.cx()), Step::Yield);
    assert!(bench.connection().served() <= STEP_BUDGET);
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
fn requests_wait_while_their_answers_are_not_taken() {
    let mut bench = short_bench().bytes(0, get("/sized?30000").repeat(100));
    bench.pipe.0.borrow_mut().room = 0;
    bench.until(1000);
    assert!(bench.connection().unsent() < HIGH_WATER + 31_000, "{}", bench.connection().unsent());
    assert!(!bench.connection().interest().read, "and nothing more is read");
}

#[test]
fn nothing_is_read_of_a_body_that_the_application_does_not_ask_for() {
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
        .limits(|limits| (limits.fields, limits.field_size) = (10_000, 1 << 20))
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
fn an_idle_connection_keeps_no_memory_that_only_a_large_head_needed() {
    let large =
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", format!("A: {}\r\n", "a".repeat(6000)).repeat(9));
    let mut bench = short_bench().bytes(0, large);
    bench.until(1);
    assert!(bench.out().starts_with("HTTP/1.1 200 "));
    assert!(bench.connection().storage() <= 2 * READ_BUFFER, "{} bytes", bench.connection().storage());
}
