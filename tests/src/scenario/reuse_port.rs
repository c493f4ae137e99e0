//! A listener for each worker (`--reuse-port`): connections that the kernel has queued for a worker
//! are not lost with it.

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use super::backlog::{backlog_is_served, freeze, thaw, wait_in_backlog};
use super::listener::assert_refused_after_term;
use super::process::connection_to;
use super::recycle::recycles_under_load;
use super::reload::{reload, reloaded, under_load};
use super::{admin, control, get, took};
use crate::Harness;
use crate::client::{Address, Client, End, PATIENCE};
use crate::process::{Process, Server, until};

const TWO: &[&str] = &["-w", "2", "--reuse-port"];

pub(crate) fn reuse_port_gives_each_worker_its_share(harness: &Harness) {
    const CONNECTIONS: usize = 200;
    let server = harness.serve(TWO);
    let mut share: HashMap<u64, usize> = HashMap::new();
    for _ in 0..CONNECTIONS {
        *share.entry(server.connect().get("/info").number("pid")).or_default() += 1;
    }
    let fewest = share.values().min().copied().unwrap_or_default();
    assert!(share.len() == 2 && fewest >= CONNECTIONS / 5, "connections by worker: {share:?}");
}

pub(crate) fn d3_every_reuse_port_listener_is_refused(harness: &Harness) {
    let server = harness.serve(&["-w", "4", "--reuse-port"]);
    let mut busy = server.connect();
    server.begin(&mut busy, get("/sleep?ms=1000"));
    assert_refused_after_term(&server);
    for _ in 0..50 {
        assert!(server.address().connect(PATIENCE).is_err(), "a listener is still open");
    }
    busy.last_response(200);
}

pub(crate) fn d4_backlog_of_every_reuse_port_listener_is_served_at_a_stop(harness: &Harness) {
    backlog_is_served(harness.serve(TWO), 2, |server| server.arbiter().signal(Signal::TERM));
}

pub(crate) fn queues_of_workers_added_later_are_counted(harness: &Harness) {
    const WAITING: usize = 32;
    let server = admin::serve(harness, &["--reuse-port", "--timeout", "0"]);
    server.arbiter().signal(Signal::TTIN);
    let both = until(PATIENCE, || {
        let (_, workers) = control::status(harness, &server);
        (workers.len() == 2 && workers.iter().all(|worker| worker["ready"] == true)).then_some(workers)
    });
    let both = both.expect("there is one more, which accepts");
    for worker in &both {
        let pid = worker["pid"].as_u64().expect("a worker has a pid");
        Process::of(pid).expect("it lives").signal(Signal::STOP);
    }
    let _waiting: Vec<_> = (0..WAITING).map(|_| server.connect()).collect();
    let queued = || -> usize {
        let text = admin::ask(&server, "/metrics").text();
        let queues = text.lines().filter(|line| line.starts_with("remuda_backlog{"));
        queues
            .map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<usize>().ok()).expect("a number"))
            .sum()
    };
    // A worker may have accepted a connection that its loop has not taken yet.
    let all = until(PATIENCE, || (queued() + both.len() >= WAITING).then_some(()));
    assert!(all.is_some(), "{} of {WAITING}", queued());
}

pub(crate) fn a_killed_workers_queue_is_served_by_others(harness: &Harness) {
    let mut server = harness.serve(TWO);
    let frozen = freeze(&server, 2);
    let waiting = wait_in_backlog(&server);
    frozen[0].signal(Signal::KILL);
    assert!(frozen[0].wait_gone(PATIENCE));
    thaw(&frozen[1..]);
    served(waiting);
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    assert!(!server.log().contains("backlog_lost"), "{}", server.log());
}

pub(crate) fn a_draining_workers_queue_is_served_by_others(harness: &Harness) {
    let server = harness.serve(TWO);
    let workers = server.workers(2);
    let mut idle = connection_to(&server, &workers[0]);
    let start = Instant::now();
    workers[0].signal(Signal::TERM);
    for _ in 0..40 {
        server.connect().get("/");
    }
    took("all were served", start, 0.0..1.5);
    idle.send(get("/info"));
    assert_eq!(idle.last_response(200).number("pid"), workers[0].id(), "the old worker drained all the time");
}

pub(crate) fn d17_a_crash_loops_queue_is_served_by_others(harness: &Harness) {
    let server = harness.serve(TWO);
    let workers = server.workers(2);
    let obstacle = server.dir().join("crash-boot");
    fs::write(&obstacle, "").expect("a file can be written");
    workers[0].signal(Signal::KILL);
    assert!(server.logs("replaced in 400ms", PATIENCE), "the worker does not crash");
    let start = Instant::now();
    for _ in 0..40 {
        assert_eq!(server.connect().get("/info").number("pid"), workers[1].id());
    }
    took("all were served", start, 0.0..1.5);
}

