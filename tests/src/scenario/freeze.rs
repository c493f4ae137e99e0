//! Bytes that arrive in time are never judged late (D21): a worker that was frozen, or whose loop
//! was blocked, for longer than each of its deadlines loses no request that its clients sent
//! meanwhile.
//!
//! `REMUDA_FREEZES` sets how often each scenario freezes a worker. Without it, 3 times.

use std::env;
use std::io::Write as _;
use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use super::control::serve;
use super::process::{connection_to, newcomer};
use super::{get, post, seconds, took};
use crate::Harness;
use crate::client::{Client, End, PATIENCE};
use crate::process::{Process, Server};

/// Deadlines of a second, and a freeze longer than that.
const SHORT: [&str; 8] =
    ["--keep-alive", "1", "--header-timeout", "1", "--body-timeout", "1", "--write-timeout", "1"];
const FROZEN: f64 = 1.3;

fn times() -> usize {
    env::var("REMUDA_FREEZES").map_or(3, |times| times.parse().expect("REMUDA_FREEZES is a number"))
}

/// Freezes `worker` until each deadline of a second has passed, and calls `meanwhile` during the
/// freeze.
fn freeze(worker: &Process, meanwhile: impl FnOnce()) {
    worker.signal(Signal::STOP);
    assert!(worker.wait_frozen(PATIENCE), "the worker is not frozen");
    let start = Instant::now();
    meanwhile();
    // Only the time itself can be waited for.
    thread::sleep(seconds(FROZEN).saturating_sub(start.elapsed()));
    worker.signal(Signal::CONT);
}

/// A client in a state that a deadline ends, and what completes its request.
struct Row {
    name: &'static str,
    client: Client,
    rest: String,
    answer: &'static str,
}

impl Row {
    fn new(name: &'static str, client: Client, rest: impl Into<String>, answer: &'static str) -> Self {
        Self { name, client, rest: rest.into(), answer }
    }

    /// A client that has sent `begun`.
    fn begun(server: &Server, name: &'static str, begun: &str, rest: &str, answer: &'static str) -> Self {
        let mut client = server.connect();
        client.send(begun);
        Self::new(name, client, rest, answer)
    }

    #[track_caller]
    fn is_answered(&mut self) {
        match self.client.try_response() {
            Ok(response) if response.status == 200 && response.text() == self.answer => {}
            other => panic!("{}: {other:?}", self.name),
        }
    }
}

const HELLO: &str = "Hello, World!";

pub(crate) fn d21_requests_that_arrive_in_a_freeze_are_served(harness: &Harness) {
    let server = harness.serve(&SHORT);
    let worker = server.worker();
    for _ in 0..times() {
        let request = get("/");
        let (begun, rest) = request.split_at(20);
        let idle = || {
            let mut client = server.connect();
            client.get("/");
            client
        };
        let mut rows = vec![
            Row::new("idle", idle(), &*request, HELLO),
            Row::new("pipelined", idle(), request.repeat(2), HELLO),
            Row::new("fresh", server.connect(), &*request, HELLO),
            Row::begun(&server, "half a head", begun, rest, HELLO),
            Row::begun(&server, "half a body", &(post("/collect", 10) + "hello"), "world", "10\n"),
        ];
        server.catch_up();
        freeze(&worker, || {
            rows.iter_mut().for_each(|row| row.client.send(&row.rest));
            let mut late = server.connect();
            late.send(&request);
            rows.push(Row::new("connected meanwhile", late, "", HELLO));
        });
        rows.iter_mut().for_each(Row::is_answered);
        rows[1].is_answered();
    }
}

pub(crate) fn d21_a_proxy_header_completed_in_a_freeze_is_accepted(harness: &Harness) {
    let server = harness.serve(&[&SHORT[..], &["--proxy-protocol", "v1"]].concat());
    let worker = server.worker();
    let header = "PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\r\n";
    for _ in 0..times() {
        let rest = header[9..].to_owned() + &get("/");
        let mut rows = [
            Row::begun(&server, "half a PROXY header", &header[..9], &rest, HELLO),
            Row::begun(&server, "a PROXY header", header, &get("/"), HELLO),
        ];
        let mut other = server.connect();
        other.send(header.to_owned() + &get("/"));
        assert_eq!(other.response().status, 200);
        freeze(&worker, || rows.iter_mut().for_each(|row| row.client.send(&row.rest)));
        rows.iter_mut().for_each(Row::is_answered);
    }
}

