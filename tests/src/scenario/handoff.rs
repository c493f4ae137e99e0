//! Hand-off (D19): a worker that leaves gives its connections to those that stay, and no client
//! notices.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::control::{done, serve};
use super::process::{connection_to, newcomer};
use super::reload::{reload, settings};
use super::{admin, allow_descriptors, get, seconds};
use crate::Harness;
use crate::client::{PATIENCE, Response};
use crate::process::{Process, Server, until};

/// How a worker is made to leave while others stay.
#[derive(Clone, Copy)]
enum Trigger {
    Recycle,
    Reload,
    Ttou,
}

impl Trigger {
    /// A server, and the one of its workers that will leave.
    fn serve(self, harness: &Harness, args: &[&str]) -> (Server, Process) {
        let server = serve(harness, &[&["--keep-alive", "60"], args].concat());
        let first = server.worker();
        match self {
            Self::Recycle | Self::Reload => (server, first),
            Self::Ttou => {
                server.arbiter().signal(Signal::TTIN);
                let second = newcomer(server.workers(2), &[first]).expect("one of the two workers is new");
                (server, second)
            }
        }
    }

    /// Makes the worker leave, without waiting for that.
    fn begin(self, harness: &Harness, server: &Server) {
        match self {
            Self::Recycle => drop(done(harness, server, &["recycle", "--no-wait"])),
            Self::Reload => server.arbiter().signal(Signal::HUP),
            Self::Ttou => server.arbiter().signal(Signal::TTOU),
        }
    }
}

pub(crate) fn d19_clients_notice_no_recycling(harness: &Harness) {
    moves_unnoticed(harness, Trigger::Recycle);
}

pub(crate) fn d19_clients_notice_no_reload(harness: &Harness) {
    moves_unnoticed(harness, Trigger::Reload);
}

pub(crate) fn d19_clients_notice_no_removal_of_a_worker(harness: &Harness) {
    moves_unnoticed(harness, Trigger::Ttou);
}

/// A connection in each state is answered by another worker, on the same socket. No response
/// announces close.
fn moves_unnoticed(harness: &Harness, trigger: Trigger) {
    let (mut server, leaving) = trigger.serve(harness, &[]);
    let mut idle = connection_to(&server, &leaving);
    let mut head = connection_to(&server, &leaving);
    head.send("GET /info HTTP/1.1\r\nHo");
    let mut pipelined = connection_to(&server, &leaving);
    pipelined.send(get("/info") + &get("/info") + "GET /info HTTP/1.1\r\nHo");
    for _ in 0..2 {
        by(&pipelined.response(), &leaving);
    }
    let fresh: Vec<_> = (0..8).map(|_| server.connect()).collect();
    let mut busy = connection_to(&server, &leaving);
    server.begin(&mut busy, get("/sleep?ms=1000"));
    trigger.begin(harness, &server);

    let slept = busy.response();
    assert!(slept.status == 200 && !slept.announces_close(), "{slept:?}");
    assert!(leaving.wait_gone(PATIENCE), "the leaving worker keeps its connections");
    for (client, served) in [(&mut idle, 1), (&mut busy, 2)] {
        client.send(get("/info"));
        elsewhere(&client.response(), &leaving, served + 1);
    }
    for (client, served) in [(&mut head, 1), (&mut pipelined, 3)] {
        client.send("st: test\r\n\r\n");
        elsewhere(&client.response(), &leaving, served + 1);
    }
    for mut client in fresh {
        client.send(get("/info"));
        elsewhere(&client.response(), &leaving, 1);
    }
    drop((idle, busy, head, pipelined));
    server.arbiter().signal(Signal::TERM);
    assert_eq!(server.exit(PATIENCE), 0);
    let log = server.log();
    assert!(!log.contains("ERROR"), "{log}");
}