pub(crate) fn ttou_serves_the_queue_of_the_worker_that_leaves(harness: &Harness) {
    let mut server = harness.serve(TWO);
    let frozen = freeze(&server, 2);
    let waiting = wait_in_backlog(&server);
    server.arbiter().signal(Signal::TTOU);
    assert!(server.logs("scaled to 1 worker", PATIENCE), "the new count is not logged");
    thaw(&frozen);
    served(waiting);
    let left = server.worker();
    for _ in 0..40 {
        assert_eq!(server.connect().get("/info").number("pid"), left.id());
    }
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    assert!(!server.log().contains("backlog_lost"), "{}", server.log());
}

pub(crate) fn ttin_and_ttou_under_load_lose_no_request(harness: &Harness) {
    under_connects(harness.serve(TWO), 8, |server| {
        for _ in 0..4 {
            server.arbiter().signal(Signal::TTOU);
            server.workers(1);
            server.arbiter().signal(Signal::TTIN);
            server.workers(2);
        }
    });
}

pub(crate) fn d15_recycling_with_reuse_port_loses_no_request_or_connect(harness: &Harness) {
    recycles_under_load(harness.serve(&["-w", "2", "--reuse-port", "--max-requests", "50"]));
}

pub(crate) fn d16_reloads_with_reuse_port_lose_no_request_or_connect(harness: &Harness) {
    under_connects(harness.serve(TWO), 4, |server| {
        under_load(server, || (2..=5).for_each(|generation| reload(server, generation)));
    });
}

pub(crate) fn d16_changed_addresses_with_reuse_port_are_always_served(harness: &Harness) {
    let free =
        || TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port is free");
    let (goes, comes) = (free(), free());
    let settings = |address| {
        let class = harness.backend();
        format!(
            "worker-class = \"{class}\"\nworkers = 2\nreuse-port = true\nreload-concurrency = 2\n\
             boot-timeout = 3\nbind = [\"127.0.0.1:0\", \"{address}\"]\n"
        )
    };
    let server = harness.serve_file(&settings(goes));
    server.workers(2);
    // One of the new workers is ready, the other is not.
    fs::write(server.dir().join("stall-boot"), "").expect("a file can be written");
    server.write_settings(&settings(comes));
    server.arbiter().signal(Signal::HUP);
    assert!(server.logs("listening on", PATIENCE), "no new worker is ready");
    let [goes, comes] = [goes, comes].map(Address::Inet);
    let start = Instant::now();
    for address in [&goes, &comes] {
        for _ in 0..40 {
            address.connect(PATIENCE).expect("it is listening").get("/");
        }
    }
    took("all were served", start, 0.0..1.5);
    assert!(!server.log().contains(&reloaded(2)), "the reload ended too early");
    assert!(server.logs(&reloaded(2), PATIENCE), "the reload never ends");
    assert!(goes.refused(PATIENCE).is_some(), "connects are never refused");
    for _ in 0..40 {
        assert!(goes.connect(PATIENCE).is_err(), "a listener is still open");
        comes.connect(PATIENCE).expect("it is listening").get("/");
    }
}

/// Does `work` while `clients` clients connect anew for each request, and then stops the server.
/// Nothing is lost.
fn under_connects(mut server: Server, clients: usize, work: impl FnOnce(&Server)) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let address = server.address();
        for _ in 0..clients {
            scope.spawn(|| connect_until(address, &over));
        }
        let _over = Over(&over);
        work(&server);
    });
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    assert!(!server.log().contains("backlog_lost"), "{}", server.log());
}

/// Ends the clients, also if the work has panicked.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Opens a connection for each request until it is `over`. None may fail.
fn connect_until(address: &Address, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let mut client = address.connect(PATIENCE).expect("no connect is refused");
        client.get("/");
    }
}

/// Asserts that each client is answered, and none is reset.
#[track_caller]
fn served(waiting: Vec<Client>) {
    let all = waiting.len();
    let answers = waiting.into_iter().map(|mut client| match client.try_response() {
        Ok(response) if response.announces_close() && client.end(PATIENCE) != End::Fin => {
            Err("reset after its response".to_owned())
        }
        Ok(response) if response.status == 200 => Ok(()),
        Ok(response) => Err(format!("{response:?}")),
        Err(broken) => Err(broken.to_string()),
    });
    let lost: Vec<_> = answers.filter_map(Result::err).collect();
    assert!(lost.is_empty(), "{} of {all} were not served: {}", lost.len(), lost[0]);
}
