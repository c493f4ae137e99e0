//! The admin listener: what balancers and monitors see, whatever the workers do.

use std::fs;
use std::time::Instant;

use rustix::process::Signal;

use super::control::{done, status};
use super::process::connection_to;
use super::{get, seconds, took};
use crate::Harness;
use crate::client::{Address, Client, PATIENCE, Response};
use crate::process::{Process, Server, until};

/// A server with an admin listener and a control socket.
pub(super) fn serve(harness: &Harness, args: &[&str]) -> Server {
    let with = ["--admin-bind", "unix:admin.sock", "--control-socket", "control.sock"];
    let server = harness.serve(&[&with, args].concat());
    assert!(server.logs("/healthz", PATIENCE), "the log has the address of the admin listener");
    server
}

/// A client of the admin listener. A unix socket whose queue is full refuses a non-blocking
/// connect.
fn connect(server: &Server) -> Client {
    let address = Address::Unix(server.dir().join("admin.sock"));
    until(PATIENCE, || address.connect(PATIENCE).ok())
        .expect("the admin listener is there, and its helper accepts")
}

#[track_caller]
pub(super) fn ask(server: &Server, path: &str) -> Response {
    let mut client = connect(server);
    client.send(get(path));
    client.response()
}

/// The value of a series, which the page has exactly once.
#[track_caller]
pub(super) fn metric(text: &str, series: &str) -> f64 {
    let values: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' ')).collect();
    assert_eq!(values.len(), 1, "{series}: {values:?} in {text}");
    values[0].parse().expect("a sample is a number")
}

/// The admin helper and the workers.
pub(super) fn processes(harness: &Harness, server: &Server, workers: usize) -> (Process, Vec<Process>) {
    let (arbiter, _) = status(harness, server);
    let helper = arbiter["admin_pid"].as_u64().expect("there is a helper");
    let (mut helpers, workers): (Vec<_>, _) =
        server.workers(workers + 1).into_iter().partition(|process| process.id() == helper);
    (helpers.pop().expect("it is a child of the arbiter"), workers)
}

pub(crate) fn readiness_ends_with_term_while_workers_serve_on(harness: &Harness) {
    let mut server = serve(harness, &["--lameduck", "2"]);
    assert_eq!(ask(&server, "/readyz").status, 200);
    assert_eq!(ask(&server, "/healthz").status, 200);
    let mut client = server.connect();
    client.get("/");
    let start = Instant::now();
    server.arbiter().signal(Signal::TERM);
    until(PATIENCE, || (ask(&server, "/readyz").status == 503).then_some(())).expect("readiness ends");
    took("readiness ended", start, 0.0..1.0);
    assert!(ask(&server, "/readyz").text().contains("lameduck"));
    assert!(!client.get("/").announces_close(), "workers serve as usual");
    server.connect().get("/");
    assert_eq!(metric(&ask(&server, "/metrics").text(), "remuda_stage{stage=\"lameduck\"}"), 1.0);

    // The stage remains `stopping` until the end of the drain.
    client.send(get("/sleep?ms=3000"));
    assert!(server.address().refused(PATIENCE).is_some(), "the server stops");
    assert_eq!(ask(&server, "/healthz").status, 200);
    assert!(ask(&server, "/readyz").text().contains("stopping"));
    client.last_response(200);
    drop(client);
    assert_eq!(server.exit(PATIENCE), 0);
    assert!(!server.dir().join("admin.sock").exists(), "the admin socket is removed");
}

