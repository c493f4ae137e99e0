//! The lame-duck time between TERM and the stop, in which the server serves as usual.

use std::time::Instant;

use rustix::process::Signal;

use super::{get, seconds, took};
use crate::Harness;
use crate::client::{Client, PATIENCE};
use crate::process::{Server, until};

/// The log's words when the lame-duck time begins.
const BEGINS: &str = "serving until then";

/// Sends TERM, and waits until the worker of the returned connection knows of the coming stop.
fn begin(server: &Server) -> (Instant, Client) {
    let mut client = server.connect();
    client.get("/");
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    assert!(server.logs(BEGINS, PATIENCE), "the lame duck is not logged");
    let told = until(PATIENCE, || client.get("/info").text().contains("lameduck").then_some(()));
    assert!(told.is_some(), "the worker does not report the coming stop");
    (start, client)
}

/// Asserts that an old and a new connection are served as usual.
#[track_caller]
fn serves_as_usual(server: &Server, client: &mut Client) {
    assert!(!client.get("/").announces_close());
    let mut late = server.connect();
    assert!(!late.get("/").announces_close());
    assert!(!late.get("/").announces_close(), "the connection is kept alive");
}

pub(crate) fn a_lame_duck_serves_as_usual_and_then_stops(harness: &Harness) {
    let mut server = harness.serve(&["--lameduck", "2", "--graceful-timeout", "3"]);
    let (start, mut client) = begin(&server);
    while start.elapsed().as_secs_f64() < 1.5 {
        serves_as_usual(&server, &mut client);
    }
    assert!(server.address().refused(PATIENCE).is_some(), "the server never stops");
    took("connects were refused", start, 1.9..3.0);
    // The drain has its own graceful timeout, which begins with the stop.
    client.send(get("/sleep?ms=2000"));
    client.last_response(200);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn a_second_term_ends_the_lame_duck_without_hurrying_the_drain(harness: &Harness) {
    let mut server = harness.serve(&["--lameduck", "60"]);
    let (_, mut client) = begin(&server);
    serves_as_usual(&server, &mut client);
    client.send(get("/sleep?ms=3000"));
    assert!(!client.has_more(seconds(0.2)), "the response is not due yet");
    let start = server.drain();
    took("connects were refused", start, 0.0..1.0);
    // A hurried stop would have 2 s.
    client.last_response(200);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d11_int_ends_the_lame_duck(harness: &Harness) {
    let mut server = harness.serve(&["--lameduck", "60"]);
    let (_, mut client) = begin(&server);
    client.send(get("/sleep?ms=60000"));
    assert!(!client.has_more(seconds(0.2)), "the response is not due yet");
    let start = Instant::now();
    server.arbiter().signal(Signal::INT);
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", start, 1.9..3.5);
}

pub(crate) fn a_worker_that_dies_as_a_lame_duck_is_replaced(harness: &Harness) {
    let mut server = harness.serve(&["--lameduck", "60"]);
    let worker = server.worker();
    let (_, client) = begin(&server);
    worker.signal(Signal::KILL);
    assert!(worker.wait_gone(PATIENCE));
    drop(client);
    let mut late = server.connect();
    let info = late.get("/info");
    assert_ne!(info.number("pid"), worker.id());
    let told = until(PATIENCE, || late.get("/info").text().contains("lameduck").then_some(()));
    assert!(told.is_some(), "the new worker does not report the coming stop");
    server.drain();
    late.send(get("/"));
    late.last_response(200);
    drop(late);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d18_a_lame_duck_ends_with_its_arbiter(harness: &Harness) {
    let server = harness.serve(&["--lameduck", "60"]);
    let (_, mut client) = begin(&server);
    let start = Instant::now();
    server.arbiter().signal(Signal::KILL);
    assert!(server.arbiter().wait_gone(PATIENCE));
    // Either the request comes first, or the worker's notice of the arbiter's death.
    let announced = until(PATIENCE, || client.get("/").announces_close().then_some(()));
    assert!(announced.is_some(), "the worker never drains");
    drop(client);
    assert!(server.wait_no_process(PATIENCE), "a process is left");
    took("the last process ended", start, 0.0..1.5);
}
