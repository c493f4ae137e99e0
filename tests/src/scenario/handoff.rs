//! Hand-off (D19): a worker that leaves gives its connections to those that stay, and no client notices.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

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
enum Way {
    Recycle,
    Reload,
    Ttou,
}

impl Way {
    /// A server, and the worker of it that is to leave.
    fn serve(self, harness: &Harness, args: &[&str]) -> (Server, Process) {
        let server = serve(harness, &[&["--keep-alive", "60"], args].concat());
        let first = server.worker();
        match self {
            Self::Recycle | Self::Reload => (server, first),
            Self::Ttou => {
                server.arbiter().signal(Signal::TTIN);
                let second = newcomer(server.workers(2), &[first]).expect("two workers are not one");
                (server, second)
            }
        }
    }

    /// Has it leave, without waiting for that.
    fn begin(self, harness: &Harness, server: &Server) {
        match self {
            Self::Recycle => drop(done(harness, server, &["recycle", "--no-wait"])),
            Self::Reload => server.arbiter().signal(Signal::HUP),
            Self::Ttou => server.arbiter().signal(Signal::TTOU),
        }
    }
}

pub(crate) fn d19_nobody_notices_a_recycling(harness: &Harness) {
    nobody_notices(harness, Way::Recycle);
}

pub(crate) fn d19_nobody_notices_a_reload(harness: &Harness) {
    nobody_notices(harness, Way::Reload);
}

pub(crate) fn d19_nobody_notices_that_there_are_fewer_workers(harness: &Harness) {
    nobody_notices(harness, Way::Ttou);
}

/// A connection in each state is answered by another worker, on the same socket, and nothing says that anything happened.
fn nobody_notices(harness: &Harness, way: Way) {
    let (mut server, leaving) = way.serve(harness, &[]);
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
    way.begin(harness, &server);

    let slept = busy.response();
    assert!(slept.status == 200 && !slept.announces_close(), "{slept:?}");
    assert!(leaving.wait_gone(PATIENCE), "connections keep the worker that leaves");
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
    let (server, leaving) = Way::Recycle.serve(harness, &[]);
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(get("/info")));
    clients.iter_mut().for_each(|client| by(&client.response(), &leaving));
    Way::Recycle.begin(harness, &server);
    assert!(leaving.wait_gone(PATIENCE), "connections keep the worker that leaves");
    clients.iter_mut().for_each(|client| client.send(get("/info")));
    clients.iter_mut().for_each(|client| elsewhere(&client.response(), &leaving, 2));
}

pub(crate) fn d19_a_client_keeps_its_connection_through_many_recyclings(harness: &Harness) {
    const CLIENTS: usize = 6;
    const REQUESTS: u64 = 300;
    let server = harness.serve(&["-w", "2", "--max-requests", "60", "--keep-alive", "60"]);
    let pids = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        for n in 0..CLIENTS {
            let (server, pids) = (&server, &pids);
            scope.spawn(move || {
                let mut client = server.connect();
                for request in 1..=REQUESTS {
                    let text = get("/info");
                    // Some are sent in two parts, at whatever moment.
                    let cut = if request % 3 == n as u64 % 3 { text.len() / 2 } else { text.len() };
                    client.send(&text[..cut]);
                    client.send(&text[cut..]);
                    let info =
                        client.try_response().unwrap_or_else(|lost| panic!("request {request}: {lost}"));
                    assert_eq!(info.number("connection_requests"), request, "{info:?}");
                    assert!(!info.announces_close(), "{info:?}");
                    pids.lock().expect("no one panics here").insert(info.number("pid"));
                }
            });
        }
    });
    let served = pids.lock().expect("no one panics here").len();
    assert!(served >= 8, "{served} workers have served");
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
    assert!(!idle.has_more(seconds(0.3)), "it is kept");
    idle.send(get("/info"));
    assert_eq!(idle.last_response(200).number("pid"), workers[0].id());
    drop(idle);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d19_finish_moves_nothing(harness: &Harness) {
    let (server, leaving) = Way::Recycle.serve(harness, &["--drain-recycle", "finish"]);
    let mut idle = connection_to(&server, &leaving);
    Way::Recycle.begin(harness, &server);
    assert!(server.logs("recycle: asked", PATIENCE));
    let replaced = || (server.connect().get("/info").number("pid") != leaving.id()).then_some(());
    assert!(until(PATIENCE, replaced).is_some(), "nobody comes in its place");
    assert!(!idle.has_more(seconds(0.3)), "it is kept");
    idle.send(get("/info"));
    assert_eq!(idle.last_response(200).number("pid"), leaving.id());
    assert!(leaving.wait_gone(PATIENCE), "it outlives its connections");
}

