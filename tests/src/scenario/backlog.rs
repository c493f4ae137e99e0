//! Connections that no worker has accepted when the server stops (D4), and stops under load.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, geteuid};

use super::listener::accepted;
use super::{allow_descriptors, get, seconds};
use crate::Harness;
use crate::client::{Address, Broken, Client, End, PATIENCE};
use crate::process::{Process, Server, until};

/// How many connections wait in a backlog.
const WAITING: usize = 200;

pub(crate) fn d4_backlog_is_served_at_a_stop(harness: &Harness) {
    backlog_is_served(harness.serve(&[]), 1, |server| server.arbiter().signal(Signal::TERM));
}

pub(crate) fn d4_backlog_of_a_unix_socket_is_served_at_a_stop(harness: &Harness) {
    backlog_is_served(harness.serve_unix(&[]), 1, |server| server.arbiter().signal(Signal::TERM));
}

pub(crate) fn d4_backlog_is_served_by_all_workers(harness: &Harness) {
    for server in [harness.serve(&["-w", "4"]), harness.serve_unix(&["-w", "4"])] {
        backlog_is_served(server, 4, |server| server.arbiter().signal(Signal::TERM));
    }
}

pub(crate) fn d4_backlog_is_served_if_every_process_gets_term(harness: &Harness) {
    for server in [harness.serve(&["-w", "2"]), harness.serve_unix(&["-w", "2"])] {
        backlog_is_served(server, 2, |server| {
            server.workers(2).iter().for_each(|worker| worker.signal(Signal::TERM));
            server.arbiter().signal(Signal::TERM);
        });
    }
}

pub(crate) fn d4_full_workers_serve_the_backlog(harness: &Harness) {
    for mut server in [harness.serve(FULL), harness.serve_unix(FULL)] {
        let mut open = [server.connect(), server.connect()];
        for client in &mut open {
            client.get("/");
        }
        let waiting = wait_in_backlog(&server);
        server.arbiter().signal(Signal::TERM);
        answered(waiting);
        for client in &mut open {
            client.send(get("/"));
            client.last_response(200);
        }
        drop(open);
        assert_eq!(server.exit(PATIENCE), 0);
    }
}

const FULL: &[&str] = &["--worker-connections", "2"];

/// Only root may have more descriptors in flight than it may open (unix(7), `ETOOMANYREFS`). For
/// other users, connections beyond that are lost and counted.
#[allow(clippy::print_stderr, reason = "a scenario says why it shows nothing")]
pub(crate) fn d4_backlog_larger_than_descriptor_limits_is_served(harness: &Harness) {
    if !geteuid().is_root() {
        eprintln!("skipped: only root may have so many descriptors in flight (CAP_SYS_RESOURCE)");
        return;
    }
    for server in [harness.serve(&[]), harness.serve_unix(&[])] {
        server.arbiter().limit_descriptors(WAITING as u64 / 4);
        server.worker().limit_descriptors(WAITING as u64 / 4);
        backlog_is_served(server, 1, |server| server.arbiter().signal(Signal::TERM));
    }
}

pub(crate) fn d4_inherited_backlog_is_left_to_its_owner(harness: &Harness) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let mut server = harness.serve_inherited(&listener, &[]);
    let frozen = freeze(&server, 1);
    let waiting: Vec<_> = (0..10).map(|_| server.connect()).collect();
    server.arbiter().signal(Signal::TERM);
    // All that the arbiter does about a backlog happens within this time.
    thread::sleep(seconds(0.1));
    assert_eq!(accepted(&listener), waiting.len(), "connections in the queue");
    thaw(&frozen);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d4_backlog_that_is_lost_is_counted(harness: &Harness) {
    let limit = ["--graceful-timeout", "1"];
    for mut server in [harness.serve(&limit), harness.serve_unix(&limit)] {
        let _frozen = freeze(&server, 1);
        let mut waiting: Vec<_> = (0..10).map(|_| server.connect()).collect();
        server.arbiter().signal(Signal::TERM);
        assert_eq!(server.exit(PATIENCE), 6);
        for client in &mut waiting {
            assert_ne!(client.end(Duration::ZERO), End::StillOpen);
        }
        let log = server.log();
        assert!(log.contains("backlog_lost=10"), "lost connections are not counted: {log}");
    }
}

pub(crate) fn d4_stop_under_load_loses_no_request(harness: &Harness) {
    for _ in 0..3 {
        stop_under_load(harness.serve(&["-w", "2"]), &get("/"));
        stop_under_load(harness.serve_unix(&["-w", "2"]), &get("/"));
    }
}

