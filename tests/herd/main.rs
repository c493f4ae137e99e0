//! A herd of clients, each with one connection for good, while workers are replaced: no request is
//! lost, and no connection ends (D19). While workers die, that holds for each connection that has no
//! request in flight on one of them (D20). A separate program, because it leaves no processor time for
//! scenarios that measure time.
//!
//! A backend's run ends after [`REQUESTS`] and some rounds. `HERD=500000` in the environment sets
//! the number of requests. With `--nocapture` each run prints a line of a table.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use remuda_conformance::Harness;
use remuda_conformance::client::PATIENCE;
use remuda_conformance::probe::backends;
use remuda_conformance::process::{Process, Server};
use rustix::process::Signal;

use self::deaths::{SUDDEN, workers_die};
use self::drains::Drains;
use self::herd::Herd;

mod deaths;
mod drains;
mod herd;

const WORKERS: usize = 4;

/// The minimum of answers for each backend.
const REQUESTS: usize = 1000;

/// The options of all servers. The log says when each drain begins and ends.
const ARGS: &[&str] = &["-w", "4", "--keep-alive", "60", "--log-level", "debug", "--control-socket", CONTROL];

const CONTROL: &str = "control.sock";

/// An event that happens to a server again and again.
struct Event {
    name: &'static str,
    /// The time from one event to the next, unless the event itself takes longer.
    every: Duration,
    /// How often the event happens at least.
    rounds: usize,
    /// Makes the event happen for the n-th time, and returns when it is over.
    happen: fn(&mut Server, usize),
    /// Whether the first backend has an async application. The kinds alternate.
    is_async_first: bool,
}

#[test]
fn clients_notice_no_recycling() {
    under_a_herd(&Event {
        name: "recycle",
        every: Duration::from_millis(200),
        rounds: 10,
        happen: |server, _| {
            let oldest = server.workers(WORKERS).remove(0);
            recycle(server, &oldest);
            assert!(oldest.wait_gone(PATIENCE), "the worker does not end");
        },
        is_async_first: false,
    });
}

#[test]
fn clients_notice_no_reload() {
    under_a_herd(&Event {
        name: "reload",
        every: Duration::from_millis(200),
        rounds: 4,
        happen: |server, _| {
            let before = server.workers(WORKERS);
            server.arbiter().signal(Signal::HUP);
            assert!(before.iter().all(|worker| worker.wait_gone(PATIENCE)), "a worker does not end");
        },
        is_async_first: true,
    });
}

#[test]
fn clients_notice_no_upgrade() {
    under_a_herd(&Event {
        name: "upgrade",
        every: Duration::from_secs(2),
        rounds: 2,
        happen: |server, _| server.upgrade(),
        is_async_first: false,
    });
}

#[test]
fn clients_notice_no_change_of_the_worker_count() {
    under_a_herd(&Event {
        name: "TTOU, TTIN",
        every: Duration::from_millis(200),
        rounds: 10,
        happen: |server, n| {
            let (signal, workers) =
                if n % 2 == 0 { (Signal::TTOU, WORKERS - 1) } else { (Signal::TTIN, WORKERS) };
            server.arbiter().signal(signal);
            server.workers(workers);
        },
        is_async_first: true,
    });
}

#[test]
fn clients_notice_no_crash() {
    workers_die(SUDDEN, 6, &[], true);
}

#[test]
fn clients_notice_no_hang_but_its_wait() {
    // Where all handlers run on threads, blocking the only one equals blocking the loop.
    workers_die(&["hang"], 1, &["--timeout", "2", "--threads", "1"], false);
}

/// A server of each backend, to which `event` happens while a herd sends requests.
fn under_a_herd(event: &Event) {
    let _alone = alone();
    let requests =
        env::var("HERD").map_or(REQUESTS, |number| number.parse().expect("HERD is a number of requests"));
    report(
        "| what | backend | application | times | requests | lost or ended | drains | min | median | max ms | arbiter, KiB |",
    );
    for (n, backend) in backends().into_iter().enumerate() {
        let application = if (n % 2 == 0) == event.is_async_first { "async" } else { "blocking" };
        let harness = Harness::new(&backend, application, Path::new(env!("CARGO_BIN_EXE_fixture")));
        let mut server = harness.serve(ARGS);
        server.workers(WORKERS);
        let herd = Herd::new(server.address());
        let before = kilobytes(&server);
        let rounds = herd.run(|herd| {
            let mut n = 0;
            while herd.is_well() && (n < event.rounds || herd.answered() < requests) {
                let start = Instant::now();
                (event.happen)(&mut server, n);
                n += 1;
                thread::sleep(event.every.saturating_sub(start.elapsed()));
            }
            n
        });
        let after = kilobytes(&server);
        let failures = herd.failures();
        assert!(failures.is_empty(), "{backend}, {application}: {failures:#?}");
        let drains = Drains::of(&server.log());
        report(&format!(
            "| {} | {backend} | {application} | {rounds} | {} | 0 | {drains} | {before} → {after} |",
            event.name,
            herd.answered()
        ));
        server.arbiter().signal(Signal::TERM);
        assert_eq!(server.exit(PATIENCE), 0);
        let log = server.log();
        assert!(!log.contains("ERROR"), "{log}");
    }
}

/// Waits for the only server at a time: with its clients it takes the whole machine.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Requests the replacement of a worker, without waiting for it.
fn recycle(server: &Server, worker: &Process) {
    let mut socket = UnixStream::connect(server.dir().join(CONTROL)).expect("the control socket listens");
    let asked =
        writeln!(socket, "{{\"v\":1,\"command\":\"recycle\",\"pid\":{},\"wait\":false}}", worker.id());
    asked.expect("the server takes the request");
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).expect("it answers");
    assert!(answer.contains("\"ok\":true"), "{answer}");
}

/// The arbiter's own memory, in KiB.
fn kilobytes(server: &Server) -> u64 {
    server.arbiter().memory() / 1024
}

#[allow(clippy::print_stdout, reason = "figures for a run by hand")]
fn report(text: &str) {
    println!("{text}");
}
