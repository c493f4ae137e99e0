//! How long a stop takes: no longer than its connections need (D9), and never longer than the
//! deadline (D10, D11).

use std::time::Instant;

use rustix::process::Signal;

use super::process::{connection_to, replacement};
use super::{control, get, seconds, took};
use crate::Harness;
use crate::client::{End, PATIENCE};
use crate::process::{Server, until};

/// A path that blocks a handler thread, if the backend has any, and one that blocks the loop.
const STUCK: [&str; 2] = ["/block?ms=60000", "/hang?ms=60000"];

/// How far a deadline may be exceeded: the kernel's timer fires 0.5 s after it, the keeper then
/// answers for the worker and lingers for 0.4 s, and SIGKILL follows after 1.5 s.
const MARGIN: f64 = 1.5;

pub(crate) fn d9_server_without_connections_exits_at_once(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2"]);
    server.connect().get("/");
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", start, 0.0..1.0);
}

pub(crate) fn d9_exits_with_the_last_response(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2"]);
    let mut client = server.connect();
    client.send(get("/stream?chunks=5&size=10&ms=100"));
    let mut response = client.head();
    server.drain();
    client.body(&mut response);
    drop(client);
    let start = Instant::now();
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", start, 0.0..1.0);
}

pub(crate) fn d9_exits_with_the_keep_alive_of_an_idle_connection(harness: &Harness) {
    let mut server = harness.serve(&["--keep-alive", "1"]);
    let mut client = server.connect();
    client.get("/");
    let answered = Instant::now();
    server.drain();
    assert_eq!(client.end(PATIENCE), End::Fin);
    took("the connection ended", answered, 0.9..2.0);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", answered, 0.9..2.5);
}

pub(crate) fn d9_lingering_holds_the_exit_no_longer_than_it_may(harness: &Harness) {
    let mut server = harness.serve(&["--linger", "1"]);
    let mut client = server.connect();
    client.get("/");
    server.drain();
    client.send(get("/"));
    client.last_response(200);
    let start = Instant::now();
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", start, 0.0..2.0);
}

pub(crate) fn d10_silent_connections_are_closed_at_the_deadline(harness: &Harness) {
    let patient = ["--graceful-timeout", "1", "--keep-alive", "30", "--header-timeout", "30"];
    let mut server = harness.serve(&patient);
    let mut idle = server.connect();
    idle.get("/");
    let fresh = server.connect();
    let mut half = server.connect();
    half.send("GET / HTTP/1.1\r\nHo");
    server.catch_up();
    let start = server.drain();
    for mut client in [idle, fresh, half] {
        assert_eq!(client.end(PATIENCE), End::Fin);
        took("a silent connection ended", start, 0.9..1.0 + MARGIN);
    }
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", start, 0.9..1.0 + MARGIN);
}

pub(crate) fn d10_response_in_flight_is_cut_at_the_deadline(harness: &Harness) {
    let mut server = harness.serve(&["--graceful-timeout", "1"]);
    let mut client = server.connect();
    client.send(get("/stream?chunks=100&size=10&ms=100"));
    let mut response = client.head();
    let start = server.drain();
    let broken = client.try_body(&mut response).expect_err("ten seconds do not fit into one");
    assert!(broken.is_cut_by_server(), "{broken}");
    took("the response was cut", start, 0.9..1.0 + MARGIN);
    assert_ends(&mut server, start, 1.0, 6);
}

pub(crate) fn d10_an_unanswered_request_ends_at_the_deadline(harness: &Harness) {
    let mut server = harness.serve(&["--graceful-timeout", "1"]);
    let mut client = server.connect();
    server.begin(&mut client, get("/sleep?ms=60000"));
    let start = server.drain();
    client.last_response(503);
    took("it ended", start, 0.9..1.0 + MARGIN);
    drop(client);
    assert_ends(&mut server, start, 1.0, 6);
}

pub(crate) fn d10_a_request_queued_for_a_thread_ends_at_the_deadline(harness: &Harness) {
    let mut server = control::serve(harness, &["--graceful-timeout", "1", "--threads", "1"]);
    let mut first = server.connect();
    server.begin(&mut first, get("/block?ms=60000"));
    let mut second = server.connect();
    second.send(get("/block?ms=1"));
    // A loop that runs the handler itself reads nothing meanwhile.
    let has_read = match harness.backend() {
        "sync" => false,
        "threaded" => true,
        _ => !harness.is_async(),
    };
    if has_read {
        let queued = || control::status(harness, &server).1.iter().any(|worker| worker["in_flight"] == 2);
        assert!(until(PATIENCE, || queued().then_some(())).is_some(), "{}", server.log());
    }
    let start = server.drain();
    if has_read {
        second.last_response(503);
    } else {
        let broken = second.try_response().expect_err("it was never read");
        assert!(broken.is_cut_by_server(), "{broken}");
    }
    took("it ended", start, 0.9..1.0 + MARGIN);
    first.last_response(503);
    drop((first, second));
    assert_ends(&mut server, start, 1.0, 6);
}

pub(crate) fn d10_zero_seconds_cut_at_once(harness: &Harness) {
    let mut server = harness.serve(&["--graceful-timeout", "0"]);
    let mut client = server.connect();
    server.begin(&mut client, get("/sleep?ms=60000"));
    let mut idle = server.connect();
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    assert_ends(&mut server, start, 0.0, 6);
    assert_ne!(idle.end(PATIENCE), End::StillOpen);
}

