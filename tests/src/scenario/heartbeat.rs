//! The heartbeat (D1): a worker that hangs is found, named and replaced, and nobody else is; what was counted and what
//! was served is known whoever ended the worker.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::process::{connection_to, replacement};
use super::{get, seconds, took};
use crate::Harness;
use crate::client::{End, PATIENCE};
use crate::process::{Server, until};

pub(crate) fn d1_hung_loop_is_found_and_replaced(harness: &Harness) {
    // Where handlers of all kinds have threads, the only one is as good as the loop.
    let server = harness.serve(&["-w", "2", "--timeout", "2", "--threads", "1"]);
    let workers = server.workers(2);
    let [mut hung, mut other] = [0, 1].map(|n| connection_to(&server, &workers[n]));
    hung.send(get("/hang?ms=60000"));
    let start = Instant::now();
    while !workers[0].wait_gone(seconds(0.05)) {
        assert_eq!(other.get("/info").number("pid"), workers[1].id());
        assert!(start.elapsed() < PATIENCE, "the hang is never found");
    }
    took("the worker was ended", start, 1.9..6.0);
    assert!(matches!(hung.end(PATIENCE), End::Fin | End::Reset));
    let replaced = replacement(&server, &workers);
    connection_to(&server, &replaced);
    assert_eq!(other.get("/info").number("pid"), workers[1].id());
    let pid = workers[0].id().to_string();
    assert_logged(&server, &["ERROR", "hangs", &pid]);
    assert_logged(&server, &["ERROR", "GET /hang", &pid]);
}

pub(crate) fn d1_a_hung_loop_keeps_no_new_connection_waiting(harness: &Harness) {
    let server = harness.serve(&["-w", "2"]);
    let workers = server.workers(2);
    let mut hung = connection_to(&server, &workers[0]);
    server.begin(&mut hung, get("/hang?ms=20000"));
    for _ in 0..10 {
        let start = Instant::now();
        server.connect().get("/info");
        assert!(start.elapsed() < seconds(5.0), "it has waited for the loop that hangs");
    }
}

