//! Clients of a proxy, and workers that come and go behind it.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use remuda_conformance::client::{Address, PATIENCE};
use remuda_conformance::process::{Process, Server, until};
use rustix::process::Signal;

pub(crate) const CLIENTS: usize = 64;

/// Connections to a server that a proxy may close in a second for reasons of its own. A server that
/// closed connections at a reload would close all of them.
const GIVEN_UP: usize = CLIENTS / 8;

/// The socket of the admin listener.
pub(crate) const ADMIN: &str = "unix:admin.sock";

/// How often a worker is told to leave and one is added and drained, and how long each is given to
/// serve.
const ROUNDS: usize = 5;
const WORKING: Duration = Duration::from_millis(200);

/// How long workers are recycled.
const LOADED: Duration = Duration::from_secs(3);

/// Asserts that every response through `front` is 200 while the workers of `server` come and go,
/// and that each has served.
#[track_caller]
pub(crate) fn while_workers_come_and_go(server: &Server, front: &Address) {
    let workers = under_load(front, || {
        for _ in 0..ROUNDS {
            server.arbiter().signal(Signal::TTIN);
            // The oldest worker has connections that are reused again and again. Its replacement
            // gets them.
            let oldest = server.workers(3).remove(0);
            thread::sleep(WORKING);
            oldest.signal(Signal::TERM);
            assert!(oldest.wait_gone(PATIENCE), "the worker does not end");
            server.workers(3);
            thread::sleep(WORKING);
            server.arbiter().signal(Signal::TTOU);
            server.workers(2);
        }
    });
    assert!(workers > ROUNDS, "only {workers} workers have served");
}

/// Asserts that every response through `front` is 200 for some seconds, from many workers.
#[track_caller]
pub(crate) fn while_workers_are_recycled(front: &Address) {
    let workers = under_load(front, || thread::sleep(LOADED));
    assert!(workers > ROUNDS, "only {workers} workers have served");
}

/// Asserts that every response through `front` is 200 while `server` is reloaded every second, and
/// that many generations have served. `RELOADS=30` in the environment makes that thirty seconds.
#[track_caller]
pub(crate) fn while_reloaded(server: &Server, front: &Address) {
    let reloads = reloads();
    let workers = under_load(front, || {
        let start = Instant::now();
        for n in 1..=reloads {
            server.arbiter().signal(Signal::HUP);
            thread::sleep((start + n * Duration::from_secs(1)).saturating_duration_since(Instant::now()));
        }
        // On a busy machine two requested reloads may become one.
        let over = || {
            let log = server.log();
            let newest = 1 + log.matches("settings and application are loaded").count();
            log.contains(&format!("were told to drain generation={newest}\n")).then_some(())
        };
        until(PATIENCE, over).expect("the last generation takes over");
    });
    assert!(workers > reloads as usize / 2, "only {workers} workers have served");
}

