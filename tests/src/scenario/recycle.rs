//! Recycling (D15): a worker that has served enough is replaced, and no client has to notice.

use std::collections::HashSet;
use std::fs;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{get, seconds, took};
use crate::Harness;
use crate::client::{Client, PATIENCE};
use crate::process::{Process, Server, until};

/// Connects until another worker than `before` answers. Returns its pid and the connection.
#[track_caller]
fn successor(server: &Server, before: u64) -> (u64, Client) {
    until(PATIENCE, || {
        let mut client = server.connect();
        let pid = client.get("/info").number("pid");
        (pid != before).then_some((pid, client))
    })
    .expect("a worker that has served enough is replaced")
}

pub(crate) fn d15_requests_are_counted_and_not_connections(harness: &Harness) {
    let args = ["--max-requests", "20", "--max-requests-jitter", "0", "--drain-recycle", "finish"];
    let mut server = harness.serve(&args);
    let first = server.worker();
    let silent: Vec<_> = (0..40).map(|_| server.connect()).collect();
    let mut client = server.connect();
    for n in 1..20 {
        let info = client.get("/info");
        assert_eq!((info.number("requests"), info.number("pid")), (n, first.id()));
        assert!(!info.announces_close());
    }
    assert_eq!(server.worker().id(), first.id(), "no worker has reached its limit");
    drop(silent);

    assert!(!client.get("/").announces_close(), "the worker serves until its replacement is ready");
    let (_, mut kept) = successor(&server, first.id());
    let info = kept.get("/info");
    assert_eq!(info.number("slot"), 0, "the replacement has the slot of the old worker");
    // The old worker drains: the next request is the last on its connection.
    let announced = until(PATIENCE, || {
        client.send(get("/info"));
        let info = client.response();
        assert_eq!((info.status, info.number("pid")), (200, first.id()));
        info.announces_close().then_some(())
    });
    assert!(announced.is_some(), "the old worker never drains");
    drop(client);
    assert!(first.wait_gone(PATIENCE), "the old worker does not end");
    drop(kept);
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d15_recycling_loses_no_request_and_refuses_no_connect(harness: &Harness) {
    recycles_under_load(harness.serve(&["-w", "2", "--max-requests", "50"]));
}

/// Sends requests to a server of two workers until several have been recycled, and stops it.
#[track_caller]
pub(super) fn recycles_under_load(mut server: Server) {
    const CLIENTS: usize = 8;
    const WORKERS: usize = 2;
    const SERVED: usize = 12;
    let pids = Mutex::new(HashSet::new());
    let start = Instant::now();
    let served = || pids.lock().expect("no thread panics with the lock").len();
    let is_enough = || served() >= SERVED;
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| ask(&server, &pids, is_enough));
        }
        while !is_enough() {
            assert!(start.elapsed() < PATIENCE, "{} workers have served in {PATIENCE:?}", served());
            let workers = server.processes();
            assert!(workers <= WORKERS + 1, "{workers} workers at a time");
            thread::sleep(Duration::from_millis(1));
        }
    });
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    let log = server.log();
    assert!(!log.contains("ended with signal") && !log.contains("ended with status"), "{log}");
}

/// Sends one request after the other and notes the pids that answer. A connection is used until
/// close is announced, or for a while, so that connections are opened at any time.
fn ask(server: &Server, pids: &Mutex<HashSet<u64>>, is_enough: impl Fn() -> bool) {
    let mut client = server.connect();
    let start = Instant::now();
    for n in 1.. {
        client.send(get("/info"));
        let response = client.try_response().unwrap_or_else(|broken| panic!("request {n} is lost: {broken}"));
        assert_eq!(response.status, 200);
        pids.lock().expect("no thread panics with the lock").insert(response.number("pid"));
        if is_enough() || start.elapsed() > PATIENCE {
            return;
        }
        if response.announces_close() || n % 16 == 0 {
            client = server.connect();
        }
    }
}

pub(crate) fn d15_a_failed_replacement_leaves_the_old_worker_serving(harness: &Harness) {
    const FAILED: &str = "worker could not start";
    let mut server = harness.serve(&["--max-requests", "3", "--max-requests-jitter", "0"]);
    let first = server.worker();
    let obstacle = server.dir().join("fail-boot");
    fs::write(&obstacle, "").expect("a file can be written");
    let mut client = server.connect();
    for _ in 0..3 {
        client.get("/");
    }
    let tried_again = until(PATIENCE, || (server.log().matches(FAILED).count() >= 3).then_some(()));
    assert!(tried_again.is_some(), "the replacement is not tried again");
    for mut client in [client, server.connect()] {
        let info = client.get("/info");
        assert_eq!((info.number("pid"), info.announces_close()), (first.id(), false));
    }
    fs::remove_file(&obstacle).expect("it was written");
    let (second, client) = successor(&server, first.id());
    assert!(first.wait_gone(PATIENCE), "the old worker does not end");
    assert_eq!(server.worker().id(), second);
    drop(client);
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d15_a_recycled_worker_is_ended_at_its_deadline(harness: &Harness) {
    let args = ["--max-requests", "1", "--max-requests-jitter", "0", "--graceful-timeout", "1"];
    let mut server = harness.serve(&args);
    let first = server.worker();
    let mut client = server.connect();
    let start = Instant::now();
    client.send(get("/stream?chunks=100&size=10&ms=100"));
    let mut response = client.head();
    let broken = client.try_body(&mut response).expect_err("ten seconds do not fit into one");
    assert!(broken.is_cut_by_server(), "{broken}");
    assert!(first.wait_gone(PATIENCE), "the old worker does not end");
    took("the old worker ended", start, 0.9..4.0);
    assert_ne!(server.worker().id(), first.id());
    drop(client);
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}

/// Asserts that `first`, the only worker since the start, is replaced for `reason`, which the log
/// has with these words, while clients are served.
#[track_caller]
fn is_replaced(mut server: Server, first: Process, reason: &str, words: &str) {
    let (second, client) = successor(&server, first.id());
    assert!(first.wait_gone(PATIENCE), "the old worker does not end");
    assert_ne!(second, first.id());
    let log = server.log();
    assert!(log.contains(words) && log.contains(reason), "{log}");
    assert!(!log.contains("ended with signal") && !log.contains("ended with status"), "{log}");
    drop(client);
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d15_a_worker_that_has_lived_for_long_enough_is_replaced(harness: &Harness) {
    let server = harness.serve(&["--max-lifetime", "2", "--max-lifetime-jitter", "0"]);
    let first = server.worker();
    is_replaced(server, first, "recycle: lifetime", "limit 2.0s: to be replaced");
}

pub(crate) fn d15_a_worker_that_has_grown_too_large_is_replaced(harness: &Harness) {
    let server = harness.serve(&["--max-rss", "128M", "--max-rss-jitter", "0"]);
    let first = server.worker();
    let mut client = server.connect();
    client.get("/grow?mb=16");
    // The arbiter looks at memory once a second.
    let start = Instant::now();
    while start.elapsed() < seconds(2.0) {
        assert_eq!(client.get("/info").number("pid"), first.id(), "the worker is within its limit");
        thread::sleep(Duration::from_millis(50));
    }
    client.get("/grow?mb=128");
    drop(client);
    is_replaced(server, first, "recycle: memory", "limit 134217728: to be replaced");
}