pub(crate) fn d4_stop_under_connects_loses_no_request(harness: &Harness) {
    let last = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    for _ in 0..3 {
        stop_under_load(harness.serve(&["-w", "2"]), last);
        stop_under_load(harness.serve_unix(&["-w", "2"]), last);
    }
}

/// Stops a server with `stop` while all of its workers are frozen. Its backlog is served once they
/// run again.
#[track_caller]
pub(super) fn backlog_is_served(mut server: Server, workers: usize, stop: fn(&Server)) {
    let frozen = freeze(&server, workers);
    let waiting = wait_in_backlog(&server);
    stop(&server);
    assert!(server.address().refused(PATIENCE).is_some(), "connects are never refused");
    thaw(&frozen);
    answered(waiting);
    assert_eq!(server.exit(PATIENCE), 0);
}

/// Clients that have sent a request each on connections that no worker accepts.
#[track_caller]
pub(super) fn wait_in_backlog(server: &Server) -> Vec<Client> {
    allow_descriptors(4096);
    let mut waiting: Vec<_> = (0..WAITING).map(|_| server.connect()).collect();
    for client in &mut waiting {
        client.send(get("/"));
    }
    assert!(!waiting[WAITING - 1].has_more(seconds(0.1)), "a client is served");
    waiting
}

/// Asserts that each of them receives 200 with close announced, and that none is reset.
#[track_caller]
fn answered(waiting: Vec<Client>) {
    let mut lost = Vec::new();
    for mut client in waiting {
        match client.try_response() {
            Ok(response) if response.status == 200 && response.announces_close() => {
                assert_eq!(client.end(PATIENCE), End::Fin);
            }
            Ok(response) => lost.push(format!("{response:?}")),
            Err(broken) => lost.push(broken.to_string()),
        }
    }
    assert!(lost.is_empty(), "{} of {WAITING} were not served as they should be: {}", lost.len(), lost[0]);
}

/// Stops a server while 20 clients send one `request` after the other, on the same connection for
/// as long as that is possible. A connect may be refused. A request sent on an open connection is
/// answered.
#[track_caller]
fn stop_under_load(mut server: Server, request: &str) {
    const CLIENTS: usize = 20;
    let address = server.address().clone();
    let (answers, stopping) = (AtomicUsize::new(0), AtomicBool::new(false));
    let lost: Vec<_> = thread::scope(|scope| {
        let ask = || ask_until_refused(&address, request, &answers, &stopping);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
        let answered = || (answers.load(Ordering::Relaxed) > 10 * CLIENTS).then_some(());
        let is_load = until(PATIENCE, answered).is_some();
        stopping.store(true, Ordering::Relaxed);
        server.arbiter().signal(Signal::TERM);
        assert!(is_load, "{answers:?} requests are not enough load");
        clients
            .into_iter()
            .filter_map(|client| client.join().expect("a client does not panic").err())
            .collect()
    });
    assert!(lost.is_empty(), "{} requests lost next to {answers:?} answered: {}", lost.len(), lost[0]);
    assert_eq!(server.exit(PATIENCE), 0);
}

/// Counts answers until a connect is refused. The error is the request that was lost.
fn ask_until_refused(
    address: &Address,
    request: &str,
    answers: &AtomicUsize,
    stopping: &AtomicBool,
) -> Result<(), Broken> {
    loop {
        let mut client = match address.connect(PATIENCE) {
            Ok(client) => client,
            Err(_) if stopping.load(Ordering::Relaxed) => return Ok(()),
            Err(error) => panic!("a server that serves refused a connect: {error}"),
        };
        loop {
            client.send(request);
            let response = client.try_response()?;
            assert_eq!(response.status, 200);
            answers.fetch_add(1, Ordering::Relaxed);
            if response.announces_close() {
                break;
            }
        }
    }
}

/// Stops all workers with SIGSTOP, as Ctrl-Z would.
#[track_caller]
pub(super) fn freeze(server: &Server, workers: usize) -> Vec<Process> {
    let workers = server.workers(workers);
    for worker in &workers {
        worker.signal(Signal::STOP);
        assert!(worker.wait_frozen(PATIENCE), "SIGSTOP stops a process");
    }
    workers
}

pub(super) fn thaw(workers: &[Process]) {
    workers.iter().for_each(|worker| worker.signal(Signal::CONT));
}
