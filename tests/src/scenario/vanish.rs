//! Clients that are gone in both directions while their handler runs: an async handler is
//! cancelled, a blocking one can ask, and other clients are not affected.

use super::{admin, get, logs, seconds};
use crate::Harness;
use crate::client::{Client, End, PATIENCE};
use crate::process::{Server, until};

/// Handlers that run for a minute: one has sent nothing, the other the head and a piece.
const PATIENT: [&str; 2] = ["/patient?ms=60000", "/patient/begun?ms=60000"];

pub(crate) fn a_client_that_vanishes_is_noticed_while_a_handler_runs(harness: &Harness) {
    is_noticed(harness, &harness.serve(&["--threads", "1"]), Client::vanish);
}

pub(crate) fn a_client_that_vanishes_from_a_unix_socket_is_noticed(harness: &Harness) {
    let server = harness.serve_unix(&["--threads", "1"]);
    is_noticed(harness, &server, drop);
    is_noticed(harness, &server, |client| {
        client.half_close();
        server_waits();
        drop(client);
    });
}

pub(crate) fn a_client_that_vanishes_after_its_half_close_is_noticed(harness: &Harness) {
    let server = harness.serve(&["--threads", "1"]);
    is_noticed(harness, &server, |client| {
        client.half_close();
        server_waits();
        client.vanish();
    });
    // The end of the client's sending side alone does not count as vanished.
    let mut client = server.connect();
    client.send_last(get("/patient?ms=300"));
    assert_eq!(client.response().text(), "late\n");
    assert_eq!(client.end(PATIENCE), End::Fin);
}

pub(crate) fn cancel_on_half_close_treats_a_closed_client_as_gone(harness: &Harness) {
    let server = harness.serve(&["--threads", "1", "--cancel-on-half-close"]);
    is_noticed(harness, &server, drop);
    let server = &server;
    is_noticed(harness, server, |mut client| {
        client.half_close();
        let ended = client.end(PATIENCE);
        assert!(matches!(ended, End::Fin | End::Reset), "{ended:?}");
    });
    // A client that is silent for a while has not closed.
    let mut client = server.connect();
    client.send(get("/patient?ms=300"));
    assert_eq!(client.response().text(), "late\n");
}

pub(crate) fn a_client_that_vanished_is_counted_and_logged(harness: &Harness) {
    let log = ["--access-logfile", "access.log", "--access-logformat", "%(r)s %(s)s %(b)s"];
    let server = admin::serve(harness, &log);
    for (n, (path, sent)) in PATIENT.into_iter().zip(["- -", "200 8"]).enumerate() {
        begin(&server, path).vanish();
        let lines = logs::lines(server.dir(), "access.log", n + 1);
        assert_eq!(lines[n], format!("GET {path} HTTP/1.1 {sent}"));
    }
    let counted = until(PATIENCE, || {
        let text = admin::ask(&server, "/metrics").text();
        let aborted = admin::metric(&text, "remuda_requests_aborted_total");
        let open = admin::metric(&text, "remuda_connections{state=\"in_flight\"}");
        ((aborted, open) == (2.0, 0.0)).then_some(())
    });
    assert!(counted.is_some(), "{}", admin::ask(&server, "/metrics").text());
}

/// A level-triggered poller reports a reset until the socket is closed, which is not possible
/// before the handler returns.
pub(crate) fn a_vanished_client_uses_no_processor_time_of_its_handler(harness: &Harness) {
    let server = harness.serve(&["--threads", "1"]);
    let worker = server.worker();
    let mut client = server.connect();
    server.begin(&mut client, get("/overtime?ms=1000"));
    let before = worker.processor_time();
    client.vanish();
    let ended = if harness.is_async() { "<dropped>" } else { "<answered>" };
    assert!(server.logs(ended, PATIENCE), "{}", server.log());
    let used = worker.processor_time() - before;
    assert!(used < seconds(0.2), "{used:?} of processor time");
    server.connect().get("/block?ms=0");
}

/// Gives the server time to see one event before the next. No signal tells when it has. If it sees
/// both at once, the scenario shows less, but still holds.
fn server_waits() {
    std::thread::sleep(seconds(0.05));
}

/// Asserts that a handler sees that its client is gone, and that others are served.
#[track_caller]
fn is_noticed(harness: &Harness, server: &Server, vanish: impl Fn(Client)) {
    let word = if harness.is_async() { "<dropped>" } else { "<gone>" };
    for path in PATIENT {
        let before = server.log().matches(word).count();
        let client = begin(server, path);
        assert_eq!(server.log().matches(word).count(), before);
        vanish(client);
        until(PATIENCE, || (server.log().matches(word).count() > before).then_some(()))
            .unwrap_or_else(|| panic!("{path}: no handler notices"));
        server.connect().get("/block?ms=0");
    }
}

/// A client whose handler is running and has sent all it sends before that.
#[track_caller]
fn begin(server: &Server, path: &str) -> Client {
    let mut client = server.connect();
    server.begin(&mut client, get(path));
    if path == PATIENT[1] {
        assert_eq!(client.head().status, 200);
        assert_eq!(client.chunk(), Ok(Some(b"in time\n".to_vec())));
    }
    client
}