pub(crate) fn d19_many_idle_connections_move(harness: &Harness) {
    const CONNECTIONS: usize = 500;
    allow_descriptors(16 * CONNECTIONS as u64);
    let (server, leaving) = Trigger::Recycle.serve(harness, &[]);
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(get("/info")));
    clients.iter_mut().for_each(|client| by(&client.response(), &leaving));
    Trigger::Recycle.begin(harness, &server);
    assert!(leaving.wait_gone(PATIENCE), "the leaving worker keeps its connections");
    clients.iter_mut().for_each(|client| client.send(get("/info")));
    clients.iter_mut().for_each(|client| elsewhere(&client.response(), &leaving, 2));
}

pub(crate) fn d19_a_client_keeps_its_connection_through_many_recyclings(harness: &Harness) {
    const CLIENTS: usize = 6;
    const REQUESTS: u64 = 300;
    const WORKERS: usize = 8;
    let server = harness.serve(&["-w", "2", "--max-requests", "60", "--keep-alive", "60"]);
    let pids = Mutex::new(BTreeSet::new());
    let served = || pids.lock().expect("no thread panics with the lock").len();
    let limit = Instant::now() + PATIENCE;
    thread::scope(|scope| {
        for n in 0..CLIENTS {
            let (server, pids, served) = (&server, &pids, &served);
            scope.spawn(move || {
                let mut client = server.connect();
                // A busy machine takes long to start a successor; until then the old worker serves.
                let goes_on =
                    |request: &u64| *request <= REQUESTS || (served() < WORKERS && Instant::now() < limit);
                for request in (1..).take_while(goes_on) {
                    let text = get("/info");
                    // Some requests are sent in two parts, at any moment of a recycling.
                    let cut = if request % 3 == n as u64 % 3 { text.len() / 2 } else { text.len() };
                    client.send(&text[..cut]);
                    client.send(&text[cut..]);
                    let info =
                        client.try_response().unwrap_or_else(|lost| panic!("request {request}: {lost}"));
                    assert_eq!(info.number("connection_requests"), request, "{info:?}");
                    assert!(!info.announces_close(), "{info:?}");
                    pids.lock().expect("no thread panics with the lock").insert(info.number("pid"));
                }
            });
        }
    });
    let served = served();
    assert!(served >= WORKERS, "{served} workers have served");
}

pub(crate) fn d19_connections_move_between_backends(harness: &Harness) {
    let server = harness.serve_file(&settings(harness, "keep-alive = 60\n"));
    let mut idle = server.connect();
    idle.get("/info");
    let others =
        ["sync", "threaded", "mio", "tokio", "smol"].into_iter().filter(|name| *name != harness.backend());
    let backends = others.chain([harness.backend()]);
    for (generation, backend) in (2..).zip(backends) {
        let mut half = server.connect();
        half.send("GET /info HTTP/1.1\r\nHo");
        server.catch_up();
        server.write_settings(&format!(
            "worker-class = \"{backend}\"\nbind = \"127.0.0.1:0\"\nkeep-alive = 60\n"
        ));
        reload(&server, generation);
        server.worker();
        idle.send(get("/info"));
        half.send("st: test\r\n\r\n");
        for client in [&mut idle, &mut half] {
            let info = client.response();
            assert!(info.text().contains(&format!("{backend:?}")), "it is not served by {backend}: {info:?}");
            assert!(!info.announces_close(), "{info:?}");
        }
    }
}

