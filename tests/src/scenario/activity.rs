//! What `status` and the metrics show of exchanges in flight: each one with its request and age,
//! whatever runs it. Each request is counted once, as what its client received, and its duration is
//! the measured one.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use super::control::{done, status};
use super::{admin, get, logs};
use crate::Harness;
use crate::client::{Client, PATIENCE};
use crate::process::{Server, until};

/// A server of one worker, which has two handler threads unless the backend is sync.
fn serve(harness: &Harness, args: &[&str]) -> Server {
    let threads: &[&str] = if harness.backend() == "sync" { &[] } else { &["--threads", "2"] };
    admin::serve(harness, &[threads, args].concat())
}

/// As many exchanges as a worker with two threads can have in flight: one on sync, whose only
/// thread runs handlers.
fn several(harness: &Harness) -> usize {
    if harness.backend() == "sync" { 1 } else { 3 }
}

/// The number of handlers that have begun when `n` exchanges are in flight.
fn begun(harness: &Harness, n: usize) -> usize {
    if runs_on_loop(harness) { n } else { n.min(2) }
}

fn runs_on_loop(harness: &Harness) -> bool {
    harness.is_async() && !["sync", "threaded"].contains(&harness.backend())
}

/// Sends `n` requests for `path`, each on a connection of its own, and waits as [`shown`] does.
#[track_caller]
fn in_flight(harness: &Harness, server: &Server, path: &str, n: usize) -> (Vec<Client>, Value) {
    let clients: Vec<_> = (0..n).map(|_| server.connect()).collect();
    let clients = clients.into_iter().map(|mut client| {
        client.send(get(path));
        client
    });
    (clients.collect(), shown(harness, server, n))
}

/// Waits until the status of a worker shows `n` exchanges in flight and the handlers that have begun, and returns that
/// status. A worker stores the counters one after the other, and `status` may read between two stores.
#[track_caller]
fn shown(harness: &Harness, server: &Server, n: usize) -> Value {
    let begun = begun(harness, n);
    let listed = |worker: &Value, queued: bool| {
        let busy = worker["busy"].as_array().expect("it is a list");
        busy.iter().filter(|busy| (busy["doing"] == "queued") == queued).count()
    };
    // Status lists the oldest eight alone.
    let all_listed =
        |worker: &Value| n > 8 || (listed(worker, false), listed(worker, true)) == (begun, n - begun);
    let seen = until(PATIENCE, || {
        let (_, workers) = status(harness, server);
        workers.into_iter().find(|worker| {
            worker["in_flight"] == n as u64 && worker["busy_handlers"] == begun as u64 && all_listed(worker)
        })
    });
    seen.unwrap_or_else(|| panic!("{:?}", status(harness, server)))
}

pub(crate) fn each_exchange_in_flight_is_shown_with_request_and_age(harness: &Harness) {
    let server = serve(harness, &[]);
    let n = several(harness);
    let (_clients, worker) = in_flight(harness, &server, "/sleep?ms=20000", n);
    let busy = worker["busy"].as_array().expect("it is a list");
    let doing: Vec<_> = busy.iter().map(|busy| busy["doing"].as_str().expect("a word")).collect();
    match (runs_on_loop(harness), n) {
        (true, _) => assert_eq!(doing, ["waiting"; 3], "{worker}"),
        (false, 1) => assert_eq!(doing, ["running"], "{worker}"),
        (false, _) => assert_eq!(doing, ["running", "running", "queued"], "{worker}"),
    }
    let begun = begun(harness, n);
    for busy in busy {
        assert_eq!(busy["request"], "GET /sleep", "{worker}");
        assert!(busy["for"].as_f64().is_some_and(|age| age < 20.0), "{worker}");
    }
    let text = admin::ask(&server, "/metrics").text();
    assert_eq!(admin::metric(&text, "remuda_busy_handlers"), begun as f64, "{text}");
    assert_eq!(admin::metric(&text, "remuda_requests_in_flight"), n as f64);
    for command in [&["status"][..], &["top", "--once"]] {
        let table = done(harness, &server, command);
        assert_eq!(table.matches("GET /sleep for ").count(), n, "{table}");
    }
}

pub(crate) fn the_oldest_exchanges_are_shown_and_the_others_counted(harness: &Harness) {
    // A worker whose only thread runs handlers has one exchange in flight at a time.
    let more = if harness.backend() == "sync" { 0 } else { 99 };
    let server = serve(harness, &[]);
    let (_oldest, _) = in_flight(harness, &server, "/sleep?ms=20000&oldest", 1);
    let clients: Vec<_> = (0..more).map(|_| server.connect()).collect();
    let _clients: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            client.send(get("/sleep?ms=20000"));
            client
        })
        .collect();
    let worker = shown(harness, &server, 1 + more);
    let busy = worker["busy"].as_array().expect("it is a list");
    assert_eq!(busy.len(), 8.min(1 + more), "{worker}");
    let ages: Vec<_> = busy.iter().map(|busy| busy["for"].as_f64().expect("a number")).collect();
    if runs_on_loop(harness) {
        assert!(ages.is_sorted_by(|older, younger| older >= younger), "{worker}");
    }
    let table = done(harness, &server, &["status"]);
    assert_eq!(table.contains(", 92 more"), more > 0, "{table}");
}

