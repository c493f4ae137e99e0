//! Ten thousand connections that say nothing, on one backend after the other: too many for a scenario, of which several are
//! shown at a time.

use std::path::Path;
use std::time::{Duration, Instant};

use remuda_conformance::Harness;
use remuda_conformance::client::{Client, End, PATIENCE};
use remuda_conformance::process::{Process, Server, until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const SILENT: usize = 10_000;

/// How long it may take to open them all, and to end them, on a machine that has other things to do.
const LONG: Duration = Duration::from_secs(60);

/// How much more memory a worker may have after the second ten thousand than after the first.
const MARGIN: u64 = 2 << 20;

#[test]
fn ten_thousand_silent_connections_hold_nobody_up_and_leave_nothing_behind() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("a limit can be raised");
    for backend in ["sync", "threaded", "mio", "smol", "tokio"] {
        let harness = Harness::new(backend, "blocking", Path::new(env!("CARGO_BIN_EXE_fixture")));
        let server = harness.serve(&["--worker-connections", "0", "--header-timeout", "0"]);
        let worker = server.worker();
        let before = held(&server, &worker);
        ask(&server);
        // The first ones leave in order, and leave what an allocator keeps; the others do not.
        let start = Instant::now();
        drop(open(&server, &worker, before));
        let (first, _) = ended(&server, &worker, before);
        let silent = open(&server, &worker, before);
        let opened = start.elapsed();
        silent.into_iter().for_each(Client::vanish);
        let (second, arbiter) = ended(&server, &worker, before);
        let kib = |bytes: u64| bytes / 1024;
        #[allow(
            clippy::print_stdout,
            reason = "figures of a test that passes are shown where they are asked for"
        )]
        {
            println!(
                "{backend}: opened twice in {opened:.1?}; the worker had {} KiB, then {} KiB and {} KiB",
                kib(before.memory),
                kib(first),
                kib(second),
            );
        }
        assert!(second < first + MARGIN, "the worker grows: {first} bytes, then {second}");
        assert!(arbiter < before.arbiter_memory + MARGIN, "the arbiter grows to {arbiter} bytes");
        assert_eq!(server.worker().id(), worker.id());
    }
}

/// As many as there are to be, with the server's word that it has them, while others are answered.
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

/// What the worker and the arbiter have in memory, once both have as many descriptors as before.
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