pub(crate) fn metrics_add_up_to_the_requests_made(harness: &Harness) {
    let server = serve(harness, &["-w", "2"]);
    let (_, workers) = processes(harness, &server, 2);
    for _ in 0..5 {
        server.connect().get("/");
    }
    let mut client = connection_to(&server, &workers[0]); // sends an unknown number of requests
    client.send(get("/sleep?ms=150"));
    client.response();
    for code in [404, 404, 503] {
        client.send(get(&format!("/status?code={code}")));
        assert_eq!(client.response().status, code);
    }
    client.send("BAD\r\n\r\n");
    assert_eq!(client.response().status, 400);
    let page = || ask(&server, "/metrics");
    let response = page();
    assert!(
        response.fields.contains(&("content-type".into(), "text/plain; version=0.0.4; charset=utf-8".into()))
    );
    let text = until(PATIENCE, || {
        Some(page().text()).filter(|text| metric(text, "remuda_requests_refused_total") == 1.0)
    });
    let text = text.expect("the refusal is counted");
    each_line_is_of_the_format(&text);
    for series in ["process_cpu_seconds_total", "process_start_time_seconds", "process_resident_memory_bytes"]
    {
        assert!(metric(&text, series) > 0.0, "{text}");
    }
    assert!((3.0..metric(&text, "process_max_fds")).contains(&metric(&text, "process_open_fds")), "{text}");
    let mut client = connect(&server);
    client.send("GET /metrics HTTP/1.1\r\nHost: test\r\nAccept: application/openmetrics-text\r\n\r\n");
    let open = client.response();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(open.fields.contains(&("content-type".into(), kind.into())));
    assert!(
        open.text().ends_with("\n# EOF\n")
            && open.text().contains("# TYPE remuda_connections_accepted counter\n")
    );
    let value = |series: &str| metric(&text, series);
    let class = |class: &str| value(&format!("remuda_responses_total{{class=\"{class}\"}}"));
    assert_eq!((class("4xx"), class("5xx")), (2.0, 1.0));
    let total = value("remuda_requests_total");
    assert!(class("2xx") >= 7.0, "{text}");
    assert_eq!(class("2xx") + 3.0, total);
    assert_eq!(value("remuda_request_duration_seconds_count"), total);
    let within = |le: &str| value(&format!("remuda_request_duration_seconds_bucket{{le=\"{le}\"}}"));
    assert_eq!(within("+Inf"), total);
    assert!(within("0.1") < total, "one request took 150 ms: {text}");
    assert_eq!(
        (value("remuda_requests_in_flight"), value("remuda_workers"), value("remuda_ready")),
        (0.0, 2.0, 1.0)
    );

    // The counts of a worker are kept after its death.
    workers[1].signal(Signal::KILL);
    assert!(workers[1].wait_gone(PATIENCE));
    let died = "remuda_worker_restarts_total{reason=\"died\"}";
    let text = until(PATIENCE, || {
        Some(page().text()).filter(|text| metric(text, died) == 1.0 && metric(text, "remuda_workers") == 2.0)
    });
    assert_eq!(metric(&text.expect("the death is counted"), "remuda_requests_total"), total);

    for (method, path, status) in [("GET", "/", 404), ("POST", "/metrics", 405), ("HEAD", "/healthz", 200)] {
        let mut client = connect(&server);
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"));
        let head = client.try_head().expect("there is a head");
        assert_eq!(head.status, status, "{method} {path}");
    }
}

pub(crate) fn readiness_and_metrics_show_resting_workers(harness: &Harness) {
    let server = serve(harness, &[]);
    let stage = |name: &str| {
        metric(&ask(&server, "/metrics").text(), &format!("remuda_stage{{stage=\"{name}\"}}")) == 1.0
    };
    assert!(stage("serving") && !stage("resting"));
    done(harness, &server, &["drain"]);
    let response = ask(&server, "/readyz");
    assert_eq!((response.status, response.text().as_str()), (503, "not ready: resting\n"));
    assert!(stage("resting") && !stage("serving"));
    assert_eq!(ask(&server, "/healthz").status, 200);
    done(harness, &server, &["resume"]);
    assert_eq!(ask(&server, "/readyz").status, 200);
    assert!(stage("serving") && !stage("resting"));

    // A server without a ready worker is not ready, although its stage is `serving`.
    fs::write(server.dir().join("crash-boot"), "").expect("a file can be written");
    let (_, workers) = processes(harness, &server, 1);
    workers[0].signal(Signal::KILL);
    let unready = until(PATIENCE, || Some(ask(&server, "/readyz")).filter(|response| response.status == 503));
    assert_eq!(unready.expect("it is not ready").text(), "not ready: no worker is ready\n");
}

