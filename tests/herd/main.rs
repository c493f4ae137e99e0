//! A herd of clients, each with one connection for good, while workers are replaced under it: no request is lost, and no
//! connection ends (D19). In a program of its own, because it leaves nothing of the machine to scenarios that measure time.
//!
//! A backend is done with after [`REQUESTS`] and some rounds; `HERD=500000` in the environment asks for so many. With
//! `--nocapture` each is a line of a table.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use remuda_conformance::Harness;
use remuda_conformance::client::PATIENCE;
use remuda_conformance::probe::backends;
use remuda_conformance::process::{Process, Server};
use rustix::process::Signal;

use self::drains::Drains;
use self::herd::Herd;

mod drains;
mod herd;

const WORKERS: usize = 4;

/// Answers without which a backend is not done with.
const REQUESTS: usize = 1000;

/// The options of all servers; the log says when each drain begins and ends.
const ARGS: &[&str] = &["-w", "4", "--keep-alive", "60", "--log-level", "debug", "--control-socket", CONTROL];

const CONTROL: &str = "control.sock";

/// Something that happens to a server again and again.
struct Way {
    name: &'static str,
    /// From one time to the next, or for as long as it takes.
    every: Duration,
    /// How often it happens at least.
    rounds: usize,
    /// How it happens for the n-th time; it is over when this returns.
    happen: fn(&mut Server, usize),
    /// Whether the first of the backends has an async application; the next has one of the other kind.
    is_async_first: bool,
}

#[test]
fn nobody_notices_recycling() {
    under_a_herd(&Way {
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
fn nobody_notices_reloads() {
    under_a_herd(&Way {
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
fn nobody_notices_upgrades() {
    under_a_herd(&Way {
        name: "upgrade",
        every: Duration::from_secs(2),
        rounds: 2,
        happen: |server, _| server.upgrade(),
        is_async_first: false,
    });
}

#[test]
fn nobody_notices_that_there_are_fewer_workers_and_more() {
    under_a_herd(&Way {
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

/// A server of each backend, to which this happens while a herd asks.
fn under_a_herd(way: &Way) {
    // One server at a time: with its clients it is all there is on the machine.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let requests =
        env::var("HERD").map_or(REQUESTS, |number| number.parse().expect("HERD is a number of requests"));
    report(
        "| what | backend | application | times | requests | lost or ended | drains | min | median | max ms | arbiter, KiB |",
    );
    for (n, backend) in backends().into_iter().enumerate() {
        let application = if (n % 2 == 0) == way.is_async_first { "async" } else { "blocking" };
        let harness = Harness::new(&backend, application, Path::new(env!("CARGO_BIN_EXE_fixture")));
        let mut server = harness.serve(ARGS);
        server.workers(WORKERS);
        let herd = Herd::new(server.address());
        let before = kilobytes(&server);
        let rounds = herd.graze(|herd| {
            let mut n = 0;
            while herd.is_well() && (n < way.rounds || herd.answered() < requests) {
                let start = Instant::now();
                (way.happen)(&mut server, n);
                n += 1;
                thread::sleep(way.every.saturating_sub(start.elapsed()));
            }
            n
        });
        let after = kilobytes(&server);
        let failures = herd.failures();
        assert!(failures.is_empty(), "{backend}, {application}: {failures:#?}");
        let drains = Drains::of(&server.log());
        report(&format!(
            "| {} | {backend} | {application} | {rounds} | {} | 0 | {drains} | {before} → {after} |",
            way.name,
            herd.answered()
        ));
        server.arbiter().signal(Signal::TERM);
        assert_eq!(server.exit(PATIENCE), 0);
        let log = server.log();
        assert!(!log.contains("ERROR"), "{log}");
    }
}

/// Has a worker replaced, without waiting for that.
fn recycle(server: &Server, worker: &Process) {
    let mut socket =
        UnixStream::connect(server.dir().join(CONTROL)).expect("somebody listens on the control socket");
    let asked =
        writeln!(socket, "{{\"v\":1,\"command\":\"recycle\",\"pid\":{},\"wait\":false}}", worker.id());
    asked.expect("it takes what it is asked");
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).expect("it answers");
    assert!(answer.contains("\"ok\":true"), "{answer}");
}

/// Memory of the arbiter's own.
fn kilobytes(server: &Server) -> u64 {
    server.arbiter().memory() / 1024
}

#[allow(clippy::print_stdout, reason = "figures for whoever runs it by hand")]
fn report(text: &str) {
    println!("{text}");
}