pub(crate) fn d19_at_a_stop_nothing_moves(harness: &Harness) {
    let mut server = harness.serve(&["-w", "2", "--drain", "handoff"]);
    let workers = server.workers(2);
    let mut idle = connection_to(&server, &workers[0]);
    server.drain();
    assert!(!idle.has_more(seconds(0.3)), "an idle connection is kept");
    idle.send(get("/info"));
    assert_eq!(idle.last_response(200).number("pid"), workers[0].id());
    drop(idle);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d19_finish_moves_nothing(harness: &Harness) {
    let (server, leaving) = Trigger::Recycle.serve(harness, &["--drain-recycle", "finish"]);
    let mut idle = connection_to(&server, &leaving);
    Trigger::Recycle.begin(harness, &server);
    assert!(server.logs("recycle: asked", PATIENCE));
    let replaced = || (server.connect().get("/info").number("pid") != leaving.id()).then_some(());
    assert!(until(PATIENCE, replaced).is_some(), "the worker is not replaced");
    assert!(!idle.has_more(seconds(0.3)), "an idle connection is kept");
    idle.send(get("/info"));
    assert_eq!(idle.last_response(200).number("pid"), leaving.id());
    assert!(leaving.wait_gone(PATIENCE), "the worker outlives its connections");
}

pub(crate) fn d19_a_killed_receiver_leaves_the_queue_to_its_successor(harness: &Harness) {
    let (server, leaving) = Trigger::Ttou.serve(harness, &[]);
    let receiver =
        newcomer(server.workers(2), slice::from_ref(&leaving)).expect("one of the two workers is new");
    let mut clients: Vec<_> = (0..20).map(|_| connection_to(&server, &leaving)).collect();
    receiver.signal(Signal::STOP);
    assert!(receiver.wait_frozen(PATIENCE), "SIGSTOP stops a process");
    Trigger::Ttou.begin(harness, &server);
    assert!(leaving.wait_gone(PATIENCE), "the leaving worker keeps its connections");
    assert!(
        server.logs("a connection has waited in the hand-off queue", PATIENCE),
        "the queue is not logged"
    );
    receiver.signal(Signal::KILL);
    clients.iter_mut().for_each(|client| client.send(get("/info")));
    for client in &mut clients {
        let info = client.response();
        elsewhere(&info, &leaving, 2);
        assert_ne!(info.number("pid"), receiver.id());
    }
    assert!(server.logs("the hand-off queue is empty again", PATIENCE));
}

pub(crate) fn d19_a_full_worker_receives_once_it_has_room(harness: &Harness) {
    let (server, leaving) = Trigger::Ttou.serve(harness, &["--worker-connections", "3"]);
    let receiver =
        newcomer(server.workers(2), slice::from_ref(&leaving)).expect("one of the two workers is new");
    let mut full: Vec<_> = (0..3).map(|_| connection_to(&server, &receiver)).collect();
    let mut moving: Vec<_> = (0..2).map(|_| connection_to(&server, &leaving)).collect();
    Trigger::Ttou.begin(harness, &server);
    assert!(leaving.wait_gone(PATIENCE), "the leaving worker keeps its connections");
    assert!(
        server.logs("a connection has waited in the hand-off queue", PATIENCE),
        "the queue is not logged"
    );
    moving.iter_mut().for_each(|client| client.send(get("/info")));
    for waiting in (0..2).rev() {
        assert!(
            moving.iter_mut().all(|client| !client.has_more(seconds(0.2))),
            "a full worker receives connections"
        );
        drop(full.pop());
        let next = until(PATIENCE, || moving.iter_mut().position(|client| client.has_more(seconds(0.01))));
        let mut next = moving.swap_remove(next.expect("it has room"));
        elsewhere(&next.response(), &leaving, 2);
        full.insert(0, next);
        assert_eq!(moving.len(), waiting);
    }
    assert!(server.logs("the hand-off queue is empty again", PATIENCE));
}

pub(crate) fn d19_no_worker_exceeds_its_connection_limit(harness: &Harness) {
    const CONNECTIONS: usize = 45;
    const LIMIT: usize = 20;
    let limit = LIMIT.to_string();
    let server = serve(harness, &["-w", "3", "--worker-connections", &limit, "--keep-alive", "60"]);
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    let mut before = BTreeSet::new();
    for n in 1..=3 {
        let mut held = BTreeMap::<_, usize>::new();
        for client in &mut clients {
            let info = client.get("/info");
            assert_eq!((info.number("connection_requests"), info.announces_close()), (n, false), "{info:?}");
            *held.entry(info.number("pid")).or_default() += 1;
        }
        // Three workers have room for all connections, two have not.
        assert!(held.len() == 3 && held.values().all(|held| *held <= LIMIT), "{held:?}");
        assert!(held.keys().all(|pid| before.insert(*pid)), "{held:?}: a worker was not replaced");
        done(harness, &server, &["recycle"]);
    }
}

pub(crate) fn d19_connections_without_room_follow_the_fallback_policy(harness: &Harness) {
    const CONNECTIONS: usize = 1000;
    allow_descriptors(16 * CONNECTIONS as u64);
    let args = ["--worker-connections", "0", "--drain-reload", "handoff,close-idle"];
    let (server, leaving) = Trigger::Ttou.serve(harness, &args);
    let receiver =
        newcomer(server.workers(2), slice::from_ref(&leaving)).expect("one of the two workers is new");
    receiver.signal(Signal::STOP);
    assert!(receiver.wait_frozen(PATIENCE), "SIGSTOP stops a process");
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(get("/info")));
    // The kernel may have given the connection to the other worker, once for each accept that
    // waited.
    let served = until(PATIENCE, || {
        let waiting =
            clients.iter_mut().map(|client| client.has_more(Duration::ZERO)).filter(|has| !has).count();
        (waiting <= 5).then_some(())
    });
    assert!(served.is_some(), "connections are left with the frozen worker");
    clients.retain_mut(|client| client.has_more(Duration::ZERO));
    clients.iter_mut().for_each(|client| by(&client.response(), &leaving));
    Trigger::Ttou.begin(harness, &server);
    assert!(leaving.wait_gone(PATIENCE), "the leaving worker keeps its connections");
    let all = clients.len();
    clients.retain_mut(|client| !client.has_more(Duration::ZERO));
    let moved = clients.len();
    assert!((1..all).contains(&moved), "{moved} of {all} are in the hand-off queue, and the others closed");
    receiver.signal(Signal::CONT);
    for mut client in clients {
        client.send(get("/info"));
        elsewhere(&client.response(), &leaving, 2);
    }
}