/// Comments and samples in the Prometheus text format, each sample under the type line of its name.
#[track_caller]
fn each_line_is_of_the_format(text: &str) {
    let mut family = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().expect("a type has a name");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            assert!(series.starts_with(family) && value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

pub(crate) fn probes_are_answered_despite_a_crowd_at_the_admin_listener(harness: &Harness) {
    let server = serve(harness, &[]);
    let pages = get("/metrics").repeat(64);
    let half = "GET /healthz HTTP/1.1\r\nHost: te";
    let crowd = |n: usize| {
        let opened = (0..n).map(|n| {
            let mut client = connect(&server);
            // Silent connections, half heads, and pages that are not read.
            client.send(["", half, &pages][n % 3]);
            client
        });
        opened.collect::<Vec<_>>()
    };
    let probe = || {
        for path in ["/healthz", "/readyz", "/metrics"] {
            let start = Instant::now();
            assert_eq!(ask(&server, path).status, 200);
            took("it was answered", start, 0.0..2.5);
        }
    };
    let start = Instant::now();
    let _crowd = crowd(300);
    probe();
    took("all was done", start, 0.0..5.0);
    // With fewer descriptors than connections.
    let (helper, _) = processes(harness, &server, 1);
    helper.limit_descriptors(40);
    let _more = crowd(100);
    probe();
    let before = helper.processor_time();
    assert!(!connect(&server).has_more(seconds(0.5)), "nothing was requested");
    assert!(helper.processor_time() - before < seconds(0.25), "the helper waits and does not spin");
}

pub(crate) fn the_admin_listener_answers_while_all_workers_hang(harness: &Harness) {
    let server = serve(harness, &["-w", "2"]);
    let (_, workers) = processes(harness, &server, 2);
    let mut hung: Vec<_> = workers.iter().map(|worker| connection_to(&server, worker)).collect();
    hung.iter_mut().for_each(|client| client.send(get("/hang?ms=20000")));
    assert!(hung.iter_mut().all(|client| !client.has_more(seconds(0.5))), "all handlers hang by now");
    let _waiting: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let start = Instant::now();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(&server, path).status, 200);
    }
    let text = ask(&server, "/metrics").text();
    took("it had answered", start, 0.0..2.0);
    assert_eq!(metric(&text, "remuda_busy_handlers"), 2.0);
    assert_eq!(metric(&text, "remuda_requests_in_flight"), 2.0);
    let backlog =
        text.lines().find(|line| line.starts_with("remuda_backlog{listener=\"http")).expect("it is there");
    // A backend whose loop is free has accepted the three connections.
    let waiting: u32 = backlog.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a sample is a number");
    assert!(waiting <= 3, "{backlog}");
    assert_eq!(status(harness, &server).1.len(), 2, "the control socket answers too");
}

pub(crate) fn a_helper_that_dies_is_replaced(harness: &Harness) {
    let server = serve(harness, &["-w", "2"]);
    let (helper, workers) = processes(harness, &server, 2);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        helper.signal(signal);
    }
    assert_eq!(ask(&server, "/healthz").status, 200, "the helper ignores signals to its process group");
    helper.signal(Signal::KILL);
    assert!(helper.wait_gone(PATIENCE));
    // The listener is open meanwhile.
    assert_eq!(ask(&server, "/readyz").status, 200);
    let (other, same) = processes(harness, &server, 2);
    assert_ne!(other.id(), helper.id());
    let ids = |workers: &[Process]| workers.iter().map(Process::id).collect::<Vec<_>>();
    assert_eq!(ids(&same), ids(&workers));
    assert!(server.log().contains("admin helper ended with signal 9"), "{}", server.log());
}

pub(crate) fn a_helper_ends_with_its_arbiter(harness: &Harness) {
    let server = serve(harness, &[]);
    let (helper, _) = processes(harness, &server, 1);
    server.arbiter().signal(Signal::KILL);
    assert!(helper.wait_gone(PATIENCE), "the helper outlives its arbiter");
    assert!(server.wait_no_process(PATIENCE), "a process is left");
}
