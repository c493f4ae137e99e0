//! Other programs as peers of every backend that is built in: nginx and HAProxy in front, with
//! connections that they keep; Apache in front of uploads; `ab`; clients that repeat requests by
//! themselves; and nginx and hyper beside remuda, with the same requests.
//!
//! They are Debian packages (`nginx`, `haproxy`, `apache2`, `apache2-utils`, `curl`, `wget`,
//! `php-cli`, `php-curl`), so only `.ci/run` runs this: `cargo test -p remuda-conformance --features peers --test peers`. A missing program
//! is a failure.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use remuda_conformance::Harness;
use remuda_conformance::client::{Address, PATIENCE};
use remuda_conformance::probe::backends;
use rustix::process::Signal;

use self::front::Proxy;
use self::repeats::Ending;

#[allow(dead_code, reason = "the expected results are used by other binaries")]
#[path = "../src/corpus.rs"]
mod corpus;
mod differential;
mod front;
mod load;
mod repeats;

#[test]
fn nginx_in_front_sees_no_error_while_workers_come_and_go() {
    for harness in servers() {
        let server = harness.serve(BEHIND);
        let nginx = Proxy::nginx(server.address());
        load::while_workers_come_and_go(&server, nginx.address());
        assert_eq!(nginx.errors(), "", "{harness:?}");
    }
}

#[test]
fn nginx_in_front_sees_no_error_while_workers_are_recycled() {
    for harness in servers() {
        let server = harness.serve(&[BEHIND, RECYCLING].concat());
        let nginx = Proxy::nginx(server.address());
        load::while_workers_are_recycled(nginx.address());
        assert_eq!(nginx.errors(), "", "{harness:?}");
    }
}

#[test]
fn nginx_in_front_sees_no_error_while_the_server_is_reloaded() {
    for harness in servers() {
        let server = harness.serve(BEHIND);
        let nginx = Proxy::nginx(server.address());
        load::while_reloaded(&server, nginx.address());
        assert_eq!(nginx.errors(), "", "{harness:?}");
    }
}

#[test]
fn nginx_in_front_keeps_its_connections_while_the_server_is_reloaded() {
    for harness in servers() {
        let server = harness.serve(&[BEHIND, COUNTED].concat());
        let nginx = Proxy::nginx_for(server.address(), load::CLIENTS);
        load::on_the_same_connections_while_reloaded(&server, nginx.address());
        assert_eq!(nginx.errors(), "", "{harness:?}");
    }
}

#[test]
fn nginx_in_front_sees_no_error_while_reloads_fail() {
    for harness in servers() {
        let settings = format!(
            "worker-class = \"{}\"\nbind = \"127.0.0.1:0\"\nworkers = 2\nkeep-alive = 60\n",
            harness.backend()
        );
        let server = harness.serve_file(&settings);
        let nginx = Proxy::nginx(server.address());
        load::while_reloads_fail(&server, nginx.address(), &settings);
        assert_eq!(nginx.errors(), "", "{harness:?}");
    }
}

/// Operators copy the configuration that the book shows.
#[test]
fn nginx_as_the_book_shows_it_keeps_its_connection() {
    for harness in servers() {
        let server = harness.serve(&["--keep-alive", "75"]);
        let nginx = Proxy::nginx_of_the_book(server.address());
        let mut client = nginx.address().connect(PATIENCE).expect("it listens");
        for n in 1..=20 {
            client.send("GET /info HTTP/1.1\r\nHost: test\r\n\r\n");
            let info = client.response();
            assert_eq!((info.status, info.number("connection_requests")), (200, n), "{harness:?}: {info:?}");
        }
        assert_eq!(nginx.errors(), "", "{harness:?}");
    }
}