pub(crate) fn d19_every_connection_is_accounted_for(harness: &Harness) {
    const CONNECTIONS: usize = 30;
    let server = admin::serve(harness, &["-w", "2", "--keep-alive", "60"]);
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    for n in 1..=3 {
        clients.iter_mut().for_each(|client| drop(client.get("/")));
        done(harness, &server, &["recycle"]);
        drop(clients.pop());
        // A worker reports its open connections with each beat of its loop.
        let add_up = || {
            let text = admin::ask(&server, "/metrics").text();
            let value = |series: &str| admin::metric(&text, &format!("remuda_{series}"));
            let (out, come) = (
                "handoff_connections_total{direction=\"out\"}",
                "handoff_connections_total{direction=\"in\"}",
            );
            let least = (n * CONNECTIONS - n * (n - 1) / 2) as f64;
            let known = value(out) >= least
                && value(come) == value(out)
                && value("handoff_queue") == 0.0
                && value("connections{state=\"waiting\"}") == (CONNECTIONS - n) as f64
                && value("connections_accepted_total") == CONNECTIONS as f64
                && value("connections_unaccounted") == 0.0;
            known.then_some(())
        };
        let known = until(PATIENCE, add_up);
        assert!(known.is_some(), "after {n}: {}", admin::ask(&server, "/metrics").text());
    }
}

/// Asserts that `response` is from `worker` and does not announce close.
#[track_caller]
fn by(response: &Response, worker: &Process) {
    assert_eq!((response.status, response.number("pid")), (200, worker.id()), "{response:?}");
    assert!(!response.announces_close(), "{response:?}");
}

/// Asserts that `response` is the answer to the `n`-th request on its connection, from any worker
/// but `before`, and does not announce close.
#[track_caller]
fn elsewhere(response: &Response, before: &Process, n: u64) {
    assert_eq!(response.status, 200, "{response:?}");
    assert_ne!(response.number("pid"), before.id(), "the connection has not moved: {response:?}");
    assert_eq!(response.number("connection_requests"), n, "{response:?}");
    assert!(!response.announces_close(), "{response:?}");
}
