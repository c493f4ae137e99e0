//! `request-timeout`: a handler that runs too long costs only its own request, the client receives
//! 503, and no other request waits.

use std::time::Instant;

use rustix::process::Signal;

use super::process::{connection_to, replacement};
use super::{admin, get, logs, seconds, took, upgrade};
use crate::Harness;
use crate::client::{End, PATIENCE};
use crate::process::until;

/// The settings of these scenarios, and `more`.
fn limited<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["--request-timeout", "1"], more].concat()
}

pub(crate) fn a_request_over_its_timeout_gets_503_is_logged_and_counted(harness: &Harness) {
    let log = ["--access-logfile", "access.log", "--access-logformat", "%(r)s %(s)s"];
    let server = admin::serve(harness, &limited(&log));
    let mut client = server.connect();
    client.send(get("/overtime?ms=5000"));
    let start = Instant::now();
    let response = client.last_response(503);
    took("the 503 came", start, 0.9..4.5);
    assert!(response.field("date").is_some(), "{response:?}");
    assert_eq!(logs::lines(server.dir(), "access.log", 1), ["GET /overtime?ms=5000 HTTP/1.1 503"]);
    assert!(server.logs("request-timeout", PATIENCE), "{}", server.log());
    let log = server.log();
    let line = log.lines().find(|line| line.contains("request-timeout")).expect("it is logged");
    assert!(
        line.contains("WARN") && line.contains("GET /overtime?ms=5000") && line.contains("503"),
        "{line}"
    );
    let counted = until(PATIENCE, || {
        let text = admin::ask(&server, "/metrics").text();
        let aborted = admin::metric(&text, "remuda_requests_aborted_total");
        let told = admin::metric(&text, "remuda_responses_total{class=\"5xx\"}");
        let late = admin::metric(&text, "remuda_request_timeouts_total");
        ((late, told, aborted) == (1.0, 1.0, 0.0)).then_some(())
    });
    assert!(counted.is_some(), "{}", admin::ask(&server, "/metrics").text());
}

pub(crate) fn a_response_over_its_timeout_is_cut(harness: &Harness) {
    let server = harness.serve(&limited(&[]));
    let mut client = server.connect();
    let start = Instant::now();
    client.send(get("/overtime/begun?ms=60000"));
    let mut response = client.head();
    assert_eq!((response.status, response.announces_close()), (200, false));
    let broken = client.try_body(&mut response).expect_err("a minute does not fit into a second");
    took("the response was cut", start, 0.9..6.0);
    assert!(broken.is_cut_by_server(), "{broken}");
    assert_eq!(response.text(), "in time\n");
    assert!(server.logs("GET /overtime/begun?ms=60000", PATIENCE), "{}", server.log());
}

pub(crate) fn a_handler_can_see_that_its_timeout_has_passed(harness: &Harness) {
    for path in ["/overtime?ms=4000", "/overtime/begun?ms=4000"] {
        // A worker that is replaced stays for as long as it has a connection, so its handler has
        // time to see the timeout.
        let patient = ["--drain-recycle", "finish", "--graceful-timeout", "20", "--keep-alive", "20"];
        let server = harness.serve(&limited(&patient));
        let (mut idle, mut client) = (server.connect(), server.connect());
        idle.get("/");
        client.send(get(path));
        if harness.is_async() {
            assert!(server.logs("<dropped>", PATIENCE), "{}", server.log());
            continue;
        }
        for word in ["<drain>", "handler exceeded request-timeout>"] {
            assert!(server.logs(word, PATIENCE), "{word}: {}", server.log());
        }
        assert!(!server.log().contains("<answered>"));
    }
}

pub(crate) fn others_are_served_while_a_handler_takes_too_long(harness: &Harness) {
    let server = harness.serve(&limited(&["-w", "2", "--timeout", "20"]));
    let workers = server.workers(2);
    let mut other = connection_to(&server, &workers[1]);
    let mut late = connection_to(&server, &workers[0]);
    server.begin(&mut late, get("/overtime?ms=60000"));
    let start = Instant::now();
    while !late.has_more(seconds(0.02)) {
        assert_eq!(other.get("/info").number("pid"), workers[1].id());
        assert!(start.elapsed() < PATIENCE, "the 503 never comes");
    }
    late.last_response(503);
    other.get("/");
}

pub(crate) fn a_worker_is_replaced_for_a_handler_that_cannot_be_cancelled(harness: &Harness) {
    let mut server = harness.serve(&limited(&["--graceful-timeout", "1"]));
    let first = server.worker();
    let mut client = server.connect();
    server.begin(&mut client, get("/overtime?ms=60000"));
    client.last_response(503);
    drop(client);
    if harness.is_async() {
        assert!(server.logs("<dropped>", PATIENCE));
        assert_eq!(server.connect().get("/info").number("pid"), first.id());
        assert!(!server.log().contains("recycle"), "{}", server.log());
    } else {
        let second = replacement(&server, std::slice::from_ref(&first));
        assert!(first.wait_gone(PATIENCE), "a handler that does not return holds its worker");
        assert_eq!(server.connect().get("/info").number("pid"), second.id());
        assert!(server.log().contains("request timeout"), "{}", server.log());
    }
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn requests_in_time_and_upgraded_connections_are_left_alone(harness: &Harness) {
    let server = harness.serve(&["--request-timeout", "2"]);
    let worker = server.worker();
    let mut client = server.connect();
    let start = Instant::now();
    while start.elapsed() < seconds(2.5) {
        assert!(!client.get("/sleep?ms=250").announces_close());
    }
    let mut client = upgrade::upgrade(&server, "/upgrade");
    assert!(!client.has_more(seconds(2.5)), "the connection is not ended");
    client.send("still there");
    assert_eq!(client.bytes(11), b"still there");
    client.half_close();
    assert_eq!(client.end(PATIENCE), End::Fin);
    assert_eq!(server.worker().id(), worker.id());
}
