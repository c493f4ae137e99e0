//! The application's own end in a worker that has drained (D14): after the last connection, before
//! the exit, within the deadline. And tasks that handlers have left behind.

use std::time::Instant;

use rustix::process::Signal;

use super::hooks::{Entry, journal, wait, with_journal};
use super::{get, took};
use crate::Harness;
use crate::client::PATIENCE;
use crate::process::{Process, Server};

/// A harness whose application takes `ms` milliseconds for its end.
fn ending(harness: &Harness, ms: u32) -> Harness {
    with_journal(harness, "").with_variable("FIXTURE_END", &ms.to_string())
}

/// The index of the only entry about `what` in process `pid`, if there is one.
#[track_caller]
fn place(journal: &[Entry], what: &str, pid: u64) -> Option<usize> {
    let fits = |entry: &Entry| entry.what == what && entry.pid == pid;
    assert!(journal.iter().filter(|entry| fits(entry)).count() <= 1, "{what} more than once: {journal:#?}");
    journal.iter().position(fits)
}

/// Asserts that in worker `pid` the end ran once and completely, before `worker_exit`.
#[track_caller]
fn has_ended(journal: &[Entry], pid: u64, reason: &str) {
    let places = ["end_begun", "end_over", "worker_exit"].map(|what| place(journal, what, pid));
    let [Some(begun), Some(over), Some(exit)] = places else {
        panic!("the end of worker {pid} is not complete: {journal:#?}")
    };
    assert!(begun < over && over < exit, "{journal:#?}");
    assert_eq!(journal[begun].facts, format!("reason={reason}"));
    assert!(journal[exit].facts.contains("status=0"), "{journal:#?}");
}

#[track_caller]
fn stop(server: &mut Server, status: i32) -> Vec<Entry> {
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), status, "{}", server.log());
    journal(server)
}

pub(crate) fn d14_the_applications_end_runs_before_a_worker_exits(harness: &Harness) {
    let mut server = ending(harness, 300).serve(&["-w", "2"]);
    let workers = server.workers(2);
    let mut client = server.connect();
    server.begin(&mut client, get("/sleep?ms=600"));
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    // The worker without a connection ends at once. The other one serves its request first.
    let first = wait(&server, 1, "end_over", "");
    assert_eq!(first.iter().filter(|entry| entry.what == "end_begun").count(), 1, "{first:#?}");
    assert_eq!(client.response().status, 200);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
    took("the end after the last response", start, 0.8..3.0);
    let all = journal(&server);
    workers.iter().for_each(|worker| has_ended(&all, worker.id(), "Stop"));
}

pub(crate) fn d14_the_applications_end_runs_at_each_kind_of_drain(harness: &Harness) {
    let mut server =
        ending(harness, 50).serve(&["-w", "2", "--max-requests", "1", "--max-requests-jitter", "0"]);
    let mut left = Vec::new();
    let mut over = |server: &Server, reason: &str| {
        let all = wait(server, 1, "worker_exit", reason);
        let gone = all.iter().rfind(|entry| entry.what == "worker_exit").expect("it was waited for").pid;
        has_ended(&all, gone, reason);
        left.push(gone);
    };
    // Both workers are ready. A worker that is not ready runs no end.
    wait(&server, 1, "when_ready", "");
    server.arbiter().signal(Signal::TTOU);
    over(&server, "ScaleDown");
    server.connect().get("/");
    over(&server, "RecycleRequests");
    server.arbiter().signal(Signal::HUP);
    over(&server, "Reload");
    server.upgrade();
    over(&server, "Upgrade");
    // The new arbiter has as many workers as its settings say.
    let last: Vec<_> = server.workers(2).iter().map(Process::id).collect();
    let all = stop(&mut server, 0);
    last.iter().for_each(|pid| has_ended(&all, *pid, "Stop"));
    left.extend(last);
    let count = left.len();
    left.sort_unstable();
    left.dedup();
    assert_eq!((left.len(), count), (6, 6), "one end a worker: {all:#?}");
}

pub(crate) fn d1_a_worker_beats_while_its_application_ends(harness: &Harness) {
    let mut server = ending(harness, 3000).serve(&["--timeout", "1"]);
    let (worker, start) = (server.worker().id(), Instant::now());
    let all = stop(&mut server, 0);
    took("the end", start, 2.9..6.0);
    has_ended(&all, worker, "Stop");
    assert!(!server.log().contains("hangs"), "{}", server.log());
}

