//! Ten thousand silent connections, on one backend after the other: too many for a scenario, since
//! several of those run at a time.

use std::path::Path;
use std::time::{Duration, Instant};

use remuda_conformance::Harness;
use remuda_conformance::client::{Client, End, PATIENCE};
use remuda_conformance::process::{Process, Server, until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const SILENT: usize = 10_000;

/// How long it may take to open all connections, and to end them, on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// How much more memory a worker may have with the second ten thousand open than with the first.
const MARGIN: u64 = 2 << 20;

#[test]
fn ten_thousand_silent_connections_delay_no_other_client() {
    let _alone = crate::crowd_alone();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("a limit can be raised");
    for backend in ["sync", "threaded", "mio", "smol", "tokio"] {
        let harness = Harness::new(backend, "blocking", Path::new(env!("CARGO_BIN_EXE_fixture")));
        let server = harness.serve(&["--worker-connections", "0", "--header-timeout", "0"]);
        let worker = server.worker();
        let before = held(&server, &worker);
        ask(&server);
        // Memory is compared while all connections are open. How much an allocator returns once
        // they have ended depends on the order in which they end: it may be all of it after one
        // round, and nothing after the next.
        let start = Instant::now();
        let silent = open(&server, &worker, before);
        let first = worker.memory();
        drop(silent);
        ended(&server, &worker, before);
        let silent = open(&server, &worker, before);
        let second = worker.memory();
        let opened = start.elapsed();
        silent.into_iter().for_each(Client::vanish);
        let (left, arbiter) = ended(&server, &worker, before);
        let kib = |bytes: u64| bytes / 1024;
        #[allow(clippy::print_stdout, reason = "figures of a passing test are shown on request")]
        {
            println!(
                "{backend}: opened twice in {opened:.1?}; the worker had {} KiB, with all open {} KiB and {} KiB, and {} KiB in the end",
                kib(before.memory),
                kib(first),
                kib(second),
                kib(left),
            );
        }
        assert!(second < first + MARGIN, "the worker grows: {first} bytes, then {second}");
        assert!(left < second + MARGIN, "the worker grows at the end: {second} bytes, then {left}");
        assert!(arbiter < before.arbiter_memory + MARGIN, "the arbiter grows to {arbiter} bytes");
        assert_eq!(server.worker().id(), worker.id());
    }
}

/// Opens all connections and waits until the worker holds them, while others are answered.
#[track_caller]
fn open(server: &Server, worker: &Process, before: Held) -> Vec<Client> {
    let silent: Vec<_> = (0..SILENT)
        .map(|n| {
            if n % 1000 == 0 {
                ask(server);
            }
            server.connect()
        })
        .collect();
    let all = || (worker.descriptors() >= before.descriptors + SILENT).then_some(());
    assert!(
        until(LONG, all).is_some(),
        "{} descriptors, {} before",
        worker.descriptors(),
        before.descriptors
    );
    ask(server);
    silent
}

/// The memory of the worker and of the arbiter, once both have as many descriptors as before.
#[track_caller]
fn ended(server: &Server, worker: &Process, before: Held) -> (u64, u64) {
    let same = || {
        let now = held(server, worker);
        ((now.descriptors, now.arbiter) == (before.descriptors, before.arbiter)).then_some(now)
    };
    let now = until(LONG, same).unwrap_or_else(|| panic!("{before:?}, then {:?}", held(server, worker)));
    ask(server);
    (now.memory, now.arbiter_memory)
}

#[track_caller]
fn ask(server: &Server) {
    let asked = Instant::now();
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(client.end(PATIENCE), End::Fin);
    assert!(asked.elapsed() < PATIENCE, "another client waited for {:?}", asked.elapsed());
}

#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    memory: u64,
    arbiter: usize,
    arbiter_memory: u64,
}

fn held(server: &Server, worker: &Process) -> Held {
    let arbiter = server.arbiter();
    Held {
        descriptors: worker.descriptors(),
        memory: worker.memory(),
        arbiter: arbiter.descriptors(),
        arbiter_memory: arbiter.memory(),
    }
}
