//! Promises of backends about handlers beyond the suite: what delays the start of a handler, which
//! threads run handlers, and when busy threads make a worker stale.

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
fn a_late_handler_on_sync_does_not_hold_its_worker() {
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
    assert!(worker.wait_gone(PATIENCE), "the worker is replaced");
}

#[test]
fn a_late_handler_leaves_the_other_threads_to_other_requests() {
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
        assert!(served > 2, "{backend}: {served} requests beside the late handler");
        assert_eq!(stuck.response().status, 503, "{backend}");
        drop((stuck, other));
        assert!(worker.wait_gone(PATIENCE), "{backend}: the thread holds its worker");
    }
}

#[test]
fn threaded_has_its_configured_threads_and_its_loop() {
    let server = harness("threaded", "async").serve(&["--threads", "3"]);
    get(&mut server.connect(), "/sleep?ms=10");
    let threads = fs::read_dir(format!("/proc/{}/task", server.worker().id())).unwrap();
    assert_eq!(threads.count(), 4);
}

#[test]
fn small_bodies_arrive_before_their_handler_starts() {
    for (backend, application) in
        [("sync", "blocking"), ("sync", "async"), ("threaded", "blocking"), ("threaded", "async")]
    {
        let server = harness(backend, application).serve(&["--threads", "1"]);
        let mut slow: Vec<_> = (0..8).map(|_| server.connect()).collect();
        for client in &mut slow {
            client.send("POST /collect HTTP/1.1\r\nHost: test\r\nContent-Length: 60000\r\n\r\nh");
        }
        server.catch_up();
        get(&mut server.connect(), "/block?ms=1");
        for client in &mut slow {
            client.send("x".repeat(59_999));
            assert_eq!(client.response().text(), "60000\n", "{backend}, {application}");
        }
    }
}

#[test]
fn tokio_applications_run_in_tokio_on_every_backend() {
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

/// All backends of this build.
const BACKENDS: [&str; 5] = ["sync", "threaded", "mio", "smol", "tokio"];

#[test]
fn tower_services_find_tokio_on_every_backend() {
    for application in ["tower", "tower-app"] {
        for backend in BACKENDS {
            let mut server = harness(backend, application).serve(&[]);
            let mut client = server.connect();
            for _ in 0..3 {
                client.send(request("/"));
                let response = client.response();
                assert_eq!(response.status, 200, "{backend}, {application}: {}", server.log());
                assert_eq!(response.text(), "awake\n");
            }
            drop(client);
            server.arbiter().signal(Signal::TERM);
            assert_eq!(server.exit(PATIENCE), 0);
        }
    }
}

#[test]
fn tokio_tasks_that_hold_a_worker_finish_on_every_backend() {
    for backend in BACKENDS {
        let harness = harness(backend, "tokio").with_variable("FIXTURE_END", "30");
        let mut server = harness.serve(&[]);
        for _ in 0..3 {
            get(&mut server.connect(), "/leave/task?ms=500");
        }
        server.arbiter().signal(Signal::TERM);
        assert_eq!(server.exit(PATIENCE), 0, "{backend}: {}", server.log());
        let journal = fs::read_to_string(server.dir().join("journal")).unwrap();
        let what: Vec<_> = journal.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(what, ["left", "left", "left", "end_begun", "end_over"], "{backend}");
    }
}

#[test]
fn a_panic_without_tokio_is_logged_with_its_remedy() {
    const CURE: &str = "it needs a tokio runtime, which this backend has on request";
    // With backends whose handlers run without a tokio runtime.
    for backend in ["mio", "smol"] {
        let server = harness(backend, "async").serve(&[]);
        let mut client = server.connect();
        client.send(request("/spawn?ms=1"));
        assert_eq!(client.response().status, 500, "{backend}");
        let line = until(PATIENCE, || {
            let log = server.log();
            log.lines().find(|line| line.contains("handler panicked")).map(str::to_owned)
        });
        assert!(line.as_ref().is_some_and(|line| line.contains(CURE)), "{backend}: {line:?}");
    }
    for backend in ["sync", "threaded", "mio", "smol"] {
        const BEFORE_FORK: &str = "it needs a tokio runtime, and there is none before the fork";
        for (args, cure) in [(&[][..], CURE), (&["--preload"], BEFORE_FORK)] {
            let harness = harness(backend, "async").with_variable("FIXTURE_FAULT", "tokio");
            let mut server = harness.launch("127.0.0.1:0", args);
            assert_eq!(server.exit(PATIENCE), 4, "{backend}");
            let log = server.log();
            assert!(
                log.lines().any(|line| line.contains("it panicked") && line.contains(cure)),
                "{backend}, {args:?}: {log}"
            );
        }
    }
}

#[test]
fn a_worker_whose_threads_are_all_stuck_is_replaced() {
    let server = harness("threaded", "blocking").serve(&["--threads", "2", "--timeout", "1"]);
    let worker = server.worker();
    let mut stuck = [server.connect(), server.connect()];
    stuck[0].send(request("/block?ms=60000"));
    assert!(!worker.wait_gone(Duration::from_secs(2)), "the worker was ended although one thread is free");
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
fn threads_busy_with_ever_new_requests_are_not_hung() {
    let server = harness("threaded", "blocking").serve(&["--threads", "1", "--timeout", "1"]);
    let worker = server.worker();
    thread::scope(|scope| {
        // Two clients, so that the next request waits when one is done and the thread is never
        // free.
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
        // The signal alone, as an operator would send it: no order comes with it.
        server.worker().signal(Signal::TERM);
        client.body(&mut events);
        assert!(start.elapsed() < Duration::from_secs(1), "{application}");
        drop(client);
        server.arbiter().signal(Signal::TERM);
        assert_eq!(server.exit(PATIENCE), 0);
    }
}
