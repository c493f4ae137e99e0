//! Connections in a drain: requests in flight (D5), late requests (D6), and how the connections end
//! (D7, D8, D14).

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::listener::AT_ONCE;
use super::{get, get_with_body, post, seconds, took};
use crate::Harness;
use crate::client::{End, PATIENCE};

pub(crate) fn d5_response_in_flight_is_finished_and_announces_close(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut client = server.connect();
    server.begin(&mut client, get("/sleep?ms=600"));
    server.drain();
    client.last_response(200);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d5_response_whose_head_was_sent_keeps_its_connection(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut client = server.connect();
    client.send(get("/stream?chunks=6&size=100&ms=100"));
    let mut response = client.head();
    assert!(!response.announces_close());
    server.drain();
    client.body(&mut response);
    assert_eq!(response.body.len(), 600);
    client.send(get("/"));
    client.last_response(200);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d5_half_a_head_is_completed_and_served(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHo");
    server.catch_up();
    server.drain();
    assert!(!client.has_more(seconds(1.0)), "the request is not complete yet");
    client.send("st: test\r\n\r\n");
    client.last_response(200);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d5_upload_in_flight_is_finished(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut client = server.connect();
    server.begin(&mut client, post("/echo", 10) + "first");
    server.drain();
    client.send(" half");
    assert_eq!(client.response().text(), "first half");
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d6_next_request_is_served_and_announced(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut client = server.connect();
    assert!(!client.get("/").announces_close());
    server.drain();
    assert!(!client.has_more(seconds(0.5)), "an idle connection is kept");
    client.send(get("/"));
    assert_eq!(client.last_response(200).text(), "Hello, World!");
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d6_a_request_after_term_is_answered_with_close(harness: &Harness) {
    let mut server = harness.serve(&["--keep-alive", "2"]);
    let mut busy = server.connect();
    let mut idle: Vec<_> = (0..50).map(|_| server.connect()).collect();
    for client in &mut idle {
        client.get("/");
    }
    let answered = Instant::now();
    server.begin(&mut busy, get("/sleep?ms=1000"));
    let term = Instant::now();
    server.arbiter().signal(Signal::TERM);
    let refused = server.address().refused(PATIENCE).expect("connects are never refused");
    assert!(refused - term < seconds(AT_ONCE), "connects were refused after {:?}", refused - term);

    thread::sleep(seconds(0.3).saturating_sub(term.elapsed()));
    let silent = idle.split_off(25);
    for client in &mut idle {
        client.send(get("/"));
    }
    for mut client in idle {
        client.last_response(200);
    }
    busy.last_response(200);
    drop(busy);
    for mut client in silent {
        assert_eq!(client.end(PATIENCE), End::Fin);
    }
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", answered, 1.9..2.8);
}

pub(crate) fn d6_nothing_is_read_after_an_announced_close(harness: &Harness) {
    let server = harness.serve(&[]);
    let mut client = server.connect();
    let mut late = server.connect();
    late.get("/");
    client.get("/");
    server.drain();
    // The second request arrives while the first is being answered.
    server.begin(&mut client, get("/sleep?ms=300"));
    client.send(get("/"));
    client.last_response(200);
    // The second request arrives after close was announced.
    late.send(get("/"));
    assert!(late.response().announces_close());
    late.send(get("/"));
    assert_eq!(late.end(PATIENCE), End::Fin);
}

pub(crate) fn d6_pipelined_requests_are_answered_and_the_last_announces(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut client = server.connect();
    server.begin(&mut client, [get("/sleep?ms=400"), get("/bytes?n=2"), get("/bytes?n=3")].concat());
    server.drain();
    assert!(!client.response().announces_close());
    let second = client.response();
    assert_eq!((second.body.len(), second.announces_close()), (2, false));
    assert_eq!(client.last_response(200).body.len(), 3);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d6_a_partial_head_counts_as_a_request(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut client = server.connect();
    server.begin(&mut client, get("/sleep?ms=400") + "GET /bytes?n=2 HTTP/1.1\r\nHo");
    server.drain();
    assert!(!client.response().announces_close());
    client.send("st: test\r\n\r\n");
    assert_eq!(client.last_response(200).body.len(), 2);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d7_client_that_keeps_sending_sees_the_response_and_no_reset(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut client = server.connect();
    client.get("/");
    server.drain();
    let mut sender = client.sender();
    thread::scope(|scope| {
        // No handler reads this body, and most of it is sent after the response.
        scope.spawn(move || {
            let block = [b'x'; 16 * 1024];
            let mut sent = sender.write_all(get_with_body("/sleep?ms=100", 60 * block.len()).as_bytes());
            for _ in 0..60 {
                sent = sent.and_then(|()| sender.write_all(&block));
                thread::sleep(Duration::from_millis(10));
            }
            sent.expect("the server reads until the client stops sending");
        });
        let response = client.response();
        assert_eq!((response.status, response.announces_close()), (200, true));
        assert_eq!(client.end(PATIENCE), End::Fin);
    });
    assert_eq!(client.end(Duration::ZERO), End::Fin);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d7_lingering_ends_by_itself_and_delays_no_other_client(harness: &Harness) {
    let server = harness.serve(&["--linger", "1"]);
    let mut lingering = server.connect();
    lingering.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    let start = Instant::now();
    lingering.last_response(200);
    // While this connection lingers, others are accepted and served.
    for _ in 0..10 {
        server.connect().get("/");
    }
    took("others were served", start, 0.0..0.8);
    assert!(lingering.reset(PATIENCE).is_some(), "the server never closed the connection");
    took("it was closed", start, 0.8..2.5);
}

pub(crate) fn d7_lingering_discards_up_to_its_limit(harness: &Harness) {
    let server = harness.serve(&["--linger", "60", "--limit-linger", "4M"]);
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    client.last_response(200);
    let start = Instant::now();
    let sent = client.sender().write_all(&vec![b'x'; 64 << 20]);
    assert!(sent.is_err(), "the server reads without limit");
    took("it was closed", start, 0.0..5.0);
}

pub(crate) fn d7_a_client_that_never_closes_delays_no_other_in_a_drain(harness: &Harness) {
    let mut server = harness.serve(&["--linger", "1"]);
    let [mut lingering, mut others @ ..] = [(); 6].map(|()| server.connect());
    lingering.get("/");
    for client in &mut others {
        client.get("/");
    }
    server.drain();
    lingering.send(get("/"));
    lingering.last_response(200);
    let start = Instant::now();
    for mut client in others {
        client.send(get("/"));
        client.last_response(200);
    }
    took("others were served", start, 0.0..0.8);
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", start, 0.8..2.0);
}

pub(crate) fn d8_idle_age_counts_from_the_last_response(harness: &Harness) {
    let mut server = harness.serve(&["--keep-alive", "2"]);
    let mut early = server.connect();
    early.get("/");
    let early = (early, Instant::now());
    let mut late = server.connect();
    late.get("/stream?chunks=9&size=10&ms=100");
    let late = (late, Instant::now());
    // Neither counts from the start of the drain, which begins when one of them is nearly over.
    thread::sleep(seconds(1.5).saturating_sub(early.1.elapsed()));
    server.drain();
    for (mut client, answered) in [early, late] {
        assert_eq!(client.end(PATIENCE), End::Fin);
        took("it ended", answered, 1.9..2.6);
    }
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d14_events_end_themselves(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut client = server.connect();
    client.send(get("/events"));
    let mut events = client.head();
    assert_eq!(events.field("content-type"), Some("text/event-stream"));
    let first =
        client.chunk().unwrap_or_else(|broken| panic!("{broken}")).expect("a stream without end goes on");
    assert!(
        first.starts_with(b"data:") || first.starts_with(b"event:") || first.starts_with(b"id:"),
        "{first:?}"
    );
    let start = server.drain();
    client.body(&mut events);
    took("the stream ended", start, 0.0..1.0);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}