/// Apache reads a response once it has sent the whole request, so the server has to read all of
/// that.
#[test]
fn apache_in_front_passes_the_refusal_of_an_upload_on() {
    const LEN: usize = 10 << 20;
    for harness in servers() {
        let server = harness.serve(&["--limit-request-body", "1000"]);
        let apache = Proxy::apache(server.address());
        for _ in 0..3 {
            let mut client = apache.address().connect(PATIENCE).expect("it listens");
            let head = format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {LEN}\r\n\r\n");
            // The client may have the response before it has sent everything.
            let _ = client.try_send([head.as_bytes(), &vec![b'x'; LEN]].concat());
            assert_eq!(client.response().status, 413, "{harness:?}: {}", apache.errors());
        }
    }
}

#[test]
fn haproxy_in_front_sees_no_error_while_workers_are_recycled() {
    for harness in servers() {
        let server = harness.serve(&[BEHIND, RECYCLING].concat());
        let haproxy = Proxy::haproxy(server.address());
        load::while_workers_are_recycled(haproxy.address());
        assert_eq!(haproxy.errors(), "", "{harness:?}");
    }
}

#[test]
fn haproxy_in_front_sees_no_error_while_workers_come_and_go() {
    for harness in servers() {
        let server = harness.serve(BEHIND);
        let haproxy = Proxy::haproxy(server.address());
        load::while_workers_come_and_go(&server, haproxy.address());
        assert_eq!(haproxy.errors(), "", "{harness:?}");
    }
}

#[test]
fn haproxy_in_front_keeps_its_connections_while_the_server_is_reloaded() {
    for harness in servers() {
        let server = harness.serve(&[BEHIND, COUNTED].concat());
        let haproxy = Proxy::haproxy(server.address());
        load::on_the_same_connections_while_reloaded(&server, haproxy.address());
        assert_eq!(haproxy.errors(), "", "{harness:?}");
    }
}

#[test]
fn haproxy_in_front_names_its_clients_in_a_proxy_header() {
    for harness in servers() {
        for sends in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
            let server = harness.serve(&["--proxy-protocol", "auto"]);
            let haproxy = Proxy::haproxy_proxying(server.address(), sends);
            named(&haproxy, "192.0.2.1:4660", "http");
        }
    }
}

#[test]
fn nginx_in_front_names_its_clients_in_fields() {
    for harness in servers() {
        let server = harness.serve(&[]);
        named(&Proxy::nginx_forwarding(server.address()), "192.0.2.1", "https");
    }
}

/// nginx passes a 500 on and logs only what it makes itself.
#[test]
fn nginx_in_front_sees_a_500_for_each_request_in_flight_in_a_killed_worker() {
    for harness in servers() {
        let server = harness.serve(KILLED);
        // A connection for each client: one that is just being accepted may be lost with its worker.
        let nginx = Proxy::nginx_for(server.address(), load::CLIENTS);
        load::while_workers_are_killed(&server, nginx.address(), 4);
        assert_eq!(nginx.errors(), "", "{harness:?}");
    }
}

/// HAProxy logs each 500, with a state of four dashes if nothing else was wrong.
#[test]
fn haproxy_in_front_sees_a_500_for_each_request_in_flight_in_a_killed_worker() {
    for harness in servers() {
        let server = harness.serve(KILLED);
        let haproxy = Proxy::haproxy(server.address());
        let failed = load::while_workers_are_killed(&server, haproxy.address(), 4);
        let errors = haproxy.errors();
        let (passed_on, others): (Vec<_>, Vec<_>) = errors.lines().partition(|line| is_passed_on(line));
        assert_eq!(others, [""; 0], "{harness:?}");
        assert_eq!(passed_on.len(), failed, "{harness:?}");
    }
}

/// Whether this line of HAProxy's log is about a 500 of the server behind, whole and in order.
fn is_passed_on(line: &str) -> bool {
    let words: Vec<_> = line.split(' ').collect();
    words.contains(&"500") && words.contains(&"----")
}