pub(crate) fn d19_who_is_killed_leaves_the_queue_to_the_next(harness: &Harness) {
    let (server, leaving) = Way::Ttou.serve(harness, &[]);
    let receiver = newcomer(server.workers(2), slice::from_ref(&leaving)).expect("two workers are not one");
    let mut clients: Vec<_> = (0..20).map(|_| connection_to(&server, &leaving)).collect();
    receiver.signal(Signal::STOP);
    assert!(receiver.wait_frozen(PATIENCE), "SIGSTOP stops a process");
    Way::Ttou.begin(harness, &server);
    assert!(leaving.wait_gone(PATIENCE), "connections keep the worker that leaves");
    assert!(server.logs("waits in the hand-off queue", PATIENCE), "nobody is told");
    receiver.signal(Signal::KILL);
    clients.iter_mut().for_each(|client| client.send(get("/info")));
    for client in &mut clients {
        let info = client.response();
        elsewhere(&info, &leaving, 2);
        assert_ne!(info.number("pid"), receiver.id());
    }
    assert!(server.logs("no connection waits in the hand-off queue any more", PATIENCE));
}

pub(crate) fn d19_a_full_worker_takes_over_once_it_has_room(harness: &Harness) {
    let (server, leaving) = Way::Ttou.serve(harness, &["--worker-connections", "3"]);
    let receiver = newcomer(server.workers(2), slice::from_ref(&leaving)).expect("two workers are not one");
    let mut full: Vec<_> = (0..3).map(|_| connection_to(&server, &receiver)).collect();
    let mut moving: Vec<_> = (0..2).map(|_| connection_to(&server, &leaving)).collect();
    Way::Ttou.begin(harness, &server);
    assert!(leaving.wait_gone(PATIENCE), "connections keep the worker that leaves");
    assert!(server.logs("waits in the hand-off queue", PATIENCE), "nobody is told");
    moving.iter_mut().for_each(|client| client.send(get("/info")));
    for waiting in (0..2).rev() {
        assert!(moving.iter_mut().all(|client| !client.has_more(seconds(0.2))), "it takes more than it may");
        drop(full.pop());
        let next = until(PATIENCE, || moving.iter_mut().position(|client| client.has_more(seconds(0.01))));
        let mut next = moving.swap_remove(next.expect("it has room"));
        elsewhere(&next.response(), &leaving, 2);
        full.insert(0, next);
        assert_eq!(moving.len(), waiting);
    }
    assert!(server.logs("no connection waits in the hand-off queue any more", PATIENCE));
}

pub(crate) fn d19_no_worker_takes_more_than_it_may(harness: &Harness) {
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
        // There is room for all, though not with two.
        assert!(held.len() == 3 && held.values().all(|held| *held <= LIMIT), "{held:?}");
        assert!(held.keys().all(|pid| before.insert(*pid)), "{held:?}: it has not been replaced");
        done(harness, &server, &["recycle"]);
    }
}

pub(crate) fn d19_what_finds_no_room_is_left_to_the_fallback(harness: &Harness) {
    const CONNECTIONS: usize = 1000;
    allow_descriptors(16 * CONNECTIONS as u64);
    let args = ["--worker-connections", "0", "--drain-reload", "handoff,close-idle"];
    let (server, leaving) = Way::Ttou.serve(harness, &args);
    let receiver = newcomer(server.workers(2), slice::from_ref(&leaving)).expect("two workers are not one");
    receiver.signal(Signal::STOP);
    assert!(receiver.wait_frozen(PATIENCE), "SIGSTOP stops a process");
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(get("/info")));
    // The kernel may have chosen the other one, once for each time that it was waiting.
    let served = until(PATIENCE, || {
        let waiting =
            clients.iter_mut().map(|client| client.has_more(Duration::ZERO)).filter(|has| !has).count();
        (waiting <= 5).then_some(())
    });
    assert!(served.is_some(), "connections are left to who is frozen");
    clients.retain_mut(|client| client.has_more(Duration::ZERO));
    clients.iter_mut().for_each(|client| by(&client.response(), &leaving));
    Way::Ttou.begin(harness, &server);
    assert!(leaving.wait_gone(PATIENCE), "connections keep the worker that leaves");
    let all = clients.len();
    clients.retain_mut(|client| !client.has_more(Duration::ZERO));
    let moved = clients.len();
    assert!((1..all).contains(&moved), "{moved} of {all} are on their way, and the others closed");
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
        // How many are open is told with each beat of a loop.
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
                && value("connections_total") == CONNECTIONS as f64
                && value("connections_unaccounted") == 0.0;
            known.then_some(())
        };
        let known = until(PATIENCE, add_up);
        assert!(known.is_some(), "after {n}: {}", admin::ask(&server, "/metrics").text());
    }
}

/// An answer of `worker` that says nothing of a close.
#[track_caller]
fn by(response: &Response, worker: &Process) {
    assert_eq!((response.status, response.number("pid")), (200, worker.id()), "{response:?}");
    assert!(!response.announces_close(), "{response:?}");
}

/// An answer of any worker but `before` to the `n`-th request on its connection, that says nothing of a close.
#[track_caller]
fn elsewhere(response: &Response, before: &Process, n: u64) {
    assert_eq!(response.status, 200, "{response:?}");
    assert_ne!(response.number("pid"), before.id(), "it has not moved: {response:?}");
    assert_eq!(response.number("connection_requests"), n, "{response:?}");
    assert!(!response.announces_close(), "{response:?}");
}