pub(crate) fn d10_stuck_handler_does_not_hold_the_deadline(harness: &Harness) {
    for stuck in STUCK {
        let mut server = harness.serve(&["--graceful-timeout", "1", "-w", "2"]);
        let mut client = server.connect();
        server.begin(&mut client, get(stuck));
        let start = server.drain();
        client.last_response(503);
        assert_ends(&mut server, start, 1.0, 6);
    }
}

pub(crate) fn d10_a_stuck_loop_ends_itself_at_the_deadline_of_any_drain(harness: &Harness) {
    for (workers, signal) in [("2", Signal::TTOU), ("1", Signal::HUP)] {
        let server = harness.serve(&["-w", workers, "--graceful-timeout", "1", "--timeout", "0"]);
        let all = server.workers(workers.parse().expect("a number"));
        let mut stuck: Vec<_> = all.iter().map(|worker| connection_to(&server, worker)).collect();
        stuck.iter_mut().for_each(|client| server.begin(client, get("/hang?ms=60000")));
        let start = Instant::now();
        server.arbiter().signal(signal);
        assert!(server.logs("worker ended with status 6", PATIENCE), "the worker does not end itself");
        took("it ended", start, 1.4..5.0);
        assert!(!server.log().contains("killing it"), "{}", server.log());
    }
}

pub(crate) fn d11_int_shortens_the_deadline(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut client = server.connect();
    server.begin(&mut client, get("/sleep?ms=60000"));
    let start = Instant::now();
    server.arbiter().signal(Signal::INT);
    assert_ends(&mut server, start, 2.0, 0);
}

pub(crate) fn d11_second_term_shortens_the_deadline(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut client = server.connect();
    server.begin(&mut client, get("/sleep?ms=60000"));
    server.drain();
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    assert_ends(&mut server, start, 2.0, 6);
}

pub(crate) fn d11_int_in_a_drain_shortens_the_deadline(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let mut client = server.connect();
    server.begin(&mut client, get("/sleep?ms=60000"));
    server.drain();
    let start = Instant::now();
    server.arbiter().signal(Signal::INT);
    assert_ends(&mut server, start, 2.0, 0);
}

pub(crate) fn d11_stuck_handlers_delay_neither_int_nor_quit(harness: &Harness) {
    for stuck in STUCK {
        for (signal, expected) in [(Signal::INT, 1.9..2.0 + MARGIN), (Signal::QUIT, 0.0..MARGIN)] {
            let mut server = harness.serve(&["-w", "2"]);
            let mut client = server.connect();
            server.begin(&mut client, get(stuck));
            let start = Instant::now();
            server.arbiter().signal(signal);
            assert_eq!(server.exit(PATIENCE), 0);
            took("the server ended", start, expected);
        }
    }
}

pub(crate) fn d11_int_drains_the_worker_that_gets_it(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    let [mut stuck, mut idle] = [0, 1].map(|n| connection_to(&server, &workers[n]));
    server.begin(&mut stuck, get("/block?ms=60000"));
    let start = Instant::now();
    workers.iter().for_each(|worker| worker.signal(Signal::INT));
    assert!(!idle.has_more(seconds(0.1)), "an idle connection is kept");
    idle.send(get("/"));
    idle.last_response(200);
    drop(idle);
    assert!(workers[1].wait_gone(PATIENCE));
    took("the idle worker ended", start, 0.0..1.5);
    assert!(workers[0].wait_gone(PATIENCE));
    took("the stuck worker ended", start, 1.9..2.0 + MARGIN);
    server.connect().get("/");
}

pub(crate) fn d11_quit_ends_the_worker_that_gets_it(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    let [mut stuck, mut kept] = [0, 1].map(|n| connection_to(&server, &workers[n]));
    server.begin(&mut stuck, get("/hang?ms=60000"));
    let start = Instant::now();
    workers[0].signal(Signal::QUIT);
    assert!(workers[0].wait_gone(PATIENCE));
    took("it ended", start, 0.0..MARGIN);
    assert_eq!(kept.get("/info").number("pid"), workers[1].id());
    connection_to(&server, &replacement(&server, &workers));
}

pub(crate) fn d11_quit_ends_at_once(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2"]);
    let mut client = server.connect();
    let mut idle = server.connect();
    idle.get("/");
    server.begin(&mut client, get("/sleep?ms=60000"));
    let start = Instant::now();
    server.arbiter().signal(Signal::QUIT);
    assert_eq!(server.exit(PATIENCE), 0);
    took("the server ended", start, 0.0..1.0);
}

pub(crate) fn d11_order_and_signal_of_one_stop_count_once(harness: &Harness) {
    // As when a service manager signals all processes of a unit.
    let mut server = harness.serve(&["--graceful-timeout", "10"]);
    let mut client = server.connect();
    server.begin(&mut client, get("/sleep?ms=3000"));
    let worker = server.worker();
    server.arbiter().signal(Signal::TERM);
    worker.signal(Signal::TERM);
    client.last_response(200);
    drop(client);
    assert_eq!(server.exit(seconds(2.0)), 0);
}

/// Asserts that the server ends with `status` once the deadline, `after` seconds from `start`, has
/// passed.
#[track_caller]
fn assert_ends(server: &mut Server, start: Instant, after: f64, status: i32) {
    assert_eq!(server.exit(PATIENCE), status);
    took("the server ended", start, after - 0.1..after + MARGIN);
}