/// Asserts that a client whose address `front` learns from a PROXY header has that address at the
/// server behind, for each of its requests. A forwarding field of the client is ignored.
#[track_caller]
fn named(front: &Proxy, client: &str, scheme: &str) {
    let mut connection = front.address().connect(PATIENCE).expect("it listens");
    connection.send("PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\r\n");
    for _ in 0..2 {
        connection.send("GET /info HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n");
        let info = connection.response();
        let expected = format!("\"client\":{client:?},\"scheme\":{scheme:?}");
        assert!(info.text().contains(&expected), "not {expected}: {info:?}");
    }
    assert_eq!(front.errors(), "");
}

/// The server decides when its connections end, but an idle one must not end while a request is in
/// flight to it.
const BEHIND: &[&str] = &["-w", "2", "--keep-alive", "60"];

/// Each worker lives for about two seconds.
const KILLED: &[&str] = &["-w", "4", "--keep-alive", "60"];

/// The test reads the number of connections from the metrics.
const COUNTED: &[&str] = &["--admin-bind", load::ADMIN];

const RECYCLING: &[&str] = &["--max-requests", "300"];

/// The options of the report that this project began with (gunicorn's issue 1236), except for
/// threads.
const AS_REPORTED: &[&str] = &["--max-requests", "512", "--keep-alive", "2", "--workers", "4"];

#[test]
fn ab_loses_no_request_to_recycling() {
    for harness in servers() {
        for _ in 0..5 {
            let threads: &[&str] = if harness.backend() == "sync" { &[] } else { &["--threads", "20"] };
            let server = harness.serve(&[AS_REPORTED, threads].concat());
            let Address::Inet(address) = server.address() else { unreachable!("it has a port") };
            let mut ab = Command::new("ab");
            ab.args(["-n", "10000", "-c", "20", "-s", "1", "-k", "-r", &format!("http://{address}/")]);
            let output = ab.output().expect("ab is installed (Debian: apache2-utils)");
            let said = String::from_utf8_lossy(&output.stdout);
            let number = |label: &str| said.lines().find_map(|line| line.strip_prefix(label)).map(str::trim);
            assert_eq!(number("Complete requests:"), Some("10000"), "{harness:?}: {output:?}");
            assert_eq!(number("Failed requests:"), Some("0"), "{harness:?}: {output:?}");
            assert_eq!(number("Non-2xx responses:"), None, "{harness:?}: {output:?}");
        }
    }
}

#[test]
fn a_post_cut_by_the_deadline_of_a_drain_is_told_503_and_runs_once() {
    post_once(&Ending { settings: &["--graceful-timeout", "1"], signal: Some(Signal::TERM), status: 503 });
}

#[test]
fn a_post_over_its_timeout_is_told_503_and_runs_once() {
    post_once(&Ending {
        settings: &["--request-timeout", "1", "--graceful-timeout", "1"],
        signal: None,
        status: 503,
    });
}

#[test]
fn a_post_in_a_killed_worker_is_told_500_and_runs_once() {
    post_once(&Ending { settings: &[], signal: Some(Signal::KILL), status: 500 });
}

#[test]
fn a_post_in_a_worker_that_hangs_is_told_500_and_runs_once() {
    // A worker that is stopped hangs, wherever the backend runs the handler.
    post_once(&Ending { settings: &["--timeout", "2"], signal: Some(Signal::STOP), status: 500 });
}

/// Both kinds of application at a time: mostly, time passes.
fn post_once(ending: &Ending) {
    let all: Vec<_> = servers().collect();
    all.chunks(2).for_each(|both| repeats::end(both, ending));
}

/// Every backend with both kinds of application, one at a time: each takes the whole machine.
fn servers() -> impl Iterator<Item = Harness> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone: MutexGuard<'_, ()> = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let fixture = Path::new(env!("CARGO_BIN_EXE_fixture"));
    let all = backends().into_iter().flat_map(|name| ["blocking", "async"].map(|kind| (name.clone(), kind)));
    all.map(move |(name, kind)| {
        let _alone = &alone;
        Harness::new(&name, kind, fixture)
    })
}
