//! What backends promise about handlers beyond the suite: what holds a handler's turn and what does not, in which threads
//! turns are given, and when threads that are busy make a worker stale.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use remuda_conformance::Harness;
use remuda_conformance::client::{Client, End, PATIENCE};
use remuda_conformance::process::until;
use rustix::process::Signal;

fn harness(backend: &str, application: &str) -> Harness {
    Harness::new(backend, application, Path::new(env!("CARGO_BIN_EXE_fixture")))
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

#[track_caller]
fn get(client: &mut Client, path: &str) {
    client.send(request(path));
    assert_eq!(client.response().status, 200, "{path}");
}

#[test]
fn sync_has_one_thread() {
    for application in ["blocking", "async", "tokio"] {
        let server = harness("sync", application).serve(&[]);
        let mut client = server.connect();
        for path in ["/", "/sleep?ms=10", "/block?ms=10", "/info"] {
            get(&mut client, path);
        }
        let threads = fs::read_dir(format!("/proc/{}/task", server.worker().id())).unwrap();
        assert_eq!(threads.count(), 1, "{application}");
    }
}

#[test]
fn sync_has_a_second_thread_where_blocking_handlers_have_a_limit() {
    for (application, expected) in [("blocking", 2), ("async", 1)] {
        let server = harness("sync", application).serve(&["--request-timeout", "9"]);
        get(&mut server.connect(), "/sleep?ms=10");
        let threads = fs::read_dir(format!("/proc/{}/task", server.worker().id())).unwrap();
        assert_eq!(threads.count(), expected, "{application}");
    }
}

#[test]
fn a_handler_on_sync_that_returns_late_leaves_its_worker_to_others() {
    let server = harness("sync", "blocking").serve(&["--request-timeout", "1"]);
    let worker = server.worker();
    let (mut late, mut other) = (server.connect(), server.connect());
    get(&mut other, "/info");
    server.begin(&mut late, request("/overtime?ms=3000"));
    other.send(request("/info"));
    assert_eq!(late.response().status, 503);
    assert_eq!(late.end(PATIENCE), End::Fin);
    let info = other.response();
    assert_eq!((info.status, info.number("pid")), (200, worker.id()));
    drop((late, other));
    assert!(worker.wait_gone(PATIENCE), "it has been replaced");
}

#[test]
fn a_handler_that_takes_too_long_leaves_the_other_threads_of_its_worker_to_others() {
    for backend in ["threaded", "mio", "tokio"] {
        let args = ["--threads", "2", "--request-timeout", "1", "--keep-alive", "20"];
        let server = harness(backend, "blocking").serve(&args);
        let worker = server.worker();
        let (mut stuck, mut other) = (server.connect(), server.connect());
        get(&mut other, "/info");
        server.begin(&mut stuck, request("/overtime?ms=60000"));
        let mut served = 0;
        while !stuck.has_more(Duration::ZERO) {
            get(&mut other, "/block?ms=20");
            served += 1;
        }
        assert!(served > 2, "{backend}: {served} requests beside it");
        assert_eq!(stuck.response().status, 503, "{backend}");
        drop((stuck, other));
        assert!(worker.wait_gone(PATIENCE), "{backend}: the thread holds its worker");
    }
}

#[test]
fn threaded_has_as_many_threads_as_it_is_told_and_its_loop() {
    let server = harness("threaded", "async").serve(&["--threads", "3"]);
    get(&mut server.connect(), "/sleep?ms=10");
    let threads = fs::read_dir(format!("/proc/{}/task", server.worker().id())).unwrap();
    assert_eq!(threads.count(), 4);
}

#[test]
fn small_bodies_are_waited_for_before_a_turn() {
    for (backend, application) in
        [("sync", "blocking"), ("sync", "async"), ("threaded", "blocking"), ("threaded", "async")]
    {
        let server = harness(backend, application).serve(&["--threads", "1"]);
        let mut slow: Vec<_> = (0..8).map(|_| server.connect()).collect();
        for client in &mut slow {
            client.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 60000\r\n\r\nh");
        }
        server.catch_up();
        get(&mut server.connect(), "/block?ms=1");
        for client in &mut slow {
            client.send("x".repeat(59_999));
            assert_eq!(client.response().body.len(), 60_000, "{backend}, {application}");
        }
    }
}

#[test]
fn applications_of_tokio_live_in_tokio_on_every_backend() {
    for backend in ["sync", "threaded", "mio", "tokio"] {
        let mut server = harness(backend, "tokio").serve(&[]);
        let mut client = server.connect();
        get(&mut client, "/spawn?ms=10");
        server.begin(&mut client, request("/spawn?ms=500"));
        server.drain();
        let response = client.response();
        assert_eq!((response.status, response.announces_close()), (200, true), "{backend}");
        assert_eq!(client.end(PATIENCE), End::Fin);
        drop(client);
        assert_eq!(server.exit(PATIENCE), 0);
    }
}

#[test]
fn a_worker_whose_threads_are_all_stuck_is_replaced() {
    let server = harness("threaded", "blocking").serve(&["--threads", "2", "--timeout", "1"]);
    let worker = server.worker();
    let mut stuck = [server.connect(), server.connect()];
    stuck[0].send(request("/block?ms=60000"));
    assert!(!worker.wait_gone(Duration::from_secs(2)), "one thread is free");
    let start = Instant::now();
    stuck[1].send(request("/block?ms=60000"));
    assert!(worker.wait_gone(PATIENCE), "the hang is never found");
    let took = start.elapsed();
    assert!((0.9..3.0).contains(&took.as_secs_f64()), "the worker was ended after {took:?}");
    assert!(server.logs("hangs", PATIENCE));
    let both =
        |log: String| log.matches("GET /block").count() == 2 && log.matches("on a thread").count() == 2;
    assert!(until(PATIENCE, || both(server.log()).then_some(())).is_some(), "{}", server.log());
    get(&mut server.connect(), "/");
}

#[test]
fn threads_that_are_busy_with_ever_new_requests_are_well() {
    let server = harness("threaded", "blocking").serve(&["--threads", "1", "--timeout", "1"]);
    let worker = server.worker();
    thread::scope(|scope| {
        // Two, so that one waits when the other is done and the thread is never free.
        for _ in 0..2 {
            scope.spawn(|| {
                let (mut client, start) = (server.connect(), Instant::now());
                while start.elapsed() < Duration::from_secs(3) {
                    get(&mut client, "/block?ms=300");
                }
            });
        }
    });
    assert_eq!(server.worker().id(), worker.id());
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

#[test]
fn a_handler_on_sync_sees_a_drain_that_begins_while_it_runs() {
    for application in ["blocking", "async"] {
        let mut server = harness("sync", application).serve(&[]);
        let mut client = server.connect();
        client.send(request("/events"));
        let mut events = client.head();
        client.chunk().unwrap().expect("a stream without end goes on");
        let start = Instant::now();
        // The signal alone, as from a person: no order comes with it.
        server.worker().signal(Signal::TERM);
        client.body(&mut events);
        assert!(start.elapsed() < Duration::from_secs(1), "{application}");
        drop(client);
        server.arbiter().signal(Signal::TERM);
        assert_eq!(server.exit(PATIENCE), 0);
    }
}