pub(crate) fn requests_cut_at_the_deadline_are_named(harness: &Harness) {
    // Cut before its response has begun, and after.
    for path in ["/patient?ms=60000", "/patient/begun?ms=60000"] {
        let mut server = harness.serve(&["--graceful-timeout", "1"]);
        let mut client = server.connect();
        server.begin(&mut client, get(path));
        server.arbiter().signal(Signal::TERM);
        assert_eq!(server.exit(PATIENCE), 6);
        let log = server.log();
        let request = format!("worker was serving GET {} for ", path.split('?').next().expect("a path"));
        let line = log.lines().find(|line| line.contains(&request)).unwrap_or_else(|| panic!("{log}"));
        assert_eq!(line.matches("/patient").count(), 1, "it is named once: {line}");
    }
}

pub(crate) fn a_response_cut_at_the_deadline_is_marked_in_the_access_log(harness: &Harness) {
    for (format, whole, cut) in [
        ("%(U)s %(s)s %(X)s", "/ 200 +", "/patient/begun 200 X"),
        ("json", r#","cut":null}"#, r#","cut":"drain"}"#),
    ] {
        let log = ["--access-logfile", "access.log", "--access-logformat", format];
        let mut server = harness.serve(&[&["--graceful-timeout", "1"], &log[..]].concat());
        let mut client = server.connect();
        client.get("/");
        server.begin(&mut client, get("/patient/begun?ms=60000"));
        assert_eq!(client.head().status, 200);
        server.arbiter().signal(Signal::TERM);
        assert_eq!(server.exit(PATIENCE), 6);
        let lines = fs::read_to_string(server.dir().join("access.log")).expect("there is a log");
        let lines: Vec<_> = lines.lines().collect();
        assert!(lines[0].ends_with(whole), "{lines:?}");
        // A blocking handler may still be running when its worker ends. The error log names its
        // request then.
        match lines.get(1) {
            Some(line) => assert!(line.ends_with(cut), "{lines:?}"),
            None => assert!(!harness.is_async() && server.log().contains("was serving GET /patient/begun")),
        }
    }
}

pub(crate) fn a_handler_that_holds_the_loop_is_logged_with_its_time(harness: &Harness) {
    let log = ["--access-logfile", "access.log", "--access-logformat", "%(U)s %(D)s"];
    let server = admin::serve(harness, &log);
    let mut client = server.connect();
    client.get("/hang?ms=150");
    client.get("/block?ms=150");
    client.get("/");
    let lines = logs::lines(server.dir(), "access.log", 3);
    let micros = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number");
    assert!(lines[..2].iter().all(|line| (150_000..5_000_000).contains(&micros(line))), "{lines:?}");
    assert!((1..150_000).contains(&micros(&lines[2])), "{lines:?}");
    let text = admin::ask(&server, "/metrics").text();
    let within = |le| admin::metric(&text, &format!("remuda_request_duration_seconds_bucket{{le=\"{le}\"}}"));
    assert_eq!((within("0.1"), within("+Inf")), (1.0, 3.0), "{text}");
}

pub(crate) fn each_request_is_answered_or_aborted_and_never_both(harness: &Harness) {
    let server = serve(harness, &["--request-timeout", "1"]);
    server.connect().get("/");
    // The client disconnects when the response is wholly queued, or while it is being written.
    for path in ["/bytes?n=400000", "/bytes?n=50000000", "/patient/begun?ms=60000"] {
        let mut client = server.connect();
        client.send(get(path));
        assert_eq!(client.head().status, 200);
        client.vanish();
    }
    let mut late = server.connect();
    late.send(get("/overtime?ms=1500"));
    late.last_response(503);
    let mut half = server.connect();
    half.send("GET / HTTP/1.1\r\nHo");
    half.vanish();
    // The worker may have been replaced by then. The totals include what it counted.
    let settled = until(PATIENCE, || {
        let text = admin::ask(&server, "/metrics").text();
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];
        let answered = classes
            .iter()
            .map(|class| admin::metric(&text, &format!("remuda_responses_total{{class=\"{class}\"}}")));
        let answered: f64 = answered.sum();
        let value = |name| admin::metric(&text, name);
        let (all, aborted) = (value("remuda_requests_total"), value("remuda_requests_aborted_total"));
        assert!(answered + aborted <= all, "{answered} and {aborted} of {all}");
        (all == 5.0 && value("remuda_requests_in_flight") == 0.0).then_some((answered, aborted))
    });
    let (answered, aborted) = settled.unwrap_or_else(|| panic!("{}", admin::ask(&server, "/metrics").text()));
    assert_eq!(answered + aborted, 5.0);
    assert!(aborted >= 2.0, "{aborted}");
}