pub(crate) fn d1_a_drain_longer_than_the_timeout_is_not_a_hang(harness: &Harness) {
    let mut server = harness.serve(&["--timeout", "1"]);
    let mut client = server.connect();
    server.begin(&mut client, get("/sleep?ms=3000"));
    server.drain();
    client.last_response(200);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

pub(crate) fn d1_an_idle_connection_in_a_drain_is_not_a_hang(harness: &Harness) {
    let mut server = harness.serve(&["--timeout", "1", "--keep-alive", "20"]);
    let mut idle = server.connect();
    idle.get("/");
    server.drain();
    assert!(!idle.has_more(seconds(2.5)), "the drain is cut short");
    idle.send(get("/"));
    idle.last_response(200);
    drop(idle);
    assert_eq!(server.exit(PATIENCE), 0);
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

pub(crate) fn d1_hung_loop_is_found_in_a_drain(harness: &Harness) {
    let mut server = harness.serve(&["--timeout", "1", "--threads", "1"]);
    let mut hung = server.connect();
    server.begin(&mut hung, get("/hang?ms=60000"));
    let start = server.drain();
    assert_eq!(server.exit(PATIENCE), 6);
    took("the server ended", start, 0.5..6.0);
    assert_logged(&server, &["ERROR", "hangs"]);
}

pub(crate) fn d1_a_frozen_group_is_forgiven(harness: &Harness) {
    let server = harness.serve(&["-w", "2", "--timeout", "1"]);
    let workers = server.workers(2);
    let mut clients = [0, 1].map(|n| connection_to(&server, &workers[n]));
    let all = |signal| {
        server.arbiter().signal(signal);
        workers.iter().for_each(|worker| worker.signal(signal));
    };
    all(Signal::STOP);
    thread::sleep(seconds(2.5)); // there is nothing to wait for but the time itself
    all(Signal::CONT);
    for (client, worker) in clients.iter_mut().zip(&workers) {
        assert_eq!(client.get("/info").number("pid"), worker.id());
    }
    for worker in &workers {
        assert!(!worker.wait_gone(seconds(1.5)), "worker {} was ended for the freeze", worker.id());
    }
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

pub(crate) fn a_hang_is_told_with_where_each_thread_stands(harness: &Harness) {
    let server = harness.serve(&["--timeout", "1"]);
    let mut first = server.connect();
    server.begin(&mut first, get("/block?ms=60000"));
    // Where that holds up a thread only, these hold up the loop or the other threads; elsewhere nobody reads them.
    let mut others = [(); 4].map(|()| server.connect());
    others.iter_mut().for_each(|other| other.send(get("/hang?ms=60000")));
    assert_logged(&server, &["ERROR", "hangs"]);
    assert_logged(&server, &["ended with signal 6"]);
    let is_told = |line: &&str| line.contains("ERROR worker was serving");
    let log = server.log();
    let serving = log.lines().find(is_told).expect("what it was serving is told");
    assert!(serving.contains("GET /block for") && serving.contains("MiB of memory"), "{serving}");
    for (request, function) in [("GET /block", "remuda::demo::"), ("GET /hang", "fixture::hang")] {
        if serving.contains(request) {
            assert_named(&server, &["ERROR worker stood on", request, function]);
        }
    }
}

pub(crate) fn abrt_says_what_a_worker_is_doing_and_ends_it(harness: &Harness) {
    let server = harness.serve(&[]);
    let worker = server.worker();
    worker.signal(Signal::ABORT);
    assert!(worker.wait_gone(PATIENCE), "it lives on");
    let pid = format!("pid={}", worker.id());
    assert_logged(&server, &["ended with signal 6", &pid]);
    assert_logged(&server, &["WARN worker was serving nothing", &pid]);
    assert_named(&server, &["ERROR worker stood on its loop", "remuda_core::worker::", &pid]);
    replacement(&server, &[worker]);
}

pub(crate) fn a_worker_that_does_not_boot_in_time_is_replaced(harness: &Harness) {
    let server = harness.serve(&["-w", "2", "--boot-timeout", "1"]);
    let workers = server.workers(2);
    let stall = server.dir().join("stall-boot");
    fs::write(&stall, "").expect("a file can be written");
    workers[0].signal(Signal::KILL);
    until(PATIENCE, || (!stall.exists()).then_some(())).expect("a replacement boots");
    let start = Instant::now();
    let served_by = || server.connect().get("/info").number("pid");
    until(PATIENCE, || (served_by() != workers[1].id()).then_some(())).expect("the next replacement serves");
    took("a replacement served", start, 0.9..3.0);
    assert_logged(&server, &["ERROR", "not ready"]);
}

pub(crate) fn d10_what_a_killed_worker_served_and_counted_is_known(harness: &Harness) {
    let mut server = harness.serve(&[]);
    let worker = server.worker();
    let mut client = server.connect();
    (0..7).for_each(|_| drop(client.get("/")));
    let mut busy = server.connect();
    server.begin(&mut busy, get("/hang?ms=60000"));
    worker.signal(Signal::KILL);
    assert!(worker.wait_gone(PATIENCE));
    replacement(&server, &[worker]);
    server.connect().get("/");
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    assert_logged(&server, &["ERROR", "GET /hang", "MiB of memory at most", "memory_peak="]);
    // Seven, the one of the replacement, and the one that was never finished.
    assert_logged(&server, &["INFO", "8 of 9 requests", "aborted=1"]);
}

/// A line of the log has all of `parts`.
#[track_caller]
fn assert_logged(server: &Server, parts: &[&str]) {
    assert_logged_within(PATIENCE, server, parts);
}

/// The same of one with names of functions, which are read from all that a program without optimisation has of them.
#[track_caller]
fn assert_named(server: &Server, parts: &[&str]) {
    assert_logged_within(seconds(90.0), server, parts);
}

#[track_caller]
fn assert_logged_within(limit: Duration, server: &Server, parts: &[&str]) {
    let has_all = |line: &str| parts.iter().all(|part| line.contains(part));
    let found = until(limit, || server.log().lines().any(has_all).then_some(()));
    assert!(found.is_some(), "no line has all of {parts:?}");
}
