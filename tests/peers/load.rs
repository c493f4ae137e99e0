//! Clients of a proxy, and workers that come and go behind it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use remuda_conformance::client::{Address, PATIENCE};
use remuda_conformance::process::Server;
use rustix::process::Signal;

const CLIENTS: usize = 48;

/// How often a worker is told to leave and one is added and drained, and how long each has to be given work.
const ROUNDS: usize = 5;
const WORKING: Duration = Duration::from_millis(200);

/// How long workers are recycled.
const LOADED: Duration = Duration::from_secs(4);

/// Nothing but 200 comes through `front` while the workers of `server` come and go, and each of them has served.
#[track_caller]
pub(crate) fn while_workers_come_and_go(server: &Server, front: &Address) {
    let workers = under_load(front, || {
        for _ in 0..ROUNDS {
            server.arbiter().signal(Signal::TTIN);
            // The oldest has connections that are used again and again; what takes its place gets them.
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

/// Nothing but 200 comes through `front` for some seconds, by many workers.
#[track_caller]
pub(crate) fn while_workers_are_recycled(front: &Address) {
    let workers = under_load(front, || thread::sleep(LOADED));
    assert!(workers > ROUNDS, "only {workers} workers have served");
}

/// Lets clients ask while something `happens`; the number of workers that have answered.
#[track_caller]
fn under_load(front: &Address, happens: impl FnOnce()) -> usize {
    let over = AtomicBool::new(false);
    let (workers, requests) = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| ask(front, &over))).collect();
        happens();
        over.store(true, Ordering::Relaxed);
        let mut workers = HashSet::new();
        let mut requests = 0;
        for client in clients {
            let (served_by, n) = client.join().expect("every answer is 200");
            workers.extend(served_by);
            requests += n;
        }
        (workers, requests)
    });
    assert!(requests > 10 * CLIENTS, "{requests} requests are no load");
    workers.len()
}

/// One request after the other, on one connection as long as that is possible: by which workers, and how many.
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
