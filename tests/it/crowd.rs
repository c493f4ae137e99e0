//! Ten thousand idle connections of a worker that is killed (D20). Too many for a scenario, since
//! several of those run at a time. Times are printed, not asserted.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use remuda_conformance::Harness;
use remuda_conformance::client::{Client, PATIENCE};
use remuda_conformance::process::{Process, Server, allow_descriptors, until};
use rustix::process::Signal;

const IDLE: usize = 10_000;

/// How long it may take to use all connections on a busy machine.
const LONG: Duration = Duration::from_secs(60);

const SETTINGS: [&str; 4] = ["--worker-connections", "0", "--keep-alive", "300"];

#[test]
fn ten_thousand_connections_of_a_killed_worker_move_to_another() {
    let _alone = crate::crowd_alone();
    for backend in ["mio", "tokio"] {
        let server = server(backend);
        let first = server.worker();
        let mut idle = open(&server);
        server.arbiter().signal(Signal::TTIN);
        let second = server.workers(2).into_iter().find(|worker| worker.id() != first.id());
        let second = second.expect("one is added");
        let serves = || (ask(&mut server.connect()) == second.id()).then_some(());
        until(LONG, serves).expect("it becomes ready");
        // The replacement of the first one is not ready before the end, so that the second one has
        // all connections.
        fs::write(server.dir().join("stall-boot"), "").expect("a file can be written");
        let keeper = keeper_of(&server, &first);
        let gone = kill(&first);
        assert_eq!(ask(&mut idle[0]), second.id());
        let until_first = gone.elapsed();
        assert!(keeper.wait_gone(LONG), "it keeps connections");
        report(backend, "another worker", until_first, gone.elapsed());
        for client in &mut idle {
            assert_eq!(ask(client), second.id());
        }
    }
}

#[test]
fn ten_thousand_connections_wait_for_a_replacement_that_is_late() {
    let _alone = crate::crowd_alone();
    // While it boots, and in a pause of some seconds of a crash loop (D17).
    for (obstacle, time) in [("hold-boot", Duration::from_secs(3)), ("crash-boot", Duration::from_secs(6))] {
        let server = server("mio");
        let first = server.worker();
        let mut idle = open(&server);
        let obstacle = server.dir().join(obstacle);
        fs::write(&obstacle, "").expect("a file can be written");
        let gone = kill(&first);
        thread::sleep(time);
        fs::remove_file(&obstacle).expect("it was written");
        ask(&mut idle[0]);
        let until_first = gone.elapsed();
        for client in &mut idle {
            assert_ne!(ask(client), first.id());
        }
        report("mio", "a replacement", until_first, gone.elapsed());
    }
}

fn server(backend: &str) -> Server {
    // Those of a server, with some for other tests of this process.
    allow_descriptors(2 * IDLE as u64);
    Harness::new(backend, "blocking", Path::new(env!("CARGO_BIN_EXE_fixture"))).serve(&SETTINGS)
}

/// Connections that have had a response.
#[track_caller]
fn open(server: &Server) -> Vec<Client> {
    let ask = |mut client| {
        ask(&mut client);
        client
    };
    (0..IDLE).map(|_| ask(server.connect())).collect()
}

/// The process that answers.
#[track_caller]
fn ask(client: &mut Client) -> u64 {
    client.send("GET /info HTTP/1.1\r\nHost: test\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status, 200, "{response:?}");
    response.number("pid")
}

/// The keeper of `worker`: both have the same slot in their titles.
#[track_caller]
fn keeper_of(server: &Server, worker: &Process) -> Process {
    let title = worker.title().replace("worker", "keeper");
    server.keepers().into_iter().find(|keeper| keeper.title() == title).expect("it has a keeper")
}

/// Kills `worker`, and returns when it was gone.
#[track_caller]
fn kill(worker: &Process) -> Instant {
    worker.signal(Signal::KILL);
    assert!(worker.wait_gone(PATIENCE), "it outlives SIGKILL");
    Instant::now()
}

#[allow(clippy::print_stdout, reason = "figures of a passing test are shown on request")]
fn report(backend: &str, by: &str, first: Duration, all: Duration) {
    println!(
        "{backend}, {by}: the first of {IDLE} was served after {first:.1?}, all were handed over by {all:.1?}"
    );
}
