//! The heartbeat (D1): a worker that hangs is found, named and replaced, and no other worker is.
//! What a worker counted and served is known, whatever ended it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::process::{connection_to, replacement};
use super::{get, seconds, took};
use crate::Harness;
use crate::client::PATIENCE;
use crate::process::{Server, until};

pub(crate) fn d1_hung_loop_is_found_and_replaced(harness: &Harness) {
    // On backends that run all handlers on threads, blocking the only thread equals blocking the
    // loop.
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
    hung.last_response(500);
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
        assert!(start.elapsed() < seconds(5.0), "a new connection waited for the hung loop");
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
    assert!(!idle.has_more(seconds(2.5)), "the drain ended early");
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

pub(crate) fn d1_a_freeze_of_all_processes_is_not_a_hang(harness: &Harness) {
    let server = harness.serve(&["-w", "2", "--timeout", "1"]);
    let workers = server.workers(2);
    let mut clients = [0, 1].map(|n| connection_to(&server, &workers[n]));
    let all = |signal| {
        server.arbiter().signal(signal);
        workers.iter().for_each(|worker| worker.signal(signal));
    };
    all(Signal::STOP);
    thread::sleep(seconds(2.5)); // only the time itself can be waited for
    all(Signal::CONT);
    for (client, worker) in clients.iter_mut().zip(&workers) {
        assert_eq!(client.get("/info").number("pid"), worker.id());
    }
    for worker in &workers {
        assert!(!worker.wait_gone(seconds(1.5)), "worker {} was killed after the freeze", worker.id());
    }
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

pub(crate) fn a_hang_is_logged_with_the_stack_of_each_thread(harness: &Harness) {
    let server = harness.serve(&["--timeout", "1"]);
    let mut first = server.connect();
    server.begin(&mut first, get("/block?ms=60000"));
    // Where `/hang` blocks one thread only, these requests block the loop or the other threads.
    // Elsewhere they are not read.
    let mut others = [(); 4].map(|()| server.connect());
    others.iter_mut().for_each(|other| other.send(get("/hang?ms=60000")));
    assert_logged(&server, &["ERROR", "hangs"]);
    assert_logged(&server, &["ended with signal 6"]);
    let is_told = |line: &&str| line.contains("ERROR worker was serving");
    let log = server.log();
    let serving = log.lines().find(is_told).expect("the log names the request");
    assert!(serving.contains("GET /block for") && serving.contains("MiB of memory"), "{serving}");
    for (request, function) in [("GET /block", "remuda::demo::"), ("GET /hang", "fixture::hang")] {
        if serving.contains(request) {
            assert_told(&server, &["ERROR worker stack trace", request], function);
            // The server's own frames are left out.
            let frames = |log: String| frames(&log, &["ERROR worker stack trace", request]);
            let all = frames(server.log()).expect("the stack is logged");
            assert!(all.len() <= 8 && all.iter().all(|frame| !frame.contains("catch_unwind")), "{all:#?}");
        }
    }
}

pub(crate) fn abrt_logs_what_a_worker_is_doing_and_ends_it(harness: &Harness) {
    let server = harness.serve(&[]);
    let worker = server.worker();
    worker.signal(Signal::ABORT);
    assert!(worker.wait_gone(PATIENCE), "the worker is alive");
    let pid = format!("pid={}", worker.id());
    assert_logged(&server, &["ended with signal 6", &pid]);
    assert_logged(&server, &["WARN worker was serving nothing", &pid]);
    assert_told(&server, &["ERROR worker stack trace, event loop", &pid], "remuda_");
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

pub(crate) fn d10_requests_and_counts_of_a_killed_worker_are_known(harness: &Harness) {
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
    // Seven requests, one served by the replacement, and one that was never finished.
    assert_logged(&server, &["INFO", "8 of 9 requests", "aborted=1"]);
}

/// Asserts that a line of the log has all of `parts`.
#[track_caller]
pub(super) fn assert_logged(server: &Server, parts: &[&str]) {
    assert_logged_within(PATIENCE, server, parts);
}

/// Asserts the same of a line followed by a stack with `function`. Symbolizing a program without
/// optimisation reads all of its debug information, hence the limit of 90 s.
#[track_caller]
fn assert_told(server: &Server, parts: &[&str], function: &str) {
    let is_told = || frames(&server.log(), parts)?.iter().any(|frame| frame.contains(function)).then_some(());
    let found = until(seconds(90.0), is_told);
    assert!(found.is_some(), "no stack of {parts:?} has {function}: {:#?}", frames(&server.log(), parts));
}

/// The stack frames, one a line, after the first log line that has all `parts`.
fn frames(log: &str, parts: &[&str]) -> Option<Vec<String>> {
    let has_all = |line: &&str| parts.iter().all(|part| line.contains(part));
    let rest = log.lines().skip_while(|line| !has_all(line));
    let frames = rest.skip(1).take_while(|line| line.starts_with("    "));
    log.lines().any(|line| has_all(&line)).then(|| frames.map(str::to_owned).collect())
}

#[track_caller]
fn assert_logged_within(limit: Duration, server: &Server, parts: &[&str]) {
    let has_all = |line: &str| parts.iter().all(|part| line.contains(part));
    let found = until(limit, || server.log().lines().any(has_all).then_some(()));
    assert!(found.is_some(), "no line has all of {parts:?}");
}