pub(crate) fn d21_a_request_that_arrives_in_a_frozen_drain_is_served(harness: &Harness) {
    for (times, policy) in [(times(), "grace:1s"), (1, "close-idle"), (1, "finish")] {
        for _ in 0..times {
            let mut server = harness.serve(&[&SHORT[..], &["--drain", policy]].concat());
            let worker = server.worker();
            let mut idle = server.connect();
            idle.get("/");
            if policy == "close-idle" {
                // The drain order also arrives in the freeze.
                freeze(&worker, || {
                    idle.send(get("/"));
                    server.arbiter().signal(Signal::TERM);
                });
            } else {
                server.drain();
                freeze(&worker, || idle.send(get("/")));
            }
            // The request, which arrived together with the order, may be answered before the order
            // is read.
            let mut row = Row::new(policy, idle, "", HELLO);
            row.is_answered();
            assert_eq!(row.client.end(PATIENCE), End::Fin, "{policy}");
            drop(row);
            assert_eq!(server.exit(PATIENCE), 0, "{policy}");
        }
    }
}

pub(crate) fn d21_a_connection_queued_for_a_frozen_worker_is_served(harness: &Harness) {
    for _ in 0..times() {
        let server = serve(harness, &[&SHORT[..], &["--drain", "handoff"]].concat());
        let stays = server.worker();
        server.arbiter().signal(Signal::TTIN);
        let leaves =
            newcomer(server.workers(2), std::slice::from_ref(&stays)).expect("one of the two workers is new");
        let request = get("/");
        let (begun, rest) = request.split_at(20);
        let mut head = connection_to(&server, &leaves);
        head.send(begun);
        let mut rows = [
            Row::new("idle", connection_to(&server, &leaves), &*request, HELLO),
            Row::new("half a head", head, rest, HELLO),
        ];
        freeze(&stays, || {
            server.arbiter().signal(Signal::TTOU);
            assert!(leaves.wait_gone(PATIENCE), "the leaving worker keeps its connections");
            rows.iter_mut().for_each(|row| row.client.send(&row.rest));
        });
        rows.iter_mut().for_each(Row::is_answered);
    }
}

pub(crate) fn d21_requests_that_arrive_at_a_blocked_loop_are_served(harness: &Harness) {
    let server = harness.serve(&SHORT);
    for _ in 0..times() {
        let mut rows = [Row::new("fresh", server.connect(), get("/"), HELLO)];
        let mut idle = server.connect();
        idle.get("/");
        let mut holds = server.connect();
        server.begin(&mut holds, get("/hang?ms=1300"));
        let mut late = server.connect();
        for client in [&mut rows[0].client, &mut idle, &mut late] {
            client.send(get("/"));
        }
        assert_eq!(holds.response().text(), "late\n");
        rows[0].is_answered();
        Row::new("idle", idle, "", HELLO).is_answered();
        Row::new("connected meanwhile", late, "", HELLO).is_answered();
    }
}

/// A client that sends byte by byte gains no time by a freeze.
pub(crate) fn d21_a_dripping_client_ends_at_its_deadline_despite_a_freeze(harness: &Harness) {
    let server = harness.serve(&["--keep-alive", "1", "--header-timeout", "2"]);
    let worker = server.worker();
    for (is_frozen, ends) in [(false, 2.45..3.1), (true, 2.95..3.5)] {
        let mut client = server.connect();
        client.get("/");
        let idle_since = Instant::now();
        let mut sender = client.sender();
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(seconds(0.5));
                while idle_since.elapsed() < seconds(4.0) && sender.write_all(b"x").is_ok() {
                    thread::sleep(seconds(0.1));
                }
            });
            if is_frozen {
                // The server cannot see when this head begins, so its time counts from the end of
                // its keep-alive.
                freeze(&worker, || {});
            }
            assert_eq!(client.response().status, 408);
            took("it ended", idle_since, ends);
            assert_eq!(client.end(PATIENCE), End::Fin);
        });
    }
}