pub(crate) fn d10_the_deadline_cuts_the_applications_end_off(harness: &Harness) {
    let mut server = ending(harness, 60_000).serve(&["--graceful-timeout", "1"]);
    let (worker, start) = (server.worker().id(), Instant::now());
    let all = stop(&mut server, 6);
    took("the exit", start, 0.9..2.0);
    assert!(
        place(&all, "end_begun", worker).is_some() && place(&all, "end_over", worker).is_none(),
        "{all:#?}"
    );
    let exit = place(&all, "worker_exit", worker).expect("the worker exits by itself");
    assert!(all[exit].facts.contains("status=6"), "{all:#?}");
    assert!(
        server.log().contains("the application's end is cut off at the drain's deadline"),
        "{}",
        server.log()
    );
}

pub(crate) fn d10_the_applications_end_has_time_after_requests_are_cut(harness: &Harness) {
    let mut server = ending(harness, 20).serve(&["--graceful-timeout", "1", "--threads", "1"]);
    let worker = server.worker().id();
    let mut client = server.connect();
    server.begin(&mut client, get("/stream?chunks=600&size=10&ms=100"));
    let start = Instant::now();
    let all = stop(&mut server, 6);
    took("the exit", start, 0.9..2.0);
    // On sync, a blocking handler that does not return may hold the only thread.
    if harness.is_async() || harness.backend() != "sync" {
        assert!(place(&all, "end_over", worker).is_some(), "{all:#?}");
    }
}

pub(crate) fn d11_hurrying_shortens_the_applications_end(harness: &Harness) {
    // After INT, cutting the end off is what was asked for: status 0.
    for (signal, status) in [(Signal::INT, 0), (Signal::TERM, 6)] {
        let mut server = ending(harness, 60_000).serve(&["--graceful-timeout", "60"]);
        server.arbiter().signal(Signal::TERM);
        wait(&server, 1, "end_begun", "reason=Stop");
        let start = Instant::now();
        server.arbiter().signal(signal);
        assert_eq!(server.exit(PATIENCE), status);
        took("the exit", start, 1.5..3.5);
        assert!(server.log().contains("worker ended with status 6"), "{}", server.log());
    }
}

pub(crate) fn d11_quit_leaves_no_time_for_the_applications_end(harness: &Harness) {
    let mut server = ending(harness, 1).serve(&[]);
    server.connect().get("/");
    server.arbiter().signal(Signal::QUIT);
    server.exit_status(PATIENCE);
    let all = journal(&server);
    assert!(all.iter().all(|entry| entry.what != "end_begun"), "{all:#?}\n{}", server.log());

    let mut server = ending(harness, 60_000).serve(&["--graceful-timeout", "60"]);
    server.arbiter().signal(Signal::TERM);
    wait(&server, 1, "end_begun", "reason=Stop");
    let start = Instant::now();
    server.arbiter().signal(Signal::QUIT);
    server.exit_status(PATIENCE);
    took("the exit", start, 0.0..1.0);
}

pub(crate) fn d14_tasks_that_hold_the_worker_finish_before_its_end(harness: &Harness) {
    let mut server = ending(harness, 1).serve(&["--threads", "1"]);
    let worker = server.worker().id();
    server.connect().get("/leave?ms=700");
    let start = Instant::now();
    let all = stop(&mut server, 0);
    took("the exit", start, 0.4..3.0);
    let left = place(&all, "left", worker);
    assert!(left.is_some() && left < place(&all, "end_begun", worker), "{all:#?}");
    has_ended(&all, worker, "Stop");
    // A task that does not hold the worker ends with the process.
    let mut server = ending(harness, 1).serve(&[]);
    server.connect().get("/leave/loosely?ms=60000");
    let start = Instant::now();
    stop(&mut server, 0);
    took("the exit", start, 0.0..2.0);
}

pub(crate) fn d10_tasks_that_hold_the_worker_are_cut_at_the_deadline(harness: &Harness) {
    let mut server = ending(harness, 20).serve(&["--graceful-timeout", "1"]);
    let worker = server.worker().id();
    server.connect().get("/leave?ms=60000");
    let start = Instant::now();
    let all = stop(&mut server, 6);
    took("the exit", start, 0.9..2.0);
    assert!(place(&all, "end_over", worker).is_some(), "the end has no time: {all:#?}");
    assert!(server.log().contains("tasks that hold the worker are cut off"), "{}", server.log());
}

pub(crate) fn an_end_that_panics_is_logged_and_costs_nothing_else(harness: &Harness) {
    let mut server = with_journal(harness, "").with_variable("FIXTURE_END", "panic").serve(&[]);
    let worker = server.worker().id();
    server.connect().get("/");
    let all = stop(&mut server, 0);
    assert!(place(&all, "worker_exit", worker).is_some(), "{all:#?}");
    assert!(
        server.log().contains("the application's end panicked: it was told to panic"),
        "{}",
        server.log()
    );
}
