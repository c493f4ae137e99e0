//! The time between TERM and the stop, in which a server that has one serves as usual.

use std::time::Instant;

use rustix::process::Signal;

use super::{get, seconds, took};
use crate::Harness;
use crate::client::{Client, PATIENCE};
use crate::process::{Server, until};

/// What the log says when that time begins.
const BEGINS: &str = "serving until then";

/// Begins it, with a connection whose worker says that it knows.
fn begin(server: &Server) -> (Instant, Client) {
    let mut client = server.connect();
    client.get("/");
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    assert!(server.logs(BEGINS, PATIENCE), "nobody is told of it");
    let told = until(PATIENCE, || client.get("/info").text().contains("lameduck").then_some(()));
    assert!(told.is_some(), "the worker does not say that it is to stop");
    (start, client)
}

/// Both are served as if nothing had happened.
#[track_caller]
fn serves_as_usual(server: &Server, client: &mut Client) {
    assert!(!client.get("/").announces_close());
    let mut late = server.connect();
    assert!(!late.get("/").announces_close());
    assert!(!late.get("/").announces_close(), "it is kept alive");
}

pub(crate) fn a_lame_duck_serves_as_usual_and_then_stops(harness: &Harness) {
    let mut server = harness.serve(&["--lameduck", "2", "--graceful-timeout", "3"]);
    let (start, mut client) = begin(&server);
    while start.elapsed().as_secs_f64() < 1.5 {
        serves_as_usual(&server, &mut client);
    }
    assert!(server.address().refused(PATIENCE).is_some(), "the server never stops");
    took("connects were refused", start, 1.9..3.0);
    // It has a graceful timeout of its own, and drains as always.
    client.send(get("/sleep?ms=2000"));
    client.last_response(200);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn a_second_term_ends_the_lame_duck_and_hurries_nobody(harness: &Harness) {
    let mut server = harness.serve(&["--lameduck", "60"]);
    let (_, mut client) = begin(&server);
    serves_as_usual(&server, &mut client);
    client.send(get("/sleep?ms=3000"));
    assert!(!client.has_more(seconds(0.2)), "it is read by now");
    let start = server.drain();
    took("connects were refused", start, 0.0..1.0);
    // A stop that is hurried has 2 s.
    client.last_response(200);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d11_int_ends_the_lame_duck(harness: &Harness) {
    let mut server = harness.serve(&["--lameduck", "60"]);
    let (_, mut client) = begin(&server);
    client.send(get("/sleep?ms=60000"));
    assert!(!client.has_more(seconds(0.2)), "it is read by now");
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
    assert!(told.is_some(), "the new worker is not told that it is to stop");
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
    // Whichever comes first, the request or the worker's notice of it.
    let announced = until(PATIENCE, || client.get("/").announces_close().then_some(()));
    assert!(announced.is_some(), "the worker never drains");
    drop(client);
    assert!(server.wait_no_process(PATIENCE), "a process is left");
    took("the last process ended", start, 0.0..1.5);
}
