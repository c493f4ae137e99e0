//! What each drain policy does to an idle connection and to the next request on it, and what no
//! policy may do.

use std::time::Instant;

use rustix::process::Signal;

use super::{get, seconds, took};
use crate::Harness;
use crate::client::{Client, End, PATIENCE};
use crate::process::{Server, until};

/// All policies but the default.
const POLICIES: [&str; 3] = ["close-idle", "grace:300ms", "spread:300ms"];

/// Connections that have been served, and are idle.
fn idle<const N: usize>(server: &Server) -> [Client; N] {
    [(); N].map(|()| {
        let mut client = server.connect();
        assert!(!client.get("/").announces_close());
        client
    })
}

pub(crate) fn d6_close_idle_closes_idle_connections_at_once(harness: &Harness) {
    let mut server = harness.serve(&["--drain", "close-idle"]);
    let clients = idle::<5>(&server);
    let start = server.drain();
    for mut client in clients {
        assert_eq!(client.end(PATIENCE), End::Fin);
    }
    took("the idle connections ended", start, 0.0..0.7);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d6_grace_serves_the_next_request_and_closes_what_stays_idle(harness: &Harness) {
    let mut server = harness.serve(&["--drain", "grace:1s"]);
    let answered = Instant::now();
    let [mut speaks, mut stays] = idle(&server);
    server.drain();
    assert!(!speaks.has_more(seconds(0.3)), "an idle connection is kept");
    speaks.send(get("/"));
    speaks.last_response(200);
    drop(speaks);
    assert_eq!(stays.end(PATIENCE), End::Fin);
    took("the idle connection ended", answered, 0.9..2.0);
    drop(stays);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d6_spread_closes_idle_connections_one_after_the_other(harness: &Harness) {
    const WINDOW: f64 = 2.0;
    let mut server = harness.serve(&["--drain", "spread:2s"]);
    let mut clients = Vec::from(idle::<40>(&server));
    let start = server.drain();
    let mut ends = Vec::new();
    while !clients.is_empty() {
        assert!(start.elapsed() < PATIENCE, "{} connections are never closed", clients.len());
        clients.retain_mut(|client| {
            let open = !client.has_more(seconds(0.001));
            if !open {
                assert_eq!(client.end(PATIENCE), End::Fin);
                ends.push(start.elapsed().as_secs_f64());
            }
            open
        });
    }
    let late = ends.iter().filter(|end| **end > WINDOW / 2.0).count();
    assert!(
        (5..=35).contains(&late),
        "{late} of {} connections ended in the second half: {ends:?}",
        ends.len()
    );
    took("the last of them ended", start, 0.0..WINDOW + 1.0);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d6_spread_announces_once_its_window_is_over(harness: &Harness) {
    let mut server = harness.serve(&["--drain", "spread:500ms"]);
    let mut client = server.connect();
    client.send(get("/sleep?ms=1000"));
    assert!(!client.has_more(seconds(0.2)), "the response is not due yet");
    server.drain();
    client.last_response(200);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d6_each_kind_of_drain_has_its_own_policy(harness: &Harness) {
    let recycle = ["--max-requests", "2", "--max-requests-jitter", "0", "--drain-recycle", "close-idle"];
    let server = harness.serve(&[&recycle[..], &["--keep-alive", "60"]].concat());
    let [mut recycled] = idle(&server);
    recycled.get("/"); // which may announce close, if the replacement is quick
    assert_eq!(recycled.end(PATIENCE), End::Fin);

    let mut server = harness.serve(&["-w", "2", "--drain-reload", "close-idle", "--keep-alive", "30"]);
    // Of connections to both workers, those of the leaving worker are closed, and the others are
    // kept.
    let mut open = Vec::from(idle::<8>(&server));
    server.arbiter().signal(Signal::TTOU);
    let left = until(PATIENCE, || (server.processes() == 1).then_some(()));
    assert!(left.is_some(), "the leaving worker keeps idle connections");
    open.retain_mut(|client| !client.has_more(seconds(0.01)));
    assert!((1..8).contains(&open.len()), "{} of 8 connections are kept", open.len());
    server.drain();
    for mut client in open {
        client.send(get("/"));
        client.last_response(200);
    }
    assert_eq!(server.exit(PATIENCE), 0);
}

pub(crate) fn d5_no_policy_cuts_half_a_head(harness: &Harness) {
    for policy in POLICIES {
        let mut server = harness.serve(&["--drain", policy]);
        let mut client = server.connect();
        client.send("GET / HTTP/1.1\r\nHo");
        server.catch_up();
        server.drain();
        assert!(!client.has_more(seconds(0.5)), "{policy}: the request is not complete yet");
        client.send("st: test\r\n\r\n");
        client.last_response(200);
        drop(client);
        assert_eq!(server.exit(PATIENCE), 0, "{policy}");
    }
}

pub(crate) fn d10_the_deadline_ends_what_a_policy_would_keep(harness: &Harness) {
    for policy in ["finish", "grace:30s", "spread:1h"] {
        let patient = ["--graceful-timeout", "1", "--keep-alive", "30", "--drain", policy];
        let mut server = harness.serve(&patient);
        let [mut client] = idle(&server);
        let start = server.drain();
        assert_eq!(client.end(PATIENCE), End::Fin);
        took(policy, start, 0.9..2.0);
        drop(client);
        assert_eq!(server.exit(PATIENCE), 0, "{policy}");
    }
}