/// The same. In addition `server`, which has an admin listener, sees no more new connections than
/// `front` needs anyway, however often it is reloaded.
#[track_caller]
pub(crate) fn on_the_same_connections_while_reloaded(server: &Server, front: &Address) {
    while_reloaded(server, front);
    let address = server.dir().join(ADMIN.trim_start_matches("unix:"));
    let mut client = Address::Unix(address).connect(PATIENCE).expect("the admin listener is there");
    client.send("GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
    let text = client.response().text();
    let accepted = text.lines().find_map(|line| line.strip_prefix("remuda_connections_accepted_total "));
    let accepted: usize = accepted.and_then(|number| number.parse().ok()).expect("it is a number");
    report(&format!("over {accepted} connections"));
    let seconds = reloads() as usize + 1;
    assert!(accepted <= CLIENTS + GIVEN_UP * seconds, "{accepted} connections for {CLIENTS} clients");
}

/// How often a server is reloaded.
fn reloads() -> u32 {
    env::var("RELOADS").map_or(3, |number| number.parse().expect("RELOADS is a number"))
}

/// Asserts that every response through `front` is 200 while reloads of `server`, which has a
/// settings file, fail: the file is broken, the application is missing, a worker dies while it
/// builds the application. Then a reload succeeds.
#[track_caller]
pub(crate) fn while_reloads_fail(server: &Server, front: &Address, settings: &str) {
    const NOT_RELOADED: &str = "not reloaded, the server goes on as before";
    let pids = || server.workers(2).iter().map(Process::id).collect::<HashSet<_>>();
    let before = pids();
    let fail = |times| {
        server.arbiter().signal(Signal::HUP);
        let said = || (server.log().matches(NOT_RELOADED).count() == times).then_some(());
        until(PATIENCE, said).expect("the failed reload is not logged");
        thread::sleep(WORKING);
    };
    let workers = under_load(front, || {
        server.write_settings("workers = = 3\n");
        fail(1);
        server.write_settings(settings);
        for (times, obstacle) in [(2, "fail-boot"), (3, "crash-boot")] {
            let obstacle = server.dir().join(obstacle);
            fs::write(&obstacle, "").expect("a file can be written");
            fail(times);
            fs::remove_file(&obstacle).expect("it was written");
        }
        assert_eq!(pids(), before, "the old generation serves on");
        server.arbiter().signal(Signal::HUP);
        assert!(server.logs("older workers were told to drain", PATIENCE), "the reload never succeeds");
        thread::sleep(WORKING);
    });
    assert!(workers > before.len(), "no new worker has served");
}

/// Kills a worker of `server` every half second. Returns how many requests through `front` were
/// answered with 500. Asserts that every other response is 200, that none is cut, and that no more
/// requests have failed than clients can have had in flight. `KILLS=120` in the environment makes
/// that a minute.
///
/// The response fits into one write(2): a request is in flight, or its response was sent whole, and
/// the counts of the kernel tell the keeper which.
#[track_caller]
pub(crate) fn while_workers_are_killed(server: &Server, front: &Address, workers: usize) -> usize {
    let kills: u32 = env::var("KILLS").map_or(6, |number| number.parse().expect("KILLS is a number"));
    let over = AtomicBool::new(false);
    let (served, failed) = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| ask_during_kills(front, &over))).collect();
        let done = catch_unwind(AssertUnwindSafe(|| {
            let start = Instant::now();
            for n in 1..=kills {
                thread::sleep((start + n * KILLED_EVERY).saturating_duration_since(Instant::now()));
                // The oldest has lived for longer than a second, so it is replaced at once (D17).
                let oldest = server.workers(workers).remove(0);
                oldest.signal(Signal::KILL);
                assert!(oldest.wait_gone(PATIENCE), "a worker outlives SIGKILL");
            }
            server.workers(workers);
        }));
        over.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| resume_unwind(panic));
        let ended = clients.into_iter().map(|client| client.join().expect("every answer is 200 or 500"));
        ended.fold((0, 0), |(served, failed), (s, f)| (served + s, failed + f))
    });
    report(&format!("{kills} workers killed: {served} requests answered with 200, {failed} with 500"));
    assert!(served > 10 * CLIENTS, "{served} requests are not enough load");
    assert!(failed <= CLIENTS * kills as usize, "{failed} requests have failed");
    failed
}

/// How often a worker is killed.
const KILLED_EVERY: Duration = Duration::from_millis(500);

/// Sends one request after the other. Returns how many were answered with 200, and with 500.
fn ask_during_kills(front: &Address, over: &AtomicBool) -> (usize, usize) {
    let (mut served, mut failed) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        let mut client = front.connect(PATIENCE).expect("the proxy takes connections");
        while !over.load(Ordering::Relaxed) {
            client.send("GET /info HTTP/1.1\r\nHost: test\r\n\r\n");
            let response = client.response();
            match response.status {
                200 => served += 1,
                500 => failed += 1,
                _ => panic!("after {served} requests: {response:?}"),
            }
            if response.announces_close() {
                break;
            }
        }
    }
    (served, failed)
}

/// Runs clients while `happens` runs. Returns the number of workers that have answered.
#[track_caller]
fn under_load(front: &Address, happens: impl FnOnce()) -> usize {
    let over = AtomicBool::new(false);
    let (workers, requests) = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| ask(front, &over))).collect();
        let done = catch_unwind(AssertUnwindSafe(happens));
        over.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| resume_unwind(panic));
        let mut workers = HashSet::new();
        let mut requests = 0;
        for client in clients {
            let (served_by, n) = client.join().expect("every answer is 200");
            workers.extend(served_by);
            requests += n;
        }
        (workers, requests)
    });
    assert!(requests > 10 * CLIENTS, "{requests} requests are not enough load");
    report(&format!("{requests} requests answered with 200 by {} workers", workers.len()));
    workers.len()
}

#[allow(clippy::print_stdout, reason = "figures for a run by hand")]
fn report(text: &str) {
    println!("{text}");
}

/// Sends one request after the other, on the same connection for as long as that is possible.
/// Returns the pids of the workers that answered, and how many requests they answered.
fn ask(front: &Address, over: &AtomicBool) -> (HashSet<u64>, usize) {
    let (mut workers, mut requests) = (HashSet::new(), 0);
    while !over.load(Ordering::Relaxed) {
        let mut client = front.connect(PATIENCE).expect("the proxy takes connections");
        while !over.load(Ordering::Relaxed) {
            client.send("GET /info HTTP/1.1\r\nHost: test\r\n\r\n");
            let response = client.response();
            assert_eq!(response.status, 200, "after {requests} requests: {response:?}");
            workers.insert(response.number("pid"));
            requests += 1;
            if response.announces_close() {
                break;
            }
        }
    }
    (workers, requests)
}
